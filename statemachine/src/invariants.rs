//! Named predicates over one record, shared by tests, simulator and, before each commit, production.

use crate::{Effect, EpisodeKind, Mode, Record, State};

/// A broken invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// I1.
    #[error("I1: more than one promotion is pending in one epoch")]
    OnePromotionPerEpoch,
    /// I4.
    #[error("I4: an unclaimed promotion is pending while the machine may not act")]
    NoPromotionWithoutRight,
    /// I4, for what would undo a promotion.
    #[error("I4: a fence is pending against the writer, or against the one that becomes it")]
    NoFenceOfTheWriter,
    /// I5.
    #[error("I5: an episode's state waits for nothing: no pending effect, no hold, no deadline")]
    AlwaysADeadline,
}

/// Checks what can be seen in one record.
///
/// # Errors
/// The first broken invariant.
pub fn check(record: &Record) -> Result<(), Violation> {
    one_promotion_per_epoch(record)?;
    no_promotion_without_right(record)?;
    no_fence_of_the_writer(record)?;
    always_a_deadline(record)
}

fn one_promotion_per_epoch(record: &Record) -> Result<(), Violation> {
    let promotions = record.pending.iter().filter(|p| matches!(p.effect, Effect::Promote { .. })).count();
    let current = record.pending.iter().all(|p| match &p.effect {
        Effect::Promote { epoch, .. } => *epoch == record.epoch,
        _ => true,
    });
    if promotions > 1 || !current { Err(Violation::OnePromotionPerEpoch) } else { Ok(()) }
}

fn no_promotion_without_right(record: &Record) -> Result<(), Violation> {
    // What was claimed goes forward whatever comes later.
    let unclaimed = record.pending.iter().any(|p| matches!(p.effect, Effect::Promote { .. }) && !p.ever_claimed);
    // An operator, or whoever started the failover that is followed, has judged for the machine.
    let human = record.episode.as_ref().is_some_and(|e| e.ordered.is_some() || e.kind == EpisodeKind::Adopted);
    let may = record.mode != Mode::Observe && record.paused.is_none() && (record.proven || human);
    if unclaimed && !may { Err(Violation::NoPromotionWithoutRight) } else { Ok(()) }
}

fn no_fence_of_the_writer(record: &Record) -> Result<(), Violation> {
    let target = match &record.state {
        State::Promoting { target, .. } => Some(target),
        _ => None,
    };
    let fenced = core::iter::once(&record.primary).chain(target).any(|region| record.fence_of(region).is_some());
    if fenced { Err(Violation::NoFenceOfTheWriter) } else { Ok(()) }
}

fn always_a_deadline(record: &Record) -> Result<(), Violation> {
    let waits = match record.state {
        State::Healthy | State::Suspect { .. } => return Ok(()),
        State::ConfirmedDown { .. } => record.hold.is_some() || record.pending_assess().is_some(),
        State::Promoting { .. } => record.pending.iter().any(|p| matches!(p.effect, Effect::Promote { .. })),
        State::Rerouting { .. } => {
            record.pending.iter().any(|p| matches!(p.effect, Effect::Reroute { .. } | Effect::Verify { .. }))
        }
        State::Stable { .. } => true,
    };
    if waits { Ok(()) } else { Err(Violation::AlwaysADeadline) }
}
