//! What decides nothing by itself: RDS events and CloudWatch alarms and metrics, which arrive late, twice, or not at
//! all, and probes of other kinds than a write. They make the machine look at once, hold back for a while, bound the
//! loss, or add weight to what the vantages' writes saw.

use crate::evidence::{Evidence, Sighting};
use crate::machine::Next;
use crate::states::confirm;
use crate::turn::Turn;
use crate::{Alarm, LagReading, Observation, Question, RdsEvent, Reason, Record, Rule, State};

/// What an RDS event is for us.
enum Hint {
    /// An in-region failover of the cluster began.
    InRegionBegan,
    /// It ended, well or not.
    InRegionEnded,
    /// A global failover or switchover began, went on or ended: worth a look.
    WriterMoves,
    /// Members are rebuilt, fenced or counted anew: worth a look once settled.
    TopologyChanges,
    /// Anything else.
    Nothing,
}

/// Ids as documented for Aurora PostgreSQL.
fn hint(code: &str) -> Hint {
    match code {
        "RDS-EVENT-0072" | "RDS-EVENT-0073" => Hint::InRegionBegan,
        "RDS-EVENT-0069" | "RDS-EVENT-0070" | "RDS-EVENT-0071" => Hint::InRegionEnded,
        "RDS-EVENT-0181" | "RDS-EVENT-0182" | "RDS-EVENT-0183" | "RDS-EVENT-0184" | "RDS-EVENT-0185"
        | "RDS-EVENT-0186" | "RDS-EVENT-0187" | "RDS-EVENT-0238" | "RDS-EVENT-0239" | "RDS-EVENT-0397"
        | "RDS-EVENT-0423" | "RDS-EVENT-0519" => Hint::WriterMoves,
        "RDS-EVENT-0240" | "RDS-EVENT-0241" | "RDS-EVENT-0390" | "RDS-EVENT-0391" => Hint::TopologyChanges,
        _ => Hint::Nothing,
    }
}

/// Why an event's time makes it worthless, if so.
fn untimely(record: &Record, turn: &Turn) -> Option<Reason> {
    let policy = &record.config.policy;
    if turn.now.since_ms(turn.at) > policy.event_age_max_ms {
        return Some(Reason::Stale);
    }
    (turn.at.since_ms(turn.now) > policy.event_ahead_max_ms).then_some(Reason::FromTheFuture)
}

pub(crate) fn rds(state: &State, record: &mut Record, turn: &mut Turn, event: &RdsEvent) -> Next {
    if let Some(reason) = untimely(record, turn) {
        return turn.ignore(reason);
    }
    if !record.config.members.iter().any(|member| member.arn == event.source) {
        return turn.ignore(Reason::NotOurs);
    }
    let about_primary = record.primary_member().is_some_and(|member| member.arn == event.source);
    match (hint(&event.code), state) {
        (Hint::InRegionBegan, State::Healthy | State::Suspect { .. }) if about_primary => {
            turn.begin_grace(record);
            turn.updated(Rule::InRegionFailover)
        }
        (Hint::InRegionEnded, State::Healthy | State::Suspect { .. }) if about_primary && record.grace.is_some() => {
            record.grace = None;
            confirm_if_suspect(state, record, turn, Rule::InRegionFailover)
        }
        (Hint::WriterMoves, State::Healthy | State::Suspect { .. }) => {
            // A question of an operator's switchover is not replaced.
            if record.pending_assess().is_some() {
                return turn.ignore(Reason::NothingDue);
            }
            turn.assess(record, Question::WhoIsDown);
            turn.updated(Rule::RdsHint)
        }
        (Hint::WriterMoves, State::ConfirmedDown { .. }) if record.pending_assess().is_none() => {
            turn.assess(record, Question::MayFailOver);
            turn.updated(Rule::RdsHint)
        }
        (Hint::WriterMoves, State::Promoting { .. }) => {
            let mut hurried = false;
            for pending in record.pending.iter_mut().filter(|p| p.claim.is_none() && p.not_before > turn.now) {
                pending.not_before = turn.now;
                hurried = true;
            }
            if hurried { turn.updated(Rule::RdsHint) } else { turn.ignore(Reason::NothingDue) }
        }
        (Hint::WriterMoves | Hint::TopologyChanges, State::Stable { .. }) if record.pending_assess().is_none() => {
            turn.assess(record, Question::IsWhole);
            turn.updated(Rule::RdsHint)
        }
        (Hint::InRegionBegan | Hint::InRegionEnded | Hint::WriterMoves | Hint::TopologyChanges, _) => {
            turn.ignore(Reason::NothingDue)
        }
        (Hint::Nothing, _) => turn.ignore(Reason::NotOurs),
    }
}

pub(crate) fn alarm(state: &State, record: &mut Record, turn: &mut Turn, alarm: &Alarm) -> Next {
    if let Some(reason) = untimely(record, turn) {
        return turn.ignore(reason);
    }
    if !record.config.alarms.iter().any(|known| known.name == alarm.name) {
        return turn.ignore(Reason::NotOurs);
    }
    let at = turn.at;
    if !record.evidence.take_alarm(&alarm.name, alarm.in_alarm, at) {
        return turn.ignore(Reason::Duplicate);
    }
    confirm_if_suspect(state, record, turn, Rule::AlarmCounted)
}

pub(crate) fn observation(state: &State, record: &mut Record, turn: &mut Turn, seen: &Observation) -> Next {
    if let Some(reason) = untimely(record, turn) {
        return turn.ignore(reason);
    }
    match record.evidence.observe(seen, turn.at, &record.config, turn.now) {
        Sighting::Ignored(reason) => turn.ignore(reason),
        Sighting::Noted => turn.noted(),
        // In an episode what decides is stored; this would only make it wait.
        Sighting::Turned if record.episode.is_some() => match state {
            State::Suspect { .. } => confirm(record, turn).unwrap_or_else(|| turn.noted()),
            _ => turn.noted(),
        },
        Sighting::Turned => turn.updated(Rule::ObservedCounted),
    }
}

pub(crate) fn lag(record: &mut Record, turn: &mut Turn, reading: &LagReading) -> Next {
    if let Some(reason) = untimely(record, turn) {
        return turn.ignore(reason);
    }
    if reading.measured_at > turn.at {
        return turn.ignore(Reason::FromTheFuture);
    }
    if reading.region == record.primary || record.config.member(&reading.region).is_none() {
        return turn.ignore(Reason::NotOurs);
    }
    let outage_began_at = record.episode.as_ref().map(|episode| episode.began_at);
    if !Evidence::bounds_loss(reading, outage_began_at) {
        return turn.ignore(Reason::NotThePrimary);
    }
    if record.evidence.take_lag(reading) { turn.updated(Rule::SightChanged) } else { turn.noted() }
}

/// More weight, or the end of a grace, may confirm what the vantages saw already.
fn confirm_if_suspect(state: &State, record: &mut Record, turn: &mut Turn, otherwise: Rule) -> Next {
    match state {
        State::Suspect { .. } => confirm(record, turn).unwrap_or_else(|| turn.updated(otherwise)),
        State::Healthy
        | State::ConfirmedDown { .. }
        | State::Promoting { .. }
        | State::Rerouting { .. }
        | State::Stable { .. } => turn.updated(otherwise),
    }
}
