//! What every state shares: taking evidence and results in, asking for effects, claims, holds, episodes.

use crate::evidence::Intake;
use crate::guards::Target;
use crate::machine::Next;
use crate::{
    Assessment, Claim, ClaimToken, ClusterId, Configured, ControllerId, Decision, DualWriter, Effect, EffectId,
    EffectResult, Episode, EpisodeKind, EpisodeOutcome, Event, Grace, GuardResult, Hold, HoldReason, How, Outcome,
    Overlap, Pending, Policy, Probe, Question, Reason, Record, RecordChange, Region, Report, RerouteWhen, Rule, State,
    Timestamp, Verdict, Way, deadline,
};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use statig::Outcome::{Handled, Transition};

/// What an operator can do about a public name that does not lead to the writer.
const NAME_BY_HAND: &str = "point the public name at the new writer, and it goes on by itself; or acknowledge to take \
                            over by hand";

/// What an operator can do when the names went ahead of a promotion that did not take place.
const NAME_BACK_BY_HAND: &str = "point the public name at the writer that RDS names; acknowledge to take over by hand";

/// How often evidence is stored while a confirmation window passes: whoever takes over loses a quarter of it.
const STORED_PER_WINDOW: u64 = 4;

/// And never more often than this, in milliseconds: each time costs several writes and a question to RDS, and a store
/// that cannot follow would delay the evidence itself.
const STORED_APART_MIN_MS: u64 = 250;

/// What one step gathers.
pub(crate) struct Turn {
    pub(crate) now: Timestamp,
    /// When the event happened.
    pub(crate) at: Timestamp,
    pub(crate) probe_ok: Option<bool>,
    pub(crate) suspicious: bool,
    /// A switchover that RDS did not carry out.
    pub(crate) refused: bool,
    pub(crate) done: Option<(Effect, Report)>,
    pub(crate) verdict: Verdict,
    pub(crate) guards: Vec<GuardResult>,
    news: bool,
    rule: Rule,
    effects: Vec<EffectId>,
    claimed: Vec<EffectId>,
    answer: Option<String>,
    closed: Option<(Box<Episode>, EpisodeOutcome)>,
}

impl Turn {
    pub(crate) fn new(now: Timestamp, at: Timestamp) -> Self {
        Self {
            now,
            at,
            probe_ok: None,
            suspicious: false,
            refused: false,
            done: None,
            verdict: Verdict::Noted,
            guards: Vec::new(),
            news: false,
            rule: Rule::EvidenceNoted,
            effects: Vec::new(),
            claimed: Vec::new(),
            answer: None,
            closed: None,
        }
    }

    pub(crate) fn decide(self, record: Record) -> Decision {
        Decision {
            record,
            verdict: self.verdict,
            rule: self.rule,
            guards: self.guards,
            effects: self.effects,
            claimed: self.claimed,
            answer: self.answer,
            closed: self.closed,
        }
    }

    // ---- taking in -------------------------------------------------------------------------------------------

    /// Evidence and results are taken in before any state sees them; false when there is nothing left to decide.
    pub(crate) fn take_in(&mut self, record: &mut Record, event: &Event) -> bool {
        // Who fell silent since the last event may be heard again by this one.
        record.evidence.lost_sight(&record.config.policy, self.now);
        match event {
            Event::Probe(probe) => self.take_probe(record, probe),
            Event::Result(result) => self.settle(record, result),
            Event::Claim(_)
            | Event::Configured(_)
            | Event::Command(_)
            | Event::Rds(_)
            | Event::Alarm(_)
            | Event::Observation(_)
            | Event::Lag(_) => true,
            Event::Tick => !self.end_pause(record),
        }
    }

    fn take_probe(&mut self, record: &mut Record, probe: &Probe) -> bool {
        let outage_began_at = record.episode.as_ref().map(|episode| episode.began_at);
        let evidence = &mut record.evidence;
        let vantages_before = evidence.tracks.len();
        let intake = evidence.take(probe, self.at, &record.config, &record.primary, self.now, outage_began_at);
        self.news = evidence.tracks.len() != vantages_before || intake == Intake::FirstLag;
        let read_only = matches!(intake, Intake::FirstLag | Intake::Ignored(Reason::NotThePrimary));
        let ends = |dual: &DualWriter| dual.region == probe.target && self.at > dual.since;
        if read_only && record.dual_writer.as_ref().is_some_and(ends) {
            record.dual_writer = None;
            self.updated(Rule::DualWriterGone);
            return false;
        }
        match intake {
            Intake::Ok => self.probe_ok = Some(true),
            Intake::Failed { suspicious } => {
                self.probe_ok = Some(false);
                self.suspicious = suspicious;
            }
            Intake::FirstLag => return false,
            Intake::SecondWriter => {
                self.second_writer(record, &probe.target);
                return false;
            }
            Intake::Ignored(reason) => {
                self.ignore(reason);
                return false;
            }
        }
        true
    }

    /// A member commits that is not the primary. The target of a promotion is about to, and late probes may tell of
    /// the time when it still was the primary.
    fn second_writer(&mut self, record: &mut Record, region: &Region) {
        let expected = matches!(&record.state, State::Promoting { target, .. } if target == region);
        if expected || record.dual_writer.is_some() || self.at <= record.primary_since {
            self.ignore(Reason::NotThePrimary);
            return;
        }
        record.dual_writer = Some(DualWriter { region: region.clone(), since: self.at });
        self.updated(Rule::DualWriter);
        self.announce(record, "dual-writer", "dual-writer");
        self.fence(record, region);
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
        let mut spent = false;
        let (detail, refused) = match &result.outcome {
            Outcome::Done { report } if answers(&pending.effect, report) => {
                let pending = record.pending.remove(index);
                self.done = Some((pending.effect, report.clone()));
                return true;
            }
            Outcome::Done { .. } => ("the answer does not fit the effect", true),
            Outcome::InProgress { detail } => {
                pending.under_way = true;
                pending.not_before = now.plus_ms(policy.retry_ms);
                (detail.as_str(), false)
            }
            Outcome::Retry { detail } | Outcome::Unknown { detail } => {
                pending.attempts = pending.attempts.saturating_add(1);
                pending.not_before = now.plus_ms(backoff_ms(&record.cluster, pending, policy));
                if let Some(episode) = &mut record.episode {
                    episode.retries = episode.retries.saturating_add(1);
                    spent = episode.retries > policy.retries_max;
                }
                (detail.as_str(), false)
            }
            Outcome::Refused { detail } => {
                pending.attempts = pending.attempts.saturating_add(1);
                (detail.as_str(), true)
            }
        };
        pending.claim = None;
        if now < pending.deadline && !refused && !spent {
            self.call_names_back(record);
            self.updated(Rule::EffectRetried);
            return false;
        }
        pending.not_before = now.plus_ms(policy.retry_max_ms);
        let look_again_at = pending.not_before;
        let missing = match pending.effect {
            Effect::Reroute { .. } => "promoted, not rerouted",
            ref effect => effect.name(),
        };
        let detail = format!("{missing}: {detail}");
        let told = self.ran_out(record, index, refused, detail, look_again_at);
        self.call_names_back(record);
        told
    }

    /// An effect was refused by the world, or is overdue: held and looked at again, or let go. Never silent.
    fn ran_out(
        &mut self,
        record: &mut Record,
        index: usize,
        refused: bool,
        detail: String,
        again_at: Timestamp,
    ) -> bool {
        let promoting = matches!(record.state, State::Promoting { .. });
        let (reason, release) = match (&record.pending[index].effect, refused) {
            // The names are moved after the promotion, then.
            (Effect::Reroute { overlap: Some(Overlap { way: Way::Ahead, .. }), .. }, _) if promoting => {
                record.pending.remove(index);
                self.updated(Rule::GivenUp);
                return false;
            }
            (Effect::Reroute { overlap: Some(Overlap { way: Way::Back, .. }), .. }, _) => {
                let again_ms = record.config.policy.reroute_deadline_ms;
                record.pending[index].deadline = self.now.plus_ms(again_ms);
                let detail = format!("the public names went ahead of it and are not back: {detail}");
                self.hold(record, HoldReason::PromoteRefused, detail, NAME_BACK_BY_HAND, again_at);
                self.updated(Rule::EffectHeld);
                self.announce(record, "hold", "hold");
                return false;
            }
            (Effect::Announce { .. } | Effect::Fence { .. }, _) => {
                record.pending.remove(index);
                self.updated(Rule::GivenUp);
                return false;
            }
            (Effect::Assess { question: Question::WhoIsDown | Question::IsWhole }, _) => {
                record.pending.remove(index);
                self.updated(Rule::Assessed);
                return false;
            }
            (Effect::Assess { question: Question::MaySwitchOver }, _) => {
                record.pending.remove(index);
                self.close(record, EpisodeOutcome::Cancelled);
                self.updated(Rule::SwitchoverFailed);
                self.announce(record, "switchover", "cancelled");
                return false;
            }
            (Effect::FailOverInRegion { .. }, _) => {
                record.pending.remove(index);
                self.updated(Rule::EffectHeld);
                self.announce(record, "failover-in-region", "refused");
                return false;
            }
            // What was planned, or followed, did not take place; nothing was forced, so nothing needs to go forward.
            (Effect::Promote { how: How::Switchover | How::Follow, .. }, true) => {
                record.pending.remove(index);
                self.refused = true;
                self.say(detail);
                return true;
            }
            (Effect::Assess { question: Question::MayFailOver }, _) => {
                (HoldReason::AssessOverdue, "nothing to do: RDS is asked again; check the controller's access to it")
            }
            (Effect::Promote { .. }, true) => {
                (HoldReason::PromoteRefused, "look at the global cluster in RDS; acknowledge to take over by hand")
            }
            (Effect::Promote { .. }, false) => {
                (HoldReason::PromoteOverdue, "look at the global cluster in RDS; acknowledge to take over by hand")
            }
            (Effect::Reroute { .. }, true) => (HoldReason::RerouteRefused, NAME_BY_HAND),
            (Effect::Reroute { .. }, false) => (HoldReason::RerouteOverdue, NAME_BY_HAND),
            (Effect::Verify { .. }, true) => (HoldReason::VerifyRefused, NAME_BY_HAND),
            (Effect::Verify { .. }, false) => (HoldReason::VerifyOverdue, NAME_BY_HAND),
        };
        self.hold(record, reason, detail, release, again_at);
        self.updated(Rule::EffectHeld);
        false
    }

    /// At its end a pause is forgotten, and evidence starts from zero; true when that was what the tick was for.
    fn end_pause(&mut self, record: &mut Record) -> bool {
        if record.paused.as_ref().is_none_or(|pause| self.now < pause.until) {
            return false;
        }
        self.resume(record);
        self.updated(Rule::PauseEnded);
        true
    }

    /// Evidence from before or during a pause decides nothing after it.
    pub(crate) fn resume(&mut self, record: &mut Record) {
        record.paused = None;
        record.evidence.reset();
        if let Some(hold) = &mut record.hold {
            hold.deadline = self.now;
        }
    }

    /// Sight is judged after every event, in every state; quiet evidence is stored once in a while.
    pub(crate) fn look(&mut self, record: &mut Record) {
        let blind = record.evidence.still_blind(&record.config.policy, self.now);
        let changed = blind != record.blind;
        record.blind = blind;
        if changed && blind {
            record.evidence.blind_at = Some(self.now);
        }
        if (changed || self.news) && !self.verdict.is_durable() {
            self.updated(Rule::SightChanged);
        } else if self.verdict == Verdict::Noted
            && self.now.since_ms(record.heartbeat_at) >= record.config.policy.heartbeat_ms
        {
            self.updated(Rule::Heartbeat);
        }
        if changed && record.proven {
            let (from, to) = if blind { ("sighted", "blind") } else { ("blind", "sighted") };
            self.announce_as(record, from, to, Rule::SightChanged.sentence().into());
        }
    }

    // ---- answering -------------------------------------------------------------------------------------------

    pub(crate) fn go(&mut self, rule: Rule, next: State) -> Next {
        self.rule = rule;
        Transition(next)
    }

    pub(crate) fn updated(&mut self, rule: Rule) -> Next {
        self.rule = rule;
        self.verdict = Verdict::Updated;
        Handled
    }

    /// Evidence that matters and decides nothing yet: stored now and then, so that another controller can go on from
    /// it, but never more often than the store can follow.
    pub(crate) fn counted(&mut self, record: &Record) -> Next {
        let every_ms = (record.config.policy.confirm_after_ms / STORED_PER_WINDOW).max(STORED_APART_MIN_MS);
        if self.now.since_ms(record.heartbeat_at) < every_ms {
            return self.noted();
        }
        self.updated(Rule::EvidenceCounted)
    }

    pub(crate) fn noted(&mut self) -> Next {
        Handled
    }

    pub(crate) fn ignore(&mut self, reason: Reason) -> Next {
        self.rule = Rule::Ignored;
        self.verdict = Verdict::Ignored { reason };
        Handled
    }

    /// Tells the operator; the sentence is kept in history.
    pub(crate) fn say(&mut self, answer: impl Into<String>) {
        self.answer = Some(answer.into());
    }

    /// Refuses a command with a sentence that says why and what is possible.
    pub(crate) fn refuse(&mut self, why: impl Into<String>) -> Next {
        self.say(why);
        self.updated(Rule::CommandRefused)
    }

    // ---- effects ---------------------------------------------------------------------------------------------

    /// Asks for an effect.
    pub(crate) fn issue(&mut self, record: &mut Record, effect: Effect, deadline: Timestamp) -> EffectId {
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
            under_way: false,
        });
        self.effects.push(id);
        id
    }

    pub(crate) fn assess(&mut self, record: &mut Record, question: Question) {
        record.drop_assess();
        let deadline = self.now.plus_ms(record.config.policy.assess_deadline_ms);
        self.issue(record, Effect::Assess { question }, deadline);
    }

    /// Asks for the end of writes in `region`, unless that is asked for already.
    pub(crate) fn fence(&mut self, record: &mut Record, region: &Region) {
        let Some(cluster) = record.config.member(region).map(|member| member.arn.clone()) else { return };
        if record.fence_of(region).is_none() {
            let deadline = self.now.plus_ms(record.config.policy.fence_deadline_ms);
            self.issue(record, Effect::Fence { cluster, region: region.clone() }, deadline);
        }
    }

    /// The promotion is past its point of no return, and the evidence shows the old primary as down: the public names
    /// are sent ahead, if the policy says so.
    pub(crate) fn send_names_ahead(&mut self, record: &mut Record) {
        let down = record.evidence.confirms_down(&record.config, self.now).reached();
        if record.config.policy.reroute != RerouteWhen::Overlapped || !down {
            return;
        }
        if record.config.routes.is_empty() {
            return;
        }
        let Some(promotion) = record.pending_promotion() else { return };
        let (Effect::Promote { how: How::Failover, to, region, .. }, deadline) =
            (promotion.effect.clone(), promotion.deadline)
        else {
            return;
        };
        let changes = record.route_changes(&record.primary, &region);
        let overlap = Overlap { way: Way::Ahead, writer: to, region, epoch: record.epoch.next() };
        self.issue(record, Effect::Reroute { changes, overlap: Some(overlap) }, deadline);
        if let Some(episode) = &mut record.episode {
            episode.names_ahead = true;
        }
    }

    /// Brings the public names back that went ahead of a promotion which RDS gave up, once nobody moves them any more.
    pub(crate) fn call_names_back(&mut self, record: &mut Record) {
        let refused = record.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::PromoteRefused);
        let ahead = record.episode.as_ref().is_some_and(|episode| episode.names_ahead);
        let now = self.now;
        let moving = record.pending_reroute_mut(Way::Back).is_some()
            || record
                .pending_reroute_mut(Way::Ahead)
                .is_some_and(|p| p.claim.as_ref().is_some_and(|claim| now < claim.expires_at));
        if !refused || !ahead || moving {
            return;
        }
        let Some(Effect::Promote { from, region, .. }) = record.pending_promotion().map(|p| p.effect.clone()) else {
            return;
        };
        record.drop_reroute();
        let changes = record.route_changes(&region, &record.primary);
        let (region, epoch) = (record.primary.clone(), record.epoch);
        let overlap = Overlap { way: Way::Back, writer: from, region, epoch };
        let deadline = now.plus_ms(record.config.policy.reroute_deadline_ms);
        self.issue(record, Effect::Reroute { changes, overlap: Some(overlap) }, deadline);
    }

    /// Asks for the proof, once the names that were in sync at `at` are out of every cache.
    pub(crate) fn verify(&mut self, record: &mut Record, changes: Vec<RecordChange>, at: Timestamp) {
        let ttl_ms = changes.iter().map(|c| c.ttl_s.saturating_mul(1000)).max().unwrap_or(0);
        let not_before = at.plus_ms(ttl_ms).max(self.now);
        let deadline = not_before.plus_ms(record.config.policy.reroute_deadline_ms);
        let verify = Effect::Verify { changes, region: record.primary.clone(), not_before };
        let id = self.issue(record, verify, deadline);
        if let Some(pending) = record.pending.iter_mut().find(|p| p.id == id) {
            pending.not_before = not_before;
        }
    }

    /// Tells pagers: a transition, or something that stands beside the state.
    pub(crate) fn announce(&mut self, record: &mut Record, from: &str, to: &str) {
        let reason = match &record.hold {
            Some(hold) if from == "hold" => format!("{}; to go on: {}", hold.detail, hold.release),
            _ => self.rule.sentence().to_string(),
        };
        self.announce_as(record, from, to, reason);
    }

    fn announce_as(&mut self, record: &mut Record, from: &str, to: &str, reason: String) {
        let effect = Effect::Announce { from: from.into(), to: to.into(), reason, primary: record.primary.clone() };
        let deadline = self.now.plus_ms(record.config.policy.announce_deadline_ms);
        self.issue(record, effect, deadline);
    }

    /// Gives the claimant every effect that is due. What holds nothing back and was not answered by its deadline, not
    /// even with a failure, is given up instead.
    pub(crate) fn claim_due(&mut self, record: &mut Record, by: &ControllerId) -> Next {
        let now = self.now;
        let given_up = |p: &Pending| p.is_best_effort() && p.is_claimable(now) && now >= p.deadline;
        if record.pending.iter().any(given_up) {
            record.pending.retain(|p| !given_up(p));
            self.updated(Rule::GivenUp);
        }
        let due: Vec<EffectId> = deadline::due_effects(record, self.now).map(|p| p.id).collect();
        if due.is_empty() {
            return if self.verdict.is_durable() { Handled } else { self.ignore(Reason::NothingDue) };
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
    pub(crate) fn take_assessment(&mut self, question: Option<Question>) -> Option<Assessment> {
        match self.done.take() {
            Some((Effect::Assess { question: asked }, Report::Assessed(assessment)))
                if question.is_none_or(|question| question == asked) =>
            {
                Some(assessment)
            }
            other => {
                self.done = other;
                None
            }
        }
    }

    pub(crate) fn result_for_no_state(&mut self, record: &mut Record) -> Next {
        if let Some(assessment) = self.take_assessment(None) {
            if let Some(episode) = &mut record.episode {
                episode.assessment = Some(assessment);
            }
            return self.updated(Rule::Assessed);
        }
        match self.done.take() {
            Some((Effect::Announce { .. }, _)) => self.updated(Rule::Announced),
            Some((Effect::Fence { .. }, _)) => self.updated(Rule::Fenced),
            Some((Effect::FailOverInRegion { .. }, _)) => {
                self.begin_grace(record);
                self.updated(Rule::InRegionFailover)
            }
            // An effect of a state that was left since; what it did stands in its own history row.
            _ => self.updated(Rule::EffectRetried),
        }
    }

    // ---- holds and grace -------------------------------------------------------------------------------------

    /// Holds, and says so once per reason.
    pub(crate) fn hold(
        &mut self,
        record: &mut Record,
        reason: HoldReason,
        detail: String,
        release: &str,
        deadline: Timestamp,
    ) {
        let since = record.hold.as_ref().filter(|hold| hold.reason == reason).map(|hold| hold.since);
        let hold = Hold { reason, detail, release: release.into(), since: since.unwrap_or(self.now), deadline };
        record.hold = Some(hold);
        if since.is_none() {
            self.announce(record, "hold", "hold");
        }
    }

    /// An in-region failover lengthens the window, but never by more than twice its bound.
    pub(crate) fn begin_grace(&mut self, record: &mut Record) {
        let grace_ms = record.config.policy.in_region_grace_ms;
        let since = record.grace.as_ref().map_or(self.now, |grace| grace.since);
        let until = self.now.plus_ms(grace_ms).min(since.plus_ms(grace_ms.saturating_mul(2)));
        record.grace = Some(Grace { since, until });
    }

    // ---- episodes --------------------------------------------------------------------------------------------

    /// The primary is well, or nothing was done and nothing shall be: back to watching.
    pub(crate) fn back_to_healthy(&mut self, record: &mut Record, rule: Rule, outcome: EpisodeOutcome) -> Next {
        record.pending.retain(|p| {
            matches!(p.effect, Effect::Announce { .. } | Effect::Fence { .. } | Effect::FailOverInRegion { .. })
        });
        self.close(record, outcome);
        self.go(rule, State::Healthy)
    }

    pub(crate) fn avert(&mut self, record: &mut Record, rule: Rule) -> Next {
        record.evidence.outvote_failing();
        record.grace = None;
        self.back_to_healthy(record, rule, EpisodeOutcome::Averted)
    }

    /// Nothing was done; whatever is true must show itself in fresh evidence.
    pub(crate) fn cancel(&mut self, record: &mut Record, rule: Rule) -> Next {
        self.cancel_as(record, rule, EpisodeOutcome::Cancelled)
    }

    pub(crate) fn cancel_as(&mut self, record: &mut Record, rule: Rule, outcome: EpisodeOutcome) -> Next {
        record.evidence.reset();
        record.grace = None;
        self.back_to_healthy(record, rule, outcome)
    }

    pub(crate) fn close(&mut self, record: &mut Record, outcome: EpisodeOutcome) {
        record.hold = None;
        self.closed = record.episode.take().map(|episode| (Box::new(episode), outcome));
        // The primary may have moved since that configuration was accepted.
        if let Some(config) = record.next_config.take().filter(|config| config.member(&record.primary).is_some()) {
            record.config = config;
            record.forget_unconfigured();
        }
    }

    /// The promotion was decided and never claimed: decide anew, from the evidence.
    pub(crate) fn take_promotion_back(&mut self, record: &mut Record) -> Next {
        let planned = record.episode.as_ref().is_some_and(|episode| episode.kind != EpisodeKind::Failover);
        record.pending.retain(|p| !matches!(p.effect, Effect::Promote { .. }));
        if planned {
            return self.cancel(record, Rule::CancelledBeforeClaim);
        }
        self.assess(record, Question::WhoIsDown);
        self.go(Rule::CancelledBeforeClaim, State::Suspect { since: self.now })
    }

    /// All guards passed.
    pub(crate) fn promote(&mut self, record: &mut Record, target: Target, how: How, rule: Rule) -> Next {
        let Some(primary) = record.primary_member() else { return self.updated(Rule::GuardRefused) };
        let from = primary.arn.clone();
        record.hold = None;
        record.grace = None;
        record.drop_assess();
        // Somebody else may move the writer to where it was fenced.
        record.drop_fence(&target.region);
        if let Some(episode) = &mut record.episode {
            episode.decided_at = Some(self.now);
            episode.rpo_bound_ms = target.rpo_bound_ms;
        }
        let deadline = self.now.plus_ms(record.config.policy.promote_deadline_ms);
        let region = target.region.clone();
        let epoch = record.epoch;
        self.issue(record, Effect::Promote { how, from, to: target.arn, region, epoch }, deadline);
        self.go(rule, State::Promoting { since: self.now, target: target.region })
    }

    pub(crate) fn reconfigure(&mut self, record: &mut Record, configured: &Configured) -> Next {
        let newest = record.next_config.as_ref().unwrap_or(&record.config);
        if newest.hash == configured.config.hash && record.configured_mode == configured.mode {
            return self.ignore(Reason::SameConfig);
        }
        if configured.config.member(&record.primary).is_none() {
            return self.ignore(Reason::PrimaryNotConfigured);
        }
        if record.configured_mode != configured.mode {
            record.configured_mode = configured.mode;
            record.mode = configured.mode;
        }
        if record.episode.is_some() {
            record.next_config = Some(configured.config.clone());
        } else {
            record.config = configured.config.clone();
            record.forget_unconfigured();
        }
        self.mode_changed(record);
        self.updated(Rule::Reconfigured)
    }

    /// Another mode may release a hold at once.
    pub(crate) fn mode_changed(&self, record: &mut Record) {
        if let Some(hold) = &mut record.hold {
            hold.deadline = self.now;
        }
    }
}

impl Pending {
    /// Does no state wait for it?
    pub(crate) const fn is_best_effort(&self) -> bool {
        matches!(self.effect, Effect::Announce { .. } | Effect::Fence { .. })
    }

    /// May somebody claim it at `now`?
    pub(crate) fn is_claimable(&self, now: Timestamp) -> bool {
        deadline::claimable_at(self) <= now
    }
}

impl Record {
    /// The assessment that is not answered yet.
    pub(crate) fn pending_assess(&self) -> Option<&Pending> {
        self.pending.iter().find(|p| matches!(p.effect, Effect::Assess { .. }))
    }

    /// The effect that keeps `region` from taking writes, if that is asked for.
    pub(crate) fn fence_of(&self, region: &Region) -> Option<&Pending> {
        self.pending.iter().find(|p| matches!(&p.effect, Effect::Fence { region: fenced, .. } if fenced == region))
    }

    pub(crate) fn drop_fence(&mut self, region: &Region) {
        self.pending.retain(|p| !matches!(&p.effect, Effect::Fence { region: fenced, .. } if fenced == region));
    }

    pub(crate) fn drop_assess(&mut self) {
        self.pending.retain(|p| !matches!(p.effect, Effect::Assess { .. }));
    }

    /// The promotion that is not done yet.
    pub(crate) fn pending_promotion(&self) -> Option<&Pending> {
        self.pending.iter().find(|p| matches!(p.effect, Effect::Promote { .. }))
    }

    /// The names on this way, if they are asked to move while the writer does.
    pub(crate) fn pending_reroute_mut(&mut self, way: Way) -> Option<&mut Pending> {
        let on_it = |p: &&mut Pending| match &p.effect {
            Effect::Reroute { overlap: Some(overlap), .. } => overlap.way == way,
            _ => false,
        };
        self.pending.iter_mut().find(on_it)
    }

    pub(crate) fn drop_reroute(&mut self) {
        self.pending.retain(|p| !matches!(p.effect, Effect::Reroute { .. }));
    }

    /// Has the promotion never been claimed, so that it can still be taken back?
    pub(crate) fn promotion_unclaimed(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.effect, Effect::Promote { .. }) && !p.ever_claimed)
    }

    /// What the configuration does not name any more has no say, and takes no room.
    fn forget_unconfigured(&mut self) {
        let Self { config, evidence, .. } = self;
        evidence.tracks.retain(|vantage, _| config.policy.vantages.contains(vantage));
        evidence.alarms.retain(|name, _| config.alarms.iter().any(|alarm| alarm.name == *name));
        evidence.observed.retain(|name, _| config.probes.iter().any(|probe| probe.name == *name));
        evidence.observed.values_mut().for_each(|sights| sights.retain(|v, _| config.policy.vantages.contains(v)));
        evidence.lag.retain(|region, _| config.member(region).is_some());
    }

    /// The swaps that make the public names follow the writer.
    pub(crate) fn route_changes(&self, from: &Region, to: &Region) -> Vec<RecordChange> {
        let (Some(from), Some(to)) = (self.config.member(from), self.config.member(to)) else {
            return Vec::new();
        };
        let change = |route: &crate::Route| RecordChange {
            zone: route.zone.clone(),
            name: route.name.clone(),
            ttl_s: route.ttl_s,
            from: from.endpoint.clone(),
            to: to.endpoint.clone(),
            by: route.by.clone(),
        };
        self.config.routes.iter().map(change).collect()
    }

    /// Is the primary the writer, and does at least one available secondary replicate from it?
    pub(crate) fn is_whole(&self, assessment: &Assessment) -> bool {
        let primary = self.primary_member().and_then(|m| assessment.member(&m.arn));
        let secondary = assessment.members.iter().any(|m| {
            !m.writer
                && m.synchronization.as_deref() == Some("connected")
                && m.cluster.as_ref().is_some_and(|c| c.status == "available" && c.instances > 0)
        });
        primary.is_some_and(|p| p.writer) && secondary && assessment.failover.is_none()
    }
}

/// How long to wait after a failed try: longer with each, and spread, so that what failed together does not come back
/// together. The spread is drawn from names and numbers, so that a replay draws the same.
fn backoff_ms(cluster: &ClusterId, pending: &Pending, policy: &Policy) -> u64 {
    let longest_ms = policy.retry_ms.saturating_mul(1 << pending.attempts.min(16)).min(policy.retry_max_ms);
    let numbers = [pending.id.0, u64::from(pending.attempts)];
    let bytes = cluster.as_str().bytes().chain(numbers.iter().flat_map(|number| number.to_le_bytes()));
    // FNV-1a, 64 bit.
    let drawn = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    longest_ms - (drawn >> 32) % (longest_ms / 2 + 1)
}

/// Is this the kind of report that the effect asks for?
const fn answers(effect: &Effect, report: &Report) -> bool {
    match effect {
        Effect::Assess { .. } => matches!(report, Report::Assessed(_)),
        Effect::Promote { .. } => matches!(report, Report::Promoted { .. }),
        Effect::Fence { .. } => matches!(report, Report::Fenced { .. }),
        Effect::FailOverInRegion { .. } => matches!(report, Report::FailingOverInRegion),
        Effect::Reroute { .. } => matches!(report, Report::Rerouted { .. }),
        Effect::Verify { .. } => matches!(report, Report::Verified { .. }),
        Effect::Announce { .. } => matches!(report, Report::Announced),
    }
}

/// A guard's inputs as one line.
pub(crate) fn describe(result: &GuardResult) -> String {
    let inputs: Vec<String> = result.inputs.iter().map(|i| format!("{} {}", i.name, i.value)).collect();
    inputs.join(", ")
}
