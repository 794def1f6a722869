//! The questions that stand between a confirmed outage and a promotion, each a named function that returns
//! its inputs with its verdict. They are asked in order; the first refusal is the hold.

use crate::{Arn, Assessment, Member, MemberFacts, Mode, Record, Region, Timestamp};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Names of the guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// Not paused, not observing only.
    MayAct,
    /// Seen healthy before, and enough vantages to judge.
    CanJudge,
    /// The evidence still confirms the outage.
    StillDown,
    /// A secondary that can take over, or one that somebody is already promoting.
    TargetFit,
    /// The loss stays within the RPO.
    WithinRpo,
    /// The last failover is long enough ago.
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
            Self::WithinRpo => "within-rpo",
            Self::CooledDown => "cooled-down",
            Self::BelowLimit => "below-limit",
            Self::Approved => "approved",
        }
    }

    /// What lets the machine go on when this guard refuses.
    pub(crate) const fn release(self) -> &'static str {
        match self {
            Self::MayAct => "set `mode = \"auto\"` for this cluster and restart the controller",
            Self::Approved => "set `mode = \"auto\"` for this cluster and restart the controller, or fail over by hand",
            Self::CanJudge | Self::StillDown => "nothing to do: it goes on when the vantages agree again",
            Self::TargetFit => "make the secondary available with at least one instance",
            Self::WithinRpo => "accept the loss by failing over by hand, or raise `rpo-max`",
            Self::CooledDown => "fail over by hand, or wait until the cooldown ends",
            Self::BelowLimit => "fail over by hand, or raise `failovers-max`",
        }
    }
}

/// One guard's verdict with what it looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Asked guards, in order, up to and including the first refusal.
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
}

/// Asks the guards in order and stops at the first refusal.
pub(crate) fn ask(record: &Record, assessment: &Assessment, now: Timestamp) -> Verdict {
    let mut asked = Vec::new();
    let mut refused = |result: GuardResult| {
        let pass = result.pass;
        asked.push(result);
        !pass
    };
    let nobody = |asked| Verdict { asked, target: None };
    if refused(may_act(record)) || refused(can_judge(record, now)) || refused(still_down(record, now)) {
        return nobody(asked);
    }
    let (fit, target) = target_fit(record, assessment);
    if refused(fit) {
        return nobody(asked);
    }
    let Some((member, adopted)) = target else { return nobody(asked) };
    let rpo_bound_ms = rpo_bound_ms(record, &member.region);
    // Somebody has already accepted the loss of a failover that is under way.
    let acceptable = adopted
        || !(refused(within_rpo(record, rpo_bound_ms))
            || refused(cooled_down(record, now))
            || refused(below_limit(record, now)));
    if !acceptable || refused(approved(record)) {
        return nobody(asked);
    }
    let target = Target { region: member.region.clone(), arn: member.arn.clone(), rpo_bound_ms };
    Verdict { asked, target: Some(target) }
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
    GuardResult {
        guard: Guard::CanJudge,
        pass: record.proven && !blind,
        inputs: vec![input("proven", record.proven), input("blind", blind)],
    }
}

/// Asked again immediately before the promotion is claimed.
pub(crate) fn still_down(record: &Record, now: Timestamp) -> GuardResult {
    let quorum = record.evidence.confirms_down(&record.config.policy, now);
    let votes = quorum.votes.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(" ");
    GuardResult {
        guard: Guard::StillDown,
        pass: quorum.reached(),
        inputs: vec![input("votes", votes), input("live", quorum.live), input("needed", quorum.needed)],
    }
}

/// The fit secondary with the least lag, then the lowest priority number; or the one that a running failover
/// goes to (`true`).
fn target_fit<'a>(record: &'a Record, assessment: &Assessment) -> (GuardResult, Option<(&'a Member, bool)>) {
    let mut inputs = Vec::new();
    let mut best: Option<(&Member, bool)> = None;
    let engine = assessment.engine_version.as_str();
    for member in record.config.members.iter().filter(|m| m.region != record.primary) {
        if let Some(failover) = assessment.failover.as_ref().filter(|f| f.to == member.arn) {
            inputs.push(Input {
                name: Cow::Owned(member.region.to_string()),
                value: format!("adopted: somebody's failover to it is {}", failover.status),
            });
            best = Some((member, true));
            break;
        }
        let lag_ms = record.evidence.lag.get(&member.region).map(|lag| lag.ms);
        let unfit = unfitness(assessment.member(&member.arn), engine);
        let value = match (&unfit, lag_ms) {
            (Some(why), _) => why.clone(),
            (None, Some(ms)) => format!("fit, lag {ms} ms"),
            (None, None) => "fit, lag unknown".into(),
        };
        inputs.push(Input { name: Cow::Owned(member.region.to_string()), value });
        let key = |m: &Member| (record.evidence.lag.get(&m.region).map_or(u64::MAX, |lag| lag.ms), m.priority);
        if unfit.is_none() && best.is_none_or(|(other, _)| key(member) < key(other)) {
            best = Some((member, false));
        }
    }
    (GuardResult { guard: Guard::TargetFit, pass: best.is_some(), inputs }, best)
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

fn within_rpo(record: &Record, bound_ms: Option<u64>) -> GuardResult {
    let max = record.config.policy.rpo_max_ms;
    GuardResult {
        guard: Guard::WithinRpo,
        pass: bound_ms.is_some_and(|bound| bound <= max),
        inputs: vec![
            input("lag_and_age_ms", bound_ms.map_or_else(|| "unknown".to_string(), |ms| ms.to_string())),
            input("rpo_max_ms", max),
        ],
    }
}

fn cooled_down(record: &Record, now: Timestamp) -> GuardResult {
    let ago_ms = record.failovers.last().map(|last| now.since_ms(*last));
    let cooldown_ms = record.config.policy.cooldown_ms;
    GuardResult {
        guard: Guard::CooledDown,
        pass: ago_ms.is_none_or(|ago| ago >= cooldown_ms),
        inputs: vec![
            input("last_failover_ago_ms", ago_ms.map_or_else(|| "never".to_string(), |ms| ms.to_string())),
            input("cooldown_ms", cooldown_ms),
        ],
    }
}

fn below_limit(record: &Record, now: Timestamp) -> GuardResult {
    let policy = &record.config.policy;
    let count = record.failovers.iter().filter(|at| now.since_ms(**at) < policy.failovers_window_ms).count();
    GuardResult {
        guard: Guard::BelowLimit,
        pass: (count as u64) < u64::from(policy.failovers_max),
        inputs: vec![input("failovers_in_window", count), input("failovers_max", policy.failovers_max)],
    }
}

fn approved(record: &Record) -> GuardResult {
    GuardResult {
        guard: Guard::Approved,
        pass: record.mode == Mode::Auto,
        inputs: vec![input("mode", record.mode.name())],
    }
}
