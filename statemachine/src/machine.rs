//! One step: take the event in, dispatch it, look around. statig gives the hierarchy and the dispatch; the matches
//! are written out, so that a new state or event does not compile until it has a place. No entry or exit actions:
//! an effect is data.
//!
//! The transitions themselves are in `states.rs`, operators' commands in `commands.rs`, hints of RDS and alarms in
//! `signals.rs`, what all of them share in `turn.rs`.

use crate::state::Group;
use crate::turn::Turn;
use crate::{Decision, Envelope, Event, Reason, Record, State, Timestamp, Verdict, commands, signals, states};
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

/// What a handler answers.
pub(crate) type Next = statig::Outcome<State>;

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
        match (&mut *self, event) {
            // Commands and signals ask for the state; what each state answers is listed there, exhaustively.
            (_, Event::Command(command)) => commands::handle(self, record, turn, command),
            (_, Event::Rds(event)) => signals::rds(self, record, turn, event),
            (_, Event::Alarm(alarm)) => signals::alarm(self, record, turn, alarm),
            (_, Event::Observation(seen)) => signals::observation(self, record, turn, seen),
            (_, Event::Lag(reading)) => signals::lag(record, turn, reading),
            (Self::Healthy, Event::Probe(_)) => states::healthy_probe(record, turn),
            (Self::Healthy, Event::Result(_)) => states::healthy_result(record, turn),
            (Self::Suspect { .. }, Event::Probe(_)) => states::suspect_probe(record, turn),
            (Self::Suspect { .. }, Event::Result(_)) => states::suspect_result(record, turn),
            (Self::ConfirmedDown { .. }, Event::Probe(_)) => states::confirmed_probe(record, turn),
            (Self::ConfirmedDown { .. }, Event::Result(_)) => states::confirmed_result(record, turn),
            (Self::ConfirmedDown { .. }, Event::Tick) => states::confirmed_tick(record, turn),
            (Self::Promoting { .. }, Event::Probe(_)) => states::promoting_probe(record, turn),
            (Self::Promoting { .. }, Event::Claim(_)) => states::promoting_claim(record, turn),
            (Self::Promoting { target, .. }, Event::Result(_)) => states::promoting_result(record, turn, target),
            (Self::Promoting { .. }, Event::Configured(to)) => states::promoting_configured(record, turn, to),
            (Self::Rerouting { .. }, Event::Result(_)) => states::rerouting_result(record, turn),
            (Self::Stable { .. }, Event::Probe(_)) => states::stable_probe(record, turn),
            (Self::Stable { soak_until, .. }, Event::Result(_)) => states::stable_result(record, turn, soak_until),
            (Self::Stable { soak_until, .. }, Event::Tick) => states::stable_tick(record, turn, *soak_until),
            (Self::Healthy | Self::Suspect { .. }, Event::Claim(_) | Event::Configured(_) | Event::Tick)
            | (Self::ConfirmedDown { .. } | Self::Stable { .. }, Event::Claim(_) | Event::Configured(_))
            | (Self::Promoting { .. }, Event::Tick)
            | (Self::Rerouting { .. }, Event::Probe(_) | Event::Claim(_) | Event::Configured(_) | Event::Tick) => Super,
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
            // Past the point of no return the old primary's probes decide nothing; elsewhere states hear them first.
            Self::Watching | Self::Deciding | Self::Committed | Self::Settled => Super,
            Self::Supervised => match event {
                Event::Probe(_) => turn.noted(),
                Event::Claim(claimant) => turn.claim_due(record, &claimant.by),
                Event::Result(_) => turn.result_for_no_state(record),
                Event::Configured(configured) => turn.reconfigure(record, configured),
                Event::Tick
                | Event::Command(_)
                | Event::Rds(_)
                | Event::Alarm(_)
                | Event::Observation(_)
                | Event::Lag(_) => turn.ignore(Reason::NothingDue),
            },
        }
    }
}
