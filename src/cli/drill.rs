//! `aurora-failover drill`: a game day on the real cluster, with its report.

use super::override_::{self, Override, Telling};
use super::{ConfigFile, Format, Output, episodes, report, show, show_as, store};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest time until everything is whole again.
const CLOSES_WITHIN: Duration = Duration::from_secs(7200);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A game day: move the writer of a real cluster by plan, follow it to the end, report on it.
///
/// Exits as `override` does.
#[derive(Args)]
pub(super) struct Drill {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Which cluster.
    cluster: String,
    /// By a switchover, which loses nothing. There is no other way yet.
    #[arg(long, required = true)]
    switchover: bool,
    /// To which region; the best secondary when not given.
    #[arg(long)]
    target: Option<String>,
    /// Why; kept in the history.
    #[arg(long)]
    reason: String,
    /// The person or the ticket behind the caller.
    #[arg(long, value_name = "NAME")]
    on_behalf_of: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Also write a page with charts here.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

impl Drill {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let settings = self.file.load()?;
        let cluster = super::one_cluster(&settings, Some(self.cluster.clone()))?;
        let (_, store) = store(&settings).await;
        let before = store.newest_episode(&cluster).await?.map(|entry| entry.id);
        let order = Override::switchover(
            self.file.config.clone(),
            self.cluster,
            self.target,
            self.reason,
            self.on_behalf_of,
            self.yes,
        );
        let mut telling = Telling::new(self.output.output);
        let code = override_::carry_out(order, &mut telling).await?.code();
        let newest = store.newest_episode(&cluster).await?;
        let Some(entry) = newest.filter(|entry| Some(&entry.id) != before.as_ref()) else { return Ok(code) };
        telling.tell("waiting until everything is whole again")?;
        let began = Instant::now();
        while episodes::find(&store, &cluster, entry.id.as_str()).await?.closed_at.is_none() {
            if began.elapsed() > CLOSES_WITHIN {
                bail!(
                    "episode {} is open after {CLOSES_WITHIN:?}; `aurora-failover explain {cluster}` says why",
                    entry.id
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (told, _) = episodes::load(&store, &cluster, entry.id.as_str()).await?;
        if let Some(path) = &self.html {
            std::fs::write(path, report::html(&told)).with_context(|| format!("writing {}", path.display()))?;
        }
        match self.output.output {
            Format::Table => show(&report::text(&told))?,
            format => show_as(format, &told)?,
        }
        Ok(code)
    }
}
