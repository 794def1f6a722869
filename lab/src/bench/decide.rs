//! The controller's own share of a failover: from the last confirming probe to the RDS request on the wire, and each gap
//! after it. One cluster after the other; beside it, if there is a Python, a handler that does what the AWS sample's does.

use super::field::{Field, FieldOptions, VANTAGES, name};
use super::{Shown, Spread, table};
use crate::progress::Progress;
use crate::stage::{PRIMARY, SECONDARY};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

/// Detection takes no part in this: two vantages fail twice each, and that is enough.
const POLICY: &str = "failures-min = 2\nconfirm-after = \"100ms\"\nevent-age-max = \"5m\"\nvantage-stale-after = \"5m\"\n\
                      rpo-max = \"2h\"\nsoak = \"1h\"";
/// Between the two failures of a vantage.
const APART: Duration = Duration::from_millis(120);
/// Of the public name: until it is over no proof is asked for.
const TTL: Duration = Duration::from_secs(1);
/// Longest time for one failover.
const WITHIN: Duration = Duration::from_secs(20);
/// The handler's work, as a program that takes events from a queue.
const HANDLER: &str = include_str!("handler.py");

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    gaps: Vec<Gap>,
    notes: Vec<String>,
}

/// One gap of one of the systems.
#[derive(Debug, Serialize)]
struct Gap {
    system: &'static str,
    what: &'static str,
    spread: Spread,
}

pub(super) async fn run(repeat: u32, python: Option<&Path>) -> Result<Measured> {
    let mut gaps = Vec::new();
    for (system, reroute) in [("overlapped", "overlapped"), ("after-promotion", "after-promotion")] {
        gaps.extend(controller(repeat, system, reroute).await?);
    }
    let mut notes = vec![
        "the TTL of the public name, 1 s after DNS is in sync, is not in the last gap".to_owned(),
        "RDS takes 50 ms for a promotion, DNS 50 ms until it is in sync".to_owned(),
    ];
    match python {
        Some(python) => gaps.extend(handler(repeat, python).await?),
        None => notes.push("no Python: give one with boto3 by --python".into()),
    }
    Ok(Measured { gaps, notes })
}

async fn controller(repeat: u32, system: &'static str, reroute: &str) -> Result<Vec<Gap>> {
    let progress = Progress::new(&format!("decide, {system}: "));
    let policy = format!("{POLICY}\nreroute = \"{reroute}\"");
    let options = FieldOptions { clusters: repeat, policy, ttl: "1s", profile: "fast" };
    let field = Field::start(&options, &progress).await?;
    for _ in 0..2 {
        field.all_well();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (mut decide, mut reroute, mut stable) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..repeat {
        progress.step(&format!("{} of {repeat}", number + 1));
        let changes = field.calls("ChangeResourceRecordSets").len();
        let confirmed = fail(&field, number).await;
        let accepted = until(|| field.rds.accepted_at(&name(number))).await.context("no promotion was called")?;
        decide.push(ms(confirmed, accepted));
        let changed = || field.calls("ChangeResourceRecordSets").get(changes).map(|call| (call.at, call.elapsed));
        let (changed_at, _) = until(changed).await.context("no name was changed")?;
        let ready = if system == "overlapped" { accepted } else { accepted + field.rds.promotion() };
        reroute.push(ms(ready, changed_at));
        let cluster = name(number);
        let stable_at = until(|| entered(&field, &cluster, "stable")).await.context("it is never stable")?;
        let in_sync = field.calls("GetChange").last().map(|call| call.at).context("nobody asked for the change")?;
        let proven_from = (in_sync + TTL).max(accepted + field.rds.promotion());
        stable.push(ms(proven_from, stable_at));
    }
    field.stop().await;
    progress.done("measured");
    let second = if system == "overlapped" { "RDS accepted > DNS request" } else { "RDS done > DNS request" };
    let gap = |what, values: Vec<f64>| Gap { system, what, spread: Spread::of(values) };
    Ok(vec![
        gap("last confirming probe > RDS request", decide),
        gap(second, reroute),
        gap("TTL over and RDS done > stable", stable),
    ])
}

/// Makes one cluster fail; answers when the last confirming probe left.
async fn fail(field: &Field, number: u32) -> SystemTime {
    let failed = || {
        let failing = VANTAGES.iter().filter(|vantage| **vantage != PRIMARY);
        failing.map(|vantage| field.probe(number, vantage, PRIMARY, Some("timeout"))).collect::<Vec<Value>>()
    };
    field.publish(&failed());
    tokio::time::sleep(APART).await;
    let last = SystemTime::now();
    field.publish(&failed());
    last
}

/// When the controller's log tells of a cluster's state.
fn entered(field: &Field, cluster: &str, state: &str) -> Option<SystemTime> {
    let text = field.log_text();
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut told = lines.filter(|line| line["fields"]["message"] == "state changed" && line["fields"]["to"] == state);
    let line = told.find(|line| line["span"]["cluster"] == cluster)?;
    let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
    Some(at.into())
}

/// What the AWS sample does, warm: take the alarm, look, call; take the event of RDS, change the record.
async fn handler(repeat: u32, python: &Path) -> Result<Vec<Gap>> {
    let progress = Progress::new("decide, Python handler: ");
    let options = FieldOptions { clusters: repeat, policy: POLICY.into(), ttl: "1s", profile: "fast" };
    let mut field = Field::start(&options, &progress).await?;
    // The queue has another reader now.
    field.controller.kill().await?;
    let mut program = tokio::process::Command::new(python);
    program.args(["-c", HANDLER, "aurora-failover-events", &field.zone_id]).envs(field.environment());
    program.env("AWS_DEFAULT_REGION", SECONDARY); // boto3 knows no other name for it
    let mut program = program.stdin(Stdio::null()).kill_on_drop(true).spawn().context("starting Python")?;
    let (mut decide, mut reroute) = (Vec::new(), Vec::new());
    for number in 0..repeat {
        progress.step(&format!("{} of {repeat}", number + 1));
        if let Some(status) = program.try_wait()? {
            bail!("the Python handler ended ({status}); does this Python have boto3?");
        }
        let changes = field.calls("ChangeResourceRecordSets").len();
        let cluster = name(number);
        let tell = |event: &str| {
            // The rule of the bus lets probes through; what is in them is the handler's own business.
            let mut probe = field.probe(number, SECONDARY, PRIMARY, Some("timeout"));
            probe["handler"] = json!({ "event": event, "cluster": cluster });
            field.publish(&[probe]);
        };
        let alarm_at = SystemTime::now();
        tell("alarm");
        let accepted = until(|| field.rds.accepted_at(&cluster)).await.context("the handler made no call")?;
        decide.push(ms(alarm_at, accepted));
        tokio::time::sleep(field.rds.promotion()).await;
        let completed_at = SystemTime::now();
        tell("completed");
        let changed = || field.calls("ChangeResourceRecordSets").get(changes).map(|call| call.at);
        reroute.push(ms(completed_at, until(changed).await.context("the handler changed no name")?));
    }
    program.kill().await?;
    field.stop().await;
    progress.done("measured");
    let gap = |what, values: Vec<f64>| Gap { system: "Python handler", what, spread: Spread::of(values) };
    Ok(vec![gap("alarm's event > RDS request", decide), gap("RDS' event > DNS request", reroute)])
}

/// Looks until there is something, for a bounded time.
async fn until<T>(look: impl Fn() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < WITHIN, "not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn ms(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

impl Shown for Measured {
    fn text(&self) -> String {
        let mut rows = table(&["system", "gap", "n", "min", "median", "p99", "max"], 2);
        for gap in &self.gaps {
            let mut cells = vec![gap.system.to_owned(), gap.what.to_owned(), gap.spread.n.to_string()];
            cells.extend(gap.spread.cells());
            rows.add_row(cells);
        }
        format!("Times in ms\n{rows}\n\n{}", self.notes.join("\n"))
    }
}
