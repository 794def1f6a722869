//! `aurora-failover history`: what was decided, and why.

use super::{ConfigFile, Format, Output, show, show_as, store, table, when};
use anyhow::Result;
use aurora_failover::audit::explain;
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::{DynamoDb, HistoryRow, Path};
use clap::Args;
use comfy_table::Table;
use statemachine::{ClusterId, Rule, Timestamp};

/// Which rows.
#[derive(Args)]
pub(super) struct History {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    which: Which,
    /// At most this many turns.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
}

/// States by name.
const STATES: [&str; 6] = ["healthy", "suspect", "confirmed-down", "promoting", "rerouting", "stable"];

/// Outcomes of episodes by name.
pub(super) const OUTCOMES: [&str; 4] = ["completed", "averted", "cancelled", "failed"];

/// Kinds of events by name.
const KINDS: [&str; 10] =
    ["probe", "observation", "lag", "command", "rds", "alarm", "result", "claim", "configured", "tick"];

/// A rule by its name, as it is stored.
fn rule(text: &str) -> Result<String, String> {
    let read: Result<Rule, serde_json::Error> = serde_json::from_value(serde_json::Value::from(text));
    read.map(|rule| explain::word(&rule)).map_err(|error| error.to_string())
}

/// A choice of rows.
#[derive(Args, Clone)]
pub(super) struct Which {
    /// Which cluster; all of them with `--since` or `--actor` and without it, or the only one.
    #[arg(long)]
    pub(super) cluster: Option<String>,
    /// From this time on: 1h (ago), or 2026-11-23T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<Timestamp>,
    /// Until this time.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    until: Option<Timestamp>,
    /// Brought by this vantage, controller or operator.
    #[arg(long)]
    actor: Option<String>,
    /// Of this episode.
    #[arg(long, value_name = "ID")]
    episode: Option<String>,
    /// In this state after the turn.
    #[arg(long, value_parser = STATES)]
    state: Option<String>,
    /// That closed an episode so.
    #[arg(long, value_parser = OUTCOMES)]
    outcome: Option<String>,
    /// Made by this rule, such as quorum-confirmed.
    #[arg(long, value_parser = rule)]
    rule: Option<String>,
    /// On an event of this kind.
    #[arg(long, value_name = "KIND", value_parser = KINDS)]
    event: Option<String>,
}

impl Which {
    /// The cluster that is meant, when one has to be.
    pub(super) fn one(&self, settings: &Settings) -> Result<ClusterId> {
        super::one_cluster(settings, self.cluster.clone())
    }

    /// The way to the rows that reads the fewest.
    pub(super) async fn path(&self, settings: &Settings, store: &DynamoDb) -> Result<Option<Path>> {
        let until = self.until.unwrap_or_else(clock::now);
        let since = self.since.unwrap_or(Timestamp(0));
        if let (Some(actor), None) = (&self.actor, &self.episode) {
            return Ok(Some(Path::Actor { actor: actor.clone(), since, until }));
        }
        let named = self.cluster.is_some() || self.episode.is_some() || settings.clusters.len() == 1;
        if !named {
            if self.since.is_none() {
                return self.one(settings).map(|_| None);
            }
            return Ok(Some(Path::Fleet { since, until }));
        }
        let cluster = match (&self.cluster, &self.episode) {
            (None, Some(episode)) => super::cluster_of(settings, episode)?,
            _ => self.one(settings)?,
        };
        let (mut from, mut to) = (0, u64::MAX);
        if let Some(id) = &self.episode {
            let entry = super::episodes::find(store, &cluster, id).await?;
            (from, to) = (entry.opened_version, entry.closed_version.unwrap_or(u64::MAX));
        }
        if let Some(since) = self.since {
            match store.version_at(&cluster, since).await? {
                Some(version) => from = from.max(version),
                None => return Ok(None),
            }
        }
        if let Some(until) = self.until {
            let after = Timestamp(until.0.saturating_add(1));
            match store.version_at(&cluster, after).await? {
                Some(0 | 1) => return Ok(None),
                Some(version) => to = to.min(version - 1),
                None => {}
            }
        }
        Ok(Some(Path::Cluster { cluster, from, to }))
    }

    /// Is it one of them?
    pub(super) fn meets(&self, row: &HistoryRow) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let outcome = row.outcome.map(|outcome| explain::word(&outcome)).unwrap_or_default();
        is(&self.cluster, row.cluster.as_str())
            && is(&self.actor, &row.actor)
            && is(&self.state, &row.to)
            && is(&self.outcome, &outcome)
            && is(&self.rule, &explain::word(&row.rule))
            && is(&self.event, row.event.event.name())
            && self.since.is_none_or(|since| row.at >= since)
            && self.until.is_none_or(|until| row.at <= until)
    }
}

impl History {
    pub(super) async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        let (_, store) = store(&settings).await;
        let mut rows = Vec::new();
        if let Some(path) = self.which.path(&settings, &store).await? {
            let mut found = store.rows(&path, true);
            while rows.len() < self.limit {
                match found.next().await? {
                    Some(row) if self.which.meets(&row) => rows.push(row),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        if self.output.output != Format::Table {
            return show_as(self.output.output, &rows);
        }
        if rows.is_empty() {
            return show("No turn is like that; see `history --help` for what can be asked.");
        }
        show(&listing(&rows, settings.clusters.len() > 1).to_string())?;
        if rows.len() == self.limit {
            let newest = explain::count(self.limit, "turn");
            show(&format!("Only the newest {newest} are shown; pass --limit for more."))?;
        }
        Ok(())
    }
}

fn listing(rows: &[HistoryRow], several: bool) -> Table {
    let cluster = several.then_some("cluster");
    let mut table = table(cluster.into_iter().chain(["version", "time (UTC)", "event", "state", "rule", "detail"]));
    for row in rows {
        let state = if row.from == row.to { row.to.clone() } else { format!("{} → {}", row.from, row.to) };
        let cells = [
            row.version.to_string(),
            clock::rfc3339(row.at),
            row.event.event.name().into(),
            state,
            row.rule.sentence().into(),
            explain::facts(row).join("\n"),
        ];
        table.add_row(several.then(|| row.cluster.to_string()).into_iter().chain(cells));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use statemachine::{EpisodeOutcome, Event, State};

    #[test]
    fn what_can_be_asked_for_is_what_there_is() {
        for state in STATES {
            let read: serde_json::Value = serde_json::json!({
                "name": state, "since": 0, "target": "us-west-2", "soak-until": 0
            });
            let read: State = serde_json::from_value(read).expect("a state");
            assert_eq!(read.name(), state);
        }
        for outcome in OUTCOMES {
            let read: EpisodeOutcome = serde_json::from_value(outcome.into()).expect("an outcome");
            assert_eq!(explain::word(&read), outcome);
        }
        // A kind that exists lacks its fields; another one is not known.
        for kind in KINDS {
            let read: Result<Event, _> = serde_json::from_value(serde_json::json!({ "kind": kind }));
            assert!(
                read.map_or_else(|error| error.to_string().contains("missing field"), |event| event.name() == kind)
            );
        }
        assert_eq!(rule("guard-refused").as_deref(), Ok("guard-refused"));
        assert!(rule("gard-refused").is_err_and(|error| error.contains("guard-refused")));
    }
}
