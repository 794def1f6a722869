//! Named predicates over one record, shared by tests, simulator and, before each commit, production.

use crate::{Effect, EpisodeKind, Mode, Pending, Record, State, Way};

/// No counter comes near this in the lifetime of a cluster.
const COUNT_MAX: u64 = u64::MAX / 2;

/// A broken invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not written by this software, or damaged since.
    #[error("the record contradicts itself: {0}")]
    Incoherent(&'static str),
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
    coherent(record)?;
    one_promotion_per_epoch(record)?;
    no_promotion_without_right(record)?;
    no_fence_of_the_writer(record)?;
    always_a_deadline(record)
}

fn coherent(record: &Record) -> Result<(), Violation> {
    let Record { pending, effects_issued, tokens_issued, epoch, config, .. } = record;
    let repeated = |(index, p): (usize, &Pending)| pending[..index].iter().any(|other| other.id == p.id);
    let target_configured = match &record.state {
        State::Promoting { target, .. } => record.config.member(target).is_some() && *target != record.primary,
        _ => true,
    };
    let waited_for = |p: &Pending| match (&p.effect, &record.state) {
        (Effect::Promote { region, .. }, State::Promoting { target, .. }) => region == target,
        (Effect::Promote { .. }, _) => false,
        // Names go ahead of a promotion only past its point of no return.
        (Effect::Reroute { overlap: Some(overlap), .. }, State::Promoting { target, .. }) => {
            let member = config.member(&overlap.region).is_some_and(|member| member.arn == overlap.writer);
            let (ahead, back) = (overlap.region == *target, overlap.region == record.primary);
            member && !record.promotion_unclaimed() && if overlap.way == Way::Ahead { ahead } else { back }
        }
        (Effect::Reroute { overlap: Some(overlap), .. }, State::Rerouting { .. }) => {
            overlap.way == Way::Ahead && overlap.region == record.primary && overlap.epoch == *epoch
        }
        (Effect::Reroute { .. } | Effect::Verify { .. }, state) => matches!(state, State::Rerouting { .. }),
        _ => true,
    };
    let promises = [
        (pending.iter().all(waited_for), "an effect is pending that its state does not wait for"),
        (record.primary_member().is_some(), "its primary is not configured"),
        (target_configured, "its target is not another configured member"),
        (record.state == State::Healthy || record.episode.is_some(), "it is not healthy and has no episode"),
        (pending.iter().all(|p| p.id <= *effects_issued), "an effect is pending that was never asked for"),
        (!pending.iter().enumerate().any(repeated), "two pending effects have one number"),
        (
            pending.iter().filter_map(|p| p.claim.as_ref()).all(|claim| claim.token <= *tokens_issued),
            "a claim has a token that was never given",
        ),
        ([effects_issued.0, tokens_issued.0, epoch.0].iter().all(|n| *n < COUNT_MAX), "it has counted too far"),
    ];
    promises.into_iter().find(|(kept, _)| !kept).map_or(Ok(()), |(_, broken)| Err(Violation::Incoherent(broken)))
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
