//! A vantage: probes the writer endpoint of every member by committing a row, and publishes what it saw.
//!
//! Facts only, no verdicts. Connections are kept between probes, and re-made after any failure. Publishing has its
//! own task, so that a slow bus never delays a probe; what does not fit its buffer is dropped and counted.

use crate::bus::{Bus, CANARY_SOURCE, ENTRIES_MAX, Outgoing};
use crate::clock;
use crate::config::{CanarySettings, ClusterSettings};
use crate::database::{Database, ProbeError, Session, within};
use crate::envelope::{PROBE_DETAIL_TYPE, probe_detail};
use rand::RngExt as _;
use statemachine::{ClusterId, Probe, ProbeOutcome, Region, SelfCheck, Vantage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Events waiting for the bus; newer ones are dropped beyond that.
const BUFFER_MAX: usize = 1024;

/// Runs one vantage until `stop`.
pub async fn run(
    vantage: Vantage,
    clusters: &[ClusterSettings],
    settings: &CanarySettings,
    database: &Database,
    bus: Arc<dyn Bus>,
    stop: CancellationToken,
) {
    let incarnation = Uuid::now_v7().simple().to_string();
    info!(%vantage, incarnation, interval = ?settings.interval, "probing");
    let (events, to_publish) = mpsc::channel(BUFFER_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(bus, to_publish));
    let connected = Arc::new(AtomicBool::new(true));
    if !settings.self_check.is_empty() {
        tasks.spawn(check_self(settings.clone(), Arc::clone(&connected)));
    }
    for cluster in clusters {
        for (member, reader) in cluster.config.members.iter().zip(&cluster.reader_endpoints) {
            let target = Target {
                vantage: vantage.clone(),
                incarnation: incarnation.clone(),
                cluster: cluster.id.clone(),
                region: member.region.clone(),
                endpoint: member.endpoint.clone(),
                reader_endpoint: reader.clone(),
                database: database.clone(),
                connected: Arc::clone(&connected),
                events: events.clone(),
                writer: None,
                reader: None,
            };
            tasks.spawn(target.run(settings.clone()));
        }
    }
    stop.cancelled().await;
    tasks.shutdown().await;
}

/// One member's endpoint as this vantage sees it.
struct Target {
    vantage: Vantage,
    incarnation: String,
    cluster: ClusterId,
    region: Region,
    endpoint: String,
    reader_endpoint: String,
    database: Database,
    connected: Arc<AtomicBool>,
    events: mpsc::Sender<Outgoing>,
    writer: Option<Session>,
    reader: Option<Session>,
}

impl Target {
    async fn run(mut self, settings: CanarySettings) {
        // Not all at the same moment, and not all vantages at the same one.
        let first = Instant::now() + rand::rng().random_range(Duration::ZERO..settings.interval);
        let mut ticks = tokio::time::interval_at(first, settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        let mut dropped: u64 = 0;
        loop {
            ticks.tick().await;
            sequence += 1;
            let (probe, at) = self.probe(sequence, &settings).await;
            debug!(region = %self.region, outcome = ?probe.outcome, latency_ms = probe.latency_ms, "probed");
            let detail = probe_detail(&self.cluster, at, &probe);
            let event = Outgoing { source: CANARY_SOURCE, detail_type: PROBE_DETAIL_TYPE, detail };
            if self.events.try_send(event).is_err() {
                dropped += 1;
                warn!(dropped, "the bus is behind; a probe result was dropped");
            }
        }
    }

    async fn probe(&mut self, sequence: u64, settings: &CanarySettings) -> (Probe, statemachine::Timestamp) {
        let timeout = settings.timeout;
        let began = Instant::now();
        let mut connected = self.connected.load(Ordering::Relaxed);
        let outcome = within(timeout, self.write()).await;
        let latency_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let at = clock::now();
        let mut lag_ms = None;
        let outcome = match outcome {
            Ok(()) => ProbeOutcome::Ok,
            Err(error) => {
                debug!(region = %self.region, %error, "probe failed");
                if error.class == "read-only" {
                    lag_ms = within(timeout, self.lag()).await.unwrap_or_default();
                } else {
                    self.writer = None;
                    // Before and after: a failure counts only if this vantage was connected all the while.
                    connected = connected && reaches_neutral(settings).await;
                }
                ProbeOutcome::Failed { class: error.class.into() }
            }
        };
        let probe = Probe {
            vantage: self.vantage.clone(),
            incarnation: self.incarnation.clone(),
            sequence,
            target: self.region.clone(),
            outcome,
            self_check: if connected { SelfCheck::Ok } else { SelfCheck::Failed },
            latency_ms,
            lag_ms,
        };
        (probe, at)
    }

    async fn write(&mut self) -> Result<(), ProbeError> {
        let session = match self.writer.take() {
            Some(session) => session,
            None => self.database.connect(&self.endpoint).await?,
        };
        let written = session.write(&format!("canary/{}@{}", self.vantage, self.region), 0).await;
        if written.as_ref().is_ok() || written.as_ref().is_err_and(|error| error.class == "read-only") {
            self.writer = Some(session);
        }
        written
    }

    /// A replica's lag, by its reader endpoint: the writer endpoint of a secondary need not answer on Aurora.
    async fn lag(&mut self) -> Result<Option<u64>, ProbeError> {
        let session = match self.reader.take() {
            Some(session) => session,
            None => self.database.connect(&self.reader_endpoint).await?,
        };
        let lag_ms = session.lag_ms(self.region.as_str()).await?;
        self.reader = Some(session);
        Ok(lag_ms)
    }
}

/// Is anything neutral reachable? One answer is enough.
async fn reaches_neutral(settings: &CanarySettings) -> bool {
    let attempts = settings.self_check.iter().map(|address| {
        Box::pin(async move {
            let connecting = tokio::time::timeout(settings.timeout, TcpStream::connect(address));
            matches!(connecting.await, Ok(Ok(_))).then_some(()).ok_or(())
        })
    });
    settings.self_check.is_empty() || futures::future::select_ok(attempts).await.is_ok()
}

/// Looks after this vantage's own connectivity.
async fn check_self(settings: CanarySettings, connected: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reached = reaches_neutral(&settings).await;
        if connected.swap(reached, Ordering::Relaxed) != reached {
            warn!(reached, "this vantage's own connectivity changed");
        }
    }
}

async fn publish(bus: Arc<dyn Bus>, mut events: mpsc::Receiver<Outgoing>) {
    let mut batch = Vec::with_capacity(ENTRIES_MAX);
    while events.recv_many(&mut batch, ENTRIES_MAX).await > 0 {
        if let Err(error) = bus.publish(&batch).await {
            warn!(%error, count = batch.len(), "probe results were not published");
        }
        batch.clear();
    }
}
