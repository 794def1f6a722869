//! `aurora-failover lab …`.

use crate::aws::{Fault, Timing};
use crate::bench::{self, Bench};
use crate::drill::{self, DrillOptions, KillController};
use crate::scenario::{self, Scenario};
use crate::stage::{Profile, RouteBy, Stage, StageOptions};
use crate::{control, demo, in_region, page, progress, reaper, report, soak};
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A two-region AWS on this machine, on real PostgreSQL and DNS.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Lab {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Clone)]
struct Options {
    /// Timing of probes, thresholds, TTL and client.
    #[arg(long, value_enum, default_value_t = Profile::Fast)]
    profile: Profile,
    /// RDS takes the minutes that Aurora takes, instead of milliseconds.
    #[arg(long)]
    aurora_timing: bool,
    /// How many clients the application has; several share a pool of half as many connections.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: Option<u16>,
    /// Of a hundred statements of theirs so many only read.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=99))]
    reads: Option<u8>,
    /// Write what is done, and when, into this file: `lab replay FILE` does it again. Of `up` that is what is ordered
    /// through the lab: faults, healing, traffic, its own orders; not what the program is ordered to do in another
    /// terminal.
    #[arg(long, value_name = "FILE.toml")]
    trace: Option<PathBuf>,
}

#[derive(Args)]
struct Drill {
    /// Which scenario: one of `--list`, or the path of a .toml file.
    #[arg(required_unless_present_any = ["all", "list"])]
    scenario: Option<String>,
    /// Carry all scenarios out, one after the other, except those that take minutes.
    #[arg(long, conflicts_with = "scenario")]
    all: bool,
    /// With `--all`: also those that take minutes.
    #[arg(long, requires = "all")]
    long: bool,
    /// Name all scenarios.
    #[arg(long, conflicts_with_all = ["scenario", "all"])]
    list: bool,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    outcome: Outcome,
    /// Run it so many times, each in a new lab, and sum up.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Kill a controller with SIGKILL at a random moment after the fault and start it again one second later.
    #[arg(long)]
    kill_controller: bool,
    /// Run so many controllers; one of them listens at a time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    controllers: Option<u8>,
    /// What moves the public name.
    #[arg(long, value_enum)]
    route: Option<RouteBy>,
    /// What happens to AWS calls from the fault on: SERVICE[.ACTION][@REGION]=KIND:PERCENT, where KIND is
    /// latency-500ms, server-error, throttle, lost-reply or reset. May be given several times.
    #[arg(long, value_name = "FAULT")]
    aws_fault: Vec<Fault>,
    /// Seed of everything that is drawn; printed with the result.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Args)]
struct Replay {
    /// The trace.
    trace: PathBuf,
    #[command(flatten)]
    outcome: Outcome,
}

/// What becomes of the results.
#[derive(Args)]
struct Outcome {
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Write a page with charts here; with several runs, of the last one.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Leave the lab running at the end, to look around.
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct Order {
    /// What, such as `lose-region us-east-2`.
    #[arg(required = true, num_args = 1..)]
    breakage: Vec<String>,
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
struct Which {
    /// Directory of the lab, if several run.
    #[arg(long, value_name = "DIR")]
    lab: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the two regions and leave them running, to break things in; also without a command.
    Up(Options),
    /// Start a lab, carry a scenario out, print what happened.
    ///
    /// Exits with 0 only if every step went as planned and what came of it is as the scenario expects.
    Drill(Drill),
    /// Do again what a trace tells, at the same moments, and see whether the same comes of it.
    ///
    /// A trace is a scenario with times, written by `--trace` of `drill` and of `lab` itself. Exits with 0 only if the
    /// record took the same path, with the same calls of RDS.
    Replay(Replay),
    /// Move the writer inside its region, planned and by a crash, and show what clients see, with the proxy and without.
    InRegion {
        /// How many clients write.
        #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
        clients: u16,
        /// Print JSON on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Measure how fast it is, beside what cannot be beaten and what people would use instead.
    Bench {
        #[command(subcommand)]
        bench: Bench,
        /// Print one JSON object on standard output.
        #[arg(long, global = true)]
        json: bool,
    },
    /// Break something in the lab that runs: lose-region REGION, isolate VANTAGE, blindfold VANTAGE REGION,
    /// crash SERVER, hang SERVER, slow SERVER, lose-website REGION, cut-replication, slow-dns 300ms, aws FAULT,
    /// kill-controller NUMBER, hang-controller NUMBER, headless REGION, fail-promotion.
    Fault(Order),
    /// Undo it.
    Heal(Order),
    /// Who is the writer in the lab that runs, what the record says, what is broken.
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Flapping faults for a long time: does the service hold ever more, does history lose a row?
    ///
    /// Exits with 0 only if memory, descriptors and tasks stay flat and no row is lost.
    Soak {
        /// How long, such as 30m.
        #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = humantime::parse_duration)]
        length: Duration,
        /// Print one JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Seed of the faults; printed with the result.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Ends what a lab leaves behind; started by the lab itself.
    #[command(hide = true)]
    Reaper,
}

/// Runs the command.
#[must_use]
pub fn run(lab: Lab) -> ExitCode {
    if matches!(lab.command, Some(Command::Reaper)) {
        return reaper::main();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = dispatch(lab) => ended,
            stopped = stop_signal() => stopped.map(|()| ExitCode::from(130)),
        }
    });
    // What still runs is ended by the reaper, which outlives this process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn dispatch(lab: Lab) -> Result<ExitCode> {
    match lab.command {
        None => up(&lab.options).await,
        Some(Command::Up(options)) => up(&options).await,
        Some(Command::Drill(drill)) => drill.run().await,
        Some(Command::Replay(replay)) => replay.run().await,
        Some(Command::InRegion { clients, json }) => {
            let seen = in_region::run(usize::from(clients)).await?;
            report::show(&if json { serde_json::to_string_pretty(&seen)? } else { in_region::text(&seen) })?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Fault(Order { breakage, which })) => tell(&which, "fault", &breakage).await,
        Some(Command::Heal(Order { breakage, which })) => tell(&which, "heal", &breakage).await,
        Some(Command::Status { which }) => tell(&which, "status", &[]).await,
        Some(Command::Soak { length, json, seed }) => {
            let result = soak::run(length, seed.unwrap_or_else(rand::random)).await?;
            report::show(&if json { serde_json::to_string_pretty(&result)? } else { soak::text(&result) })?;
            Ok(if result.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Bench { bench, json }) => bench::run(bench, json).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Reaper) => Ok(ExitCode::FAILURE),
    }
}

/// Gives an order to the lab that runs.
async fn tell(which: &Which, verb: &str, words: &[String]) -> Result<ExitCode> {
    let line = [&[verb.to_owned()], words].concat().join(" ");
    report::show(&control::order(which.lab.as_deref(), &line).await?)?;
    Ok(ExitCode::SUCCESS)
}

impl Drill {
    async fn run(self) -> Result<ExitCode> {
        let scenarios = match &self.scenario {
            Some(name) => vec![scenario::find(name)?],
            None => scenario::all().into_iter().filter(|one| self.list || self.long || !one.long).collect(),
        };
        if self.list {
            let line = |scenario: &Scenario| format!("{:<28} {}", scenario.name, scenario.about.trim());
            report::show(&scenarios.iter().map(line).collect::<Vec<_>>().join("\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let options = DrillOptions {
            profile: self.options.profile,
            kill_controller: self.kill_controller.then_some(KillController),
            controllers: self.controllers.map(usize::from),
            route: self.route,
            aws_faults: self.aws_fault.clone(),
            clients: self.options.clients.map(usize::from),
            reads_percent: self.options.reads,
            aurora_timing: self.options.aurora_timing,
            seed: self.seed.unwrap_or_else(rand::random),
        };
        self.outcome.of(&scenarios, &options, self.repeat, self.options.trace.as_deref()).await
    }
}

impl Outcome {
    /// Carries the scenarios out, and does with the results what is asked for.
    async fn of(
        &self,
        scenarios: &[Scenario],
        options: &DrillOptions,
        repeat: u32,
        trace: Option<&Path>,
    ) -> Result<ExitCode> {
        let mut results = Vec::new();
        let count = repeat as usize * scenarios.len();
        for run in 1..=repeat {
            for scenario in scenarios {
                let number = results.len() + 1;
                let headline = if count > 1 { format!("{} {number}/{count}: ", scenario.name) } else { String::new() };
                let (result, stage) = drill::run(scenario, &options.for_run(run), &headline).await?;
                if !self.json && (scenarios.len() == 1 || !result.passed()) {
                    report::show(&report::text(&result, count == 1))?;
                }
                if number == count {
                    self.end(&result, stage, trace).await?;
                } else {
                    stage.stop().await;
                }
                results.push(result);
            }
        }
        if self.json {
            report::show(&report::json(&results)?)?;
        } else if count > 1 {
            report::show(&report::summary(&results))?;
        }
        let all_well = results.iter().all(drill::DrillResult::passed);
        Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// After the last run.
    async fn end(&self, result: &drill::DrillResult, stage: Stage, trace: Option<&Path>) -> Result<()> {
        if let Some(path) = trace {
            let trace = toml::to_string(&result.trace).context("writing the trace")?;
            std::fs::write(path, trace).with_context(|| format!("writing {}", path.display()))?;
        }
        if let Some(path) = &self.html {
            std::fs::write(path, page::page(result)?).with_context(|| format!("writing {}", path.display()))?;
        }
        if self.keep {
            stay(stage, None, control::Orders::default()).await
        } else {
            stage.stop().await;
            Ok(())
        }
    }
}

impl Replay {
    async fn run(self) -> Result<ExitCode> {
        let path = self.trace.to_str().context("the path of the trace is not text")?;
        let scenario = scenario::find(path)?;
        ensure!(scenario.step.iter().any(|step| step.at.is_some()), "{path} has no times: it is no trace; use `drill`");
        // What the trace says comes first; these are for what it does not say.
        let options = DrillOptions {
            profile: Profile::Fast,
            kill_controller: None,
            controllers: None,
            route: None,
            aws_faults: Vec::new(),
            clients: None,
            reads_percent: None,
            aurora_timing: false,
            seed: rand::random(),
        };
        self.outcome.of(&[scenario], &options, 1, None).await
    }
}

async fn up(options: &Options) -> Result<ExitCode> {
    let progress = progress::Progress::new("lab: ");
    let usual = StageOptions::default();
    let stage = StageOptions {
        profile: options.profile,
        timing: if options.aurora_timing { Timing::documented() } else { usual.timing },
        clients: options.clients.map_or(usual.clients, usize::from),
        reads_percent: options.reads.unwrap_or(usual.reads_percent),
        // Whoever tries things out loses a region more than once an hour.
        policy: vec![("cooldown".into(), "\"5s\"".into()), ("failovers-max".into(), "100".into())],
        ..usual
    };
    let orders = control::Orders::default();
    let demo = demo::serve(orders.requests.clone()).await?;
    let stage = StageOptions { demo_url: Some(format!("http://{demo}")), ..stage };
    let mut running = Stage::start(&stage, &progress).await?;
    running.steady(&progress).await?;
    progress.done("two regions are up and healthy");
    let trace = options.trace.clone().map(|path| control::Trace::new(path, &stage));
    stay(running, trace, orders).await?;
    Ok(ExitCode::SUCCESS)
}

/// Leaves the lab running, and takes orders.
async fn stay(stage: Stage, trace: Option<control::Trace>, orders: control::Orders) -> Result<()> {
    report::show(&stage.describe())?;
    report::show(
        "\nBreak something, here or in another terminal: fault lose-region us-east-2 (aurora-failover lab fault …).\n\
         heal … undoes it, status shows how it is. Stop it with Ctrl-C; everything is removed.",
    )?;
    control::obey(stage, trace, orders).await
}

async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot watch for Ctrl-C")?,
    }
    eprintln!("stopping the lab");
    Ok(())
}
