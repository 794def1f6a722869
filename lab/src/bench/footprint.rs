//! What the program costs when nothing happens: its size, its start, its memory, and the AWS requests of a healthy cluster.

use super::{Policy, Shown, Spread, number, process, table};
use crate::progress::Progress;
use crate::stage::{Profile, Stage, StageOptions};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Starts of the program that are measured.
const STARTS: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    binary_mib: f64,
    /// `aurora-failover --version`, in milliseconds: load and run of the program alone.
    start_ms: Spread,
    /// From the start of the controller to its first request for messages, in milliseconds.
    first_poll_ms: Option<f64>,
    /// Resident memory by process, in KiB.
    rss_kib: BTreeMap<String, u64>,
    /// Requests by service and action, scaled to a day.
    requests_per_day: BTreeMap<String, f64>,
    seconds: u64,
}

pub(super) async fn run(length: Duration) -> Result<Measured> {
    let progress = Progress::new("footprint: ");
    let exe = std::env::current_exe()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let began = std::time::Instant::now();
        let ended = tokio::process::Command::new(&exe).arg("--version").output().await.context("starting it")?;
        anyhow::ensure!(ended.status.success(), "--version failed");
        starts.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let options = StageOptions { profile: Policy::Default.profile(), ..StageOptions::default() };
    debug_assert_eq!(options.profile, Profile::Default);
    let mut stage = Stage::start(&options, &progress).await?;
    let first_poll_ms = stage.first_poll().await.map(|took| took.as_secs_f64() * 1000.0);
    stage.steady(&progress).await?;
    progress.step(&format!("a healthy cluster, watched for {}", humantime::format_duration(length)));
    let before = count(&stage);
    sleep(length).await;
    let after = count(&stage);
    let days = length.as_secs_f64() / 86_400.0;
    let requests_per_day = after.iter().filter_map(|(action, count)| {
        let during = count - before.get(action).copied().unwrap_or_default();
        (during > 0).then(|| (action.clone(), during as f64 / days))
    });
    let measured = Measured {
        binary_mib: std::fs::metadata(&exe)?.len() as f64 / (1024.0 * 1024.0),
        start_ms: Spread::of(starts),
        first_poll_ms,
        rss_kib: stage.processes().map(|(name, pid, _)| (name, process::rss_kib(pid))).collect(),
        requests_per_day: requests_per_day.collect(),
        seconds: length.as_secs(),
    };
    progress.done("measured");
    stage.stop().await;
    Ok(measured)
}

fn count(stage: &Stage) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for call in stage.aws.calls() {
        *counts.entry(format!("{} {}", call.service, call.action)).or_default() += 1;
    }
    counts
}

impl Shown for Measured {
    fn text(&self) -> String {
        let mut held = table(&["process", "RSS MiB"], 1);
        for (name, kib) in &self.rss_kib {
            held.add_row([name.clone(), format!("{:.1}", *kib as f64 / 1024.0)]);
        }
        let mut requests = table(&["AWS request", "per day"], 1);
        for (action, per_day) in &self.requests_per_day {
            requests.add_row([action.clone(), number(*per_day)]);
        }
        let [min, median, _, max] = self.start_ms.cells();
        format!(
            "binary        {:.1} MiB\nstart         min {min}, median {median}, max {max} ms (--version, n={})\nfirst poll    \
             {} ms after the controller's start\n\n{held}\n\nOne healthy cluster, default policy, three vantages, as seen in \
             {} s (what it costs: aurora-failover cost)\n{requests}",
            self.binary_mib,
            self.start_ms.n,
            self.first_poll_ms.map_or_else(|| "-".into(), number),
            self.seconds
        )
    }
}
