//! `aurora-failover override`: an operator's order, by the operator bus, with the answer from the history.

use super::{ConfigFile, show};
use anyhow::{Result, bail};
use aurora_failover::bus::{Bus as _, EventBridge, OPERATOR_SOURCE, Outgoing};
use aurora_failover::config::Settings;
use aurora_failover::envelope::{COMMAND_DETAIL_TYPE, command_detail};
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Store as _};
use aurora_failover::{aws, clock};
use clap::{Args, Subcommand, ValueEnum};
use statemachine::{ClusterId, Command, Event, Mode, Order, Region, Rule};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a command may be under way before it is refused as late.
const EXPIRES_AFTER_MS: u64 = 60_000;

/// How long to wait for the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two looks at the history.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Rows that are looked through for the answer.
const ROWS: usize = 50;

/// No answer came in time.
const NO_ANSWER: u8 = 3;

#[derive(Args)]
pub(super) struct Override {
    #[command(flatten)]
    file: ConfigFile,
    /// Which cluster.
    cluster: String,
    #[command(subcommand)]
    order: OrderArgument,
    /// Why; kept in the history.
    #[arg(long, global = true, default_value = "")]
    reason: String,
    /// Who; the login name when not given.
    #[arg(long, global = true, env = "USER", default_value = "")]
    actor: String,
    /// Do not ask for confirmation.
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Subcommand)]
enum OrderArgument {
    /// Decide nothing and do nothing new for a while; evidence starts from zero afterwards.
    Pause {
        /// How long, such as 30m.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        duration: Duration,
    },
    /// End the pause.
    Resume,
    /// What the machine may do by itself.
    SetMode {
        /// From now on.
        mode: ModeArgument,
    },
    /// Fail over now, whatever the evidence says.
    Failover {
        /// To which region; the best secondary when not given.
        #[arg(long)]
        target: Option<String>,
        /// Accept a loss beyond rpo-max.
        #[arg(long)]
        allow_data_loss: bool,
    },
    /// Move the writer without losing anything; both regions must be well.
    Switchover {
        /// To which region; the best secondary when not given.
        #[arg(long)]
        target: Option<String>,
    },
    /// Let another instance of the primary's own region take over.
    FailoverInRegion {
        /// Which one; RDS chooses when not given.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Let the open episode go on.
    Approve {
        /// Accept a loss beyond rpo-max, in this episode only.
        #[arg(long)]
        allow_data_loss: bool,
    },
    /// Give the open episode up.
    Abort,
    /// The situation is known: close the settled episode, or lift the cooldown.
    Acknowledge,
    /// Allow automatic failovers again after the limit was reached.
    ResetLimit,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArgument {
    /// Decide and record, never act.
    Observe,
    /// Act after a human's approval.
    Approve,
    /// Act.
    Auto,
}

impl OrderArgument {
    fn order(self) -> Order {
        match self {
            Self::Pause { duration } => {
                Order::Pause { until: clock::now().plus_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)) }
            }
            Self::Resume => Order::Resume,
            Self::SetMode { mode } => Order::SetMode {
                mode: match mode {
                    ModeArgument::Observe => Mode::Observe,
                    ModeArgument::Approve => Mode::Approve,
                    ModeArgument::Auto => Mode::Auto,
                },
            },
            Self::Failover { target, allow_data_loss } => {
                Order::Failover { target: target.map(Region), allow_data_loss }
            }
            Self::Switchover { target } => Order::Switchover { target: target.map(Region) },
            Self::FailoverInRegion { instance } => Order::FailoverInRegion { instance },
            Self::Approve { allow_data_loss } => Order::Approve { allow_data_loss },
            Self::Abort => Order::Abort,
            Self::Acknowledge => Order::Acknowledge,
            Self::ResetLimit => Order::ResetLimit,
        }
    }
}

pub(super) async fn run(given: Override) -> Result<ExitCode> {
    let settings = given.file.load()?;
    let cluster = ClusterId(given.cluster);
    if given.reason.is_empty() || given.actor.is_empty() {
        bail!("--reason and --actor are needed: both are kept in the history");
    }
    if !settings.clusters.iter().any(|known| known.id == cluster) {
        let known: Vec<&str> = settings.clusters.iter().map(|known| known.id.as_str()).collect();
        bail!("the configuration has no cluster {cluster}; it has: {}", known.join(", "));
    }
    let sdk = aws::load(&settings.region, &settings.aws).await;
    let store = DynamoDb::new(&sdk, &settings.table);
    let Some(item) = store.load(&cluster).await? else {
        bail!("nothing is stored of {cluster} yet; is the controller running?");
    };
    let order = given.order.order();
    show(&format!("{}\norder: {}", situation(&item), order.name()))?;
    if !given.yes && !confirmed(&cluster)? {
        bail!("not confirmed; nothing was sent");
    }
    let command = Command {
        actor: given.actor,
        reason: given.reason,
        expected_epoch: item.record.epoch,
        expires_at: clock::now().plus_ms(EXPIRES_AFTER_MS),
        nonce: Uuid::new_v4().simple().to_string(),
        order,
    };
    let detail = command_detail(&cluster, clock::now(), &command);
    let event = Outgoing { source: OPERATOR_SOURCE, detail_type: COMMAND_DETAIL_TYPE, detail };
    EventBridge::new(&sdk, &settings.operator_bus).publish(&[event]).await?;
    answer(&settings, &store, &cluster, &command.nonce).await
}

fn situation(item: &Item) -> String {
    let record = &item.record;
    let mut text = format!(
        "The record says: {} is {}, mode {}, primary {}, epoch {}",
        record.cluster,
        record.state.name(),
        record.mode.name(),
        record.primary,
        record.epoch
    );
    if let Some(pause) = &record.paused {
        text.push_str(&format!("\npaused by {} until {}: {}", pause.by, clock::rfc3339(pause.until), pause.reason));
    }
    if let Some(hold) = &record.hold {
        text.push_str(&format!("\nholding: {}; released by: {}", hold.detail, hold.release));
    }
    text
}

fn confirmed(cluster: &ClusterId) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on; pass --yes");
    }
    print!("Type the name of the cluster to go on: ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim() == cluster.as_str())
}

/// Waits until the command stands in the history, and says what came of it.
async fn answer(settings: &Settings, store: &DynamoDb, cluster: &ClusterId, nonce: &str) -> Result<ExitCode> {
    let began = Instant::now();
    let is_ours = |row: &HistoryRow| matches!(&row.event.event, Event::Command(command) if command.nonce == nonce);
    while began.elapsed() < ANSWER_WITHIN {
        let rows = store.newest(cluster, ROWS).await?;
        if let Some(row) = rows.iter().find(|row| is_ours(row)) {
            let refused = row.rule == Rule::CommandRefused;
            let answer = row.answer.as_deref().unwrap_or_default();
            show(&format!("{}: {answer} (version {})", if refused { "refused" } else { "done" }, row.version))?;
            return Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    show(&format!(
        "no answer within {ANSWER_WITHIN:?}: is a controller running on queue {}? The command expires by itself",
        settings.operator_queue
    ))?;
    Ok(ExitCode::from(NO_ANSWER))
}
