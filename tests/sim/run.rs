//! One run: a world, controllers that come and go, three vantages, an operator, and a plan of disasters, all drawn
//! from one seed. First everything may happen; then the weather is fine, somebody is on duty, and it must end well.

use crate::net::{CONFIG, Fate, Process, Service, SimulatedQueue, Weather, Without, World, message};
use crate::truth::{EAST, NEWER, REGIONS, WEST, wall};
use aurora_failover::bus::{CANARY_SOURCE, OPERATOR_SOURCE};
use aurora_failover::config::{self, ClusterSettings, Settings};
use aurora_failover::controller;
use aurora_failover::effects::Task;
use aurora_failover::envelope::{
    COMMAND_DETAIL_TYPE, Channel, Decoder, PROBE_DETAIL_TYPE, RDS_CLUSTER_DETAIL_TYPE, RDS_SOURCE, command_detail,
    probe_detail,
};
use aurora_failover::inbox::Inbox;
use aurora_failover::store::HistoryRow;
use statemachine::{
    ClusterId, Command, Effect, Guard, HoldReason, Mode, Order, Probe, ProbeOutcome, RerouteWhen, RouteBy, Rule,
    SelfCheck, State, Timestamp,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long everything may happen.
const CHAOS_MS: u64 = 150_000;

/// How long a healed world may take to settle.
const SETTLE_MS: u64 = 900_000;

/// Pause between two probes of one vantage.
const PROBE_EVERY: Duration = Duration::from_secs(2);

const VANTAGES: [&str; 3] = ["us-east-2", "us-west-2", "witness"];

/// What one run came to.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    /// For the statistics: promotions accepted, versions stored, crashes.
    pub(crate) accepted: usize,
    pub(crate) versions: u64,
    pub(crate) crashes: usize,
}

/// Runs one seed to its end. Deterministic: the same seed gives the same trace, line by line.
pub(crate) fn run(seed: u64, without: Without) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    // Made inside: outside of the runtime, time is real.
    runtime.expect("a runtime starts").block_on(async { Simulation::new(seed, without, None).run().await })
}

/// The primary's region vanishes, and one thing happens to the n-th call from then on. Answers what was called until
/// then, and while nothing happens until it is stable.
pub(crate) fn run_script(seed: u64, nth: u64, fate: Fate) -> (Outcome, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(async {
        let simulation = Simulation::new(seed, Without::Nothing, Some(Mode::Auto));
        let outcome = Arc::clone(&simulation).run_scripted(nth, fate).await;
        let calls = simulation.world.calls.lock().expect("nobody panics").clone();
        (outcome, calls)
    })
}

/// What moves the name in this run.
fn route_by(seed: u64) -> RouteBy {
    match seed % 4 {
        2 => RouteBy::HealthCheck { region: WEST.into(), bucket: "signposts".into(), key: "orders".into() },
        3 => RouteBy::Arc {
            endpoints: Vec::new(),
            controls: REGIONS.map(|region| (region.into(), region.into())).into(),
        },
        _ => RouteBy::Record,
    }
}

/// When the name moves in this run: with each of [`route_by`]'s answers both ways come up.
fn reroute_when(seed: u64) -> RerouteWhen {
    if (seed / 4).is_multiple_of(3) { RerouteWhen::AfterPromotion } else { RerouteWhen::Overlapped }
}

struct Simulation {
    seed: u64,
    world: Arc<World>,
    mode: Mode,
    /// Vantages that cannot reach the primary, or nothing, or are silent.
    sight: Mutex<[Sight; 3]>,
    processes: Mutex<Vec<Arc<Process>>>,
    lag_ms: Mutex<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Clear,
    /// The way to the primary is cut.
    Cut,
    /// It reaches nothing at all.
    Isolated,
    Silent,
}

impl Simulation {
    fn new(seed: u64, without: Without, mode: Option<Mode>) -> Arc<Self> {
        let world = World::new(seed, without);
        if matches!(route_by(seed), RouteBy::HealthCheck { .. }) {
            world.truth().point_by_object(EAST);
        }
        let drawn = if world.chance(700) { Mode::Auto } else { Mode::Approve };
        let mode = mode.unwrap_or(drawn);
        Arc::new(Self {
            seed,
            world,
            mode,
            sight: Mutex::new([Sight::Clear; 3]),
            processes: Mutex::default(),
            lag_ms: Mutex::new(50),
        })
    }

    async fn run(self: Arc<Self>) -> Outcome {
        let controllers = 1 + self.world.below(2);
        let mut actors = self.begin(controllers);
        Arc::clone(&self).chaos().await;
        let settled = self.on_duty().await;
        actors.shutdown().await;
        self.end(settled)
    }

    async fn run_scripted(self: Arc<Self>, nth: u64, fate: Fate) -> Outcome {
        let mut actors = self.begin(2);
        // The chaos of this run is over before it begins: nothing else happens.
        sleep(Duration::from_millis(CHAOS_MS)).await;
        self.world.truth().set_up(EAST, false);
        *self.world.script.lock().expect("nobody panics") = Some((nth, fate));
        sleep(Duration::from_secs(60)).await;
        self.world.truth().set_up(EAST, true);
        let settled = self.on_duty().await;
        self.run_again().await;
        actors.shutdown().await;
        self.end(settled)
    }

    /// Every effect that was ever claimed is carried out once more: all of it is so already.
    async fn run_again(&self) {
        *self.world.script.lock().expect("nobody panics") = None;
        let process = self.process("again".into(), 0);
        let world = process.effects_world();
        let (rows, record) = {
            let truth = self.world.truth();
            (truth.rows.clone(), truth.record().cloned().expect("stored"))
        };
        for pending in rows.values().flat_map(|row| &row.effects) {
            // Nobody is told twice is not promised; and a question may always be asked.
            if matches!(pending.effect, Effect::Announce { .. } | Effect::Assess { .. }) {
                continue;
            }
            let until = Instant::now() + Duration::from_secs(9);
            let task = Task::new(&record, pending, until);
            let outcome = world.run(&task).await;
            let done = matches!(outcome, statemachine::Outcome::Done { .. });
            if !done {
                self.world.truth().violation(format!("{} again: {outcome:?}", pending.effect.name()));
            }
        }
    }

    fn begin(self: &Arc<Self>, controllers: u64) -> JoinSet<()> {
        let mut actors = JoinSet::new();
        for vantage in 0..VANTAGES.len() {
            actors.spawn(Arc::clone(self).vantage(vantage));
        }
        for number in 0..controllers {
            actors.spawn(Arc::clone(self).controller(number));
        }
        if self.world.without == Without::Claims {
            actors.spawn(Arc::clone(self).rogue());
        }
        actors
    }

    fn end(&self, settled: Result<(), String>) -> Outcome {
        let mut truth = self.world.truth();
        if let Err(why) = settled {
            truth.violation(format!("it did not end well: {why}"));
        }
        truth.check_history();
        Outcome {
            seed: self.seed,
            violations: truth.violations.clone(),
            trace: std::mem::take(&mut truth.trace),
            accepted: truth.accepted.len(),
            versions: truth.item.as_ref().map_or(0, |item| item.version),
            crashes: self.processes.lock().expect("nobody panics").iter().filter(|p| p.is_dead()).count(),
        }
    }

    fn in_chaos(&self) -> bool {
        self.world.now_ms() < CHAOS_MS
    }

    fn settings(&self) -> Settings {
        let mode = self.mode.name();
        let parsed = config::parse(&CONFIG.replace("MODE", mode), "simulated", |_| None);
        let mut settings = parsed.expect("it is valid");
        settings.clusters[0].config.routes[0].by = route_by(self.seed);
        settings.clusters[0].config.policy.reroute = reroute_when(self.seed);
        // Its record is of newer software: nobody here may touch it, and it may not hold anything back.
        let newer = ClusterSettings { id: ClusterId(NEWER.into()), ..settings.clusters[0].clone() };
        settings.clusters.insert(0, newer);
        settings
    }

    // ---- controllers -----------------------------------------------------------------------------------------

    /// A controller that is started again a while after each death.
    async fn controller(self: Arc<Self>, number: u64) {
        for life in 1.. {
            let skew_ms = if self.world.chance(300) { self.world.below(4_000) as i64 - 2_000 } else { 0 };
            let process = self.process(format!("controller {number}.{life}"), skew_ms);
            let running = {
                let (settings, world) = (self.settings(), process.effects_world());
                let decoder = Arc::new(Decoder::new(&settings.clusters));
                let inbox = |queue, channel| {
                    let queue = SimulatedQueue { process: Arc::clone(&process), queue };
                    Inbox::new(Arc::new(queue), channel, Arc::clone(&decoder))
                };
                let inboxes = vec![inbox(0, Channel::Evidence), inbox(1, Channel::Operator)];
                let stop = CancellationToken::new();
                let store: Arc<Process> = Arc::clone(&process);
                (
                    stop.clone(),
                    tokio::spawn(controller::run(
                        settings,
                        store,
                        world,
                        inboxes,
                        Arc::default(),
                        Arc::default(),
                        stop,
                    )),
                )
            };
            let (stop, mut task) = running;
            // Now and then somebody stops it politely.
            let polite = self.in_chaos() && self.world.chance(150);
            let polite_after = Duration::from_millis(self.world.below(CHAOS_MS));
            tokio::select! {
                biased;
                () = process.died.notified() => task.abort(),
                () = sleep(polite_after), if polite => {
                    self.world.truth().note(&format!("{} is asked to stop", process.name));
                    stop.cancel();
                    let began = Instant::now();
                    tokio::select! {
                        biased;
                        () = process.died.notified() => task.abort(),
                        _ = &mut task => {}
                    }
                    // A process that was stopped for a while by something else cannot be measured.
                    self.world.truth().note(&format!("{} took {:?} to stop", process.name, began.elapsed()));
                }
            }
            sleep(Duration::from_millis(500 + self.world.below(20_000))).await;
        }
    }

    fn process(&self, name: String, skew_ms: i64) -> Arc<Process> {
        let process = Process::new(&self.world, &name, skew_ms);
        self.world.truth().note(&format!("{} starts, its clock {skew_ms} ms off", process.name));
        self.processes.lock().expect("nobody panics").push(Arc::clone(&process));
        process
    }

    /// Somebody who carries out what is pending, and never claims it.
    async fn rogue(self: Arc<Self>) {
        let process = self.process("rogue".into(), 0);
        let world = process.effects_world();
        let mut running = JoinSet::new();
        loop {
            sleep(Duration::from_millis(500)).await;
            let Some(record) = self.world.truth().record().cloned() else { continue };
            for pending in &record.pending {
                let task = Task::new(&record, pending, Instant::now() + Duration::from_secs(9));
                let world = world.clone();
                running.spawn(async move { drop(world.run(&task).await) });
            }
        }
    }

    // ---- vantages --------------------------------------------------------------------------------------------

    async fn vantage(self: Arc<Self>, index: usize) {
        sleep(Duration::from_millis(self.world.below(2_000))).await;
        let mut sequence = 0;
        let mut incarnation = 1;
        let skew_ms = self.world.below(1_000);
        loop {
            if self.in_chaos() && self.world.chance(5) {
                (sequence, incarnation) = (0, incarnation + 1);
            }
            sequence += 1;
            let sight = self.sight.lock().expect("nobody panics")[index];
            if sight != Sight::Silent {
                for target in REGIONS {
                    self.probe(index, target, sight, sequence, incarnation, skew_ms);
                }
            }
            sleep(PROBE_EVERY).await;
        }
    }

    fn probe(&self, index: usize, target: &str, sight: Sight, sequence: u64, incarnation: u32, skew_ms: u64) {
        let (up, commits, lags, now) = {
            let truth = self.world.truth();
            let lags = truth.writer != target && truth.now >= truth.in_step_at;
            (truth.up[target], truth.commits(target), lags, truth.now)
        };
        let own_region = VANTAGES[index];
        let reaches = match sight {
            Sight::Isolated | Sight::Silent => false,
            // A vantage in a region that is gone is gone with it.
            _ if REGIONS.contains(&own_region) && !self.world.truth().up[own_region] => return,
            Sight::Cut => own_region == target,
            Sight::Clear => true,
        };
        let outcome = if reaches && commits {
            ProbeOutcome::Ok
        } else {
            let class = if !up || !reaches { "timeout" } else { "read-only" };
            ProbeOutcome::Failed { class: class.into() }
        };
        let lag_ms = (reaches && up && lags && !commits).then(|| *self.lag_ms.lock().expect("nobody panics"));
        let probe = Probe {
            vantage: own_region.into(),
            incarnation: format!("run-{incarnation}"),
            sequence,
            target: target.into(),
            outcome,
            self_check: if sight == Sight::Isolated { SelfCheck::Failed } else { SelfCheck::Ok },
            latency_ms: if reaches { 5 } else { 1_000 },
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms,
        };
        for cluster in if sequence.is_multiple_of(10) { &["orders", NEWER][..] } else { &["orders"] } {
            let detail = probe_detail(&ClusterId((*cluster).into()), wall(now + skew_ms), &probe);
            let id = format!("{cluster}-{index}-{incarnation}-{target}-{sequence}");
            let body = message(CANARY_SOURCE, PROBE_DETAIL_TYPE, &detail, &id);
            self.world.post(0, body, self.in_chaos());
        }
    }

    // ---- what happens ----------------------------------------------------------------------------------------

    /// Disasters, one after the other, until the time for them is over; then all is repaired.
    async fn chaos(self: Arc<Self>) {
        let world = &self.world;
        sleep(Duration::from_secs(10)).await;
        let harsh = world.below(4) as u32;
        let weather = Weather {
            lost: harsh * 15,
            throttled: harsh * 15,
            crash: harsh,
            stall: harsh,
            meddle: harsh * 10,
            outage: None,
        };
        *world.weather.lock().expect("nobody panics") = weather;
        world.truth().lease_is_broken = world.chance(300);
        world.truth().note(&format!("the weather: {weather:?}, mode {}", self.mode.name()));
        while self.in_chaos() {
            self.disaster(weather);
            sleep(Duration::from_millis(1_000 + world.below(25_000))).await;
        }
        *world.weather.lock().expect("nobody panics") = Weather::default();
        *self.sight.lock().expect("nobody panics") = [Sight::Clear; 3];
        *self.lag_ms.lock().expect("nobody panics") = 50;
        let mut truth = world.truth();
        truth.hung = false;
        truth.lease_is_broken = false;
        for region in REGIONS {
            if !truth.up[region] {
                truth.set_up(region, true);
            }
        }
        truth.note("the weather is fine");
    }

    fn disaster(&self, weather: Weather) {
        let world = &self.world;
        let region = REGIONS[world.below(2) as usize];
        match world.below(16) {
            0..4 => {
                let mut truth = world.truth();
                let writer = truth.writer;
                if truth.up[writer] {
                    truth.set_up(writer, false);
                }
            }
            4 | 5 => {
                let mut truth = world.truth();
                for region in REGIONS {
                    if !truth.up[region] {
                        truth.set_up(region, true);
                    }
                }
            }
            6 => {
                let mut truth = world.truth();
                truth.hung = !truth.hung;
                let hung = truth.hung;
                truth.note(&format!("world: commits {}", if hung { "hang" } else { "go on" }));
            }
            7 | 8 => {
                let sights = [Sight::Clear, Sight::Clear, Sight::Cut, Sight::Isolated, Sight::Silent];
                let index = world.below(3) as usize;
                let sight = sights[world.below(5) as usize];
                self.sight.lock().expect("nobody panics")[index] = sight;
                world.truth().note(&format!("world: vantage {} is {sight:?}", VANTAGES[index]));
            }
            9 | 10 => {
                let services = [
                    Service::Store,
                    Service::Queue,
                    Service::Rds,
                    Service::Route53,
                    Service::Objects,
                    Service::Controls,
                    Service::Bus,
                    Service::Database,
                ];
                let outage = world.chance(600).then(|| services[world.below(8) as usize]);
                *world.weather.lock().expect("nobody panics") = Weather { outage, ..weather };
                world.truth().note(&format!("world: outage of {outage:?}"));
            }
            11 => {
                let code = ["RDS-EVENT-0073", "RDS-EVENT-0071", "RDS-EVENT-0238", "RDS-EVENT-0185"];
                self.rds_event(code[world.below(4) as usize], region);
            }
            12 => {
                *self.lag_ms.lock().expect("nobody panics") = world.below(60_000);
            }
            13 if world.chance(300) => self.meddle(region),
            _ => {
                let order = self.any_order(region);
                self.order(order);
            }
        }
    }

    fn rds_event(&self, code: &str, region: &str) {
        let now = jiff::Timestamp::from_millisecond(wall(self.world.now_ms()).0 as i64).expect("in range");
        let detail = format!(
            r#"{{"SourceArn":"{}","Date":"{now}","EventID":"{code}","Message":""}}"#,
            crate::truth::arn(region)
        );
        let id = format!("rds-{}", self.world.now_ms());
        self.world.post(0, message(RDS_SOURCE, RDS_CLUSTER_DETAIL_TYPE, &detail, &id), true);
    }

    /// Somebody uses the console: a switchover, or another value in DNS.
    fn meddle(&self, region: &'static str) {
        let takes_ms = 1_000 + self.world.below(10_000);
        let mut truth = self.world.truth();
        truth.meddled = true;
        if region == EAST {
            truth.meddle_with_the_name();
        } else if truth.moving.is_none() && REGIONS.iter().all(|region| truth.up[region]) {
            let to = if truth.writer == EAST { WEST } else { EAST };
            truth.note(&format!("world: somebody switches over to {to}"));
            let done_at = truth.now + takes_ms;
            truth.moving = Some(crate::truth::Move { to, done_at, planned: true, ours: false, fails: false });
        }
    }

    // ---- operators -------------------------------------------------------------------------------------------

    fn any_order(&self, region: &'static str) -> Order {
        let yes = self.world.chance(500);
        match self.world.below(12) {
            0 => Order::Pause { until: Timestamp(wall(self.world.now_ms() + 5_000 + self.world.below(60_000)).0) },
            1 => Order::Resume,
            2 => Order::SetMode { mode: [Mode::Observe, Mode::Approve, Mode::Auto][self.world.below(3) as usize] },
            3 => Order::Failover { target: yes.then(|| region.into()), allow_data_loss: self.world.chance(500) },
            4 | 5 => Order::Switchover { target: yes.then(|| region.into()) },
            6 => Order::FailoverInRegion { instance: None },
            7 | 8 => Order::Approve { allow_data_loss: yes },
            9 => Order::Abort,
            10 => Order::Acknowledge,
            _ => Order::ResetLimit,
        }
    }

    /// Sends an order as somebody who has just looked, or has looked long ago.
    fn order(&self, order: Order) {
        let (seen, now) = {
            let truth = self.world.truth();
            (truth.record().map(|record| record.epoch).unwrap_or_default(), truth.now)
        };
        self.world.truth().note(&format!("operator: {order:?}"));
        let command = Command {
            actor: "alice".into(),
            on_behalf_of: None,
            reason: "simulated".into(),
            expected_epoch: seen,
            expires_at: wall(now + 15_000),
            nonce: format!("nonce-{now}-{}", self.world.below(1 << 32)),
            order,
        };
        let detail = command_detail(&ClusterId("orders".into()), wall(now), &command);
        let body = message(OPERATOR_SOURCE, COMMAND_DETAIL_TYPE, &detail, &command.nonce);
        self.world.post(1, body, self.in_chaos());
    }

    /// From now on nothing bad happens, and somebody reads the holds and does what they say.
    async fn on_duty(&self) -> Result<(), String> {
        let deadline = self.world.now_ms() + SETTLE_MS;
        loop {
            sleep(Duration::from_secs(12)).await;
            let settled = self.world.truth().settled();
            if settled.is_ok() || self.world.now_ms() > deadline {
                return settled;
            }
            self.do_what_is_needed();
        }
    }

    fn do_what_is_needed(&self) {
        let Some(record) = self.world.truth().record().cloned() else { return };
        if record.paused.is_some() {
            return self.order(Order::Resume);
        }
        if record.mode != Mode::Auto {
            return self.order(Order::SetMode { mode: Mode::Auto });
        }
        if record.limit_latched {
            return self.order(Order::ResetLimit);
        }
        let hold = record.hold.as_ref().map(|hold| hold.reason);
        match (&record.state, hold) {
            (State::ConfirmedDown { .. }, Some(HoldReason::Guard(Guard::WithinRpo | Guard::Approved))) => {
                self.order(Order::Approve { allow_data_loss: true });
            }
            (State::ConfirmedDown { .. }, Some(_)) => self.order(Order::Abort),
            // The name that went ahead comes back by itself.
            (State::Promoting { .. }, Some(HoldReason::PromoteRefused))
                if record.episode.as_ref().is_some_and(|e| e.names_ahead) && !self.world.truth().meddled => {}
            (State::Promoting { .. }, Some(_)) => self.order(Order::Acknowledge),
            (State::Rerouting { .. }, Some(_)) if self.world.truth().writer == record.primary.as_str() => {
                self.point_the_name_at(record.primary.as_str());
            }
            // Somebody moved the writer on.
            (State::Rerouting { .. }, Some(_)) => self.order(Order::Acknowledge),
            (State::Stable { .. }, Some(_)) => self.order(Order::Acknowledge),
            (State::Healthy, None) if record.episode.is_none() => {
                let (writer, by_hand) = {
                    let truth = self.world.truth();
                    let taken_over = |row: &HistoryRow| row.rule == Rule::Acknowledged && row.from != "stable";
                    (truth.writer, truth.meddled || truth.rows.values().any(taken_over))
                };
                if writer != record.primary.as_str() {
                    // RDS says so by itself; the event may have been lost in the storm.
                    self.rds_event("RDS-EVENT-0238", writer);
                } else if by_hand {
                    // Whoever moved something by hand, or took over, has to put the name right.
                    self.point_the_name_at(writer);
                }
            }
            _ => {}
        }
    }

    fn point_the_name_at(&self, region: &str) {
        let mut truth = self.world.truth();
        truth.note(&format!("operator: points the name at {region}"));
        truth.point_the_name_at(region);
    }
}
