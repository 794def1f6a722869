//! A vantage: probes, and publishes what it saw. Facts only, no verdicts.
//!
//! `write.rs` commits a row at the writer endpoint of every member, which is what counts; `observe.rs` looks at the
//! rest: readers, proxies, websites, names; `lag.rs` asks CloudWatch how far the secondaries are behind. All of them
//! leave their results in the `outbox.rs`, which never makes a probe wait.

mod lag;
#[cfg(feature = "lambda")]
pub mod lambda;
mod observe;
mod outbox;
mod write;

use self::outbox::Outbox;
use crate::bus::{Bus, CANARY_SOURCE, Outgoing};
use crate::cloudwatch::CloudWatch;
use crate::config::{CanarySettings, ClusterSettings, Rhythm, Settings};
use crate::database::{Database, ProbeError};
use crate::dns::Dns;
use rand::RngExt as _;
use statemachine::{ProbeOutcome, SelfCheck, Vantage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

/// Longest time for the last results to leave when a vantage stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Pause before a vantage that ended by itself begins anew; doubles up to the longest one.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// What a vantage needs of the outside world.
#[derive(Clone)]
pub struct Outside {
    /// How to open sessions.
    pub database: Database,
    /// How names are looked up.
    pub dns: Dns,
    /// Where results are published.
    pub bus: Arc<dyn Bus>,
    /// Where the lag is asked for.
    pub cloudwatch: Arc<CloudWatch>,
}

/// What one run of a vantage sent, and what never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// Results that were published.
    pub published: u64,
    /// Results that were not, because the bus could not be reached for too long.
    pub dropped: u64,
}

/// Runs one vantage until `stop`, beside something else that goes on whatever becomes of it: what cannot begin, such as
/// without the certificate authorities' file, is tried again, after a pause that is logged and counted.
pub async fn keep<F>(vantage: Vantage, settings: Settings, outside: impl Fn() -> F, stop: CancellationToken)
where
    F: Future<Output = anyhow::Result<Outside>>,
{
    let mut pause = AGAIN_AFTER;
    loop {
        match outside().await {
            Ok(outside) => drop(run(vantage.clone(), &settings, &outside, stop.clone()).await),
            Err(error) => {
                metrics::counter!("aurora_failover_vantage_restarts_total").increment(1);
                error!(%vantage, again_after = ?pause, "this vantage does not probe: {error:#}");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(AGAIN_AFTER_MAX);
    }
}

/// Runs one vantage until `stop`; answers what it sent. No probe ends by itself: after one that does, by a defect, all
/// of them begin anew.
pub async fn run(vantage: Vantage, settings: &Settings, outside: &Outside, stop: CancellationToken) -> Sent {
    let useful_ms = settings.clusters.iter().map(|cluster| cluster.config.policy.event_age_max_ms).min();
    let outbox = Arc::new(Outbox::new(Duration::from_millis(useful_ms.unwrap_or_default())));
    let mut sending = JoinSet::new();
    sending.spawn(Arc::clone(&outbox).send_to(Arc::clone(&outside.bus)));
    loop {
        let mut probing = begin(&vantage, settings, outside, &outbox);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = probing.join_next() => ended,
            ended = sending.join_next() => ended,
        };
        probing.shutdown().await;
        let Some(ended) = ended else { break };
        metrics::counter!("aurora_failover_vantage_restarts_total").increment(1);
        error!(%vantage, why = ?ended.err(), "a part of this vantage ended by itself; it begins anew");
        if sending.is_empty() {
            sending.spawn(Arc::clone(&outbox).send_to(Arc::clone(&outside.bus)));
        }
        if stop.run_until_cancelled(tokio::time::sleep(AGAIN_AFTER)).await.is_none() {
            break;
        }
    }
    outbox.close();
    let _what_is_left_is_lost = tokio::time::timeout(FLUSH_WITHIN, sending.join_next()).await;
    outbox.sent()
}

/// Starts every probe, under a name of this run.
fn begin(vantage: &Vantage, settings: &Settings, outside: &Outside, outbox: &Arc<Outbox>) -> JoinSet<()> {
    let canary = &settings.canary;
    let incarnation = Uuid::now_v7().simple().to_string();
    info!(%vantage, incarnation, interval = ?canary.rhythm.interval, "probing");
    let neutral = Arc::new(Neutral::new(canary));
    let mut probing = JoinSet::new();
    probing.spawn(Arc::clone(&neutral).watch());
    let me = Me { vantage: vantage.clone(), incarnation, outbox: Arc::clone(outbox), neutral };
    for cluster in &settings.clusters {
        spawn_probes(&mut probing, &me, cluster, canary, outside);
    }
    probing
}

fn spawn_probes(
    probing: &mut JoinSet<()>,
    me: &Me,
    cluster: &ClusterSettings,
    canary: &CanarySettings,
    outside: &Outside,
) {
    let writer = write::Writer::default();
    for (member, settings) in cluster.config.members.iter().zip(&cluster.targets) {
        let (id, database, writer) = (cluster.id.clone(), outside.database.clone(), Arc::clone(&writer));
        let target = write::Target::new(me.clone(), id, member, settings, database, writer);
        probing.spawn(target.run(canary.reconnect_every));
        if let Some(every) = canary.lag_every {
            let sources = cluster.config.members.iter().map(|other| other.region.clone());
            let sources = sources.filter(|region| *region != member.region).collect();
            let (id, member, cloudwatch) = (cluster.id.clone(), member.clone(), Arc::clone(&outside.cloudwatch));
            probing.spawn(lag::sample(me.clone(), id, member, sources, cloudwatch, every));
        }
    }
    for probe in &cluster.probes {
        let looked_at = observe::Looker::new(me.clone(), cluster.id.clone(), probe.clone(), outside);
        probing.spawn(looked_at.run(canary.reconnect_every));
    }
}

/// Who probes, and where results go.
#[derive(Clone)]
struct Me {
    vantage: Vantage,
    incarnation: String,
    outbox: Arc<Outbox>,
    neutral: Arc<Neutral>,
}

impl Me {
    /// Leaves a result to be published.
    fn tell(&self, detail_type: &'static str, detail: String) {
        self.outbox.put(Outgoing { source: CANARY_SOURCE, detail_type, detail });
    }
}

/// This vantage's own connectivity: can it reach neutral places?
struct Neutral {
    addresses: Vec<String>,
    rhythm: Rhythm,
    reached: AtomicBool,
}

impl Neutral {
    fn new(settings: &CanarySettings) -> Self {
        let CanarySettings { rhythm, self_check, .. } = settings.clone();
        Self { addresses: self_check, rhythm, reached: AtomicBool::new(true) }
    }

    /// Looks once in each interval.
    async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.rhythm.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let reached = self.reach().await;
            if self.reached.swap(reached, Ordering::Relaxed) != reached {
                warn!(reached, "this vantage's own connectivity changed");
            }
        }
    }

    /// Is anything neutral reachable? One answer is enough.
    async fn reach(&self) -> bool {
        let attempts = self.addresses.iter().map(|address| {
            Box::pin(async move {
                let connecting = tokio::time::timeout(self.rhythm.timeout, TcpStream::connect(address));
                matches!(connecting.await, Ok(Ok(_))).then_some(()).ok_or(())
            })
        });
        self.addresses.is_empty() || futures::future::select_ok(attempts).await.is_ok()
    }

    /// At the last look.
    fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// What to say of it beside a result: a failure counts only if this vantage was connected before and after.
    async fn check(&self, reached_before: bool, failed: bool) -> SelfCheck {
        let connected = reached_before && (!failed || self.reach().await);
        if connected { SelfCheck::Ok } else { SelfCheck::Failed }
    }
}

/// The rhythm of one target: never at the same moment as others, and never two probes at once.
struct Pace {
    interval: Duration,
    jitter: Duration,
    next: Instant,
}

impl Pace {
    fn new(interval: Duration, jitter: Duration) -> Self {
        let next = Instant::now() + rand::rng().random_range(Duration::ZERO..interval);
        Self { interval, jitter, next }
    }

    /// Waits for the next turn.
    async fn turn(&mut self) {
        tokio::time::sleep_until(self.next).await;
        let jitter = rand::rng().random_range(Duration::ZERO..=self.jitter);
        // A probe that took longer than its interval is followed by a whole one.
        self.next = Instant::now() + self.interval + jitter;
    }
}

fn outcome_of<T>(result: &Result<T, ProbeError>) -> ProbeOutcome {
    match result {
        Ok(_) => ProbeOutcome::Ok,
        Err(error) => ProbeOutcome::Failed { class: error.class.into() },
    }
}

fn ms_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
