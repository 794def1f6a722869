//! `Custom::DnsRecords` against Route 53 of ministack.

use crate::support::{Function, Recorder, aws};
use aws_sdk_route53::Client;
use aws_sdk_route53::types::{
    AliasTarget, Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType,
};
use serde_json::json;
use std::collections::BTreeSet;

const DNS_RECORDS: &str = "Custom::DnsRecords";

fn record(name: &str, kind: RrType, value: &str) -> ResourceRecordSet {
    let value = ResourceRecord::builder().value(value).build().expect("a value");
    ResourceRecordSet::builder().name(name).r#type(kind).ttl(5).resource_records(value).build().expect("a record")
}

fn weighted(name: &str, id: &str, value: &str) -> ResourceRecordSet {
    let value = ResourceRecord::builder().value(value).build().expect("a value");
    let record = ResourceRecordSet::builder().name(name).r#type(RrType::Cname).ttl(5).set_identifier(id).weight(1);
    record.resource_records(value).build().expect("a record")
}

async fn change(route53: &Client, zone: &str, action: ChangeAction, records: Vec<ResourceRecordSet>) {
    for some in records.chunks(200) {
        let changes = some.iter().map(|record| {
            Change::builder().action(action.clone()).resource_record_set(record.clone()).build().expect("a change")
        });
        let batch = ChangeBatch::builder().set_changes(Some(changes.collect())).build().expect("a batch");
        let request = route53.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch);
        request.send().await.expect("changed");
    }
}

/// Names and types that are there.
async fn there(route53: &Client, zone: &str) -> BTreeSet<String> {
    let (mut found, mut from) = (BTreeSet::new(), (None, None));
    loop {
        let request = route53.list_resource_record_sets().hosted_zone_id(zone);
        let request = request.set_start_record_name(from.0).set_start_record_type(from.1);
        let page = request.send().await.expect("a page");
        let names = page.resource_record_sets().iter().map(|record| format!("{} {}", record.name(), record.r#type()));
        found.extend(names);
        if !page.is_truncated() {
            return found;
        }
        from = (page.next_record_name, page.next_record_type);
    }
}

#[tokio::test]
async fn records_are_deleted_whatever_their_values_have_become() {
    let emulator = aws::ministack().await;
    let route53 = Client::new(&aws::config(emulator, "us-east-1").await);
    let zone = route53.create_hosted_zone().name("example.test").caller_reference("1").send().await.expect("a zone");
    let zone = zone.hosted_zone().expect("a zone").id().trim_start_matches("/hostedzone/").to_owned();
    let alias = AliasTarget::builder().hosted_zone_id(&zone).dns_name("n1.example.test").evaluate_target_health(false);
    let alias = alias.build().expect("an alias");
    let alias = ResourceRecordSet::builder().name("*.example.test").r#type(RrType::A).alias_target(alias).build();
    let mut records = vec![
        record("db.example.test", RrType::Cname, "writer.us-east-2.example.test"),
        record("example.test", RrType::Txt, "\"kept by no name\""),
        record("sub.example.test", RrType::Ns, "ns.elsewhere.test"),
        weighted("w.example.test", "a", "n1.example.test"),
        weighted("w.example.test", "b", "n2.example.test"),
        alias.expect("a record"),
    ];
    records.extend((0..350).map(|i| record(&format!("n{i}.example.test"), RrType::A, "192.0.2.1")));
    change(&route53, &zone, ChangeAction::Create, records).await;

    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    function.create(DNS_RECORDS, &json!({ "HostedZoneId": zone })).await.failed("one of Names and All");
    let both = json!({ "HostedZoneId": zone, "Names": ["db.example.test"], "All": "true" });
    function.create(DNS_RECORDS, &both).await.failed("exclude each other");
    let some = json!({ "HostedZoneId": zone, "Names": ["DB.example.test.", "w.example.test", "example.test"] });
    let created = function.create(DNS_RECORDS, &some).await.succeeded();
    let fewer = json!({ "HostedZoneId": zone, "Names": ["db.example.test", "w.example.test"] });
    let updated = function.update(DNS_RECORDS, &created.id(), &some, &fewer).await.succeeded();
    assert_eq!(updated.id(), created.id(), "other names are no replacement, which would delete the old ones");
    // A failover.
    let moved = vec![record("db.example.test", RrType::Cname, "writer.us-west-2.example.test")];
    change(&route53, &zone, ChangeAction::Upsert, moved).await;
    assert!(recorder.take().is_empty(), "only a Delete does anything");

    function.delete(DNS_RECORDS, &created.id(), &some).await.succeeded();
    let left = there(&route53, &zone).await;
    assert!(left.contains("example.test. NS") && left.contains("example.test. SOA"), "{left:?}");
    assert!(left.contains("n1.example.test. A") && left.contains("sub.example.test. NS"));
    assert!(!left.iter().any(|name| name.starts_with("db.") || name.starts_with("w.") || name.contains("TXT")));
    recorder.check(DNS_RECORDS);
    function.delete(DNS_RECORDS, &created.id(), &some).await.succeeded();

    let all = json!({ "HostedZoneId": format!("/hostedzone/{zone}"), "All": "true" });
    function.delete(DNS_RECORDS, &created.id(), &all).await.succeeded();
    let left = there(&route53, &zone).await;
    assert_eq!(left, BTreeSet::from(["example.test. NS".to_owned(), "example.test. SOA".to_owned()]));
    function.delete(DNS_RECORDS, &created.id(), &all).await.succeeded();
    route53.delete_hosted_zone().id(&zone).send().await.expect("it is empty");
    function.delete(DNS_RECORDS, &created.id(), &all).await.succeeded();
}
