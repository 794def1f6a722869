//! What the service says of itself while it runs: metrics for Prometheus and CloudWatch, and whether it is well.
//!
//! | metric | labels | what it is |
//! |---|---|---|
//! | `aurora_failover_state` | cluster, state | 1 for the state that the record is in, 0 for the others |
//! | `aurora_failover_epoch` | cluster | changes of primary so far |
//! | `aurora_failover_blind` `_exposed` `_dual_writer` `_limit_latched` | cluster | 1 while it is so |
//! | `aurora_failover_hold` | cluster, reason | 1 while it holds for that reason |
//! | `aurora_failover_paused_seconds` | cluster | until the pause ends; 0 without one |
//! | `aurora_failover_evidence_age_seconds` | cluster, vantage | since the vantage was last heard |
//! | `aurora_failover_event_age_seconds` | event | from an event to its turn: queue lag and decision |
//! | `aurora_failover_turn_seconds` | | from a message's arrival here to the end of its turn |
//! | `aurora_failover_turns_total` | cluster, rule | turns that were stored |
//! | `aurora_failover_conflicts_total` | cluster | turns that another controller made first |
//! | `aurora_failover_turn_errors_total` | cluster | turns that were not made |
//! | `aurora_failover_effect_seconds` | effect, outcome | one try of an effect |
//! | `aurora_failover_messages_refused_total` | reason | messages that cannot be used |
//! | `aurora_failover_inbox_full_total` | cluster | messages left in the queue because a cluster does not keep up |
//! | `aurora_failover_tasks` | | living tasks of the runtime, at `/metrics` only |
//! | `aurora_failover_listening` | | 1 while this controller holds the lease |
//! | `aurora_failover_vantage_restarts_total` | | times that the vantage of this process ended by itself and began anew |

use crate::store::HistoryRow;
use anyhow::{Context as _, Result, anyhow};
use axum::http::StatusCode;
use axum::routing::get;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use statemachine::{ClusterId, Outcome, Record, Timestamp};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Bounds of the histograms, in seconds.
const BUCKETS_S: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Pause between two clean-ups of the histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Pause between two lines of metrics for CloudWatch.
const EMF_EVERY: Duration = Duration::from_secs(60);

/// The store must have answered within this time for the service to be ready.
const READY_WITHIN_MS: u64 = 90_000;

/// All states, so that a gauge can be set for each.
const STATES: [&str; 6] = ["healthy", "suspect", "confirmed-down", "promoting", "rerouting", "stable"];

/// Is the service well? Shared by the controller, which knows, and the endpoint, which is asked.
#[derive(Debug, Default)]
pub struct Health {
    listening: AtomicBool,
    store_answered_at: AtomicU64,
    /// What it cannot begin without, if that is not there.
    missing: Mutex<Option<String>>,
}

impl Health {
    /// This controller holds the lease, or not any more.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
        gauge!("aurora_failover_listening").set(f64::from(u8::from(listening)));
    }

    /// Does this controller listen?
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// It cannot begin, because of this; or can, now.
    ///
    /// # Panics
    /// Never: nothing panics while it is held.
    pub fn set_missing(&self, missing: Option<String>) {
        *self.missing.lock().expect("no panic while it is held") = missing;
    }

    /// The store answered.
    pub fn store_answered(&self, at: Timestamp) {
        self.store_answered_at.store(at.0, Ordering::Relaxed);
    }

    /// Ready means that the store answered lately: whether this controller listens or another one does.
    fn readiness(&self, now: Timestamp) -> (StatusCode, String) {
        if let Some(missing) = &*self.missing.lock().expect("no panic while it is held") {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}; nothing is decided\n"));
        }
        let ago_ms = now.since_ms(Timestamp(self.store_answered_at.load(Ordering::Relaxed)));
        if ago_ms > READY_WITHIN_MS {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: the store has not answered for {} s; nothing is decided\n", ago_ms / 1000),
            );
        }
        let role = if self.listening.load(Ordering::Relaxed) { "listening" } else { "waiting for the lease" };
        (StatusCode::OK, format!("ready: {role}\n"))
    }
}

/// After a turn, and once in a while: what the record says.
pub fn record(record: &Record, now: Timestamp) {
    let cluster = || record.cluster.to_string();
    for state in STATES {
        let is = f64::from(u8::from(record.state.name() == state));
        gauge!("aurora_failover_state", "cluster" => cluster(), "state" => state).set(is);
    }
    gauge!("aurora_failover_epoch", "cluster" => cluster()).set(record.epoch.0 as f64);
    let flag = |is: bool| f64::from(u8::from(is));
    gauge!("aurora_failover_blind", "cluster" => cluster()).set(flag(record.blind));
    gauge!("aurora_failover_exposed", "cluster" => cluster()).set(flag(record.exposed));
    gauge!("aurora_failover_dual_writer", "cluster" => cluster()).set(flag(record.dual_writer.is_some()));
    gauge!("aurora_failover_limit_latched", "cluster" => cluster()).set(flag(record.limit_latched));
    let paused_ms = record.paused.as_ref().map_or(0, |pause| pause.until.since_ms(now));
    gauge!("aurora_failover_paused_seconds", "cluster" => cluster()).set(paused_ms as f64 / 1000.0);
    for (vantage, track) in &record.evidence.tracks {
        let age_s = now.since_ms(track.last_seen) as f64 / 1000.0;
        gauge!("aurora_failover_evidence_age_seconds", "cluster" => cluster(), "vantage" => vantage.to_string())
            .set(age_s);
    }
}

/// A stored turn.
pub fn turn(row: &HistoryRow, before: Option<&'static str>, hold: Option<&'static str>) {
    let cluster = || row.cluster.to_string();
    counter!("aurora_failover_turns_total", "cluster" => cluster(), "rule" => format!("{:?}", row.rule)).increment(1);
    histogram!("aurora_failover_event_age_seconds", "event" => row.event.event.name())
        .record(row.event_age_ms as f64 / 1000.0);
    for (reason, is) in [(before, 0.0), (hold, 1.0)] {
        if let Some(reason) = reason {
            gauge!("aurora_failover_hold", "cluster" => cluster(), "reason" => reason).set(is);
        }
    }
}

/// A message had its turn.
pub fn message(waited: Duration) {
    histogram!("aurora_failover_turn_seconds").record(waited.as_secs_f64());
}

/// Another controller made the turn first.
pub fn conflict(cluster: &ClusterId) {
    counter!("aurora_failover_conflicts_total", "cluster" => cluster.to_string()).increment(1);
}

/// A turn was not made.
pub fn turn_error(cluster: &ClusterId) {
    counter!("aurora_failover_turn_errors_total", "cluster" => cluster.to_string()).increment(1);
}

/// One try of an effect ended.
pub fn effect(name: &'static str, outcome: &Outcome, took: Duration) {
    let outcome = match outcome {
        Outcome::Done { .. } => "done",
        Outcome::InProgress { .. } => "in-progress",
        Outcome::Refused { .. } => "refused",
        Outcome::Retry { .. } => "retry",
        Outcome::Unknown { .. } => "unknown",
    };
    histogram!("aurora_failover_effect_seconds", "effect" => name, "outcome" => outcome).record(took.as_secs_f64());
}

/// A message could not be used.
pub fn refused(reason: &'static str) {
    counter!("aurora_failover_messages_refused_total", "reason" => reason).increment(1);
}

/// A message was left in the queue.
pub fn inbox_full(cluster: &ClusterId) {
    counter!("aurora_failover_inbox_full_total", "cluster" => cluster.to_string()).increment(1);
}

/// Where metrics go.
pub enum Collected {
    /// Prometheus asks for them at `/metrics`.
    Prometheus(PrometheusHandle),
    /// CloudWatch reads them from standard output.
    Embedded,
}

/// Collects metrics for Prometheus from here on.
///
/// # Errors
/// When something else collects already.
pub fn collect(stop: CancellationToken) -> Result<Collected> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_S)
        .context("the buckets of the histograms")?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok().context("metrics are collected already")?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY)).await.is_some() {
            upkeep.run_upkeep();
        }
    });
    Ok(Collected::Prometheus(handle))
}

/// Prints metrics to standard output from here on, once a minute, in CloudWatch's embedded format.
///
/// # Errors
/// When something else collects already.
pub fn print_embedded(stop: CancellationToken) -> Result<Collected> {
    let collector = metrics_cloudwatch_embedded::Builder::new()
        .cloudwatch_namespace("aurora-failover")
        .init()
        .map_err(|error| anyhow!("metrics cannot be collected: {error}"))?;
    tokio::spawn(async move {
        let flush = || {
            if let Err(error) = collector.flush(std::io::stdout()) {
                warn!(%error, "metrics could not be printed");
            }
        };
        while stop.run_until_cancelled(tokio::time::sleep(EMF_EVERY)).await.is_some() {
            flush();
        }
        flush();
    });
    Ok(Collected::Embedded)
}

/// Answers `/healthz`, `/readyz` and `/metrics` until `stop`.
///
/// # Errors
/// When the address cannot be used.
pub async fn serve(
    listen: SocketAddr,
    metrics: Collected,
    health: Arc<Health>,
    now: impl Fn() -> Timestamp + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} for /healthz, /readyz and /metrics; name another address with --listen")
    })?;
    info!(address = %listener.local_addr()?, "answering /healthz, /readyz, /metrics");
    let metrics = Arc::new(metrics);
    let routes = axum::Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { health.readiness(now()) }))
        .route(
            "/metrics",
            get(move || async move {
                match metrics.as_ref() {
                    Collected::Prometheus(handle) => {
                        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
                        gauge!("aurora_failover_tasks").set(tasks as f64);
                        (StatusCode::OK, handle.render())
                    }
                    Collected::Embedded => {
                        (StatusCode::NOT_FOUND, "metrics are printed for CloudWatch (--emf)\n".into())
                    }
                }
            }),
        );
    tokio::spawn(async move {
        let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            warn!(%error, "the endpoint for health and metrics ended");
        }
    });
    Ok(())
}
