//! `aurora-failover override`: an operator's order, by the operator bus, with the answer from the history.

use super::{ConfigFile, Format, show, show_as, store, world};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain;
use aurora_failover::bus::EventBridge;
use aurora_failover::config::Settings;
use aurora_failover::effects::World;
use aurora_failover::envelope::check_command;
use aurora_failover::rehearse::rehearse;
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Path, Store as _};
use aurora_failover::turn::{Before, new_row};
use aurora_failover::{clock, identity, orders};
use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{
    ClusterId, Command, ControllerId, Effect, Envelope, EpisodeOutcome, Event, EventId, Mode, Order, Region, Rule,
    invariants, step,
};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long to follow what was begun.
const FOLLOW_WITHIN: Duration = Duration::from_secs(3600);

/// Longest time for what RDS and DNS say: who is in a hurry must not wait for a region that is gone.
const SITUATION_WITHIN: Duration = Duration::from_secs(15);

/// Pause between two looks at the history.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ended {
    /// It was carried out, and what it began came to its end.
    Done,
    /// Only shown, not sent.
    NothingSent,
    /// The machine refused it, or would.
    Refused,
    /// No answer came in time.
    NoAnswer,
    /// It was carried out, and what it began holds now.
    Holds,
    /// It was carried out, and what it began came to nothing.
    CameToNothing,
}

impl Ended {
    pub(super) fn code(self) -> ExitCode {
        match self {
            Self::Done | Self::NothingSent => ExitCode::SUCCESS,
            Self::Refused => ExitCode::FAILURE,
            Self::NoAnswer => ExitCode::from(3),
            Self::Holds => ExitCode::from(4),
            Self::CameToNothing => ExitCode::from(5),
        }
    }
}

/// An order and what came of it, for programs.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Outcome {
    cluster: String,
    order: &'static str,
    ended: Ended,
    /// What was told on the way.
    told: Vec<String>,
}

/// What is told on the way: to a human at once; to a program in the end, and to whoever watches it.
pub(super) struct Telling {
    format: Format,
    told: Vec<String>,
}

impl Telling {
    pub(super) const fn new(format: Format) -> Self {
        Self { format, told: Vec::new() }
    }

    pub(super) fn tell(&mut self, line: impl Into<String>) -> Result<()> {
        let line = line.into();
        if self.format == Format::Table {
            return show(&line);
        }
        eprintln!("{line}");
        self.told.push(line.trim().to_owned());
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Override {
    #[command(flatten)]
    file: ConfigFile,
    /// For humans, or for programs: then one object at the end, and what is told on the way on standard error.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Which cluster.
    cluster: String,
    #[command(subcommand)]
    order: OrderArgument,
    /// Why; kept in the history.
    #[arg(long, global = true, default_value = "")]
    reason: String,
    /// The person or the ticket behind the caller: told beside the caller's AWS identity, and not counted as another
    /// person.
    #[arg(long, global = true, value_name = "NAME")]
    on_behalf_of: Option<String>,
    /// Refused when it arrives later than this.
    #[arg(long, global = true, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    expires_in: Duration,
    /// Show what the machine would decide, and send nothing.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Do not ask for confirmation. What the record, RDS and DNS say is shown all the same.
    #[arg(long, global = true)]
    yes: bool,
    /// Do not follow what it begins; end when it was taken or refused.
    #[arg(long, global = true)]
    no_wait: bool,
    /// Break the glass: write the decision straight into the table, past the bus and the queue. For when EventBridge is
    /// down; needs leave to write the table, and is marked in the history.
    #[arg(long, global = true)]
    direct: bool,
}

#[derive(Clone, Subcommand)]
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

impl Override {
    /// A planned switchover, followed to its end.
    pub(super) fn switchover(
        config: std::path::PathBuf,
        cluster: String,
        target: Option<String>,
        reason: String,
        on_behalf_of: Option<String>,
        yes: bool,
    ) -> Self {
        Self {
            file: ConfigFile { config },
            output: Format::Table,
            cluster,
            order: OrderArgument::Switchover { target },
            reason,
            on_behalf_of,
            expires_in: Duration::from_secs(60),
            dry_run: false,
            yes,
            no_wait: false,
            direct: false,
        }
    }
}

/// Does the order begin something that is worth following?
const fn begins(order: &Order) -> bool {
    matches!(order, Order::Failover { .. } | Order::Switchover { .. } | Order::Approve { .. })
}

pub(super) async fn run(given: Override) -> Result<ExitCode> {
    let (format, cluster, order) = (given.output, given.cluster.clone(), given.order.clone().order().name());
    let mut telling = Telling::new(format);
    let ended = carry_out(given, &mut telling).await?;
    if format != Format::Table {
        show_as(format, &Outcome { cluster, order, ended, told: telling.told })?;
    }
    Ok(ended.code())
}

/// Gives the order and follows it; tells what happens.
pub(super) async fn carry_out(given: Override, telling: &mut Telling) -> Result<Ended> {
    let reason = given.reason.trim().to_owned();
    if reason.is_empty() {
        bail!("--reason is needed, in words: it is kept in the history");
    }
    let on_behalf_of = given.on_behalf_of.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let settings = given.file.load()?;
    let cluster = super::one_cluster(&settings, Some(given.cluster.clone()))?;
    let (sdk, store) = store(&settings).await;
    let Some(item) = store.read(&cluster).await? else {
        bail!("nothing is stored of {cluster} yet; is the controller running?");
    };
    let expires_ms = u64::try_from(given.expires_in.as_millis()).unwrap_or(u64::MAX);
    let command = Command {
        actor: actor(identity::caller(&sdk).await, on_behalf_of)?,
        on_behalf_of: on_behalf_of.map(str::to_owned),
        reason,
        expected_epoch: item.record.epoch,
        expires_at: clock::now().plus_ms(expires_ms),
        nonce: Uuid::new_v4().simple().to_string(),
        order: given.order.order(),
    };
    if let Err(why) = check_command(&command) {
        bail!("{why}; nothing was sent");
    }
    let world = world(&settings, &sdk)?;
    let asked = super::asked(&store, &item).await?;
    telling.tell(explain::record_asked(&item.record, item.record.last_now, &asked).join("\n"))?;
    telling.tell(format!("\nThe world now\n{}", situation(&settings, &world, &item).await.join("\n")))?;
    if given.dry_run || !given.yes {
        let rehearsal = rehearse(&world, &item, Event::Command(command.clone())).await;
        telling.tell(format!("\nWith `{}`\n{}", command.order.name(), rehearsal.outlook().join("\n")))?;
        if given.dry_run {
            telling.tell("\nNothing was sent.")?;
            return Ok(if rehearsal.refused() { Ended::Refused } else { Ended::NothingSent });
        }
        if !confirmed(&cluster)? {
            bail!("not confirmed; nothing was sent");
        }
    }
    telling.tell(format!("\nThe order: {} by {}", command.order.name(), command.by()))?;
    if given.direct {
        return direct(&store, &cluster, command, telling).await;
    }
    let bus = EventBridge::new(&sdk, &settings.operator_bus);
    let answer = orders::give(&bus, &store, &cluster, &command).await;
    let answer = answer.context("if EventBridge is down, --direct writes an order straight into the table")?;
    let Some(row) = answer else {
        telling.tell(format!(
            "no answer within {:?}: is a controller running on queue {}? The order expires by itself",
            orders::ANSWER_WITHIN,
            settings.operator_queue
        ))?;
        return Ok(Ended::NoAnswer);
    };
    let refused = orders::is_refused(&row);
    telling.tell(verdict(&row, refused))?;
    if refused {
        return Ok(Ended::Refused);
    }
    if given.no_wait {
        return Ok(Ended::Done);
    }
    if let Order::FailoverInRegion { .. } = &command.order {
        return follow_in_region(&store, &world, &row, &item, telling).await;
    }
    if !begins(&command.order) {
        return Ok(Ended::Done);
    }
    follow(&store, &cluster, &row, telling).await
}

fn verdict(row: &HistoryRow, refused: bool) -> String {
    let answer = row.answer.as_deref().unwrap_or_default();
    format!("{}: {answer} (version {})", if refused { "refused" } else { "done" }, row.version)
}

/// Who it is: the caller's AWS identity. Whoever has none is nobody in particular, and names somebody.
fn actor(caller: Result<String, String>, on_behalf_of: Option<&str>) -> Result<String> {
    match (caller, on_behalf_of) {
        (Ok(arn), _) => Ok(arn),
        (Err(error), None) => bail!("{error}; name yourself with --on-behalf-of to go on without an AWS identity"),
        (Err(error), Some(_)) => {
            eprintln!("warning: {error}; the history will not know your AWS identity");
            Ok("unknown caller".into())
        }
    }
}

/// What RDS and DNS say, if they say it soon.
pub(super) async fn situation(settings: &Settings, world: &World, item: &Item) -> Vec<String> {
    let said = tokio::time::timeout(SITUATION_WITHIN, ask_the_world(settings, world, item)).await;
    said.unwrap_or_else(|_| vec![format!("RDS and DNS did not answer within {SITUATION_WITHIN:?}")])
}

async fn ask_the_world(settings: &Settings, world: &World, item: &Item) -> Vec<String> {
    let record = &item.record;
    let secondary = record.config.members.iter().map(|member| &member.region).find(|region| **region != record.primary);
    let asked = secondary.unwrap_or(&settings.region);
    let mut said = match world.rds.global_cluster(asked, &record.cluster).await {
        Err(error) => vec![format!("RDS: {error}")],
        Ok(seen) => {
            let writer =
                seen.members.iter().find(|member| member.writer).map_or("nobody", |member| member.arn.as_str());
            let moving = seen.failover.map(|move_| format!(", a move to {} is {}", move_.to, move_.status));
            vec![format!("RDS in {asked}: {}, the writer is {writer}{}", seen.status, moving.unwrap_or_default())]
        }
    };
    for route in &record.config.routes {
        said.push(match world.dns.cname(&route.name).await {
            Ok(target) => {
                let member = record.config.members.iter().find(|member| member.endpoint == target);
                let region = member.map_or_else(|| "no member".to_owned(), |member| member.region.to_string());
                format!("DNS: {} leads to {target} ({region})", route.name)
            }
            Err(error) => format!("DNS: {error}"),
        });
    }
    said
}

fn confirmed(cluster: &ClusterId) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on; pass --yes");
    }
    print!("\nType the name of the cluster to go on: ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim() == cluster.as_str())
}

/// Tells every turn that moves something, until the episode settles, holds or ends.
async fn follow(store: &DynamoDb, cluster: &ClusterId, from: &HistoryRow, telling: &mut Telling) -> Result<Ended> {
    let (began, mut next) = (Instant::now(), from.version + 1);
    while began.elapsed() < FOLLOW_WITHIN {
        let path = Path::Cluster { cluster: cluster.clone(), from: next, to: u64::MAX };
        let mut rows = store.rows(&path, false);
        while let Some(row) = rows.next().await? {
            next = row.version + 1;
            let told = row.from != row.to
                || matches!(row.rule, Rule::GuardRefused | Rule::EffectHeld | Rule::Rerouted | Rule::NamesBack);
            if told || row.outcome.is_some() {
                telling.tell(format!("{} {}: {}", clock::rfc3339(row.at), row.to, row.rule.sentence()))?;
            }
            if matches!(row.rule, Rule::GuardRefused | Rule::EffectHeld) && row.outcome.is_none() {
                let item = store.read(cluster).await?.filter(|item| item.record.hold.is_some());
                let Some(item) = item else { continue };
                for held in explain::held(&item.record, &row.guards) {
                    telling.tell(format!("it holds: {}; to go on: {}", held.why, held.release))?;
                }
                return Ok(Ended::Holds);
            }
            match row.outcome {
                Some(EpisodeOutcome::Completed) => return Ok(Ended::Done),
                Some(_) => return Ok(Ended::CameToNothing),
                None if row.to == "stable" && row.from != row.to => {
                    telling.tell("the new primary is proven; the episode closes when everything is whole again")?;
                    return Ok(Ended::Done);
                }
                None => {}
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    telling.tell(format!("it is not settled after {FOLLOW_WITHIN:?}; `aurora-failover status` shows how it is"))?;
    Ok(Ended::NoAnswer)
}

/// Follows an in-region failover until RDS has ended it. RDS's event says so when it comes; else RDS is asked.
async fn follow_in_region(
    store: &DynamoDb,
    world: &World,
    from: &HistoryRow,
    item: &Item,
    telling: &mut Telling,
) -> Result<Ended> {
    let record = &item.record;
    let Some(primary) = record.primary_member() else { return Ok(Ended::Done) };
    let effect = from.effects.iter().find(|pending| matches!(pending.effect, Effect::FailOverInRegion { .. }));
    let Some(effect) = effect.map(|pending| pending.id) else { return Ok(Ended::Done) };
    let policy = &record.config.policy;
    let within_ms = policy.assess_deadline_ms.saturating_add(policy.in_region_grace_ms.saturating_mul(2));
    let (began, mut next) = (Instant::now(), from.version + 1);
    let (mut taken, mut seen_under_way) = (None, false);
    while began.elapsed() < Duration::from_millis(within_ms) {
        let path = Path::Cluster { cluster: record.cluster.clone(), from: next, to: u64::MAX };
        let mut rows = store.rows(&path, false);
        while let Some(row) = rows.next().await? {
            next = row.version + 1;
            let ours = matches!(&row.event.event, Event::Result(result) if result.effect == effect);
            let of_rds = row.rule == Rule::InRegionFailover && matches!(row.event.event, Event::Rds(_));
            if ours || of_rds {
                telling.tell(format!("{} {}", clock::rfc3339(row.at), explain::event(&row.event.event)))?;
            }
            if ours && row.rule == Rule::EffectHeld {
                return Ok(Ended::CameToNothing);
            }
            if ours && row.rule == Rule::InRegionFailover {
                taken = Some(Instant::now());
            }
        }
        if let Some(taken) = taken {
            let status = world.rds.cluster(&primary.region, &primary.arn).await.ok().map(|facts| facts.status);
            seen_under_way |= status.as_deref() == Some("failing-over");
            // RDS may not show at once what it has begun.
            let shown = seen_under_way || taken.elapsed() > Duration::from_millis(policy.in_region_grace_ms);
            let over = store.read(&record.cluster).await?.is_some_and(|item| item.record.grace.is_none());
            if status.as_deref() == Some("available") && (shown || over) {
                telling
                    .tell(format!("{} is available again: the failover in {} is over", primary.arn, primary.region))?;
                return Ok(Ended::Done);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let said = if taken.is_some() { "RDS has not ended it" } else { "RDS has not taken it" };
    telling.tell(format!(
        "{said} within {}; `aurora-failover explain {}` shows how it is",
        explain::duration(within_ms),
        record.cluster
    ))?;
    Ok(Ended::NoAnswer)
}

/// Decides here, on the stored record, and writes what comes of it. The controllers carry it out.
async fn direct(store: &DynamoDb, cluster: &ClusterId, command: Command, telling: &mut Telling) -> Result<Ended> {
    /// Lost races for a version before it is given up.
    const TRIES: usize = 5;
    let at = clock::now();
    let event = Event::Command(command);
    let envelope = Envelope { id: EventId(format!("{}{}", explain::DIRECT, Uuid::new_v4().simple())), at, event };
    let by = ControllerId("override --direct".into());
    for _ in 0..TRIES {
        let item = store.load(cluster).await?.context("the record has gone")?;
        let (before, now) = (Before::of(&item.record), clock::now());
        let decision = step(item.record, &envelope, now);
        if !decision.verdict.is_durable() {
            bail!("the order changes nothing: {:?}", decision.verdict);
        }
        invariants::check(&decision.record).context("the order would break an invariant; nothing was written")?;
        let decision_id = Uuid::new_v4().simple().to_string();
        let version = item.version + 1;
        let row = new_row(before, &envelope, &decision, version, &item.row.hash, now, decision_id, &by, Vec::new());
        let next = Item { version, decision_id: row.decision_id.clone(), record: decision.record, row };
        match store.commit(&next).await {
            Err(aurora_failover::store::StoreError::Conflict { .. }) => continue,
            other => other?,
        }
        store.append(&next.row).await?;
        let refused = orders::is_refused(&next.row);
        telling.tell(verdict(&next.row, refused))?;
        telling.tell("It was written straight into the table; a controller carries it out when it next looks.")?;
        return Ok(if refused { Ended::Refused } else { Ended::Done });
    }
    bail!("somebody else was faster {TRIES} times; try again")
}
