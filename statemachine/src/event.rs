//! Facts that come in. Past tense: they happened, and the machine decides what they mean.

use crate::{
    Arn, ClaimToken, Config, ControllerId, EffectId, Epoch, EventId, Mode, Outcome, Region, Timestamp, Vantage,
};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// One event with its identity and the time at which it happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Envelope {
    /// Equal for each copy of the same event.
    pub id: EventId,
    /// When it happened, by the sender's clock.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Everything that can advance the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event {
    /// A vantage probed the writer endpoint of one member.
    Probe(Probe),
    /// A vantage probed something else: a website, a proxy, a name, a reader.
    Observation(Observation),
    /// Somebody else than a replica itself tells how far it is behind.
    Lag(LagReading),
    /// A controller asks for the right to carry out whatever is due.
    Claim(Claimant),
    /// An effect was tried.
    Result(EffectResult),
    /// The configuration file says something new.
    Configured(Configured),
    /// An operator wants something.
    Command(Command),
    /// RDS says that something happened. Best effort: it may be missing, late or out of order.
    Rds(RdsEvent),
    /// A CloudWatch alarm changed its state.
    Alarm(Alarm),
    /// Time went by; a hint to look at the deadlines.
    Tick,
}

impl Event {
    /// Name of the kind, as in history and the transition table.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Probe(_) => "probe",
            Self::Observation(_) => "observation",
            Self::Lag(_) => "lag",
            Self::Claim(_) => "claim",
            Self::Result(_) => "result",
            Self::Configured(_) => "configured",
            Self::Command(_) => "command",
            Self::Rds(_) => "rds",
            Self::Alarm(_) => "alarm",
            Self::Tick => "tick",
        }
    }
}

/// One check of one target by one vantage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Probe {
    /// Who probed.
    pub vantage: Vantage,
    /// The run of the canary; a new one starts its sequence anew.
    pub incarnation: String,
    /// Rises with each probe of one incarnation and target.
    pub sequence: u64,
    /// Region of the probed member.
    pub target: Region,
    /// What the target answered.
    pub outcome: ProbeOutcome,
    /// Could the vantage reach its neutral targets in this round?
    pub self_check: SelfCheck,
    /// Time until the verdict.
    pub latency_ms: u64,
    /// Part of it that opening the connection took, where that was done anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// Class of the failure, where a new session could not be opened beside one that still commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_failure: Option<String>,
    /// Results of this incarnation that never left, because the bus could not be reached for too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Replication lag that the target reported of itself, if it is a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One probe of another kind than a write: shown, and counted only with the weight that the policy gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Observation {
    /// Who probed.
    pub vantage: Vantage,
    /// The run of the canary; a new one starts its sequence anew.
    pub incarnation: String,
    /// Rises with each probe of one incarnation and name.
    pub sequence: u64,
    /// Name of the probe in the configuration.
    pub name: String,
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// Could the vantage reach its neutral targets in this round?
    pub self_check: SelfCheck,
    /// Time until the verdict.
    pub latency_ms: u64,
}

/// How far a secondary region is behind, as CloudWatch says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct LagReading {
    /// The secondary region.
    pub region: Region,
    /// Milliseconds behind.
    pub ms: u64,
    /// When that was so; older than the event, as metrics come late.
    pub measured_at: Timestamp,
}

/// Result of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "result", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum ProbeOutcome {
    /// What was asked for was there before the deadline: a commit, an answer, a status.
    Ok,
    /// It was not; `class` is a closed, low-cardinality word such as `timeout`, `refused`, `read-only`.
    Failed {
        /// Error class.
        class: String,
    },
}

/// A vantage's check of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SelfCheck {
    /// Neutral targets answered, or none are configured.
    Ok,
    /// No neutral target answered: the vantage itself is cut off.
    Failed,
}

/// Who claims, for how long by its own policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Claimant {
    /// The claiming controller.
    pub by: ControllerId,
}

/// What became of a claimed effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct EffectResult {
    /// Which effect.
    pub effect: EffectId,
    /// The claim under which it was tried.
    pub token: ClaimToken,
    /// How it went.
    pub outcome: Outcome,
}

/// A configuration that differs from the stored one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Configured {
    /// Members, routes, thresholds; take effect when no episode is open.
    pub config: Config,
    /// Takes effect at once.
    pub mode: Mode,
}

/// An operator's wish, with everything that keeps a late or repeated copy from doing anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Command {
    /// The caller's identity: distinct people are distinct callers.
    pub actor: String,
    /// The person or the ticket behind the caller, in the caller's own words: told, and never counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Why.
    pub reason: String,
    /// The epoch that the operator saw; at any other the command is refused.
    pub expected_epoch: Epoch,
    /// Refused from this time on.
    pub expires_at: Timestamp,
    /// Made up for this command; a second one with it is ignored.
    pub nonce: String,
    /// What is wanted.
    pub order: Order,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "order", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Order {
    /// Decide nothing and do nothing new until then.
    Pause {
        /// The end; evidence starts from zero there.
        until: Timestamp,
    },
    /// End the pause.
    Resume,
    /// What the machine may do by itself.
    SetMode {
        /// From now on.
        mode: Mode,
    },
    /// Fail over now, whatever the evidence says.
    Failover {
        /// To whom; the best secondary when not given.
        target: Option<Region>,
        /// Accept a loss beyond `rpo_max`.
        allow_data_loss: bool,
    },
    /// Move the writer without losing anything; both regions must be well.
    Switchover {
        /// To whom; the best secondary when not given.
        target: Option<Region>,
    },
    /// Let another instance of the primary's own region take over.
    FailoverInRegion {
        /// Which one; RDS chooses when not given.
        instance: Option<String>,
    },
    /// Let the open episode go on.
    Approve {
        /// Accept a loss beyond `rpo_max`, in this episode only.
        allow_data_loss: bool,
    },
    /// Give the open episode up.
    Abort,
    /// The situation is known: close the settled episode, or lift the cooldown.
    Acknowledge,
    /// Allow automatic failovers again after the limit was reached.
    ResetLimit,
}

impl Order {
    /// Name as on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pause { .. } => "pause",
            Self::Resume => "resume",
            Self::SetMode { .. } => "set-mode",
            Self::Failover { .. } => "failover",
            Self::Switchover { .. } => "switchover",
            Self::FailoverInRegion { .. } => "failover-in-region",
            Self::Approve { .. } => "approve",
            Self::Abort => "abort",
            Self::Acknowledge => "acknowledge",
            Self::ResetLimit => "reset-limit",
        }
    }
}

/// An event of RDS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct RdsEvent {
    /// Its id, such as `RDS-EVENT-0072`.
    pub code: String,
    /// The cluster that it is about.
    pub source: Arn,
}

/// An alarm's new state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// In alarm, or not (any more, or nobody knows).
    pub in_alarm: bool,
}
