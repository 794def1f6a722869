//! The transitions. statig gives the hierarchy and the dispatch; the matches are written out, so that a new
//! state or event does not compile until it has a place. No entry or exit actions: an effect is data.

use crate::evidence::Intake;
use crate::guards::{self, Target};
use crate::state::Group;
use crate::{
    Assessment, Claim, ClaimToken, Configured, ControllerId, Decision, Effect, EffectId, EffectResult, Envelope,
    Episode, EpisodeId, EpisodeOutcome, Event, GuardResult, Hold, HoldReason, Mode, Outcome, Pending, Question, Reason,
    Record, RecordChange, Region, Report, Rule, State, Timestamp, Verdict, deadline,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;
use statig::Outcome::{Handled, Super, Transition};
use statig::blocking::{IntoStateMachine, StateExt as _};

/// Advances one record by one event.
///
/// `now` is the caller's clock; a reading older than the record's latest is taken as that latest. The function
/// is total: every event in every state has an answer, if only [`Verdict::Ignored`] with its reason.
#[must_use]
pub fn step(mut record: Record, envelope: &Envelope, now: Timestamp) -> Decision {
    let now = now.max(record.last_now);
    record.last_now = now;
    let mut turn = Turn::new(now, envelope.at);
    if record.seen.contains(&envelope.id) {
        turn.ignore(Reason::Duplicate);
        return turn.decide(record);
    }
    if turn.take_in(&mut record, &envelope.event) {
        let mut state = mem::replace(&mut record.state, State::Healthy);
        let from = state.name();
        let mut lifecycle = Lifecycle { record };
        let outcome = state.handle(&mut lifecycle, &envelope.event, &mut turn);
        record = lifecycle.record;
        record.state = match outcome {
            Transition(next) => {
                turn.verdict = Verdict::Moved;
                turn.announce(&mut record, from, next.name());
                next
            }
            Handled => state,
            Super => {
                debug_assert!(false, "the root handles every event");
                state
            }
        };
    }
    turn.look(&mut record);
    if turn.verdict.is_durable() {
        record.remember(envelope.id.clone());
        record.heartbeat_at = now;
    }
    turn.decide(record)
}

/// What one step gathers.
struct Turn {
    now: Timestamp,
    at: Timestamp,
    probe_ok: Option<bool>,
    suspicious: bool,
    news: bool,
    done: Option<(Effect, Report)>,
    verdict: Verdict,
    rule: Rule,
    guards: Vec<GuardResult>,
    effects: Vec<EffectId>,
    claimed: Vec<EffectId>,
    closed: Option<(EpisodeId, EpisodeOutcome)>,
}

/// What statig calls the shared storage. A wrapper, so that statig's traits stay out of the public types.
struct Lifecycle {
    record: Record,
}

impl IntoStateMachine for Lifecycle {
    type Event<'evt> = Event;
    type Context<'ctx> = Turn;
    type State = State;
    type Superstate<'sub> = Group;

    fn initial() -> State {
        State::Healthy
    }
}

type Next = statig::Outcome<State>;

impl statig::blocking::State<Lifecycle> for State {
    fn superstate(&mut self) -> Option<Group> {
        Some(match self {
            Self::Healthy | Self::Suspect { .. } => Group::Watching,
            Self::ConfirmedDown { .. } => Group::Deciding,
            Self::Promoting { .. } | Self::Rerouting { .. } => Group::Committed,
            Self::Stable { .. } => Group::Settled,
        })
    }

    fn call_handler(&mut self, on: &mut Lifecycle, event: &Event, turn: &mut Turn) -> Next {
        let record = &mut on.record;
        match self {
            Self::Healthy => match event {
                Event::Probe(_) => healthy_probe(record, turn),
                Event::Claim(_) | Event::Result(_) | Event::Configured(_) | Event::Tick => Super,
            },
            Self::Suspect { .. } => match event {
                Event::Probe(_) => suspect_probe(record, turn),
                Event::Claim(_) | Event::Result(_) | Event::Configured(_) | Event::Tick => Super,
            },
            Self::ConfirmedDown { .. } => match event {
                Event::Probe(_) => confirmed_probe(record, turn),
                Event::Result(_) => confirmed_result(record, turn),
                Event::Tick => confirmed_tick(record, turn),
                Event::Claim(_) | Event::Configured(_) => Super,
            },
            Self::Promoting { target, .. } => match event {
                Event::Probe(_) => promoting_probe(record, turn),
                Event::Claim(_) => promoting_claim(record, turn),
                Event::Result(_) => promoting_result(record, turn, target),
                Event::Configured(configured) => promoting_configured(record, turn, configured),
                Event::Tick => Super,
            },
            Self::Rerouting { .. } => match event {
                Event::Result(_) => rerouting_result(record, turn),
                Event::Probe(_) | Event::Claim(_) | Event::Configured(_) | Event::Tick => Super,
            },
            Self::Stable { soak_until, .. } => match event {
                Event::Probe(_) => stable_probe(record, turn),
                Event::Result(_) => stable_result(record, turn, soak_until),
                Event::Tick => stable_tick(record, turn, *soak_until),
                Event::Claim(_) | Event::Configured(_) => Super,
            },
        }
    }
}

impl statig::blocking::Superstate<Lifecycle> for Group {
    fn superstate(&mut self) -> Option<Group> {
        match self {
            Self::Supervised => None,
            Self::Watching | Self::Deciding | Self::Committed | Self::Settled => Some(Self::Supervised),
        }
    }

    fn call_handler(&mut self, on: &mut Lifecycle, event: &Event, turn: &mut Turn) -> Next {
        let record = &mut on.record;
        match self {
            Self::Watching | Self::Deciding | Self::Settled => Super,
            Self::Committed => match event {
                // Past the point of no return the old primary's probes decide nothing.
                Event::Probe(_) => turn.noted(),
                Event::Claim(_) | Event::Result(_) | Event::Configured(_) | Event::Tick => Super,
            },
            Self::Supervised => match event {
                Event::Probe(_) => turn.noted(),
                Event::Claim(claimant) => turn.claim_due(record, &claimant.by),
                Event::Result(_) => turn.result_without_effect_on_state(record),
                Event::Configured(configured) => turn.reconfigure(record, configured),
                Event::Tick => turn.ignore(Reason::NothingDue),
            },
        }
    }
}

// ---- watching ------------------------------------------------------------------------------------------------

fn healthy_probe(record: &mut Record, turn: &mut Turn) -> Next {
    if turn.probe_ok == Some(true) {
        if !record.proven {
            record.proven = true;
            return turn.updated(Rule::Proven);
        }
        return turn.noted();
    }
    if !record.proven || !turn.suspicious {
        return turn.noted();
    }
    record.episode = Some(Episode {
        id: EpisodeId(format!("{}-{}-{}", record.cluster, record.epoch, turn.at.0)),
        began_at: turn.at,
        confirmed_at: None,
        decided_at: None,
        promoted_at: None,
        rerouted_at: None,
        verified_at: None,
        assessment: None,
        rpo_bound_ms: None,
    });
    record.evidence.begin_suspicion();
    turn.assess(record, Question::WhoIsDown);
    turn.go(Rule::FirstFailure, State::Suspect { since: turn.now })
}

fn suspect_probe(record: &mut Record, turn: &mut Turn) -> Next {
    let policy = &record.config.policy;
    if record.evidence.recovered(policy, turn.now).reached() {
        return turn.avert(record, Rule::Recovered);
    }
    let can_judge = record.proven && !record.evidence.is_blind(policy, turn.now);
    if can_judge && record.evidence.confirms_down(policy, turn.now).reached() {
        turn.guards.push(guards::still_down(record, turn.now));
        if let Some(episode) = &mut record.episode {
            episode.confirmed_at = Some(turn.now);
        }
        record.drop_assess();
        turn.assess(record, Question::MayFailOver);
        return turn.go(Rule::QuorumConfirmed, State::ConfirmedDown { since: turn.now });
    }
    turn.updated(Rule::EvidenceCounted)
}

// ---- deciding ------------------------------------------------------------------------------------------------

fn confirmed_probe(record: &mut Record, turn: &mut Turn) -> Next {
    if record.evidence.recovered(&record.config.policy, turn.now).reached() {
        return turn.avert(record, Rule::Recovered);
    }
    turn.updated(Rule::EvidenceCounted)
}

fn confirmed_result(record: &mut Record, turn: &mut Turn) -> Next {
    let Some(assessment) = turn.take_assessment() else { return Super };
    let verdict = guards::ask(record, &assessment, turn.now);
    turn.guards.extend(verdict.asked);
    if let Some(episode) = &mut record.episode {
        episode.assessment = Some(assessment);
    }
    let Some(target) = verdict.target else {
        let (guard, inputs) = match turn.guards.last() {
            Some(refused) => (refused.guard, describe(refused)),
            None => (guards::Guard::TargetFit, String::new()),
        };
        let deadline = turn.now.plus_ms(record.config.policy.reassess_every_ms);
        let reason = HoldReason::Guard(guard);
        if record.hold.as_ref().is_none_or(|hold| hold.reason != reason) {
            record.hold = None;
            turn.hold(record, reason, inputs, guard.release(), deadline);
        } else if let Some(hold) = &mut record.hold {
            hold.deadline = deadline;
            hold.detail = inputs;
        }
        return turn.updated(Rule::GuardRefused);
    };
    turn.commit_to(record, target)
}

fn confirmed_tick(record: &mut Record, turn: &mut Turn) -> Next {
    if record.hold.as_ref().is_none_or(|hold| turn.now < hold.deadline) || record.pending_assess().is_some() {
        return Super;
    }
    if let Some(hold) = &mut record.hold {
        hold.deadline = turn.now.plus_ms(record.config.policy.reassess_every_ms);
    }
    turn.assess(record, Question::MayFailOver);
    turn.updated(Rule::Reassess)
}

// ---- committed -----------------------------------------------------------------------------------------------

/// Has the promotion never been claimed, so that it can still be taken back?
fn promotion_unclaimed(record: &Record) -> bool {
    record.pending.iter().any(|p| matches!(p.effect, Effect::Promote { .. }) && !p.ever_claimed)
}

fn promoting_probe(record: &mut Record, turn: &mut Turn) -> Next {
    if promotion_unclaimed(record) && record.evidence.recovered(&record.config.policy, turn.now).reached() {
        return turn.avert(record, Rule::CancelledBeforeClaim);
    }
    Super
}

fn promoting_claim(record: &mut Record, turn: &mut Turn) -> Next {
    if !promotion_unclaimed(record) {
        return Super;
    }
    let still_down = guards::still_down(record, turn.now);
    let go = still_down.pass;
    turn.guards.push(still_down);
    if go { Super } else { turn.take_promotion_back(record) }
}

fn promoting_configured(record: &mut Record, turn: &mut Turn, configured: &Configured) -> Next {
    let outcome = turn.reconfigure(record, configured);
    if promotion_unclaimed(record) && record.mode != Mode::Auto { turn.take_promotion_back(record) } else { outcome }
}

fn promoting_result(record: &mut Record, turn: &mut Turn, target: &Region) -> Next {
    let Some((Effect::Promote { .. }, Report::Promoted { .. })) = &turn.done else { return Super };
    let changes = record.route_changes(target);
    record.epoch = record.epoch.next();
    record.primary = target.clone();
    record.hold = None;
    record.exposed = true;
    record.evidence.reset();
    if record.failovers.len() as u64 >= u64::from(record.config.policy.failovers_max.max(1)) {
        record.failovers.remove(0);
    }
    record.failovers.push(turn.now);
    if let Some(episode) = &mut record.episode {
        episode.promoted_at = Some(turn.now);
    }
    let deadline = turn.now.plus_ms(record.config.policy.reroute_deadline_ms);
    turn.issue(record, Effect::Reroute { changes }, deadline);
    turn.go(Rule::Promoted, State::Rerouting { since: turn.now })
}

fn rerouting_result(record: &mut Record, turn: &mut Turn) -> Next {
    match turn.done.take() {
        Some((Effect::Reroute { changes }, Report::Rerouted { at, .. })) => {
            record.hold = None;
            if let Some(episode) = &mut record.episode {
                episode.rerouted_at = Some(turn.now);
            }
            let ttl_ms = changes.iter().map(|c| c.ttl_s * 1000).max().unwrap_or(0);
            let not_before = at.plus_ms(ttl_ms);
            let deadline = not_before.plus_ms(record.config.policy.reroute_deadline_ms);
            let verify = Effect::Verify { changes, region: record.primary.clone(), not_before };
            let id = turn.issue(record, verify, deadline);
            if let Some(pending) = record.pending.iter_mut().find(|p| p.id == id) {
                pending.not_before = not_before;
            }
            turn.updated(Rule::Rerouted)
        }
        Some((_, Report::Verified { .. })) => {
            record.hold = None;
            if let Some(episode) = &mut record.episode {
                episode.verified_at = Some(turn.now);
            }
            let soak_until = turn.now.plus_ms(record.config.policy.soak_ms);
            turn.go(Rule::Verified, State::Stable { since: turn.now, soak_until })
        }
        other => {
            turn.done = other;
            Super
        }
    }
}

// ---- settled -------------------------------------------------------------------------------------------------

fn stable_probe(record: &mut Record, turn: &mut Turn) -> Next {
    let policy = &record.config.policy;
    let held = record.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::NewPrimaryDown);
    if held && record.evidence.recovered(policy, turn.now).reached() {
        record.hold = None;
        return turn.updated(Rule::NewPrimaryBack);
    }
    if !held && record.evidence.confirms_down(policy, turn.now).reached() {
        let deadline = turn.now.plus_ms(policy.reassess_every_ms);
        let detail = "the new primary fails before its episode has closed".to_string();
        turn.hold(record, HoldReason::NewPrimaryDown, detail, "fail over by hand", deadline);
        return turn.updated(Rule::NewPrimaryFails);
    }
    if turn.probe_ok == Some(false) { turn.updated(Rule::EvidenceCounted) } else { turn.noted() }
}

fn stable_tick(record: &mut Record, turn: &mut Turn, soak_until: Timestamp) -> Next {
    if turn.now < soak_until || record.pending_assess().is_some() {
        return Super;
    }
    turn.assess(record, Question::IsWhole);
    turn.updated(Rule::Reassess)
}

fn stable_result(record: &mut Record, turn: &mut Turn, soak_until: &mut Timestamp) -> Next {
    let Some(assessment) = turn.take_assessment() else { return Super };
    let whole = record.is_whole(&assessment);
    if let Some(episode) = &mut record.episode {
        episode.assessment = Some(assessment);
    }
    if whole && record.hold.is_none() {
        record.exposed = false;
        turn.close(record, EpisodeOutcome::Completed);
        return turn.go(Rule::Whole, State::Healthy);
    }
    *soak_until = turn.now.plus_ms(record.config.policy.reassess_every_ms);
    turn.updated(Rule::Assessed)
}

// ---- what every state shares ---------------------------------------------------------------------------------

impl Turn {
    fn new(now: Timestamp, at: Timestamp) -> Self {
        Self {
            now,
            at,
            probe_ok: None,
            suspicious: false,
            news: false,
            done: None,
            verdict: Verdict::Noted,
            rule: Rule::EvidenceNoted,
            guards: Vec::new(),
            effects: Vec::new(),
            claimed: Vec::new(),
            closed: None,
        }
    }

    fn decide(self, record: Record) -> Decision {
        Decision {
            record,
            verdict: self.verdict,
            rule: self.rule,
            guards: self.guards,
            effects: self.effects,
            claimed: self.claimed,
            closed: self.closed,
        }
    }

    /// Evidence and results are taken in before any state sees them; false when there is nothing left to decide.
    fn take_in(&mut self, record: &mut Record, event: &Event) -> bool {
        match event {
            Event::Probe(probe) => {
                let outage_began_at = record.episode.as_ref().map(|episode| episode.began_at);
                let evidence = &mut record.evidence;
                let vantages_before = evidence.tracks.len();
                let intake = evidence.take(probe, self.at, &record.config, &record.primary, self.now, outage_began_at);
                self.news = evidence.tracks.len() != vantages_before || intake == Intake::FirstLag;
                match intake {
                    Intake::Ok => self.probe_ok = Some(true),
                    Intake::Failed { suspicious } => {
                        self.probe_ok = Some(false);
                        self.suspicious = suspicious;
                    }
                    Intake::FirstLag => return false,
                    Intake::Ignored(reason) => {
                        self.ignore(reason);
                        return false;
                    }
                }
                true
            }
            Event::Result(result) => self.settle(record, result),
            Event::Claim(_) | Event::Configured(_) | Event::Tick => true,
        }
    }

    /// Takes a result in; true when the effect is done and the state must be told.
    fn settle(&mut self, record: &mut Record, result: &EffectResult) -> bool {
        let now = self.now;
        let policy = &record.config.policy;
        let Some(index) = record.pending.iter().position(|p| p.id == result.effect) else {
            self.ignore(Reason::UnknownEffect);
            return false;
        };
        let pending = &mut record.pending[index];
        if pending.claim.as_ref().is_none_or(|claim| claim.token != result.token) {
            self.ignore(Reason::LateResult);
            return false;
        }
        let (detail, refused) = match &result.outcome {
            Outcome::Done { report } if !answers(&pending.effect, report) => {
                pending.not_before = now.plus_ms(policy.retry_max_ms);
                (&String::from("the answer does not fit the effect"), true)
            }
            Outcome::Done { report } => {
                let pending = record.pending.remove(index);
                self.done = Some((pending.effect, report.clone()));
                return true;
            }
            Outcome::InProgress { detail } => {
                pending.not_before = now.plus_ms(policy.retry_ms);
                (detail, false)
            }
            Outcome::Retry { detail } | Outcome::Unknown { detail } => {
                pending.attempts = pending.attempts.saturating_add(1);
                let backoff_ms = policy.retry_ms.saturating_mul(1 << pending.attempts.min(16));
                pending.not_before = now.plus_ms(backoff_ms.min(policy.retry_max_ms));
                (detail, false)
            }
            Outcome::Refused { detail } => {
                pending.attempts = pending.attempts.saturating_add(1);
                pending.not_before = now.plus_ms(policy.retry_max_ms);
                (detail, true)
            }
        };
        pending.claim = None;
        let overdue = now >= pending.deadline;
        if !(overdue || refused) {
            self.updated(Rule::EffectRetried);
            return false;
        }
        pending.not_before = now.plus_ms(policy.retry_max_ms);
        let deadline = pending.not_before;
        let detail = format!("{}: {detail}", pending.effect.name());
        let (reason, release) = match (&pending.effect, refused) {
            (Effect::Announce { .. }, _) => {
                record.pending.remove(index);
                self.updated(Rule::Announced);
                return false;
            }
            (Effect::Assess { question: Question::MayFailOver }, _) => {
                (HoldReason::AssessOverdue, "nothing to do: it asks RDS again; check the controller's access to it")
            }
            (Effect::Assess { .. }, _) => {
                record.pending.remove(index);
                self.updated(Rule::Assessed);
                return false;
            }
            (Effect::Promote { .. }, true) => {
                (HoldReason::PromoteRefused, "look at the global cluster in the RDS console")
            }
            (Effect::Promote { .. }, false) => {
                (HoldReason::PromoteOverdue, "look at the global cluster in the RDS console")
            }
            (Effect::Reroute { .. }, true) => {
                (HoldReason::RerouteRefused, "point the public name at the new writer by hand")
            }
            (Effect::Reroute { .. }, false) => {
                (HoldReason::RerouteOverdue, "point the public name at the new writer by hand")
            }
            (Effect::Verify { .. }, true) => (HoldReason::VerifyRefused, "look at what the public name answers"),
            (Effect::Verify { .. }, false) => (HoldReason::VerifyOverdue, "look at what the public name answers"),
        };
        self.hold(record, reason, detail, release, deadline);
        self.updated(Rule::EffectHeld);
        false
    }

    /// Sight is judged after every event, in every state; quiet evidence is stored once in a while.
    fn look(&mut self, record: &mut Record) {
        let blind = record.evidence.is_blind(&record.config.policy, self.now);
        let changed = blind != record.blind || self.news;
        record.blind = blind;
        if changed && !self.verdict.is_durable() {
            self.updated(Rule::SightChanged);
        } else if self.verdict == Verdict::Noted
            && self.now.since_ms(record.heartbeat_at) >= record.config.policy.heartbeat_ms
        {
            self.updated(Rule::Heartbeat);
        }
    }

    fn go(&mut self, rule: Rule, next: State) -> Next {
        self.rule = rule;
        Transition(next)
    }

    fn updated(&mut self, rule: Rule) -> Next {
        self.rule = rule;
        self.verdict = Verdict::Updated;
        Handled
    }

    fn noted(&mut self) -> Next {
        Handled
    }

    fn ignore(&mut self, reason: Reason) -> Next {
        self.rule = Rule::Ignored;
        self.verdict = Verdict::Ignored { reason };
        Handled
    }

    /// Asks for an effect.
    fn issue(&mut self, record: &mut Record, effect: Effect, deadline: Timestamp) -> EffectId {
        record.effects_issued = record.effects_issued.next();
        let id = record.effects_issued;
        record.pending.push(Pending {
            id,
            effect,
            issued_at: self.now,
            not_before: self.now,
            deadline,
            attempts: 0,
            claim: None,
            ever_claimed: false,
        });
        self.effects.push(id);
        id
    }

    fn assess(&mut self, record: &mut Record, question: Question) {
        let deadline = self.now.plus_ms(record.config.policy.assess_deadline_ms);
        self.issue(record, Effect::Assess { question }, deadline);
    }

    fn announce(&mut self, record: &mut Record, from: &str, to: &str) {
        let reason = match &record.hold {
            Some(hold) if from == to => format!("{}; to go on: {}", hold.detail, hold.release),
            _ => self.rule.sentence().to_string(),
        };
        let effect = Effect::Announce { from: from.into(), to: to.into(), reason, primary: record.primary.clone() };
        let deadline = self.now.plus_ms(record.config.policy.announce_deadline_ms);
        self.issue(record, effect, deadline);
    }

    /// Holds, and says so once.
    fn hold(&mut self, record: &mut Record, reason: HoldReason, detail: String, release: &str, deadline: Timestamp) {
        let news = record.hold.as_ref().is_none_or(|hold| hold.reason != reason);
        let since = record.hold.as_ref().filter(|_| !news).map_or(self.now, |hold| hold.since);
        record.hold = Some(Hold { reason, detail, release: release.into(), since, deadline });
        if news {
            self.announce(record, "hold", "hold");
        }
    }

    /// The promotion was decided and never claimed: decide anew, from the evidence.
    fn take_promotion_back(&mut self, record: &mut Record) -> Next {
        record.pending.retain(|p| !matches!(p.effect, Effect::Promote { .. }));
        self.assess(record, Question::WhoIsDown);
        self.go(Rule::CancelledBeforeClaim, State::Suspect { since: self.now })
    }

    /// The primary is back and nothing was done: closes the episode.
    fn avert(&mut self, record: &mut Record, rule: Rule) -> Next {
        record.hold = None;
        record.pending.retain(|p| matches!(p.effect, Effect::Announce { .. }));
        record.evidence.outvote_failing();
        self.close(record, EpisodeOutcome::Averted);
        self.go(rule, State::Healthy)
    }

    fn close(&mut self, record: &mut Record, outcome: EpisodeOutcome) {
        self.closed = record.episode.take().map(|episode| (episode.id, outcome));
        if let Some(config) = record.next_config.take() {
            record.config = config;
        }
    }

    /// All guards passed.
    fn commit_to(&mut self, record: &mut Record, target: Target) -> Next {
        let Some(primary) = record.primary_member() else { return self.updated(Rule::GuardRefused) };
        let from = primary.arn.clone();
        record.hold = None;
        if let Some(episode) = &mut record.episode {
            episode.decided_at = Some(self.now);
            episode.rpo_bound_ms = target.rpo_bound_ms;
        }
        let deadline = self.now.plus_ms(record.config.policy.promote_deadline_ms);
        let region = target.region.clone();
        let epoch = record.epoch;
        self.issue(record, Effect::Promote { from, to: target.arn, region, epoch }, deadline);
        self.go(Rule::GuardsPassed, State::Promoting { since: self.now, target: target.region })
    }

    /// Gives the claimant every effect that is due.
    fn claim_due(&mut self, record: &mut Record, by: &ControllerId) -> Next {
        let due: Vec<EffectId> = deadline::due_effects(record, self.now).map(|p| p.id).collect();
        if due.is_empty() {
            return self.ignore(Reason::NothingDue);
        }
        let expires_at = self.now.plus_ms(record.config.policy.claim_ttl_ms);
        for pending in record.pending.iter_mut().filter(|p| due.contains(&p.id)) {
            record.tokens_issued = record.tokens_issued.next();
            let token: ClaimToken = record.tokens_issued;
            pending.claim = Some(Claim { token, by: by.clone(), expires_at });
            pending.ever_claimed = true;
        }
        self.claimed = due;
        self.updated(Rule::Claimed)
    }

    /// The answer of RDS, if that is what came.
    fn take_assessment(&mut self) -> Option<Assessment> {
        match self.done.take() {
            Some((_, Report::Assessed(assessment))) => Some(assessment),
            other => {
                self.done = other;
                None
            }
        }
    }

    fn result_without_effect_on_state(&mut self, record: &mut Record) -> Next {
        if let Some(assessment) = self.take_assessment() {
            if let Some(episode) = &mut record.episode {
                episode.assessment = Some(assessment);
            }
            return self.updated(Rule::Assessed);
        }
        match self.done.take() {
            Some((Effect::Announce { .. }, _)) => self.updated(Rule::Announced),
            // An effect of a state that was left since; what it did is known to nobody but its own history row.
            _ => self.updated(Rule::EffectRetried),
        }
    }

    fn reconfigure(&mut self, record: &mut Record, configured: &Configured) -> Next {
        let newest = record.next_config.as_ref().unwrap_or(&record.config);
        if newest.hash == configured.config.hash && record.mode == configured.mode {
            return self.ignore(Reason::SameConfig);
        }
        record.mode = configured.mode;
        if record.episode.is_some() {
            record.next_config = Some(configured.config.clone());
        } else {
            record.config = configured.config.clone();
            let vantages = &record.config.policy.vantages;
            record.evidence.tracks.retain(|vantage, _| vantages.contains(vantage));
        }
        if let Some(hold) = &mut record.hold {
            // Another mode may release it at once.
            hold.deadline = self.now;
        }
        self.updated(Rule::Reconfigured)
    }
}

impl Record {
    /// The assessment that is not answered yet.
    pub(crate) fn pending_assess(&self) -> Option<&Pending> {
        self.pending.iter().find(|p| matches!(p.effect, Effect::Assess { .. }))
    }

    fn drop_assess(&mut self) {
        self.pending.retain(|p| !matches!(p.effect, Effect::Assess { .. }));
    }

    /// The swaps that make the public names follow the writer from the primary to `target`.
    fn route_changes(&self, target: &Region) -> Vec<RecordChange> {
        let (Some(from), Some(to)) = (self.primary_member(), self.config.member(target)) else {
            return Vec::new();
        };
        let change = |route: &crate::Route| RecordChange {
            zone: route.zone.clone(),
            name: route.name.clone(),
            ttl_s: route.ttl_s,
            from: from.endpoint.clone(),
            to: to.endpoint.clone(),
        };
        self.config.routes.iter().map(change).collect()
    }

    /// Is the primary the writer, and does at least one available secondary replicate from it?
    fn is_whole(&self, assessment: &Assessment) -> bool {
        let primary = self.primary_member().and_then(|m| assessment.member(&m.arn));
        let secondary = assessment.members.iter().any(|m| {
            !m.writer
                && m.synchronization.as_deref() == Some("connected")
                && m.cluster.as_ref().is_some_and(|c| c.status == "available" && c.instances > 0)
        });
        primary.is_some_and(|p| p.writer) && secondary && assessment.failover.is_none()
    }
}

/// Is this the kind of report that the effect asks for?
const fn answers(effect: &Effect, report: &Report) -> bool {
    match effect {
        Effect::Assess { .. } => matches!(report, Report::Assessed(_)),
        Effect::Promote { .. } => matches!(report, Report::Promoted { .. }),
        Effect::Reroute { .. } => matches!(report, Report::Rerouted { .. }),
        Effect::Verify { .. } => matches!(report, Report::Verified { .. }),
        Effect::Announce { .. } => matches!(report, Report::Announced),
    }
}

/// A guard's inputs as one line.
fn describe(result: &GuardResult) -> String {
    let inputs: Vec<String> = result.inputs.iter().map(|i| format!("{} {}", i.name, i.value)).collect();
    inputs.join(", ")
}
