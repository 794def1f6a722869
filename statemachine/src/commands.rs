//! Operators' commands: legal only where the table says, refused elsewhere with a sentence that says why and what is
//! possible now. A command carries the epoch that its author saw, an expiry and a nonce, so that a late or repeated
//! copy does nothing.

use crate::machine::Next;
use crate::states::take_back_unless_allowed;
use crate::turn::Turn;
use crate::{
    Approval, Command, Effect, Episode, EpisodeKind, EpisodeOutcome, Guard, HoldReason, Mode, Order, Ordered, Pause,
    Question, Reason, Record, Region, Rule, State, Timestamp,
};
use alloc::format;
use alloc::string::String;

/// Nonces kept at once; with so many commands open, more are refused.
const NONCES_MAX: usize = 64;

impl Command {
    /// Who gave it, for people: the caller, and on whose behalf.
    #[must_use]
    pub fn by(&self) -> String {
        match &self.on_behalf_of {
            Some(name) => format!("{}{ON_BEHALF_OF}{name}", self.actor),
            None => self.actor.clone(),
        }
    }
}

/// Between the caller and the name that the caller gives.
const ON_BEHALF_OF: &str = " on behalf of ";

/// The caller, as people are counted: a name behind it that came inside of it proves nothing either.
fn caller(actor: &str) -> &str {
    actor.split_once(ON_BEHALF_OF).map_or(actor, |(caller, _)| caller).trim()
}

/// Carries a command out, or refuses it.
pub(crate) fn handle(state: &State, record: &mut Record, turn: &mut Turn, command: &Command) -> Next {
    let now = turn.now;
    if record.nonces.iter().any(|(nonce, expires_at)| now < *expires_at && *nonce == command.nonce) {
        return turn.ignore(Reason::Duplicate);
    }
    record.nonces.retain(|(_, expires_at)| now < *expires_at);
    if let Err(why) = is_in_order(record, command, now) {
        return turn.refuse(why);
    }
    record.nonces.push((command.nonce.clone(), command.expires_at));
    match &command.order {
        Order::Pause { until } => pause(state, record, turn, command, *until),
        Order::Resume => resume(state, record, turn),
        Order::SetMode { mode } => set_mode(state, record, turn, *mode),
        Order::Failover { target, allow_data_loss } => {
            failover(state, record, turn, command, target.as_ref(), *allow_data_loss)
        }
        Order::Switchover { target } => switchover(state, record, turn, command, target.as_ref()),
        Order::FailoverInRegion { instance } => failover_in_region(state, record, turn, instance.clone()),
        Order::Approve { allow_data_loss } => approve(state, record, turn, command, *allow_data_loss),
        Order::Abort => abort(state, record, turn),
        Order::Acknowledge => acknowledge(state, record, turn),
        Order::ResetLimit => reset_limit(record, turn),
    }
}

fn is_in_order(record: &Record, command: &Command, now: Timestamp) -> Result<(), String> {
    if [&command.actor, &command.reason, &command.nonce].iter().any(|text| text.trim().is_empty()) {
        return Err("a command needs an actor, a reason and a nonce; send it again with all three".into());
    }
    if now >= command.expires_at {
        return Err("the command has expired; look at the status and send it again if it still makes sense".into());
    }
    if command.expected_epoch != record.epoch {
        return Err(format!(
            "the command was meant for epoch {}, and this is epoch {}: the writer has moved since; look at the status \
             and send it again if it still makes sense",
            command.expected_epoch, record.epoch
        ));
    }
    if record.nonces.len() >= NONCES_MAX {
        return Err("too many commands are open; wait until some have expired".into());
    }
    Ok(())
}

fn pause(state: &State, record: &mut Record, turn: &mut Turn, command: &Command, until: Timestamp) -> Next {
    let max_ms = record.config.policy.pause_max_ms;
    if until <= turn.now || until.since_ms(turn.now) > max_ms {
        return turn.refuse(format!("a pause must end in the future and within {max_ms} ms; name another end"));
    }
    let (by, reason) = (command.by(), command.reason.clone());
    record.paused = Some(Pause { by, reason, until });
    turn.say("paused: nothing new is decided or done; what was already called goes on");
    turn.updated(Rule::Commanded);
    back_if_not_allowed(state, record, turn)
}

fn resume(state: &State, record: &mut Record, turn: &mut Turn) -> Next {
    if record.paused.is_none() {
        return turn.refuse(format!("it is not paused; the mode is {}", record.mode.name()));
    }
    turn.resume(record);
    turn.say("resumed: evidence starts from zero");
    turn.updated(Rule::Commanded);
    back_if_not_allowed(state, record, turn)
}

fn set_mode(state: &State, record: &mut Record, turn: &mut Turn, mode: Mode) -> Next {
    record.mode = mode;
    turn.mode_changed(record);
    turn.say(format!("the mode is {}", mode.name()));
    turn.updated(Rule::Commanded);
    back_if_not_allowed(state, record, turn)
}

/// A promotion that was not claimed yet is taken back where the new mode or pause forbids it.
fn back_if_not_allowed(state: &State, record: &mut Record, turn: &mut Turn) -> Next {
    let taken_back = match state {
        State::Promoting { .. } => take_back_unless_allowed(record, turn),
        State::Healthy
        | State::Suspect { .. }
        | State::ConfirmedDown { .. }
        | State::Rerouting { .. }
        | State::Stable { .. } => None,
    };
    taken_back.unwrap_or(statig::Outcome::Handled)
}

/// Why no promotion may be ordered now, if so.
fn may_order(record: &Record, target: Option<&Region>) -> Result<(), String> {
    if let Some(pause) = &record.paused {
        return Err(format!("it is paused by {} ({}); resume first", pause.by, pause.reason));
    }
    if record.mode == Mode::Observe {
        return Err("the mode is observe, which never acts; set-mode approve first".into());
    }
    match target {
        Some(target) if *target == record.primary => {
            Err(format!("{target} is the primary already; name another region"))
        }
        Some(target) if record.config.member(target).is_none() => {
            Err(format!("{target} holds no member of this cluster; name one that does"))
        }
        _ => Ok(()),
    }
}

fn failover(
    state: &State,
    record: &mut Record,
    turn: &mut Turn,
    command: &Command,
    target: Option<&Region>,
    allow_data_loss: bool,
) -> Next {
    match state {
        State::Healthy | State::Suspect { .. } | State::ConfirmedDown { .. } | State::Stable { .. } => {}
        State::Promoting { target, .. } => {
            return turn.refuse(format!(
                "{target} is being promoted already; follow it with status, or abort before it is claimed"
            ));
        }
        State::Rerouting { .. } => {
            return turn.refuse("the writer has just moved and the names follow; wait until it is stable");
        }
    }
    if let Err(why) = may_order(record, target) {
        return turn.refuse(why);
    }
    let began_at = turn.at;
    if matches!(state, State::Stable { .. }) {
        // The settled episode ends here; the new outage is another one.
        turn.close(record, EpisodeOutcome::Completed);
    }
    let mut episode = record.episode.take().unwrap_or_else(|| Episode::new(record, EpisodeKind::Failover, began_at));
    episode.kind = EpisodeKind::Failover;
    episode.ordered = Some(Ordered { by: command.by(), target: target.cloned() });
    episode.approved_by(caller(&command.actor));
    if allow_data_loss {
        episode.approval = Some(Approval { by: command.by(), allow_data_loss });
    }
    episode.confirmed_at = episode.confirmed_at.or(Some(turn.now));
    record.episode = Some(episode);
    record.hold = None;
    turn.assess(record, Question::MayFailOver);
    turn.say("failing over as soon as RDS shows a fit target; the evidence is not waited for");
    match state {
        State::ConfirmedDown { .. } => turn.updated(Rule::Ordered),
        _ => turn.go(Rule::Ordered, State::ConfirmedDown { since: turn.now }),
    }
}

fn switchover(state: &State, record: &mut Record, turn: &mut Turn, command: &Command, target: Option<&Region>) -> Next {
    match state {
        State::Healthy if record.episode.is_some() => {
            return turn.refuse("a switchover is being prepared already; wait for it, or abort it");
        }
        State::Healthy => {}
        State::Suspect { .. } | State::ConfirmedDown { .. } => {
            return turn
                .refuse("the primary is failing, and a switchover needs both regions well; failover is possible");
        }
        State::Promoting { .. } | State::Rerouting { .. } => {
            return turn.refuse("the writer is moving right now; wait until it is stable");
        }
        State::Stable { .. } => {
            return turn.refuse("the last failover has not settled; wait until the topology is whole, or acknowledge");
        }
    }
    if let Err(why) = may_order(record, target) {
        return turn.refuse(why);
    }
    let mut episode = Episode::new(record, EpisodeKind::Switchover, turn.at);
    episode.ordered = Some(Ordered { by: command.by(), target: target.cloned() });
    record.episode = Some(episode);
    turn.assess(record, Question::MaySwitchOver);
    turn.say("switching over if RDS shows both regions available and connected");
    turn.updated(Rule::Ordered)
}

fn failover_in_region(state: &State, record: &mut Record, turn: &mut Turn, instance: Option<String>) -> Next {
    match state {
        State::Healthy | State::Suspect { .. } | State::ConfirmedDown { .. } | State::Stable { .. } => {}
        State::Promoting { .. } | State::Rerouting { .. } => {
            return turn.refuse("the writer is moving to another region; wait until it is stable");
        }
    }
    if let Err(why) = may_order(record, None) {
        return turn.refuse(why);
    }
    if record.pending.iter().any(|p| matches!(p.effect, Effect::FailOverInRegion { .. })) {
        return turn.refuse("an in-region failover is under way already; wait for it");
    }
    let Some(primary) = record.primary_member() else { return turn.refuse("the primary is not configured") };
    let (cluster, region) = (primary.arn.clone(), primary.region.clone());
    let deadline = turn.now.plus_ms(record.config.policy.assess_deadline_ms);
    turn.issue(record, Effect::FailOverInRegion { cluster, region, instance }, deadline);
    turn.begin_grace(record);
    turn.say("asking RDS for an in-region failover; confirmation of an outage waits meanwhile");
    turn.updated(Rule::Commanded)
}

fn approve(state: &State, record: &mut Record, turn: &mut Turn, command: &Command, allow_data_loss: bool) -> Next {
    let State::ConfirmedDown { .. } = state else {
        return turn.refuse(format!("nothing waits for an approval: the state is {}", state.name()));
    };
    if let Err(why) = may_order(record, None) {
        return turn.refuse(why);
    }
    if let Some(episode) = &mut record.episode {
        // Who came first may have accepted a loss; a second person does not take that back.
        let accepted = episode.approval.as_ref().is_some_and(|approval| approval.allow_data_loss);
        episode.approval = Some(Approval { by: command.by(), allow_data_loss: allow_data_loss || accepted });
        episode.approved_by(caller(&command.actor));
    }
    if record.pending_assess().is_none() {
        turn.assess(record, Question::MayFailOver);
    }
    turn.say("approved for this episode; the guards are asked again");
    turn.updated(Rule::Commanded)
}

fn abort(state: &State, record: &mut Record, turn: &mut Turn) -> Next {
    match state {
        State::Healthy if record.episode.is_none() => turn.refuse("there is nothing to abort"),
        State::Healthy | State::Suspect { .. } | State::ConfirmedDown { .. } => {
            turn.say("given up; a new episode begins if fresh evidence shows an outage");
            turn.cancel(record, Rule::Aborted)
        }
        State::Promoting { .. } if record.promotion_unclaimed() => {
            turn.say("given up before anything was called");
            turn.cancel(record, Rule::Aborted)
        }
        State::Promoting { target, .. } => turn.refuse(format!(
            "past the point of no return: {target} may be the writer already; it goes forward, and a switchover brings \
             the writer back afterwards"
        )),
        State::Rerouting { .. } | State::Stable { .. } => {
            turn.refuse("the writer has moved; a switchover brings it back once the topology is whole")
        }
    }
}

fn acknowledge(state: &State, record: &mut Record, turn: &mut Turn) -> Next {
    let hold = record.hold.as_ref().map(|hold| hold.reason);
    match (state, hold) {
        (State::Stable { .. }, _) => {
            turn.say("the episode is closed; the cooldown is lifted");
            record.cooldown_lifted = true;
            turn.back_to_healthy(record, Rule::Acknowledged, EpisodeOutcome::Completed)
        }
        (State::ConfirmedDown { .. }, Some(HoldReason::Guard(Guard::CooledDown))) => {
            record.cooldown_lifted = true;
            turn.mode_changed(record);
            turn.say("the cooldown is lifted; the guards are asked again");
            turn.updated(Rule::Acknowledged)
        }
        (
            State::Promoting { .. } | State::Rerouting { .. },
            Some(
                HoldReason::PromoteRefused
                | HoldReason::PromoteOverdue
                | HoldReason::RerouteRefused
                | HoldReason::RerouteOverdue
                | HoldReason::VerifyRefused
                | HoldReason::VerifyOverdue,
            ),
        ) => {
            turn.say(match state {
                State::Promoting { target, .. } if record.episode.as_ref().is_some_and(|e| e.names_ahead) => format!(
                    "taken over by hand; RDS is asked who the writer is; the public names may lead to {target}, look at \
                     them"
                ),
                _ => "taken over by hand; RDS is asked who the writer is".into(),
            });
            let next = turn.cancel_as(record, Rule::Acknowledged, EpisodeOutcome::Failed);
            turn.assess(record, Question::WhoIsDown);
            next
        }
        (State::Healthy | State::Suspect { .. }, _) => turn.refuse("there is nothing to acknowledge"),
        (State::ConfirmedDown { .. }, _) => {
            turn.refuse("only a cooldown can be acknowledged here; approve, abort or failover are possible")
        }
        (State::Promoting { .. }, _) => turn.refuse("the promotion is under way and needs nothing"),
        (State::Rerouting { .. }, _) => {
            turn.refuse("the names follow the writer and need nothing; if that cannot come about, it will hold")
        }
    }
}

fn reset_limit(record: &mut Record, turn: &mut Turn) -> Next {
    if !record.limit_latched {
        return turn.refuse("the limit of automatic failovers is not reached; nothing to reset");
    }
    record.limit_latched = false;
    record.failovers.clear();
    turn.mode_changed(record);
    turn.say("automatic failovers are counted from zero");
    turn.updated(Rule::Commanded)
}
