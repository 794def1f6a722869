//! `aurora-failover explain`: why did it, and why did it not, in sentences.

use super::{ConfigFile, Format, Output, show, show_as, store, when};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::{self, explain};
use aurora_failover::clock;
use aurora_failover::store::{DynamoDb, Path};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{ClusterId, Record, Rule, Timestamp};

/// Turns that are told of beside the record.
const TURNS: usize = 5;

/// Why the machine did what it did, or did not: every guard, its inputs and its verdict, in sentences.
///
/// Without a time it explains the record as it is now, and the last turns that moved it. With a version it explains that
/// turn; with a time, the record as it was then.
#[derive(Args)]
pub(super) struct Explain {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Which cluster.
    cluster: String,
    /// As it was at this time: 1h (ago), or 2026-11-23T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = when::parse, conflicts_with = "version")]
    at: Option<Timestamp>,
    /// The turn of this version.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
}

impl Explain {
    pub(super) async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        let cluster = super::one_cluster(&settings, Some(self.cluster.clone()))?;
        let (_, store) = store(&settings).await;
        if let Some(version) = self.version {
            let path = Path::Cluster { cluster: cluster.clone(), from: version, to: version };
            let Some(row) = store.rows(&path, false).next().await? else {
                bail!("{cluster} has no version {version}; `aurora-failover history` lists them");
            };
            let told = Explained {
                cluster: cluster.to_string(),
                at: row.at,
                version,
                record: Vec::new(),
                turns: vec![explain::turn(&row)],
                is_newest: false,
            };
            return told.show(self.output.output);
        }
        let mut asked = Vec::new();
        let (record, at, version) = match self.at {
            None => {
                let item = store.read(&cluster).await?;
                let item =
                    item.with_context(|| format!("nothing is stored of {cluster} yet; is the controller running?"))?;
                asked = super::asked(&store, &item).await?;
                // Quiet evidence is stored once in a while: it is judged as of the time that it is of.
                let of = item.record.last_now;
                (item.record, of, item.version)
            }
            Some(at) => {
                let after = store.version_at(&cluster, Timestamp(at.0 + 1)).await?;
                let version = match after {
                    Some(after) => after.saturating_sub(1),
                    None => store.newest(&cluster, 1).await?.first().map_or(0, |row| row.version),
                };
                if version == 0 {
                    bail!("nothing was stored of {cluster} at {} yet", clock::rfc3339(at));
                }
                (record_at(&store, &cluster, version).await?, at, version)
            }
        };
        let mut rows = store.rows(&Path::Cluster { cluster: cluster.clone(), from: 0, to: version }, true);
        let mut turns = Vec::new();
        while turns.len() < TURNS {
            let Some(row) = rows.next().await? else { break };
            if row.from == row.to && row.guards.is_empty() && row.answer.is_none() {
                continue;
            }
            if asked.is_empty() && row.rule == Rule::GuardRefused {
                asked.clone_from(&row.guards);
            }
            turns.push(explain::turn(&row));
        }
        let record = explain::record_asked(&record, at, &asked);
        let (cluster, is_newest) = (cluster.to_string(), self.at.is_none());
        Explained { cluster, at, version, record, turns, is_newest }.show(self.output.output)
    }
}

/// What is told, in sentences.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Explained {
    cluster: String,
    /// When it was so, in milliseconds since 1970.
    at: Timestamp,
    /// Version of the record.
    version: u64,
    /// The record; empty when a single turn is explained.
    record: Vec<String>,
    /// Turns, newest first.
    turns: Vec<Vec<String>>,
    /// It is the record as it is now.
    #[serde(skip)]
    is_newest: bool,
}

impl Explained {
    fn show(&self, format: Format) -> Result<()> {
        if format != Format::Table {
            return show_as(format, self);
        }
        let turns = self.turns.iter().map(|turn| turn.join("\n")).collect::<Vec<_>>().join("\n\n");
        if self.record.is_empty() {
            return show(&turns);
        }
        let (at, record) = (clock::rfc3339(self.at), self.record.join("\n"));
        let turns = match turns.as_str() {
            "" => "No turn has moved it yet.",
            turns => turns,
        };
        let ago = self.is_newest.then(|| explain::duration(clock::now().since_ms(self.at)));
        let ago = ago.map(|ago| format!(" ({ago} ago)")).unwrap_or_default();
        show(&format!(
            "As of {at}{ago}, version {}:\n{record}\n\nHow it came to this, newest first:\n\n{turns}",
            self.version
        ))
    }
}

/// The record after a version, made again from the last checkpoint before it.
async fn record_at(store: &DynamoDb, cluster: &ClusterId, version: u64) -> Result<Record> {
    let mut back = store.rows(&Path::Cluster { cluster: cluster.clone(), from: 0, to: version }, true);
    let mut rows = Vec::new();
    while let Some(row) = back.next().await? {
        let found = row.checkpoint.is_some();
        rows.push(row);
        if found {
            rows.reverse();
            return audit::record_after(&rows).with_context(|| format!("version {version} cannot be made again"));
        }
    }
    bail!("the rows before version {version} are gone: it cannot be made again")
}
