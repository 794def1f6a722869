//! The store on DynamoDB. `PK = CLUSTER#<id>`, `SK = STATE | HIST#<version> | EPISODE#<begin>#<id>`; `PK = CONTROLLER`,
//! `SK = LEASE#<queue>`.

use super::{EpisodeEntry, HistoryRow, Item, Store, StoreError};
use crate::aws::chain;
use crate::clock;
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use statemachine::{ClusterId, ControllerId, Episode, EpisodeId, EpisodeOutcome, Record, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Key attributes of the table.
pub const KEYS: (&str, &str) = ("PK", "SK");

/// Global secondary indexes, for audit only: name, partition attribute, sort attribute.
pub const INDEXES: [(&str, &str, &str); 3] =
    [("GSI1", "day", "at"), ("GSI2", "episode", "version"), ("GSI3", "actor", "at")];

/// Is this key attribute a number? All others are strings.
#[must_use]
pub fn is_number(attribute: &str) -> bool {
    attribute == "version"
}

pub(super) type Attributes = HashMap<String, AttributeValue>;

/// The store.
#[derive(Debug, Clone)]
pub struct DynamoDb {
    pub(super) client: Client,
    pub(super) table: String,
    /// How long history rows are kept, in milliseconds; for ever when there is none.
    retention_ms: Option<u64>,
    /// The newest row of each cluster that is known to be there.
    appended: Arc<Mutex<HashMap<ClusterId, u64>>>,
    at_once: Arc<Semaphore>,
}

/// Calls under way at a time: all clusters of a fleet want something when a controller starts.
const CALLS_MAX: usize = 64;

impl DynamoDb {
    /// A store on `table`.
    #[must_use]
    pub fn new(sdk: &SdkConfig, table: &str) -> Self {
        let (appended, at_once) = (Arc::default(), Arc::new(Semaphore::new(CALLS_MAX)));
        Self { client: Client::new(sdk), table: table.into(), retention_ms: None, appended, at_once }
    }

    /// The same, with history rows that DynamoDB may delete so long after they were written: they carry the time in
    /// `expires`, in seconds, for the table's time to live.
    #[must_use]
    pub fn keeping(self, retention: Option<Duration>) -> Self {
        Self { retention_ms: retention.map(|kept| u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// Its table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Reads the item strongly consistently, and writes nothing: for whoever only looks.
    ///
    /// # Errors
    /// The call failed, or the item cannot be read.
    pub async fn read(&self, cluster: &ClusterId) -> Result<Option<Item>, StoreError> {
        let _turn = self.at_once.acquire().await;
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .consistent_read(true)
            .key("PK", partition(cluster))
            .key("SK", text("STATE"))
            .send()
            .await
            .map_err(|error| self.failed("GetItem", &error))?;
        found.item.map(|attributes| read_item(cluster, &attributes)).transpose()
    }

    /// Writes an item that is never overwritten.
    async fn put_once(&self, item: Attributes) -> Result<(), StoreError> {
        let _turn = self.at_once.acquire().await;
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        match put.condition_expression("attribute_not_exists(SK)").send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(e)) if e.err().is_conditional_check_failed_exception() => Ok(()),
            Err(error) => Err(self.failed("PutItem", &error)),
        }
    }

    /// The end of an episode, in the index. Says the same however often it is said.
    async fn note_closed(&self, row: &HistoryRow, closed: &Episode, outcome: EpisodeOutcome) -> Result<(), StoreError> {
        let _turn = self.at_once.acquire().await;
        let sent = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("PK", partition(&row.cluster))
            .key("SK", text(episode_key(&closed.id)))
            .update_expression(
                "SET closed_version = :version, closed_at = :at, outcome = :outcome, #final = :final, \
                 id = :id, opened_version = if_not_exists(opened_version, :version), \
                 opened_at = if_not_exists(opened_at, :began)",
            )
            .expression_attribute_names("#final", "final")
            .expression_attribute_values(":version", number(row.version))
            .expression_attribute_values(":at", number(row.at.0))
            .expression_attribute_values(":outcome", json(&outcome))
            .expression_attribute_values(":final", json(closed))
            .expression_attribute_values(":id", text(closed.id.as_str()))
            .expression_attribute_values(":began", number(closed.began_at.0))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed("UpdateItem", &error))
    }

    pub(super) fn failed(&self, operation: &'static str, error: &(dyn std::error::Error + 'static)) -> StoreError {
        StoreError::Call { operation, table: self.table.clone(), detail: chain(error) }
    }
}

#[async_trait]
impl Store for DynamoDb {
    async fn load(&self, cluster: &ClusterId) -> Result<Option<Item>, StoreError> {
        let item = self.read(cluster).await?;
        if let Some(item) = &item
            && self.appended.lock().expect("no panic while it is held").get(cluster) != Some(&item.version)
        {
            self.append(&item.row).await?;
        }
        Ok(item)
    }

    async fn commit(&self, item: &Item) -> Result<(), StoreError> {
        let _turn = self.at_once.acquire().await;
        let put = self.client.put_item().table_name(&self.table).set_item(Some(write_item(item)));
        let put = if item.version == 1 {
            put.condition_expression("attribute_not_exists(PK)")
        } else {
            put.condition_expression("#version = :read")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":read", number(item.version - 1))
        };
        let sent =
            put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld).send().await;
        let Err(error) = sent else { return Ok(()) };
        let SdkError::ServiceError(service) = &error else { return Err(self.failed("PutItem", &error)) };
        let PutItemError::ConditionalCheckFailedException(failed) = service.err() else {
            return Err(self.failed("PutItem", &error));
        };
        // The reply to our own write may have been lost and the SDK tried again: then this is our write.
        let stored = failed.item().and_then(|old| old.get("decision_id")).and_then(|id| id.as_s().ok());
        if stored == Some(&item.decision_id) {
            return Ok(());
        }
        Err(StoreError::Conflict { cluster: item.record.cluster.clone(), version: item.version })
    }

    async fn append(&self, row: &HistoryRow) -> Result<(), StoreError> {
        self.put_once(write_row(row, self.retention_ms)).await?;
        if let (Some(closed), Some(outcome)) = (&row.closed, row.outcome) {
            self.note_closed(row, closed, outcome).await?;
        }
        if let Some(opened) = &row.opened {
            self.put_once(write_opened(row, opened)).await?;
        }
        self.appended.lock().expect("no panic while it is held").insert(row.cluster.clone(), row.version);
        Ok(())
    }

    async fn lease(
        &self,
        name: &str,
        holder: &ControllerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("PK", text("CONTROLLER"))
            .item("SK", text(format!("LEASE#{name}")))
            .item("holder", text(holder.as_str()))
            .item("expires_at", number(until.0))
            .condition_expression("attribute_not_exists(PK) OR holder = :me OR expires_at <= :now")
            .expression_attribute_values(":me", text(holder.as_str()))
            .expression_attribute_values(":now", number(now.0))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(e)) if e.err().is_conditional_check_failed_exception() => Ok(false),
            Err(error) => Err(self.failed("PutItem", &error)),
        }
    }
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn partition(cluster: &ClusterId) -> AttributeValue {
    text(format!("CLUSTER#{cluster}"))
}

fn json(value: &impl serde::Serialize) -> AttributeValue {
    text(serde_json::to_string(value).expect("records and rows are plain data"))
}

fn write_item(item: &Item) -> Attributes {
    let record = &item.record;
    HashMap::from([
        ("PK".into(), partition(&record.cluster)),
        ("SK".into(), text("STATE")),
        ("version".into(), number(item.version)),
        ("decision_id".into(), text(&item.decision_id)),
        ("schema".into(), number(u64::from(record.schema))),
        ("state".into(), text(record.state.name())),
        ("epoch".into(), number(record.epoch.0)),
        ("primary".into(), text(record.primary.as_str())),
        ("record".into(), json(record)),
        ("row".into(), json(&item.row)),
    ])
}

/// Episodes sort by their beginning, which is the last part of their id.
pub(super) fn episode_key(id: &EpisodeId) -> String {
    let began: u64 = id.as_str().rsplit('-').next().and_then(|began| began.parse().ok()).unwrap_or_default();
    format!("EPISODE#{began:020}#{id}")
}

fn write_opened(row: &HistoryRow, opened: &EpisodeId) -> Attributes {
    HashMap::from([
        ("PK".into(), partition(&row.cluster)),
        ("SK".into(), text(episode_key(opened))),
        ("id".into(), text(opened.as_str())),
        ("opened_version".into(), number(row.version)),
        ("opened_at".into(), number(row.at.0)),
    ])
}

pub(super) fn read_episode(cluster: &ClusterId, attributes: &Attributes) -> Result<EpisodeEntry, StoreError> {
    let unreadable = |detail: String| StoreError::Unreadable { cluster: cluster.clone(), detail };
    let get = |name: &str| attributes.get(name);
    let count = |name: &str| get(name).and_then(|value| value.as_n().ok()?.parse().ok());
    let said = |name: &str| get(name).and_then(|value| value.as_s().ok());
    let outcome = said("outcome").map(|text| serde_json::from_str(text)).transpose();
    let episode = said("final").map(|text| serde_json::from_str(text)).transpose();
    let missing = |name: &str| unreadable(format!("an episode has no {name}"));
    Ok(EpisodeEntry {
        id: EpisodeId(said("id").ok_or_else(|| missing("id"))?.clone()),
        cluster: cluster.clone(),
        opened_version: count("opened_version").ok_or_else(|| missing("opened_version"))?,
        opened_at: Timestamp(count("opened_at").ok_or_else(|| missing("opened_at"))?),
        closed_version: count("closed_version"),
        closed_at: count("closed_at").map(Timestamp),
        outcome: outcome.map_err(|error| unreadable(format!("outcome of an episode: {error}")))?,
        episode: episode.map_err(|error| unreadable(format!("episode: {error}")))?,
    })
}

fn read_item(cluster: &ClusterId, attributes: &Attributes) -> Result<Item, StoreError> {
    let unreadable = |detail: String| StoreError::Unreadable { cluster: cluster.clone(), detail };
    let get = |name: &str| {
        attributes
            .get(name)
            .and_then(|value| value.as_s().or_else(|_| value.as_n()).ok())
            .ok_or_else(|| unreadable(format!("attribute {name} is missing")))
    };
    let record: Record = serde_json::from_str(get("record")?).map_err(|e| unreadable(format!("record: {e}")))?;
    let row: HistoryRow = serde_json::from_str(get("row")?).map_err(|e| unreadable(format!("row: {e}")))?;
    let version = get("version")?.parse().map_err(|e| unreadable(format!("version: {e}")))?;
    Ok(Item { version, decision_id: get("decision_id")?.clone(), record, row })
}

fn write_row(row: &HistoryRow, retention_ms: Option<u64>) -> Attributes {
    let mut attributes = HashMap::from([
        ("PK".into(), partition(&row.cluster)),
        ("SK".into(), text(format!("HIST#{:020}", row.version))),
        ("version".into(), number(row.version)),
        ("day".into(), text(row.day())),
        ("at".into(), text(clock::rfc3339(row.at))),
        ("actor".into(), text(&row.actor)),
        ("row".into(), json(row)),
    ]);
    if let Some(kept_ms) = retention_ms {
        attributes.insert("expires".into(), number(row.at.plus_ms(kept_ms).0 / 1000));
    }
    if let Some(episode) = &row.episode {
        attributes.insert("episode".into(), text(episode.as_str()));
    }
    attributes
}

pub(super) fn read_row(cluster: &ClusterId, attributes: &Attributes) -> Result<HistoryRow, StoreError> {
    let unreadable = |detail: String| StoreError::Unreadable { cluster: cluster.clone(), detail };
    let row = attributes.get("row").and_then(|value| value.as_s().ok());
    let row = row.ok_or_else(|| unreadable("a history row has no attribute row".into()))?;
    serde_json::from_str(row).map_err(|error| unreadable(format!("history row: {error}")))
}
