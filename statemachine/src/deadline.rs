//! When something must happen next. A pure reading of the record: no timer is ever stored anywhere else.

use crate::{Pending, Record, State, Timestamp};

/// Effects that may be claimed at `now`: not before their time, and not held by somebody else.
pub fn due_effects(record: &Record, now: Timestamp) -> impl Iterator<Item = &Pending> {
    record.pending.iter().filter(move |p| p.is_claimable(now))
}

/// The earliest time at which a `tick` or a `claim` would change the record; none when only facts can.
#[must_use]
pub fn next_wakeup(record: &Record) -> Option<Timestamp> {
    let claims = record.pending.iter().map(claimable_at);
    let overdue = record.pending.iter().filter(|p| p.claim.is_none()).map(|p| p.deadline.max(p.not_before));
    claims.chain(overdue).chain(tick_due_at(record)).min()
}

/// When a tick is due for the state itself, its hold or its sight.
pub(crate) fn tick_due_at(record: &Record) -> Option<Timestamp> {
    let hold = match record.state {
        State::ConfirmedDown { .. } if record.pending_assess().is_none() => {
            record.hold.as_ref().map(|hold| hold.deadline)
        }
        _ => None,
    };
    let soak = match record.state {
        State::Stable { soak_until, .. } if record.pending_assess().is_none() => Some(soak_until),
        _ => None,
    };
    let pause = record.paused.as_ref().map(|pause| pause.until);
    hold.into_iter().chain(soak).chain(pause).chain(sight_ends_at(record)).min()
}

/// When the vantages heard of now will be too few, if no more probes come.
fn sight_ends_at(record: &Record) -> Option<Timestamp> {
    if record.blind {
        return None;
    }
    let stale_after_ms = record.config.policy.vantage_stale_after_ms;
    let tracks = record.evidence.tracks.values().filter(|t| !t.isolated);
    tracks
        .map(|t| t.last_seen)
        .chain(record.evidence.listening_since)
        .map(|at| at.plus_ms(stale_after_ms.saturating_add(1)))
        .filter(|at| *at > record.last_now)
        .min()
        .or(Some(record.last_now))
}

pub(crate) fn claimable_at(pending: &Pending) -> Timestamp {
    match &pending.claim {
        Some(claim) => claim.expires_at,
        None => pending.not_before,
    }
}
