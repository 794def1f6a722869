//! Things to do outside. Imperative and complete: each carries its precondition, so that whoever carries it
//! out can check the world before and after, and so that doing it twice does it once.

use crate::{Arn, ClaimToken, ControllerId, EffectId, Epoch, Region, RouteBy, Timestamp};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Something to do outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Effect {
    /// Ask RDS what is true.
    Assess {
        /// What the answer is for.
        question: Question,
    },
    /// Make the cluster in `region` the writer.
    Promote {
        /// By which means.
        how: How,
        /// Precondition: this one is the writer now.
        from: Arn,
        /// The cluster to promote.
        to: Arn,
        /// Region of `to`.
        region: Region,
        /// Epoch that this promotion ends.
        epoch: Epoch,
    },
    /// Stop the old writer from taking writes, and drop what is connected to it. Best effort: it never holds
    /// anything back, and is given up at its deadline.
    Fence {
        /// The cluster; it must not be the writer any more.
        cluster: Arn,
        /// Its region.
        region: Region,
    },
    /// Let another instance of the primary's cluster become its writer.
    FailOverInRegion {
        /// The cluster.
        cluster: Arn,
        /// Its region, where the call is made.
        region: Region,
        /// Which instance; RDS chooses when not given.
        instance: Option<String>,
    },
    /// Point the public names at the new writer.
    Reroute {
        /// All of them, changed in one batch.
        changes: Vec<RecordChange>,
        /// They move while the writer does; none when the promotion is done and proven.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlap: Option<Overlap>,
    },
    /// Prove that the public names lead to a writer that commits.
    Verify {
        /// The names and what they must answer.
        changes: Vec<RecordChange>,
        /// Region that must commit the write.
        region: Region,
        /// Not before caches have expired.
        not_before: Timestamp,
    },
    /// Tell pagers and chat about a transition.
    Announce {
        /// State left.
        from: String,
        /// State entered, or the same.
        to: String,
        /// A sentence for humans.
        reason: String,
        /// Primary region after the transition.
        primary: Region,
    },
}

impl Effect {
    /// Name of the kind, as in history.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Assess { .. } => "assess",
            Self::Promote { .. } => "promote",
            Self::Fence { .. } => "fence",
            Self::FailOverInRegion { .. } => "failover-in-region",
            Self::Reroute { .. } => "reroute",
            Self::Verify { .. } => "verify",
            Self::Announce { .. } => "announce",
        }
    }
}

/// How the writer moves to another region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `FailoverGlobalCluster` with loss allowed, called in the target's region.
    Failover,
    /// `SwitchoverGlobalCluster`, called in the primary's region.
    Switchover,
    /// No call: somebody else's is running, and is followed.
    Follow,
}

/// Why RDS is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Is it us or them?
    WhoIsDown,
    /// May we fail over, and to whom?
    MayFailOver,
    /// May we switch over, and to whom?
    MaySwitchOver,
    /// Is the topology whole again?
    IsWhole,
}

/// One public name to be moved: a compare-and-swap, never a blind write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct RecordChange {
    /// Hosted zone id; only a [`RouteBy::Record`] needs it.
    pub zone: String,
    /// Fully qualified name.
    pub name: String,
    /// TTL in seconds.
    pub ttl_s: u64,
    /// The value that must be there now.
    pub from: String,
    /// The value to put.
    pub to: String,
    /// What moves it.
    #[serde(default, skip_serializing_if = "RouteBy::is_record")]
    pub by: RouteBy,
}

/// Names that move while the writer does, so that caches expire meanwhile. Whoever carries it out moves nothing before
/// RDS shows what is presumed here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Overlap {
    /// Ahead of the promotion, or back after it failed.
    pub way: Way,
    /// Precondition: RDS shows this cluster as the writer, or, on the way ahead, as the target of what is under way.
    pub writer: Arn,
    /// Its region.
    pub region: Region,
    /// Epoch in which that region is the primary.
    pub epoch: Epoch,
}

/// Which way names move while the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// To the target of a promotion.
    Ahead,
    /// To the old primary: RDS gave the promotion up.
    Back,
}

/// An effect that has been asked for and is not yet done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Pending {
    /// Its number.
    pub id: EffectId,
    /// What to do.
    pub effect: Effect,
    /// When it was asked for.
    pub issued_at: Timestamp,
    /// Not to be tried before.
    pub not_before: Timestamp,
    /// When the machine stops waiting quietly.
    pub deadline: Timestamp,
    /// Tries that ended in `retry` or `unknown`.
    pub attempts: u32,
    /// Who is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Was it ever claimed? Past that point it may have happened.
    #[serde(default)]
    pub ever_claimed: bool,
    /// Was it ever seen under way? If it is not any more and not done, somebody undid it: calling again would act
    /// twice.
    #[serde(default)]
    pub under_way: bool,
}

/// The right to carry out one effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Claim {
    /// Rises with each claim.
    pub token: ClaimToken,
    /// The holder.
    pub by: ControllerId,
    /// Free again at this time.
    pub expires_at: Timestamp,
}

/// How a try of an effect ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "outcome", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Outcome {
    /// It is so now, whoever made it so.
    Done {
        /// What was found.
        report: Report,
    },
    /// It is under way; look again.
    InProgress {
        /// What was seen.
        detail: String,
    },
    /// The world is not as the effect presumes; repeating will not help.
    Refused {
        /// What was found instead.
        detail: String,
    },
    /// It did not happen; try again.
    Retry {
        /// What went wrong.
        detail: String,
    },
    /// It may have happened; look before anything else.
    Unknown {
        /// What went wrong.
        detail: String,
    },
}

/// What was found when an effect was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "report", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Report {
    /// Answer to `assess`.
    Assessed(Assessment),
    /// The target is writer, available, and committed a write.
    Promoted {
        /// Was it this try that made the call?
        called: bool,
        /// Time of the newest heartbeat of the old primary that the new one has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heartbeat_at: Option<Timestamp>,
        /// Human detail.
        detail: String,
    },
    /// The old writer takes no writes.
    Fenced {
        /// Human detail.
        detail: String,
    },
    /// RDS accepted the in-region failover.
    FailingOverInRegion,
    /// The names are changed and in sync.
    Rerouted {
        /// When the change was seen in sync.
        at: Timestamp,
        /// Human detail.
        detail: String,
    },
    /// A write through the public names committed.
    Verified {
        /// Human detail.
        detail: String,
    },
    /// The bus took the announcement.
    Announced,
}

/// What RDS says, from the region that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Assessment {
    /// Region that answered.
    pub asked: Region,
    /// Status of the global cluster, in RDS's word.
    pub status: String,
    /// Engine version of the global cluster.
    pub engine_version: String,
    /// Members that RDS lists.
    pub members: Vec<MemberFacts>,
    /// A failover or switchover that is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverInProgress>,
}

impl Assessment {
    /// Facts about the cluster `arn`.
    #[must_use]
    pub fn member(&self, arn: &Arn) -> Option<&MemberFacts> {
        self.members.iter().find(|m| m.arn == *arn)
    }
}

/// One member as RDS describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct MemberFacts {
    /// ARN of the DB cluster.
    pub arn: Arn,
    /// Is it the writer of the global cluster?
    pub writer: bool,
    /// Replication status (`connected`, `pending-resync`), when given.
    pub synchronization: Option<String>,
    /// Details from its own region; none when that region did not answer.
    pub cluster: Option<ClusterFacts>,
}

/// Details of a regional cluster, from its own region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct ClusterFacts {
    /// Status in RDS's word.
    pub status: String,
    /// Engine version.
    pub engine_version: String,
    /// Number of instances.
    pub instances: u32,
}

/// Somebody's failover under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct FailoverInProgress {
    /// Status in RDS's word.
    pub status: String,
    /// Target ARN.
    pub to: Arn,
}
