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
