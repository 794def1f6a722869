//! `aurora-failover drill`: a game day on the real cluster, with its report.

use super::override_::{self, Ended, Override, Telling};
use super::{ConfigFile, Format, Output, episodes, report, show, show_as, store};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain;
use aurora_failover::clock;
use aurora_failover::store::DynamoDb;
use clap::Args;
use statemachine::{ClusterId, State, next_wakeup};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest time until everything is whole again.
const CLOSES_WITHIN: Duration = Duration::from_secs(7200);

/// Longest time until what was before has settled.
const SETTLES_WITHIN: Duration = Duration::from_secs(3600);

/// Pause between two tellings that it still waits.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A game day: move the writer of a real cluster by plan, follow it to the end, report on it.
///
/// Waits, at most an hour, until what was before has settled. Exits as `override` does.
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
    /// Do not wait until what was before has settled: be refused then.
    #[arg(long)]
    no_wait: bool,
    /// Also write a page with charts here.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Waits until a switchover can be ordered; how it ended otherwise.
async fn settle(store: &DynamoDb, cluster: &ClusterId, telling: &mut Telling) -> Result<Option<Ended>> {
    let (began, mut told): (Instant, Option<Instant>) = (Instant::now(), None);
    loop {
        let Some(item) = store.read(cluster).await? else { return Ok(None) };
        let record = &item.record;
        if record.state == State::Healthy && record.episode.is_none() {
            return Ok(None);
        }
        if record.hold.is_some() {
            for held in explain::held(record, &super::asked(store, &item).await?) {
                telling.tell(format!("it holds: {}; to go on: {}", held.why, held.release))?;
            }
            return Ok(Some(Ended::Holds));
        }
        if began.elapsed() > SETTLES_WITHIN {
            telling.tell(format!(
                "{cluster} is {} after {}; `aurora-failover explain {cluster}` says why",
                record.state.name(),
                explain::duration(SETTLES_WITHIN.as_millis() as u64)
            ))?;
            return Ok(Some(Ended::NoAnswer));
        }
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            let again = next_wakeup(record).map(|at| format!(", and it looks again at {}", clock::rfc3339(at)));
            telling.tell(format!(
                "waiting until what was before has settled: {cluster} is {}{}",
                record.state.name(),
                again.unwrap_or_default()
            ))?;
            told = Some(Instant::now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Drill {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let settings = self.file.load()?;
        let cluster = super::one_cluster(&settings, Some(self.cluster.clone()))?;
        let (_, store) = store(&settings).await;
        let mut telling = Telling::new(self.output.output);
        if !self.no_wait
            && let Some(ended) = settle(&store, &cluster, &mut telling).await?
        {
            return Ok(ended.code());
        }
        let before = store.newest_episode(&cluster).await?.map(|entry| entry.id);
        let order = Override::switchover(
            self.file.config.clone(),
            self.cluster,
            self.target,
            self.reason,
            self.on_behalf_of,
            self.yes,
        );
        let ended = override_::carry_out(order, &mut telling).await?;
        let code = ended.code();
        let newest = store.newest_episode(&cluster).await?;
        let Some(entry) = newest.filter(|entry| Some(&entry.id) != before.as_ref()) else { return Ok(code) };
        // What holds, or is not answered, closes when somebody does something about it.
        let closes = !matches!(ended, Ended::Holds | Ended::NoAnswer);
        if closes {
            telling.tell("waiting until everything is whole again")?;
        }
        let began = Instant::now();
        while closes && episodes::find(&store, &cluster, entry.id.as_str()).await?.closed_at.is_none() {
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
