//! `Custom::DnsRecords`: before a hosted zone or a stack is deleted, its records are, whatever their values have
//! become: a failover changes them.

use super::{Job, Resource, not_empty};
use crate::failure::Failure;
use crate::protocol::Data;
use aws_sdk_route53::Client;
use aws_sdk_route53::error::ProvideErrorMetadata as _;
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecordSet, RrType};
use serde::Deserialize;
use serde_json::Value;
use tracing::info;

/// Records may change between the look and the deletion.
const ROUNDS_MAX: u32 = 5;

/// Pages of 300.
const PAGES_MAX: u32 = 1_000;

/// Below the limits of a change batch: 1,000 values, 32,000 characters of them.
const BATCH_VALUES_MAX: usize = 900;
const BATCH_CHARACTERS_MAX: usize = 25_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DnsRecords {
    hosted_zone_id: String,
    names: Option<Vec<String>>,
    #[serde(default, deserialize_with = "all")]
    all: bool,
}

fn all<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(true) => Ok(true),
        Value::String(text) if text == "true" => Ok(true),
        _ => Err(serde::de::Error::custom("All must be \"true\", or absent")),
    }
}

impl Resource for DnsRecords {
    const TYPE: &'static str = "Custom::DnsRecords";
    const ONLY_DELETES: bool = true;

    fn check(&self) -> Result<(), Failure> {
        not_empty("HostedZoneId", &self.hosted_zone_id)?;
        match &self.names {
            None if !self.all => Err(Failure::new("one of Names and All is needed")),
            Some(_) if self.all => Err(Failure::new("Names and All exclude each other")),
            Some(names) if names.iter().any(|name| name.trim().is_empty()) => Err(Failure::new("a name is empty")),
            _ => Ok(()),
        }
    }

    /// Other names are no other resource: replaced, it would delete records that are in use.
    fn identity(&self) -> Vec<String> {
        vec![self.zone().to_owned()]
    }

    async fn put(&self, _old: Option<&Self>, _job: &Job) -> Result<Data, Failure> {
        Ok(Data::new())
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let route53 = job.aws.route53().await;
        let mut last = None;
        for round in 1..=ROUNDS_MAX {
            let Some(found) = self.find(&route53).await? else { return Ok(()) };
            if found.is_empty() {
                return Ok(());
            }
            info!(zone = self.zone(), round, records = found.len(), "deleting");
            last = None;
            for batch in batches(found) {
                match self.delete(&route53, batch).await {
                    // Changed, or gone, since the look.
                    Err(Refused::Batch(failure)) => last = Some(failure),
                    Err(Refused::Other(failure)) => return Err(failure),
                    Ok(()) => {}
                }
            }
            if last.is_none() {
                return Ok(());
            }
        }
        Err(last.unwrap_or_else(|| Failure::new("the records keep changing")))
    }
}

/// Why a batch was not carried out.
enum Refused {
    /// It does not fit the zone any more.
    Batch(Failure),
    Other(Failure),
}

impl DnsRecords {
    fn zone(&self) -> &str {
        self.hosted_zone_id.trim_start_matches("/hostedzone/")
    }

    /// The records to delete; none when the zone is gone.
    async fn find(&self, route53: &Client) -> Result<Option<Vec<ResourceRecordSet>>, Failure> {
        let zone = route53.get_hosted_zone().id(self.zone()).send().await;
        let apex = match zone {
            Err(error) if error.code() == Some("NoSuchHostedZone") => return Ok(None),
            answer => answer.map_err(|error| Failure::of_call("GetHostedZone", &error))?,
        };
        let apex = apex.hosted_zone().map(|zone| normalized(zone.name())).unwrap_or_default();
        let names: Option<Vec<String>> =
            self.names.as_ref().map(|names| names.iter().map(|name| normalized(name)).collect());
        let wanted = |record: &ResourceRecordSet| {
            let name = normalized(record.name());
            let of_the_zone = name == apex && matches!(record.r#type(), RrType::Ns | RrType::Soa);
            !of_the_zone && names.as_ref().is_none_or(|names| names.contains(&name))
        };
        let mut found = Vec::new();
        let mut from = (None, None, None);
        for _ in 0..PAGES_MAX {
            let request = route53.list_resource_record_sets().hosted_zone_id(self.zone());
            let request = request.set_start_record_name(from.0).set_start_record_type(from.1);
            let page = match request.set_start_record_identifier(from.2).send().await {
                Err(error) if error.code() == Some("NoSuchHostedZone") => return Ok(None),
                answer => answer.map_err(|error| Failure::of_call("ListResourceRecordSets", &error))?,
            };
            found.extend(page.resource_record_sets().iter().filter(|record| wanted(record)).cloned());
            if !page.is_truncated() {
                return Ok(Some(found));
            }
            from = (page.next_record_name, page.next_record_type, page.next_record_identifier);
        }
        Err(Failure::new(format!("the hosted zone {} has too many records", self.zone())))
    }

    async fn delete(&self, route53: &Client, records: Vec<ResourceRecordSet>) -> Result<(), Refused> {
        let unusable = |error: aws_sdk_route53::error::BuildError| Refused::Other(Failure::new(error.to_string()));
        let mut batch = ChangeBatch::builder().comment("aurora-failover: the stack is deleted");
        for record in records {
            let change = Change::builder().action(ChangeAction::Delete).resource_record_set(record).build();
            batch = batch.changes(change.map_err(unusable)?);
        }
        let batch = batch.build().map_err(unusable)?;
        let request = route53.change_resource_record_sets().hosted_zone_id(self.zone()).change_batch(batch);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = Failure::of_call("ChangeResourceRecordSets", &error);
                match error.code() {
                    Some("NoSuchHostedZone") => Ok(()),
                    Some("InvalidChangeBatch") => Err(Refused::Batch(failure)),
                    _ => Err(Refused::Other(failure)),
                }
            }
        }
    }
}

/// Cuts a list into batches that Route 53 takes.
fn batches(records: Vec<ResourceRecordSet>) -> Vec<Vec<ResourceRecordSet>> {
    let mut batches: Vec<Vec<ResourceRecordSet>> = vec![Vec::new()];
    let (mut values, mut characters) = (0, 0);
    for record in records {
        // An alias counts as one.
        let has = record.resource_records().len().max(1);
        let long: usize = record.resource_records().iter().map(|value| value.value().chars().count()).sum();
        let full = values + has > BATCH_VALUES_MAX || characters + long > BATCH_CHARACTERS_MAX;
        if full && batches.last().is_some_and(|batch| !batch.is_empty()) {
            batches.push(Vec::new());
            (values, characters) = (0, 0);
        }
        (values, characters) = (values + has, characters + long);
        if let Some(batch) = batches.last_mut() {
            batch.push(record);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// As Route 53 writes names: in small letters, with a dot at the end, and an asterisk as an octal number.
fn normalized(name: &str) -> String {
    let name = name.trim().trim_end_matches('.').to_ascii_lowercase().replace('*', "\\052");
    format!("{name}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_route53::types::ResourceRecord;

    fn record(name: &str, values: usize, length: usize) -> ResourceRecordSet {
        let value = || ResourceRecord::builder().value("x".repeat(length)).build().unwrap();
        let values = (0..values).map(|_| value()).collect();
        ResourceRecordSet::builder().name(name).r#type(RrType::Txt).set_resource_records(Some(values)).build().unwrap()
    }

    #[test]
    fn batches_stay_below_the_limits_and_leave_nothing_out() {
        let mut records: Vec<_> = (0..2_000).map(|i| record(&format!("r{i}."), 1, 10)).collect();
        records.extend((0..300).map(|i| record(&format!("l{i}."), 4, 250)));
        let batches = batches(records);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 2_300);
        for batch in &batches {
            let values = batch.iter().flat_map(ResourceRecordSet::resource_records);
            assert!(values.clone().count() <= 1_000);
            assert!(values.map(|value| value.value().len()).sum::<usize>() <= 32_000);
        }
        assert!(super::batches(Vec::new()).is_empty());
    }

    #[test]
    fn names_are_compared_as_route_53_writes_them() {
        assert_eq!(normalized("DB.Example.com"), "db.example.com.");
        assert_eq!(normalized("*.example.com."), normalized("\\052.example.com"));
    }
}
