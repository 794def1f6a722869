//! The questions that stand between a confirmed outage and a promotion, each a named function that returns
//! its inputs with its verdict. They are asked in order; the first refusal is the hold.

use crate::{Arn, Assessment, Member, MemberFacts, Mode, Record, Region, Timestamp};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Names of the guards, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// Not paused, not observing only.
    MayAct,
    /// Seen healthy before, and enough vantages to judge; or an operator judges.
    CanJudge,
    /// The evidence still confirms the outage; or an operator says so.
    StillDown,
    /// A secondary that can take over, or one that somebody is already promoting.
    TargetFit,
    /// The topology is whole, so that a switchover can lose nothing.
    Whole,
    /// The loss stays within the RPO, or an operator accepts it.
    WithinRpo,
    /// The last failover is long enough ago, or an operator lifted the cooldown.
    CooledDown,
    /// Not too many failovers lately.
    BelowLimit,
    /// A human approved, or none is needed.
    Approved,
}

impl Guard {
    /// Name as in history.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MayAct => "may-act",
            Self::CanJudge => "can-judge",
            Self::StillDown => "still-down",
            Self::TargetFit => "target-fit",
            Self::Whole => "whole",
            Self::WithinRpo => "within-rpo",
            Self::CooledDown => "cooled-down",
            Self::BelowLimit => "below-limit",
            Self::Approved => "approved",
        }
    }

    /// What lets the machine go on when this guard refuses.
    #[must_use]
    pub const fn release(self) -> &'static str {
        match self {
            Self::MayAct => "resume, or set-mode approve or auto",
            Self::CanJudge | Self::StillDown => "nothing to do: it goes on when the vantages agree; or failover",
            Self::TargetFit => "make the secondary available, with an instance of the same engine version",
            Self::Whole => "wait until every member is available and connected",
            Self::WithinRpo => "approve --allow-data-loss",
            Self::CooledDown => "acknowledge, or failover",
            Self::BelowLimit => "reset-limit, or failover",
            Self::Approved => "approve",
        }
    }
}

/// One guard's verdict with what it looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct GuardResult {
    /// Which guard.
    pub guard: Guard,
    /// Its verdict.
    pub pass: bool,
    /// What it looked at.
    pub inputs: Vec<Input>,
}

/// A named value that a guard looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Input {
    /// Name, units last.
    pub name: Cow<'static, str>,
    /// Value as text.
    pub value: String,
}

fn input(name: &'static str, value: impl ToString) -> Input {
    Input { name: Cow::Borrowed(name), value: value.to_string() }
}

/// The verdict over all guards.
pub(crate) struct Verdict {
    /// Every guard's result, in order.
    pub(crate) asked: Vec<GuardResult>,
    /// Whom to promote, when all pass.
    pub(crate) target: Option<Target>,
}

/// The chosen secondary.
pub(crate) struct Target {
    pub(crate) region: Region,
    pub(crate) arn: Arn,
    /// Bound of the loss, when the lag is known.
    pub(crate) rpo_bound_ms: Option<u64>,
    /// Somebody's failover goes there already.
    pub(crate) adopted: bool,
}

impl Verdict {
    fn new(asked: Vec<GuardResult>, target: Option<Target>) -> Self {
        let go = asked.iter().all(|result| result.pass);
        Self { asked, target: target.filter(|_| go) }
    }

    /// The first guard that refuses: the reason of the hold.
    pub(crate) fn refusal(&self) -> Option<&GuardResult> {
        self.asked.iter().find(|result| !result.pass)
    }
}

/// May the machine fail over? Every guard is asked, so that history shows what each would have said.
pub(crate) fn ask_failover(record: &Record, assessment: &Assessment, now: Timestamp) -> Verdict {
    let (fit, target) = target_fit(record, assessment, now);
    let adopted = target.as_ref().is_some_and(|target| target.adopted);
    let bound_ms = target.as_ref().and_then(|target| target.rpo_bound_ms);
    let asked = vec![
        may_act(record),
        can_judge(record, now),
        still_down(record, now),
        fit,
        within_rpo(record, bound_ms, adopted),
        cooled_down(record, now, adopted),
        below_limit(record, now, adopted),
        approved(record, adopted),
    ];
    Verdict::new(asked, target)
}

/// May the machine switch over, as an operator ordered?
pub(crate) fn ask_switchover(record: &Record, assessment: &Assessment, now: Timestamp) -> Verdict {
    let (fit, target) = target_fit(record, assessment, now);
    let whole = whole(record, assessment, target.as_ref());
    Verdict::new(vec![may_act(record), fit, whole], target)
}

fn ordered(record: &Record) -> Option<&crate::Ordered> {
    record.episode.as_ref().and_then(|episode| episode.ordered.as_ref())
}

fn approval(record: &Record) -> Option<&crate::Approval> {
    record.episode.as_ref().and_then(|episode| episode.approval.as_ref())
}

fn may_act(record: &Record) -> GuardResult {
    GuardResult {
        guard: Guard::MayAct,
        pass: record.mode != Mode::Observe && record.paused.is_none(),
        inputs: vec![input("mode", record.mode.name()), input("paused", record.paused.is_some())],
    }
}

fn can_judge(record: &Record, now: Timestamp) -> GuardResult {
    let blind = record.evidence.is_blind(&record.config.policy, now);
    let ordered = ordered(record).is_some();
    GuardResult {
        guard: Guard::CanJudge,
        pass: ordered || (record.proven && !blind),
        inputs: vec![input("proven", record.proven), input("blind", blind), input("ordered", ordered)],
    }
}

/// Asked again immediately before the promotion is claimed.
pub(crate) fn still_down(record: &Record, now: Timestamp) -> GuardResult {
    let quorum = record.evidence.confirms_down(&record.config, now);
    let votes = quorum.votes.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(" ");
    let ordered = ordered(record).is_some();
    GuardResult {
        guard: Guard::StillDown,
        pass: ordered || quorum.reached(),
        inputs: vec![
            input("votes", votes),
            input("alarm_votes", quorum.alarm_votes),
            input("observed_votes", quorum.observed_votes),
            input("live", quorum.live),
            input("needed", quorum.needed),
            input("ordered", ordered),
        ],
    }
}

/// The member that somebody is already promoting; else the one that an operator named; else the fit secondary with
/// the least lag, then the lowest priority number.
fn target_fit(record: &Record, assessment: &Assessment, now: Timestamp) -> (GuardResult, Option<Target>) {
    let mut inputs = Vec::new();
    let mut best: Option<(&Member, bool)> = None;
    let wanted = ordered(record).and_then(|ordered| ordered.target.as_ref());
    for member in record.config.members.iter().filter(|m| m.region != record.primary) {
        let name = Cow::Owned(member.region.to_string());
        if let Some(failover) = assessment.failover.as_ref().filter(|f| f.to == member.arn) {
            inputs.push(Input { name, value: format!("adopted: somebody's failover to it is {}", failover.status) });
            best = Some((member, true));
            break;
        }
        let lag_ms = record.evidence.lag.get(&member.region).map(|lag| lag.ms);
        let other = wanted.filter(|wanted| **wanted != member.region).map(|w| format!("the operator wants {w}"));
        let fence = record.fence_of(&member.region).filter(|p| now < p.deadline || !p.is_claimable(now));
        let fenced = fence.map(|_| "it is being fenced".to_string());
        let unfit = other.or(fenced).or_else(|| unfitness(assessment.member(&member.arn), &assessment.engine_version));
        let value = match (&unfit, lag_ms) {
            (Some(why), _) => why.clone(),
            (None, Some(ms)) => format!("fit, lag {ms} ms"),
            (None, None) => "fit, lag unknown".into(),
        };
        inputs.push(Input { name, value });
        let key = |m: &Member| (record.evidence.lag.get(&m.region).map_or(u64::MAX, |lag| lag.ms), m.priority);
        if unfit.is_none() && best.is_none_or(|(other, _)| key(member) < key(other)) {
            best = Some((member, false));
        }
    }
    let target = best.map(|(member, adopted)| Target {
        region: member.region.clone(),
        arn: member.arn.clone(),
        rpo_bound_ms: rpo_bound_ms(record, &member.region),
        adopted,
    });
    (GuardResult { guard: Guard::TargetFit, pass: target.is_some(), inputs }, target)
}

/// Primary and target available and connected, nothing running: nothing can be lost.
fn whole(record: &Record, assessment: &Assessment, target: Option<&Target>) -> GuardResult {
    let available = |arn: &Arn| {
        let cluster = assessment.member(arn).and_then(|m| m.cluster.as_ref());
        cluster.map_or_else(|| "unknown".to_string(), |cluster| cluster.status.clone())
    };
    let primary = record.primary_member().map_or_else(|| "unknown".to_string(), |m| available(&m.arn));
    let connected = target.and_then(|t| assessment.member(&t.arn)?.synchronization.clone());
    let running = assessment.failover.is_some();
    GuardResult {
        guard: Guard::Whole,
        pass: primary == "available" && connected.as_deref() == Some("connected") && !running,
        inputs: vec![
            input("primary", primary),
            input("target_synchronization", connected.unwrap_or_else(|| "unknown".into())),
            input("failover_running", running),
        ],
    }
}

/// Why a member cannot take over, if so.
fn unfitness(facts: Option<&MemberFacts>, engine: &str) -> Option<String> {
    let Some(facts) = facts else { return Some("RDS does not list it".into()) };
    if facts.writer {
        return Some("RDS says it is the writer already".into());
    }
    let Some(cluster) = &facts.cluster else { return Some("its region does not describe it".into()) };
    if cluster.status != "available" {
        return Some(format!("status {}", cluster.status));
    }
    if cluster.instances == 0 {
        return Some("it has no instance".into());
    }
    (engine != cluster.engine_version)
        .then(|| format!("engine {} differs from the global cluster's {engine}", cluster.engine_version))
}

/// Last known lag plus its age when the outage began.
fn rpo_bound_ms(record: &Record, region: &Region) -> Option<u64> {
    let lag = record.evidence.lag.get(region)?;
    let began_at = record.episode.as_ref()?.began_at;
    Some(lag.ms.saturating_add(began_at.since_ms(lag.at)))
}

fn within_rpo(record: &Record, bound_ms: Option<u64>, adopted: bool) -> GuardResult {
    let max = record.config.policy.rpo_max_ms;
    let accepted = approval(record).is_some_and(|approval| approval.allow_data_loss);
    GuardResult {
        guard: Guard::WithinRpo,
        // Whoever started a failover has accepted its loss.
        pass: accepted || adopted || bound_ms.is_some_and(|bound| bound <= max),
        inputs: vec![
            input("lag_and_age_ms", bound_ms.map_or_else(|| "unknown".to_string(), |ms| ms.to_string())),
            input("rpo_max_ms", max),
            input("loss_accepted", accepted || adopted),
        ],
    }
}

fn cooled_down(record: &Record, now: Timestamp, adopted: bool) -> GuardResult {
    let ago_ms = record.failovers.last().map(|last| now.since_ms(*last));
    let cooldown_ms = record.config.policy.cooldown_ms;
    let lifted = record.cooldown_lifted || ordered(record).is_some() || adopted;
    GuardResult {
        guard: Guard::CooledDown,
        pass: lifted || ago_ms.is_none_or(|ago| ago >= cooldown_ms),
        inputs: vec![
            input("last_failover_ago_ms", ago_ms.map_or_else(|| "never".to_string(), |ms| ms.to_string())),
            input("cooldown_ms", cooldown_ms),
            input("lifted", lifted),
        ],
    }
}

fn below_limit(record: &Record, now: Timestamp, adopted: bool) -> GuardResult {
    let policy = &record.config.policy;
    let count = record.failovers.iter().filter(|at| now.since_ms(**at) < policy.failovers_window_ms).count();
    let free = ordered(record).is_some() || adopted;
    GuardResult {
        guard: Guard::BelowLimit,
        pass: free || (!record.limit_latched && (count as u64) < u64::from(policy.failovers_max)),
        inputs: vec![
            input("failovers_in_window", count),
            input("failovers_max", policy.failovers_max),
            input("latched", record.limit_latched),
            input("ordered", free),
        ],
    }
}

fn approved(record: &Record, adopted: bool) -> GuardResult {
    let by = match (approval(record), ordered(record)) {
        (Some(approval), _) => approval.by.clone(),
        (None, Some(ordered)) => ordered.by.clone(),
        (None, None) if adopted => "whoever started it".into(),
        (None, None) => "nobody".into(),
    };
    let needed = record.config.policy.approvals_required.max(1);
    let people = record.episode.as_ref().map_or(0, |episode| episode.approvers.len());
    let by_itself = record.mode == Mode::Auto && ordered(record).is_none();
    GuardResult {
        guard: Guard::Approved,
        pass: adopted || by_itself || people as u64 >= u64::from(needed),
        inputs: vec![
            input("mode", record.mode.name()),
            input("by", by),
            input("people", people),
            input("needed", needed),
        ],
    }
}
