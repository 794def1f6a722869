//! One item is the truth: the record with its version, and the last history row inside it.
//!
//! A turn is one conditional write of that item, then the history row, then the effects. A crash between the
//! first two is repaired on the next load, from the row inside the item. No transactions: strongly consistent
//! global tables refuse them.

mod dynamodb;
mod query;

pub use dynamodb::{DynamoDb, INDEXES, KEYS, is_number};
pub use query::{Path, Rows};

use crate::clock;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use statemachine::{
    ClusterId, ControllerId, EffectId, Envelope, Episode, EpisodeId, EpisodeOutcome, Epoch, Event, Evidence,
    GuardResult, Pending, Probe, ProbeOutcome, Record, Rule, SelfCheck, Timestamp, Vantage, Verdict,
};

/// Where records and history are kept.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads the item strongly consistently and repairs a missing history row before it answers.
    async fn load(&self, cluster: &ClusterId) -> Result<Option<Item>, StoreError>;

    /// Writes the item if the stored version is still the one before it. Answers [`StoreError::Conflict`] when
    /// somebody else was first; a lost reply to our own write is recognised by its decision id.
    async fn commit(&self, item: &Item) -> Result<(), StoreError>;

    /// Writes the history row, once, and notes in the index of episodes what it opened or closed.
    async fn append(&self, row: &HistoryRow) -> Result<(), StoreError>;

    /// Takes or renews the right to listen to the queue `name` until `until`; false while somebody else has it. It
    /// saves work and keeps all evidence in one memory; nothing depends on it being exclusive.
    async fn lease(
        &self,
        name: &str,
        holder: &ControllerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError>;
}

/// The state item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Rises by one with each write.
    pub version: u64,
    /// Made up for each write, to recognise our own after a lost reply.
    pub decision_id: String,
    /// The record.
    pub record: Record,
    /// The history row of this version.
    pub row: HistoryRow,
}

/// One durable turn, as it is kept for auditors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryRow {
    /// Shape of this row.
    pub schema: u32,
    /// Whose history.
    pub cluster: ClusterId,
    /// Version of the item that this row belongs to.
    pub version: u64,
    /// When the turn was made.
    pub at: Timestamp,
    /// Which write made it.
    pub decision_id: String,
    /// The event.
    pub event: Envelope,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// What it meant.
    pub verdict: Verdict,
    /// The rule that decided.
    pub rule: Rule,
    /// Every guard that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<GuardResult>,
    /// Effects asked for by this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Pending>,
    /// Effects claimed by this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed: Vec<EffectId>,
    /// What an operator was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Open episode, or the one that this turn closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<EpisodeId>,
    /// The episode that this turn opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<EpisodeId>,
    /// The episode that this turn closed, as it was in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Box<Episode>>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<EpisodeOutcome>,
    /// Probes since the row before that were not worth a row of their own: failures, and whatever was seen while an
    /// episode was open. The newest ones, see [`PROBES_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<SeenProbe>,
    /// Epoch after the turn.
    pub epoch: Epoch,
    /// Who brought the event: a vantage, a controller, an operator.
    pub actor: String,
    /// Hash of the configuration in force.
    pub config_hash: String,
    /// Version of the software.
    pub software: String,
    /// From the event to the turn.
    pub event_age_ms: u64,
    /// Evidence before the turn, quiet events included: with the row before it makes the turn repeatable.
    pub evidence: Evidence,
    /// Latest clock reading before the turn.
    pub last_now: Timestamp,
    /// The whole record before the turn; in the first row, and where an episode begins: a replay may start there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<Record>>,
    /// SHA-256 of the record after the turn.
    pub record_hash: String,
    /// Hash of the row before.
    pub previous_hash: String,
    /// SHA-256 over everything above.
    pub hash: String,
}

/// Most probes that one row keeps beside its own event.
pub const PROBES_KEPT: usize = 64;

/// A probe of the primary, in brief: enough to decide anew by another policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SeenProbe {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub vantage: Vantage,
    /// Class of the failure; none when it committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The vantage was cut off itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Time until the verdict.
    pub latency_ms: u64,
}

impl SeenProbe {
    /// In brief.
    #[must_use]
    pub fn of(probe: &Probe, at: Timestamp) -> Self {
        let failed = match &probe.outcome {
            ProbeOutcome::Ok => None,
            ProbeOutcome::Failed { class } => Some(class.clone()),
        };
        let (vantage, isolated) = (probe.vantage.clone(), probe.self_check == SelfCheck::Failed);
        Self { at, vantage, failed, isolated, latency_ms: probe.latency_ms }
    }
}

/// An episode in the index of episodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EpisodeEntry {
    /// Its id.
    pub id: EpisodeId,
    /// Whose.
    pub cluster: ClusterId,
    /// Version of the row that opened it.
    pub opened_version: u64,
    /// When that was.
    pub opened_at: Timestamp,
    /// Version of the row that closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_version: Option<u64>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<EpisodeOutcome>,
    /// As it was in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<Episode>,
}

impl HistoryRow {
    /// Fills in the hash.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.hash = self.digest();
        self
    }

    /// The hash that this row should have.
    #[must_use]
    pub fn digest(&self) -> String {
        let unsealed = Self { hash: String::new(), ..self.clone() };
        sha256_of(&unsealed)
    }

    /// What `record_hash` should be.
    #[must_use]
    pub fn hash_of(record: &Record) -> String {
        sha256_of(record)
    }

    /// Every probe that this row tells of: those that led to it, and its own.
    pub fn seen_probes(&self) -> impl Iterator<Item = SeenProbe> {
        let own = match &self.event.event {
            Event::Probe(probe) => Some(SeenProbe::of(probe, self.event.at)),
            _ => None,
        };
        self.probes.iter().cloned().chain(own)
    }

    /// The UTC day, for the fleet-wide index.
    #[must_use]
    pub fn day(&self) -> String {
        clock::day(self.at)
    }
}

fn sha256_of(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).expect("it is plain data");
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first; load and decide anew.
    #[error("another controller wrote version {version} of {cluster} first")]
    Conflict {
        /// Whose item.
        cluster: ClusterId,
        /// The version that was taken.
        version: u64,
    },
    /// The stored item cannot be understood; nothing is decided.
    #[error("the stored item of {cluster} cannot be read: {detail}; was it written by a newer version?")]
    Unreadable {
        /// Whose item.
        cluster: ClusterId,
        /// What is wrong.
        detail: String,
    },
    /// The call failed; nothing is known.
    #[error("DynamoDB {operation} on table {table} failed: {detail}")]
    Call {
        /// Which call.
        operation: &'static str,
        /// Which table.
        table: String,
        /// The error chain.
        detail: String,
    },
}
