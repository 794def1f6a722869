//! The transitions, state by state, in the order of the lifecycle.

use crate::machine::Next;
use crate::turn::{Turn, describe};
use crate::{
    Assessment, Configured, Effect, Episode, EpisodeKind, EpisodeOutcome, Guard, Hold, HoldReason, How, Mode, Question,
    Record, Region, Report, Rule, State, Timestamp, Way, guards,
};
use alloc::string::ToString;
use statig::Outcome::Super;

// ---- watching: healthy, suspect --------------------------------------------------------------------------------

pub(crate) fn healthy_probe(record: &mut Record, turn: &mut Turn) -> Next {
    if turn.probe_ok == Some(true) {
        if !record.proven {
            record.proven = true;
            return turn.updated(Rule::Proven);
        }
        return turn.noted();
    }
    if !record.proven || !turn.suspicious || record.episode.is_some() {
        return turn.noted();
    }
    record.episode = Some(Episode::new(record, EpisodeKind::Failover, turn.at));
    record.evidence.begin_suspicion();
    turn.assess(record, Question::WhoIsDown);
    turn.go(Rule::FirstFailure, State::Suspect { since: turn.now })
}

pub(crate) fn healthy_result(record: &mut Record, turn: &mut Turn) -> Next {
    if let Some(assessment) = turn.take_assessment(Some(Question::MaySwitchOver)) {
        let verdict = guards::ask_switchover(record, &assessment, turn.now);
        let refusal = verdict.refusal().map(describe);
        turn.guards.extend(verdict.asked);
        return match verdict.target {
            Some(target) => turn.promote(record, target, How::Switchover, Rule::GuardsPassed),
            None => {
                turn.say(refusal.unwrap_or_else(|| "no target".to_string()));
                turn.close(record, EpisodeOutcome::Cancelled);
                turn.updated(Rule::GuardRefused);
                turn.announce(record, "switchover", "refused");
                turn.updated(Rule::GuardRefused)
            }
        };
    }
    match turn.take_assessment(Some(Question::WhoIsDown)) {
        Some(assessment) => adopt(record, turn, assessment).unwrap_or_else(|| turn.updated(Rule::Assessed)),
        None => Super,
    }
}

pub(crate) fn suspect_probe(record: &mut Record, turn: &mut Turn) -> Next {
    if record.evidence.recovered(&record.config.policy, turn.now).reached() {
        return turn.avert(record, Rule::Recovered);
    }
    if let Some(next) = confirm(record, turn) {
        return next;
    }
    let next = turn.counted(record);
    // RDS may have noticed by now what the vantages saw first.
    if turn.probe_ok == Some(false) && turn.verdict.is_durable() && record.pending_assess().is_none() {
        turn.assess(record, Question::WhoIsDown);
    }
    next
}

/// Confirms when the evidence does, unless an in-region failover explains it.
pub(crate) fn confirm(record: &mut Record, turn: &mut Turn) -> Option<Next> {
    let in_grace = record.grace.as_ref().is_some_and(|grace| turn.now < grace.until);
    let can_judge = record.proven && !record.evidence.is_blind(&record.config.policy, turn.now);
    if in_grace || !can_judge || !record.evidence.confirms_down(&record.config, turn.now).reached() {
        return None;
    }
    turn.guards.push(guards::still_down(record, turn.now));
    if let Some(episode) = &mut record.episode {
        episode.confirmed_at = Some(turn.now);
    }
    turn.assess(record, Question::MayFailOver);
    Some(turn.go(Rule::QuorumConfirmed, State::ConfirmedDown { since: turn.now }))
}

pub(crate) fn suspect_result(record: &mut Record, turn: &mut Turn) -> Next {
    let Some(assessment) = turn.take_assessment(None) else { return Super };
    let primary = record.primary_member().and_then(|m| assessment.member(&m.arn)?.cluster.as_ref());
    if primary.is_some_and(|cluster| cluster.status == "failing-over") {
        turn.begin_grace(record);
    }
    adopt(record, turn, assessment).unwrap_or_else(|| turn.updated(Rule::Assessed))
}

/// Somebody else moves or moved the writer: follow, never call. None when that is not so, or only watching is allowed.
fn adopt(record: &mut Record, turn: &mut Turn, assessment: Assessment) -> Option<Next> {
    let elsewhere =
        record.config.members.iter().filter(|member| member.region != record.primary).find(|member| match &assessment
            .failover
        {
            Some(failover) => failover.to == member.arn,
            None => assessment.member(&member.arn).is_some_and(|facts| facts.writer),
        });
    let target = elsewhere.map(|member| guards::Target {
        region: member.region.clone(),
        arn: member.arn.clone(),
        rpo_bound_ms: None,
        adopted: true,
    });
    let running = assessment.failover.is_some();
    if let Some(episode) = &mut record.episode {
        episode.assessment = Some(assessment);
    }
    let target = target?;
    if record.mode != Mode::Observe && record.paused.is_none() {
        let began_at = turn.at;
        let episode = record.episode.take().unwrap_or_else(|| Episode::new(record, EpisodeKind::Adopted, began_at));
        record.episode = Some(Episode { kind: EpisodeKind::Adopted, ..episode });
        return Some(turn.promote(record, target, How::Follow, Rule::Adopted));
    }
    if running {
        return None;
    }
    // Watching only: the record follows the truth, the public names are left to whoever moved the writer.
    move_primary(record, turn, &target.region);
    Some(turn.back_to_healthy(record, Rule::Adopted, EpisodeOutcome::Completed))
}

/// From now on `region` is the primary, and nothing is known of it yet.
fn move_primary(record: &mut Record, turn: &Turn, region: &Region) {
    record.drop_fence(region);
    record.epoch = record.epoch.next();
    record.primary = region.clone();
    record.primary_since = turn.now;
    record.dual_writer = None;
    record.evidence.reset();
}

// ---- deciding: confirmed-down ----------------------------------------------------------------------------------

pub(crate) fn confirmed_probe(record: &mut Record, turn: &mut Turn) -> Next {
    let ordered = record.episode.as_ref().is_some_and(|episode| episode.ordered.is_some());
    if !ordered && record.evidence.recovered(&record.config.policy, turn.now).reached() {
        return turn.avert(record, Rule::Recovered);
    }
    turn.counted(record)
}

pub(crate) fn confirmed_result(record: &mut Record, turn: &mut Turn) -> Next {
    let Some(assessment) = turn.take_assessment(Some(Question::MayFailOver)) else { return Super };
    // Somebody else's failover may have begun and ended between two looks.
    if assessment.failover.is_none()
        && let Some(next) = adopt(record, turn, assessment.clone())
    {
        return next;
    }
    let verdict = guards::ask_failover(record, &assessment, turn.now);
    let refusal = verdict.refusal().cloned();
    turn.guards.extend(verdict.asked);
    if let Some(episode) = &mut record.episode {
        episode.assessment = Some(assessment);
    }
    match (verdict.target, refusal) {
        (Some(target), None) => {
            let how = if target.adopted { How::Follow } else { How::Failover };
            let rule = if target.adopted { Rule::Adopted } else { Rule::GuardsPassed };
            if let Some(episode) = record.episode.as_mut().filter(|_| target.adopted) {
                episode.kind = EpisodeKind::Adopted;
            }
            turn.promote(record, target, how, rule)
        }
        (_, refusal) => {
            let guard = refusal.as_ref().map_or(Guard::TargetFit, |refusal| refusal.guard);
            let detail = refusal.as_ref().map(describe).unwrap_or_default();
            if guard == Guard::BelowLimit {
                record.limit_latched = true;
            }
            record.exposed |= guard == Guard::TargetFit;
            let deadline = turn.now.plus_ms(record.config.policy.reassess_every_ms);
            turn.hold(record, HoldReason::Guard(guard), detail, guard.release(), deadline);
            turn.updated(Rule::GuardRefused)
        }
    }
}

pub(crate) fn confirmed_tick(record: &mut Record, turn: &mut Turn) -> Next {
    let Some(hold) = &record.hold else { return Super };
    if turn.now < hold.deadline || record.pending_assess().is_some() {
        return Super;
    }
    let waited_ms = turn.now.since_ms(hold.since);
    if hold.reason == HoldReason::Guard(Guard::Approved) && waited_ms >= record.config.policy.approval_timeout_ms {
        return turn.cancel(record, Rule::ApprovalTimedOut);
    }
    let deadline = turn.now.plus_ms(record.config.policy.reassess_every_ms);
    record.hold = record.hold.take().map(|hold| Hold { deadline, ..hold });
    turn.assess(record, Question::MayFailOver);
    turn.updated(Rule::Reassess)
}

// ---- committed: promoting, rerouting ---------------------------------------------------------------------------

pub(crate) fn promoting_probe(record: &mut Record, turn: &mut Turn) -> Next {
    let automatic = record.episode.as_ref().is_some_and(|e| e.kind == EpisodeKind::Failover && e.ordered.is_none());
    let back = record.evidence.recovered(&record.config.policy, turn.now).reached();
    if automatic && back && record.promotion_unclaimed() {
        return turn.avert(record, Rule::CancelledBeforeClaim);
    }
    Super
}

pub(crate) fn promoting_claim(record: &mut Record, turn: &mut Turn) -> Next {
    turn.call_names_back(record);
    if !record.promotion_unclaimed() {
        return Super;
    }
    if record.episode.as_ref().is_some_and(|e| e.kind == EpisodeKind::Failover && e.ordered.is_none()) {
        let still_down = guards::still_down(record, turn.now);
        let go = still_down.pass;
        turn.guards.push(still_down);
        if !go {
            return turn.take_promotion_back(record);
        }
    }
    turn.send_names_ahead(record);
    Super
}

pub(crate) fn promoting_configured(record: &mut Record, turn: &mut Turn, configured: &Configured) -> Next {
    let outcome = turn.reconfigure(record, configured);
    take_back_unless_allowed(record, turn).unwrap_or(outcome)
}

/// An unclaimed promotion does not survive a mode or a pause that would not have allowed it.
pub(crate) fn take_back_unless_allowed(record: &mut Record, turn: &mut Turn) -> Option<Next> {
    let human = record.episode.as_ref().is_some_and(|e| e.approval.is_some() || e.ordered.is_some());
    let allowed = record.paused.is_none()
        && match record.mode {
            Mode::Auto => true,
            Mode::Approve => human || record.episode.as_ref().is_some_and(|e| e.kind == EpisodeKind::Adopted),
            Mode::Observe => false,
        };
    (record.promotion_unclaimed() && !allowed).then(|| turn.take_promotion_back(record))
}

pub(crate) fn promoting_result(record: &mut Record, turn: &mut Turn, target: &Region) -> Next {
    match &turn.done {
        _ if turn.refused => turn.cancel(record, Rule::SwitchoverFailed),
        Some((Effect::Promote { .. }, Report::Promoted { heartbeat_at, .. })) => {
            let heartbeat_at = *heartbeat_at;
            promoted(record, turn, target, heartbeat_at)
        }
        Some((Effect::Reroute { overlap: Some(overlap), .. }, Report::Rerouted { .. })) => {
            let ahead = overlap.way == Way::Ahead;
            if let Some(episode) = &mut record.episode {
                episode.names_ahead = ahead;
                episode.rerouted_at = ahead.then_some(turn.now);
            }
            turn.call_names_back(record);
            turn.updated(if ahead { Rule::Rerouted } else { Rule::NamesBack })
        }
        _ => Super,
    }
}

fn promoted(record: &mut Record, turn: &mut Turn, target: &Region, heartbeat_at: Option<Timestamp>) -> Next {
    let changes = record.route_changes(&record.primary, target);
    let old = record.primary.clone();
    let newest_ok = record.evidence.newest_ok;
    move_primary(record, turn, target);
    record.hold = None;
    let planned = record.episode.as_ref().is_some_and(|episode| episode.kind == EpisodeKind::Switchover);
    record.exposed = !planned;
    if !planned {
        // At least the last one is remembered, for the cooldown.
        if record.failovers.len() as u64 >= u64::from(record.config.policy.failovers_max.max(1)) {
            record.failovers.remove(0);
        }
        record.failovers.push(turn.now);
        record.cooldown_lifted = false;
    }
    if let Some(episode) = &mut record.episode {
        episode.promoted_at = Some(turn.now);
        episode.rpo_heartbeat_ms = newest_ok.zip(heartbeat_at).map(|(ok, heartbeat)| ok.since_ms(heartbeat));
    }
    let deadline = turn.now.plus_ms(record.config.policy.reroute_deadline_ms);
    // Names that are on their way back are not where they were in sync.
    let back = record.pending_reroute_mut(Way::Back).is_some();
    let in_sync = record.episode.as_ref().and_then(|episode| episode.rerouted_at).filter(|_| !back);
    match (in_sync, record.pending_reroute_mut(Way::Ahead)) {
        (Some(at), _) => turn.verify(record, changes, at),
        (None, Some(pending)) => pending.deadline = deadline,
        (None, None) => {
            record.drop_reroute();
            turn.issue(record, Effect::Reroute { changes, overlap: None }, deadline);
        }
    }
    // A switchover leaves a replica behind, a failover maybe a writer.
    if record.episode.as_ref().is_some_and(|episode| episode.kind == EpisodeKind::Failover) {
        turn.fence(record, &old);
    }
    turn.go(Rule::Promoted, State::Rerouting { since: turn.now })
}

pub(crate) fn rerouting_result(record: &mut Record, turn: &mut Turn) -> Next {
    match turn.done.take() {
        Some((Effect::Reroute { changes, .. }, Report::Rerouted { at, .. })) => {
            record.hold = None;
            if let Some(episode) = &mut record.episode {
                episode.rerouted_at = Some(turn.now);
            }
            turn.verify(record, changes, at);
            turn.updated(Rule::Rerouted)
        }
        Some((Effect::Verify { .. }, Report::Verified { .. })) => {
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

// ---- settled: stable -------------------------------------------------------------------------------------------

pub(crate) fn stable_probe(record: &mut Record, turn: &mut Turn) -> Next {
    let held = record.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::NewPrimaryDown);
    if held && record.evidence.recovered(&record.config.policy, turn.now).reached() {
        record.hold = None;
        return turn.updated(Rule::NewPrimaryBack);
    }
    if !held && record.evidence.confirms_down(&record.config, turn.now).reached() {
        let deadline = turn.now.plus_ms(record.config.policy.reassess_every_ms);
        let detail = "the new primary fails before its episode has closed".to_string();
        turn.hold(record, HoldReason::NewPrimaryDown, detail, "failover, or acknowledge", deadline);
        return turn.updated(Rule::NewPrimaryFails);
    }
    if turn.probe_ok == Some(false) { turn.counted(record) } else { turn.noted() }
}

pub(crate) fn stable_tick(record: &mut Record, turn: &mut Turn, soak_until: Timestamp) -> Next {
    if turn.now < soak_until || record.pending_assess().is_some() {
        return Super;
    }
    turn.assess(record, Question::IsWhole);
    turn.updated(Rule::Reassess)
}

pub(crate) fn stable_result(record: &mut Record, turn: &mut Turn, soak_until: &mut Timestamp) -> Next {
    let Some(assessment) = turn.take_assessment(None) else { return Super };
    let whole = record.is_whole(&assessment);
    record.exposed = !whole;
    if let Some(episode) = &mut record.episode {
        episode.assessment = Some(assessment);
    }
    if whole && record.hold.is_none() && turn.now >= *soak_until {
        turn.close(record, EpisodeOutcome::Completed);
        return turn.go(Rule::Whole, State::Healthy);
    }
    *soak_until = (*soak_until).max(turn.now.plus_ms(record.config.policy.reassess_every_ms));
    turn.updated(Rule::Assessed)
}
