//! `aurora-failover replay`: the same decisions again, and what another policy would have decided.

use super::{ConfigFile, Format, Output, episodes, median, show, show_as, store, table, when};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain;
use aurora_failover::audit::what_if::{Compared, Judged, compare};
use aurora_failover::audit::{self, Flaw};
use aurora_failover::clock;
use aurora_failover::config;
use aurora_failover::store::{DynamoDb, HistoryRow, Path};
use clap::Args;
use comfy_table::Table;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{ClusterId, Timestamp};
use std::path::PathBuf;

/// Make the stored decisions again, byte for byte; or see what another policy would have made of the same probes.
///
/// Exits with 0 only if every decision comes out as it is stored.
#[derive(Args)]
pub(super) struct Replay {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Of this episode, by its id, or `last` or `latest` as for `episode`; of everything that is stored when not given.
    episode: Option<String>,
    /// Which cluster; may be left out when the configuration has only one.
    #[arg(long)]
    cluster: Option<String>,
    /// Another configuration file: what would its policy have decided on the recorded probes?
    #[arg(long, value_name = "OTHER.toml")]
    policy: Option<PathBuf>,
    /// With `--policy`: episodes that began from this time on: 30d (ago), or 2026-11-23T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = when::parse, requires = "policy")]
    since: Option<Timestamp>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Outcome {
    cluster: String,
    rows: u64,
    replayed: u64,
    flaw: Option<String>,
}

impl Replay {
    /// Is everything as it is stored?
    pub(super) async fn run(self) -> Result<bool> {
        let settings = self.file.load()?;
        let cluster = match (&self.episode, &self.cluster) {
            (Some(id), None) if !episodes::is_word(id) => super::cluster_of(&settings, id)?,
            _ => super::one_cluster(&settings, self.cluster.clone())?,
        };
        let (_, store) = store(&settings).await;
        if let Some(other) = &self.policy {
            return self.what_if(&store, &cluster, other).await.map(|()| true);
        }
        let (mut rows, mut replayed) = (0, 0);
        let mut flaw: Option<Flaw> = None;
        let mut replaying = audit::Replaying::default();
        let mut each = |row: &HistoryRow| {
            rows += 1;
            match replaying.step(row) {
                Ok(true) => replayed += 1,
                Ok(false) => {}
                Err(found) => flaw = flaw.take().or(Some(found)),
            }
        };
        match &self.episode {
            Some(id) => {
                let entry = episodes::find(&store, &cluster, id).await?;
                episodes::rows(&store, &entry).await?.iter().for_each(&mut each);
            }
            None => {
                let mut all = store.rows(&Path::Cluster { cluster: cluster.clone(), from: 0, to: u64::MAX }, false);
                while let Some(row) = all.next().await? {
                    each(&row);
                }
            }
        }
        if rows == 0 {
            bail!("nothing is stored of {cluster}");
        }
        let flaw = flaw.map(|flaw| flaw.to_string());
        let good = flaw.is_none();
        if self.output.output == Format::Table {
            match &flaw {
                None => {
                    show(&format!("{replayed} of {rows} decisions of {cluster} made again, byte for byte as stored"))?
                }
                Some(flaw) => show(&format!("after {replayed} decisions: {flaw}"))?,
            }
        } else {
            show_as(self.output.output, &Outcome { cluster: cluster.to_string(), rows, replayed, flaw })?;
        }
        Ok(good)
    }

    async fn what_if(&self, store: &DynamoDb, cluster: &ClusterId, other: &std::path::Path) -> Result<()> {
        let other = config::load(other)?;
        let own = other.clusters.iter().find(|own| own.id == *cluster);
        let policy = &own.with_context(|| format!("the other configuration has no cluster {cluster}"))?.config.policy;
        let mut entries = store.episodes(cluster, self.since.unwrap_or(Timestamp(0))).await?;
        if let Some(id) = &self.episode {
            let wanted = episodes::find(store, cluster, id).await?;
            entries.retain(|entry| entry.id == wanted.id);
        }
        entries.reverse();
        let (mut compared, mut without) = (Vec::new(), 0);
        for entry in &entries {
            match compare(&episodes::rows(store, entry).await?, policy) {
                Some(one) => compared.push(one),
                None => without += 1,
            }
        }
        if self.output.output != Format::Table {
            return show_as(self.output.output, &compared);
        }
        show(&comparison(&compared).to_string())?;
        let false_outages = compared.iter().filter(|one| one.false_outage).count();
        let confirmed = |of: fn(&Compared) -> Judged| {
            let after_ms = |one| match of(one) {
                Judged::Confirmed { after_ms } => Some(after_ms),
                Judged::Averted | Judged::Undecided { .. } => None,
            };
            let ms: Vec<u64> = compared.iter().filter_map(after_ms).collect();
            let confirmed = ms.len();
            let median = median(ms).map_or_else(|| "-".into(), explain::duration);
            format!("{confirmed} confirmed, median detection {median}")
        };
        show(&format!(
            "\nrecorded policy: {}\nother policy:    {}\nfalse outages by the other policy: {false_outages}\n\
             without evidence of an outage (orders, or somebody else's failover): {without}",
            confirmed(|one| one.recorded),
            confirmed(|one| one.other),
        ))
    }
}

fn comparison(compared: &[Compared]) -> Table {
    let judged = |judged: Judged| match judged {
        Judged::Confirmed { after_ms } => format!("confirmed after {}", explain::duration(after_ms)),
        Judged::Averted => "averted".to_owned(),
        Judged::Undecided { after_ms } => format!("not within {}", explain::duration(after_ms)),
    };
    let mut table = table(["episode", "began (UTC)", "ended", "recorded policy", "other policy", ""]);
    for one in compared {
        table.add_row([
            one.episode.to_string(),
            clock::rfc3339(one.began_at),
            one.outcome.map_or_else(|| "open".into(), |outcome| explain::word(&outcome)),
            judged(one.recorded),
            judged(one.other),
            if one.false_outage { "FALSE OUTAGE".into() } else { String::new() },
        ]);
    }
    table
}
