//! A drill: a new lab, a scenario, and an exact account of what came of it.

use crate::aws::{Fault, Timing};
use crate::client::Account;
use crate::postgres::LagSample;
use crate::progress::Progress;
use crate::scenario::{self, Act, Breakage, Condition, Expect, Scenario, Step};
use crate::stage::{PUBLIC_NAME, Profile, RouteBy, Stage, StageOptions};
use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Pause between two looks at the record.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writes that the application must have made at the end, after the last step.
const WRITES_AFTER_MIN: usize = 10;

/// Longest time for them.
const WRITES_AFTER_WITHIN: Duration = Duration::from_secs(20);

/// Pause between the killing of the controller and its new start.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Where RDS takes Aurora's time, everything that is awaited may take so many times longer.
const AURORA_PATIENCE: u32 = 10;

/// How to run a drill. What is not given is as the scenario says.
#[derive(Debug, Clone, Default)]
pub struct DrillOptions {
    /// Timing.
    pub profile: Profile,
    /// Kill a controller on the way?
    pub kill_controller: Option<KillController>,
    /// How many controllers run.
    pub controllers: Option<usize>,
    /// What moves the public name.
    pub route: Option<RouteBy>,
    /// What happens to AWS calls from the first fault on.
    pub aws_faults: Vec<Fault>,
    /// How many clients the application has.
    pub clients: Option<usize>,
    /// Of a hundred statements of theirs so many only read.
    pub reads_percent: Option<u8>,
    /// RDS takes as long as Aurora does.
    pub aurora_timing: bool,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// Kill a controller at a random moment.
#[derive(Debug, Clone, Copy)]
pub struct KillController;

impl DrillOptions {
    /// The options of one of several runs: each has moments of its own.
    #[must_use]
    pub fn for_run(&self, run: u32) -> Self {
        Self { seed: self.seed.wrapping_add(u64::from(run) - 1), ..self.clone() }
    }

    /// Does it add anything to what the scenario breaks?
    const fn disturbs(&self) -> bool {
        self.kill_controller.is_some() || !self.aws_faults.is_empty()
    }

    fn stage(&self, scenario: &Scenario) -> StageOptions {
        let (usual, own) = (StageOptions::default(), &scenario.stage);
        StageOptions {
            profile: self.profile(scenario),
            controllers: self.controllers.or(own.controllers).unwrap_or(usual.controllers),
            route: self.route.or(own.route).unwrap_or(usual.route),
            mode: own.mode.unwrap_or(usual.mode),
            policy: own.policy.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
            canary: own.canary.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
            timing: if self.aurora_timing { Timing::documented() } else { own.timing },
            clients: self.clients.or(own.clients).unwrap_or(usual.clients),
            reads_percent: self.reads_percent.or(own.reads_percent).unwrap_or(usual.reads_percent),
            controller_region: own.controller_region.clone().unwrap_or(usual.controller_region.clone()),
            vantage_in_controller: own.vantage_in_controller,
            unresolved_secondaries: own.unresolved_secondaries,
            ..usual
        }
    }

    fn profile(&self, scenario: &Scenario) -> Profile {
        scenario.stage.profile.unwrap_or(self.profile)
    }
}

/// What came of a drill.
#[derive(Debug, Clone, Serialize)]
pub struct DrillResult {
    /// Name of the scenario.
    pub scenario: String,
    /// What happens in it.
    pub about: String,
    /// Timing used.
    pub profile: &'static str,
    /// What came of it.
    pub outcome: DrillOutcome,
    /// What was not as it should be, if anything.
    pub problems: Vec<String>,
    /// Client write outage: last acknowledged write of the old writer to the first one of the new.
    pub outage_ms: Option<u64>,
    /// Longest time between two acknowledged writes since the first fault.
    pub longest_gap_ms: u64,
    /// The states entered since the first step, in order.
    pub path: Vec<String>,
    /// The loss as the product measured it by its heartbeats, in the open episode.
    pub rpo_heartbeat_ms: Option<u64>,
    /// Acknowledged writes that the last writer does not have.
    pub lost_writes: Option<u64>,
    /// Writes acknowledged over the whole drill.
    pub acknowledged_writes: u64,
    /// Writes and connection attempts that failed.
    pub failed_attempts: u64,
    /// How many clients the application had.
    pub clients: usize,
    /// Reads answered over the whole drill.
    pub reads: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// `FailoverGlobalCluster` calls that were accepted.
    pub failover_calls: u64,
    /// `SwitchoverGlobalCluster` calls that were accepted.
    pub switchover_calls: u64,
    /// `FailoverDBCluster` calls that were accepted.
    pub in_region_calls: u64,
    /// Where the time went, in order.
    pub phases: Vec<Phase>,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
    /// What the application saw, in slices of [`SLICE_MS`].
    pub series: Vec<Slice>,
    /// How far the regions were behind the writer.
    pub lag: Vec<LagMoment>,
    /// When the controller was killed, after the fault.
    pub controller_killed_at_ms: Option<u64>,
    /// Seed of that moment.
    pub seed: Option<u64>,
    /// How packets were dropped.
    pub packet_loss: String,
    /// The history as stored.
    #[serde(skip)]
    pub history: String,
    /// What was done, and when: a scenario that does it again at the same moments, and expects the same path.
    #[serde(skip)]
    pub trace: Scenario,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillOutcome {
    /// Every step went as planned, and what came of it is as expected.
    Passed,
    /// It did not, or it is not.
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

/// Length of a slice of the application's time.
pub const SLICE_MS: u64 = 200;

/// How far a region was behind.
#[derive(Debug, Clone, Serialize)]
pub struct LagMoment {
    /// Milliseconds since the first fault; negative is before.
    pub at_ms: i64,
    /// Where.
    pub region: String,
    /// Milliseconds behind the writer.
    pub lag_ms: u64,
}

/// One slice of the application's time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Slice {
    /// Milliseconds since the first fault when it began; negative is before.
    pub at_ms: i64,
    /// Writes acknowledged in it.
    pub acknowledged: u64,
    /// Writes and connection attempts that failed in it.
    pub failed: u64,
    /// Reads answered in it.
    pub reads: u64,
    /// How long its slowest write took.
    pub slowest_ms: f64,
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
    pub fn passed(&self) -> bool {
        self.outcome == DrillOutcome::Passed
    }
}

/// Carries a scenario out; the lab is left running.
///
/// # Errors
/// When the lab itself does not work; a scenario that goes wrong is a result, not an error.
pub async fn run(scenario: &Scenario, options: &DrillOptions, headline: &str) -> Result<(DrillResult, Stage)> {
    let progress = Progress::new(headline);
    let mut stage = Stage::start(&options.stage(scenario), &progress).await?;
    stage.steady(&progress).await?;
    stage.all_alive()?;
    // At any moment of the probes' and the caches' rounds, not always at the same one.
    let moment = rand::rng().random_range(Duration::ZERO..options.profile(scenario).round());
    progress.step(&format!("steady; {} begins in {} ms", scenario.name, moment.as_millis()));
    tokio::time::sleep(moment).await;
    // A suspicion of a busy machine is none of the scenario's.
    stage.steady(&progress).await?;

    let mut course = Course::new(&stage, options);
    let mut problems = Vec::new();
    for step in &scenario.step {
        let act = step.act()?;
        if let Some(at) = step.at {
            tokio::time::sleep_until((course.began_at + at).into()).await;
        }
        progress.step(&act.to_string());
        if let Err(problem) = course.step(&mut stage, step, &act, &progress).await? {
            problems.push(format!("{act}: {problem}"));
            break;
        }
        stage.all_alive()?;
    }
    // What comes now is the account, not the drill.
    stage.aws.set_faults(Vec::new(), 0);
    if let Err(problem) = course.writes_flow(&stage).await {
        problems.push(problem);
    }
    let rows = rows_since(&stage, course.began).await?;
    let mut result = account(&stage, scenario, &course, &rows).await?;
    let mut expect = scenario.expect.clone();
    if options.disturbs() {
        // There may be detours, such as a promotion that is taken back before its claim and decided anew.
        expect.path = None;
    }
    problems.extend(unexpected(&expect, &result, &rows));
    if !problems.is_empty() {
        problems.push(format!("logs are in {}", stage.keep_logs().display()));
    }
    result.outcome = if problems.is_empty() { DrillOutcome::Passed } else { DrillOutcome::Failed };
    result.problems = problems;
    progress.done(if result.passed() { "passed" } else { "FAILED" });
    Ok((result, stage))
}

/// What has happened so far.
struct Course<'a> {
    options: &'a DrillOptions,
    began: SystemTime,
    began_at: Instant,
    /// Who was the writer then.
    old_writer: IpAddr,
    /// When something was first broken or ordered.
    fault: Option<SystemTime>,
    /// What was done, and when.
    done: Vec<(SystemTime, String)>,
    /// The same as steps.
    trace: Vec<Step>,
    killed_at: Option<Duration>,
    last_step_at: SystemTime,
}

impl<'a> Course<'a> {
    fn new(stage: &Stage, options: &'a DrillOptions) -> Self {
        let began = SystemTime::now();
        Self {
            options,
            began,
            began_at: Instant::now(),
            old_writer: stage.writer(),
            fault: None,
            done: Vec::new(),
            trace: Vec::new(),
            killed_at: None,
            last_step_at: began,
        }
    }

    /// Since the beginning, in whole milliseconds.
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.began_at.elapsed().as_millis() as u64)
    }

    /// When the first fault was; the beginning, where there was none.
    fn fault(&self) -> SystemTime {
        self.fault.unwrap_or(self.began)
    }

    /// One step; the inner error is what went wrong in it.
    async fn step(
        &mut self,
        stage: &mut Stage,
        step: &Step,
        act: &Act<'_>,
        progress: &Progress,
    ) -> Result<Result<(), String>> {
        let (now, at) = (SystemTime::now(), self.elapsed());
        let outcome = match act {
            Act::Fault(breakage) => {
                breakage.make(stage, self.options.seed).await?;
                Ok(())
            }
            Act::Heal(breakage) => {
                breakage.undo(stage).await?;
                Ok(())
            }
            Act::Wait(condition, within) => {
                let patience = if self.options.aurora_timing { AURORA_PATIENCE } else { 1 };
                self.wait(stage, condition, *within * patience).await?
            }
            Act::Watch(condition, during) => self.watch(stage, condition, *during).await?,
            Act::Command(order, refusal) => {
                let (code, said) = stage.product(&scenario::order(order)?).await?;
                match (code, refusal) {
                    (0, None) => Ok(()),
                    (1, Some(refusal)) if said.contains(refusal) => Ok(()),
                    _ => Err(format!("it ended with {code}: {}", said.trim())),
                }
            }
            Act::Traffic(line) => {
                let traffic = stage.traffic().after(line)?;
                stage.set_traffic(traffic)?;
                Ok(())
            }
            Act::Rds(order) => stage.aws.order(order).map_err(|error| format!("{error:#}")),
        };
        if matches!(act, Act::Fault(_) | Act::Heal(_) | Act::Command(..) | Act::Traffic(_) | Act::Rds(_)) {
            self.done.push((now, act.to_string()));
            self.trace.push(Step { at: Some(at), ..step.clone() });
            if self.fault.is_none() && !matches!(act, Act::Traffic(_)) {
                self.first_fault(stage, now, progress).await?;
            }
        }
        self.last_step_at = SystemTime::now();
        Ok(outcome)
    }

    /// What the options add to the first fault.
    async fn first_fault(&mut self, stage: &mut Stage, now: SystemTime, progress: &Progress) -> Result<()> {
        self.fault = Some(now);
        if !self.options.aws_faults.is_empty() {
            stage.aws.set_faults(self.options.aws_faults.clone(), self.options.seed);
            let faults = Breakage::Aws(self.options.aws_faults.clone());
            self.trace.push(Step { at: Some(self.elapsed()), fault: Some(faults), ..Step::default() });
        }
        if self.options.kill_controller.is_some() {
            let (at, which) = kill_and_restart(stage, self.options, progress).await?;
            self.killed_at = Some(at);
            let at_step = self.elapsed().saturating_sub(RESTART_AFTER);
            let killed = || Some(Breakage::KillController(which));
            self.trace.push(Step { at: Some(at_step), fault: killed(), ..Step::default() });
            self.trace.push(Step { at: Some(at_step + RESTART_AFTER), heal: killed(), ..Step::default() });
            self.done.push((now + at, "a controller is killed (SIGKILL)".into()));
            self.done.push((now + at + RESTART_AFTER, "it is started again".into()));
        }
        Ok(())
    }

    /// Since the epoch, as the record counts.
    fn since(&self) -> Duration {
        self.began.duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    async fn wait(&self, stage: &Stage, condition: &Condition, within: Duration) -> Result<Result<(), String>> {
        let until = Instant::now() + within;
        // The application first, without disturbing anybody by looks at the record.
        if let Some(region) = &condition.writes_in {
            let mut latest = stage.latest();
            let there = latest.wait_for(|ack| ack.is_some_and(|ack| scenario::is_in(ack.by, region)));
            if tokio::time::timeout_at(until.into(), there).await.is_err() {
                let missing = condition.missing(stage, self.since()).await?.unwrap_or_default();
                let record = stage.record().await?.unwrap_or_default();
                return Ok(Err(format!("{missing}; the record says {} {}", record["state"], record["hold"]["detail"])));
            }
        }
        loop {
            let Some(missing) = condition.missing(stage, self.since()).await? else { return Ok(Ok(())) };
            if Instant::now() > until {
                return Ok(Err(missing));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn watch(&self, stage: &Stage, condition: &Condition, during: Duration) -> Result<Result<(), String>> {
        let until = Instant::now() + during;
        while Instant::now() < until {
            if condition.missing(stage, self.since()).await?.is_none() {
                return Ok(Err("it came".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Ok(()))
    }

    /// Whatever happened: in the end the application writes.
    async fn writes_flow(&self, stage: &Stage) -> Result<(), String> {
        let until = Instant::now() + WRITES_AFTER_WITHIN;
        let mut latest = stage.latest();
        loop {
            let account = stage.account();
            let after = account.acknowledged.iter().rev().take_while(|ack| ack.at > self.last_step_at).count();
            if after >= WRITES_AFTER_MIN {
                return Ok(());
            }
            if tokio::time::timeout_at(until.into(), latest.changed()).await.is_err() {
                return Err(format!("in the end the application does not write within {WRITES_AFTER_WITHIN:?}"));
            }
        }
    }
}

/// Everything that can be counted.
async fn account(stage: &Stage, scenario: &Scenario, course: &Course<'_>, rows: &[Value]) -> Result<DrillResult> {
    let account = stage.account();
    let calls = accepted_calls(stage, Expect::default());
    let hand_over = account.hand_over(course.old_writer).map(|(last, first)| (last.at, first.at));
    Ok(DrillResult {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        series: series(&account, course.fault()),
        lag: lag(stage.topology.lag_samples(), course),
        trace: trace(scenario, course, rows),
        clients: course.options.stage(scenario).clients,
        reads: account.read.len() as u64,
        failed_reads: account.failed_reads.len() as u64,
        profile: course.options.profile(scenario).name(),
        outcome: DrillOutcome::Failed,
        problems: Vec::new(),
        outage_ms: hand_over.map(|(last, first)| ms_between(last, first)),
        longest_gap_ms: stage.longest_gap_ms(course.fault()),
        path: path(rows),
        rpo_heartbeat_ms: stage.record().await?.and_then(|record| record["episode"]["rpo-heartbeat-ms"].as_u64()),
        lost_writes: lost_writes(stage, &account).await,
        acknowledged_writes: account.acknowledged.len() as u64,
        failed_attempts: account.failed.len() as u64,
        failover_calls: calls.failover_calls,
        switchover_calls: calls.switchover_calls,
        in_region_calls: calls.in_region_calls,
        phases: phases(course.fault(), rows, hand_over),
        timeline: timeline(course, rows, hand_over),
        controller_killed_at_ms: course.killed_at.map(|at| at.as_millis() as u64),
        seed: course.options.disturbs().then_some(course.options.seed),
        packet_loss: crate::link::drop_method().to_string(),
        history: stage.history_table().await?,
    })
}

/// The states entered, in order.
pub(crate) fn path(rows: &[Value]) -> Vec<String> {
    let entered = rows.iter().filter(|row| row["from"] != row["to"]);
    entered.filter_map(|row| row["to"].as_str().map(str::to_owned)).collect()
}

/// The calls that RDS accepted so far, as something to expect.
pub(crate) fn accepted_calls(stage: &Stage, expect: Expect) -> Expect {
    let calls = stage.aws.calls();
    let accepted =
        |action: &str| calls.iter().filter(|call| call.action == action && call.http_status == 200).count() as u64;
    Expect {
        failover_calls: accepted("FailoverGlobalCluster"),
        switchover_calls: accepted("SwitchoverGlobalCluster"),
        in_region_calls: accepted("FailoverDBCluster"),
        ..expect
    }
}

/// History since then, oldest first.
pub(crate) async fn rows_since(stage: &Stage, since: SystemTime) -> Result<Vec<Value>> {
    let mut rows = stage.history().await?;
    rows.retain(|row| ms_of(row).is_some_and(|at| at + Duration::from_millis(1) >= since));
    Ok(rows)
}

/// What was done as a scenario of its own, which expects what came of it.
fn trace(scenario: &Scenario, course: &Course<'_>, rows: &[Value]) -> Scenario {
    let options = course.options.stage(scenario);
    let path = path(rows);
    let mut step = course.trace.clone();
    // What was awaited at the end is awaited again, however long it takes this time.
    if let Some(last) = scenario.step.last().filter(|step| step.wait.is_some()) {
        step.push(last.clone());
    } else {
        let wait = Condition { state: path.last().cloned(), ..Condition::default() };
        step.push(Step { wait: Some(wait), ..Step::default() });
    }
    let mut trace = scenario.clone();
    trace.stage.profile = Some(options.profile);
    trace.stage.controllers = Some(options.controllers);
    trace.stage.route = Some(options.route);
    trace.stage.clients = Some(options.clients);
    trace.stage.reads_percent = Some(options.reads_percent);
    trace.stage.timing = options.timing;
    trace.step = step;
    trace.expect.path = Some(path);
    trace
}

fn lag(samples: Vec<LagSample>, course: &Course<'_>) -> Vec<LagMoment> {
    let moment = |sample: LagSample| LagMoment {
        at_ms: since(course.fault(), sample.at),
        region: sample.region,
        lag_ms: sample.ms,
    };
    samples.into_iter().filter(|sample| sample.at >= course.began).map(moment).collect()
}

/// Milliseconds from one time to another; negative if that is before.
fn since(fault: SystemTime, at: SystemTime) -> i64 {
    match at.duration_since(fault) {
        Ok(after) => after.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

/// Slices of the account, counted from the fault; the first and the last are not whole and left out.
fn series(account: &Account, fault: SystemTime) -> Vec<Slice> {
    let slice = |at: SystemTime| match at.duration_since(fault) {
        Ok(after) => (after.as_millis() as u64 / SLICE_MS) as i64,
        Err(before) => -((before.duration().as_millis() as u64 / SLICE_MS) as i64) - 1,
    };
    let mut slices: BTreeMap<i64, Slice> = BTreeMap::new();
    for ack in &account.acknowledged {
        let slice = slices.entry(slice(ack.at)).or_default();
        slice.acknowledged += 1;
        slice.slowest_ms = slice.slowest_ms.max(ack.took.as_secs_f64() * 1000.0);
    }
    for (at, _) in account.failed.iter().chain(&account.failed_reads) {
        slices.entry(slice(*at)).or_default().failed += 1;
    }
    for (at, _) in &account.read {
        slices.entry(slice(*at)).or_default().reads += 1;
    }
    let (Some(first), Some(last)) = (slices.keys().next().copied(), slices.keys().last().copied()) else {
        return Vec::new();
    };
    let whole = first + 1..last;
    whole.map(|at| Slice { at_ms: at * SLICE_MS as i64, ..slices.remove(&at).unwrap_or_default() }).collect()
}

/// What came of it and was not expected.
fn unexpected(expect: &Expect, result: &DrillResult, rows: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(path) = expect.path.as_ref().filter(|path| **path != result.path) {
        problems.push(format!("the path was {}, not {}", result.path.join(" > "), path.join(" > ")));
    }
    let calls = [
        ("FailoverGlobalCluster", result.failover_calls, expect.failover_calls),
        ("SwitchoverGlobalCluster", result.switchover_calls, expect.switchover_calls),
        ("FailoverDBCluster", result.in_region_calls, expect.in_region_calls),
    ];
    let wrong = calls.into_iter().filter(|(_, is, wanted)| is != wanted);
    problems.extend(wrong.map(|(call, is, wanted)| format!("{is} {call} calls were accepted, not {wanted}")));
    match result.lost_writes {
        Some(lost) if lost <= expect.lost_writes_max => {}
        Some(lost) => {
            problems.push(format!("{lost} acknowledged writes are lost, more than {}", expect.lost_writes_max));
        }
        None => problems.push("the writer does not tell what it has".into()),
    }
    let outage_max_ms = expect.outage_max.map_or(u64::MAX, |max| max.as_millis() as u64);
    if result.longest_gap_ms > outage_max_ms {
        problems.push(format!("the application waited {} ms, more than {outage_max_ms}", result.longest_gap_ms));
    }
    let fired = |rule: &String| rows.iter().any(|row| row["rule"] == rule.as_str());
    let missing = expect.rules.iter().filter(|rule| !fired(rule));
    problems.extend(missing.map(|rule| format!("no turn was made by the rule {rule}")));
    problems
}

/// Kills the controller somewhere between the fault and a little after the usual recovery.
async fn kill_and_restart(stage: &mut Stage, options: &DrillOptions, progress: &Progress) -> Result<(Duration, usize)> {
    let usual_ms = match options.profile {
        Profile::Fast => 2_500,
        Profile::Default => 50_000,
    };
    let mut random = rand::rngs::StdRng::seed_from_u64(options.seed);
    let at = Duration::from_millis(random.random_range(0..usual_ms));
    let (which, count) = (random.random_range(0..stage.controllers()), stage.controllers());
    tokio::time::sleep(at).await;
    let (number, at_ms, seed) = (which + 1, at.as_millis(), options.seed);
    progress.step(&format!("killing controller {number} of {count}, {at_ms} ms after the fault (seed {seed})"));
    stage.kill_controller(which).await?;
    tokio::time::sleep(RESTART_AFTER).await;
    progress.step("starting it again");
    stage.start_controller(which)?;
    Ok((at, which))
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

/// When a rule first fired after the fault.
fn when(fault: SystemTime, rows: &[Value], rule: &str) -> Option<SystemTime> {
    let mut fired = rows.iter().filter(|row| row["rule"] == rule).filter_map(ms_of);
    // The record counts whole milliseconds.
    fired.find(|at| *at + Duration::from_millis(1) >= fault)
}

/// Where the outage went: consecutive parts from the last write acknowledged before the fault to the first after.
fn phases(fault: SystemTime, rows: &[Value], hand_over: Option<(SystemTime, SystemTime)>) -> Vec<Phase> {
    let Some((last, first)) = hand_over else { return Vec::new() };
    let marks = [
        ("before the fault", Some(fault)),
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

fn timeline(course: &Course<'_>, rows: &[Value], hand_over: Option<(SystemTime, SystemTime)>) -> Vec<Moment> {
    let since_fault = |at: SystemTime| since(course.fault(), at);
    let done = course.done.iter().map(|(at, what)| Moment { at_ms: since_fault(*at), what: what.clone(), state: None });
    let mut moments: Vec<Moment> = done.collect();
    if let Some((last, first)) = hand_over {
        let what = "last write acknowledged by the old writer".into();
        moments.push(Moment { at_ms: since_fault(last), what, state: None });
        let what = format!("first write acknowledged by the new one through {PUBLIC_NAME}");
        moments.push(Moment { at_ms: since_fault(first), what, state: None });
    }
    for row in rows {
        let Some(at) = ms_of(row) else { continue };
        let moved = row["from"] != row["to"];
        let told = moved
            || ["rerouted", "names-back", "effect-held", "guard-refused", "observed-counted"]
                .iter()
                .any(|rule| row["rule"] == *rule);
        if !told {
            continue;
        }
        let what = row["rule"].as_str().unwrap_or("?").replace('-', " ");
        let state = moved.then(|| row["to"].as_str().unwrap_or("?").to_owned());
        moments.push(Moment { at_ms: since_fault(at), what, state });
    }
    moments.sort_by_key(|moment| moment.at_ms);
    moments
}
