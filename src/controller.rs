//! The heart of the service: one task per cluster, one turn per event.
//!
//! ```text
//!   decides (pure, statemachine)          carries out (here and in effects/)
//!   step(record, event, now)      ──>     1. commit the item, if the version is still the one read
//!     verdict, next record,               2. append the history row
//!     effects, claims                     3. start what was claimed; its result is the next event
//! ```
//!
//! Nothing leaves the process before 1 and 2 are done. Any number of controllers may run: whoever loses the race
//! for a version loads anew and decides anew. Everything is safe to kill anywhere: what was stored is found again
//! on the next load, and what was claimed is free again when the claim expires.

use crate::board::Board;
use crate::clock::Clock;
use crate::config::{ClusterSettings, Settings};
use crate::effects::{Task, World};
use crate::inbox::{Delivery, Inbox};
use crate::store::{HistoryRow, Item, PROBES_KEPT, SeenProbe, Store, StoreError};
use crate::telemetry::{self, Health};
use crate::turn::{Before, new_row};
use futures::future::join_all;
use statemachine::{
    ClaimToken, Claimant, ClusterId, Configured, ControllerId, Decision, EffectId, EffectResult, Envelope, Event,
    EventId, Outcome, Pending, ProbeOutcome, Reason, Record, Timestamp, Verdict, due_effects, invariants, next_wakeup,
    step,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

/// Lost races for a version before a turn is given up; its message comes again.
const CONFLICTS_MAX: u32 = 10;

/// Length of the lease where no cluster says.
pub const LEASE_DEFAULT_MS: u64 = 30_000;

/// Pause before an unusable store is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Events waiting for one cluster; beyond that the queue waits.
const INBOX_MAX: usize = 256;

/// Longest time that a stopping controller waits for what it has begun; giving the rest back takes another moment.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Runs every configured cluster until `stop`, then lets running effects end for a few seconds.
///
/// Of all controllers on one queue one listens at a time, so that all evidence is in one memory; the others wait for
/// its lease to end. Nothing depends on that: whoever believes to have the lease is still stopped by versions and claims.
pub async fn run(
    settings: Settings,
    store: Arc<dyn Store>,
    world: World,
    inboxes: Vec<Inbox>,
    health: Arc<Health>,
    board: Arc<Board>,
    stop: CancellationToken,
) {
    let id = ControllerId(format!("controller-{}", world.clock.unique()));
    info!(controller = %id, clusters = settings.clusters.len(), "started");
    let lease = Lease::new(&settings, id.clone(), Arc::clone(&store), Arc::clone(&world.clock), Arc::clone(&health));
    let clusters: Vec<_> = settings.clusters.into_iter().map(Arc::new).collect();
    health.set_listening(false);
    while lease.acquire(&stop).await {
        let listening = stop.child_token();
        let keep = lease.keep(&listening);
        let serve = listen(&clusters, &id, &store, &world, &board, &inboxes, &listening);
        health.set_listening(true);
        tokio::join!(keep, serve);
        health.set_listening(false);
    }
    lease.release().await;
    info!(controller = %id, "stopped");
}

/// Runs every cluster while this controller is the one that listens.
async fn listen(
    settings: &[Arc<ClusterSettings>],
    id: &ControllerId,
    store: &Arc<dyn Store>,
    world: &World,
    board: &Arc<Board>,
    inboxes: &[Inbox],
    stop: &CancellationToken,
) {
    info!(controller = %id, "listening");
    let mut routes: HashMap<ClusterId, mpsc::Sender<Delivery>> = HashMap::new();
    let mut clusters = JoinSet::new();
    for cluster in settings {
        let (sender, deliveries) = mpsc::channel(INBOX_MAX);
        routes.insert(cluster.id.clone(), sender);
        let task =
            ClusterTask::new(Arc::clone(cluster), id.clone(), Arc::clone(store), world.clone(), Arc::clone(board));
        clusters.spawn(task.run(deliveries, stop.clone()));
    }
    let route = |cluster: &ClusterId| routes.get(cluster).cloned();
    join_all(inboxes.iter().map(|inbox| inbox.clone().run(route, stop.clone()))).await;
    drop(routes);
    while let Some(ended) = clusters.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a cluster's task panicked");
        }
    }
}

/// The right to listen to the queue, for a while at a time.
struct Lease {
    queue: String,
    holder: ControllerId,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    ttl: Duration,
}

impl Lease {
    fn new(
        settings: &Settings,
        holder: ControllerId,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Self {
        // A claim that its holder cannot answer any more delays as long as the holder's lease.
        let ttl_ms = settings.clusters.iter().map(|c| c.config.policy.claim_ttl_ms).min().unwrap_or(LEASE_DEFAULT_MS);
        Self { queue: settings.queue.clone(), holder, store, clock, health, ttl: Duration::from_millis(ttl_ms) }
    }

    async fn take(&self, ttl: Duration) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let until = now.plus_ms(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let took = self.store.lease(&self.queue, &self.holder, now, until).await?;
        self.health.store_answered(now);
        Ok(took)
    }

    /// Waits for it; false when stopping.
    async fn acquire(&self, stop: &CancellationToken) -> bool {
        loop {
            let took = tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                took = self.take(self.ttl) => took,
            };
            match took {
                Ok(true) => return true,
                Ok(false) => debug!("another controller listens; waiting"),
                Err(error) => warn!(%error, "the store does not answer; nothing is decided until it does"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(self.ttl / 4) => {}
            }
        }
    }

    /// Lets the next one begin at once. If the store does not hear of it, the next one waits for the lease to end.
    async fn release(&self) {
        let _best_effort = tokio::time::timeout(STORE_PAUSE, self.take(Duration::ZERO)).await;
    }

    /// Renews it until it is lost, then cancels `listening`; or until that is cancelled by somebody else.
    async fn keep(&self, listening: &CancellationToken) {
        let mut ends_at = Instant::now() + self.ttl;
        while Instant::now() < ends_at {
            tokio::select! {
                biased;
                () = listening.cancelled() => return,
                () = tokio::time::sleep(self.ttl / 4) => {}
            }
            let began = Instant::now();
            match tokio::time::timeout_at(ends_at, self.take(self.ttl)).await {
                Ok(Ok(true)) => ends_at = began + self.ttl,
                Ok(Ok(false)) => break,
                Ok(Err(error)) => warn!(%error, "the lease was not renewed"),
                Err(_) => {}
            }
        }
        warn!("the lease is lost; another controller listens");
        listening.cancel();
    }
}

/// The record as this controller knows it: the stored one, with quiet evidence on top.
struct Loaded {
    record: Record,
    version: u64,
    last_hash: String,
}

/// Why a turn was not made.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("refused to store a record that breaks an invariant: {0}")]
    Invariant(#[from] invariants::Violation),
    #[error("lost the race for a version {CONFLICTS_MAX} times")]
    Conflicts,
}

struct ClusterTask {
    settings: Arc<ClusterSettings>,
    controller: ControllerId,
    store: Arc<dyn Store>,
    world: World,
    board: Arc<Board>,
    loaded: Option<Loaded>,
    /// Boxed: a channel keeps room for some dozens, and there is one for each cluster.
    results: mpsc::UnboundedSender<Box<Envelope>>,
    arrived: mpsc::UnboundedReceiver<Box<Envelope>>,
    running: JoinSet<()>,
    scan_at: Instant,
    listening_since: Timestamp,
    /// Probes that the next row tells of.
    unstored: VecDeque<SeenProbe>,
}

impl ClusterTask {
    fn new(
        settings: Arc<ClusterSettings>,
        controller: ControllerId,
        store: Arc<dyn Store>,
        world: World,
        board: Arc<Board>,
    ) -> Self {
        // Unbounded, but never more than the effects that this task has started.
        let (results, arrived) = mpsc::unbounded_channel();
        let (running, scan_at) = (JoinSet::new(), Instant::now());
        let listening_since = world.clock.now();
        Self {
            settings,
            controller,
            store,
            world,
            board,
            loaded: None,
            results,
            arrived,
            running,
            scan_at,
            listening_since,
            unstored: VecDeque::new(),
        }
    }

    async fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>, stop: CancellationToken) {
        loop {
            let wake_at = self.wake_at();
            // Time first, so that a flood of events delays no deadline; then results, which free what is claimed. On the
            // heap while they last: of many clusters most are waiting.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(wake_at) => Box::pin(self.on_time()).await,
                Some(envelope) = self.arrived.recv() => Box::pin(self.turn_or_warn(&envelope)).await,
                Some(delivery) = deliveries.recv() => Box::pin(self.deliver(delivery)).await,
            }
            while self.running.try_join_next().is_some() {}
            if self.is_due() {
                Box::pin(self.claim()).await;
            }
        }
        Box::pin(self.finish()).await;
    }

    /// Lets running effects end and stores their results; what does not end in time is given back, so that the next
    /// controller looks at it at once instead of waiting for the claim to expire.
    async fn finish(mut self) {
        let deadline = Instant::now() + STOP_GRACE;
        while !self.running.is_empty() {
            if tokio::time::timeout_at(deadline, self.running.join_next()).await.is_err() {
                break;
            }
        }
        self.running.abort_all();
        while self.running.join_next().await.is_some() {}
        while let Ok(envelope) = self.arrived.try_recv() {
            self.turn_or_warn(&envelope).await;
        }
        for (effect, token) in self.unanswered() {
            warn!(cluster = %self.settings.id, %effect, "stopping; the effect is given back to be looked at");
            let outcome = Outcome::Unknown { detail: "its controller was stopped".into() };
            let result = Event::Result(EffectResult { effect, token, outcome });
            self.turn_or_warn(&self.own_event("stop", result)).await;
        }
    }

    /// Effects that this controller holds and has not answered.
    fn unanswered(&self) -> Vec<(EffectId, ClaimToken)> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        let mine = |pending: &Pending| {
            let claim = pending.claim.as_ref().filter(|claim| claim.by == self.controller)?;
            Some((pending.id, claim.token))
        };
        loaded.record.pending.iter().filter_map(mine).collect()
    }

    fn wake_at(&self) -> Instant {
        let Some(loaded) = &self.loaded else { return self.scan_at };
        let now = self.world.clock.now();
        let due = next_wakeup(&loaded.record).map(|at| Instant::now() + Duration::from_millis(at.since_ms(now)));
        due.map_or(self.scan_at, |due| due.min(self.scan_at))
    }

    async fn deliver(&mut self, delivery: Delivery) {
        match self.turn(&delivery.envelope).await {
            Ok(()) => {
                telemetry::message(delivery.received_at.elapsed());
                // The inbox may be gone already; then the message comes again and is recognised.
                let _gone = delivery.done.send(());
            }
            Err(error) => self.not_made(&error),
        }
    }

    async fn turn_or_warn(&mut self, envelope: &Envelope) {
        if let Err(error) = self.turn(envelope).await {
            self.not_made(&error);
        }
    }

    fn not_made(&mut self, error: &TurnError) {
        telemetry::turn_error(&self.settings.id);
        error!(cluster = %self.settings.id, %error, "no turn was made; nothing is decided until this is over");
        self.loaded = None;
        self.scan_at = Instant::now() + STORE_PAUSE;
    }

    /// A deadline passed, or it is time to see what other controllers stored.
    async fn on_time(&mut self) {
        if Instant::now() >= self.scan_at
            && let Err(error) = self.scan().await
        {
            return self.not_made(&error);
        }
        let now = self.world.clock.now();
        let due = self.loaded.as_ref().and_then(|loaded| next_wakeup(&loaded.record));
        if due.is_some_and(|due| due <= now) {
            self.turn_or_warn(&self.own_event("tick", Event::Tick)).await;
        }
    }

    async fn scan(&mut self) -> Result<(), TurnError> {
        let fresh = self.read().await?;
        if self.loaded.as_ref().is_none_or(|loaded| loaded.version != fresh.version) {
            self.loaded = Some(fresh);
        }
        let Some(loaded) = &self.loaded else { return Ok(()) };
        telemetry::record(&loaded.record, self.world.clock.now());
        self.board.loaded(loaded.version, &loaded.record, self.world.clock.now());
        let pause_ms = loaded.record.config.policy.claim_ttl_ms;
        self.scan_at = Instant::now() + Duration::from_millis(pause_ms);
        let known = loaded.record.next_config.as_ref().unwrap_or(&loaded.record.config);
        if known.hash != self.settings.config.hash || loaded.record.configured_mode != self.settings.mode {
            let configured = Configured { config: self.settings.config.clone(), mode: self.settings.mode };
            self.turn(&self.own_event("config", Event::Configured(configured))).await?;
        }
        Ok(())
    }

    /// Is there an effect to claim?
    fn is_due(&self) -> bool {
        let now = self.world.clock.now();
        self.loaded.as_ref().is_some_and(|loaded| due_effects(&loaded.record, now).next().is_some())
    }

    async fn claim(&mut self) {
        let claimant = Claimant { by: self.controller.clone() };
        self.turn_or_warn(&self.own_event("claim", Event::Claim(claimant))).await;
    }

    fn own_event(&self, kind: &str, event: Event) -> Envelope {
        Envelope { id: EventId(format!("{kind}/{}", self.world.clock.unique())), at: self.world.clock.now(), event }
    }

    /// One turn: decide, store, append, start. Repeated from the load when another controller was first.
    async fn turn(&mut self, envelope: &Envelope) -> Result<(), TurnError> {
        for _ in 0..CONFLICTS_MAX {
            let loaded = match self.loaded.take() {
                Some(loaded) => loaded,
                None => self.read().await?,
            };
            let Loaded { record, version, last_hash } = loaded;
            let before = Before::of(&record);
            let now = self.world.clock.now();
            let decision = step(record, envelope, now);
            if decision.verdict == (Verdict::Ignored { reason: Reason::PrimaryNotConfigured }) {
                error!(cluster = %self.settings.id, reason = Reason::PrimaryNotConfigured.sentence(), "configuration not taken");
            }
            if !decision.verdict.is_durable() {
                debug!(cluster = %self.settings.id, event = envelope.event.name(), verdict = ?decision.verdict, "not stored");
                self.note(envelope, &decision);
                self.board.turned(envelope, version, &decision.record, None, now);
                self.loaded = Some(Loaded { record: decision.record, version, last_hash });
                return Ok(());
            }
            let version = version + 1;
            let span = info_span!("turn", cluster = %self.settings.id, event = %envelope.id, version);
            let storing = self.store_turn(before, envelope, decision, version, &last_hash, now);
            match storing.instrument(span).await {
                Err(TurnError::Store(StoreError::Conflict { .. })) => {
                    telemetry::conflict(&self.settings.id);
                    debug!(cluster = %self.settings.id, version, "another controller was first; deciding anew");
                }
                other => return other,
            }
        }
        Err(TurnError::Conflicts)
    }

    /// A probe that gets no row of its own, and that another policy might have decided by.
    fn note(&mut self, envelope: &Envelope, decision: &Decision) {
        let Event::Probe(probe) = &envelope.event else { return };
        let counts = match decision.verdict {
            Verdict::Ignored { reason } => reason == Reason::VantageIsolated,
            _ => true,
        };
        let telling = decision.record.episode.is_some() || probe.outcome != ProbeOutcome::Ok;
        if !counts || !telling || probe.target != decision.record.primary {
            return;
        }
        if self.unstored.len() == PROBES_KEPT {
            self.unstored.pop_front();
        }
        self.unstored.push_back(SeenProbe::of(probe, envelope.at));
    }

    async fn store_turn(
        &mut self,
        before: Before,
        envelope: &Envelope,
        decision: Decision,
        version: u64,
        last_hash: &str,
        now: Timestamp,
    ) -> Result<(), TurnError> {
        invariants::check(&decision.record)?;
        let held = before.hold();
        let (decision_id, probes) = (self.world.clock.unique(), self.unstored.iter().cloned().collect());
        let row = new_row(before, envelope, &decision, version, last_hash, now, decision_id, &self.controller, probes);
        let item = Item { version, decision_id: row.decision_id.clone(), record: decision.record, row };
        self.store.commit(&item).await?;
        self.store.append(&item.row).await?;
        self.unstored.clear();
        report(&item.row, &item.record, decision.verdict);
        telemetry::turn(&item.row, held, item.record.hold.as_ref().map(|hold| hold.reason.name()));
        telemetry::record(&item.record, now);
        self.board.turned(envelope, version, &item.record, Some(&item.row), now);
        for id in &decision.claimed {
            self.start(&item.record, *id);
        }
        self.loaded = Some(Loaded { record: item.record, version, last_hash: item.row.hash });
        Ok(())
    }

    /// Starts a claimed effect; its result comes back as an event under the claim's token.
    fn start(&mut self, record: &Record, id: EffectId) {
        let Some(pending) = record.pending(id) else { return };
        let Some(claim) = &pending.claim else { return };
        let now = self.world.clock.now();
        // End before the claim does, so that two runs never overlap.
        let run_ms = claim.expires_at.since_ms(now) * 9 / 10;
        let task = Task::new(record, pending, Instant::now() + Duration::from_millis(run_ms));
        let (token, world, results) = (claim.token, self.world.clone(), self.results.clone());
        let span = info_span!("effect", cluster = %record.cluster, effect = %id, kind = pending.effect.name());
        let run = async move {
            let began = Instant::now();
            let outcome = world.run(&task).await;
            telemetry::effect(task.effect.name(), &outcome, began.elapsed());
            debug!(cluster = %task.cluster, effect = task.effect.name(), ?outcome, "effect ended");
            let result = EffectResult { effect: id, token, outcome };
            let envelope = Envelope {
                id: EventId(format!("result/{id}/{token}")),
                at: world.clock.now(),
                event: Event::Result(result),
            };
            // The task may be stopping; the claim expires and the next controller looks.
            let _stopping = results.send(Box::new(envelope));
        };
        self.running.spawn(run.instrument(span));
    }

    async fn read(&self) -> Result<Loaded, TurnError> {
        let mut loaded = match self.store.load(&self.settings.id).await? {
            Some(item) => Loaded { record: item.record, version: item.version, last_hash: item.row.hash },
            None => {
                let (settings, now) = (&self.settings, self.world.clock.now());
                let record = Record::new(settings.id.clone(), settings.config.clone(), settings.mode, now);
                Loaded { record, version: 0, last_hash: String::new() }
            }
        };
        loaded.record.evidence.listen_since(self.listening_since);
        Ok(loaded)
    }
}

/// One line per transition; a hold is for somebody to look at today.
fn report(row: &HistoryRow, record: &Record, verdict: Verdict) {
    if verdict == Verdict::Moved {
        info!(from = row.from, to = row.to, reason = row.rule.sentence(), "state changed");
    }
    if let Some(hold) = record.hold.as_ref().filter(|hold| hold.since == row.at) {
        warn!(reason = ?hold.reason, detail = hold.detail, release = hold.release, "holding");
    }
}
