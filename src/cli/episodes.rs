//! `aurora-failover episodes` and `episode`: what happened, as a list and as a report.

use super::history::OUTCOMES;
use super::{ConfigFile, Format, Output, report, show, show_as, store, table, when};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain;
use aurora_failover::audit::report::{Report, report as make};
use aurora_failover::clock;
use aurora_failover::store::{DynamoDb, EpisodeEntry, HistoryRow, Path};
use clap::{Args, ValueEnum};
use statemachine::{ClusterId, EpisodeId, Timestamp};
use std::path::PathBuf;
use std::time::Duration;

/// The episodes of a cluster, newest first: when, what for, how they ended, how long, what was lost.
#[derive(Args)]
pub(super) struct Episodes {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Which cluster; all of them when not given.
    #[arg(long)]
    cluster: Option<String>,
    /// That began from this time on: 30d (ago), or 2026-11-23T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<Timestamp>,
    /// That ended so.
    #[arg(long, value_parser = OUTCOMES)]
    outcome: Option<String>,
}

/// One episode: timeline, times of its phases, recovery time, loss, who did what, what was held and why.
#[derive(Args)]
pub(super) struct Episode {
    #[command(flatten)]
    file: ConfigFile,
    /// Its id, as `episodes` prints it; or `last`, the newest that was more than an averted suspicion; or `latest`, the
    /// newest of all.
    id: String,
    /// Which cluster, with `last` and `latest`; may be left out when the configuration has only one.
    #[arg(long)]
    cluster: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    output: ReportFormat,
    /// What your application went without writes, as it measured it, such as 95s: the service has no client of its own.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    client_outage: Option<Duration>,
    /// Also write a page with charts here; it needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For a terminal.
    Text,
    /// For an incident review.
    Markdown,
    /// For programs; stable.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Episodes {
    pub(super) async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        if let Some(name) = &self.cluster {
            super::one_cluster(&settings, Some(name.clone()))?;
        }
        let (_, store) = store(&settings).await;
        let mut entries = Vec::new();
        for cluster in settings.clusters.iter().filter(|own| self.cluster.as_ref().is_none_or(|c| *c == own.id.0)) {
            entries.extend(store.episodes(&cluster.id, self.since.unwrap_or(Timestamp(0))).await?);
        }
        let outcome = |entry: &EpisodeEntry| entry.outcome.map(|outcome| explain::word(&outcome));
        entries.retain(|entry| self.outcome.is_none() || outcome(entry) == self.outcome);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.opened_at));
        if self.output.output != Format::Table {
            return show_as(self.output.output, &entries);
        }
        if entries.is_empty() {
            let asked = self.since.is_some() || self.outcome.is_some();
            let like = if asked { " like that" } else { "" };
            return show(&format!(
                "There was no episode{like}: the machine never left healthy and came back, or moved a writer."
            ));
        }
        let mut table =
            table(["episode", "began (UTC)", "kind", "outcome", "took", "promoted after", "loss by heartbeats"]);
        for entry in &entries {
            let ms = explain::duration;
            let episode = entry.episode.as_ref();
            table.add_row([
                entry.id.to_string(),
                clock::rfc3339(entry.opened_at),
                episode.map(|episode| explain::word(&episode.kind)).unwrap_or_else(|| "?".into()),
                outcome(entry).unwrap_or_else(|| "open".into()),
                entry.closed_at.map(|at| ms(at.since_ms(entry.opened_at))).unwrap_or_default(),
                episode.and_then(|e| Some(ms(e.promoted_at?.since_ms(e.began_at)))).unwrap_or_default(),
                episode.and_then(|e| e.rpo_heartbeat_ms.map(ms)).unwrap_or_default(),
            ]);
        }
        show(&table.to_string())
    }
}

impl Episode {
    pub(super) async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        let (_, store) = store(&settings).await;
        let cluster = match self.id.as_str() {
            id if is_word(id) => super::one_cluster(&settings, self.cluster.clone())?,
            id => super::cluster_of(&settings, id)?,
        };
        let (mut report, _) = load(&store, &cluster, &self.id).await?;
        report.rto_client_ms = self.client_outage.map(|outage| u64::try_from(outage.as_millis()).unwrap_or(u64::MAX));
        if let Some(path) = &self.html {
            std::fs::write(path, report::html(&report)).with_context(|| format!("writing {}", path.display()))?;
        }
        match self.output {
            ReportFormat::Text => show(&report::text(&report)),
            ReportFormat::Markdown => show(&report::markdown(&report)),
            ReportFormat::Json => show_as(Format::Json, &report),
            ReportFormat::Yaml => show_as(Format::Yaml, &report),
        }
    }
}

/// The report of an episode and its rows.
pub(super) async fn load(store: &DynamoDb, cluster: &ClusterId, id: &str) -> Result<(Report, Vec<HistoryRow>)> {
    let entry = find(store, cluster, id).await?;
    let rows = rows(store, &entry).await?;
    let open = store.read(cluster).await?.and_then(|item| item.record.episode).filter(|open| open.id == entry.id);
    let report = make(&rows, open.as_ref());
    let report =
        report.with_context(|| format!("the rows of episode {} are gone from table {}", entry.id, store.table()))?;
    Ok((report, rows))
}

/// The rows of an episode, oldest first.
pub(super) async fn rows(store: &DynamoDb, entry: &EpisodeEntry) -> Result<Vec<HistoryRow>> {
    let (from, to) = (entry.opened_version, entry.closed_version.unwrap_or(u64::MAX));
    let mut found = store.rows(&Path::Cluster { cluster: entry.cluster.clone(), from, to }, false);
    let mut rows = Vec::new();
    while let Some(row) = found.next().await? {
        rows.push(row);
    }
    Ok(rows)
}

/// Does it stand for an episode without being an id?
pub(super) fn is_word(id: &str) -> bool {
    matches!(id, "last" | "latest")
}

/// The entry of an episode by its id; `last` is the newest that was not averted, `latest` the newest of all.
pub(super) async fn find(store: &DynamoDb, cluster: &ClusterId, id: &str) -> Result<EpisodeEntry> {
    let found = match id {
        "last" => store.last_episode(cluster).await?,
        "latest" => store.newest_episode(cluster).await?,
        id => store.episode(cluster, &EpisodeId(id.to_owned())).await?,
    };
    match (found, id) {
        (Some(entry), _) => Ok(entry),
        (None, "last") => bail!("{cluster} has had no episode but averted ones; `latest` is the newest of all"),
        (None, "latest") => bail!("{cluster} has had no episode yet"),
        (None, id) => bail!("{cluster} has no episode {id}; `aurora-failover episodes` lists them"),
    }
}
