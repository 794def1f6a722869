//! RDS, reduced to what the effects need. Calls go to the region that the caller names: a failover is asked for
//! in the target's region, because the other one may be gone.

use crate::aws::{Regional, chain, refusal};
use crate::config::AwsSettings;
use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_sdk_rds::Client;
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_rds::types::GlobalCluster;
use statemachine::{Arn, Assessment, ClusterFacts, ClusterId, FailoverInProgress, MemberFacts, Region};

/// A call to RDS went wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RdsError {
    /// RDS answered no; the call did nothing.
    #[error("RDS {operation} in {region} answered {code}: {message}")]
    Answered {
        /// Which call.
        operation: &'static str,
        /// Where.
        region: Region,
        /// AWS error code.
        code: String,
        /// AWS message.
        message: String,
    },
    /// No usable answer; the call may have been carried out.
    #[error("RDS {operation} in {region} gave no answer: {detail}")]
    NoAnswer {
        /// Which call.
        operation: &'static str,
        /// Where.
        region: Region,
        /// The error chain.
        detail: String,
    },
}

/// What the effects need of RDS.
#[async_trait]
pub trait Rds: Send + Sync {
    /// `DescribeGlobalClusters`, as seen from `region`; regional details are left empty.
    async fn global_cluster(&self, region: &Region, cluster: &ClusterId) -> Result<Assessment, RdsError>;

    /// `DescribeDBClusters` in `region`.
    async fn cluster(&self, region: &Region, arn: &Arn) -> Result<ClusterFacts, RdsError>;

    /// `FailoverGlobalCluster` with loss allowed, in `region`; never retried by the SDK.
    async fn fail_over(&self, region: &Region, cluster: &ClusterId, target: &Arn) -> Result<(), RdsError>;

    /// `SwitchoverGlobalCluster`, in the primary's `region`; never retried by the SDK.
    async fn switch_over(&self, region: &Region, cluster: &ClusterId, target: &Arn) -> Result<(), RdsError>;

    /// `FailoverDBCluster`, in the cluster's `region`; never retried by the SDK.
    async fn fail_over_in_region(&self, region: &Region, cluster: &Arn, instance: Option<&str>)
    -> Result<(), RdsError>;
}

/// RDS through the SDK, one client per region, made on first use.
pub struct AwsRds {
    clients: Regional<Client>,
}

impl AwsRds {
    /// With these time-outs.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self { clients: Regional::new(settings, Client::new) }
    }

    /// The lag at which the primary stops committing, in seconds (`rds.global_db_rpo` of the cluster's parameter
    /// group); none when it never does.
    ///
    /// # Errors
    /// A call failed, or the answer makes no sense.
    pub async fn lag_limit_s(&self, region: &Region, arn: &Arn) -> Result<Option<u64>, RdsError> {
        let client = self.clients.client(region).await;
        let clusters = client.describe_db_clusters().db_cluster_identifier(arn.as_str()).send().await;
        let clusters = clusters.map_err(|error| failed("DescribeDBClusters", region, &error))?;
        let Some(group) = clusters.db_clusters().first().and_then(|cluster| cluster.db_cluster_parameter_group())
        else {
            return Ok(None);
        };
        let pages = client.describe_db_cluster_parameters().db_cluster_parameter_group_name(group);
        let mut parameters = pages.into_paginator().items().send();
        while let Some(parameter) = parameters.next().await {
            let parameter = parameter.map_err(|error| failed("DescribeDBClusterParameters", region, &error))?;
            if parameter.parameter_name() == Some("rds.global_db_rpo") {
                // -1 is how AWS writes "off".
                return Ok(parameter.parameter_value().and_then(|value| value.parse().ok()));
            }
        }
        Ok(None)
    }
}

fn failed<E>(operation: &'static str, region: &Region, error: &SdkError<E>) -> RdsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let region = region.clone();
    match refusal(error) {
        Some((code, message)) => RdsError::Answered { operation, region, code, message },
        None => RdsError::NoAnswer { operation, region, detail: chain(error) },
    }
}

#[async_trait]
impl Rds for AwsRds {
    async fn global_cluster(&self, region: &Region, cluster: &ClusterId) -> Result<Assessment, RdsError> {
        const OPERATION: &str = "DescribeGlobalClusters";
        let client = self.clients.client(region).await;
        let answer = client.describe_global_clusters().global_cluster_identifier(cluster.as_str()).send().await;
        let answer = answer.map_err(|error| failed(OPERATION, region, &error))?;
        let found = answer.global_clusters().first().ok_or_else(|| RdsError::Answered {
            operation: OPERATION,
            region: region.clone(),
            code: "EmptyList".into(),
            message: format!("no global cluster {cluster}"),
        })?;
        Ok(assessment(region, found))
    }

    async fn cluster(&self, region: &Region, arn: &Arn) -> Result<ClusterFacts, RdsError> {
        const OPERATION: &str = "DescribeDBClusters";
        let client = self.clients.client(region).await;
        let answer = client.describe_db_clusters().db_cluster_identifier(arn.as_str()).send().await;
        let answer = answer.map_err(|error| failed(OPERATION, region, &error))?;
        let found = answer.db_clusters().first().ok_or_else(|| RdsError::Answered {
            operation: OPERATION,
            region: region.clone(),
            code: "EmptyList".into(),
            message: format!("no cluster {arn}"),
        })?;
        Ok(ClusterFacts {
            status: found.status().unwrap_or("unknown").into(),
            engine_version: found.engine_version().unwrap_or_default().into(),
            instances: u32::try_from(found.db_cluster_members().len()).unwrap_or(u32::MAX),
        })
    }

    async fn fail_over(&self, region: &Region, cluster: &ClusterId, target: &Arn) -> Result<(), RdsError> {
        let client = self.clients.client(region).await;
        client
            .failover_global_cluster()
            .global_cluster_identifier(cluster.as_str())
            .target_db_cluster_identifier(target.as_str())
            .allow_data_loss(true)
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| failed("FailoverGlobalCluster", region, &error))?;
        Ok(())
    }

    async fn switch_over(&self, region: &Region, cluster: &ClusterId, target: &Arn) -> Result<(), RdsError> {
        let client = self.clients.client(region).await;
        client
            .switchover_global_cluster()
            .global_cluster_identifier(cluster.as_str())
            .target_db_cluster_identifier(target.as_str())
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| failed("SwitchoverGlobalCluster", region, &error))?;
        Ok(())
    }

    async fn fail_over_in_region(
        &self,
        region: &Region,
        cluster: &Arn,
        instance: Option<&str>,
    ) -> Result<(), RdsError> {
        let client = self.clients.client(region).await;
        client
            .failover_db_cluster()
            .db_cluster_identifier(cluster.as_str())
            .set_target_db_instance_identifier(instance.map(str::to_owned))
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| failed("FailoverDBCluster", region, &error))?;
        Ok(())
    }
}

/// No SDK retries: these calls have no client token, and a blind repetition could move the writer twice.
fn once() -> aws_sdk_rds::config::Builder {
    aws_sdk_rds::config::Builder::default().retry_config(RetryConfig::disabled())
}

fn assessment(asked: &Region, found: &GlobalCluster) -> Assessment {
    let members = found.global_cluster_members().iter().map(|member| MemberFacts {
        arn: Arn(member.db_cluster_arn().unwrap_or_default().into()),
        writer: member.is_writer().unwrap_or(false),
        synchronization: member.synchronization_status().map(|s| s.as_str().into()),
        cluster: None,
    });
    let failover = found.failover_state().and_then(|state| {
        let status = state.status()?.as_str().to_owned();
        Some(FailoverInProgress { status, to: Arn(state.to_db_cluster_arn().unwrap_or_default().into()) })
    });
    Assessment {
        asked: asked.clone(),
        status: found.status().unwrap_or("unknown").into(),
        engine_version: found.engine_version().unwrap_or_default().into(),
        members: members.collect(),
        failover,
    }
}
