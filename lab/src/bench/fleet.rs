//! One controller and many clusters: what a healthy fleet costs it, and whether those that fail at once delay each other.

use super::field::{Field, FieldOptions, VANTAGES, name};
use super::{Shown, Spread, number, process, table};
use crate::progress::Progress;
use crate::stage::{PRIMARY, SECONDARY};
use anyhow::Result;
use axum::body::{Body, to_bytes};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// Pause between two portions of probes.
const SLICE: Duration = Duration::from_millis(100);
/// Longest time from the beginning until the controller has taken what came at once.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);
/// Share of what was published that it then has taken.
const TAKEN: f64 = 0.998;
/// Longest time from the outage until every failing cluster is promoted.
const PROMOTED_WITHIN: Duration = Duration::from_secs(120);
const METRICS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The product's default policy, but for the probes' interval.
const POLICY: &str = "quorum = 2";

/// One size of the fleet.
#[derive(Debug, Serialize)]
struct Row {
    clusters: u32,
    probes_per_s: f64,
    /// From the start of the process to its first poll.
    start_ms: f64,
    /// Bounds of the histogram's bucket that the 99th of a hundred turns falls in, in milliseconds.
    turn_p99_ms: [f64; 2],
    turns: u64,
    /// Share of one core.
    cpu_percent: f64,
    rss_kib: u64,
    /// Beyond the smallest fleet of this run, per cluster.
    rss_per_cluster_kib: f64,
    /// Conditional writes of the table while all was well.
    writes: u64,
    failing: u32,
    /// From a cluster's last confirming probe to the RDS request, over those that failed at once.
    promotion: Spread,
    /// Failovers of clusters that were well.
    false_failovers: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    interval_s: f64,
    rows: Vec<Row>,
}

pub(super) async fn run(sizes: &[u32], interval: Duration, length: Duration, failing: u32) -> Result<Measured> {
    let mut rows: Vec<Row> = Vec::new();
    for clusters in sizes {
        let mut row = once(*clusters, interval, length, failing.min(*clusters)).await?;
        if let Some(first) = rows.first() {
            let more = f64::from(row.clusters.saturating_sub(first.clusters)).max(1.0);
            row.rss_per_cluster_kib = row.rss_kib.saturating_sub(first.rss_kib) as f64 / more;
        }
        rows.push(row);
    }
    Ok(Measured { interval_s: interval.as_secs_f64(), rows })
}

async fn once(clusters: u32, interval: Duration, length: Duration, failing: u32) -> Result<Row> {
    let progress = Progress::new(&format!("fleet of {clusters}: "));
    let options = FieldOptions { clusters, policy: POLICY.into(), ttl: "5s", profile: "default" };
    let field = Field::start(&options, &progress).await?;
    let pid = field.controller.id().unwrap_or_default();
    progress.step("every cluster is seen for the first time");
    field.all_well();
    let mut load = Load { field: &field, interval, down: BTreeSet::new(), next: 0, confirming: Vec::new() };
    load.run(interval * 2, |_| false).await;
    progress.step("all that was new about them is stored");
    let began = Instant::now();
    while (turns(field.metrics).await?.count() as f64) < field.published() as f64 * TAKEN
        && began.elapsed() < DRAINED_WITHIN
    {
        load.run(SLICE * 10, |_| false).await;
    }

    let (cpu, before, counted) = (process::cpu(pid), Instant::now(), turns(field.metrics).await?);
    let writes = field.calls("PutItem").len();
    progress.step(&format!("measuring for {}", humantime::format_duration(length)));
    load.run(length, |_| false).await;
    let took = before.elapsed();
    let cpu_percent = (process::cpu(pid) - cpu).as_secs_f64() / took.as_secs_f64() * 100.0;
    let histogram = turns(field.metrics).await?.since(&counted);
    let writes = field.calls("PutItem").len() - writes;
    let rss_kib = process::rss_kib(pid);

    progress.step(&format!("{failing} clusters fail at once"));
    load.down = (0..failing).map(|number| number * (clusters / failing.max(1)).max(1)).collect();
    let down = load.down.clone();
    load.run(PROMOTED_WITHIN, |field| down.iter().all(|number| field.rds.accepted_at(&name(*number)).is_some())).await;
    let promoted = down.iter().filter_map(|number| Some((*number, field.rds.accepted_at(&name(*number))?)));
    let waited: Vec<f64> = promoted.filter_map(|(number, at)| load.waited_ms(number, at)).collect();
    let row = Row {
        clusters,
        probes_per_s: f64::from(clusters) * VANTAGES.len() as f64 / interval.as_secs_f64(),
        start_ms: field.started_in.as_secs_f64() * 1000.0,
        turn_p99_ms: histogram.p99_ms(),
        turns: histogram.count(),
        cpu_percent,
        rss_kib,
        rss_per_cluster_kib: f64::NAN,
        writes: writes as u64,
        failing,
        promotion: Spread::of(waited),
        false_failovers: field.rds.accepted().saturating_sub(down.len()),
    };
    progress.done(&format!("{} of {failing} promoted", row.promotion.n));
    field.stop().await;
    Ok(row)
}

/// Probes of a fleet, spread evenly over the interval.
struct Load<'a> {
    field: &'a Field,
    interval: Duration,
    down: BTreeSet<u32>,
    /// Clusters times vantages are a ring; where in it the next probe is.
    next: u64,
    /// When failing probes left.
    confirming: Vec<(u32, SystemTime)>,
}

impl Load<'_> {
    /// Until the time is over, or `done`.
    async fn run(&mut self, length: Duration, done: impl Fn(&Field) -> bool) {
        let ring = self.field.clusters() * VANTAGES.len() as u64;
        let mut ticks = tokio::time::interval(SLICE);
        let (began, first) = (Instant::now(), self.next);
        while began.elapsed() < length && !done(self.field) {
            ticks.tick().await;
            let due = first + (began.elapsed().as_secs_f64() / self.interval.as_secs_f64() * ring as f64) as u64;
            let mut probes = Vec::new();
            while self.next < due {
                let cluster = (self.next % self.field.clusters()) as u32;
                let vantage = VANTAGES[(self.next / self.field.clusters() % VANTAGES.len() as u64) as usize];
                self.next += 1;
                let down = self.down.contains(&cluster);
                // The vantage in the primary's region is gone with it.
                if down && vantage == PRIMARY {
                    continue;
                }
                probes.push(self.field.probe(cluster, vantage, PRIMARY, down.then_some("timeout")));
                if vantage == SECONDARY {
                    probes.push(self.field.probe(cluster, vantage, SECONDARY, Some("read-only")));
                }
                if down {
                    self.confirming.push((cluster, SystemTime::now()));
                }
            }
            self.field.publish(&probes);
        }
    }

    /// From the last failing probe that left before the RDS request.
    fn waited_ms(&self, cluster: u32, accepted: SystemTime) -> Option<f64> {
        let before = self.confirming.iter().filter(|(number, at)| *number == cluster && *at <= accepted);
        let last = before.map(|(_, at)| *at).max()?;
        Some(accepted.duration_since(last).ok()?.as_secs_f64() * 1000.0)
    }
}

/// A histogram as Prometheus has it: upper bounds in seconds, cumulative.
#[derive(Debug, Clone, Default)]
struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn since(&self, before: &Self) -> Self {
        let of = |bound: f64| before.0.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - of(*bound))).collect())
    }

    fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count as u64)
    }

    /// Between which bounds, in milliseconds, the 99th of a hundred lies.
    fn p99_ms(&self) -> [f64; 2] {
        let wanted = self.count() as f64 * 0.99;
        let mut lower = 0.0;
        for (bound, count) in &self.0 {
            if *count >= wanted {
                return [lower * 1000.0, bound * 1000.0];
            }
            lower = *bound;
        }
        [f64::NAN; 2]
    }
}

/// `aurora_failover_turn_seconds` of a controller.
async fn turns(address: SocketAddr) -> Result<Histogram> {
    let client: HttpClient<HttpConnector, Body> = HttpClient::builder(TokioExecutor::new()).build_http();
    let answer = client.get(format!("http://{address}/metrics").parse()?).await?;
    let text = String::from_utf8(to_bytes(Body::new(answer.into_body()), METRICS_BYTES_MAX).await?.to_vec())?;
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix("aurora_failover_turn_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, count.parse().ok()?))
    };
    Ok(Histogram(text.lines().filter_map(bucket).collect()))
}

impl Shown for Measured {
    fn text(&self) -> String {
        let header = [
            "clusters",
            "probes/s",
            "first poll ms",
            "turn p99 ms",
            "turns",
            "CPU %",
            "RSS MiB",
            "KiB/cluster",
            "writes",
            "failing",
            "promoted",
            "min ms",
            "median ms",
            "p99 ms",
            "max ms",
            "false",
        ];
        let mut rows = table(&header, 0);
        for row in &self.rows {
            let mut cells = vec![
                row.clusters.to_string(),
                number(row.probes_per_s),
                number(row.start_ms),
                format!("{:.0}-{:.0}", row.turn_p99_ms[0], row.turn_p99_ms[1]),
                row.turns.to_string(),
                number(row.cpu_percent),
                format!("{:.1}", row.rss_kib as f64 / 1024.0),
                number(row.rss_per_cluster_kib),
                row.writes.to_string(),
                row.failing.to_string(),
                row.promotion.n.to_string(),
            ];
            cells.extend(row.promotion.cells());
            cells.push(row.false_failovers.to_string());
            rows.add_row(cells);
        }
        format!(
            "One controller, three vantages per cluster, a probe each {} s; from the last confirming probe to the RDS \
             request\n{rows}",
            self.interval_s
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn the_bucket_of_the_99th_of_a_hundred_is_found() {
        let histogram = Histogram(vec![(0.005, 980.0), (0.01, 995.0), (f64::INFINITY, 1000.0)]);
        assert_eq!((histogram.count(), histogram.p99_ms()), (1000, [5.0, 10.0]));
        let later = Histogram(vec![(0.005, 990.0), (0.01, 1095.0), (f64::INFINITY, 1100.0)]);
        assert_eq!(later.since(&histogram).count(), 100);
    }
}
