//! RDS, query protocol of 2014-10-31: one Aurora global cluster over real PostgreSQL servers.
//!
//! `FailoverGlobalCluster` answers at once with the old writer and then promotes for real, through
//! [`Databases`]; members flip when the new writer takes writes, and the RDS events of a failover
//! appear on the default buses. Deliberately absent: switchover, in-region failover, and every
//! action that makes or deletes something. What AWS does not document (which fault a repeated call
//! gets, a call in a wrong region) is chosen here; do not code against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::eventbridge::EventBridge;
use super::wire::{Outcome, Refusal, Reply, document, lock, request_id, tag, text, xml_error};
use super::{AwsOptions, Network};
use crate::dns::{RecordKind, Zones};

const NAMESPACE: &str = "http://rds.amazonaws.com/doc/2014-10-31/";
const VERSION: &str = "2014-10-31";
const ENGINE: &str = "aurora-postgresql";
const GLOBAL_ENDPOINT_TTL_S: u32 = 1;

/// The real PostgreSQL clusters.
#[async_trait]
pub trait Databases: Send + Sync {
    /// Makes the cluster of `region` the writer; returns when it takes writes.
    ///
    /// An old writer in a region that is not lost must take no more writes by then: RDS says so
    /// in an event (RDS-EVENT-0390).
    async fn promote(&self, region: &str) -> anyhow::Result<()>;

    /// Instances of the cluster in `region`: (instance id, is writer).
    fn instances(&self, region: &str) -> Vec<(String, bool)>;
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
    resync: BTreeSet<String>,
}

#[derive(Clone)]
struct Failover {
    from: String,
    to: String,
    status: &'static str,
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
        let state = State { writer: global.members[0].region.clone(), failover: None, resync: BTreeSet::new() };
        let inner = Inner {
            account: options.account.clone(),
            resource_id: format!("cluster-{}", &uuid::Uuid::new_v4().simple().to_string()[..16]),
            global,
            state: Mutex::new(state),
            databases: options.databases.clone(),
            zones: options.zones.clone(),
            network,
            events,
            tasks,
            stop,
        };
        inner.point_global_endpoint(&inner.global.members[0].region)?;
        Ok(Self(Arc::new(inner)))
    }

    pub(super) fn rejoined(&self, region: &str) {
        lock(&self.0.state).resync.remove(region);
    }

    pub(super) fn call(&self, region: &str, action: &str, body: &[u8]) -> Reply {
        let result = parameters(body).and_then(|parameters| match action {
            "DescribeGlobalClusters" => self.0.describe_global(&parameters),
            "DescribeDBClusters" => self.0.describe_clusters(region, &parameters),
            "FailoverGlobalCluster" => self.failover(region, &parameters),
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
        let inner = &self.0;
        only(parameters, &["GlobalClusterIdentifier", "TargetDbClusterIdentifier", "AllowDataLoss", "Switchover"])?;
        inner.check_id(required(parameters, "GlobalClusterIdentifier")?)?;
        let target_arn = required(parameters, "TargetDbClusterIdentifier")?;
        let (lossy, switchover) = (flag(parameters, "AllowDataLoss")?, flag(parameters, "Switchover")?);
        if lossy && switchover {
            let message = "AllowDataLoss and Switchover exclude each other.";
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        if !lossy {
            let message = "Without AllowDataLoss=true this is a switchover, which this lab does not support; call again with AllowDataLoss=true.";
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        let members = inner.global.members.iter();
        let target = members.clone().find(|member| inner.arn(member) == target_arn);
        let target = target.ok_or_else(|| no_cluster(target_arn))?;
        if target.region != region {
            let message = format!(
                "DBCluster {target_arn} not found in {region}: call FailoverGlobalCluster in the region of the target, {}.",
                target.region
            );
            return Err(Refusal::new("DBClusterNotFoundFault", message).status(404));
        }
        if inner.databases.instances(&target.region).is_empty() {
            let message = format!("DB cluster {target_arn} has no DB instance that could be promoted.");
            return Err(Refusal::new("InvalidDBClusterStateFault", message));
        }
        let shown = {
            let mut state = lock(&inner.state);
            if state.failover.is_some() {
                let message =
                    format!("Global cluster {} is in state failing-over; wait until it is available.", inner.global.id);
                return Err(Refusal::new("InvalidGlobalClusterStateFault", message));
            }
            if state.writer == target.region {
                let message = format!("DB cluster {target_arn} is already the primary DB cluster.");
                return Err(Refusal::new("InvalidGlobalClusterStateFault", message));
            }
            state.failover =
                Some(Failover { from: state.writer.clone(), to: target.region.clone(), status: "pending" });
            tag("GlobalCluster", inner.global_xml(&state))
        };
        let promotion = {
            let (inner, target) = (inner.clone(), target.clone());
            async move { inner.promote(&target).await }
        };
        let stop = inner.stop.clone();
        inner.tasks.spawn(stop.run_until_cancelled_owned(promotion));
        Ok(shown)
    }
}

impl Inner {
    async fn promote(&self, target: &Member) {
        if let Some(failover) = &mut lock(&self.state).failover {
            failover.status = "failing-over";
        }
        let place = format!("DB cluster {} in Region {}", target.cluster_id, target.region);
        if let Err(error) = self.databases.promote(&target.region).await {
            tracing::warn!(region = target.region, error = format!("{error:#}"), "promotion failed");
            lock(&self.state).failover = None;
            self.cluster_event("RDS-EVENT-0239", &format!("Global failover to {place} failed."));
            return;
        }
        let old = {
            let mut state = lock(&self.state);
            let old = std::mem::replace(&mut state.writer, target.region.clone());
            state.resync.remove(&target.region);
            state.resync.insert(old.clone());
            state.failover = None;
            old
        };
        self.write_block_event(&old);
        self.cluster_event("RDS-EVENT-0238", &format!("Global failover to {place} completed."));
        match self.point_global_endpoint(&target.region) {
            Ok(()) => self.cluster_event(
                "RDS-EVENT-0397",
                "Aurora finished changing the DNS name that the global writer endpoint resolves to.",
            ),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the global endpoint stays"),
        }
    }

    fn point_global_endpoint(&self, writer: &str) -> anyhow::Result<()> {
        let name = &self.global.endpoint;
        match self.global.members.iter().find(|member| member.region == writer) {
            Some(member) if self.zones.covers(name) => {
                let target = [member.endpoint.as_str()];
                self.zones.set(name, RecordKind::Cname, GLOBAL_ENDPOINT_TTL_S, &target)
            }
            _ => Ok(()),
        }
    }

    /// Whether the old writer was stopped from writing; it cannot be while its region is lost.
    fn write_block_event(&self, old: &str) {
        let cluster = self.global.members.iter().find(|member| member.region == old);
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
            let kind = ("RDS DB Cluster Event", "CLUSTER");
            let (name, arn) = (&member.cluster_id, self.arn(member));
            self.event(&member.region, kind, &["global-failover"], id, message, name, arn);
        }
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
        self.events.publish(region, "aws.rds", detail_type, arn, detail);
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
        let here = self.global.members.iter().find(|member| member.region == region);
        let asked = parameters.get("DBClusterIdentifier");
        let found = match (here, asked) {
            (here, None) => here,
            (Some(member), Some(id)) if *id == member.cluster_id || *id == self.arn(member) => here,
            (_, Some(id)) => return Err(no_cluster(id)),
        };
        let shown = found.map(|member| tag("DBCluster", self.cluster_xml(member)));
        Ok(tag("DBClusters", shown.unwrap_or_default()))
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
        let member = self.global.members.iter().find(|member| member.region == region);
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
                    + &text("IsDataLossAllowed", true),
            )
        });
        let status = if failover.is_some() { "failing-over" } else { "available" };
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
        let promoting = state.failover.as_ref().is_some_and(|failover| failover.to == member.region);
        let source =
            (member.region != state.writer).then(|| text("ReplicationSourceIdentifier", self.arn_in(&state.writer)));
        drop(state);
        let instances = self.databases.instances(&member.region).into_iter();
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
            + &text("Status", if promoting { "promoting" } else { "available" })
            + &text("Endpoint", &member.endpoint)
            + &text("ReaderEndpoint", &member.reader_endpoint)
            + &text("Port", member.port)
            + &text("Engine", ENGINE)
            + &text("EngineVersion", &self.global.engine_version)
            + &text("GlobalClusterIdentifier", &self.global.id)
            + &source.unwrap_or_default()
            + &tag("DBClusterMembers", instances)
    }
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
