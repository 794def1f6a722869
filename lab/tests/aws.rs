//! The lab's AWS endpoint, driven over HTTP by the official SDK clients.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use async_trait::async_trait;
use aurora_failover_lab::aws::{Aws, AwsOptions, Call, Databases, GlobalCluster, Member};
use aurora_failover_lab::dns::{DnsServer, Zones, resolver};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, Target};
use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, ChangeStatus, ResourceRecord, ResourceRecordSet, RrType,
};
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";
const EAST_ARN: &str = "arn:aws:rds:us-east-1:000000000000:cluster:orders-east";
const WEST_ARN: &str = "arn:aws:rds:us-west-2:000000000000:cluster:orders-west";

/// Databases that promote when a test lets them.
struct FakeDatabases {
    writer: Mutex<String>,
    /// Number of the instance that is the writer of its region's cluster.
    head: AtomicUsize,
    /// It has ended.
    lost: AtomicBool,
    allowed: Semaphore,
    fails: AtomicBool,
    promotions: AtomicUsize,
}

#[async_trait]
impl Databases for FakeDatabases {
    async fn promote(&self, region: &str) -> anyhow::Result<()> {
        self.allowed.acquire().await?.forget();
        self.promotions.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            bail!("the test wants it to fail");
        }
        *self.writer.lock().unwrap() = region.to_owned();
        Ok(())
    }

    async fn switch_over(&self, region: &str) -> anyhow::Result<()> {
        self.promote(region).await
    }

    async fn fail_over_in_region(&self, region: &str, _to: Option<&str>) -> anyhow::Result<String> {
        self.allowed.acquire().await?.forget();
        let head = 3 - self.head.load(Ordering::SeqCst);
        self.head.store(head, Ordering::SeqCst);
        self.lost.store(false, Ordering::SeqCst);
        Ok(format!("{region}-{head}"))
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn lost_writer(&self) -> Option<String> {
        self.lost.load(Ordering::SeqCst).then(|| self.writer.lock().unwrap().clone())
    }

    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        let (writer, head) = (*self.writer.lock().unwrap() == region, self.head.load(Ordering::SeqCst));
        [head, 3 - head].into_iter().map(|n| (format!("{region}-{n}"), writer && n == head)).collect()
    }

    fn addresses(&self, region: &str) -> Vec<Ipv4Addr> {
        let place = if region == EAST { 1 } else { 2 };
        let head = self.head.load(Ordering::SeqCst) as u8;
        [head, 3 - head].into_iter().map(|n| Ipv4Addr::new(10, 0, place, n)).collect()
    }

    fn lag(&self, _region: &str) -> Vec<(std::time::SystemTime, u64)> {
        Vec::new()
    }
}

struct Lab {
    aws: Aws,
    zones: Zones,
    databases: Arc<FakeDatabases>,
}

impl Lab {
    async fn start() -> Self {
        Self::with_propagation(50).await
    }

    async fn with_propagation(dns_propagation_ms: u64) -> Self {
        let databases = Arc::new(FakeDatabases {
            writer: Mutex::new(EAST.to_owned()),
            head: AtomicUsize::new(1),
            lost: AtomicBool::new(false),
            allowed: Semaphore::new(0),
            fails: AtomicBool::new(false),
            promotions: AtomicUsize::new(0),
        });
        let zones = Zones::new();
        zones.add_zone("rds.test").unwrap();
        let member = |region: &str, name: &str| Member {
            region: region.to_owned(),
            cluster_id: format!("orders-{name}"),
            endpoint: format!("orders-{name}.cluster.rds.test"),
            reader_endpoint: format!("orders-{name}.cluster-ro.rds.test"),
            port: 5432,
        };
        let global = GlobalCluster {
            id: "orders".to_owned(),
            engine_version: "16.6".to_owned(),
            endpoint: "orders.global.rds.test".to_owned(),
            members: vec![member(EAST, "east"), member(WEST, "west")],
        };
        let mut options = AwsOptions::new(zones.clone(), databases.clone(), global);
        options.dns_propagation_ms = dns_propagation_ms;
        options.timing.notice = Duration::from_millis(10);
        options.timing.resynchronize_after = Duration::from_millis(10);
        let aws = Aws::start(options).await.unwrap();
        Self { aws, zones, databases }
    }

    async fn sdk(&self, region: &'static str) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(Credentials::new("AKID", "SECRET", None, None, "lab"))
            .endpoint_url(self.aws.url())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(10)).build())
            .load()
            .await
    }

    async fn sqs(&self, region: &'static str) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk(region).await)
    }

    async fn events(&self, region: &'static str) -> aws_sdk_eventbridge::Client {
        aws_sdk_eventbridge::Client::new(&self.sdk(region).await)
    }

    async fn rds(&self, region: &'static str) -> aws_sdk_rds::Client {
        aws_sdk_rds::Client::new(&self.sdk(region).await)
    }

    async fn route53(&self) -> aws_sdk_route53::Client {
        aws_sdk_route53::Client::new(&self.sdk(EAST).await)
    }

    fn calls(&self, action: &str) -> Vec<Call> {
        let mut calls = self.aws.calls();
        calls.retain(|call| call.action == action);
        calls
    }

    /// A queue that receives what matches the pattern on the bus.
    async fn subscribe(&self, region: &'static str, bus: &str, pattern: Value) -> Inbox {
        let (sqs, events) = (self.sqs(region).await, self.events(region).await);
        let url = queue(&sqs, "inbox").await;
        let rule = events.put_rule().name("rule").event_bus_name(bus).event_pattern(pattern.to_string());
        rule.send().await.unwrap();
        let arn = format!("arn:aws:sqs:{region}:000000000000:inbox");
        let target = Target::builder().id("inbox").arn(arn).build().unwrap();
        let put = events.put_targets().rule("rule").event_bus_name(bus).targets(target);
        assert_eq!(put.send().await.unwrap().failed_entry_count, 0);
        Inbox { sqs, url }
    }
}

struct Inbox {
    sqs: aws_sdk_sqs::Client,
    url: String,
}

impl Inbox {
    /// Takes and deletes the next event, waiting for it.
    async fn next(&self) -> Value {
        self.take(5).await.expect("an event within 5 s")
    }

    async fn take(&self, wait_s: i32) -> Option<Value> {
        let receive = self.sqs.receive_message().queue_url(&self.url).wait_time_seconds(wait_s);
        let message = receive.send().await.unwrap().messages.unwrap_or_default().pop()?;
        let receipt = message.receipt_handle.unwrap();
        let delete = self.sqs.delete_message().queue_url(&self.url).receipt_handle(receipt);
        delete.send().await.unwrap();
        Some(serde_json::from_str(&message.body.unwrap()).unwrap())
    }
}

fn code<E: ProvideErrorMetadata>(error: &E) -> &str {
    error.code().unwrap_or("none")
}

fn message<E: ProvideErrorMetadata>(error: &E) -> &str {
    error.message().unwrap_or_default()
}

async fn queue(sqs: &aws_sdk_sqs::Client, name: &str) -> String {
    let made = sqs.create_queue().queue_name(name).send().await;
    made.unwrap().queue_url.unwrap()
}

/// Waits until `condition` holds; fails after 5 s.
async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(5), "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- front ----

async fn raw(url: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn unsigned_requests_and_unknown_services_and_actions_are_refused() {
    let lab = Lab::start().await;
    let url = lab.aws.url();
    let unsigned = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let reply = raw(&url, unsigned).await;
    assert!(reply.starts_with("HTTP/1.1 403") && reply.contains("<Code>MissingAuthenticationToken<"));
    let signed = |service: &str, head: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n{head}authorization: AWS4-HMAC-SHA256 Credential=A/20261123/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n"
        )
    };
    let json = |target: &str| format!("x-amz-target: {target}\r\n");
    let rows = [
        (signed("sns", ""), "UnknownOperationException"),
        (signed("sqs", &json("AmazonSQS.PurgeQueue")), "UnknownOperationException"),
        (signed("events", &json("AWSEvents.PutPermission")), "UnknownOperationException"),
        (signed("dynamodb", &json("DynamoDB_20120810.Nothing")), "UnknownOperationException"),
        (signed("route53", ""), "UnknownOperationException"),
    ];
    for (request, expected) in rows {
        let reply = raw(&url, &request).await;
        assert!(reply.contains(expected) && !reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    let error = lab.rds(WEST).await.delete_global_cluster().global_cluster_identifier("orders");
    assert_eq!(code(&error.send().await.unwrap_err()), "InvalidAction");
    let last = lab.calls("DeleteGlobalCluster").pop().unwrap();
    assert_eq!((last.region.as_str(), last.service.as_str(), last.http_status), (WEST, "rds", 400));
    assert_eq!(last.error_code.as_deref(), Some("InvalidAction"));
    assert!(last.answered);
}

#[tokio::test]
async fn a_lost_region_neither_answers_nor_executes_until_it_is_healed() {
    let lab = Lab::start().await;
    let (east, west) = (lab.sqs(EAST).await, lab.sqs(WEST).await);
    lab.aws.lose_region(EAST);
    let create = east.create_queue().queue_name("q").customize().config_override(
        aws_sdk_sqs::config::Config::builder()
            .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_millis(300)).build()),
    );
    assert!(create.send().await.is_err());
    until(|| async { !lab.calls("CreateQueue").is_empty() }).await;
    let call = &lab.calls("CreateQueue")[0];
    assert_eq!((call.http_status, call.answered), (0, false));
    assert!(west.create_queue().queue_name("q").send().await.is_ok(), "other regions go on");
    let held = tokio::spawn({
        let east = east.clone();
        async move { east.get_queue_url().queue_name("q").send().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished());
    lab.aws.heal_region(EAST);
    let error = held.await.unwrap().unwrap_err();
    assert!(error.into_service_error().is_queue_does_not_exist(), "the lost call was not executed");
}

#[tokio::test]
async fn a_region_lost_during_a_long_poll_keeps_its_messages() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let url = queue(&sqs, "q").await;
    // It becomes visible during the loss, while the poll waits for it.
    let send = sqs.send_message().queue_url(&url).message_body("kept");
    send.delay_seconds(1).send().await.unwrap();
    let poll = sqs.receive_message().queue_url(&url).wait_time_seconds(20).send();
    let poll = tokio::spawn(tokio::time::timeout(Duration::from_millis(1500), poll));
    tokio::time::sleep(Duration::from_millis(200)).await;
    lab.aws.lose_region(WEST);
    assert!(poll.await.unwrap().is_err(), "the poll gets no answer");
    until(|| async { !lab.calls("ReceiveMessage").is_empty() }).await;
    lab.aws.heal_region(WEST);
    let receive = sqs.receive_message().queue_url(&url);
    let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
    let got = receive.send().await.unwrap().messages.unwrap().pop().unwrap();
    assert_eq!(got.body(), Some("kept"));
    let received = &got.attributes().unwrap()[&MessageSystemAttributeName::ApproximateReceiveCount];
    assert_eq!(received, "1", "the lost poll did not take it");
    assert_eq!(lab.calls("ReceiveMessage").iter().filter(|call| !call.answered).count(), 1);
}

#[tokio::test]
async fn shutdown_lets_go_of_held_requests_and_closes_the_port() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let url = queue(&sqs, "q").await;
    lab.aws.lose_region(EAST);
    let held = tokio::spawn(lab.sqs(EAST).await.get_queue_url().queue_name("q").send());
    let poll = tokio::spawn(sqs.receive_message().queue_url(&url).wait_time_seconds(20).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (endpoint, started) = (lab.aws.url(), Instant::now());
    lab.aws.shutdown().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(held.await.unwrap().is_err() && poll.await.unwrap().is_err());
    let address = endpoint.strip_prefix("http://").unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

// ---- dynamodb ----

#[tokio::test]
async fn dynamodb_keeps_conditions_and_one_database_per_region() {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let lab = Lab::start().await;
    let db = aws_sdk_dynamodb::Client::new(&lab.sdk(WEST).await);
    let key = KeySchemaElement::builder().attribute_name("PK").key_type(KeyType::Hash).build().unwrap();
    let definition =
        AttributeDefinition::builder().attribute_name("PK").attribute_type(ScalarAttributeType::S).build().unwrap();
    let table = db.create_table().table_name("state").key_schema(key).attribute_definitions(definition);
    table.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    let put = || {
        let put = db.put_item().table_name("state").item("PK", AttributeValue::S("a".into()));
        put.condition_expression("attribute_not_exists(PK)").send()
    };
    put().await.unwrap();
    let error = put().await.unwrap_err().into_service_error();
    assert!(error.is_conditional_check_failed_exception());
    let other = aws_sdk_dynamodb::Client::new(&lab.sdk(EAST).await);
    let error = other.describe_table().table_name("state").send().await.unwrap_err();
    assert!(error.into_service_error().is_resource_not_found_exception());
    let refused = &lab.calls("PutItem")[1];
    assert_eq!(refused.error_code.as_deref(), Some("ConditionalCheckFailedException"));
    tokio::time::timeout(Duration::from_secs(3), lab.aws.shutdown()).await.unwrap().unwrap();
}

// ---- sqs ----

#[tokio::test]
async fn a_queue_is_made_once_and_knows_its_attributes() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let create = |seconds: &str| {
        let create = sqs.create_queue().queue_name("q");
        create.attributes(QueueAttributeName::VisibilityTimeout, seconds).send()
    };
    let url = create("7").await.unwrap().queue_url.unwrap();
    assert_eq!(create("7").await.unwrap().queue_url.unwrap(), url);
    assert!(create("8").await.unwrap_err().into_service_error().is_queue_name_exists());
    let found = sqs.get_queue_url().queue_name("q").send().await.unwrap();
    assert_eq!(found.queue_url(), Some(url.as_str()));
    let set = sqs.set_queue_attributes().queue_url(&url);
    let set = set.attributes(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "3");
    set.attributes(QueueAttributeName::Policy, "{}").send().await.unwrap();
    let get = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
    let got = get.send().await.unwrap().attributes.unwrap();
    let value = |name: QueueAttributeName| got[&name].clone();
    assert_eq!(value(QueueAttributeName::QueueArn), "arn:aws:sqs:us-west-2:000000000000:q");
    assert_eq!(value(QueueAttributeName::VisibilityTimeout), "7");
    assert_eq!(value(QueueAttributeName::ReceiveMessageWaitTimeSeconds), "3");
    assert_eq!(value(QueueAttributeName::Policy), "{}");
    assert_eq!(value(QueueAttributeName::ApproximateNumberOfMessages), "0");
}

#[tokio::test]
async fn queue_errors_are_those_of_aws() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let error = sqs.get_queue_url().queue_name("none").send().await.unwrap_err();
    assert_eq!(code(&error), "AWS.SimpleQueueService.NonExistentQueue");
    assert!(error.into_service_error().is_queue_does_not_exist());
    let error = sqs.create_queue().queue_name("q.fifo").send().await.unwrap_err();
    assert!(message(&error).contains("standard queues only"), "{error:?}");
    let url = queue(&sqs, "q").await;
    let foreign = lab.sqs(EAST).await.send_message().queue_url(&url).message_body("x");
    let error = foreign.send().await.unwrap_err().into_service_error();
    assert!(error.is_queue_does_not_exist(), "queues belong to one region");
    let send = || sqs.send_message().queue_url(&url);
    let error = send().message_body("x").message_group_id("g").send().await.unwrap_err();
    assert!(message(&error).contains("MessageGroupId"));
    assert!(error.into_service_error().is_unsupported_operation());
    assert!(send().message_body("x".repeat(1_048_576)).send().await.is_ok());
    let error = send().message_body("x".repeat(1_048_577)).send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidParameterValue");
    let error = sqs.receive_message().queue_url(&url).max_number_of_messages(11).send().await;
    assert_eq!(code(&error.unwrap_err()), "InvalidParameterValue");
    let error = sqs.delete_message().queue_url(&url).receipt_handle("junk").send().await.unwrap_err();
    assert!(error.into_service_error().is_receipt_handle_is_invalid());
    let set = |value: &str| {
        let set = sqs.set_queue_attributes().queue_url(&url);
        set.attributes(QueueAttributeName::RedrivePolicy, value).send()
    };
    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-west-2:000000000000:none","maxReceiveCount":2}"#;
    assert!(message(&set(policy).await.unwrap_err()).contains("Dead letter target does not exist"));
    let error = sqs.create_queue().queue_name("r").attributes(QueueAttributeName::KmsMasterKeyId, "k");
    assert_eq!(code(&error.send().await.unwrap_err()), "InvalidAttributeName");
}

#[tokio::test]
async fn a_message_in_flight_is_hidden_until_its_timeout_and_gone_when_deleted() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let url = queue(&sqs, "q").await;
    let sent = sqs.send_message().queue_url(&url).message_body("hello").send().await.unwrap();
    assert_eq!(sent.md5_of_message_body(), Some("5d41402abc4b2a76b9719d911017c592"));
    let receive = |wait: i32, visibility: i32| {
        sqs.receive_message()
            .queue_url(&url)
            .wait_time_seconds(wait)
            .visibility_timeout(visibility)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
    };
    let first = receive(0, 1).await.unwrap().messages.unwrap().pop().unwrap();
    assert_eq!(first.md5_of_body(), sent.md5_of_message_body());
    assert_eq!(first.message_id(), sent.message_id());
    assert!(receive(0, 1).await.unwrap().messages.is_none());
    let started = Instant::now();
    let second = receive(10, 60).await.unwrap().messages.unwrap().pop().unwrap();
    assert!((500..2000).contains(&started.elapsed().as_millis()), "it wakes when the timeout ends");
    let attributes = second.attributes().unwrap();
    assert_eq!(attributes[&MessageSystemAttributeName::ApproximateReceiveCount], "2");
    assert!(attributes.contains_key(&MessageSystemAttributeName::SentTimestamp));
    let change = |receipt: Option<String>, seconds: i32| {
        let change = sqs.change_message_visibility().queue_url(&url);
        change.set_receipt_handle(receipt).visibility_timeout(seconds).send()
    };
    let stale = first.receipt_handle;
    let error = change(stale.clone(), 0).await.unwrap_err().into_service_error();
    assert!(error.is_message_not_inflight());
    let delete = sqs.delete_message().queue_url(&url).set_receipt_handle(stale);
    delete.send().await.unwrap();
    change(second.receipt_handle, 0).await.unwrap();
    let third = receive(0, 60).await.unwrap().messages.unwrap().pop().unwrap();
    let delete = sqs.delete_message().queue_url(&url).set_receipt_handle(third.receipt_handle.clone());
    delete.send().await.unwrap();
    let error = change(third.receipt_handle, 0).await.unwrap_err();
    assert_eq!(code(&error), "InvalidParameterValue");
}

#[tokio::test]
async fn a_long_poll_wakes_at_once() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let url = queue(&sqs, "q").await;
    let poll = tokio::spawn({
        let poll = sqs.receive_message().queue_url(&url).wait_time_seconds(9).send();
        async move { (poll.await.unwrap(), Instant::now()) }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!poll.is_finished());
    let sent_at = Instant::now();
    sqs.send_message().queue_url(&url).message_body("x").send().await.unwrap();
    let (got, woken_at) = poll.await.unwrap();
    assert_eq!(got.messages().len(), 1);
    assert!(woken_at.duration_since(sent_at) < Duration::from_millis(250));
    let started = Instant::now();
    let empty = sqs.receive_message().queue_url(&url).wait_time_seconds(1).send().await.unwrap();
    assert!(empty.messages.is_none() && started.elapsed() >= Duration::from_millis(990));
    let delayed = sqs.send_message().queue_url(&url).message_body("later").delay_seconds(1);
    delayed.send().await.unwrap();
    assert!(sqs.receive_message().queue_url(&url).send().await.unwrap().messages.is_none());
    let got = sqs.receive_message().queue_url(&url).wait_time_seconds(5).send().await.unwrap();
    assert_eq!(got.messages()[0].body(), Some("later"));
}

#[tokio::test]
async fn a_message_received_too_often_goes_to_the_dead_letter_queue() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let dead = queue(&sqs, "dead").await;
    let policy = json!({"deadLetterTargetArn": "arn:aws:sqs:us-west-2:000000000000:dead", "maxReceiveCount": "2"});
    let create = sqs.create_queue().queue_name("q");
    let create = create.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
    let url = create.send().await.unwrap().queue_url.unwrap();
    sqs.send_message().queue_url(&url).message_body("poison").send().await.unwrap();
    let waiting = tokio::spawn(sqs.receive_message().queue_url(&dead).wait_time_seconds(9).send());
    let receive = || sqs.receive_message().queue_url(&url).visibility_timeout(0).send();
    assert_eq!(receive().await.unwrap().messages().len(), 1);
    assert_eq!(receive().await.unwrap().messages().len(), 1);
    assert!(receive().await.unwrap().messages.is_none());
    let moved = waiting.await.unwrap().unwrap();
    assert_eq!(moved.messages()[0].body(), Some("poison"));
}

#[tokio::test]
async fn a_batch_delete_answers_per_entry() {
    let lab = Lab::start().await;
    let sqs = lab.sqs(WEST).await;
    let url = queue(&sqs, "q").await;
    for body in ["a", "b", "c"] {
        sqs.send_message().queue_url(&url).message_body(body).send().await.unwrap();
    }
    let got = sqs.receive_message().queue_url(&url).max_number_of_messages(2).send().await.unwrap();
    assert_eq!(got.messages().len(), 2);
    let entry = |id: &str, receipt: &str| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(receipt);
        entry.build().unwrap()
    };
    let delete = || sqs.delete_message_batch().queue_url(&url);
    let result = delete()
        .entries(entry("good", got.messages()[0].receipt_handle().unwrap()))
        .entries(entry("bad", "junk"))
        .send()
        .await
        .unwrap();
    assert_eq!(result.successful()[0].id(), "good");
    assert_eq!((result.failed()[0].id(), result.failed()[0].code()), ("bad", "ReceiptHandleIsInvalid"));
    let error = delete().set_entries(Some(vec![])).send().await.unwrap_err().into_service_error();
    assert!(error.is_empty_batch_request());
    let twice = delete().entries(entry("x", "a:1")).entries(entry("x", "a:1")).send().await;
    assert!(twice.unwrap_err().into_service_error().is_batch_entry_ids_not_distinct());
    let get = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
    let counts = get.send().await.unwrap().attributes.unwrap();
    assert_eq!(counts[&QueueAttributeName::ApproximateNumberOfMessages], "1");
    assert_eq!(counts[&QueueAttributeName::ApproximateNumberOfMessagesNotVisible], "1");
}

// ---- eventbridge ----

fn entry(detail: &str) -> aws_sdk_eventbridge::types::builders::PutEventsRequestEntryBuilder {
    PutEventsRequestEntry::builder().source("canary").detail_type("Probe Result").detail(detail)
}

#[tokio::test]
async fn a_matching_event_reaches_the_queue_in_the_envelope_of_aws() {
    let lab = Lab::start().await;
    let events = lab.events(WEST).await;
    let bus = events.create_event_bus().name("failover").send().await.unwrap();
    assert_eq!(bus.event_bus_arn(), Some("arn:aws:events:us-west-2:000000000000:event-bus/failover"));
    let again = events.create_event_bus().name("failover").send().await.unwrap_err();
    assert!(again.into_service_error().is_resource_already_exists_exception());
    let pattern = json!({"source": ["canary"], "detail": {"outcome": [{"prefix": "fa"}]}});
    let inbox = lab.subscribe(WEST, "failover", pattern).await;
    let time = aws_sdk_eventbridge::primitives::DateTime::from_secs(1_700_000_000);
    let put = events
        .put_events()
        .entries(entry(r#"{"outcome":"ok"}"#).event_bus_name("failover").build())
        .entries(entry(r#"{"outcome":"failed"}"#).build())
        .entries(
            entry(r#"{"outcome":"failed","n":1}"#)
                .event_bus_name("arn:aws:events:us-west-2:000000000000:event-bus/failover")
                .resources("arn:r")
                .time(time)
                .build(),
        );
    let put = put.send().await.unwrap();
    assert_eq!(put.failed_entry_count, 0);
    let got = inbox.next().await;
    let expected = json!({
        "version": "0", "id": put.entries()[2].event_id(), "detail-type": "Probe Result",
        "source": "canary", "account": "000000000000", "time": "2023-11-14T22:13:20Z",
        "region": "us-west-2", "resources": ["arn:r"], "detail": {"outcome": "failed", "n": 1},
    });
    assert_eq!(got, expected);
    assert!(inbox.take(0).await.is_none(), "neither the good probe nor the other bus's event");
}

#[tokio::test]
async fn bad_entries_fail_alone_and_an_unknown_bus_drops_silently() {
    let lab = Lab::start().await;
    let events = lab.events(WEST).await;
    let put = events
        .put_events()
        .entries(entry("{broken").build())
        .entries(entry("{}").source("aws.rds").build())
        .entries(PutEventsRequestEntry::builder().source("x").detail("{}").build())
        .entries(entry("{}").event_bus_name("nowhere").build())
        .send()
        .await
        .unwrap();
    assert_eq!(put.failed_entry_count, 3);
    let codes: Vec<_> = put.entries().iter().map(|entry| entry.error_code().unwrap_or("-")).collect();
    assert_eq!(codes, ["MalformedDetail", "NotAuthorizedForSourceException", "InvalidArgument", "-"]);
    let many = vec![entry("{}").build(); 11];
    let error = events.put_events().set_entries(Some(many)).send().await.unwrap_err();
    assert_eq!(code(&error), "ValidationException");
    let big = format!("{{\"x\":\"{}\"}}", "x".repeat(1_048_576));
    let error = events.put_events().entries(entry(&big).build()).send().await.unwrap_err();
    assert_eq!(code(&error), "ValidationException");
}

#[tokio::test]
async fn rules_and_targets_are_listed_and_what_is_not_supported_is_refused() {
    let lab = Lab::start().await;
    let events = lab.events(WEST).await;
    lab.subscribe(WEST, "default", json!({"source": ["x"]})).await;
    let rules = events.list_rules().send().await.unwrap();
    assert_eq!(rules.rules()[0].event_pattern(), Some(r#"{"source":["x"]}"#));
    assert_eq!(rules.rules()[0].arn(), Some("arn:aws:events:us-west-2:000000000000:rule/rule"));
    assert!(events.list_rules().name_prefix("other").send().await.unwrap().rules().is_empty());
    let targets = events.list_targets_by_rule().rule("rule").send().await.unwrap();
    assert_eq!(targets.targets()[0].arn(), "arn:aws:sqs:us-west-2:000000000000:inbox");
    let bus = events.describe_event_bus().send().await.unwrap();
    assert_eq!(bus.name(), Some("default"));
    let error = events.describe_event_bus().name("none").send().await.unwrap_err();
    assert!(error.into_service_error().is_resource_not_found_exception());
    let error = events.put_rule().name("r").event_pattern(r#"{"a":[{"numeric":["=",1]}]}"#).send().await;
    assert!(error.unwrap_err().into_service_error().is_invalid_event_pattern_exception());
    let error = events.put_rule().name("r").schedule_expression("rate(1 minute)").send().await;
    assert_eq!(code(&error.unwrap_err()), "ValidationException");
    let put = |target: aws_sdk_eventbridge::types::builders::TargetBuilder| {
        events.put_targets().rule("rule").targets(target.id("t").build().unwrap()).send()
    };
    let arn = "arn:aws:sqs:us-west-2:000000000000:inbox";
    for target in [
        Target::builder().arn("arn:aws:sqs:us-east-1:000000000000:inbox"),
        Target::builder().arn("arn:aws:lambda:us-west-2:000000000000:function:f"),
        Target::builder().arn(arn).input("{}"),
        Target::builder()
            .arn(arn)
            .sqs_parameters(aws_sdk_eventbridge::types::SqsParameters::builder().message_group_id("g").build()),
    ] {
        assert_eq!(code(&put(target).await.unwrap_err()), "ValidationException");
    }
    let error = events.list_targets_by_rule().rule("none").send().await.unwrap_err();
    assert!(error.into_service_error().is_resource_not_found_exception());
}

#[tokio::test]
async fn a_disabled_rule_delivers_nothing_and_keeps_its_targets() {
    let lab = Lab::start().await;
    let events = lab.events(WEST).await;
    let inbox = lab.subscribe(WEST, "default", json!({"source": ["canary"]})).await;
    let state = |state: aws_sdk_eventbridge::types::RuleState| {
        let rule = events.put_rule().name("rule").event_pattern(r#"{"source":["canary"]}"#);
        rule.state(state).send()
    };
    let put = || events.put_events().entries(entry("{}").build()).send();
    state(aws_sdk_eventbridge::types::RuleState::Disabled).await.unwrap();
    put().await.unwrap();
    assert!(inbox.take(0).await.is_none());
    state(aws_sdk_eventbridge::types::RuleState::Enabled).await.unwrap();
    put().await.unwrap();
    assert_eq!(inbox.next().await["source"], "canary");
}

// ---- route 53 ----

fn set(name: &str, kind: RrType, ttl: i64, values: &[&str]) -> ResourceRecordSet {
    let record = |value: &&str| ResourceRecord::builder().value(*value).build().unwrap();
    let set = ResourceRecordSet::builder().name(name).r#type(kind).ttl(ttl);
    set.set_resource_records(Some(values.iter().map(record).collect())).build().unwrap()
}

fn change(action: ChangeAction, set: ResourceRecordSet) -> Change {
    Change::builder().action(action).resource_record_set(set).build().unwrap()
}

async fn submit(
    client: &aws_sdk_route53::Client,
    zone: &str,
    changes: Vec<Change>,
) -> Result<String, (String, String)> {
    let batch = ChangeBatch::builder().set_changes(Some(changes)).build().unwrap();
    let result = client.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch).send().await;
    match result {
        Ok(output) => {
            let info = output.change_info.unwrap();
            assert_eq!(info.status, ChangeStatus::Pending);
            Ok(info.id)
        }
        Err(error) => Err((code(&error).to_owned(), message(&error).to_owned())),
    }
}

#[tokio::test]
async fn a_change_is_pending_then_in_sync_and_dns_answers_from_then_on() {
    let lab = Lab::with_propagation(300).await;
    let server = DnsServer::start(lab.zones.clone()).await.unwrap();
    let client = lab.route53().await;
    let zone = lab.aws.create_zone("shop.test").unwrap();
    let create = change(ChangeAction::Create, set("Db.shop.test", RrType::A, 5, &["127.0.0.9"]));
    let id = submit(&client, &zone, vec![create]).await.unwrap();
    let lookup = async || {
        let resolver = resolver(server.addr()).unwrap();
        let found = resolver.ipv4_lookup("db.shop.test.").await.ok()?;
        Some(found.answers()[0].data.to_string())
    };
    let list = client.list_resource_record_sets().hosted_zone_id(&zone).send().await.unwrap();
    let kinds: Vec<_> = list.resource_record_sets().iter().map(|set| set.r#type.as_str()).collect();
    assert_eq!(kinds, ["NS", "SOA", "A"], "the listing shows it at once");
    assert_eq!(lookup().await, None, "DNS does not");
    let status = async || {
        let change = client.get_change().id(&id).send().await.unwrap().change_info.unwrap();
        (change.status, change.submitted_at)
    };
    until(|| async { status().await.0 == ChangeStatus::Insync }).await;
    assert_eq!(lookup().await.as_deref(), Some("127.0.0.9"));
    let (_, submitted_at) = status().await;
    assert!(submitted_at.secs() > 1_700_000_000);
    let error = client.get_change().id("C0").send().await.unwrap_err().into_service_error();
    assert!(error.is_no_such_change());
}

#[tokio::test]
async fn a_batch_is_atomic_and_says_what_is_wrong_in_the_words_of_aws() {
    use ChangeAction::{Create, Delete, Upsert};
    let lab = Lab::with_propagation(0).await;
    let client = lab.route53().await;
    let zone = lab.aws.create_zone("shop.test").unwrap();
    let cname = |value: &str| set("db.shop.test", RrType::Cname, 5, &[value]);
    submit(&client, &zone, vec![change(Create, cname("east.rds.test"))]).await.unwrap();
    let refused = async |changes: Vec<Change>, expected_code: &str, expected: &str| {
        let (code, message) = submit(&client, &zone, changes).await.unwrap_err();
        assert_eq!(code, expected_code, "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let batch = "InvalidChangeBatch";
    let exists = "[Tried to create resource record set [name='db.shop.test.', type='CNAME'] but it already exists]";
    let other = set("other.shop.test", RrType::A, 5, &["127.0.0.1"]);
    refused(vec![change(Create, other.clone()), change(Create, cname("x.test"))], batch, exists).await;
    let list = client.list_resource_record_sets().hosted_zone_id(&zone).send().await.unwrap();
    assert_eq!(list.resource_record_sets().len(), 3, "nothing of a refused batch stays");
    let differs = "Tried to delete resource record set [name='db.shop.test.', type='CNAME'] but the values provided do not match the current values";
    refused(vec![change(Delete, cname("west.rds.test"))], batch, differs).await;
    let ttl = set("db.shop.test", RrType::Cname, 6, &["east.rds.test"]);
    refused(vec![change(Delete, ttl)], batch, "do not match the current values").await;
    refused(vec![change(Delete, other)], batch, "but it was not found").await;
    let foreign = set("db.elsewhere.test", RrType::A, 5, &["127.0.0.1"]);
    refused(vec![change(Create, foreign)], batch, "is not permitted in zone shop.test.").await;
    let beside = set("db.shop.test", RrType::A, 5, &["127.0.0.1"]);
    refused(vec![change(Upsert, beside.clone())], batch, "conflicts with other records").await;
    let apex = set("shop.test", RrType::Cname, 5, &["x.test"]);
    refused(vec![change(Upsert, apex)], batch, "not permitted at apex").await;
    let bad = set("a.shop.test", RrType::A, 5, &["not an address"]);
    refused(vec![change(Upsert, bad)], batch, "Invalid Resource Record").await;
    let mx = set("a.shop.test", RrType::Mx, 5, &["10 m.test"]);
    refused(vec![change(Upsert, mx)], "InvalidInput", "MX").await;
    let mut weighted = beside.clone();
    weighted.set_identifier = Some("w".to_owned());
    weighted.weight = Some(1);
    refused(vec![change(Upsert, weighted)], "InvalidInput", "SetIdentifier").await;
    let swap = vec![change(Delete, cname("east.rds.test")), change(Create, cname("west.rds.test"))];
    submit(&client, &zone, swap.clone()).await.unwrap();
    let stale = "do not match the current values";
    refused(swap, batch, stale).await;
    let to_a = vec![change(Delete, cname("west.rds.test")), change(Create, beside)];
    submit(&client, &zone, to_a).await.unwrap();
    let (code, _) = submit(&client, "Z0", vec![change(Upsert, cname("x.test"))]).await.unwrap_err();
    assert_eq!(code, "NoSuchHostedZone");
}

#[tokio::test]
async fn zones_are_made_and_read_and_listings_are_cut_into_pages() {
    let lab = Lab::with_propagation(0).await;
    let client = lab.route53().await;
    let create = || client.create_hosted_zone().name("Shop.test").caller_reference("once").send();
    let made = create().await.unwrap();
    let id = made.hosted_zone().unwrap().id().trim_start_matches("/hostedzone/").to_owned();
    assert_eq!(made.hosted_zone().unwrap().name(), "shop.test.");
    assert!(create().await.unwrap_err().into_service_error().is_hosted_zone_already_exists());
    let got = client.get_hosted_zone().id(&id).send().await.unwrap();
    assert_eq!(got.hosted_zone().unwrap().caller_reference(), "once");
    assert!(client.get_hosted_zone().id("Z0").send().await.unwrap_err().into_service_error().is_no_such_hosted_zone());
    let text = |name: &str| set(name, RrType::Txt, 5, &["\"a&b <c>\""]);
    let changes = ["b.shop.test", "a.shop.test", "x.a.shop.test"];
    let changes = changes.map(|name| change(ChangeAction::Upsert, text(name))).to_vec();
    submit(&client, &id, changes).await.unwrap();
    let (mut names, mut start) = (Vec::new(), (None, None));
    loop {
        let page = client.list_resource_record_sets().hosted_zone_id(&id).max_items(2);
        let page = page.set_start_record_name(start.0).set_start_record_type(start.1);
        let page = page.send().await.unwrap();
        assert!(page.resource_record_sets().len() <= 2 && page.max_items == 2);
        names.extend(page.resource_record_sets().iter().map(|set| set.name.clone()));
        if !page.is_truncated {
            let last = page.resource_record_sets().last().unwrap();
            assert_eq!(last.resource_records()[0].value(), "\"a&b <c>\"");
            break;
        }
        start = (page.next_record_name, page.next_record_type);
    }
    let expected = ["shop.test.", "shop.test.", "a.shop.test.", "x.a.shop.test.", "b.shop.test."];
    assert_eq!(names, expected);
    let start = client.list_resource_record_sets().hosted_zone_id(&id).start_record_name("B.shop.test");
    let start = start.start_record_type(RrType::A).send().await.unwrap();
    assert_eq!(start.resource_record_sets()[0].name, "b.shop.test.");
}

// ---- rds ----

async fn global(rds: &aws_sdk_rds::Client) -> aws_sdk_rds::types::GlobalCluster {
    let describe = rds.describe_global_clusters().global_cluster_identifier("orders");
    describe.send().await.unwrap().global_clusters.unwrap().pop().unwrap()
}

fn writer(cluster: &aws_sdk_rds::types::GlobalCluster) -> String {
    let writers = cluster.global_cluster_members().iter().filter(|m| m.is_writer == Some(true));
    let writers: Vec<_> = writers.filter_map(|member| member.db_cluster_arn()).collect();
    assert_eq!(writers.len(), 1);
    writers[0].to_owned()
}

fn synchronization(cluster: &aws_sdk_rds::types::GlobalCluster, arn: &str) -> String {
    let members = cluster.global_cluster_members().iter();
    let member = members.clone().find(|member| member.db_cluster_arn() == Some(arn)).unwrap();
    member.synchronization_status().unwrap().as_str().to_owned()
}

fn failover(
    rds: &aws_sdk_rds::Client,
    target: &str,
) -> aws_sdk_rds::operation::failover_global_cluster::builders::FailoverGlobalClusterFluentBuilder {
    let failover = rds.failover_global_cluster().global_cluster_identifier("orders");
    failover.target_db_cluster_identifier(target).allow_data_loss(true)
}

#[tokio::test]
async fn clusters_are_described() {
    let lab = Lab::start().await;
    let (east, west) = (lab.rds(EAST).await, lab.rds(WEST).await);
    let seen = global(&west).await;
    assert_eq!(seen.status(), Some("available"));
    assert_eq!(seen.global_cluster_arn(), Some("arn:aws:rds::000000000000:global-cluster:orders"));
    assert_eq!((seen.engine(), seen.engine_version()), (Some("aurora-postgresql"), Some("16.6")));
    assert_eq!(seen.endpoint(), Some("orders.global.rds.test"));
    assert_eq!(writer(&seen), EAST_ARN);
    assert_eq!(seen.global_cluster_members()[0].readers(), [WEST_ARN]);
    assert!(seen.failover_state().is_none());
    let error = west.describe_global_clusters().global_cluster_identifier("none").send().await;
    assert!(error.unwrap_err().into_service_error().is_global_cluster_not_found_fault());
    for id in ["orders-east", EAST_ARN] {
        let found = east.describe_db_clusters().db_cluster_identifier(id).send().await.unwrap();
        let cluster = &found.db_clusters()[0];
        assert_eq!((cluster.status(), cluster.port()), (Some("available"), Some(5432)));
        assert_eq!(cluster.endpoint(), Some("orders-east.cluster.rds.test"));
        let members = cluster.db_cluster_members();
        assert_eq!(members[0].db_instance_identifier(), Some("us-east-1-1"));
        assert_eq!(members[0].is_cluster_writer(), Some(true));
    }
    let error = west.describe_db_clusters().db_cluster_identifier("orders-east").send().await;
    assert!(error.unwrap_err().into_service_error().is_db_cluster_not_found_fault());
    let all = west.describe_db_clusters().send().await.unwrap();
    assert_eq!(all.db_clusters()[0].replication_source_identifier(), Some(EAST_ARN));
    let elsewhere = lab.rds("eu-west-1").await.describe_db_clusters().send().await.unwrap();
    assert!(elsewhere.db_clusters().is_empty());
    let filter = aws_sdk_rds::types::Filter::builder().name("region").values(EAST).build();
    assert!(west.describe_global_clusters().filters(filter).send().await.is_err());
}

#[tokio::test]
async fn a_failover_of_a_lost_primary_promotes_flips_the_members_and_tells_only_the_living() {
    let lab = Lab::start().await;
    let west = lab.rds(WEST).await;
    let pattern = json!({"source": ["aws.rds"]});
    let survivor = lab.subscribe(WEST, "default", pattern.clone()).await;
    let lost = lab.subscribe(EAST, "default", pattern).await;
    lab.aws.lose_region(EAST);
    assert_eq!(synchronization(&global(&west).await, EAST_ARN), "pending-resync");
    let answer = failover(&west, WEST_ARN).send().await.unwrap().global_cluster.unwrap();
    assert_eq!(answer.status(), Some("failing-over"));
    assert_eq!(writer(&answer), EAST_ARN, "the answer still shows the old writer");
    let state = answer.failover_state().unwrap();
    assert_eq!(state.status().unwrap().as_str(), "pending");
    assert_eq!(state.from_db_cluster_arn(), Some(EAST_ARN));
    assert_eq!(state.to_db_cluster_arn(), Some(WEST_ARN));
    assert_eq!(state.is_data_loss_allowed(), Some(true));
    until(|| async {
        let seen = global(&west).await;
        seen.failover_state().unwrap().status().unwrap().as_str() == "failing-over"
    })
    .await;
    let target = west.describe_db_clusters().send().await.unwrap();
    assert_eq!(target.db_clusters()[0].status(), Some("promoting"));
    let again = failover(&west, WEST_ARN).send().await.unwrap_err().into_service_error();
    assert!(again.is_invalid_global_cluster_state_fault());
    lab.databases.allowed.add_permits(1);
    until(|| async { global(&west).await.status() == Some("available") }).await;
    let after = global(&west).await;
    assert_eq!(writer(&after), WEST_ARN);
    assert!(after.failover_state().is_none());
    assert_eq!(synchronization(&after, WEST_ARN), "connected");
    let repeat = failover(&west, WEST_ARN).send().await.unwrap_err().into_service_error();
    assert!(repeat.is_invalid_global_cluster_state_fault());
    assert_eq!(lab.databases.promotions.load(Ordering::SeqCst), 1);

    let events = [survivor.next().await, survivor.next().await, survivor.next().await];
    let ids: Vec<_> = events.iter().map(|event| event["detail"]["EventID"].as_str().unwrap()).collect();
    assert_eq!(ids, ["RDS-EVENT-0391", "RDS-EVENT-0238", "RDS-EVENT-0397"]);
    assert_eq!(events[0]["detail-type"], "RDS DB Instance Event");
    let blocked = "Attempt to block writes for DB cluster orders-east in Region us-east-1 timed out.";
    assert_eq!(events[0]["detail"]["Message"], blocked);
    let done = &events[1];
    assert_eq!(done["detail-type"], "RDS DB Cluster Event");
    assert_eq!(done["resources"], json!([WEST_ARN]));
    assert_eq!(done["region"], WEST);
    let mut detail = done["detail"].clone();
    assert!(detail["Date"].as_str().unwrap().ends_with('Z'));
    detail["Date"] = json!("now");
    let expected = json!({
        "EventCategories": ["global-failover"], "SourceType": "CLUSTER", "SourceArn": WEST_ARN,
        "Date": "now", "SourceIdentifier": "orders-west", "EventID": "RDS-EVENT-0238",
        "Message": "Global failover to DB cluster orders-west in Region us-west-2 completed.",
    });
    assert_eq!(detail, expected);

    lab.aws.heal_region(EAST);
    assert!(lost.take(0).await.is_none(), "a lost region's bus heard nothing");
    until(|| async { synchronization(&global(&west).await, EAST_ARN) == "connected" }).await;
    for id in ["RDS-EVENT-0240", "RDS-EVENT-0241"] {
        assert_eq!(lost.next().await["detail"]["EventID"], id, "it hears of its own return");
    }
    let accepted = lab.calls("FailoverGlobalCluster");
    assert_eq!(accepted.iter().filter(|call| call.http_status == 200).count(), 1);
    assert_eq!(accepted.len(), 3);
}

#[tokio::test]
async fn a_failover_of_a_living_primary_tells_both_regions_and_moves_the_global_endpoint() {
    let lab = Lab::start().await;
    let west = lab.rds(WEST).await;
    let pattern = json!({"source": ["aws.rds"]});
    let inboxes =
        [lab.subscribe(WEST, "default", pattern.clone()).await, lab.subscribe(EAST, "default", pattern).await];
    let endpoint = || {
        let kind = aurora_failover_lab::dns::RecordKind::Cname;
        lab.zones.get("orders.global.rds.test", kind).unwrap().values().to_vec()
    };
    assert_eq!(endpoint(), ["orders-east.cluster.rds.test"]);
    lab.databases.allowed.add_permits(1);
    failover(&west, WEST_ARN).send().await.unwrap();
    for inbox in inboxes {
        for id in ["RDS-EVENT-0390", "RDS-EVENT-0238", "RDS-EVENT-0397"] {
            assert_eq!(inbox.next().await["detail"]["EventID"], id);
        }
    }
    assert_eq!(endpoint(), ["orders-west.cluster.rds.test"]);
}

#[tokio::test]
async fn a_failed_promotion_leaves_the_old_writer_and_says_so() {
    let lab = Lab::start().await;
    let west = lab.rds(WEST).await;
    let inbox = lab.subscribe(WEST, "default", json!({"source": ["aws.rds"]})).await;
    lab.databases.fails.store(true, Ordering::SeqCst);
    lab.databases.allowed.add_permits(1);
    failover(&west, WEST_ARN).send().await.unwrap();
    assert_eq!(inbox.next().await["detail"]["EventID"], "RDS-EVENT-0239");
    let after = global(&west).await;
    assert_eq!((after.status(), writer(&after)), (Some("available"), EAST_ARN.to_owned()));
    assert!(after.failover_state().is_none());
}

#[tokio::test]
async fn a_failover_call_must_be_right_in_every_part() {
    let lab = Lab::start().await;
    let (east, west) = (lab.rds(EAST).await, lab.rds(WEST).await);
    let error = failover(&west, WEST_ARN).allow_data_loss(false).send().await.unwrap_err();
    assert!(message(&error).contains("switchover is asked for in the region of the primary"), "{error:?}");
    let error = failover(&west, WEST_ARN).switchover(true).send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidParameterCombination");
    let error = failover(&west, "orders-west").send().await.unwrap_err().into_service_error();
    assert!(error.is_db_cluster_not_found_fault());
    let error = failover(&east, WEST_ARN).send().await.unwrap_err();
    assert!(message(&error).contains("us-west-2"));
    assert!(error.into_service_error().is_db_cluster_not_found_fault());
    let error = failover(&east, EAST_ARN).send().await.unwrap_err().into_service_error();
    assert!(error.is_invalid_global_cluster_state_fault());
    let error = failover(&west, WEST_ARN).global_cluster_identifier("none").send().await;
    assert!(error.unwrap_err().into_service_error().is_global_cluster_not_found_fault());
    assert_eq!(lab.databases.promotions.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_switchover_is_asked_for_in_the_primarys_region_and_tells_each_step() {
    let lab = Lab::start().await;
    let (east, west) = (lab.rds(EAST).await, lab.rds(WEST).await);
    let inbox = lab.subscribe(WEST, "default", json!({"source": ["aws.rds"]})).await;
    let switchover = |client: &aws_sdk_rds::Client| {
        let call = client.switchover_global_cluster().global_cluster_identifier("orders");
        call.target_db_cluster_identifier(WEST_ARN)
    };
    let refused = switchover(&west).send().await.unwrap_err().into_service_error();
    assert!(refused.is_invalid_global_cluster_state_fault());
    let answer = switchover(&east).send().await.unwrap().global_cluster.unwrap();
    assert_eq!(answer.status(), Some("switching-over"));
    assert_eq!(answer.failover_state().unwrap().is_data_loss_allowed(), Some(false));
    lab.databases.allowed.add_permits(1);
    until(|| async { writer(&global(&west).await) == WEST_ARN }).await;
    for id in ["0181", "0182", "0184", "0185", "0397", "0240", "0241"] {
        assert_eq!(inbox.next().await["detail"]["EventID"], format!("RDS-EVENT-{id}"));
    }
    assert_eq!(synchronization(&global(&west).await, EAST_ARN), "connected");
}

#[tokio::test]
async fn a_cluster_fails_over_inside_its_region_asked_or_not_and_its_endpoints_follow() {
    let lab = Lab::start().await;
    let east = lab.rds(EAST).await;
    let inbox = lab.subscribe(EAST, "default", json!({"source": ["aws.rds"]})).await;
    let address = |name: &str| {
        let kind = aurora_failover_lab::dns::RecordKind::A;
        lab.zones.get(name, kind).unwrap().values().to_vec()
    };
    let endpoints = || ["cluster", "cluster-ro"].map(|kind| address(&format!("orders-east.{kind}.rds.test")));
    assert_eq!(endpoints(), [["10.0.1.1"], ["10.0.1.2"]]);
    let failover = || east.failover_db_cluster().db_cluster_identifier("orders-east");
    let wrong = failover().target_db_instance_identifier("us-east-1-1").send().await.unwrap_err();
    assert!(wrong.into_service_error().is_invalid_db_instance_state_fault(), "it is the writer already");
    let asked = failover().target_db_instance_identifier("us-east-1-2").send().await.unwrap();
    assert_eq!(asked.db_cluster.unwrap().status(), Some("failing-over"));
    let again = failover().send().await.unwrap_err().into_service_error();
    assert!(again.is_invalid_db_cluster_state_fault());
    lab.databases.allowed.add_permits(1);
    for (id, instance) in [("0073", "us-east-1-2"), ("0071", "us-east-1-2")] {
        let event = inbox.next().await;
        assert_eq!(event["detail"]["EventID"], format!("RDS-EVENT-{id}"));
        assert!(event["detail"]["Message"].as_str().unwrap().ends_with(&format!("{instance}.")), "{event}");
    }
    assert_eq!(endpoints(), [["10.0.1.2"], ["10.0.1.1"]]);

    lab.databases.allowed.add_permits(1);
    lab.databases.lost.store(true, Ordering::SeqCst);
    for id in ["0073", "0071"] {
        assert_eq!(inbox.next().await["detail"]["EventID"], format!("RDS-EVENT-{id}"));
    }
    assert_eq!(endpoints(), [["10.0.1.1"], ["10.0.1.2"]]);
    let status =
        || async { east.describe_db_clusters().send().await.unwrap().db_clusters()[0].status().map(str::to_owned) };
    until(|| async { status().await.as_deref() == Some("available") }).await;
}
