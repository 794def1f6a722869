//! What the service expects of AWS, one sentence each.

use anyhow::{Context as _, Result, ensure};
use aurora_failover::aws::CallError;
use aurora_failover::bus::{Bus as _, CANARY_SOURCE, EventBridge, Outgoing};
use aurora_failover::cloudwatch::CloudWatch;
use aurora_failover::config::{self, PasswordSource, Settings};
use aurora_failover::envelope::{Channel, Decoder, PROBE_DETAIL_TYPE, probe_detail};
use aurora_failover::inbox::{Delivery, Inbox, Queue as _};
use aurora_failover::password::Passwords;
use aurora_failover::permissions::{self, Role};
use aurora_failover::rds::{AwsRds, Rds as _, RdsError};
use aurora_failover::route53::{AwsRoute53, Route53 as _};
use aurora_failover::s3::{AwsS3, Location, Objects as _};
use aurora_failover::sqs::{DeadLetters, Sqs};
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Store as _, StoreError};
use aurora_failover::{aws, clock, iam, infrastructure};
use aws_config::SdkConfig;
use aws_sdk_cloudwatch::error::ProvideErrorMetadata as _;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum};
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use aws_sdk_s3::types::CreateBucketConfiguration;
use futures::future::{FutureExt as _, LocalBoxFuture};
use statemachine::{
    Arn, ClusterId, Envelope, Epoch, Event, Mode, Probe, ProbeOutcome, Record, RecordChange, Region, Rule, SelfCheck,
    Timestamp, Verdict,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The global cluster of the RDS behaviours.
pub(crate) const GLOBAL_CLUSTER: &str = "contract";
/// Region of its writer at first.
pub(crate) const PRIMARY: &str = "us-east-1";
/// The other region.
pub(crate) const SECONDARY: &str = "us-west-2";

/// How far the secondary is behind: seconds ago, and milliseconds.
pub(crate) const LAG: [(u64, u64); 2] = [(150, 40), (1, 7)];

/// One expectation.
pub(crate) struct Behaviour {
    /// A sentence.
    pub(crate) name: &'static str,
    /// Proves it on the endpoint of the environment.
    pub(crate) run: fn() -> LocalBoxFuture<'static, Result<()>>,
    /// Endpoints that are known to differ from AWS here, and how.
    pub(crate) left_out: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(crate) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        name: "init makes everything, and may be run twice",
        run: || init_twice().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "DynamoDB: one writer wins a version, the other is told",
        run: || one_writer_wins().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "DynamoDB: our own write is recognised when its reply was lost",
        run: || own_write_is_recognised().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "DynamoDB: sixteen concurrent writers, one winner per version",
        run: || concurrent_writers().boxed_local(),
        left_out: &[("moto", "its condition check is not atomic: more winners than versions were measured")],
    },
    Behaviour {
        name: "DynamoDB: a missing history row is repaired on load, a present one is never overwritten",
        run: || history_is_repaired().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "DynamoDB: history comes newest first, over pages",
        run: || history_order().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "DynamoDB: a time is found in the history where rows are missing",
        run: || a_time_is_found_where_rows_are_missing().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "IAM: a role may do what its policy says, and nothing else",
        run: || simulated_permissions().boxed_local(),
        left_out: &[("moto", "it does not simulate policies")],
    },
    Behaviour {
        name: "EventBridge: a probe goes through bus, rule and queue and is decoded",
        run: || probe_through_the_bus().boxed_local(),
        left_out: &[("moto", "its events do not carry the account that AWS's carry")],
    },
    Behaviour {
        name: "EventBridge: an event that no rule matches reaches no queue",
        run: || unmatched_event().boxed_local(),
        left_out: &[("moto", "its events do not carry the account that AWS's carry")],
    },
    Behaviour {
        name: "EventBridge: a malformed detail is refused by entry",
        run: || malformed_detail().boxed_local(),
        left_out: &[("ministack", "it accepts a detail that is not JSON")],
    },
    Behaviour {
        name: "SQS: what cannot be decoded goes to the dead-letter queue with its reason",
        run: || undecodable_message().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "SQS: a dead letter can be looked at twice, and goes back where it belongs once",
        run: || redriven().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "SQS: a message whose turn was not stored comes again",
        run: || unacknowledged_comes_again().boxed_local(),
        left_out: &[("moto", "its events do not carry the account that AWS's carry")],
    },
    Behaviour {
        name: "Route 53: a swap moves the record and gets in sync",
        run: || swap_moves().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "Route 53: a stale swap is refused and changes nothing",
        run: || stale_swap().boxed_local(),
        left_out: &[("moto", "it deletes a record whatever value the deletion names")],
    },
    Behaviour {
        name: "S3: an object is made once, and swapped only by who saw what it holds",
        run: || object_is_swapped().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "Secrets Manager: a password is taken from a secret, and again when it was refused",
        run: || password_from_secret().boxed_local(),
        left_out: &[("lab", "it has no secrets: its PostgreSQL asks for no password")],
    },
    Behaviour {
        name: "CloudWatch: the newest lag of a secondary, with its time",
        run: || newest_lag().boxed_local(),
        left_out: &[
            ("ministack", "it answers GetMetricData in XML, and the SDK speaks CBOR"),
            ("moto", "it does not know the paths of Smithy RPC v2"),
        ],
    },
    Behaviour {
        name: "RDS: an IAM token is signed for the endpoint and its region",
        run: || iam_token().boxed_local(),
        left_out: &[],
    },
    Behaviour {
        name: "RDS: the target's region promotes, asynchronously, and a repeated call is refused",
        run: || failover().boxed_local(),
        left_out: &[("moto", "it does not know FailoverGlobalCluster")],
    },
    Behaviour {
        name: "RDS: an unknown global cluster is an answer, not an unknown outcome",
        run: || unknown_cluster().boxed_local(),
        left_out: &[("moto", "its RDS errors cannot be parsed by the SDK")],
    },
];

// ---- fixtures --------------------------------------------------------------------------------------------------

fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

fn settings(name: &str) -> Settings {
    let text = include_str!("../../aurora-failover.example.toml");
    let own = format!("table = \"{name}\"\nevent-bus = \"{name}\"\nqueue = \"{name}\"\n\n[aws]\ntimeout = \"20s\"\n");
    // Events carry the account that they are sent from, and only the members' account is heard.
    let account =
        if std::env::var(super::CHILD).is_ok_and(|name| name == "moto") { "123456789012" } else { "000000000000" };
    let text = text.replace("[aws]\n", &own).replace("123456789012", account);
    config::parse(&text, "contract", |_| None).expect("the example is valid")
}

async fn sdk(settings: &Settings) -> SdkConfig {
    aws::load(&settings.region, &settings.aws).await
}

/// A set of own resources.
async fn ready() -> Result<(Settings, SdkConfig)> {
    let settings = settings(&unique("contract"));
    let sdk = sdk(&settings).await;
    infrastructure::init(&sdk, &settings, |_| {}).await?;
    Ok((settings, sdk))
}

fn item(settings: &Settings, cluster: &str, version: u64) -> Item {
    let config = settings.clusters[0].config.clone();
    let now = clock::now();
    let record = Record::new(cluster.into(), config, Mode::Observe, now);
    let decision_id = unique("decision");
    let row = HistoryRow {
        schema: record.schema,
        cluster: cluster.into(),
        version,
        at: now,
        decision_id: decision_id.clone(),
        event: Envelope { id: unique("event").into(), at: now, event: Event::Tick },
        from: "healthy".into(),
        to: "healthy".into(),
        verdict: Verdict::Updated,
        rule: Rule::Heartbeat,
        guards: Vec::new(),
        effects: Vec::new(),
        claimed: Vec::new(),
        answer: None,
        episode: Some("episode-1".into()),
        opened: None,
        closed: None,
        outcome: None,
        probes: Vec::new(),
        epoch: Epoch(1),
        actor: "contract".into(),
        config_hash: "x".into(),
        software: "test".into(),
        event_age_ms: 0,
        evidence: record.evidence.clone(),
        last_now: now,
        checkpoint: None,
        record_hash: HistoryRow::hash_of(&record),
        previous_hash: String::new(),
        hash: String::new(),
    };
    Item { version, decision_id, record, row: row.sealed() }
}

fn a_probe(cluster: &str) -> Outgoing {
    let probe = Probe {
        vantage: "us-west-2".into(),
        incarnation: "run".into(),
        sequence: 1,
        target: PRIMARY.into(),
        outcome: ProbeOutcome::Ok,
        self_check: SelfCheck::Ok,
        latency_ms: 1,
        connect_ms: None,
        connect_failure: None,
        dropped: 0,
        lag_ms: None,
    };
    let detail = probe_detail(&ClusterId(cluster.into()), clock::now(), &probe);
    Outgoing { source: CANARY_SOURCE, detail_type: PROBE_DETAIL_TYPE, detail }
}

/// Polls the queue for one delivery.
async fn receive(settings: &Settings, sdk: &SdkConfig, within: Duration) -> Result<Option<Delivery>> {
    let queue = Arc::new(Sqs::open(sdk, &settings.queue, &settings.dead_letter_queue).await?);
    let inbox = Inbox::new(queue, Channel::Evidence, Arc::new(Decoder::new(&settings.clusters)));
    let (sender, mut deliveries) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let running = tokio::spawn(inbox.run(move |_| Some(sender.clone()), stop.clone()));
    let delivery = tokio::time::timeout(within, deliveries.recv()).await.ok().flatten();
    stop.cancel();
    running.await?;
    Ok(delivery)
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..200 {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("not within 20 s: {what}")
}

// ---- DynamoDB --------------------------------------------------------------------------------------------------

async fn init_twice() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let mut parts = Vec::new();
    infrastructure::init(&sdk, &settings, |part| parts.push(part)).await?;
    ensure!(parts.len() == 6, "{parts:?}");
    Ok(())
}

async fn one_writer_wins() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let store = DynamoDb::new(&sdk, &settings.table);
    ensure!(store.load(&"one".into()).await?.is_none(), "nothing is stored at first");
    let first = item(&settings, "one", 1);
    store.commit(&first).await?;
    ensure!(matches!(store.commit(&item(&settings, "one", 1)).await, Err(StoreError::Conflict { .. })));
    store.commit(&item(&settings, "one", 2)).await?;
    ensure!(matches!(store.commit(&item(&settings, "one", 2)).await, Err(StoreError::Conflict { .. })));
    ensure!(matches!(store.commit(&item(&settings, "one", 4)).await, Err(StoreError::Conflict { .. })));
    let loaded = store.load(&"one".into()).await?.context("it is stored")?;
    ensure!(loaded.version == 2);
    Ok(())
}

async fn own_write_is_recognised() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let store = DynamoDb::new(&sdk, &settings.table);
    let first = item(&settings, "own", 1);
    store.commit(&first).await?;
    store.commit(&first).await.context("the same decision again")?;
    let loaded = store.load(&"own".into()).await?.context("it is stored")?;
    ensure!(loaded == first, "what is read is what was written");
    Ok(())
}

async fn concurrent_writers() -> Result<()> {
    let (settings, sdk) = ready().await?;
    for version in 1..=5 {
        let writers = (0..16).map(|_| {
            let (store, item) = (DynamoDb::new(&sdk, &settings.table), item(&settings, "race", version));
            tokio::spawn(async move { store.commit(&item).await })
        });
        let mut winners = 0;
        for ended in futures::future::join_all(writers).await {
            match ended? {
                Ok(()) => winners += 1,
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        ensure!(winners == 1, "version {version} had {winners} winners");
    }
    Ok(())
}

async fn history_is_repaired() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let store = DynamoDb::new(&sdk, &settings.table);
    let cluster = ClusterId("repair".into());
    let first = item(&settings, "repair", 1);
    store.commit(&first).await?;
    ensure!(store.newest(&cluster, 10).await?.is_empty(), "killed between the item and the row");
    store.load(&cluster).await?;
    ensure!(store.newest(&cluster, 10).await? == vec![first.row.clone()]);
    let mut forged = first.row.clone();
    forged.actor = "somebody else".into();
    store.append(&forged).await?;
    ensure!(store.newest(&cluster, 10).await? == vec![first.row], "a row is written once");
    Ok(())
}

async fn history_order() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let store = DynamoDb::new(&sdk, &settings.table);
    let cluster = ClusterId("pages".into());
    for version in 1..=25 {
        store.append(&item(&settings, "pages", version).row).await?;
    }
    let newest: Vec<u64> = store.newest(&cluster, 10).await?.iter().map(|row| row.version).collect();
    ensure!(newest == (16..=25).rev().collect::<Vec<_>>(), "{newest:?}");
    ensure!(store.newest(&cluster, 1000).await?.len() == 25);
    Ok(())
}

/// Rows expire in no particular order.
async fn a_time_is_found_where_rows_are_missing() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let store = DynamoDb::new(&sdk, &settings.table);
    let cluster = ClusterId("gaps".into());
    let versions = [1_u64, 2, 9, 10, 11, 30];
    for version in versions {
        let mut row = item(&settings, "gaps", version).row;
        row.at = Timestamp(version * 1000);
        store.append(&row).await?;
    }
    for at in 0..=31 {
        let found = store.version_at(&cluster, Timestamp(at * 1000)).await?;
        // Any version in the gap before a row leads to that row.
        let row = found.and_then(|from| versions.into_iter().find(|version| *version >= from));
        let expected = versions.into_iter().find(|version| *version >= at);
        ensure!(row == expected, "at {at} s: {found:?}, not {expected:?}");
    }
    Ok(())
}

// ---- EventBridge and SQS ---------------------------------------------------------------------------------------

async fn probe_through_the_bus() -> Result<()> {
    let (settings, sdk) = ready().await?;
    EventBridge::new(&sdk, &settings.event_bus).publish(&[a_probe("orders")]).await?;
    let delivery = receive(&settings, &sdk, Duration::from_secs(20)).await?.context("it arrives")?;
    ensure!(matches!(delivery.envelope.event, Event::Probe(_)));
    Ok(())
}

async fn unmatched_event() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let mut other = a_probe("other");
    other.detail_type = "Weather Report";
    EventBridge::new(&sdk, &settings.event_bus).publish(&[other, a_probe("orders")]).await?;
    let first = receive(&settings, &sdk, Duration::from_secs(20)).await?.context("the matching one arrives")?;
    ensure!(matches!(first.envelope.event, Event::Probe(_)));
    ensure!(waiting(&sdk, &settings.dead_letter_queue).await? == 0, "the other one did not come at all");
    Ok(())
}

async fn malformed_detail() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let broken = Outgoing { detail: "not json".into(), ..a_probe("orders") };
    let refused = EventBridge::new(&sdk, &settings.event_bus).publish(&[broken]).await;
    ensure!(refused.is_err(), "it was accepted");
    Ok(())
}

async fn undecodable_message() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let client = aws_sdk_sqs::Client::new(&sdk);
    let url = queue_url(&client, &settings.queue).await?;
    client.send_message().queue_url(url).message_body("rubbish").send().await?;
    ensure!(receive(&settings, &sdk, Duration::from_secs(3)).await?.is_none(), "rubbish is not delivered");
    let dead = DeadLetters::open(&sdk, &settings.dead_letter_queue).await?;
    let letter = eventually("the message is in the dead-letter queue", async || Ok(dead.look(10).await?.pop())).await?;
    ensure!(letter.body == "rubbish" && letter.sent_at.is_some());
    let reason = letter.reason.unwrap_or_default();
    ensure!(reason.contains("not an EventBridge envelope"), "{reason}");
    ensure!(waiting(&sdk, &settings.queue).await? == 0, "it left the queue");
    Ok(())
}

async fn redriven() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let queue = Sqs::open(&sdk, &settings.queue, &settings.dead_letter_queue).await?;
    for body in ["first", "second"] {
        queue.bury(body, "a reason").await.map_err(anyhow::Error::msg)?;
    }
    let dead = DeadLetters::open(&sdk, &settings.dead_letter_queue).await?;
    let look = async || Ok(Some(dead.look(10).await?).filter(|letters| letters.len() == 2));
    let letters = eventually("both are there", look).await?;
    let again = eventually("they can be looked at again at once", look).await?;
    ensure!(letters.iter().all(|letter| again.iter().any(|other| other.id == letter.id)));
    let first = again.iter().find(|letter| letter.body == "first").context("the first")?;
    dead.send_on(first, &settings.queue).await?;
    let received =
        eventually("it is back in the queue", async || Ok(queue.receive().await.map_err(anyhow::Error::msg)?.pop()))
            .await?;
    ensure!(received.body == "first");
    let left = dead.look(10).await?;
    ensure!(left.len() == 1 && left[0].body == "second", "{left:?}");
    Ok(())
}

async fn unacknowledged_comes_again() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let client = aws_sdk_sqs::Client::new(&sdk);
    let url = queue_url(&client, &settings.queue).await?;
    let visibility = aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;
    client.set_queue_attributes().queue_url(url).attributes(visibility, "1").send().await?;
    EventBridge::new(&sdk, &settings.event_bus).publish(&[a_probe("orders")]).await?;
    let first = receive(&settings, &sdk, Duration::from_secs(20)).await?.context("the first delivery")?;
    let id = first.envelope.id.clone();
    drop(first);
    let again = receive(&settings, &sdk, Duration::from_secs(20)).await?.context("the second delivery")?;
    ensure!(again.envelope.id == id, "another message came");
    Ok(())
}

async fn queue_url(client: &aws_sdk_sqs::Client, queue: &str) -> Result<String> {
    client.get_queue_url().queue_name(queue).send().await?.queue_url.context("a URL")
}

/// Messages that wait in a queue.
async fn waiting(sdk: &SdkConfig, queue: &str) -> Result<u64> {
    let client = aws_sdk_sqs::Client::new(sdk);
    let url = queue_url(&client, queue).await?;
    let name = aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages;
    let attributes = client.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await?;
    Ok(attributes.attributes().and_then(|a| a.get(&name)).context("a count")?.parse()?)
}

// ---- Route 53 --------------------------------------------------------------------------------------------------

/// A zone with one CNAME; answers zone id and the swap from `old.` to `new.`.
async fn zone() -> Result<(String, RecordChange)> {
    let mut own = settings("unused");
    own.region = "us-east-1".into();
    let client = aws_sdk_route53::Client::new(&sdk(&own).await);
    let domain = format!("{}.example.", unique("zone"));
    let created = client.create_hosted_zone().name(&domain).caller_reference(unique("call")).send().await?;
    let zone = created.hosted_zone().context("a zone")?.id().trim_start_matches("/hostedzone/").to_owned();
    let name = format!("db.{domain}");
    let set = ResourceRecordSet::builder()
        .name(&name)
        .r#type(RrType::Cname)
        .ttl(5)
        .resource_records(ResourceRecord::builder().value("old.example.").build()?)
        .build()?;
    let create = Change::builder().action(ChangeAction::Create).resource_record_set(set).build()?;
    let batch = ChangeBatch::builder().changes(create).build()?;
    client.change_resource_record_sets().hosted_zone_id(&zone).change_batch(batch).send().await?;
    let change = RecordChange {
        zone: zone.clone(),
        name,
        ttl_s: 1,
        from: "old.example.".into(),
        to: "new.example.".into(),
        by: statemachine::RouteBy::Record,
    };
    Ok((zone, change))
}

async fn swap_moves() -> Result<()> {
    let sdk = sdk(&settings("unused")).await;
    let (zone, change) = zone().await?;
    let route53 = AwsRoute53::new(&sdk);
    let current = route53.current(&zone, &change.name).await?.context("the record is there")?;
    ensure!(current.points_at(&change.from) && current.ttl_s == 5, "{current:?}");
    let id = route53.swap(&zone, &[(change.clone(), current)]).await?;
    eventually("the change is in sync", async || Ok(route53.in_sync(&id).await?.then_some(()))).await?;
    let after = route53.current(&zone, &change.name).await?.context("the record is there")?;
    ensure!(after.points_at(&change.to) && after.ttl_s == 1, "{after:?}");
    ensure!(route53.current(&zone, &format!("other.{}", change.name)).await?.is_none());
    Ok(())
}

async fn stale_swap() -> Result<()> {
    let sdk = sdk(&settings("unused")).await;
    let (zone, change) = zone().await?;
    let route53 = AwsRoute53::new(&sdk);
    let current = route53.current(&zone, &change.name).await?.context("the record is there")?;
    route53.swap(&zone, &[(change.clone(), current.clone())]).await?;
    let back = RecordChange { from: change.to.clone(), to: change.from.clone(), ..change.clone() };
    let refused = route53.swap(&zone, &[(back, current)]).await;
    ensure!(matches!(refused, Err(CallError::SwapRefused { .. })), "{refused:?}");
    let after = route53.current(&zone, &change.name).await?.context("the record is still there")?;
    ensure!(after.points_at(&change.to), "{after:?}");
    Ok(())
}

// ---- S3 --------------------------------------------------------------------------------------------------------

async fn object_is_swapped() -> Result<()> {
    let settings = settings("unused");
    let bucket = unique("bucket");
    let place = CreateBucketConfiguration::builder().location_constraint(settings.region.as_str().into()).build();
    let client = aws_sdk_s3::Client::new(&sdk(&settings).await);
    client.create_bucket().bucket(&bucket).create_bucket_configuration(place).send().await?;
    let (objects, at) =
        (AwsS3::new(settings.aws.clone()), |key| Location { region: &settings.region, bucket: &bucket, key });
    let (here, refused) = (at("signpost.json"), |answer| matches!(answer, Err(CallError::SwapRefused { .. })));
    ensure!(objects.read(here).await?.is_none(), "nothing is there at first");
    objects.swap(here, "first", None).await?;
    ensure!(refused(objects.swap(here, "again", None).await), "made twice");
    let first = objects.read(here).await?.context("it was made")?;
    ensure!(first.text == "first", "{first:?}");
    objects.swap(here, "second", Some(&first)).await?;
    ensure!(refused(objects.swap(here, "late", Some(&first)).await), "swapped by who saw something else");
    let second = objects.read(here).await?.context("it is there")?;
    ensure!(second.text == "second" && second.etag != first.etag, "{second:?}");
    Ok(())
}

// ---- passwords -------------------------------------------------------------------------------------------------

async fn password_from_secret() -> Result<()> {
    let settings = settings("unused");
    let client = aws_sdk_secretsmanager::Client::new(&sdk(&settings).await);
    let managed = r#"{"username":"failover","password":"first"}"#;
    let made = client.create_secret().name(unique("secret")).secret_string(managed).send().await?;
    let arn = made.arn().context("an ARN")?.to_owned();
    let passwords = Passwords::new(PasswordSource::Secret(Arn(arn.clone())), settings.aws.clone());
    let get = async || passwords.get("db.example", 5432, "failover").await;
    ensure!(get().await?.as_deref() == Some("first"));
    client.put_secret_value().secret_id(&arn).secret_string("second").send().await?;
    ensure!(get().await?.as_deref() == Some("first"), "it is not asked for at each connection");
    passwords.forget().await;
    ensure!(get().await?.as_deref() == Some("second"));
    Ok(())
}

async fn iam_token() -> Result<()> {
    let settings = settings("unused");
    let passwords = Passwords::new(PasswordSource::IamToken, settings.aws.clone());
    let endpoint = "orders.cluster-abc.eu-central-1.rds.amazonaws.com";
    let token = passwords.get(endpoint, 5432, "failover").await?.context("a token")?;
    ensure!(token.starts_with(&format!("{endpoint}:5432/?")), "{token}");
    for part in ["Action=connect", "DBUser=failover", "%2Feu-central-1%2Frds-db%2F", "X-Amz-Signature="] {
        ensure!(token.contains(part), "{part} is not in {token}");
    }
    Ok(())
}

// ---- CloudWatch ------------------------------------------------------------------------------------------------

async fn newest_lag() -> Result<()> {
    let mut own = settings("unused");
    own.region = SECONDARY.into();
    let client = aws_sdk_cloudwatch::Client::new(&sdk(&own).await);
    let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
    let cluster = format!("contract-{SECONDARY}");
    let now = clock::now();
    // Where it is not measured, as in the lab, it is put there.
    for (seconds, ms) in LAG {
        let at = DateTime::from_millis(now.0 as i64 - seconds as i64 * 1000);
        let datum = MetricDatum::builder().metric_name("AuroraGlobalDBRPOLag").value(ms as f64).timestamp(at);
        let datum = datum.dimensions(dimension("DBClusterIdentifier", &cluster));
        let datum = datum.dimensions(dimension("SourceRegion", PRIMARY)).build();
        let put = client.put_metric_data().namespace("AWS/RDS").metric_data(datum).send().await;
        let measured = put.as_ref().is_err_and(|error| error.code() == Some("UnknownOperationException"));
        ensure!(put.is_ok() || measured, "PutMetricData: {put:?}");
    }
    let cloudwatch = CloudWatch::new(own.aws.clone());
    let sources = [Region::from(PRIMARY), Region::from("eu-west-1")];
    let now = clock::now();
    let lag = cloudwatch.rpo_lag(&SECONDARY.into(), &cluster, &sources, now).await?;
    let (ms, at) = lag.context("there is a lag")?;
    ensure!(ms == 7, "{ms} ms is not the newest");
    ensure!(at <= now && now.since_ms(at) <= 62_000, "measured {} ms ago", now.since_ms(at));
    let of_the_writer = cloudwatch.rpo_lag(&PRIMARY.into(), &format!("contract-{PRIMARY}"), &sources, now).await?;
    ensure!(of_the_writer.is_none(), "a primary has no lag: {of_the_writer:?}");
    Ok(())
}

// ---- RDS -------------------------------------------------------------------------------------------------------

/// The ARN of the target cluster; made first where the endpoint does not have it.
async fn global_cluster() -> Result<Arn> {
    let settings = settings("unused");
    let rds = AwsRds::new(settings.aws.clone());
    let (west, id) = (Region::from(SECONDARY), ClusterId(GLOBAL_CLUSTER.into()));
    if rds.global_cluster(&west, &id).await.is_err() {
        create_global_cluster(&settings).await?;
    }
    let found = rds.global_cluster(&west, &id).await?;
    let target = found.members.iter().find(|member| member.arn.as_str().contains(SECONDARY));
    Ok(target.with_context(|| format!("no member in {SECONDARY}: {found:?}"))?.arn.clone())
}

async fn create_global_cluster(settings: &Settings) -> Result<()> {
    let mut own = settings.clone();
    own.region = PRIMARY.into();
    let east = aws_sdk_rds::Client::new(&sdk(&own).await);
    own.region = SECONDARY.into();
    let west = aws_sdk_rds::Client::new(&sdk(&own).await);
    let (engine, version) = ("aurora-postgresql", "16.11");
    east.create_global_cluster()
        .global_cluster_identifier(GLOBAL_CLUSTER)
        .engine(engine)
        .engine_version(version)
        .send()
        .await
        .context("CreateGlobalCluster")?;
    for (client, region) in [(east, PRIMARY), (west, SECONDARY)] {
        client
            .create_db_cluster()
            .db_cluster_identifier(format!("contract-{region}"))
            .global_cluster_identifier(GLOBAL_CLUSTER)
            .engine(engine)
            .engine_version(version)
            .master_username("postgres")
            .master_user_password("not-a-secret-1")
            .send()
            .await
            .with_context(|| format!("CreateDBCluster in {region}"))?;
    }
    Ok(())
}

async fn failover() -> Result<()> {
    let target = global_cluster().await?;
    let rds = AwsRds::new(settings("unused").aws);
    let (west, id) = (Region::from(SECONDARY), ClusterId(GLOBAL_CLUSTER.into()));
    let facts = rds.cluster(&west, &target).await?;
    ensure!(facts.status == "available", "{facts:?}");
    rds.fail_over(&west, &id, &target).await?;
    let again = rds.fail_over(&west, &id, &target).await;
    ensure!(matches!(&again, Err(RdsError::Answered { .. })), "a repeated call: {again:?}");
    eventually("the target is the writer and nothing runs", async || {
        let found = rds.global_cluster(&west, &id).await?;
        let writer = found.member(&target).is_some_and(|member| member.writer);
        Ok((writer && found.failover.is_none()).then_some(()))
    })
    .await
}

async fn unknown_cluster() -> Result<()> {
    let rds = AwsRds::new(settings("unused").aws);
    let asked = rds.global_cluster(&SECONDARY.into(), &"no-such-cluster".into()).await;
    match asked {
        Err(RdsError::Answered { code, .. }) => {
            ensure!(code.starts_with("GlobalClusterNotFound"), "{code}");
            Ok(())
        }
        other => anyhow::bail!("{other:?}"),
    }
}

async fn simulated_permissions() -> Result<()> {
    let (settings, sdk) = ready().await?;
    let name = unique("controller");
    let client = aws_sdk_iam::Client::new(&sdk);
    let trust = r#"{"Version":"2012-10-17","Statement":[]}"#;
    let created = client.create_role().role_name(&name).assume_role_policy_document(trust).send().await?;
    let arn = created.role().context("a role")?.arn().to_owned();
    let policy = permissions::policy(Role::Controller, &settings).to_string();
    client.put_role_policy().role_name(&name).policy_name("own").policy_document(policy).send().await?;
    for statement in permissions::statements(Role::Controller, &settings) {
        for resource in &statement.resources {
            let thing = if resource == "*" { resource.clone() } else { resource.replace('*', "any") };
            let denied = iam::denied(&sdk, &arn, &statement.actions, &thing).await.map_err(anyhow::Error::msg)?;
            ensure!(denied.is_empty(), "{}: {denied:?}", statement.sid);
        }
    }
    let table = format!("arn:aws:dynamodb:us-west-2:000000000000:table/{}", settings.table);
    for (action, resource) in
        [("dynamodb:DeleteTable", table.as_str()), ("dynamodb:PutItem", "arn:aws:dynamodb:a:b:table/c")]
    {
        let denied = iam::denied(&sdk, &arn, &[action], resource).await.map_err(anyhow::Error::msg)?;
        ensure!(denied.len() == 1 && denied[0].decision == "implicitDeny", "{action} on {resource}: {denied:?}");
    }
    Ok(())
}
