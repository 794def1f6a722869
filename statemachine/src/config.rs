//! What the operator configured for one cluster. Part of the record, so that a decision can be replayed.

use crate::{Arn, Region, Vantage};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Members, routes and thresholds of one cluster. An episode keeps the one that it began with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// Hash of the source text; shown in history.
    pub hash: String,
    /// The regional clusters; the first is the primary when nothing is stored yet.
    pub members: Vec<Member>,
    /// DNS records that follow the writer.
    pub routes: Vec<Route>,
    /// CloudWatch alarms that count as evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<AlarmWeight>,
    /// Probes of other kinds than a write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeWeight>,
    /// Thresholds.
    pub policy: Policy,
}

impl Config {
    /// The member in `region`.
    #[must_use]
    pub fn member(&self, region: &Region) -> Option<&Member> {
        self.members.iter().find(|m| m.region == *region)
    }
}

/// One region's cluster of the global cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Member {
    /// Where it is.
    pub region: Region,
    /// ARN of the DB cluster.
    pub arn: Arn,
    /// DNS name of its writer endpoint.
    pub endpoint: String,
    /// Lower is preferred when two secondaries lag equally.
    pub priority: u32,
}

/// One public name that must answer the writer's endpoint (a CNAME).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// Hosted zone id; only a [`RouteBy::Record`] needs it.
    pub zone: String,
    /// Fully qualified name.
    pub name: String,
    /// TTL of the record in seconds.
    pub ttl_s: u64,
    /// What moves it.
    #[serde(default, skip_serializing_if = "RouteBy::is_record")]
    pub by: RouteBy,
}

/// What moves a public name. Changing a record needs Route 53's control plane, which is in us-east-1 only; the others
/// are data plane, and prepared before they are needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "by", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum RouteBy {
    /// The record itself is changed.
    #[default]
    Record,
    /// The name is a pair of failover records. The health check of the first one is inverted and finds the second
    /// region's name in an object: writing that object moves the name (AWS's "standby takes over primary").
    HealthCheck {
        /// Region of the bucket, best a third one.
        region: Region,
        /// Bucket.
        bucket: String,
        /// Key of the object.
        key: String,
    },
    /// Routing controls of Application Recovery Controller, one per region: on where traffic shall go, off elsewhere.
    Arc {
        /// The cluster's endpoints; any one that answers will do.
        endpoints: Vec<ArcEndpoint>,
        /// The control of each region.
        controls: BTreeMap<Region, Arn>,
    },
}

impl RouteBy {
    /// Is it Route 53's control plane that moves it?
    #[must_use]
    pub const fn is_record(&self) -> bool {
        matches!(self, Self::Record)
    }
}

/// One endpoint of a routing control cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct ArcEndpoint {
    /// Its region, for which calls are signed.
    pub region: Region,
    /// Where calls go.
    pub url: String,
}

/// A probe of another kind than a write. When a quorum of vantages sees it fail, it adds votes to those of the write
/// probes, never without one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct ProbeWeight {
    /// Its name.
    pub name: String,
    /// Votes; with none it is only shown.
    pub weight: u32,
}

/// An alarm that adds votes to those of the vantages, never without at least one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct AlarmWeight {
    /// Name of the alarm.
    pub name: String,
    /// Votes that it is worth while it is in alarm.
    pub weight: u32,
}

/// When the public names move in a failover. A switchover, and a failover of a primary that the evidence does not show
/// as down, always move them afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RerouteWhen {
    /// Once the target is proven to be writable.
    #[default]
    AfterPromotion,
    /// As soon as RDS shows the promotion under way: caches expire while the database promotes.
    Overlapped,
}

impl RerouteWhen {
    /// As everything that was stored before there was a choice; it is not written, so that such records stay as they were.
    const fn is_after_promotion(&self) -> bool {
        matches!(self, Self::AfterPromotion)
    }
}

/// Thresholds of detection, decision and execution. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// Vantages whose probes count.
    pub vantages: Vec<Vantage>,
    /// How many live vantages must agree.
    pub quorum: u32,
    /// Consecutive failures that each of them must have seen.
    pub failures_min: u32,
    /// Time that those failures must span.
    pub confirm_after_ms: u64,
    /// Consecutive good probes per vantage that end a suspicion.
    pub recover_after: u32,
    /// A vantage not heard of for this long is not live.
    pub vantage_stale_after_ms: u64,
    /// Events older than this are ignored.
    pub event_age_max_ms: u64,
    /// Events further in the future than this are ignored.
    pub event_ahead_max_ms: u64,
    /// Largest loss (last known lag plus its age at the fault) that automatic failover accepts.
    pub rpo_max_ms: u64,
    /// No second automatic failover within this time.
    pub cooldown_ms: u64,
    /// Automatic failovers allowed per window.
    pub failovers_max: u32,
    /// The window that `failovers_max` counts in.
    pub failovers_window_ms: u64,
    /// How long an in-region failover of the primary may hold the confirmation back; at most twice as long in all.
    pub in_region_grace_ms: u64,
    /// An approval that does not come within this time cancels the episode.
    pub approval_timeout_ms: u64,
    /// Distinct people that an approval, or an operator's failover, needs.
    #[serde(default = "one")]
    pub approvals_required: u32,
    /// The longest pause that an operator may ask for.
    pub pause_max_ms: u64,
    /// How long a hold or an unfinished settling waits before RDS is asked again.
    pub reassess_every_ms: u64,
    /// Longest time for one assessment.
    pub assess_deadline_ms: u64,
    /// Longest time from the decision to a writable target.
    pub promote_deadline_ms: u64,
    /// When the public names move in a failover. Records stored before there was a choice moved them afterwards.
    #[serde(default, skip_serializing_if = "RerouteWhen::is_after_promotion")]
    pub reroute: RerouteWhen,
    /// Longest time for the DNS change and its proof, each.
    pub reroute_deadline_ms: u64,
    /// Longest time for fencing an old writer; it is given up afterwards.
    pub fence_deadline_ms: u64,
    /// Longest time for an announcement; it is dropped afterwards.
    pub announce_deadline_ms: u64,
    /// Quick retries in one episode, of all its effects together; then it holds, and looks every `retry_max_ms`.
    #[serde(default = "default_retries_max")]
    pub retries_max: u32,
    /// Pause before an effect is tried again; doubles up to `retry_max_ms`, less up to half of it by chance.
    pub retry_ms: u64,
    /// Longest pause between two tries.
    pub retry_max_ms: u64,
    /// A claim not answered within this time is free again.
    pub claim_ttl_ms: u64,
    /// Time the new primary is watched before the episode closes.
    pub soak_ms: u64,
    /// Healthy evidence is stored at most this often.
    pub heartbeat_ms: u64,
}

/// Records stored before there was a budget.
const fn default_retries_max() -> u32 {
    100
}

/// Records stored before there could be a second person.
const fn one() -> u32 {
    1
}

impl Policy {
    /// The default: probes every 10 s, an outage confirmed by two vantages after 30 s, two automatic failovers a day.
    #[must_use]
    pub const fn standard(vantages: Vec<Vantage>) -> Self {
        Self {
            vantages,
            quorum: 2,
            failures_min: 3,
            confirm_after_ms: 30_000,
            recover_after: 2,
            vantage_stale_after_ms: 35_000,
            event_age_max_ms: 60_000,
            event_ahead_max_ms: 5_000,
            rpo_max_ms: 30_000,
            cooldown_ms: 3_600_000,
            failovers_max: 2,
            failovers_window_ms: 86_400_000,
            in_region_grace_ms: 90_000,
            approval_timeout_ms: 3_600_000,
            approvals_required: one(),
            pause_max_ms: 86_400_000,
            reassess_every_ms: 30_000,
            assess_deadline_ms: 60_000,
            promote_deadline_ms: 900_000,
            reroute: RerouteWhen::Overlapped,
            reroute_deadline_ms: 300_000,
            fence_deadline_ms: 30_000,
            announce_deadline_ms: 300_000,
            retries_max: default_retries_max(),
            retry_ms: 1_000,
            retry_max_ms: 30_000,
            claim_ttl_ms: 30_000,
            soak_ms: 600_000,
            heartbeat_ms: 60_000,
        }
    }
}
