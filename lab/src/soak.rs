//! A soak: flapping faults for a long time, then a look at what the service's processes hold, and whether history is
//! whole. The controller may not act by itself, so that suspicions, holds and averted outages follow one another
//! without end.

use crate::aws::Fault;
use crate::progress::Progress;
use crate::report;
use crate::stage::{Mode, PRIMARY, Profile, Stage, StageOptions};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Pause between two readings.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Part of the time after which the first reading counts: caches and pools are filled by then.
const WARM_AFTER: f64 = 0.2;

/// Growth that is none: a tenth, and what allocators keep back.
const RSS_SLACK_KIB: u64 = 4 * 1024;

/// Descriptors and tasks that may be more at one moment than at another.
const COUNT_SLACK: u64 = 8;

/// What of AWS fails for a while, and how.
const FAULTS: [&str; 8] = [
    "dynamodb=throttle:20",
    "dynamodb=lost-reply:5",
    "sqs=reset:20",
    "events=server-error:30",
    "rds=lost-reply:30",
    "route53=throttle:50",
    "all=latency-100ms:30",
    "all=server-error:10",
];

/// What one process held.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Held {
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Living tasks of the runtime, where the process tells.
    pub tasks: Option<u64>,
}

/// One process over the time.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// When warm.
    pub warm: Held,
    /// At the end, after all faults.
    pub end: Held,
    /// The most of each.
    pub most: Held,
}

impl Process {
    /// Does it hold no more at the end than when it was warm?
    fn is_flat(&self) -> bool {
        let rss_max_kib = self.warm.rss_kib * 11 / 10 + RSS_SLACK_KIB;
        let tasks_max = self.warm.tasks.unwrap_or_default() + COUNT_SLACK;
        self.end.rss_kib <= rss_max_kib
            && self.end.descriptors <= self.warm.descriptors + COUNT_SLACK
            && self.end.tasks.unwrap_or_default() <= tasks_max
    }
}

/// What came of a soak.
#[derive(Debug, Serialize)]
pub struct SoakResult {
    /// How long it was, in seconds.
    pub seconds: u64,
    /// Faults made.
    pub faults: u64,
    /// Episodes that history tells of.
    pub episodes: u64,
    /// Version of the record: as many rows must be there.
    pub version: u64,
    /// Rows of history.
    pub rows: u64,
    /// Rows that do not carry the hash of the one before.
    pub broken_links: u64,
    /// The service's processes.
    pub processes: Vec<Process>,
    /// What was not as it should be.
    pub problems: Vec<String>,
    /// Seed of the faults.
    pub seed: u64,
}

/// Runs for `length`.
///
/// # Errors
/// When the lab does not start, or a process of the service ends.
pub async fn run(length: Duration, seed: u64) -> Result<SoakResult> {
    let progress = Progress::new("soak: ");
    let options = StageOptions { profile: Profile::Fast, mode: Mode::Approve, ..StageOptions::default() };
    let mut stage = Stage::start(&options, &progress).await?;
    stage.steady(&progress).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut most: Vec<(String, Held)> = Vec::new();
    let (began, warm_after) = (Instant::now(), length.mul_f64(WARM_AFTER));
    let (mut faults, mut read_at, mut warm) = (0, Instant::now(), None);
    while began.elapsed() < length {
        flap(&stage, &mut random).await?;
        faults += 1;
        stage.all_alive()?;
        if Instant::now() >= read_at {
            read_at = Instant::now() + READ_EVERY;
            keep_most(&mut most, read(&stage).await?);
            let (done, all) = (began.elapsed().as_secs(), length.as_secs());
            progress.step(&format!("{done} of {all} s, {faults} faults"));
        }
        if warm.is_none() && began.elapsed() >= warm_after {
            stage.steady(&progress).await?;
            warm = Some(read(&stage).await?);
        }
    }
    stage.steady(&progress).await?;
    let end = read(&stage).await?;
    keep_most(&mut most, end.clone());
    progress.step("reading the history");
    let history = stage.history().await?;
    let version = stage.version().await?;
    progress.step("stopping the lab");
    stage.stop().await;
    progress.done("done");

    let warm = warm.unwrap_or_else(|| end.clone());
    let triples = warm.into_iter().zip(end).zip(most);
    let processes: Vec<Process> =
        triples.map(|(((name, warm), (_, end)), (_, most))| Process { name, warm, end, most }).collect();
    let unlinked = |pair: &&[Value]| pair[0]["hash"] != pair[1]["previous-hash"];
    let mut episodes: Vec<&str> = history.iter().filter_map(|row| row["episode"].as_str()).collect();
    episodes.sort_unstable();
    episodes.dedup();
    let mut result = SoakResult {
        seconds: began.elapsed().as_secs(),
        faults,
        episodes: episodes.len() as u64,
        version,
        rows: history.len() as u64,
        broken_links: history.windows(2).filter(unlinked).count() as u64,
        processes,
        problems: Vec::new(),
        seed,
    };
    result.problems = problems(&result);
    Ok(result)
}

fn problems(result: &SoakResult) -> Vec<String> {
    let mut problems = Vec::new();
    if result.rows != result.version || result.broken_links > 0 {
        problems.push(format!(
            "history has {} rows at version {}, and {} broken links",
            result.rows, result.version, result.broken_links
        ));
    }
    let grown = result.processes.iter().filter(|process| !process.is_flat());
    problems.extend(grown.map(|process| format!("{} holds more at the end than when it was warm", process.name)));
    problems
}

/// One fault, for a while, and a rest.
async fn flap(stage: &Stage, random: &mut StdRng) -> Result<()> {
    let region = random.random_range(0..100) < 60;
    if !region || random.random_range(0..100) < 30 {
        let fault: Fault = FAULTS[random.random_range(0..FAULTS.len())].parse().context("a fault of the soak")?;
        stage.aws.set_faults(vec![fault], random.random_range(0..u64::MAX));
    }
    if region {
        stage.lose_region(PRIMARY);
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(100..1_500))).await;
    stage.heal_region(PRIMARY);
    stage.aws.set_faults(Vec::new(), 0);
    tokio::time::sleep(Duration::from_millis(random.random_range(200..2_000))).await;
    Ok(())
}

fn keep_most(most: &mut Vec<(String, Held)>, now: Vec<(String, Held)>) {
    if most.is_empty() {
        *most = now;
        return;
    }
    for ((_, most), (_, now)) in most.iter_mut().zip(now) {
        most.rss_kib = most.rss_kib.max(now.rss_kib);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.tasks = most.tasks.max(now.tasks);
    }
}

/// What each process of the service holds now.
async fn read(stage: &Stage) -> Result<Vec<(String, Held)>> {
    let mut all = Vec::new();
    for (name, pid, metrics) in stage.processes() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("{name} has ended, or this system has no /proc"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS of a process")?;
        let rss_kib = rss.trim().trim_end_matches(" kB").parse().context("VmRSS is in kB")?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let tasks = match metrics {
            Some(address) => Some(stage.gauge(address, "aurora_failover_tasks").await?),
            None => None,
        };
        all.push((name, Held { rss_kib, descriptors, tasks }));
    }
    Ok(all)
}

/// The result for people.
#[must_use]
pub fn text(result: &SoakResult) -> String {
    let mut table =
        report::plain(&["process", "RSS warm", "end", "most", "descriptors", "end", "most", "tasks", "end", "most"]);
    for Process { name, warm, end, most } in &result.processes {
        let mib = |held: &Held| format!("{:.1} MiB", held.rss_kib as f64 / 1024.0);
        let tasks = |held: &Held| held.tasks.map_or_else(|| "-".to_owned(), |tasks| tasks.to_string());
        let mut row = vec![name.clone()];
        row.extend([warm, end, most].map(mib));
        row.extend([warm, end, most].map(|held| held.descriptors.to_string()));
        row.extend([warm, end, most].map(tasks));
        table.add_row(row);
    }
    let SoakResult { seconds, faults, episodes, rows, version, broken_links, seed, .. } = result;
    let verdict = if result.problems.is_empty() { "flat, nothing lost".to_owned() } else { result.problems.join("; ") };
    format!(
        "\n{table}\n\n{seconds} s, {faults} faults (seed {seed}), {episodes} episodes\n\
         history: {rows} rows at version {version}, {broken_links} broken links\noutcome: {verdict}"
    )
}
