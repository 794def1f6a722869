//! The command line: what it accepts, and which module does it.

mod audit;
mod cost;
mod dlq;
mod doctor;
mod drill;
mod episodes;
mod explain;
mod history;
mod log;
mod override_;
mod plan;
mod replay;
mod report;
mod status;
mod watch;
mod when;

use self::log::Log;
use anyhow::{Context as _, Result, anyhow, bail};
use aurora_failover::arc::RoutingControls;
use aurora_failover::audit::explain::{count, duration};
use aurora_failover::audit::report::Report;
use aurora_failover::audit::what_if::Compared;
use aurora_failover::board::Board;
use aurora_failover::bus::EventBridge;
use aurora_failover::canary::Outside;
use aurora_failover::clock::SystemClock;
use aurora_failover::cloudwatch::CloudWatch;
use aurora_failover::config::{self, Settings};
use aurora_failover::cost::Bill;
#[cfg(feature = "dashboard")]
use aurora_failover::dashboard::{self, Access, Dashboard};
use aurora_failover::database::Database;
use aurora_failover::dns::Dns;
use aurora_failover::effects::World;
use aurora_failover::envelope::{self, Channel, Decoder};
use aurora_failover::inbox::Inbox;
use aurora_failover::permissions::{self, Role};
use aurora_failover::rds::AwsRds;
use aurora_failover::route53::AwsRoute53;
use aurora_failover::s3::AwsS3;
use aurora_failover::sqs::Sqs;
use aurora_failover::store::{DynamoDb, EpisodeEntry, HistoryRow, Item};
use aurora_failover::telemetry::{self, Health};
use aurora_failover::{aws, canary, clock, controller, infrastructure};
use aws_config::SdkConfig;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use statemachine::{ClusterId, GuardResult, HoldReason, Policy, Region, Rule, Vantage};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
#[cfg(feature = "dashboard")]
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause before a queue that does not answer is looked for again; doubles up to the longest one.
const QUEUE_AGAIN_AFTER: Duration = Duration::from_secs(1);
const QUEUE_AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// An autonomous failover controller for Amazon Aurora PostgreSQL Global Database.
///
/// It watches a primary region from several vantages, decides, promotes the other region's cluster, moves the
/// application's DNS, proves that writes work through the public name, and keeps a history that explains every
/// decision.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
See it happen on this machine, without AWS:  aurora-failover lab drill region-loss

Exit codes: 0 done; 1 refused, wrong or failed; 2 the command line cannot be used. `override` and `drill` have others, see
their help.

AWS credentials and endpoints come from the standard AWS environment and configuration.
Log level: RUST_LOG, such as RUST_LOG=debug or RUST_LOG=aurora_failover=debug."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller: decide, act, record.
    ///
    /// Run it in the standby region or a third one, never in the primary's. Any number may run at once; each turn
    /// is one conditional write, so they never act twice. Stop it with SIGTERM or Ctrl-C.
    Serve {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        log: Log,
        /// Answer /healthz, /readyz and /metrics (Prometheus) here, such as 127.0.0.1:9464.
        #[arg(long, value_name = "ADDRESS", env = "AURORA_FAILOVER_LISTEN")]
        listen: Option<SocketAddr>,
        /// Show the dashboard here, such as 127.0.0.1:9470. Beyond loopback, and for orders from the page, it needs a
        /// token in AURORA_FAILOVER_DASHBOARD_TOKEN.
        #[cfg(feature = "dashboard")]
        #[arg(long, value_name = "ADDRESS", env = "AURORA_FAILOVER_DASHBOARD")]
        dashboard: Option<SocketAddr>,
        /// The control of a demonstration, for the dashboard.
        #[cfg(feature = "dashboard")]
        #[arg(long, value_name = "URL", env = "AURORA_FAILOVER_DEMO_URL", hide = true)]
        demo_url: Option<String>,
        /// Print metrics to standard output once a minute, in CloudWatch's embedded format, instead of /metrics.
        #[arg(long)]
        emf: bool,
        /// Be this vantage too, instead of running `canary` beside it.
        #[arg(long, env = "AURORA_FAILOVER_VANTAGE")]
        vantage: Option<String>,
    },
    /// Run one vantage: probe the writer by committing a row, look at the rest, publish what was seen.
    ///
    /// Run at least three, in different regions, one of them outside the two that hold the database.
    Canary {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        log: Log,
        /// Name of this vantage, one of `vantages` in the configuration.
        #[arg(long, env = "AURORA_FAILOVER_VANTAGE")]
        vantage: String,
        /// Set by AWS Lambda: probe while an invocation lasts, and answer it.
        #[cfg(feature = "lambda")]
        #[arg(long, env = "AWS_LAMBDA_RUNTIME_API", hide = true)]
        lambda: Option<String>,
    },
    /// Create what is missing: table, bus, rule, queues. Safe to run twice.
    Init {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Print the IAM policy that a role needs with this configuration, and nothing more.
    IamPolicy {
        #[command(flatten)]
        file: ConfigFile,
        /// Whose.
        role: Role,
    },
    /// Show every cluster as the stored record says.
    Status {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        output: Output,
        /// Stay, and show it live: what needs attention first, and the last turns. `q` ends.
        #[arg(long, conflicts_with = "output")]
        watch: bool,
    },
    /// Show what was decided, and why, newest first: by cluster, time, state, actor, outcome, rule, kind of event.
    History(history::History),
    /// List what happened: outages, failovers, switchovers.
    Episodes(episodes::Episodes),
    /// Report on one of them: timeline, recovery time, loss, who did what, what was held and why.
    Episode(episodes::Episode),
    /// Say why it did what it did, or did not, in sentences.
    Explain(explain::Explain),
    /// Check that the history is whole, or take it elsewhere.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Make stored decisions again; or see what another policy would have decided.
    Replay(replay::Replay),
    /// Give an order to the machine: pause, approve, abort, failover, switchover …
    ///
    /// Shows what the record, RDS and DNS say and what would happen, asks for confirmation, sends the order over the
    /// operator bus, waits for the answer, and follows what was begun. Exits with 0 when it was carried out and came to
    /// its end, 1 when it was refused, 2 when the command line cannot be used, 3 when no answer came in time, 4 when it
    /// holds, 5 when it came to nothing.
    Override(override_::Override),
    /// Look at the real account: is everything there that a failover needs, and does it fit together?
    Doctor(doctor::Doctor),
    /// A game day: move the writer of a real cluster by plan, follow it to the end, report on it.
    Drill(drill::Drill),
    /// Show what a failover or switchover now would do, step by step, without doing it.
    Plan(plan::Plan),
    /// What a healthy month costs with this configuration, item by item.
    Cost(cost::Cost),
    /// Look at messages that could not be used, and send them on their way again.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Check the configuration file, or print its JSON Schema.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the JSON Schema of a message on the buses.
    Schema {
        /// Which one; all names when not given.
        name: Option<String>,
    },
    /// Print the transition table and the state diagram (Markdown with Mermaid).
    Diagram,
    /// Print completions for a shell: source them, or put them where it looks.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one per command, into a directory.
    Man {
        /// The directory; made when it is missing.
        dir: PathBuf,
    },
    /// A two-region AWS on this machine, on real PostgreSQL and DNS, to kill a region and watch.
    #[cfg(feature = "lab")]
    Lab(aurora_failover_lab::cli::Lab),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Read the file as every other command does: all problems at once, each with its fix.
    Check {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file. A container may have its text in AURORA_FAILOVER_CONFIG_TEXT instead, which wins.
    #[arg(long, short, env = "AURORA_FAILOVER_CONFIG", default_value = "aurora-failover.toml", value_name = "FILE")]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Settings> {
        // The error says its cause itself; as a source it would be said twice.
        config::load(&self.config).map_err(|error| anyhow!("{error}"))
    }
}

#[derive(Args)]
struct Output {
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs; stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The schemas of events, and of what commands print for programs.
fn schemas() -> Vec<(&'static str, Schema)> {
    let mut all = envelope::schemas();
    all.extend([
        ("output-status", schema_for!(Vec<status::Shown>)),
        ("output-history", schema_for!(Vec<HistoryRow>)),
        ("output-episodes", schema_for!(Vec<EpisodeEntry>)),
        ("output-episode", schema_for!(Report)),
        ("output-explain", schema_for!(explain::Explained)),
        ("output-audit-verify", schema_for!(audit::Verdict)),
        ("output-replay", schema_for!(replay::Outcome)),
        ("output-replay-policy", schema_for!(Vec<Compared>)),
        ("output-override", schema_for!(override_::Outcome)),
        ("output-plan", schema_for!(plan::Planned)),
        ("output-doctor", schema_for!(Vec<doctor::Finding>)),
        ("output-cost", schema_for!(Bill)),
        ("output-dlq-list", schema_for!(Vec<dlq::Shown>)),
        ("output-dlq-show", schema_for!(dlq::Shown)),
        ("output-dlq-redrive", schema_for!(Vec<dlq::Redriven>)),
        ("output-config-check", schema_for!(Vec<Checked>)),
    ]);
    all
}

/// A cluster of a file that can be used.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    cluster: String,
    mode: &'static str,
    members: Vec<Region>,
    routes: Vec<String>,
    policy: Policy,
}

/// Reads the file, and says what is understood of it.
fn check(file: &ConfigFile, format: Format) -> Result<()> {
    let settings = file.load()?;
    let checked = settings.clusters.iter().map(|cluster| Checked {
        cluster: cluster.id.to_string(),
        mode: cluster.mode.name(),
        members: cluster.config.members.iter().map(|member| member.region.clone()).collect(),
        routes: cluster.config.routes.iter().map(|route| route.name.clone()).collect(),
        policy: cluster.config.policy.clone(),
    });
    let checked: Vec<Checked> = checked.collect();
    if format != Format::Table {
        return show_as(format, &checked);
    }
    for Checked { cluster, mode, members, policy, .. } in &checked {
        show(&format!(
            "{cluster}: mode {mode}, {}, {} of which {} must agree, {} over {}",
            count(members.len(), "member"),
            count(policy.vantages.len(), "vantage"),
            policy.quorum,
            count(policy.failures_min, "failure"),
            duration(policy.confirm_after_ms),
        ))?;
    }
    show(&format!("{} can be used", file.config.display()))
}

/// Prints data for programs: every type that is printed has a published schema.
fn show_as<T: Serialize + JsonSchema>(format: Format, data: &T) -> Result<()> {
    match format {
        Format::Yaml => show(serde_saphyr::to_string(data).context("writing YAML")?.trim_end()),
        Format::Table | Format::Json => show(&serde_json::to_string_pretty(data)?),
    }
}

/// The cluster that is meant: the named one, or the only one.
fn one_cluster(settings: &Settings, named: Option<String>) -> Result<ClusterId> {
    let names = || settings.clusters.iter().map(|own| own.id.as_str()).collect::<Vec<_>>().join(", ");
    match (named, settings.clusters.as_slice()) {
        (Some(name), clusters) => match clusters.iter().find(|own| own.id.as_str() == name) {
            Some(own) => Ok(own.id.clone()),
            None => bail!("the configuration has no cluster {name}; it has: {}", names()),
        },
        (None, [only]) => Ok(only.id.clone()),
        (None, _) => bail!("the configuration has several clusters; pass --cluster with one of: {}", names()),
    }
}

/// The cluster whose episode this is, by the beginning of its id.
fn cluster_of(settings: &Settings, episode: &str) -> Result<ClusterId> {
    let own = settings
        .clusters
        .iter()
        .filter(|own| episode.strip_prefix(own.id.as_str()).is_some_and(|rest| rest.starts_with('-')));
    // Of `orders` and `orders-eu` the longer one that fits.
    match own.max_by_key(|own| own.id.as_str().len()) {
        Some(own) => Ok(own.id.clone()),
        None => bail!("{episode} is an episode of no configured cluster; `aurora-failover episodes` lists them"),
    }
}

/// Runs the command; errors go to standard error with their whole chain.
pub(crate) fn run(cli: Cli) -> ExitCode {
    #[cfg(feature = "lab")]
    if let Command::Lab(lab) = cli.command {
        return aurora_failover_lab::cli::run(lab);
    }
    // A vantage waits nearly all the time: one thread is enough, and costs the least memory.
    let mut builder = match cli.command {
        Command::Canary { .. } => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let good = |good: bool| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Override(command) => override_::run(command).await,
            Command::Audit(command) => audit::run(command).await.map(good),
            Command::Replay(command) => command.run().await.map(good),
            Command::Plan(command) => command.run().await.map(good),
            Command::Doctor(command) => command.run().await.map(good),
            Command::Drill(command) => command.run().await,
            command => dispatch(command).await.map(|()| ExitCode::SUCCESS),
        }
    });
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Serve {
            file,
            log,
            listen,
            #[cfg(feature = "dashboard")]
            dashboard,
            #[cfg(feature = "dashboard")]
            demo_url,
            emf,
            vantage,
        } => {
            let _exporting = log.start()?;
            let beside = Beside {
                listen,
                emf,
                vantage: vantage.map(Vantage),
                #[cfg(feature = "dashboard")]
                dashboard,
                #[cfg(feature = "dashboard")]
                demo_url,
            };
            serve(file.load()?, beside).await
        }
        Command::Canary {
            file,
            log,
            vantage,
            #[cfg(feature = "lambda")]
            lambda,
        } => {
            let _exporting = log.start()?;
            let (settings, vantage) = (file.load()?, Vantage(vantage));
            is_known(&settings, &vantage)?;
            #[cfg(feature = "lambda")]
            if lambda.is_some() {
                let outside = outside(&settings).await?;
                let served = canary::lambda::serve(vantage, settings, outside).await;
                return served.map_err(|error| anyhow::anyhow!("the Lambda runtime's API: {error}"));
            }
            probe(settings, vantage, stop_on_signal()?).await
        }
        Command::Init { file } => {
            let settings = file.load()?;
            let sdk = aws::load(&settings.region, &settings.aws).await;
            infrastructure::init(&sdk, &settings, |part| println!("ready: {part}")).await
        }
        Command::IamPolicy { file, role } => {
            show(&serde_json::to_string_pretty(&permissions::policy(role, &file.load()?))?)
        }
        Command::Status { file, output, watch } => status::run(&file.load()?, output.output, watch).await,
        Command::History(command) => command.run().await,
        Command::Episodes(command) => command.run().await,
        Command::Episode(command) => command.run().await,
        Command::Explain(command) => command.run().await,
        Command::Cost(command) => command.run(),
        Command::Dlq(command) => dlq::run(command).await,
        Command::Override(_)
        | Command::Audit(_)
        | Command::Replay(_)
        | Command::Plan(_)
        | Command::Doctor(_)
        | Command::Drill(_) => bail!("they have their own exit codes"),
        Command::Config(ConfigCommand::Check { file, output }) => check(&file, output.output),
        Command::Config(ConfigCommand::Schema) => show(&serde_json::to_string_pretty(&config::schema())?),
        Command::Schema { name: None } => schemas().iter().try_for_each(|(name, _)| show(name)),
        Command::Schema { name: Some(name) } => match schemas().iter().find(|(known, _)| *known == name) {
            Some((_, schema)) => show(&serde_json::to_string_pretty(schema)?),
            None => bail!("there is no schema {name}; `aurora-failover schema` names them"),
        },
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), env!("CARGO_PKG_NAME"), &mut text);
            show(String::from_utf8(text)?.trim_end())
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), &dir).with_context(|| format!("writing into {}", dir.display()))
        }
        Command::Diagram => show(statemachine::diagram::markdown().trim_end()),
        #[cfg(feature = "lab")]
        Command::Lab(_) => bail!("the lab starts its own runtime"),
    }
}

/// The guards as they were asked when it began to hold, so that all that refused can be told; none when it does not.
async fn asked(store: &DynamoDb, item: &Item) -> Result<Vec<GuardResult>> {
    /// Newest rows that are looked through.
    const ROWS_MAX: usize = 50;
    let hold = item.record.hold.as_ref().map(|hold| hold.reason);
    if !matches!(hold, Some(HoldReason::Guard(_))) {
        return Ok(Vec::new());
    }
    let refused = |row: &HistoryRow| row.rule == Rule::GuardRefused;
    if refused(&item.row) {
        return Ok(item.row.guards.clone());
    }
    let found = store.newest(&item.record.cluster, ROWS_MAX).await?.into_iter().find(refused);
    Ok(found.map(|row| row.guards).unwrap_or_default())
}

/// A table without lines.
fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

/// The middle one; none of none.
fn median(mut ms: Vec<u64>) -> Option<u64> {
    ms.sort_unstable();
    ms.get(ms.len() / 2).copied()
}

/// Prints lines, without the blanks that a table has at their ends. Whoever reads may have seen enough: a closed pipe is
/// no error.
fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in text.split('\n') {
        match writeln!(out, "{}", line.trim_end()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// What `serve` does beside deciding.
struct Beside {
    listen: Option<SocketAddr>,
    emf: bool,
    vantage: Option<Vantage>,
    #[cfg(feature = "dashboard")]
    dashboard: Option<SocketAddr>,
    #[cfg(feature = "dashboard")]
    demo_url: Option<String>,
}

async fn serve(settings: Settings, beside: Beside) -> Result<()> {
    let stop = stop_on_signal()?;
    if let Some(vantage) = beside.vantage {
        is_known(&settings, &vantage)?;
        let (settings, stop) = (settings.clone(), stop.clone());
        tokio::spawn(async move { canary::keep(vantage, settings.clone(), || outside(&settings), stop).await });
    }
    let (health, board) = (Arc::new(Health::default()), Arc::new(Board::default()));
    let metrics = if beside.emf { telemetry::print_embedded(stop.clone())? } else { telemetry::collect(stop.clone())? };
    if let Some(listen) = beside.listen {
        telemetry::serve(listen, metrics, Arc::clone(&health), clock::now, stop.clone()).await?;
    }
    let (sdk, store) = store(&settings).await;
    let (world, store) = (world(&settings, &sdk)?, Arc::new(store));
    #[cfg(feature = "dashboard")]
    if let Some(listen) = beside.dashboard {
        let dashboard = Dashboard {
            access: Access::new(listen, &settings.dashboard)?,
            board: Arc::clone(&board),
            health: Arc::clone(&health),
            store: Arc::clone(&store),
            world: world.clone(),
            bus: Arc::new(EventBridge::new(&sdk, &settings.operator_bus)),
            settings: settings.clone(),
            demo_url: beside.demo_url,
            watchers: AtomicUsize::new(0),
            demo: tokio::sync::watch::Sender::default(),
            limits: dashboard::Limits::default(),
        };
        dashboard::serve(listen, dashboard, stop.clone()).await?;
    }
    let decoder = Arc::new(Decoder::new(&settings.clusters));
    let mut inboxes = Vec::new();
    for (channel, queue) in [(Channel::Evidence, &settings.queue), (Channel::Operator, &settings.operator_queue)] {
        let opened = open_queue(&sdk, queue, &settings.dead_letter_queue, &health);
        let Some(queue) = stop.run_until_cancelled(opened).await else { return Ok(()) };
        inboxes.push(Inbox::new(Arc::new(queue), channel, Arc::clone(&decoder)));
    }
    controller::run(settings, store, world, inboxes, health, board, stop).await;
    Ok(())
}

/// Finds a queue, as often as it takes: like the store it may be out of reach for a while, or not be there yet.
async fn open_queue(sdk: &SdkConfig, queue: &str, dead_letters: &str, health: &Health) -> Sqs {
    let mut pause = QUEUE_AGAIN_AFTER;
    loop {
        match Sqs::open(sdk, queue, dead_letters).await {
            Ok(found) => {
                health.set_missing(None);
                return found;
            }
            Err(error) => {
                tracing::warn!(%error, again_after = ?pause, "the queue does not answer; nothing is decided until it does");
                health.set_missing(Some(error.to_string()));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(QUEUE_AGAIN_AFTER_MAX);
    }
}

/// The AWS configuration, and the table.
async fn store(settings: &Settings) -> (SdkConfig, DynamoDb) {
    let sdk = aws::load(&settings.region, &settings.aws).await;
    let store = DynamoDb::new(&sdk, &settings.table).keeping(settings.retention);
    (sdk, store)
}

/// The outside world, as effects reach it.
fn world(settings: &Settings, sdk: &SdkConfig) -> Result<World> {
    let dns = Dns::new(&settings.nameservers)?;
    Ok(World {
        rds: Arc::new(AwsRds::new(settings.aws.clone())),
        route53: Arc::new(AwsRoute53::new(sdk)),
        objects: Arc::new(AwsS3::new(settings.aws.clone())),
        controls: routing_controls(settings),
        bus: Arc::new(EventBridge::new(sdk, &settings.event_bus)),
        database: Arc::new(Database::new(settings.database.clone(), &settings.aws, dns.clone())?),
        dns: Arc::new(dns),
        clock: Arc::new(SystemClock),
        poll_every: settings.aws.poll_every,
        write_deadline: settings.canary.rhythm.timeout,
        region: settings.region.clone(),
    })
}

#[cfg(feature = "arc")]
fn routing_controls(settings: &Settings) -> Option<Arc<dyn RoutingControls>> {
    Some(Arc::new(aurora_failover::arc::AwsArc::new(settings.aws.clone())))
}

#[cfg(not(feature = "arc"))]
fn routing_controls(_: &Settings) -> Option<Arc<dyn RoutingControls>> {
    None
}

fn is_known(settings: &Settings, vantage: &Vantage) -> Result<()> {
    let known = settings.clusters.iter().any(|cluster| cluster.config.policy.vantages.contains(vantage));
    if !known {
        bail!("vantage {vantage:?} is in no cluster's `vantages`; its probes would not count. Add it there first");
    }
    Ok(())
}

async fn probe(settings: Settings, vantage: Vantage, stop: CancellationToken) -> Result<()> {
    let outside = outside(&settings).await?;
    canary::run(vantage, &settings, &outside, stop).await;
    Ok(())
}

async fn outside(settings: &Settings) -> Result<Outside> {
    let sdk = aws::load(&settings.region, &settings.aws).await;
    let dns = Dns::new(&settings.nameservers)?;
    Ok(Outside {
        database: Database::new(settings.database.clone(), &settings.aws, dns.clone())?,
        dns,
        bus: Arc::new(EventBridge::new(&sdk, &settings.event_bus)),
        cloudwatch: Arc::new(CloudWatch::new(settings.aws.clone())),
    })
}

/// Cancelled by SIGTERM or Ctrl-C.
fn stop_on_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command lines of the `sh` blocks of a text.
    fn command_lines(text: &str) -> Vec<&str> {
        let (mut lines, mut inside) = (Vec::new(), false);
        for line in text.lines().map(str::trim) {
            match line {
                "```sh" => inside = true,
                "```" => inside = false,
                line if inside && line.starts_with("aurora-failover ") => lines.push(line),
                _ => {}
            }
        }
        lines
    }

    #[test]
    #[cfg(feature = "parquet")]
    fn every_documented_command_line_can_be_used() {
        let readme = include_str!("../../README.md");
        let lines: Vec<&str> = [readme, include_str!("../../docs/history.md"), include_str!("../../docs/orders.md")]
            .into_iter()
            .flat_map(command_lines)
            .collect();
        assert!(lines.len() >= 20, "{lines:?}");
        for line in lines {
            let words = shlex::split(line).expect("a shell would take it");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn the_command_that_releases_a_hold_can_be_used() {
        let orders = ["approve --allow-data-loss", "acknowledge", "set-mode approve", "switchover --target us-west-2"];
        for order in orders {
            let line = aurora_failover::audit::held::command(&"orders".into(), order);
            let words = shlex::split(&line).expect("a shell would take it");
            assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
        }
    }
}
