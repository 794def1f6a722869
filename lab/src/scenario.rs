//! Scenarios: what is broken, awaited, commanded and expected, in a file that reads like a plan.
//!
//! ```toml
//! about = "The primary region vanishes."
//!
//! [[step]]
//! fault = "lose-region us-east-2"
//!
//! [[step]]
//! wait = { state = "stable", writes-in = "us-west-2" }
//! within = "30s"
//!
//! [expect]
//! path = ["suspect", "confirmed-down", "promoting", "rerouting", "stable"]
//! failover-calls = 1
//! ```

use crate::aws::{Fault, Timing};
use crate::stage::{CLUSTER, Mode, PRIMARY, Profile, RouteBy, SECONDARY, Stage, Traffic};
use anyhow::{Context as _, Result, bail, ensure};
use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The scenarios that come with the program.
static SCENARIOS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../tests/scenarios");

/// Vantages that must agree, in the lab's policy.
const QUORUM: usize = 2;

/// Longest time of a wait that does not say how long.
const WITHIN: Duration = Duration::from_secs(30);

/// One scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scenario {
    /// Its name: that of the file.
    #[serde(skip)]
    pub name: String,
    /// What happens in it, and how it has to end.
    pub about: String,
    /// It takes longer than a minute: `drill --all` leaves it out, unless told otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub long: bool,
    /// What the lab is like.
    #[serde(default)]
    pub stage: StageSection,
    /// What is done, in order.
    pub step: Vec<Step>,
    /// What has to have come of it.
    #[serde(default)]
    pub expect: Expect,
}

/// What differs from the usual lab.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StageSection {
    /// Timing of probes, thresholds, TTL and client; as the command line says by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What the controller may do by itself; `auto` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How many controllers run; one by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controllers: Option<usize>,
    /// What moves the public name; the record by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteBy>,
    /// How many clients the application has; one by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<usize>,
    /// Of a hundred statements so many only read; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads_percent: Option<u8>,
    /// Region of controllers, table and queue; the standby region by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_region: Option<String>,
    /// The vantage of the standby region runs inside the first controller, as `serve --vantage` does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vantage_in_controller: bool,
    /// The name of a secondary's writer endpoint leads nowhere, until it is the primary.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unresolved_secondaries: bool,
    /// Keys of `[cluster.policy]`.
    pub policy: toml::Table,
    /// Keys of `[canary]`.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub canary: toml::Table,
    /// How long what Aurora does takes.
    pub timing: Timing,
}

/// One step: exactly one of fault, heal, traffic, wait, watch, command and rds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Step {
    /// Not before so long after the beginning.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub at: Option<Duration>,
    /// Breaks something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Breakage>,
    /// Undoes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<Breakage>,
    /// Makes other traffic: `stop`, or `CLIENTS [PACE] [name|cluster|proxy]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<String>,
    /// Goes on when all of this is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Condition>,
    /// Longest time for it; 30 s by default.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub within: Option<Duration>,
    /// None of this may become so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Condition>,
    /// For how long it is watched.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub during: Option<Duration>,
    /// An operator's order: what comes after `aurora-failover override CLUSTER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// It has to be refused, with this in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Somebody's order past the product, straight to RDS: `failover REGION` or `switchover REGION`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rds: Option<String>,
}

/// What a step is.
#[derive(Debug)]
pub enum Act<'a> {
    /// Break something.
    Fault(&'a Breakage),
    /// Undo it.
    Heal(&'a Breakage),
    /// Wait for it.
    Wait(&'a Condition, Duration),
    /// See that it does not come.
    Watch(&'a Condition, Duration),
    /// Give an order; it is refused with this, or carried out.
    Command(&'a str, Option<&'a str>),
    /// Make other traffic.
    Traffic(&'a str),
    /// Give an order past the product.
    Rds(&'a str),
}

impl Step {
    /// What it is.
    ///
    /// # Errors
    /// When it is nothing, or several things.
    pub fn act(&self) -> Result<Act<'_>> {
        let acts = [
            self.fault.as_ref().map(Act::Fault),
            self.heal.as_ref().map(Act::Heal),
            self.wait.as_ref().map(|condition| Act::Wait(condition, self.within.unwrap_or(WITHIN))),
            self.watch.as_ref().map(|condition| Act::Watch(condition, self.during.unwrap_or_default())),
            self.command.as_deref().map(|order| Act::Command(order, self.refused.as_deref())),
            self.traffic.as_deref().map(Act::Traffic),
            self.rds.as_deref().map(Act::Rds),
        ];
        let mut acts = acts.into_iter().flatten();
        let (Some(act), None) = (acts.next(), acts.next()) else {
            bail!("a step has exactly one of fault, heal, traffic, wait, watch, command and rds: {self:?}");
        };
        ensure!(self.within.is_none() || self.wait.is_some(), "`within` belongs to `wait`: {self:?}");
        ensure!(self.during.is_some() == self.watch.is_some(), "`watch` and `during` belong together: {self:?}");
        ensure!(self.refused.is_none() || self.command.is_some(), "`refused` belongs to `command`: {self:?}");
        if let Act::Traffic(line) = act {
            Traffic::default().after(line)?;
        }
        Ok(act)
    }
}

impl fmt::Display for Act<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(breakage) => write!(f, "fault: {breakage}"),
            Self::Heal(breakage) => write!(f, "healed: {}", breakage.healed()),
            Self::Wait(condition, within) => write!(f, "waiting up to {within:?} for {condition}"),
            Self::Watch(condition, during) => write!(f, "watching for {during:?} that it is never {condition}"),
            Self::Command(order, None) => write!(f, "operator: {order}"),
            Self::Command(order, Some(refusal)) => write!(f, "operator: {order} (refused: {refusal})"),
            Self::Traffic(line) => write!(f, "traffic: {line}"),
            Self::Rds(order) => write!(f, "somebody, straight to RDS: {order}"),
        }
    }
}

/// Something that can be broken and healed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Breakage {
    /// A region vanishes: packets are dropped both ways.
    LoseRegion(String),
    /// A vantage reaches nothing at all.
    Isolate(String),
    /// A vantage reaches no server of a region.
    Blindfold(String, String),
    /// The host of a server is lost.
    Crash(Server),
    /// A server accepts connections and says nothing.
    Hang(Server),
    /// A server does nothing most of the time, as by overload: slow, but alive.
    Slow(Server),
    /// The website of a region does not answer; its databases do.
    LoseWebsite(String),
    /// Nothing is replicated between the regions.
    CutReplication,
    /// Every name server answers later by this.
    SlowDns(Duration),
    /// Some calls of AWS fail.
    Aws(Vec<Fault>),
    /// A controller is killed.
    KillController(usize),
    /// A controller is stopped (SIGSTOP), and does not notice.
    HangController(usize),
    /// RDS shows no instance of a region's cluster.
    Headless(String),
    /// RDS accepts failovers and switchovers, and gives them up.
    FailPromotion,
}

/// A server by its role at that moment, or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Whoever is the writer.
    Writer,
    /// The other one in the writer's region.
    Reader,
    /// `a1`, `a2`, `b1`, `b2`.
    Named(String),
}

impl TryFrom<String> for Breakage {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Breakage {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        const SHAPE: &str = "write `lose-region REGION`, `isolate VANTAGE`, `blindfold VANTAGE REGION`, `crash SERVER`, \
                             `hang SERVER`, `slow SERVER` (writer, reader, a1, a2, b1, b2), `lose-website REGION`, \
                             `cut-replication`, `slow-dns 300ms`, `aws FAULT …`, `kill-controller NUMBER`, \
                             `hang-controller NUMBER`, `headless REGION` or `fail-promotion`";
        let words: Vec<&str> = text.split_whitespace().collect();
        let region = |region: &str| -> Result<String> {
            ensure!(
                [PRIMARY, SECONDARY].contains(&region),
                "{region:?} has no databases; {PRIMARY} and {SECONDARY} do"
            );
            Ok(region.into())
        };
        let index = |number: &str| -> Result<usize> {
            let number: usize = number.parse().context(SHAPE)?;
            number.checked_sub(1).context("controllers are counted from 1")
        };
        let server = |server: &str| -> Result<Server> {
            Ok(match server {
                "writer" => Server::Writer,
                "reader" => Server::Reader,
                "a1" | "a2" | "b1" | "b2" => Server::Named(server.into()),
                other => bail!("{other:?} is no server; {SHAPE}"),
            })
        };
        Ok(match words[..] {
            ["lose-region", name] => Self::LoseRegion(region(name)?),
            ["isolate", vantage] => Self::Isolate(vantage.into()),
            ["blindfold", vantage, name] => Self::Blindfold(vantage.into(), region(name)?),
            ["crash", name] => Self::Crash(server(name)?),
            ["hang", name] => Self::Hang(server(name)?),
            ["slow", name] => Self::Slow(server(name)?),
            ["lose-website", name] => Self::LoseWebsite(region(name)?),
            ["cut-replication"] => Self::CutReplication,
            ["slow-dns", delay] => Self::SlowDns(humantime::parse_duration(delay).context(SHAPE)?),
            ["aws", ref faults @ ..] if !faults.is_empty() => {
                Self::Aws(faults.iter().map(|fault| fault.parse()).collect::<Result<_>>()?)
            }
            ["kill-controller", number] => Self::KillController(index(number)?),
            ["hang-controller", number] => Self::HangController(index(number)?),
            ["headless", name] => Self::Headless(region(name)?),
            ["fail-promotion"] => Self::FailPromotion,
            _ => bail!("{text:?} breaks nothing; {SHAPE}"),
        })
    }
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoseRegion(region) => write!(f, "{region} vanishes"),
            Self::Isolate(vantage) => write!(f, "vantage {vantage} reaches nothing"),
            Self::Blindfold(vantage, region) => write!(f, "vantage {vantage} does not reach {region}"),
            Self::Crash(server) => write!(f, "the host of {server} is lost"),
            Self::Hang(server) => write!(f, "{server} hangs"),
            Self::Slow(server) => write!(f, "{server} is slow"),
            Self::LoseWebsite(region) => write!(f, "the website of {region} does not answer"),
            Self::CutReplication => f.write_str("nothing is replicated between the regions"),
            Self::SlowDns(delay) => write!(f, "DNS answers {} ms later", delay.as_millis()),
            Self::Aws(faults) => {
                write!(f, "AWS: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Self::KillController(index) => write!(f, "controller {} is killed", index + 1),
            Self::HangController(index) => write!(f, "controller {} hangs", index + 1),
            Self::Headless(region) => write!(f, "the cluster in {region} has no instance"),
            Self::FailPromotion => f.write_str("RDS gives promotions up"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "the writer",
            Self::Reader => "the reader",
            Self::Named(name) => name,
        })
    }
}

impl From<Breakage> for String {
    /// As it is written.
    fn from(breakage: Breakage) -> Self {
        let server = |server: &Server| match server {
            Server::Writer => "writer".to_owned(),
            Server::Reader => "reader".to_owned(),
            Server::Named(name) => name.clone(),
        };
        match &breakage {
            Breakage::LoseRegion(region) => format!("lose-region {region}"),
            Breakage::Isolate(vantage) => format!("isolate {vantage}"),
            Breakage::Blindfold(vantage, region) => format!("blindfold {vantage} {region}"),
            Breakage::Crash(which) => format!("crash {}", server(which)),
            Breakage::Hang(which) => format!("hang {}", server(which)),
            Breakage::Slow(which) => format!("slow {}", server(which)),
            Breakage::LoseWebsite(region) => format!("lose-website {region}"),
            Breakage::CutReplication => "cut-replication".to_owned(),
            Breakage::SlowDns(delay) => format!("slow-dns {}ms", delay.as_millis()),
            Breakage::Aws(faults) => format!("aws {}", faults.iter().map(Fault::order).collect::<Vec<_>>().join(" ")),
            Breakage::KillController(index) => format!("kill-controller {}", index + 1),
            Breakage::HangController(index) => format!("hang-controller {}", index + 1),
            Breakage::Headless(region) => format!("headless {region}"),
            Breakage::FailPromotion => "fail-promotion".to_owned(),
        }
    }
}

impl Server {
    fn name<'a>(&'a self, stage: &Stage) -> &'a str {
        match self {
            Self::Writer => stage.topology.writer(),
            Self::Reader => stage.topology.reader(),
            Self::Named(name) => name,
        }
    }
}

impl Breakage {
    /// How it is once that is undone.
    #[must_use]
    pub fn healed(&self) -> String {
        match self {
            Self::LoseRegion(region) => format!("{region} is back"),
            Self::Isolate(vantage) => format!("vantage {vantage} is connected"),
            Self::Blindfold(vantage, region) => format!("vantage {vantage} reaches {region}"),
            Self::Crash(server) => format!("{server} runs again"),
            Self::Hang(server) => format!("{server} goes on"),
            Self::Slow(server) => format!("{server} is as fast as before"),
            Self::LoseWebsite(region) => format!("the website of {region} answers"),
            Self::CutReplication => "replication between the regions goes on".into(),
            Self::SlowDns(_) => "DNS answers at once".into(),
            Self::Aws(_) => "the calls of AWS go through".into(),
            Self::KillController(index) => format!("controller {} is started again", index + 1),
            Self::HangController(index) => format!("controller {} goes on", index + 1),
            Self::Headless(region) => format!("the cluster in {region} has its instances"),
            Self::FailPromotion => "RDS carries promotions out".into(),
        }
    }

    /// With the server that has the role now in the place of the role.
    #[must_use]
    pub fn named(&self, stage: &Stage) -> Self {
        let named = |server: &Server| Server::Named(server.name(stage).into());
        match self {
            Self::Crash(server) => Self::Crash(named(server)),
            Self::Hang(server) => Self::Hang(named(server)),
            Self::Slow(server) => Self::Slow(named(server)),
            other => other.clone(),
        }
    }

    /// Breaks it.
    ///
    /// # Errors
    /// When there is no such thing.
    pub async fn make(&self, stage: &mut Stage, seed: u64) -> Result<()> {
        match self {
            Self::LoseRegion(region) => stage.lose_region(region),
            Self::Isolate(vantage) => stage.isolate(vantage, true)?,
            Self::Blindfold(vantage, region) => stage.blindfold(vantage, region, true)?,
            Self::Crash(server) => stage.topology.crash(server.name(stage)).await?,
            Self::Hang(server) => stage.topology.hang(server.name(stage)).await?,
            Self::Slow(server) => stage.topology.slow(server.name(stage)).await?,
            Self::LoseWebsite(region) => stage.topology.lose_website(region),
            Self::CutReplication => stage.topology.cut_replication(),
            Self::SlowDns(delay) => stage.slow_dns(*delay),
            Self::Aws(faults) => stage.aws.set_faults(faults.clone(), seed),
            Self::KillController(index) => stage.kill_controller(*index).await?,
            Self::HangController(index) => stage.hang_controller(*index, true)?,
            Self::Headless(region) => stage.aws.set_headless(region, true),
            Self::FailPromotion => stage.aws.fail_promotions(true),
        }
        Ok(())
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub async fn undo(&self, stage: &mut Stage) -> Result<()> {
        match self {
            Self::LoseRegion(region) => stage.heal_region(region),
            Self::Isolate(vantage) => stage.isolate(vantage, false)?,
            Self::Blindfold(vantage, region) => stage.blindfold(vantage, region, false)?,
            // Who had the role may have lost it by the crash.
            Self::Crash(Server::Writer | Server::Reader) => stage.topology.revive(None).await?,
            Self::Crash(Server::Named(name)) => stage.topology.revive(Some(name)).await?,
            Self::Hang(server) => stage.topology.unhang(server.name(stage)).await?,
            Self::Slow(server) => stage.topology.unslow(server.name(stage)).await?,
            Self::LoseWebsite(region) => stage.topology.heal_website(region),
            Self::CutReplication => stage.topology.heal_replication(),
            Self::SlowDns(_) => stage.slow_dns(Duration::ZERO),
            Self::Aws(_) => stage.aws.set_faults(Vec::new(), 0),
            Self::KillController(index) => stage.start_controller(*index)?,
            Self::HangController(index) => stage.hang_controller(*index, false)?,
            Self::Headless(region) => stage.aws.set_headless(region, false),
            Self::FailPromotion => stage.aws.fail_promotions(false),
        }
        Ok(())
    }
}

/// What the record says, and what the application does. All that is given has to be so.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Condition {
    /// State of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Reason of the hold, as in `history`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Primary region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Too few vantages to judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<bool>,
    /// No healthy secondary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed: Option<bool>,
    /// A second writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_writer: Option<bool>,
    /// Stopped by an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Vantages that fail now, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_vantages: Option<usize>,
    /// A turn by this rule since the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// A probe of another kind than a write that a quorum of vantages sees fail, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_failing: Option<String>,
    /// The region that the public name leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_leads_to: Option<String>,
    /// RDS shows nothing that has yet to be resynchronized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resynchronized: Option<bool>,
    /// The other region's cluster has replayed what the writer wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_step: Option<bool>,
    /// The application's newest acknowledged write was made in this region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes_in: Option<String>,
}

impl Condition {
    /// Is it so? Answers what is not.
    ///
    /// # Errors
    /// When the record or the history cannot be read.
    pub async fn missing(&self, stage: &Stage, since: Duration) -> Result<Option<String>> {
        if let Some(region) = &self.writes_in {
            let by = stage.latest().borrow().map(|ack| ack.by);
            if !by.is_some_and(|by| is_in(by, region)) {
                return Ok(Some(format!("the application does not write in {region}")));
            }
        }
        if let Some(region) = &self.name_leads_to {
            let leads_to = stage.public_region();
            if leads_to != Some(region) {
                return Ok(Some(format!("the public name leads to {}", leads_to.unwrap_or("nowhere"))));
            }
        }
        let resynchronized = stage.aws.is_resynchronized();
        if self.resynchronized.is_some_and(|wanted| wanted != resynchronized) {
            return Ok(Some(format!("resynchronized is {resynchronized}")));
        }
        if let Some(wanted) = self.in_step {
            let is = stage.topology.is_in_step().await.unwrap_or(false);
            if is != wanted {
                return Ok(Some(format!("in-step is {is}")));
            }
        }
        let record = match stage.record().await {
            Ok(record) => record.context("there is no record")?,
            // A fault of the scenario, perhaps.
            Err(error) => return Ok(Some(format!("the record cannot be read: {error:#}"))),
        };
        let texts = [
            ("state", &self.state, record["state"]["name"].as_str().unwrap_or_default().to_owned()),
            ("hold", &self.hold, hold(&record)),
            ("primary", &self.primary, record["primary"].as_str().unwrap_or_default().to_owned()),
        ];
        for (name, wanted, is) in texts {
            if wanted.as_ref().is_some_and(|wanted| *wanted != is) {
                return Ok(Some(format!("{name} is {is:?}")));
            }
        }
        let flags = [
            ("blind", self.blind, record["blind"] == true),
            ("exposed", self.exposed, record["exposed"] == true),
            ("dual-writer", self.dual_writer, !record["dual-writer"].is_null()),
            ("paused", self.paused, !record["paused"].is_null()),
        ];
        for (name, wanted, is) in flags {
            if wanted.is_some_and(|wanted| wanted != is) {
                return Ok(Some(format!("{name} is {is}")));
            }
        }
        if let Some(wanted) = self.failing_vantages {
            let tracks = record["evidence"]["tracks"].as_object();
            let failing = |track: &&Value| track["failures"].as_array().is_some_and(|failures| !failures.is_empty());
            let failing = tracks.map_or(0, |tracks| tracks.values().filter(failing).count());
            if failing < wanted {
                return Ok(Some(format!("{failing} vantages fail")));
            }
        }
        if let Some(name) = &self.observed_failing {
            let sights = record["evidence"]["observed"][name].as_object();
            let failing = |sight: &&Value| !sight["failing-since"].is_null();
            let failing = sights.map_or(0, |sights| sights.values().filter(failing).count());
            if failing < QUORUM {
                return Ok(Some(format!("{name} fails for {failing} vantages")));
            }
        }
        if let Some(rule) = &self.rule {
            let after = |row: &&Value| row["at"].as_u64().is_some_and(|at| u128::from(at) + 1 >= since.as_millis());
            let rows = stage.history().await.unwrap_or_default();
            if !rows.iter().filter(after).any(|row| row["rule"] == rule.as_str()) {
                return Ok(Some(format!("no turn by the rule {rule}")));
            }
        }
        Ok(None)
    }
}

/// Is this server in the region?
#[must_use]
pub fn is_in(server: IpAddr, region: &str) -> bool {
    let own = if region == PRIMARY { 10 } else { 20 };
    matches!(server, IpAddr::V4(ip) if ip.octets()[1] == own)
}

/// Reason of the hold: a word, also where it is a guard's.
fn hold(record: &Value) -> String {
    let reason = &record["hold"]["reason"];
    let guard = reason["guard"].as_str();
    guard.or(reason.as_str()).unwrap_or_default().to_owned()
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let texts = [
            ("state", &self.state),
            ("hold", &self.hold),
            ("primary", &self.primary),
            ("a turn by", &self.rule),
            ("a quorum without", &self.observed_failing),
            ("the name leading to", &self.name_leads_to),
        ];
        parts.extend(texts.into_iter().filter_map(|(name, text)| Some(format!("{name} {}", text.as_ref()?))));
        let flags = [
            ("blind", self.blind),
            ("exposed", self.exposed),
            ("a second writer", self.dual_writer),
            ("paused", self.paused),
            ("in step", self.in_step),
            ("resynchronized", self.resynchronized),
        ];
        parts.extend(
            flags
                .into_iter()
                .filter_map(|(name, flag)| Some(if flag? { name.to_owned() } else { format!("not {name}") })),
        );
        parts.extend(self.failing_vantages.map(|count| format!("{count} failing vantages")));
        parts.extend(self.writes_in.as_ref().map(|region| format!("writes in {region}")));
        f.write_str(&parts.join(", "))
    }
}

/// What has to have come of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Expect {
    /// The states entered since the first step, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<String>>,
    /// `FailoverGlobalCluster` calls that were accepted.
    pub failover_calls: u64,
    /// `SwitchoverGlobalCluster` calls that were accepted.
    pub switchover_calls: u64,
    /// `FailoverDBCluster` calls that were accepted.
    pub in_region_calls: u64,
    /// Acknowledged writes that the last writer does not have, at most; none by default.
    pub lost_writes_max: u64,
    /// Longest time between two acknowledged writes.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub outage_max: Option<Duration>,
    /// Rules by which turns were made, among others.
    pub rules: Vec<String>,
}

/// Names and descriptions of all scenarios that come with the program.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut names: Vec<String> = SCENARIOS
        .files()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names.iter().map(|name| find(name).expect("a test reads them all")).collect()
}

/// A scenario that comes with the program, or a file.
///
/// # Errors
/// When there is none, or it says what cannot be.
pub fn find(name: &str) -> Result<Scenario> {
    let own = SCENARIOS.get_file(format!("{name}.toml")).and_then(|file| file.contents_utf8().map(str::to_owned));
    let text = match own {
        Some(text) => text,
        None if name.ends_with(".toml") => std::fs::read_to_string(name).with_context(|| format!("reading {name}"))?,
        None => bail!("there is no scenario {name:?}; `lab drill --list` names them, or give the path of a .toml file"),
    };
    let mut scenario: Scenario = toml::from_str(&text).with_context(|| format!("scenario {name}"))?;
    let stem = std::path::Path::new(name).file_stem().and_then(|stem| stem.to_str());
    scenario.name = stem.unwrap_or(name).to_owned();
    for step in &scenario.step {
        step.act().with_context(|| format!("scenario {name}"))?;
    }
    Ok(scenario)
}

/// The arguments of an operator's order.
///
/// # Errors
/// When a quotation mark is not closed.
pub fn order(command: &str) -> Result<Vec<String>> {
    let words = shlex::split(command).with_context(|| format!("{command:?} is not closed"))?;
    let fixed = ["--reason", "drill", "--on-behalf-of", "drill", "--yes", "--no-wait"].map(str::to_owned);
    Ok(["override".to_owned(), CLUSTER.to_owned()].into_iter().chain(words).chain(fixed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_program_can_be_read() {
        let all = all();
        assert!(!all.is_empty());
        for scenario in all {
            assert!(!scenario.about.is_empty() && !scenario.step.is_empty(), "{}", scenario.name);
            for step in &scenario.step {
                if let Act::Command(command, _) = step.act().expect("checked in find") {
                    order(command).expect("it can be split");
                }
            }
        }
    }

    #[test]
    fn a_scenario_is_written_as_it_is_read() {
        for scenario in all() {
            let text = toml::to_string(&scenario).expect("it can be written");
            let again: Scenario = toml::from_str(&text).expect("it can be read");
            assert_eq!(toml::to_string(&again).expect("it can be written"), text, "{}", scenario.name);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let wrong = [
            ("[[step]]\nfault = \"lose-region mars\"", "mars"),
            ("[[step]]\nfault = \"sink a1\"", "breaks nothing"),
            ("[[step]]\nwait = { mood = \"good\" }", "mood"),
            ("[[step]]\ncommand = \"pause\"\nheal = \"hang a1\"", "exactly one"),
            ("[[step]]\nwatch = { state = \"stable\" }", "belong together"),
            ("[[step]]\ntraffic = \"much\"", "is no traffic"),
            ("[[step]]\nfault = \"hang-controller 0\"", "counted from 1"),
        ];
        for (text, reason) in wrong {
            let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
            std::fs::write(file.path(), format!("about = \"wrong\"\n{text}\n")).expect("written");
            let error = format!("{:#}", find(file.path().to_str().expect("text")).expect_err(text));
            assert!(error.contains(reason), "{error}");
        }
    }
}
