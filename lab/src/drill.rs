//! A drill: a new lab, a fault, the recovery, and an exact account of both.

use crate::aws::Fault;
use crate::client::Account;
use crate::progress::Progress;
use crate::stage::{PRIMARY, PUBLIC_NAME, Profile, RouteBy, SECONDARY, Stage, StageOptions};
use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Pause between two looks at the record, once clients are served again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writes that the application must have made in the new region.
const WRITES_AFTER_MIN: usize = 10;

/// Pause between the killing of the controller and its new start.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How to run a drill.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// Timing.
    pub profile: Profile,
    /// Kill a controller on the way?
    pub kill_controller: Option<KillController>,
    /// How many controllers run.
    pub controllers: usize,
    /// What moves the public name.
    pub route: RouteBy,
    /// What happens to AWS calls from the fault on.
    pub aws_faults: Vec<Fault>,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// Kill a controller at a random moment.
#[derive(Debug, Clone, Copy)]
pub struct KillController;

impl DrillOptions {
    fn stage(&self) -> StageOptions {
        let Self { profile, controllers, route, .. } = *self;
        StageOptions { profile, controllers, route, ..StageOptions::default() }
    }

    /// The options of one of several runs: each has moments of its own.
    #[must_use]
    pub fn for_run(&self, run: u32) -> Self {
        Self { seed: self.seed.wrapping_add(u64::from(run) - 1), ..self.clone() }
    }
}

/// What came of a drill.
#[derive(Debug, Clone, Serialize)]
pub struct DrillResult {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Timing used.
    pub profile: &'static str,
    /// What came of it.
    pub outcome: DrillOutcome,
    /// What was not as it should be, if anything.
    pub problems: Vec<String>,
    /// Client write outage: last acknowledged write of the old writer to the first one of the new.
    pub outage_ms: Option<u64>,
    /// Acknowledged writes that the new writer does not have.
    pub lost_writes: Option<u64>,
    /// Writes acknowledged over the whole drill.
    pub acknowledged_writes: u64,
    /// Writes and connection attempts that failed.
    pub failed_attempts: u64,
    /// `FailoverGlobalCluster` calls that were accepted.
    pub failover_calls: u64,
    /// Where the time went, in order.
    pub phases: Vec<Phase>,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
    /// When the controller was killed, after the fault.
    pub controller_killed_at_ms: Option<u64>,
    /// Seed of that moment.
    pub seed: Option<u64>,
    /// How packets were dropped.
    pub packet_loss: String,
    /// The history as stored.
    #[serde(skip)]
    pub history: String,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillOutcome {
    /// Writes flow in the other region through the public name, after exactly one failover call.
    Recovered,
    /// They do not, or the way there was not right.
    Failed,
}

/// A part of the time.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub ms: u64,
    /// Is it a part of the client's outage, or beside it?
    pub in_outage: bool,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    /// Milliseconds since the fault; negative is before.
    pub at_ms: i64,
    /// What.
    pub what: String,
    /// State of the record from here on, where it changed.
    pub state: Option<String>,
}

impl DrillResult {
    /// All is well.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.outcome == DrillOutcome::Recovered
    }
}

/// The primary region vanishes.
///
/// # Errors
/// When the lab itself does not work; a recovery that fails is a result, not an error.
pub async fn region_loss(options: &DrillOptions, headline: &str) -> Result<DrillResult> {
    let progress = Progress::new(headline);
    let mut stage = Stage::start(&options.stage(), &progress).await?;
    stage.steady(&progress).await?;
    stage.all_alive()?;

    // At any moment of the probes' and the caches' rounds, not always at the same one.
    let moment = rand::rng().random_range(Duration::ZERO..options.profile.round());
    progress.step(&format!("steady; the primary region vanishes in {} ms", moment.as_millis()));
    tokio::time::sleep(moment).await;
    let old_writer = stage.writer();
    stage.lose_region(PRIMARY);
    stage.aws.set_faults(options.aws_faults.clone(), options.seed);
    let fault = Outage { at: SystemTime::now(), instant: Instant::now() };

    let killed_at = match options.kill_controller {
        Some(KillController) => Some(kill_and_restart(&mut stage, options, &progress).await?),
        None => None,
    };
    let mut problems = Vec::new();
    progress.step("waiting for the application to write in the other region");
    let stable = wait_until_stable(&stage, fault, old_writer, &progress).await?;
    if let Err(problem) = stable {
        problems.push(problem);
    }
    stage.all_alive()?;

    // What comes now is the account, not the drill.
    stage.aws.set_faults(Vec::new(), 0);
    let account = stage.client.account();
    let rows = stage.history().await?;
    let history = stage.history_table().await?;
    let lost_writes = lost_writes(&stage, &account).await;
    let calls = stage.aws.calls();
    let failover_calls =
        calls.iter().filter(|call| call.action == "FailoverGlobalCluster" && call.http_status == 200).count();
    if failover_calls != 1 {
        problems.push(format!("{failover_calls} FailoverGlobalCluster calls were accepted, not exactly one"));
    }
    let hand_over = account.hand_over(old_writer);
    if hand_over.is_none() {
        problems.push("no write was acknowledged in the other region".into());
    }
    let timeline = timeline(fault, &rows, hand_over.map(|(last, first)| (last.at, first.at)), killed_at);
    let phases = phases(fault, &rows, hand_over.map(|(last, first)| (last.at, first.at)));
    if !problems.is_empty() {
        problems.push(format!("logs are in {}", stage.keep_logs().display()));
    }
    progress.step("stopping the lab");
    stage.stop().await;
    let outcome = if problems.is_empty() { DrillOutcome::Recovered } else { DrillOutcome::Failed };
    progress.done(if problems.is_empty() { "recovered" } else { "not recovered" });
    Ok(DrillResult {
        scenario: "region-loss",
        profile: options.profile.name(),
        outcome,
        problems,
        outage_ms: hand_over.map(|(last, first)| ms_between(last.at, first.at)),
        lost_writes,
        acknowledged_writes: account.acknowledged.len() as u64,
        failed_attempts: account.failed.len() as u64,
        failover_calls: failover_calls as u64,
        phases,
        timeline,
        controller_killed_at_ms: killed_at.map(|at| at.as_millis() as u64),
        seed: (options.kill_controller.is_some() || !options.aws_faults.is_empty()).then_some(options.seed),
        packet_loss: crate::link::drop_method().to_string(),
        history,
    })
}

#[derive(Clone, Copy)]
struct Outage {
    at: SystemTime,
    instant: Instant,
}

/// Kills the controller somewhere between the fault and a little after the usual recovery.
async fn kill_and_restart(stage: &mut Stage, options: &DrillOptions, progress: &Progress) -> Result<Duration> {
    let usual_ms = match options.profile {
        Profile::Fast => 2_500,
        Profile::Default => 50_000,
    };
    let mut random = rand::rngs::StdRng::seed_from_u64(options.seed);
    let at = Duration::from_millis(random.random_range(0..usual_ms));
    let which = random.random_range(0..options.controllers);
    tokio::time::sleep(at).await;
    progress.step(&format!(
        "killing controller {} of {}, {} ms after the fault (seed {})",
        which + 1,
        options.controllers,
        at.as_millis(),
        options.seed
    ));
    stage.kill_controller(which).await?;
    tokio::time::sleep(RESTART_AFTER).await;
    progress.step("starting it again");
    stage.start_controller(which)?;
    Ok(at)
}

/// Waits for the application first, without disturbing, then for the record to say stable.
async fn wait_until_stable(
    stage: &Stage,
    fault: Outage,
    old_writer: std::net::IpAddr,
    progress: &Progress,
) -> Result<Result<(), String>> {
    let until = fault.instant + stage.profile().recovery_max();
    let mut latest = stage.client.latest();
    let served = latest.wait_for(|ack| ack.is_some_and(|ack| ack.by != old_writer));
    if tokio::time::timeout_at(until.into(), served).await.is_err() {
        return Ok(Err(format!("the application did not write again within {:?}", stage.profile().recovery_max())));
    }
    progress.step("the application writes again; waiting for the proof and the stable state");
    loop {
        let record = stage.record().await?;
        let state = record.as_ref().and_then(|record| record["state"]["name"].as_str()).unwrap_or("nothing").to_owned();
        let after = stage.client.account().acknowledged.iter().filter(|ack| ack.by != old_writer).count();
        if state == "stable" && after >= WRITES_AFTER_MIN {
            return Ok(Ok(()));
        }
        if Instant::now() > until {
            let hold = record.map(|record| record["hold"]["detail"].to_string()).unwrap_or_default();
            return Ok(Err(format!("the record says {state} {hold} after {:?}", stage.profile().recovery_max())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Acknowledged, and not on the new writer.
async fn lost_writes(stage: &Stage, account: &Account) -> Option<u64> {
    let kept = stage.rows_on(stage.topology.writer()).await.ok()?;
    Some(account.numbers().difference(&kept).count() as u64)
}

fn ms_between(earlier: SystemTime, later: SystemTime) -> u64 {
    later.duration_since(earlier).map_or(0, |d| d.as_millis() as u64)
}

fn ms_of(row: &Value) -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_millis(row["at"].as_u64()?))
}

/// When a rule last fired after the fault.
fn when(fault: Outage, rows: &[Value], rule: &str) -> Option<SystemTime> {
    let mut fired = rows.iter().filter(|row| row["rule"] == rule).filter_map(ms_of);
    // The record counts whole milliseconds.
    fired.rfind(|at| *at + Duration::from_millis(1) >= fault.at)
}

/// Where the outage went: consecutive parts from the last write acknowledged before the fault to the first after.
fn phases(fault: Outage, rows: &[Value], hand_over: Option<(SystemTime, SystemTime)>) -> Vec<Phase> {
    let Some((last, first)) = hand_over else { return Vec::new() };
    let marks = [
        ("before the fault", Some(fault.at)),
        ("detect", when(fault, rows, "quorum-confirmed")),
        ("decide", when(fault, rows, "guards-passed")),
        ("promote", when(fault, rows, "promoted")),
        ("reroute", when(fault, rows, "rerouted")),
        ("client", Some(first)),
    ];
    let mut phases = Vec::new();
    let mut from = last;
    for (name, mark) in marks {
        // A part that the client did not wait for has no length: it may be served before the controller knows.
        let Some(to) = mark.map(|at| at.clamp(from, first.max(from))) else { continue };
        phases.push(Phase { name, ms: ms_between(from, to), in_outage: true });
        from = to;
    }
    let (rerouted, verified) = (when(fault, rows, "rerouted"), when(fault, rows, "verified"));
    if let (Some(rerouted), Some(verified)) = (rerouted, verified) {
        phases.push(Phase { name: "verify", ms: ms_between(rerouted, verified), in_outage: false });
    }
    phases
}

fn timeline(
    fault: Outage,
    rows: &[Value],
    hand_over: Option<(SystemTime, SystemTime)>,
    killed_at: Option<Duration>,
) -> Vec<Moment> {
    let since_fault = |at: SystemTime| match at.duration_since(fault.at) {
        Ok(after) => after.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    };
    let mut moments = vec![Moment { at_ms: 0, what: "the primary region vanishes".into(), state: None }];
    if let Some(at) = killed_at {
        let at_ms = at.as_millis() as i64;
        moments.push(Moment { at_ms, what: "the controller is killed (SIGKILL)".into(), state: None });
        let at_ms = (at + RESTART_AFTER).as_millis() as i64;
        moments.push(Moment { at_ms, what: "the controller is started again".into(), state: None });
    }
    if let Some((last, first)) = hand_over {
        let what = "last write acknowledged by the old writer".into();
        moments.push(Moment { at_ms: since_fault(last), what, state: None });
        let what = format!("first write acknowledged in {SECONDARY} through {PUBLIC_NAME}");
        moments.push(Moment { at_ms: since_fault(first), what, state: None });
    }
    for row in rows {
        let Some(at) = ms_of(row) else { continue };
        let moved = row["from"] != row["to"];
        let told = moved || ["rerouted", "effect-held", "guard-refused"].iter().any(|rule| row["rule"] == *rule);
        if at + Duration::from_millis(1) < fault.at || !told {
            continue;
        }
        let what = row["rule"].as_str().unwrap_or("?").replace('-', " ");
        let state = moved.then(|| row["to"].as_str().unwrap_or("?").to_owned());
        moments.push(Moment { at_ms: since_fault(at), what, state });
    }
    moments.sort_by_key(|moment| moment.at_ms);
    moments
}
