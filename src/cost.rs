//! What a healthy month costs, from the configuration, with the arithmetic.
//!
//! Counted is what grows with the configuration: events, queue requests, table writes and storage, metrics asked for, and
//! the processes on Fargate. Not counted: the databases, traffic between regions, logs, and what a failover adds, which is
//! a few hundred writes.

use crate::config::{ClusterSettings, Settings};
use crate::controller::LEASE_DEFAULT_MS;
use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statemachine::{Record, Timestamp};
use std::collections::BTreeMap;

/// The prices that come with the program.
const PRICES: &str = include_str!("prices.toml");

/// A month: 30 days, in seconds.
const MONTH_S: f64 = 30.0 * 86_400.0;

/// What one vantage's evidence adds to a record, in bytes; measured on the recorded failover of the tests.
const EVIDENCE_BYTES: usize = 300;

/// A row of a quiet minute, in bytes; measured there too.
const QUIET_ROW_BYTES: usize = 1_800;

/// Copies of a history row: the table and its two indexes.
const ROW_COPIES: usize = 3;

/// A long poll that finds nothing, in seconds.
const POLL_S: f64 = 20.0;

/// A process: a quarter of a vCPU and half a GB, the least that Fargate has.
const PROCESS: (f64, f64) = (0.25, 0.5);

/// Prices by item.
#[derive(Debug, Deserialize)]
pub struct Prices {
    /// Where they are of.
    pub region: String,
    #[serde(flatten)]
    items: BTreeMap<String, Price>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    unit: String,
    usd: f64,
    source: String,
    date: Option<String>,
}

impl Prices {
    /// Reads a file of prices.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("the prices cannot be read")
    }

    /// Those that come with the program.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse(PRICES).expect("they are tested")
    }
}

/// One item of the bill.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    /// Which price.
    pub item: &'static str,
    /// What it is for.
    pub what: String,
    /// How the quantity comes about.
    pub arithmetic: String,
    /// How many a month, in the unit of the price.
    pub quantity: f64,
    /// The unit of the price; none without a price.
    pub unit: Option<String>,
    /// US dollars per unit; none when there is no price.
    pub unit_usd: Option<f64>,
    /// US dollars a month; none when there is no price.
    pub usd: Option<f64>,
    /// Where the price is from, and of when.
    pub source: Option<String>,
}

/// What a healthy month costs.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Bill {
    /// Region of the prices.
    pub region: String,
    /// Region of the controller, its table, buses and queues; prices differ by region.
    pub configured_region: String,
    /// Items.
    pub lines: Vec<Line>,
    /// Sum of those that have a price, in US dollars.
    pub usd: f64,
    /// Items without a price.
    pub unpriced: usize,
}

/// The bill of a configuration, with so many controllers.
#[must_use]
pub fn bill(settings: &Settings, prices: &Prices, controllers: u32) -> Bill {
    let mut lines = Vec::new();
    let mut add = |item: &'static str, per: f64, what: String, arithmetic: String, count: f64| {
        let price = prices.items.get(item);
        let quantity = count / per;
        lines.push(Line {
            item,
            what,
            arithmetic,
            quantity,
            unit: price.map(|price| price.unit.clone()),
            unit_usd: price.map(|price| price.usd),
            usd: price.map(|price| price.usd * quantity),
            source: price.map(|price| match &price.date {
                Some(date) => format!("{} ({date})", price.source),
                None => price.source.clone(),
            }),
        });
    };
    let (mut events, mut metrics) = (0.0, 0.0);
    let (mut events_told, mut writes_told, mut metrics_told) = (Vec::new(), Vec::new(), Vec::new());
    let (mut writes, mut row_bytes) = (0.0, 0.0);
    for cluster in &settings.clusters {
        events += events_of(cluster, settings);
        metrics += metrics_of(cluster, settings);
        let heartbeats = MONTH_S * 1000.0 / cluster.config.policy.heartbeat_ms as f64;
        let item = item_bytes(cluster);
        events_told.push(events_arithmetic(cluster, settings));
        writes_told.push(format!(
            "{heartbeats:.0} heartbeats × (record {:.0} KB + row {:.0} KB × {ROW_COPIES})",
            kb(item),
            kb(QUIET_ROW_BYTES)
        ));
        metrics_told.push(format!(
            "{} vantages × {} members × {MONTH_S:.0} s / {} s",
            cluster.config.policy.vantages.len(),
            cluster.config.members.len(),
            settings.canary.lag_every.map_or(0, |every| every.as_secs()),
        ));
        writes += heartbeats * (kb(item) + kb(QUIET_ROW_BYTES) * ROW_COPIES as f64);
        row_bytes += heartbeats * (QUIET_ROW_BYTES * ROW_COPIES) as f64;
    }
    let vantages = settings.clusters.iter().map(|cluster| cluster.config.policy.vantages.len()).max().unwrap_or(0);
    add("eventbridge-events", 1e6, "results that the vantages publish".into(), sum(&events_told), events);
    let idle = MONTH_S / POLL_S;
    add(
        "sqs-requests",
        1e6,
        "sending, receiving and deleting them, at most; polls that find nothing".into(),
        format!("3 × {events:.0} + {idle:.0}"),
        3.0 * events + idle,
    );
    add(
        "dynamodb-writes",
        1e6,
        "a record and a row per cluster and heartbeat; none per healthy probe".into(),
        sum(&writes_told),
        writes,
    );
    let lease_s = LEASE_DEFAULT_MS as f64 / 4000.0;
    add(
        "dynamodb-writes",
        1e6,
        "leases".into(),
        format!("{controllers} × {MONTH_S:.0} s / {lease_s} s"),
        f64::from(controllers) * MONTH_S / lease_s,
    );
    let months = settings.retention.map_or(12.0, |kept| kept.as_secs_f64() / MONTH_S);
    let kept = if settings.retention.is_some() { "retention" } else { "a year, as nothing expires" };
    add(
        "dynamodb-storage",
        1e9,
        format!("history rows, kept for {months:.0} months ({kept})"),
        format!("{row_bytes:.0} bytes a month × {months:.1}"),
        row_bytes * months,
    );
    if metrics > 0.0 {
        add("cloudwatch-metrics", 1e3, "replication lag asked of CloudWatch".into(), sum(&metrics_told), metrics);
    }
    let processes = f64::from(controllers) + vantages as f64;
    let hours = processes * MONTH_S / 3600.0;
    let (cpus, memory_gb) = PROCESS;
    add("fargate-cpu", 1.0, format!("{processes} processes"), format!("{hours:.0} hours × {cpus} vCPU"), hours * cpus);
    add(
        "fargate-memory",
        1.0,
        format!("{processes} processes"),
        format!("{hours:.0} hours × {memory_gb} GB"),
        hours * memory_gb,
    );
    let usd = lines.iter().filter_map(|line| line.usd).sum();
    let unpriced = lines.iter().filter(|line| line.usd.is_none()).count();
    let configured_region = settings.region.to_string();
    Bill { region: prices.region.clone(), configured_region, lines, usd, unpriced }
}

/// Sums of more clusters are told in brief.
const CLUSTERS_TOLD: usize = 3;

/// The arithmetic of each cluster, added; of many only the first ones.
fn sum(told: &[String]) -> String {
    let shown = told.iter().take(CLUSTERS_TOLD).cloned().collect::<Vec<_>>().join(" + ");
    match told.len().saturating_sub(CLUSTERS_TOLD) {
        0 => shown,
        more => format!("{shown} + the same for {more} more"),
    }
}

/// How [`events_of`] comes about, with its numbers.
fn events_arithmetic(cluster: &ClusterSettings, settings: &Settings) -> String {
    let rhythms = cluster.targets.iter().map(|target| target.rhythm);
    let rhythms = rhythms.chain(cluster.probes.iter().map(|probe| probe.rhythm));
    // Targets and probes by their mean pause.
    let mut pauses: BTreeMap<u128, usize> = BTreeMap::new();
    for rhythm in rhythms {
        *pauses.entry((rhythm.interval + rhythm.jitter / 2).as_millis()).or_default() += 1;
    }
    let rates = pauses.iter().map(|(ms, count)| format!("{count} / {} s", *ms as f64 / 1000.0));
    let lag =
        settings.canary.lag_every.map(|every| format!("{} / {} s", cluster.config.members.len(), every.as_secs()));
    let rates = rates.chain(lag).collect::<Vec<_>>().join(" + ");
    format!("{} vantages × ({rates}) × {MONTH_S:.0} s", cluster.config.policy.vantages.len())
}

/// Results that the vantages publish in a month.
fn events_of(cluster: &ClusterSettings, settings: &Settings) -> f64 {
    let vantages = cluster.config.policy.vantages.len() as f64;
    let members = cluster.targets.iter().map(|target| target.rhythm);
    let probes = cluster.probes.iter().map(|probe| probe.rhythm);
    let once: f64 = members
        .chain(probes)
        // A jitter is half of its most on average.
        .map(|rhythm| MONTH_S / (rhythm.interval.as_secs_f64() + rhythm.jitter.as_secs_f64() / 2.0))
        .sum();
    vantages * once + metrics_of(cluster, settings)
}

/// Metrics that the vantages ask for in a month.
fn metrics_of(cluster: &ClusterSettings, settings: &Settings) -> f64 {
    let vantages = cluster.config.policy.vantages.len() as f64;
    let members = cluster.config.members.len() as f64;
    settings.canary.lag_every.map_or(0.0, |every| vantages * members * MONTH_S / every.as_secs_f64())
}

/// The stored item of a healthy cluster.
fn item_bytes(cluster: &ClusterSettings) -> usize {
    let record = Record::new(cluster.id.clone(), cluster.config.clone(), cluster.mode, Timestamp(0));
    let record = serde_json::to_string(&record).expect("a record is plain data").len();
    record + cluster.config.policy.vantages.len() * EVIDENCE_BYTES + QUIET_ROW_BYTES
}

/// DynamoDB counts writes by whole kilobytes.
fn kb(bytes: usize) -> f64 {
    bytes.div_ceil(1024) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_bill_is_the_sum_of_its_lines_and_grows_with_what_is_configured() {
        let example = include_str!("../aurora-failover.example.toml");
        let of = |text: &str| bill(&config::parse(text, "example", |_| None).expect("valid"), &Prices::built_in(), 2);
        let one = of(example);
        let sum: f64 = one.lines.iter().filter_map(|line| line.usd).sum();
        assert!((one.usd - sum).abs() < 1e-9 && one.usd > 1.0);
        // 3 vantages × 2 members, each 10 s, and the lag of 2 members each minute.
        let month_s = 30.0 * 86_400.0;
        let events = 3.0 * 2.0 * month_s / 10.0 + 3.0 * 2.0 * month_s / 60.0;
        assert!((one.lines[0].quantity - events / 1e6).abs() < 1e-9, "{:?}", one.lines[0]);
        let eager = of(&example.replace("# interval = \"10s\"", "interval = \"5s\""));
        assert!(eager.lines[0].quantity > one.lines[0].quantity * 1.8);
        assert_eq!(one.lines[0].arithmetic, "3 vantages × (2 / 10 s + 2 / 60 s) × 2592000 s");
        assert_eq!((one.region.as_str(), one.configured_region.as_str()), ("us-east-1", "us-west-2"));
    }
}
