//! `Custom::GlobalClusterMember`: before an Aurora cluster is deleted, it is taken out of its global database.

use super::{Job, Resource, not_empty};
use crate::failure::Failure;
use crate::protocol::Data;
use aws_sdk_rds::Client;
use aws_sdk_rds::error::ProvideErrorMetadata as _;
use aws_sdk_rds::types::GlobalClusterMember as Member;
use serde::Deserialize;
use std::time::Duration;
use tracing::info;

const POLL_EVERY: Duration = Duration::from_secs(5);

/// An hour, more than any function has.
const LOOKS_MAX: u32 = 720;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GlobalClusterMember {
    global_cluster_id: String,
    cluster_arn: String,
    region: String,
}

impl Resource for GlobalClusterMember {
    const TYPE: &'static str = "Custom::GlobalClusterMember";
    const ONLY_DELETES: bool = true;

    fn check(&self) -> Result<(), Failure> {
        not_empty("GlobalClusterId", &self.global_cluster_id)?;
        not_empty("ClusterArn", &self.cluster_arn)?;
        not_empty("Region", &self.region)
    }

    fn identity(&self) -> Vec<String> {
        vec![self.global_cluster_id.clone(), self.cluster_arn.clone()]
    }

    async fn put(&self, _old: Option<&Self>, _job: &Job) -> Result<Data, Failure> {
        Ok(Data::new())
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let rds = job.aws.rds(&self.region).await;
        let mut called = false;
        for _ in 0..LOOKS_MAX {
            let waiting_for = match self.look(&rds).await? {
                Seen::Gone => return Ok(()),
                Seen::Member if called => "RDS is taking it out".to_owned(),
                Seen::Member => match self.call(&rds).await? {
                    Called::Accepted => {
                        called = true;
                        continue;
                    }
                    Called::NotNow(why) => why,
                },
                // Out, and not yet a cluster that can be deleted.
                Seen::Busy(status) => format!("it is {status}"),
            };
            let what = format!("{} leaves {}: {waiting_for}", self.cluster_arn, self.global_cluster_id);
            job.wait(POLL_EVERY, &what).await?;
        }
        Err(Failure::new(format!("{} is still a member of {}", self.cluster_arn, self.global_cluster_id)))
    }
}

/// What a look finds.
enum Seen {
    /// No member, and nothing under way.
    Gone,
    Member,
    Busy(String),
}

/// What a call brought.
enum Called {
    Accepted,
    /// A failover is under way, or the cluster is the writer and has readers: that may end.
    NotNow(String),
}

impl GlobalClusterMember {
    async fn look(&self, rds: &Client) -> Result<Seen, Failure> {
        let request = rds.describe_global_clusters().global_cluster_identifier(&self.global_cluster_id);
        let members = match request.send().await {
            Err(error) if error.code() == Some("GlobalClusterNotFoundFault") => Vec::new(),
            answer => {
                let answer = answer.map_err(|error| Failure::of_call("DescribeGlobalClusters", &error))?;
                answer.global_clusters().iter().flat_map(|cluster| cluster.global_cluster_members()).cloned().collect()
            }
        };
        if members.iter().any(|member| self.is_this(member)) {
            return Ok(Seen::Member);
        }
        match rds.describe_db_clusters().db_cluster_identifier(&self.cluster_arn).send().await {
            Err(error) if error.code() == Some("DBClusterNotFoundFault") => Ok(Seen::Gone),
            answer => {
                let answer = answer.map_err(|error| Failure::of_call("DescribeDBClusters", &error))?;
                let status = answer.db_clusters().first().and_then(|cluster| cluster.status()).unwrap_or("available");
                // What is deleted or stopped by somebody needs no waiting; anything else is not ours to judge.
                let busy = ["promoting", "modifying"].contains(&status);
                Ok(if busy { Seen::Busy(status.to_owned()) } else { Seen::Gone })
            }
        }
    }

    fn is_this(&self, member: &Member) -> bool {
        member.db_cluster_arn() == Some(&self.cluster_arn)
    }

    async fn call(&self, rds: &Client) -> Result<Called, Failure> {
        let request = rds.remove_from_global_cluster().global_cluster_identifier(&self.global_cluster_id);
        let answer = request.db_cluster_identifier(&self.cluster_arn).send().await;
        let Err(error) = answer else {
            info!(cluster = self.cluster_arn, "RDS takes it out of the global database");
            return Ok(Called::Accepted);
        };
        let failure = Failure::of_call("RemoveFromGlobalCluster", &error);
        match error.code() {
            Some("GlobalClusterNotFoundFault" | "DBClusterNotFoundFault") => Ok(Called::Accepted),
            Some("InvalidGlobalClusterStateFault" | "InvalidDBClusterStateFault") => {
                Ok(Called::NotNow(failure.to_string()))
            }
            _ => Err(failure),
        }
    }
}
