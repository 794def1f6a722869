//! Everything that is remembered of one cluster, explicit and serializable.

use crate::{
    Assessment, ClaimToken, ClusterId, Config, EffectId, EpisodeId, Epoch, EventId, Evidence, Member, Pending, Region,
    State, Timestamp,
};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Version of the stored shape. A reader refuses any other.
pub const SCHEMA: u32 = 1;

/// Ids of acted-upon events kept to recognise copies.
const SEEN_KEPT: usize = 32;

/// Most people that are remembered as standing for an episode.
const APPROVERS_KEPT: usize = 16;

/// The record of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// Shape of this record, [`SCHEMA`]; no other can be read.
    #[serde(deserialize_with = "known_schema")]
    pub schema: u32,
    /// Whose record it is.
    pub cluster: ClusterId,
    /// Where it is in its lifecycle.
    pub state: State,
    /// What the machine may do by itself.
    pub mode: Mode,
    /// The mode of the configuration last taken; an operator's mode holds until that one changes.
    pub configured_mode: Mode,
    /// Stopped by an operator, for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// An in-region failover of the primary is under way: confirmation waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Grace>,
    /// Another member commits writes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_writer: Option<DualWriter>,
    /// The limit of automatic failovers was reached; only an operator resets it.
    #[serde(default)]
    pub limit_latched: bool,
    /// It wants to act and may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// No healthy secondary: no automatic failover is possible.
    pub exposed: bool,
    /// Too few live vantages to judge.
    pub blind: bool,
    /// Seen healthy at least once.
    pub proven: bool,
    /// Changes of primary so far.
    pub epoch: Epoch,
    /// Region of the writer.
    pub primary: Region,
    /// Since when it is the primary, as far as is known.
    pub primary_since: Timestamp,
    /// What the vantages saw of it.
    pub evidence: Evidence,
    /// The open episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<Episode>,
    /// Times of the last failovers, oldest first, bounded by `failovers_max`.
    pub failovers: Vec<Timestamp>,
    /// An operator lifted the cooldown of the last failover.
    #[serde(default)]
    pub cooldown_lifted: bool,
    /// Effects asked for and not done.
    pub pending: Vec<Pending>,
    /// Effects asked for so far.
    pub effects_issued: EffectId,
    /// Claims given so far.
    pub tokens_issued: ClaimToken,
    /// Configuration in force; pinned while an episode is open.
    pub config: Config,
    /// Takes over when the episode closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_config: Option<Config>,
    /// Ids of events that changed the record lately.
    pub seen: VecDeque<EventId>,
    /// Nonces of commands that have not expired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nonces: Vec<(String, Timestamp)>,
    /// Latest reading of any clock; time never goes back.
    pub last_now: Timestamp,
    /// When evidence was last stored in a quiet state.
    pub heartbeat_at: Timestamp,
}

/// A shape that this software does not know must not be guessed at.
fn known_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        SCHEMA => Ok(SCHEMA),
        other => Err(D::Error::custom(format_args!(
            "the record has schema {other}, and this software reads {SCHEMA}: update it"
        ))),
    }
}

impl Record {
    /// A cluster that nothing is known of yet: unproven, blind, and its first member is taken as primary.
    ///
    /// # Panics
    /// When `config` has no member; the service checks that at load.
    #[must_use]
    pub fn new(cluster: ClusterId, config: Config, mode: Mode, now: Timestamp) -> Self {
        let primary = config.members.first().expect("a cluster has members").region.clone();
        Self {
            schema: SCHEMA,
            cluster,
            state: State::Healthy,
            mode,
            configured_mode: mode,
            paused: None,
            grace: None,
            dual_writer: None,
            limit_latched: false,
            hold: None,
            exposed: false,
            blind: true,
            proven: false,
            epoch: Epoch(1),
            primary,
            primary_since: now,
            evidence: Evidence::default(),
            episode: None,
            failovers: Vec::new(),
            cooldown_lifted: false,
            pending: Vec::new(),
            effects_issued: EffectId(0),
            tokens_issued: ClaimToken(0),
            config,
            next_config: None,
            seen: VecDeque::new(),
            nonces: Vec::new(),
            last_now: now,
            heartbeat_at: now,
        }
    }

    /// The member that is primary.
    #[must_use]
    pub fn primary_member(&self) -> Option<&Member> {
        self.config.member(&self.primary)
    }

    /// The effect `id`, if it is not done.
    #[must_use]
    pub fn pending(&self, id: EffectId) -> Option<&Pending> {
        self.pending.iter().find(|p| p.id == id)
    }

    /// Remembers an event that changed this record.
    pub(crate) fn remember(&mut self, id: EventId) {
        if self.seen.len() == SEEN_KEPT {
            self.seen.pop_front();
        }
        self.seen.push_back(id);
    }
}

/// What the machine may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Decide and record, never act.
    Observe,
    /// Act after a human's approval.
    #[default]
    Approve,
    /// Act.
    Auto,
}

impl Mode {
    /// Name as in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Auto => "auto",
        }
    }
}

/// An operator's pause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Until when; at that time evidence starts from zero.
    pub until: Timestamp,
}

/// The machine wants to act and may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// The facts, as a sentence.
    pub detail: String,
    /// What lets it go on.
    pub release: String,
    /// Since when.
    pub since: Timestamp,
    /// When the facts are looked at again.
    pub deadline: Timestamp,
}

/// Why the machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HoldReason {
    /// A guard refused the failover.
    Guard(crate::Guard),
    /// RDS could not be asked in time.
    AssessOverdue,
    /// The promotion was refused by the world.
    PromoteRefused,
    /// The promotion is not done in time.
    PromoteOverdue,
    /// A public name holds neither the old nor the new value.
    RerouteRefused,
    /// The names are not moved in time: promoted, not rerouted.
    RerouteOverdue,
    /// Writes through the public names are not proven in time.
    VerifyOverdue,
    /// The proof found something else than was asked for.
    VerifyRefused,
    /// The new primary fails inside the cooldown.
    NewPrimaryDown,
    /// RDS did not take the in-region failover.
    InRegionRefused,
}

impl HoldReason {
    /// Name as in metrics; the guard's own for a guard.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guard(guard) => guard.name(),
            Self::AssessOverdue => "assess-overdue",
            Self::PromoteRefused => "promote-refused",
            Self::PromoteOverdue => "promote-overdue",
            Self::RerouteRefused => "reroute-refused",
            Self::RerouteOverdue => "reroute-overdue",
            Self::VerifyOverdue => "verify-overdue",
            Self::VerifyRefused => "verify-refused",
            Self::NewPrimaryDown => "new-primary-down",
            Self::InRegionRefused => "in-region-refused",
        }
    }
}

/// From leaving `healthy` until `healthy` again or averted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Episode {
    /// Its id, `<cluster>-<epoch>-<start>`.
    pub id: EpisodeId,
    /// First counted failure, or the operator's command.
    pub began_at: Timestamp,
    /// What it is for.
    pub kind: EpisodeKind,
    /// The operator's order that began it or moved it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<Ordered>,
    /// The latest approval of an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// The callers who ordered or approved it; in whose name does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Quorum reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<Timestamp>,
    /// Promotion decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// Target writable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<Timestamp>,
    /// The public names were sent ahead of the promotion, to its target.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub names_ahead: bool,
    /// Names changed and in sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerouted_at: Option<Timestamp>,
    /// Writes through the names proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// The last answer of RDS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Assessment>,
    /// Lag of the target plus its age when the decision fell: the bound of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_bound_ms: Option<u64>,
    /// From the newest heartbeat that the new primary has to the newest success that a vantage saw: the loss, as
    /// measured in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_heartbeat_ms: Option<u64>,
    /// Tries of its effects that failed or whose outcome is unknown, all together.
    #[serde(default)]
    pub retries: u32,
}

impl Episode {
    /// This caller stands for it.
    pub(crate) fn approved_by(&mut self, who: &str) {
        if self.approvers.len() < APPROVERS_KEPT && !self.approvers.iter().any(|known| known == who) {
            self.approvers.push(who.into());
        }
    }

    /// A new episode of `record`.
    pub(crate) fn new(record: &Record, kind: EpisodeKind, began_at: Timestamp) -> Self {
        Self {
            id: EpisodeId(format!("{}-{}-{}", record.cluster, record.epoch, began_at.0)),
            began_at,
            kind,
            ordered: None,
            approval: None,
            approvers: Vec::new(),
            confirmed_at: None,
            decided_at: None,
            promoted_at: None,
            names_ahead: false,
            rerouted_at: None,
            verified_at: None,
            assessment: None,
            rpo_bound_ms: None,
            rpo_heartbeat_ms: None,
            retries: 0,
        }
    }
}

/// What an episode is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EpisodeKind {
    /// An outage, or an operator's failover.
    Failover,
    /// Planned.
    Switchover,
    /// Somebody else moved the writer.
    Adopted,
}

/// An operator's order to move the writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Ordered {
    /// Who.
    pub by: String,
    /// To whom, if that matters to the operator.
    pub target: Option<Region>,
}

/// An operator's approval, for one episode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Approval {
    /// Who.
    pub by: String,
    /// Also beyond `rpo_max`.
    pub allow_data_loss: bool,
}

/// An in-region failover, as far as it holds the confirmation back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Grace {
    /// First heard of.
    pub since: Timestamp,
    /// The end, bounded.
    pub until: Timestamp,
}

/// A second writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct DualWriter {
    /// Where.
    pub region: Region,
    /// First seen.
    pub since: Timestamp,
}

/// How an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EpisodeOutcome {
    /// Failed over, and whole again.
    Completed,
    /// The primary came back before anything was done.
    Averted,
    /// Given up before anything was done.
    Cancelled,
    /// Could not be brought to an end by the machine.
    Failed,
}
