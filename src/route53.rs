//! Route 53, reduced to what the effects need: read, swap, and wait until in sync.

use crate::aws::{CallError, chain};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_route53::Client;
use aws_sdk_route53::error::ProvideErrorMetadata as _;
use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, ChangeStatus, ResourceRecord, ResourceRecordSet, RrType,
};
use statemachine::RecordChange;

/// What a record holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentRecord {
    /// The CNAME's value exactly as stored: a deletion must repeat it.
    pub value: String,
    /// TTL in seconds.
    pub ttl_s: u64,
}

impl CurrentRecord {
    /// Does it point at `name` (fully qualified, lower case)?
    #[must_use]
    pub fn points_at(&self, name: &str) -> bool {
        self.value.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
    }
}

/// What the effects need of Route 53.
#[async_trait]
pub trait Route53: Send + Sync {
    /// The CNAME record `name`, if it is there.
    async fn current(&self, zone: &str, name: &str) -> Result<Option<CurrentRecord>, CallError>;

    /// Swaps all records of one zone in one batch: each must hold exactly its old value and TTL. Answers the
    /// change id.
    async fn swap(&self, zone: &str, changes: &[(RecordChange, CurrentRecord)]) -> Result<String, CallError>;

    /// Is the change on all name servers?
    async fn in_sync(&self, change: &str) -> Result<bool, CallError>;
}

/// Route 53 through the SDK.
#[derive(Debug, Clone)]
pub struct AwsRoute53 {
    client: Client,
}

impl AwsRoute53 {
    /// With this configuration, but for the region: Route 53 has one control plane per partition.
    #[must_use]
    pub fn new(sdk: &SdkConfig) -> Self {
        let region = match sdk.region().map(AsRef::as_ref) {
            Some(own) if own.starts_with("cn-") => "cn-northwest-1",
            Some(own) if own.starts_with("us-gov-") => "us-gov-west-1",
            _ => "us-east-1",
        };
        let config = aws_sdk_route53::config::Builder::from(sdk).region(aws_config::Region::new(region)).build();
        Self { client: Client::from_conf(config) }
    }
}

#[async_trait]
impl Route53 for AwsRoute53 {
    async fn current(&self, zone: &str, name: &str) -> Result<Option<CurrentRecord>, CallError> {
        let answer = self
            .client
            .list_resource_record_sets()
            .hosted_zone_id(zone)
            .start_record_name(name)
            .start_record_type(RrType::Cname)
            .max_items(1)
            .send()
            .await
            .map_err(|error| CallError::of("Route 53 ListResourceRecordSets", &error))?;
        let found = answer
            .resource_record_sets()
            .first()
            .filter(|set| set.name().eq_ignore_ascii_case(name) && *set.r#type() == RrType::Cname);
        Ok(found.and_then(|set| {
            let value = set.resource_records().first()?.value().to_owned();
            Some(CurrentRecord { value, ttl_s: u64::try_from(set.ttl().unwrap_or(0)).unwrap_or(0) })
        }))
    }

    async fn swap(&self, zone: &str, changes: &[(RecordChange, CurrentRecord)]) -> Result<String, CallError> {
        const CALL: &str = "Route 53 ChangeResourceRecordSets";
        let mut batch = Vec::new();
        for (change, current) in changes {
            batch.push(record(ChangeAction::Delete, &change.name, current.ttl_s, &current.value));
            batch.push(record(ChangeAction::Create, &change.name, change.ttl_s, &change.to));
        }
        let batch = ChangeBatch::builder().comment("aurora-failover").set_changes(Some(batch)).build();
        let batch = batch.expect("changes are given");
        let sent = self.client.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch).send().await;
        match sent {
            Ok(answer) => Ok(answer.change_info().map(|info| info.id().to_owned()).unwrap_or_default()),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_invalid_change_batch() => {
                    let detail = error.message().map_or_else(|| chain(&error), str::to_owned);
                    Err(CallError::SwapRefused { call: CALL, detail })
                }
                _ => Err(CallError::of(CALL, &error)),
            },
        }
    }

    async fn in_sync(&self, change: &str) -> Result<bool, CallError> {
        let answer = self
            .client
            .get_change()
            .id(change)
            .send()
            .await
            .map_err(|error| CallError::of("Route 53 GetChange", &error))?;
        Ok(answer.change_info().is_some_and(|info| *info.status() == ChangeStatus::Insync))
    }
}

fn record(action: ChangeAction, name: &str, ttl_s: u64, value: &str) -> Change {
    let value = ResourceRecord::builder().value(value).build().expect("a value is given");
    let set = ResourceRecordSet::builder()
        .name(name)
        .r#type(RrType::Cname)
        .ttl(i64::try_from(ttl_s).unwrap_or(i64::MAX))
        .resource_records(value)
        .build()
        .expect("name and type are given");
    Change::builder().action(action).resource_record_set(set).build().expect("action and set are given")
}
