//! RDS, query protocol of 2014-10-31: one Aurora global cluster over real PostgreSQL servers.
//!
//! `FailoverGlobalCluster`, `SwitchoverGlobalCluster` and `FailoverDBCluster` answer at once and then act for real,
//! through [`Databases`]; members flip when the new writer takes writes, what was left behind follows it again as soon
//! as it can be reached, and the RDS events of all that appear on the default buses. A writer that ends is replaced
//! inside its region without being asked. Deliberately absent: every action that makes or deletes something. What AWS
//! does not document (which fault a repeated call gets, a call in a wrong region) is chosen here; do not code against
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::eventbridge::EventBridge;
use super::wire::{Outcome, Refusal, Reply, document, lock, request_id, tag, text, xml_error};
use super::{AwsOptions, Network};
use crate::dns::{RecordKind, Zones};

const NAMESPACE: &str = "http://rds.amazonaws.com/doc/2014-10-31/";
const PARAMETER_GROUP: &str = "default.aurora-postgresql16";
const VERSION: &str = "2014-10-31";
const ENGINE: &str = "aurora-postgresql";
const GLOBAL_ENDPOINT_TTL_S: u32 = 1;
const ENDPOINT_TTL_S: u32 = 1;

/// Pause between two looks at the writer instances.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How long what Aurora does takes, beyond what PostgreSQL needs for it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timing {
    /// A move to another region.
    #[serde(with = "humantime_serde")]
    pub failover: Duration,
    /// A writer instance that has ended is noticed.
    #[serde(with = "humantime_serde")]
    pub notice: Duration,
    /// A move inside the region.
    #[serde(with = "humantime_serde")]
    pub in_region: Duration,
    /// From the moment when an old primary region can be reached until its cluster is made to follow.
    #[serde(with = "humantime_serde")]
    pub resynchronize_after: Duration,
    /// How long a switchover waits for its target to be in step; then it is cancelled.
    #[serde(with = "humantime_serde")]
    pub synchronize: Duration,
}

impl Timing {
    /// As Aurora takes: the documented or usual minutes. A failover to another region "within a few minutes", one
    /// inside the region in 30 to 60 s of which the detection takes some; a rebuild takes minutes to hours.
    #[must_use]
    pub const fn documented() -> Self {
        Self {
            failover: Duration::from_secs(120),
            notice: Duration::from_secs(10),
            in_region: Duration::from_secs(35),
            resynchronize_after: Duration::from_secs(300),
            synchronize: Duration::from_secs(120),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        let (none, second) = (Duration::ZERO, Duration::from_secs(1));
        let (notice, synchronize) = (Duration::from_millis(200), Duration::from_secs(3));
        Self { failover: none, notice, in_region: none, resynchronize_after: second, synchronize }
    }
}

/// The real PostgreSQL clusters.
#[async_trait]
pub trait Databases: Send + Sync {
    /// Makes the cluster of `region` the writer; returns when it takes writes.
    ///
    /// An old writer in a region that is not lost must take no more writes by then: RDS says so
    /// in an event (RDS-EVENT-0390).
    async fn promote(&self, region: &str) -> anyhow::Result<()>;

    /// Has the cluster of `region` all that the writer wrote until a moment ago?
    async fn in_step(&self, _region: &str) -> anyhow::Result<bool> {
        Ok(true)
    }

    /// The same, without losing a write; nothing has changed when it fails before the old writer has stopped.
    async fn switch_over(&self, region: &str) -> anyhow::Result<()>;

    /// Makes another instance of the cluster in `region` its writer; answers which.
    async fn fail_over_in_region(&self, region: &str, to: Option<&str>) -> anyhow::Result<String>;

    /// Everything that can be reached follows the writer again when this returns.
    async fn settle(&self) -> anyhow::Result<()>;

    /// The region whose cluster is the writer and has no running writer instance.
    async fn lost_writer(&self) -> Option<String>;

    /// Instances of the cluster in `region`, the writer first: (instance id, is writer).
    fn instances(&self, region: &str) -> Vec<(String, bool)>;

    /// Their addresses, in the same order.
    fn addresses(&self, region: &str) -> Vec<Ipv4Addr>;

    /// How far the cluster of `region` was behind the writer, in milliseconds, and when; oldest first.
    fn lag(&self, region: &str) -> Vec<(SystemTime, u64)>;
}

/// The global cluster as it is at the start.
#[derive(Clone, Debug)]
pub struct GlobalCluster {
    /// Its identifier, such as `orders`.
    pub id: String,
    /// The Aurora PostgreSQL version, such as `16.6`.
    pub engine_version: String,
    /// The global writer endpoint. If a zone of the lab holds this name, it points at the writer.
    pub endpoint: String,
    /// One cluster per region; the first is the writer.
    pub members: Vec<Member>,
}

impl GlobalCluster {
    /// The cluster in this region.
    pub(super) fn member_in(&self, region: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.region == region)
    }
}

/// One region's cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its region.
    pub region: String,
    /// Its identifier.
    pub cluster_id: String,
    /// Host name of the cluster endpoint.
    pub endpoint: String,
    /// Host name of the reader endpoint.
    pub reader_endpoint: String,
    /// Port of both.
    pub port: u16,
}

pub(super) struct Rds(Arc<Inner>);

struct Inner {
    account: String,
    global: GlobalCluster,
    resource_id: String,
    state: Mutex<State>,
    databases: Arc<dyn Databases>,
    timing: Timing,
    unresolved_secondaries: bool,
    zones: Zones,
    network: Network,
    events: Arc<EventBridge>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Members are named by their region.
struct State {
    writer: String,
    failover: Option<Failover>,
    /// The region whose cluster is failing over inside itself.
    failing_over: Option<String>,
    resync: BTreeSet<String>,
    /// What makes the rest follow the writer, while it does.
    settling: Option<AbortHandle>,
    /// Regions whose clusters have no instance, by a fault.
    headless: BTreeSet<String>,
    /// Moves to another region are given up, by a fault.
    gives_up: bool,
}

#[derive(Clone)]
struct Failover {
    from: String,
    to: String,
    status: &'static str,
    planned: bool,
}

type Parameters = BTreeMap<String, String>;

impl Rds {
    pub(super) fn new(
        options: &AwsOptions,
        network: Network,
        events: Arc<EventBridge>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let global = options.global_cluster.clone();
        ensure!(!global.members.is_empty(), "global cluster {} has no member", global.id);
        let regions: BTreeSet<_> = global.members.iter().map(|member| &member.region).collect();
        ensure!(regions.len() == global.members.len(), "global cluster {} has two members in one region", global.id);
        let state = State {
            writer: global.members[0].region.clone(),
            failover: None,
            failing_over: None,
            resync: BTreeSet::new(),
            settling: None,
            headless: BTreeSet::new(),
            gives_up: false,
        };
        let inner = Inner {
            account: options.account.clone(),
            resource_id: format!("cluster-{}", &uuid::Uuid::new_v4().simple().to_string()[..16]),
            global,
            state: Mutex::new(state),
            databases: options.databases.clone(),
            timing: options.timing,
            unresolved_secondaries: options.unresolved_secondaries,
            zones: options.zones.clone(),
            network,
            events,
            tasks,
            stop,
        };
        inner.point_global_endpoint(&inner.global.members[0].region)?;
        for member in &inner.global.members {
            inner.point_cluster_endpoints(member)?;
        }
        let inner = Arc::new(inner);
        let watch = Arc::clone(&inner).replace_lost_writers();
        inner.tasks.spawn(inner.stop.clone().run_until_cancelled_owned(watch));
        Ok(Self(inner))
    }

    /// The cluster of this region has no instance from now on, or has them again.
    pub(super) fn set_headless(&self, region: &str, headless: bool) {
        let mut state = lock(&self.0.state);
        if headless {
            state.headless.insert(region.into())
        } else {
            state.headless.remove(region)
        };
    }

    /// Moves to another region are accepted and given up from now on, or carried out again.
    pub(super) fn give_up(&self, gives_up: bool) {
        lock(&self.0.state).gives_up = gives_up;
    }

    /// Has every cluster that was left behind been made to follow again?
    pub(super) fn is_resynchronized(&self) -> bool {
        lock(&self.0.state).resync.is_empty()
    }

    /// Somebody's order at the console, which is not among the calls.
    pub(super) fn order(&self, region: &str, planned: bool) -> anyhow::Result<()> {
        let target = self.0.global.member_in(region).with_context(|| format!("there is no cluster in {region}"))?;
        match self.0.begin(target, planned) {
            Ok(_) => Ok(()),
            Err(refusal) => bail!("{}: {}", refusal.code, refusal.message),
        }
    }

    /// Region of the primary cluster.
    pub(super) fn writer_region(&self) -> String {
        lock(&self.0.state).writer.clone()
    }

    pub(super) fn call(&self, region: &str, action: &str, body: &[u8]) -> Reply {
        let result = parameters(body).and_then(|parameters| match action {
            "DescribeGlobalClusters" => self.0.describe_global(&parameters),
            "DescribeDBClusters" => self.0.describe_clusters(region, &parameters),
            "DescribeDBClusterParameters" => describe_parameters(&parameters),
            "FailoverGlobalCluster" => self.failover(region, &parameters),
            "SwitchoverGlobalCluster" => self.switchover(region, &parameters),
            "FailoverDBCluster" => self.fail_over_in_region(region, &parameters),
            other => {
                let message = format!("Could not find operation {other} for version {VERSION}");
                Err(Refusal::new("InvalidAction", message))
            }
        });
        match result {
            Ok(result) => {
                let metadata = tag("ResponseMetadata", text("RequestId", request_id()));
                let content = tag(&format!("{action}Result"), result) + &metadata;
                let body = document(&format!("{action}Response"), NAMESPACE, content);
                Reply::new(200, "text/xml", body)
            }
            Err(refusal) => xml_error(NAMESPACE, &refusal),
        }
    }

    fn failover(&self, region: &str, parameters: &Parameters) -> Outcome<String> {
        only(parameters, &["GlobalClusterIdentifier", "TargetDbClusterIdentifier", "AllowDataLoss", "Switchover"])?;
        let (lossy, switchover) = (flag(parameters, "AllowDataLoss")?, flag(parameters, "Switchover")?);
        if lossy && switchover {
            let message = "AllowDataLoss and Switchover exclude each other.";
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        if !lossy {
            return self.switch(region, parameters);
        }
        let target = self.0.target(parameters)?;
        if target.region != region {
            let message = format!(
                "DBCluster {} not found in {region}: call FailoverGlobalCluster in the region of the target, {}.",
                self.0.arn(target),
                target.region
            );
            return Err(Refusal::new("DBClusterNotFoundFault", message).status(404));
        }
        self.0.begin(target, false)
    }

    fn switchover(&self, region: &str, parameters: &Parameters) -> Outcome<String> {
        only(parameters, &["GlobalClusterIdentifier", "TargetDbClusterIdentifier"])?;
        self.switch(region, parameters)
    }

    fn switch(&self, region: &str, parameters: &Parameters) -> Outcome<String> {
        let target = self.0.target(parameters)?;
        let writer = lock(&self.0.state).writer.clone();
        if region != writer {
            let message = format!("A switchover is asked for in the region of the primary, {writer}, not in {region}.");
            return Err(Refusal::new("InvalidGlobalClusterStateFault", message));
        }
        self.0.begin(target, true)
    }

    fn fail_over_in_region(&self, region: &str, parameters: &Parameters) -> Outcome<String> {
        let inner = &self.0;
        only(parameters, &["DBClusterIdentifier", "TargetDBInstanceIdentifier"])?;
        let member = inner.member(region, required(parameters, "DBClusterIdentifier")?)?;
        let instance = parameters.get("TargetDBInstanceIdentifier").cloned();
        let instances = inner.instances(region);
        let is_reader = |id: &String| instances.iter().any(|(other, writer)| other == id && !writer);
        if instances.len() < 2 || instance.as_ref().is_some_and(|id| !is_reader(id)) {
            let message = format!("DB cluster {} has no such instance to fail over to.", member.cluster_id);
            return Err(Refusal::new("InvalidDBInstanceState", message));
        }
        inner.begin_in_region(&member.region).map_err(|message| Refusal::new("InvalidDBClusterStateFault", message))?;
        let (inner, region) = (Arc::clone(inner), region.to_owned());
        let work = async move { inner.in_region(&region, instance).await };
        self.0.tasks.spawn(self.0.stop.clone().run_until_cancelled_owned(work));
        Ok(tag("DBCluster", self.0.cluster_xml(member)))
    }
}

impl Inner {
    /// The cluster that a global call names.
    fn target(&self, parameters: &Parameters) -> Outcome<&Member> {
        self.check_id(required(parameters, "GlobalClusterIdentifier")?)?;
        let arn = required(parameters, "TargetDbClusterIdentifier")?;
        self.global.members.iter().find(|member| self.arn(member) == arn).ok_or_else(|| no_cluster(arn))
    }

    /// The writer starts to move; answers the global cluster as it is at this moment.
    fn begin(self: &Arc<Self>, target: &Member, planned: bool) -> Outcome<String> {
        let (id, arn) = (&self.global.id, self.arn(target));
        if self.instances(&target.region).is_empty() {
            let message = format!("DB cluster {arn} has no DB instance that could be promoted.");
            return Err(Refusal::new("InvalidDBClusterStateFault", message));
        }
        let shown = {
            let mut state = lock(&self.state);
            let refusal = if state.failover.is_some() {
                Some(format!("Global cluster {id} is in state failing-over; wait until it is available."))
            } else if state.writer == target.region {
                Some(format!("DB cluster {arn} is already the primary DB cluster."))
            } else if planned && state.resync.contains(&target.region) {
                Some(format!("DB cluster {arn} is not synchronized; a switchover would lose data."))
            } else {
                None
            };
            if let Some(message) = refusal {
                return Err(Refusal::new("InvalidGlobalClusterStateFault", message));
            }
            if let Some(settling) = state.settling.take() {
                settling.abort();
            }
            let (from, to) = (state.writer.clone(), target.region.clone());
            state.failover = Some(Failover { from, to, status: "pending", planned });
            tag("GlobalCluster", self.global_xml(&state))
        };
        let (inner, target) = (Arc::clone(self), target.clone());
        let work = async move { if planned { inner.switch_over(&target).await } else { inner.promote(&target).await } };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
        Ok(shown)
    }

    /// Instances of the cluster in `region`, as RDS shows them.
    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        if lock(&self.state).headless.contains(region) { Vec::new() } else { self.databases.instances(region) }
    }

    fn gives_up(&self) -> anyhow::Result<()> {
        ensure!(!lock(&self.state).gives_up, "a fault of the lab");
        Ok(())
    }

    fn set_status(&self, status: &'static str) {
        if let Some(failover) = &mut lock(&self.state).failover {
            failover.status = status;
        }
    }

    async fn promote(self: Arc<Self>, target: &Member) {
        self.set_status("failing-over");
        tokio::time::sleep(self.timing.failover).await;
        let place = format!("DB cluster {} in Region {}", target.cluster_id, target.region);
        let promoted = match self.gives_up() {
            Ok(()) => self.databases.promote(&target.region).await,
            given_up => given_up,
        };
        if let Err(error) = promoted {
            tracing::warn!(region = target.region, error = format!("{error:#}"), "promotion failed");
            lock(&self.state).failover = None;
            self.cluster_event("RDS-EVENT-0239", &format!("Global failover to {place} failed."));
            return;
        }
        let old = self.moved(target);
        self.write_block_event(&old);
        self.cluster_event("RDS-EVENT-0238", &format!("Global failover to {place} completed."));
        self.global_endpoint_follows(target);
        self.resynchronize(&old);
    }

    async fn switch_over(self: Arc<Self>, target: &Member) {
        let place = format!("DB cluster {} in Region {}", target.cluster_id, target.region);
        self.set_status("switching-over");
        self.cluster_event("RDS-EVENT-0181", &format!("Global switchover to {place} started."));
        tokio::time::sleep(self.timing.failover).await;
        if !self.synchronized(target).await {
            lock(&self.state).failover = None;
            self.cluster_event("RDS-EVENT-0186", &format!("Global switchover to {place} is cancelled."));
            return;
        }
        let switched = match self.gives_up() {
            Ok(()) => self.databases.switch_over(&target.region).await,
            given_up => given_up,
        };
        if let Err(error) = switched {
            tracing::warn!(region = target.region, error = format!("{error:#}"), "switchover failed");
            lock(&self.state).failover = None;
            self.cluster_event("RDS-EVENT-0187", &format!("Global switchover to {place} failed."));
            return;
        }
        let old = self.moved(target);
        let old_id = self.global.member_in(&old).map(|member| &member.cluster_id);
        let old_id = old_id.unwrap_or(&old);
        let stopped = format!("Old primary DB cluster {old_id} in Region {old} successfully shut down.");
        self.cluster_event("RDS-EVENT-0182", &stopped);
        self.cluster_event("RDS-EVENT-0184", &format!("New primary {place} was successfully promoted."));
        self.cluster_event("RDS-EVENT-0185", &format!("Global switchover to {place} finished."));
        self.global_endpoint_follows(target);
        self.resynchronize(&old);
    }

    /// Waits until the target is in step, while the old primary goes on taking writes; false when that takes too long.
    async fn synchronized(&self, target: &Member) -> bool {
        let until = Instant::now() + self.timing.synchronize;
        let mut told = false;
        loop {
            match self.databases.in_step(&target.region).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = format!("{error:#}"), "is it in step?"),
            }
            if Instant::now() >= until {
                return false;
            }
            if !std::mem::replace(&mut told, true) {
                let waiting = "Waiting for data synchronization with the target DB cluster.";
                self.cluster_event("RDS-EVENT-0423", waiting);
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    /// The writer has moved; answers where it was.
    fn moved(&self, target: &Member) -> String {
        let old = {
            let mut state = lock(&self.state);
            let old = std::mem::replace(&mut state.writer, target.region.clone());
            state.resync.remove(&target.region);
            state.resync.insert(old.clone());
            state.failover = None;
            old
        };
        if self.unresolved_secondaries {
            for member in &self.global.members {
                if let Err(error) = self.point_cluster_endpoints(member) {
                    tracing::error!(error = format!("{error:#}"), "the cluster's endpoints stay");
                }
            }
        }
        old
    }

    fn global_endpoint_follows(&self, target: &Member) {
        match self.point_global_endpoint(&target.region) {
            Ok(()) => self.cluster_event(
                "RDS-EVENT-0397",
                "Aurora finished changing the DNS name that the global writer endpoint resolves to.",
            ),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the global endpoint stays"),
        }
    }

    /// What was left behind follows the new writer, as soon as it can be reached.
    fn resynchronize(self: &Arc<Self>, old: &str) {
        let (inner, old) = (Arc::clone(self), old.to_owned());
        let work = async move {
            inner.network.reachable(&old).await;
            tokio::time::sleep(inner.timing.resynchronize_after).await;
            let id = inner.global.member_in(&old).map(|m| m.cluster_id.clone());
            let of = format!("resynchronizing members of DB cluster {} in Region {old}", id.unwrap_or_default());
            inner.cluster_event("RDS-EVENT-0240", &format!("Started {of} after global failover."));
            match inner.databases.settle().await {
                Ok(()) => {
                    lock(&inner.state).resync.remove(&old);
                    inner.cluster_event("RDS-EVENT-0241", &format!("Finished {of} after global failover."));
                }
                Err(error) => tracing::error!(region = old, error = format!("{error:#}"), "it does not follow again"),
            }
        };
        self.settle_by(work);
    }

    fn settle_by(&self, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
        if let Some(earlier) = lock(&self.state).settling.replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    /// Marks a cluster as failing over inside its region.
    fn begin_in_region(&self, region: &str) -> Result<(), String> {
        let mut state = lock(&self.state);
        if state.writer != region {
            return Err(format!("in the lab only the primary cluster fails over inside its region, not {region}'s"));
        }
        if state.failing_over.is_some() || state.failover.is_some() {
            return Err("the cluster is failing over already".into());
        }
        state.failing_over = Some(region.to_owned());
        Ok(())
    }

    async fn in_region(self: Arc<Self>, region: &str, instance: Option<String>) {
        let to = self.databases.instances(region).into_iter().find(|(_, writer)| !writer);
        let name = instance.clone().or(to.map(|(id, _)| id)).unwrap_or_default();
        self.own_event(region, "RDS-EVENT-0073", &format!("Started cross AZ failover to DB instance: {name}."));
        tokio::time::sleep(self.timing.in_region).await;
        let moved = self.databases.fail_over_in_region(region, instance.as_deref()).await;
        lock(&self.state).failing_over = None;
        match moved {
            Ok(to) => {
                let member = self.global.member_in(region);
                if let Some(Err(error)) = member.map(|member| self.point_cluster_endpoints(member)) {
                    tracing::error!(error = format!("{error:#}"), "the cluster's endpoints stay");
                }
                self.own_event(region, "RDS-EVENT-0071", &format!("Completed failover to DB instance: {to}."));
                let inner = Arc::clone(&self);
                self.settle_by(async move {
                    if let Err(error) = inner.databases.settle().await {
                        tracing::error!(error = format!("{error:#}"), "not everything follows the new writer");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(region, error = format!("{error:#}"), "no failover inside the region");
                self.own_event(region, "RDS-EVENT-0070", &format!("Promoting previous primary again: {name}."));
            }
        }
    }

    /// Aurora replaces a writer instance that has ended by another one of its cluster.
    async fn replace_lost_writers(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let Some(region) = self.databases.lost_writer().await else { continue };
            if self.network.is_lost(&region) {
                continue;
            }
            tokio::time::sleep(self.timing.notice).await;
            if self.databases.lost_writer().await.as_deref() == Some(&region) && self.begin_in_region(&region).is_ok() {
                Arc::clone(&self).in_region(&region, None).await;
            }
        }
    }

    /// The endpoints of a cluster lead to its writer instance, and to the others.
    fn point_cluster_endpoints(&self, member: &Member) -> anyhow::Result<()> {
        let addresses: Vec<String> = self.databases.addresses(&member.region).iter().map(ToString::to_string).collect();
        let Some(writer) = addresses.first() else { return Ok(()) };
        let readers: Vec<&str> =
            if addresses.len() > 1 { &addresses[1..] } else { &addresses }.iter().map(String::as_str).collect();
        for (name, values) in [(&member.endpoint, vec![writer.as_str()]), (&member.reader_endpoint, readers)] {
            if !self.zones.covers(name) {
                continue;
            }
            if self.unresolved_secondaries && *name == member.endpoint && member.region != lock(&self.state).writer {
                self.zones.remove(name, RecordKind::A)?;
            } else {
                self.zones.set(name, RecordKind::A, ENDPOINT_TTL_S, &values)?;
            }
        }
        Ok(())
    }

    fn point_global_endpoint(&self, writer: &str) -> anyhow::Result<()> {
        let name = &self.global.endpoint;
        match self.global.member_in(writer) {
            Some(member) if self.zones.covers(name) => {
                let target = [member.endpoint.as_str()];
                self.zones.set(name, RecordKind::Cname, GLOBAL_ENDPOINT_TTL_S, &target)
            }
            _ => Ok(()),
        }
    }

    /// Whether the old writer was stopped from writing; it cannot be while its region is lost.
    fn write_block_event(&self, old: &str) {
        let cluster = self.global.member_in(old);
        let cluster = cluster.map_or(old, |member| &member.cluster_id);
        let (id, end) = match self.network.is_lost(old) {
            false => ("RDS-EVENT-0390", "succeeded"),
            true => ("RDS-EVENT-0391", "timed out"),
        };
        let message = format!("Attempt to block writes for DB cluster {cluster} in Region {old} {end}.");
        for member in self.reached() {
            let instances = self.databases.instances(&member.region);
            let instance = instances.iter().find(|(_, writer)| *writer).or(instances.first());
            let Some((instance, _)) = instance else {
                continue;
            };
            let arn = format!("arn:aws:rds:{}:{}:db:{instance}", member.region, self.account);
            let kind = ("RDS DB Instance Event", "DB_INSTANCE");
            let categories = &["notification", "global-database"];
            self.event(&member.region, kind, categories, id, &message, instance, arn);
        }
    }

    fn cluster_event(&self, id: &str, message: &str) {
        for member in self.reached() {
            self.member_event(member, "global-failover", id, message);
        }
    }

    /// An event of one region only.
    fn own_event(&self, region: &str, id: &str, message: &str) {
        if let Some(member) = self.reached().find(|member| member.region == region) {
            self.member_event(member, "failover", id, message);
        }
    }

    fn member_event(&self, member: &Member, category: &str, id: &str, message: &str) {
        let kind = ("RDS DB Cluster Event", "CLUSTER");
        let (name, arn) = (&member.cluster_id, self.arn(member));
        self.event(&member.region, kind, &[category], id, message, name, arn);
    }

    fn reached(&self) -> impl Iterator<Item = &Member> {
        let members = self.global.members.iter();
        members.filter(|member| !self.network.is_lost(&member.region))
    }

    #[allow(clippy::too_many_arguments)]
    fn event(
        &self,
        region: &str,
        (detail_type, source_type): (&str, &str),
        categories: &[&str],
        id: &str,
        message: &str,
        source: &str,
        arn: String,
    ) {
        let detail = json!({
            "EventCategories": categories,
            "SourceType": source_type,
            "SourceArn": arn,
            "Date": format!("{:.3}", Timestamp::now()),
            "Message": message,
            "SourceIdentifier": source,
            "EventID": id,
        });
        let serde_json::Value::Object(detail) = detail else { unreachable!("an object literal") };
        self.events.publish(region, id, detail_type, arn, detail);
    }

    fn describe_global(&self, parameters: &Parameters) -> Outcome<String> {
        only(parameters, &["GlobalClusterIdentifier", "MaxRecords"])?;
        if let Some(id) = parameters.get("GlobalClusterIdentifier") {
            self.check_id(id)?;
        }
        let shown = self.global_xml(&lock(&self.state));
        Ok(tag("GlobalClusters", tag("GlobalClusterMember", shown)))
    }

    fn describe_clusters(&self, region: &str, parameters: &Parameters) -> Outcome<String> {
        only(parameters, &["DBClusterIdentifier", "MaxRecords"])?;
        let found = match parameters.get("DBClusterIdentifier") {
            None => self.global.member_in(region),
            Some(id) => Some(self.member(region, id)?),
        };
        let shown = found.map(|member| tag("DBCluster", self.cluster_xml(member)));
        Ok(tag("DBClusters", shown.unwrap_or_default()))
    }

    /// The cluster in `region`, by its identifier or ARN.
    fn member(&self, region: &str, id: &str) -> Outcome<&Member> {
        let here = self.global.member_in(region);
        here.filter(|member| id == member.cluster_id || id == self.arn(member)).ok_or_else(|| no_cluster(id))
    }

    fn check_id(&self, id: &str) -> Outcome<()> {
        if id == self.global.id {
            return Ok(());
        }
        let message = format!("Global cluster {id} not found");
        Err(Refusal::new("GlobalClusterNotFoundFault", message).status(404))
    }

    fn arn(&self, member: &Member) -> String {
        let (region, account, id) = (&member.region, &self.account, &member.cluster_id);
        format!("arn:aws:rds:{region}:{account}:cluster:{id}")
    }

    fn arn_in(&self, region: &str) -> String {
        let member = self.global.member_in(region);
        member.map_or_else(String::new, |member| self.arn(member))
    }

    fn global_xml(&self, state: &State) -> String {
        let global = &self.global;
        let members: String = global.members.iter().map(|member| self.member_xml(state, member)).collect();
        let failover = state.failover.as_ref().map(|failover| {
            tag(
                "FailoverState",
                text("Status", failover.status)
                    + &text("FromDbClusterArn", self.arn_in(&failover.from))
                    + &text("ToDbClusterArn", self.arn_in(&failover.to))
                    + &text("IsDataLossAllowed", !failover.planned),
            )
        });
        let status = match &state.failover {
            Some(failover) if failover.planned => "switching-over",
            Some(_) => "failing-over",
            None => "available",
        };
        let arn = format!("arn:aws:rds::{}:global-cluster:{}", self.account, global.id);
        text("GlobalClusterIdentifier", &global.id)
            + &text("GlobalClusterResourceId", &self.resource_id)
            + &text("GlobalClusterArn", arn)
            + &text("Status", status)
            + &text("Engine", ENGINE)
            + &text("EngineVersion", &global.engine_version)
            + &text("StorageEncrypted", false)
            + &text("DeletionProtection", false)
            + &text("Endpoint", &global.endpoint)
            + &tag("GlobalClusterMembers", members)
            + &failover.unwrap_or_default()
    }

    fn member_xml(&self, state: &State, member: &Member) -> String {
        let writer = member.region == state.writer;
        let others = self.global.members.iter().filter(|other| writer && other.region != member.region);
        let readers: String = others.map(|other| text("member", self.arn(other))).collect();
        let cut_off = self.network.is_lost(&member.region) || state.resync.contains(&member.region);
        let synchronization = if cut_off { "pending-resync" } else { "connected" };
        let forwarding = (!writer).then(|| text("GlobalWriteForwardingStatus", "disabled"));
        tag(
            "GlobalClusterMember",
            text("DBClusterArn", self.arn(member))
                + &tag("Readers", readers)
                + &text("IsWriter", writer)
                + &forwarding.unwrap_or_default()
                + &text("SynchronizationStatus", synchronization),
        )
    }

    fn cluster_xml(&self, member: &Member) -> String {
        let state = lock(&self.state);
        let status = if state.failing_over.as_ref() == Some(&member.region) {
            "failing-over"
        } else if state.failover.as_ref().is_some_and(|failover| failover.to == member.region) {
            "promoting"
        } else {
            "available"
        };
        let source =
            (member.region != state.writer).then(|| text("ReplicationSourceIdentifier", self.arn_in(&state.writer)));
        drop(state);
        let instances = self.instances(&member.region).into_iter();
        let instances: String = instances
            .map(|(id, writer)| {
                tag(
                    "DBClusterMember",
                    text("DBInstanceIdentifier", id) + &text("IsClusterWriter", writer) + &text("PromotionTier", 1),
                )
            })
            .collect();
        text("DBClusterIdentifier", &member.cluster_id)
            + &text("DBClusterArn", self.arn(member))
            + &text("Status", status)
            + &text("Endpoint", &member.endpoint)
            + &text("ReaderEndpoint", &member.reader_endpoint)
            + &text("Port", member.port)
            + &text("Engine", ENGINE)
            + &text("EngineVersion", &self.global.engine_version)
            + &text("DBClusterParameterGroup", PARAMETER_GROUP)
            + &text("GlobalClusterIdentifier", &self.global.id)
            + &source.unwrap_or_default()
            + &tag("DBClusterMembers", instances)
    }
}

/// The default group limits no lag: the parameter is there, and has no value.
fn describe_parameters(parameters: &Parameters) -> Outcome<String> {
    only(parameters, &["DBClusterParameterGroupName", "Source", "MaxRecords"])?;
    let group = parameters.get("DBClusterParameterGroupName").map(String::as_str).unwrap_or_default();
    if group != PARAMETER_GROUP {
        let message = format!("DBClusterParameterGroup not found: {group}");
        return Err(Refusal::new("DBParameterGroupNotFound", message).status(404));
    }
    let parameter = text("ParameterName", "rds.global_db_rpo")
        + &text("Description", "(s) Limits the lag of the secondaries of a global database.")
        + &text("Source", "engine-default")
        + &text("ApplyType", "dynamic")
        + &text("DataType", "integer")
        + &text("AllowedValues", "20-2147483647")
        + &text("IsModifiable", true);
    Ok(tag("Parameters", tag("Parameter", parameter)))
}

fn parameters(body: &[u8]) -> Outcome<Parameters> {
    let mut parameters: Parameters = form_urlencoded::parse(body).into_owned().collect();
    parameters.remove("Action");
    match parameters.remove("Version").as_deref() {
        Some(VERSION) => Ok(parameters),
        other => {
            let message = format!("Could not find version {}", other.unwrap_or("(none)"));
            Err(Refusal::new("InvalidAction", message))
        }
    }
}

fn only(parameters: &Parameters, known: &[&str]) -> Outcome<()> {
    match parameters.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(other) => {
            let message = format!("the lab does not support the parameter {other} here");
            Err(Refusal::new("InvalidParameterValue", message))
        }
    }
}

fn required<'a>(parameters: &'a Parameters, name: &str) -> Outcome<&'a str> {
    parameters.get(name).map(String::as_str).ok_or_else(|| {
        let message = format!("The request must contain the parameter {name}.");
        Refusal::new("MissingParameter", message)
    })
}

fn flag(parameters: &Parameters, name: &str) -> Outcome<bool> {
    match parameters.get(name).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let message = format!("Invalid value {other} for {name}: must be true or false.");
            Err(Refusal::new("InvalidParameterValue", message))
        }
    }
}

fn no_cluster(id: &str) -> Refusal {
    Refusal::new("DBClusterNotFoundFault", format!("DBCluster {id} not found.")).status(404)
}
