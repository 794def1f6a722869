//! What clients see when a region is lost or the writer crashes, by policy, beside the time that PostgreSQL itself takes.

use super::{Policy, Shown, Spread, table};
use crate::drill::{self, DrillOptions, DrillResult};
use crate::in_region;
use crate::scenario;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The primary region vanishes: packets are dropped.
    RegionLoss,
    /// The writer's host is lost, and RDS replaces it inside the region.
    WriterCrash,
}

impl Fault {
    pub(super) const ALL: [Self; 2] = [Self::RegionLoss, Self::WriterCrash];

    const fn scenario(self) -> &'static str {
        match self {
            Self::RegionLoss => "region-loss",
            Self::WriterCrash => "writer-crash",
        }
    }
}

/// Clients of the planned failovers inside the region.
const CLIENTS: usize = 8;

/// All rows, with what was planned beside them.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    rows: Vec<Row>,
    /// From the call that RDS accepted to a server that takes writes: nobody can be faster than this and the detection.
    floor: Spread,
    planned: Vec<in_region::Seen>,
}

/// One policy and fault.
#[derive(Debug, Serialize)]
struct Row {
    policy: Policy,
    fault: Fault,
    /// Last acknowledged write before to the first after, in milliseconds.
    outage: Spread,
    /// Medians of where it went, in milliseconds.
    phases: BTreeMap<&'static str, f64>,
    /// Detection and promotion taken away, what is left that is the controller's: median, in milliseconds.
    overhead: f64,
    lost_writes: u64,
    /// Runs that did not end as they should.
    failed: Vec<String>,
}

pub(super) async fn run(repeat: u32, policies: &[Policy], faults: &[Fault]) -> Result<Measured> {
    let cases: Vec<(Policy, Fault)> =
        policies.iter().flat_map(|policy| faults.iter().map(move |fault| (*policy, *fault))).collect();
    let mut results: Vec<Vec<DrillResult>> = cases.iter().map(|_| Vec::new()).collect();
    let mut floor = Vec::new();
    // One run of each after the other: whatever else the machine does happens to all of them.
    for run in 1..=repeat {
        for ((policy, fault), results) in cases.iter().zip(&mut results) {
            let headline = format!("{} {} {run}/{repeat}: ", policy.name(), fault.scenario());
            let (result, promotions) = once(*policy, *fault, &headline).await?;
            floor.extend(promotions);
            results.push(result);
        }
    }
    let planned = in_region::run(CLIENTS).await?;
    let rows = cases.iter().zip(results).map(|((policy, fault), results)| row(*policy, *fault, &results)).collect();
    Ok(Measured { rows, floor: Spread::of(floor), planned })
}

/// One drill, and how long each promotion took in PostgreSQL.
async fn once(policy: Policy, fault: Fault, headline: &str) -> Result<(DrillResult, Vec<f64>)> {
    let mut scenario = scenario::find(fault.scenario())?;
    scenario.stage.profile = Some(policy.profile());
    scenario.stage.canary = policy.canary();
    scenario.stage.policy.extend(policy.policy());
    let options = DrillOptions { profile: policy.profile(), seed: rand::random(), ..DrillOptions::default() };
    let (result, stage) = drill::run(&scenario, &options, headline).await?;
    let promotions = stage.topology.promotions().into_iter().map(|took| took.as_secs_f64() * 1000.0).collect();
    stage.stop().await;
    Ok((result, promotions))
}

fn row(policy: Policy, fault: Fault, results: &[DrillResult]) -> Row {
    let outage = |result: &DrillResult| result.outage_ms.unwrap_or(result.longest_gap_ms) as f64;
    let mut phases: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for phase in results.iter().flat_map(|result| &result.phases) {
        phases.entry(phase.name).or_default().push(phase.ms as f64);
    }
    let own = |result: &DrillResult| {
        let own = result.phases.iter().filter(|phase| matches!(phase.name, "decide" | "reroute"));
        own.map(|phase| phase.ms as f64).sum::<f64>()
    };
    let failed = results.iter().filter(|result| !result.passed());
    Row {
        policy,
        fault,
        outage: Spread::of(results.iter().map(outage)),
        phases: phases.into_iter().map(|(name, ms)| (name, Spread::of(ms).median)).collect(),
        overhead: Spread::of(results.iter().map(own)).median,
        lost_writes: results.iter().filter_map(|result| result.lost_writes).sum(),
        failed: failed.map(|result| result.problems.join("; ")).collect(),
    }
}

impl Shown for Measured {
    fn text(&self) -> String {
        let parts = ["before the fault", "detect", "decide", "promote", "reroute", "client"];
        let header = ["policy", "fault", "n", "min", "median", "p99", "max"];
        let mut outages = table(&[&header[..], &parts, &["lost", "failed"]].concat(), 2);
        for row in &self.rows {
            let mut cells = vec![row.policy.name(), row.fault.scenario().to_owned(), row.outage.n.to_string()];
            cells.extend(row.outage.cells());
            cells.extend(parts.map(|part| row.phases.get(part).map_or_else(|| "-".into(), |ms| format!("{ms:.0}"))));
            cells.extend([row.lost_writes.to_string(), row.failed.len().to_string()]);
            outages.add_row(cells);
        }
        let [min, median, p99, max] = self.floor.cells();
        let mut text = format!(
            "Client write outage, in ms (min to max), and where it went (medians)\n{outages}\n\nFloor, a promotion in \
             PostgreSQL alone, n={}: min {min}, median {median}, p99 {p99}, max {max} ms\n\nPlanned, and a crash, inside \
             the region\n{}",
            self.floor.n,
            in_region::text(&self.planned)
        );
        for row in &self.rows {
            for problem in &row.failed {
                text.push_str(&format!("\n{} {}: {problem}", row.policy.name(), row.fault.scenario()));
            }
        }
        text
    }
}
