//! Reading the history: every access is a Query, page by page, so that a million rows need no more memory than a page.
//!
//! | asked for | where | reads |
//! |---|---|---|
//! | rows of a cluster, by version | base table, strongly consistent | the rows themselves |
//! | the version at a time | base table, binary search | 2 + log2(rows) reads of one row |
//! | rows of an episode | base table, by the versions in the index of episodes | the rows themselves |
//! | rows by an actor | `GSI3`, by time | the rows themselves |
//! | rows of all clusters | `GSI1`, a day at a time | the rows themselves |
//! | episodes of a cluster | base table, `EPISODE#`, by their beginning | the entries themselves |

use super::dynamodb::{Attributes, DynamoDb, episode_key, partition, read_episode, read_row, text};
use super::{EpisodeEntry, HistoryRow, StoreError};
use crate::clock;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use statemachine::{ClusterId, EpisodeId, EpisodeOutcome, Timestamp};

/// Sorts behind every episode.
const LAST_EPISODE: &str = "EPISODE#~";

/// Most rows of a page: about the megabyte that DynamoDB gives at most.
const PAGE_ROWS: usize = 500;

/// A day.
const DAY_MS: u64 = 86_400_000;

/// Which rows, by what can be asked of the table.
#[derive(Debug, Clone)]
pub enum Path {
    /// Of one cluster, from one version to another, both included.
    Cluster {
        /// Whose.
        cluster: ClusterId,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Of whoever brought the event, from one time to another.
    Actor {
        /// Who.
        actor: String,
        /// From.
        since: Timestamp,
        /// Until.
        until: Timestamp,
    },
    /// Of all clusters, from one time to another.
    Fleet {
        /// From.
        since: Timestamp,
        /// Until.
        until: Timestamp,
    },
}

/// Rows one after the other, read a page at a time.
pub struct Rows<'a> {
    store: &'a DynamoDb,
    parts: std::vec::IntoIter<QueryFluentBuilder>,
    part: Option<QueryFluentBuilder>,
    start: Option<Attributes>,
    page: std::vec::IntoIter<HistoryRow>,
}

impl Rows<'_> {
    /// The next row; none after the last one.
    ///
    /// # Errors
    /// The call failed, or a row cannot be read.
    pub async fn next(&mut self) -> Result<Option<HistoryRow>, StoreError> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            let Some(part) = self.part.take().or_else(|| self.parts.next()) else { return Ok(None) };
            let asked = part.clone().set_exclusive_start_key(self.start.take());
            let page = asked.send().await.map_err(|error| self.store.failed("Query", &error))?;
            self.start = page.last_evaluated_key().cloned();
            self.part = self.start.is_some().then_some(part);
            let rows = page.items().iter().map(|attributes| read_row(&owner(attributes), attributes));
            self.page = rows.collect::<Result<Vec<_>, _>>()?.into_iter();
        }
    }
}

/// The cluster that a row's key names.
fn owner(attributes: &Attributes) -> ClusterId {
    let key = attributes.get("PK").and_then(|value| value.as_s().ok());
    ClusterId(key.and_then(|key| key.strip_prefix("CLUSTER#")).unwrap_or_default().to_owned())
}

impl DynamoDb {
    /// These rows; read only as far as they are asked for.
    #[must_use]
    pub fn rows(&self, path: &Path, newest_first: bool) -> Rows<'_> {
        self.paged(path, newest_first, PAGE_ROWS)
    }

    /// The same, with at most so many rows in a page.
    fn paged(&self, path: &Path, newest_first: bool, rows_max: usize) -> Rows<'_> {
        let limit = Some(i32::try_from(rows_max).unwrap_or(i32::MAX).max(1));
        let query = || self.client.query().table_name(&self.table).scan_index_forward(!newest_first).set_limit(limit);
        let between = |query: QueryFluentBuilder, since: &Timestamp, until: &Timestamp| {
            query
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":since", text(clock::rfc3339(*since)))
                .expression_attribute_values(":until", text(clock::rfc3339(*until)))
        };
        let mut parts = match path {
            Path::Cluster { cluster, from, to } => vec![
                query()
                    .consistent_read(true)
                    .key_condition_expression("PK = :pk AND SK BETWEEN :from AND :to")
                    .expression_attribute_values(":pk", partition(cluster))
                    .expression_attribute_values(":from", row_key(*from))
                    .expression_attribute_values(":to", row_key(*to)),
            ],
            Path::Actor { actor, since, until } => {
                let query = query()
                    .index_name("GSI3")
                    .key_condition_expression("actor = :actor AND #at BETWEEN :since AND :until")
                    .expression_attribute_values(":actor", text(actor));
                vec![between(query, since, until)]
            }
            Path::Fleet { since, until } => {
                let days = (since.0 / DAY_MS..=until.0 / DAY_MS).map(|day| {
                    let query = query()
                        .index_name("GSI1")
                        .key_condition_expression("#day = :day AND #at BETWEEN :since AND :until")
                        .expression_attribute_names("#day", "day")
                        .expression_attribute_values(":day", text(clock::day(Timestamp(day * DAY_MS))));
                    between(query, since, until)
                });
                days.collect()
            }
        };
        if newest_first {
            parts.reverse();
        }
        Rows { store: self, parts: parts.into_iter(), part: None, start: None, page: Vec::new().into_iter() }
    }

    /// The newest rows of a cluster.
    ///
    /// # Errors
    /// The call failed, or a row cannot be read.
    pub async fn newest(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let path = Path::Cluster { cluster: cluster.clone(), from: 0, to: u64::MAX };
        let mut found = self.paged(&path, true, limit);
        let mut rows = Vec::new();
        while rows.len() < limit {
            match found.next().await? {
                Some(row) => rows.push(row),
                None => break,
            }
        }
        Ok(rows)
    }

    /// The version of the first row of a cluster that is not older than `at`; none when all are.
    ///
    /// # Errors
    /// A call failed.
    pub async fn version_at(&self, cluster: &ClusterId, at: Timestamp) -> Result<Option<u64>, StoreError> {
        let Some((newest, newest_at)) = self.edge(cluster, 0, true).await? else { return Ok(None) };
        if newest_at < at {
            return Ok(None);
        }
        let Some((oldest, _)) = self.edge(cluster, 0, false).await? else { return Ok(None) };
        // The first one that is not older is in low..=high; time never goes back from one version to the next.
        let (mut low, mut high) = (oldest, newest);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.edge(cluster, middle, false).await? {
                Some((_, its)) if its >= at => high = middle,
                Some((version, _)) => low = version + 1,
                None => high = middle,
            }
        }
        Ok(Some(low))
    }

    /// Version and time of the oldest row from `from` on, or of the newest one.
    async fn edge(&self, cluster: &ClusterId, from: u64, newest: bool) -> Result<Option<(u64, Timestamp)>, StoreError> {
        let asked = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .scan_index_forward(!newest)
            .key_condition_expression("PK = :pk AND SK BETWEEN :from AND :to")
            .expression_attribute_names("#version", "version")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":pk", partition(cluster))
            .expression_attribute_values(":from", row_key(from))
            .expression_attribute_values(":to", row_key(u64::MAX))
            .projection_expression("#version, #at")
            .limit(1);
        let page = asked.send().await.map_err(|error| self.failed("Query", &error))?;
        let Some(attributes) = page.items().first() else { return Ok(None) };
        let version = attributes.get("version").and_then(|value| value.as_n().ok()?.parse().ok());
        let at = attributes.get("at").and_then(|value| clock::parse_rfc3339(value.as_s().ok()?));
        let read = version.zip(at);
        read.map(Some).ok_or_else(|| StoreError::Unreadable {
            cluster: cluster.clone(),
            detail: "a history row has no version or no time".into(),
        })
    }

    /// Episodes of a cluster that began from `since` on, newest first.
    ///
    /// # Errors
    /// A call failed, or an entry cannot be read.
    pub async fn episodes(&self, cluster: &ClusterId, since: Timestamp) -> Result<Vec<EpisodeEntry>, StoreError> {
        self.entries(cluster, &format!("EPISODE#{:020}", since.0), LAST_EPISODE, None).await
    }

    /// The newest episode of a cluster, if it had one.
    ///
    /// # Errors
    /// As for [`DynamoDb::episodes`].
    pub async fn newest_episode(&self, cluster: &ClusterId) -> Result<Option<EpisodeEntry>, StoreError> {
        Ok(self.entries(cluster, "EPISODE#", LAST_EPISODE, Some(1)).await?.into_iter().next())
    }

    /// The newest episode of a cluster that was more than an averted suspicion, if it had one.
    ///
    /// # Errors
    /// As for [`DynamoDb::episodes`].
    pub async fn last_episode(&self, cluster: &ClusterId) -> Result<Option<EpisodeEntry>, StoreError> {
        /// Entries that are looked through before all are read.
        const FEW: i32 = 25;
        let counts = |entry: &EpisodeEntry| entry.outcome != Some(EpisodeOutcome::Averted);
        let few = self.entries(cluster, "EPISODE#", LAST_EPISODE, Some(FEW)).await?;
        if let Some(found) = few.into_iter().find(counts) {
            return Ok(Some(found));
        }
        Ok(self.entries(cluster, "EPISODE#", LAST_EPISODE, None).await?.into_iter().find(counts))
    }

    /// One episode of a cluster, if there is such a one.
    ///
    /// # Errors
    /// As for [`DynamoDb::episodes`].
    pub async fn episode(&self, cluster: &ClusterId, id: &EpisodeId) -> Result<Option<EpisodeEntry>, StoreError> {
        let key = episode_key(id);
        Ok(self.entries(cluster, &key, &key, Some(1)).await?.into_iter().next())
    }

    /// Entries of episodes between two keys, newest first; all of them, or at most so many.
    async fn entries(
        &self,
        cluster: &ClusterId,
        from: &str,
        to: &str,
        limit: Option<i32>,
    ) -> Result<Vec<EpisodeEntry>, StoreError> {
        let mut found = Vec::new();
        let mut start: Option<Attributes> = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .scan_index_forward(false)
                .key_condition_expression("PK = :pk AND SK BETWEEN :from AND :to")
                .expression_attribute_values(":pk", partition(cluster))
                .expression_attribute_values(":from", text(from))
                .expression_attribute_values(":to", text(to))
                .set_limit(limit)
                .set_exclusive_start_key(start.take())
                .send()
                .await
                .map_err(|error| self.failed("Query", &error))?;
            for attributes in page.items() {
                found.push(read_episode(cluster, attributes)?);
            }
            start = page.last_evaluated_key;
            if start.is_none() || limit.is_some() {
                return Ok(found);
            }
        }
    }
}

fn row_key(version: u64) -> AttributeValue {
    text(format!("HIST#{version:020}"))
}
