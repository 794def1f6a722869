//! What a step answers.

use crate::{EffectId, Episode, EpisodeOutcome, GuardResult, Record};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Answer of [`step`](crate::step).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The next record.
    pub record: Record,
    /// What it means for the caller.
    pub verdict: Verdict,
    /// The rule that decided.
    pub rule: Rule,
    /// Every guard that was asked, in order.
    pub guards: Vec<GuardResult>,
    /// Effects asked for now; they stand in `record.pending`.
    pub effects: Vec<EffectId>,
    /// Effects claimed now; the caller may carry them out once the record is stored.
    pub claimed: Vec<EffectId>,
    /// The answer to an operator: what happens now, or why not and what is possible.
    pub answer: Option<String>,
    /// An episode that this step closed, as it was in the end.
    pub closed: Option<(Box<Episode>, EpisodeOutcome)>,
}

/// Must the record be stored?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "verdict", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Verdict {
    /// Another state. Store it.
    Moved,
    /// Same state, other facts. Store it.
    Updated,
    /// Only quiet evidence changed: keep it in memory, it need not be stored.
    Noted,
    /// Nothing changed that counts.
    Ignored {
        /// Why.
        reason: Reason,
    },
}

impl Verdict {
    /// Must the record be stored before anything else happens?
    #[must_use]
    pub const fn is_durable(self) -> bool {
        matches!(self, Self::Moved | Self::Updated)
    }
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A copy, or older than what was seen of that vantage.
    Duplicate,
    /// Older than `event_age_max`.
    Stale,
    /// Dated further ahead than clocks may differ.
    FromTheFuture,
    /// Not a configured vantage.
    UnknownVantage,
    /// About a member that is not the primary; only its lag is kept.
    NotThePrimary,
    /// The vantage is cut off itself.
    VantageIsolated,
    /// The token is not the current claim's.
    LateResult,
    /// No such effect is pending.
    UnknownEffect,
    /// No effect is due.
    NothingDue,
    /// The configuration is the stored one.
    SameConfig,
    /// It would leave the primary without a member.
    PrimaryNotConfigured,
    /// About a cluster, an alarm or a probe that is not configured, or of a kind that decides nothing.
    NotOurs,
}

impl Reason {
    /// The reason as a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Duplicate => "a copy, or older than what this vantage already reported",
            Self::Stale => "older than the policy accepts",
            Self::FromTheFuture => "dated further ahead than clocks may differ",
            Self::UnknownVantage => "the vantage is not in the policy",
            Self::NotThePrimary => "about a member that is not the primary",
            Self::VantageIsolated => "the vantage cannot reach its neutral targets either",
            Self::LateResult => "the claim under which this was done is no longer the current one",
            Self::UnknownEffect => "no such effect is pending",
            Self::NothingDue => "nothing is due",
            Self::SameConfig => "this configuration is already known",
            Self::PrimaryNotConfigured => "the configuration has no member in the primary's region; add it",
            Self::NotOurs => "about nothing that is configured, or nothing that decides",
        }
    }
}

/// The rule that decided; one per edge of the machine, plus those that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The event was ignored.
    Ignored,
    /// Evidence was taken in.
    EvidenceNoted,
    /// First success ever.
    Proven,
    /// A vantage or a lag is known for the first time; or enough vantages are heard again, or too few.
    SightChanged,
    /// Quiet evidence is stored once in a while.
    Heartbeat,
    /// First counted failure.
    FirstFailure,
    /// More evidence during a suspicion or a hold.
    EvidenceCounted,
    /// A quorum has seen the primary commit again.
    Recovered,
    /// A quorum has seen it fail for long enough.
    QuorumConfirmed,
    /// The answer of RDS was stored.
    Assessed,
    /// All guards pass.
    GuardsPassed,
    /// A guard refuses.
    GuardRefused,
    /// Due effects were claimed.
    Claimed,
    /// What the decision stood on no longer held when the promotion was to be claimed.
    CancelledBeforeClaim,
    /// The target is writer.
    Promoted,
    /// The names are in sync.
    Rerouted,
    /// RDS gave the promotion up, and the names that had gone ahead of it lead to the old primary again.
    NamesBack,
    /// A write through the names committed.
    Verified,
    /// The announcement is out.
    Announced,
    /// The old writer takes no writes any more.
    Fenced,
    /// An announcement or a fence was refused, or did not come about in time.
    GivenUp,
    /// An effect goes on or will be tried again.
    EffectRetried,
    /// An effect ran out of time or was refused.
    EffectHeld,
    /// The facts are looked at again.
    Reassess,
    /// The topology is whole again.
    Whole,
    /// The new primary fails inside the cooldown.
    NewPrimaryFails,
    /// The new primary is fine again.
    NewPrimaryBack,
    /// Another configuration.
    Reconfigured,
    /// A command was carried out.
    Commanded,
    /// A command was refused.
    CommandRefused,
    /// An operator's failover or switchover begins.
    Ordered,
    /// An operator gave the episode up.
    Aborted,
    /// An operator knows.
    Acknowledged,
    /// Nobody approved in time.
    ApprovalTimedOut,
    /// The pause is over.
    PauseEnded,
    /// Somebody else moves or moved the writer.
    Adopted,
    /// A planned or followed move did not take place.
    SwitchoverFailed,
    /// An in-region failover began or ended.
    InRegionFailover,
    /// RDS hints that something is worth a look.
    RdsHint,
    /// An alarm changed.
    AlarmCounted,
    /// An observed target fails for a quorum, or does not any more.
    ObservedCounted,
    /// Another member commits writes too.
    DualWriter,
    /// It does not any more.
    DualWriterGone,
}

impl Rule {
    /// The rule as a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::EvidenceNoted => "evidence taken in",
            Self::Proven => "seen healthy for the first time",
            Self::SightChanged => "what can be seen changed",
            Self::Heartbeat => "healthy evidence stored",
            Self::FirstFailure => "a vantage saw the primary fail",
            Self::EvidenceCounted => "evidence counted",
            Self::Recovered => "a quorum sees the primary commit again",
            Self::QuorumConfirmed => "a quorum has seen the primary fail for long enough",
            Self::Assessed => "RDS answered",
            Self::GuardsPassed => "all guards pass",
            Self::GuardRefused => "a guard refuses",
            Self::Claimed => "due effects claimed",
            Self::CancelledBeforeClaim => {
                "what the decision stood on no longer held when the promotion was to be claimed"
            }
            Self::Promoted => "the target is writer and commits",
            Self::Rerouted => "the public names are in sync",
            Self::NamesBack => "the promotion did not take place; the public names lead to the old primary again",
            Self::Verified => "a write through the public names committed",
            Self::Announced => "announced",
            Self::Fenced => "the old writer takes no writes any more",
            Self::GivenUp => "given up: nothing waits for it",
            Self::EffectRetried => "the effect is looked at again later",
            Self::EffectHeld => "the effect cannot go on by itself",
            Self::Reassess => "RDS is asked again",
            Self::Whole => "a healthy secondary replicates again",
            Self::NewPrimaryFails => "the new primary fails inside the cooldown",
            Self::NewPrimaryBack => "the new primary commits again",
            Self::Reconfigured => "the configuration changed",
            Self::Commanded => "an operator's command was carried out",
            Self::CommandRefused => "an operator's command was refused",
            Self::Ordered => "an operator orders it",
            Self::Aborted => "an operator gave the episode up",
            Self::Acknowledged => "an operator acknowledged the situation",
            Self::ApprovalTimedOut => "nobody approved in time",
            Self::PauseEnded => "the pause is over; evidence starts from zero",
            Self::Adopted => "somebody else moves the writer; followed, not repeated",
            Self::SwitchoverFailed => "the planned or followed move did not take place",
            Self::InRegionFailover => "an in-region failover of the primary began or ended",
            Self::RdsHint => "RDS says that something happened; looking at once",
            Self::AlarmCounted => "a CloudWatch alarm changed its state",
            Self::ObservedCounted => "an observed target fails for a quorum, or does not any more",
            Self::DualWriter => "a member that is not the primary commits writes too",
            Self::DualWriterGone => "the second writer is gone",
        }
    }
}
