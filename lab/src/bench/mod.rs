//! `aurora-failover lab bench …`: how fast it is, beside what cannot be beaten and what people would use instead, all
//! measured in one run. Figures are printed with the machine and its load: compare only within a run.

mod decide;
mod failover;
mod field;
mod fleet;
mod footprint;
mod noise;
mod process;

use crate::report;
use crate::stage::Profile;
use anyhow::Result;
use clap::Subcommand;
use comfy_table::Table;
use serde::Serialize;
use std::time::Duration;

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Client write outage when a region is lost and when the writer crashes, by policy, with the floor.
    Failover {
        /// Runs of each policy and fault, interleaved.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// Only these policies.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = Policy::ALL)]
        policy: Vec<Policy>,
        /// Only these faults.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = failover::Fault::ALL)]
        fault: Vec<failover::Fault>,
    },
    /// From the last confirming probe to the RDS request on the wire, and every later gap; beside a Python handler that
    /// does the same work.
    Decide {
        /// Failovers of each.
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        repeat: u32,
        /// A Python with boto3; without it only the controller is measured.
        #[arg(long, value_name = "FILE", env = "AURORA_FAILOVER_BENCH_PYTHON")]
        python: Option<std::path::PathBuf>,
    },
    /// How many clusters one controller holds, and whether 50 that fail at once delay each other.
    Fleet {
        /// Numbers of clusters.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 5_000], value_name = "N")]
        clusters: Vec<u32>,
        /// Pause between two probes of one vantage of one cluster.
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
        interval: Duration,
        /// How long each number is measured before the outage.
        #[arg(long = "for", default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
        length: Duration,
        /// Clusters that fail at once.
        #[arg(long, default_value_t = 50, value_name = "N")]
        failing: u32,
    },
    /// Size of the program, start to the first poll, memory of each process, AWS requests of a healthy cluster.
    Footprint {
        /// How long a healthy lab is watched.
        #[arg(long = "for", default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
        length: Duration,
    },
    /// A long noisy time without an outage: does the fastest policy fail over all the same?
    Noise {
        /// The policy.
        #[arg(long, value_enum, default_value_t = Policy::Fastest)]
        policy: Policy,
        /// How long.
        #[arg(long = "for", default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
        length: Duration,
    },
}

/// What differs between the measured policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// The product's default: probes every 10 s, confirmed after 30 s, TTL 5 s.
    Default,
    /// `--profile fast`: probes every 200 ms, confirmed after 400 ms, TTL 1 s.
    Fast,
    /// The same, with names that move after the promotion.
    FastAfterPromotion,
    /// The fastest that has a quorum and no false failover in `lab bench noise`: probes every 75 ms, confirmed after 150 ms.
    Fastest,
    /// The same, with names that move after the promotion.
    FastestAfterPromotion,
}

impl Policy {
    const ALL: [Self; 5] =
        [Self::Default, Self::Fast, Self::FastAfterPromotion, Self::Fastest, Self::FastestAfterPromotion];

    const fn profile(self) -> Profile {
        match self {
            Self::Default => Profile::Default,
            _ => Profile::Fast,
        }
    }

    /// Keys of `[canary]` that differ from the profile's.
    fn canary(self) -> toml::Table {
        match self {
            Self::Fastest | Self::FastestAfterPromotion => toml::toml! { interval = "75ms" timeout = "75ms" },
            _ => toml::Table::new(),
        }
    }

    /// Keys of `[cluster.policy]` that differ from the profile's.
    fn policy(self) -> toml::Table {
        match self {
            Self::Default | Self::Fast => toml::Table::new(),
            Self::FastAfterPromotion => toml::toml! { reroute = "after-promotion" },
            Self::Fastest => toml::toml! { confirm-after = "150ms" },
            Self::FastestAfterPromotion => toml::toml! { confirm-after = "150ms" reroute = "after-promotion" },
        }
    }

    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Carries a measurement out and prints it.
///
/// # Errors
/// When the lab does not work.
pub(crate) async fn run(bench: Bench, json: bool) -> Result<()> {
    let began = Machine::now();
    let (measured, text) = match bench {
        Bench::Failover { repeat, policy, fault } => both(failover::run(repeat, &policy, &fault).await?),
        Bench::Decide { repeat, python } => both(decide::run(repeat, python.as_deref()).await?),
        Bench::Fleet { clusters, interval, length, failing } => {
            both(fleet::run(&clusters, interval, length, failing).await?)
        }
        Bench::Footprint { length } => both(footprint::run(length).await?),
        Bench::Noise { policy, length } => both(noise::run(policy, length).await?),
    };
    let machine = Machine { load_after: Machine::now().load_before, ..began };
    if json {
        let all = serde_json::json!({ "machine": machine, "measured": measured });
        return report::show(&serde_json::to_string_pretty(&all)?);
    }
    report::show(&format!("\n{machine}\n\n{text}"))
}

/// For programs and for people.
fn both(measured: impl Serialize + Shown) -> (serde_json::Value, String) {
    (serde_json::to_value(&measured).unwrap_or_default(), measured.text())
}

/// A measurement for people.
trait Shown {
    fn text(&self) -> String;
}

/// Where it was measured.
#[derive(Debug, Serialize)]
struct Machine {
    date: String,
    version: &'static str,
    build: &'static str,
    cpu: String,
    cores: usize,
    kernel: String,
    load_before: String,
    load_after: String,
}

impl Machine {
    fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = || read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            cpu: model.map(|(_, model)| model.trim().to_owned()).unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load(),
            load_after: String::new(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { date, version, build, cpu, cores, kernel, load_before, load_after } = self;
        write!(
            f,
            "{date}, aurora-failover {version} ({build} build), {cores} cores of {cpu}, kernel {kernel}, load average \
             {load_before} before and {load_after} after"
        )
    }
}

/// Some measurements of one thing, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Spread {
    n: usize,
    min: f64,
    median: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted.get(((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1)).copied();
        let [min, median, p99, max] = [0.0, 0.5, 0.99, 1.0].map(|part| at(part).unwrap_or(f64::NAN));
        Self { n: sorted.len(), min, median, p99, max }
    }

    /// min, median, p99, max as cells.
    fn cells(&self) -> [String; 4] {
        let Self { min, median, p99, max, .. } = *self;
        [min, median, p99, max].map(number)
    }
}

/// A figure as a person reads it: with decimals where it is small.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".into(),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    }
}

/// A table whose columns from `right` on are numbers.
fn table(header: &[&str], right: usize) -> Table {
    let mut table = report::plain(header);
    report::align(&mut table, right..header.len());
    table
}

#[cfg(test)]
mod tests {
    use super::{Spread, number};

    #[test]
    fn a_spread_tells_the_middle_and_the_ends() {
        let spread = Spread::of((1..=100).map(f64::from));
        assert_eq!((spread.n, spread.min, spread.median, spread.p99, spread.max), (100, 1.0, 50.0, 99.0, 100.0));
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn small_figures_have_decimals() {
        assert_eq!([0.123, 9.99, 10.4, f64::NAN].map(number), ["0.12", "9.99", "10", "-"]);
    }
}
