//! `aurora-failover init`: creates what the configuration names and is missing (table, buses, queues, rules).
//! Safe to run twice. In production the CloudFormation templates do this; evaluation and the lab use this.

use crate::aws::chain;
use crate::bus::{CANARY_SOURCE, OPERATOR_SOURCE};
use crate::config::Settings;
use crate::envelope::{
    ALARM_DETAIL_TYPE, CLOUDWATCH_SOURCE, COMMAND_DETAIL_TYPE, LAG_DETAIL_TYPE, OBSERVATION_DETAIL_TYPE,
    PROBE_DETAIL_TYPE, RDS_CLUSTER_DETAIL_TYPE, RDS_INSTANCE_DETAIL_TYPE, RDS_SOURCE,
};
use crate::store::{INDEXES, KEYS};
use anyhow::{Context as _, Result, anyhow, bail};
use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TableStatus,
};
use aws_sdk_sqs::types::QueueAttributeName;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long to wait for the table to become active.
const TABLE_POLLS_MAX: u32 = 120;

/// Deliveries after which a message goes to the dead-letter queue.
const RECEIVES_MAX: u32 = 5;

/// Creates what is missing; calls `done` with a line for each part.
///
/// # Errors
/// Which part could not be made, and AWS's reason.
pub async fn init(sdk: &SdkConfig, settings: &Settings, mut done: impl FnMut(String)) -> Result<()> {
    create_table(sdk, &settings.table).await.with_context(|| format!("table {}", settings.table))?;
    done(format!("table {}", settings.table));
    let dead_letters = create_queue(sdk, &settings.dead_letter_queue, None).await?;
    done(format!("queue {}", settings.dead_letter_queue));
    let queue = create_queue(sdk, &settings.queue, Some(&dead_letters.arn)).await?;
    done(format!("queue {}", settings.queue));
    let orders = create_queue(sdk, &settings.operator_queue, Some(&dead_letters.arn)).await?;
    done(format!("queue {}", settings.operator_queue));
    let ours = &settings.event_bus;
    let seen = [PROBE_DETAIL_TYPE, OBSERVATION_DETAIL_TYPE, LAG_DETAIL_TYPE];
    let hints = [RDS_CLUSTER_DETAIL_TYPE, RDS_INSTANCE_DETAIL_TYPE];
    let rules = [
        Rule { name: format!("{ours}-to-queue"), bus: ours, source: CANARY_SOURCE, detail_types: &seen },
        // AWS itself speaks on the default bus; what other regions' default buses forward arrives on ours.
        Rule { name: format!("{ours}-rds"), bus: "default", source: RDS_SOURCE, detail_types: &hints },
        Rule {
            name: format!("{ours}-alarms"),
            bus: "default",
            source: CLOUDWATCH_SOURCE,
            detail_types: &[ALARM_DETAIL_TYPE],
        },
        Rule { name: format!("{ours}-forwarded-rds"), bus: ours, source: RDS_SOURCE, detail_types: &hints },
        Rule {
            name: format!("{ours}-forwarded-alarms"),
            bus: ours,
            source: CLOUDWATCH_SOURCE,
            detail_types: &[ALARM_DETAIL_TYPE],
        },
    ];
    create_bus_and_rules(sdk, ours, &queue, &rules).await.with_context(|| format!("bus {ours}"))?;
    done(format!("bus {ours} with rules to the queue, also for events of RDS and alarms"));
    let bus = &settings.operator_bus;
    let name = format!("{bus}-to-queue");
    let rules = [Rule { name, bus, source: OPERATOR_SOURCE, detail_types: &[COMMAND_DETAIL_TYPE] }];
    create_bus_and_rules(sdk, bus, &orders, &rules).await.with_context(|| format!("bus {bus}"))?;
    done(format!("bus {bus} with a rule to the queue"));
    Ok(())
}

async fn create_table(sdk: &SdkConfig, table: &str) -> Result<()> {
    let client = aws_sdk_dynamodb::Client::new(sdk);
    let key = |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let mut names = BTreeSet::from([KEYS.0, KEYS.1]);
    let mut create = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .deletion_protection_enabled(true)
        .key_schema(key(KEYS.0, KeyType::Hash)?)
        .key_schema(key(KEYS.1, KeyType::Range)?);
    for (index, partition, sort) in INDEXES {
        names.extend([partition, sort]);
        let index = GlobalSecondaryIndex::builder()
            .index_name(index)
            .key_schema(key(partition, KeyType::Hash)?)
            .key_schema(key(sort, KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::All).build());
        create = create.global_secondary_indexes(index.build()?);
    }
    for name in names {
        let kind = if crate::store::is_number(name) { ScalarAttributeType::N } else { ScalarAttributeType::S };
        create = create
            .attribute_definitions(AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?);
    }
    if let Err(error) = create.send().await {
        let exists = error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception());
        if !exists {
            bail!("CreateTable failed: {}", chain(&error));
        }
    }
    for _ in 0..TABLE_POLLS_MAX {
        let described = client.describe_table().table_name(table).send().await.map_err(|e| anyhow!(chain(&e)))?;
        if described.table().and_then(|t| t.table_status()) == Some(&TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("it was created but did not become active in a minute; run init again later")
}

struct Queue {
    arn: String,
    url: String,
}

async fn create_queue(sdk: &SdkConfig, name: &str, dead_letters: Option<&str>) -> Result<Queue> {
    let client = aws_sdk_sqs::Client::new(sdk);
    let mut create = client.create_queue().queue_name(name);
    if let Some(arn) = dead_letters {
        let redrive = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES_MAX });
        create = create.attributes(QueueAttributeName::RedrivePolicy, redrive.to_string());
    }
    let created = create.send().await.map_err(|e| anyhow!("queue {name}: CreateQueue failed: {}", chain(&e)))?;
    let url = created.queue_url().context("CreateQueue gave no URL")?.to_owned();
    let attributes = client
        .get_queue_attributes()
        .queue_url(&url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(|e| anyhow!("queue {name}: GetQueueAttributes failed: {}", chain(&e)))?;
    let arn = attributes.attributes().and_then(|a| a.get(&QueueAttributeName::QueueArn)).context("no queue ARN")?;
    Ok(Queue { arn: arn.clone(), url })
}

/// What goes from a bus to a queue.
struct Rule<'a> {
    name: String,
    bus: &'a str,
    source: &'a str,
    detail_types: &'a [&'a str],
}

async fn create_bus_and_rules(sdk: &SdkConfig, bus: &str, queue: &Queue, rules: &[Rule<'_>]) -> Result<()> {
    let client = aws_sdk_eventbridge::Client::new(sdk);
    if let Err(error) = client.create_event_bus().name(bus).send().await {
        let exists = error.as_service_error().is_some_and(|e| e.is_resource_already_exists_exception());
        if !exists {
            bail!("CreateEventBus failed: {}", chain(&error));
        }
    }
    let mut arns = Vec::new();
    for rule in rules {
        let pattern = serde_json::json!({ "source": [rule.source], "detail-type": rule.detail_types }).to_string();
        let put = client.put_rule().name(&rule.name).event_bus_name(rule.bus).event_pattern(pattern).send().await;
        let put = put.map_err(|e| anyhow!("PutRule {} failed: {}", rule.name, chain(&e)))?;
        arns.push(put.rule_arn.context("PutRule gave no ARN")?);
    }
    allow_rules(sdk, queue, &arns).await?;
    for rule in rules {
        let target = aws_sdk_eventbridge::types::Target::builder().id("queue").arn(&queue.arn).build()?;
        let put = client.put_targets().rule(&rule.name).event_bus_name(rule.bus).targets(target).send().await;
        let put = put.map_err(|e| anyhow!("PutTargets {} failed: {}", rule.name, chain(&e)))?;
        if let Some(failed) = put.failed_entries().first() {
            bail!(
                "PutTargets {} refused the queue: {} {}",
                rule.name,
                failed.error_code().unwrap_or("?"),
                failed.error_message().unwrap_or("")
            );
        }
    }
    Ok(())
}

/// Lets exactly these rules send to the queue.
async fn allow_rules(sdk: &SdkConfig, queue: &Queue, rule_arns: &[String]) -> Result<()> {
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": { "Service": "events.amazonaws.com" },
            "Action": "sqs:SendMessage",
            "Resource": queue.arn,
            "Condition": { "ArnEquals": { "aws:SourceArn": rule_arns } },
        }],
    });
    let client = aws_sdk_sqs::Client::new(sdk);
    let set = client
        .set_queue_attributes()
        .queue_url(&queue.url)
        .attributes(QueueAttributeName::Policy, policy.to_string())
        .send()
        .await;
    set.map_err(|e| anyhow!("SetQueueAttributes failed: {}", chain(&e)))?;
    Ok(())
}

/// What is not as it should be with the table, the buses and the queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Which part.
    pub part: String,
    /// What is wrong.
    pub found: String,
    /// What to do.
    pub fix: &'static str,
    /// Does nothing work without it?
    pub fatal: bool,
}

/// Looks at what [`init`] or the templates created: calls `good` with a line for each part that is as it should be.
pub async fn inspect(sdk: &SdkConfig, settings: &Settings, mut good: impl FnMut(String, String)) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let part = format!("table {}", settings.table);
    match inspect_table(sdk, settings).await {
        Ok(found) if found.is_empty() => good(part, "its keys, indexes and protection are as they should be".into()),
        Ok(found) => flaws.extend(found.into_iter().map(|flaw| Flaw { part: part.clone(), ..flaw })),
        Err(found) => flaws.push(fatal(part, found)),
    }
    for (bus, use_) in [(&settings.event_bus, "results"), (&settings.operator_bus, "orders")] {
        let described = aws_sdk_eventbridge::Client::new(sdk).describe_event_bus().name(bus).send().await;
        let part = format!("bus {bus}");
        match described {
            Err(error) => flaws.push(fatal(part, format!("DescribeEventBus: {}", chain(&error)))),
            Ok(described) => {
                let others = described.policy().is_some();
                let who = if others { "this account and whom its policy names" } else { "this account" };
                good(part, format!("takes {use_} of {who}"));
            }
        }
    }
    for queue in [&settings.queue, &settings.operator_queue] {
        let part = format!("queue {queue}");
        match inspect_queue(sdk, queue).await {
            Ok(None) => good(part, "rules may send to it, and what cannot be used has a place to go".into()),
            Ok(Some((found, fix))) => flaws.push(Flaw { part, found, fix, fatal: true }),
            Err(found) => flaws.push(fatal(part, found)),
        }
    }
    flaws
}

fn fatal(part: String, found: String) -> Flaw {
    Flaw {
        part,
        found,
        fix: "run `aurora-failover init`, or deploy the templates; and check the permissions",
        fatal: true,
    }
}

async fn inspect_table(sdk: &SdkConfig, settings: &Settings) -> Result<Vec<Flaw>, String> {
    let client = aws_sdk_dynamodb::Client::new(sdk);
    let described = client.describe_table().table_name(&settings.table).send().await;
    let described = described.map_err(|error| format!("DescribeTable: {}", chain(&error)))?;
    let table = described.table().ok_or("DescribeTable told nothing")?;
    let mut flaws = Vec::new();
    let mut flaw = |fatal: bool, found: String, fix| flaws.push(Flaw { part: String::new(), found, fix, fatal });
    for (index, _, _) in INDEXES {
        if !table.global_secondary_indexes().iter().any(|known| known.index_name() == Some(index)) {
            flaw(true, format!("it has no index {index}"), "add it as the templates have it: audits need it");
        }
    }
    if table.deletion_protection_enabled() != Some(true) {
        flaw(false, "anybody who may delete tables can delete it".into(), "enable deletion protection");
    }
    if settings.retention.is_some() {
        let lives = client.describe_time_to_live().table_name(&settings.table).send().await;
        let lives = lives.map_err(|error| format!("DescribeTimeToLive: {}", chain(&error)))?;
        let attribute = lives.time_to_live_description().and_then(|ttl| ttl.attribute_name());
        if attribute != Some("expires") {
            let found = "rows have a time to live, and the table does not know";
            flaw(false, found.into(), "enable time to live with the attribute `expires`");
        }
    }
    Ok(flaws)
}

async fn inspect_queue(sdk: &SdkConfig, name: &str) -> Result<Option<(String, &'static str)>, String> {
    let client = aws_sdk_sqs::Client::new(sdk);
    let url = client.get_queue_url().queue_name(name).send().await;
    let url = url.map_err(|error| format!("GetQueueUrl: {}", chain(&error)))?;
    let asked = client.get_queue_attributes().queue_url(url.queue_url().unwrap_or_default());
    let asked = asked.attribute_names(QueueAttributeName::Policy).attribute_names(QueueAttributeName::RedrivePolicy);
    let answer = asked.send().await.map_err(|error| format!("GetQueueAttributes: {}", chain(&error)))?;
    let attribute = |name| answer.attributes().and_then(|all| all.get(&name)).map(String::as_str).unwrap_or_default();
    if !attribute(QueueAttributeName::Policy).contains("events.amazonaws.com") {
        let found = "its policy does not let EventBridge send to it".to_owned();
        return Ok(Some((found, "run `aurora-failover init`, or deploy the templates")));
    }
    if attribute(QueueAttributeName::RedrivePolicy).is_empty() {
        let found = "it has no dead-letter queue: a message that cannot be used comes back for ever".to_owned();
        return Ok(Some((found, "give it a redrive policy, as `aurora-failover init` does for new queues")));
    }
    Ok(None)
}
