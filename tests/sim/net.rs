//! The way from one controller to the world, and everything that can happen on it: latency, lost requests, lost
//! replies, throttling, outages of one service, a crash before or after, a process that is stopped for a while and does
//! not know it.

use crate::truth::{self, NAME, NEWER, REGIONS, Truth, WEST, arn, endpoint, region_of, wall};
use async_trait::async_trait;
use aurora_failover::arc::RoutingControls;
use aurora_failover::aws::CallError;
use aurora_failover::bus::{Bus, BusError, Outgoing};
use aurora_failover::clock::Clock;
use aurora_failover::database::{Databases, ProbeError};
use aurora_failover::dns::{DnsError, Resolver};
use aurora_failover::effects;
use aurora_failover::inbox::{Message, Queue};
use aurora_failover::rds::{Rds, RdsError};
use aurora_failover::route53::{CurrentRecord, Route53};
use aurora_failover::s3::{Location, Object, Objects};
use aurora_failover::store::{HistoryRow, Item, Store, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use statemachine::{
    ArcEndpoint, Arn, Assessment, ClusterFacts, ClusterId, ControllerId, FailoverInProgress, MemberFacts, RecordChange,
    Region, Timestamp,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What controllers are told.
pub(crate) const CONFIG: &str = r#"
region = "us-west-2"
[aws]
timeout = "2s"
poll-every = "500ms"
[database]
user = "failover"
name = "orders"
tls = "off"
[canary]
interval = "2s"
timeout = "1s"
[[cluster]]
id = "orders"
mode = "MODE"
vantages = ["us-east-2", "us-west-2", "witness"]
[[cluster.route]]
zone = "Z1"
name = "db.orders.example.com"
ttl = "1s"
[[cluster.member]]
region = "us-east-2"
arn = "arn:aws:rds:us-east-2:123456789012:cluster:orders-us-east-2"
endpoint = "orders.us-east-2.rds.example.com"
[[cluster.member]]
region = "us-west-2"
arn = "arn:aws:rds:us-west-2:123456789012:cluster:orders-us-west-2"
endpoint = "orders.us-west-2.rds.example.com"
[cluster.policy]
confirm-after = "4s"
vantage-stale-after = "8s"
event-age-max = "15s"
in-region-grace = "10s"
approval-timeout = "60s"
reassess-every = "5s"
assess-deadline = "20s"
promote-deadline = "60s"
reroute-deadline = "40s"
fence-deadline = "10s"
announce-deadline = "20s"
retry = "200ms"
retry-max = "4s"
claim-ttl = "10s"
cooldown = "30s"
failovers-window = "10m"
soak = "15s"
heartbeat = "20s"
"#;

/// A protection that a run goes without, to show that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// A commit is acknowledged before it is stored: effects leave before the write.
    DurableCommit,
    /// History rows are acknowledged before they are stored: history comes after the effects.
    DurableHistory,
    /// Route 53 overwrites whatever is there.
    CompareAndSwap,
    /// Somebody carries pending effects out without a claim.
    Claims,
}

/// The services, as far as they fail apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Store,
    Queue,
    Rds,
    Route53,
    Objects,
    Controls,
    Bus,
    Database,
}

/// What happened on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    /// The process dies before it asks.
    CrashBefore,
    /// It was done, and the process dies before it hears so.
    CrashAfter,
    /// It was done, and the process is stopped until its claim and its lease are over.
    StallAfter,
    /// Nothing arrived.
    LostRequest,
    /// It was done, and nobody says so.
    LostReply,
    /// It was refused for now.
    Throttled,
}

/// How hostile this run is: chances per call in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) throttled: u32,
    pub(crate) crash: u32,
    pub(crate) stall: u32,
    /// Somebody changes the record by hand between a look at it and the swap.
    pub(crate) meddle: u32,
    /// A service that does not answer at all.
    pub(crate) outage: Option<Service>,
}

/// Everything that all actors share.
pub(crate) struct World {
    pub(crate) truth: Mutex<Truth>,
    random: Mutex<StdRng>,
    began: Instant,
    pub(crate) weather: Mutex<Weather>,
    pub(crate) without: Without,
    /// The one thing that happens, to the n-th call of any controller from when it is set.
    pub(crate) script: Mutex<Option<(u64, Fate)>>,
    /// Calls made since then, for those who enumerate them.
    pub(crate) calls: Mutex<Vec<String>>,
    arrived: Notify,
    names: Mutex<u64>,
}

impl World {
    pub(crate) fn new(seed: u64, without: Without) -> Arc<Self> {
        Arc::new(Self {
            truth: Mutex::new(Truth::new()),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            began: Instant::now(),
            weather: Mutex::default(),
            without,
            script: Mutex::default(),
            calls: Mutex::default(),
            arrived: Notify::new(),
            names: Mutex::default(),
        })
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        let mut truth = self.truth.lock().expect("nobody panics while holding it");
        truth.advance(self.now_ms());
        truth
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("short")
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.random.lock().expect("nobody panics while holding it").random_range(0..end.max(1))
    }

    /// True in so many of a thousand cases.
    pub(crate) fn chance(&self, per_mille: u32) -> bool {
        self.below(1_000) < u64::from(per_mille)
    }

    /// Will RDS give up the promotion that it accepts now?
    fn fails_promotion(&self) -> bool {
        let harsh = self.weather.lock().expect("nobody panics while holding it").meddle > 0;
        harsh && self.chance(150)
    }

    /// A message for one of the queues, after a while; it may come twice, late, or never.
    pub(crate) fn post(&self, queue: usize, body: String, faulty: bool) {
        let copies = match self.below(100) {
            0..3 if faulty => 0,
            3..10 if faulty => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay_ms = if faulty && self.chance(30) { self.below(20_000) } else { 20 + self.below(200) };
            let mut truth = self.truth();
            let at = truth.now + delay_ms;
            truth.send(queue, body.clone(), at);
        }
        self.arrived.notify_waiters();
    }
}

/// One running controller, as the world sees it.
pub(crate) struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    /// How far its clock is off.
    pub(crate) skew_ms: i64,
    /// Set once: it will never hear of anything again.
    pub(crate) dead: Mutex<bool>,
    pub(crate) died: Notify,
}

impl Process {
    pub(crate) fn new(world: &Arc<World>, name: &str, skew_ms: i64) -> Arc<Self> {
        let (world, name) = (Arc::clone(world), name.to_owned());
        Arc::new(Self { world, name, skew_ms, dead: Mutex::new(false), died: Notify::new() })
    }

    /// Everything outside, as its effects see it.
    pub(crate) fn effects_world(self: &Arc<Self>) -> effects::World {
        effects::World {
            rds: Arc::clone(self) as _,
            route53: Arc::clone(self) as _,
            objects: Arc::clone(self) as _,
            controls: Some(Arc::clone(self) as _),
            bus: Arc::clone(self) as _,
            dns: Arc::clone(self) as _,
            database: Arc::clone(self) as _,
            clock: Arc::clone(self) as _,
            poll_every: Duration::from_millis(500),
            write_deadline: Duration::from_secs(1),
            region: WEST.into(),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.lock().expect("nobody panics while holding it")
    }

    pub(crate) fn die(&self, why: &str) {
        *self.dead.lock().expect("nobody panics while holding it") = true;
        self.world.truth().note(&format!("{} dies {why}", self.name));
        self.died.notify_one();
    }

    async fn nothing_more_if_dead(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    async fn may_die(&self, weather: Weather, what: &str, when: &str) {
        if self.world.chance(weather.crash) {
            self.die(&format!("{when} {what}"));
        }
        self.nothing_more_if_dead().await;
    }

    /// What the script has for this call.
    fn scripted(&self, what: &str) -> Option<Fate> {
        let mut script = self.world.script.lock().expect("nobody panics while holding it");
        let (left, fate) = script.as_mut()?;
        if self.world.truth().rows.values().all(|row| row.to != "stable") {
            self.world.calls.lock().expect("nobody panics while holding it").push(what.to_owned());
        }
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                None
            }
            None => {
                let fate = *fate;
                // From here on nothing happens any more.
                *left = u64::MAX;
                Some(fate)
            }
        }
    }

    /// One request and its reply. `act` is what the service does when the request arrives.
    async fn call<T>(&self, service: Service, what: &str, act: impl FnOnce(&mut Truth) -> T) -> Result<T, String> {
        self.nothing_more_if_dead().await;
        let world = &self.world;
        let weather = *world.weather.lock().expect("nobody panics while holding it");
        self.may_die(weather, what, "before").await;
        let scripted = self.scripted(what);
        if scripted == Some(Fate::CrashBefore) {
            self.die(&format!("before {what}"));
            self.nothing_more_if_dead().await;
        }
        let fate = match world.below(1_000) {
            _ if scripted.is_some() => scripted.unwrap_or(Fate::Fine),
            _ if weather.outage == Some(service) => Fate::LostRequest,
            draw if draw < u64::from(weather.lost) => Fate::LostRequest,
            draw if draw < u64::from(weather.lost) * 2 => Fate::LostReply,
            draw if draw < u64::from(weather.lost * 2 + weather.throttled) => Fate::Throttled,
            _ => Fate::Fine,
        };
        let latency_ms = if world.chance(weather.lost) { world.below(1_500) } else { 1 + world.below(30) };
        tokio::time::sleep(Duration::from_millis(latency_ms)).await;
        self.nothing_more_if_dead().await;
        let timeout = Duration::from_millis(2_000);
        let answer = match fate {
            Fate::Fine | Fate::CrashBefore | Fate::CrashAfter | Fate::StallAfter => Ok(act(&mut world.truth())),
            Fate::LostRequest => {
                tokio::time::sleep(timeout).await;
                Err("timed out".to_owned())
            }
            Fate::LostReply => {
                drop(act(&mut world.truth()));
                world.truth().note(&format!("net: {} never hears of its {what}", self.name));
                tokio::time::sleep(timeout).await;
                Err("timed out".to_owned())
            }
            Fate::Throttled => Err("throttled".to_owned()),
        };
        if fate == Fate::CrashAfter {
            self.die(&format!("after {what}"));
        }
        self.may_die(weather, what, "after").await;
        if fate == Fate::StallAfter || world.chance(weather.stall) {
            let ms = if fate == Fate::StallAfter { 25_000 } else { world.below(40_000) };
            world.truth().note(&format!("{} is stopped for {ms} ms after {what}", self.name));
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        self.nothing_more_if_dead().await;
        answer
    }

    /// RDS in one region; a region that is gone does not answer.
    async fn rds<T>(
        &self,
        operation: &'static str,
        region: &Region,
        act: impl FnOnce(&mut Truth) -> Result<T, &'static str>,
    ) -> Result<T, RdsError> {
        let no_answer = |detail: String| RdsError::NoAnswer { operation, region: region.clone(), detail };
        if !self.world.truth().up[region_of(region.as_str()).expect("a region of the world")] {
            tokio::time::sleep(Duration::from_millis(2_000)).await;
            return Err(no_answer("connection timed out".into()));
        }
        match self.call(Service::Rds, operation, act).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(code)) => {
                let (region, message) = (region.clone(), String::new());
                Err(RdsError::Answered { operation, region, code: code.into(), message })
            }
            Err(detail) if detail == "throttled" => {
                let (region, code) = (region.clone(), "Throttling".into());
                Err(RdsError::Answered { operation, region, code, message: detail })
            }
            Err(detail) => Err(no_answer(detail)),
        }
    }

    async fn move_writer(
        &self,
        operation: &'static str,
        region: &Region,
        target: &Arn,
        planned: bool,
    ) -> Result<(), RdsError> {
        let to = region_of(target.as_str()).expect("a region of the world");
        let takes_ms = 500 + self.world.below(8_000);
        let fails = !planned && self.world.fails_promotion();
        self.rds(operation, region, |truth| {
            // Nothing documented says that RDS refuses to promote the writer.
            if truth.moving.is_some() {
                return Err("InvalidGlobalClusterStateFault");
            }
            truth.accept(to, planned, takes_ms, fails);
            Ok(())
        })
        .await
    }
}

impl Clock for Process {
    fn now(&self) -> Timestamp {
        Timestamp(wall(self.world.now_ms()).0.saturating_add_signed(self.skew_ms))
    }

    fn unique(&self) -> String {
        let mut names = self.world.names.lock().expect("nobody panics while holding it");
        *names += 1;
        format!("{}", *names)
    }
}

#[async_trait]
impl Store for Process {
    async fn load(&self, cluster: &ClusterId) -> Result<Option<Item>, StoreError> {
        if cluster.as_str() == NEWER {
            let detail = "unknown variant `hibernating`".into();
            return Err(StoreError::Unreadable { cluster: cluster.clone(), detail });
        }
        let loaded = self.call(Service::Store, "load", |truth| truth.item.clone()).await;
        let item = loaded.map_err(|detail| failed("GetItem", detail))?;
        if let Some(item) = &item {
            self.append(&item.row).await?;
        }
        Ok(item)
    }

    async fn commit(&self, item: &Item) -> Result<(), StoreError> {
        if item.record.cluster.as_str() == NEWER {
            self.world.truth().violation("a record of newer software is overwritten".into());
        }
        if self.world.without == Without::DurableCommit {
            let (world, item) = (Arc::clone(&self.world), item.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                world.truth().commit(&item)
            });
            return Ok(());
        }
        let conflict = StoreError::Conflict { cluster: item.record.cluster.clone(), version: item.version };
        // The SDK tries again when no answer comes.
        for _ in 0..2 {
            match self.call(Service::Store, "commit", |truth| truth.commit(item)).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(conflict),
                Err(_) => {}
            }
        }
        Err(failed("PutItem", "timed out".into()))
    }

    async fn append(&self, row: &HistoryRow) -> Result<(), StoreError> {
        if self.world.without == Without::DurableHistory {
            let (world, row) = (Arc::clone(&self.world), row.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2_000)).await;
                world.truth().append(&row);
            });
            return Ok(());
        }
        let appended = self.call(Service::Store, "append", |truth| truth.append(row)).await;
        appended.map_err(|detail| failed("PutItem", detail))
    }

    async fn lease(
        &self,
        _name: &str,
        holder: &ControllerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let leased = self.call(Service::Store, "lease", |truth| truth.lease(holder.as_str(), now, until)).await;
        leased.map_err(|detail| failed("PutItem", detail))
    }
}

fn failed(operation: &'static str, detail: String) -> StoreError {
    StoreError::Call { operation, table: "simulated".into(), detail }
}

/// One of the two queues.
pub(crate) struct SimulatedQueue {
    pub(crate) process: Arc<Process>,
    pub(crate) queue: usize,
}

#[async_trait]
impl Queue for SimulatedQueue {
    async fn receive(&self) -> Result<Vec<Message>, String> {
        let world = &self.process.world;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.process.nothing_more_if_dead().await;
            let arrived = world.arrived.notified();
            let next = {
                let truth = world.truth();
                truth.next_visible_at(self.queue).map(|at| at.saturating_sub(truth.now))
            };
            if next == Some(0) {
                break;
            }
            let pause = next.map_or(Duration::from_secs(20), Duration::from_millis);
            tokio::select! {
                biased;
                () = arrived => {}
                () = tokio::time::sleep(pause) => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
        let from = world.below(1 << 16) as usize;
        let received = self.process.call(Service::Queue, "receive", |truth| truth.receive(self.queue, from)).await?;
        Ok(received.into_iter().map(|m| Message { body: m.body, receipt: m.id.to_string() }).collect())
    }

    async fn delete(&self, receipts: Vec<String>) -> Result<(), String> {
        self.process.call(Service::Queue, "delete", |truth| truth.delete(self.queue, &receipts)).await
    }

    async fn bury(&self, _body: &str, reason: &str) -> Result<(), String> {
        self.process
            .call(Service::Queue, "bury", |truth| {
                truth.buried += 1;
                truth.note(&format!("refused: {reason}"));
            })
            .await
    }
}

#[async_trait]
impl Rds for Process {
    async fn global_cluster(&self, region: &Region, _cluster: &ClusterId) -> Result<Assessment, RdsError> {
        self.rds("DescribeGlobalClusters", region, |truth| {
            let member = |member: &str| MemberFacts {
                arn: Arn(arn(member)),
                writer: truth.writer == member,
                synchronization: Some(
                    if truth.writer == member || truth.now >= truth.in_step_at {
                        "connected"
                    } else {
                        "pending-resync"
                    }
                    .into(),
                ),
                cluster: None,
            };
            let failover = truth.moving.as_ref().map(|moving| FailoverInProgress {
                status: if moving.planned { "switching-over" } else { "failing-over" }.into(),
                to: Arn(arn(moving.to)),
            });
            Ok(Assessment {
                asked: region.clone(),
                status: "available".into(),
                engine_version: "16.6".into(),
                members: REGIONS.into_iter().map(member).collect(),
                failover,
            })
        })
        .await
    }

    async fn cluster(&self, region: &Region, _arn: &Arn) -> Result<ClusterFacts, RdsError> {
        let facts = ClusterFacts { status: "available".into(), engine_version: "16.6".into(), instances: 2 };
        self.rds("DescribeDBClusters", region, |_| Ok(facts)).await
    }

    async fn fail_over(&self, region: &Region, _cluster: &ClusterId, target: &Arn) -> Result<(), RdsError> {
        self.move_writer("FailoverGlobalCluster", region, target, false).await
    }

    async fn switch_over(&self, region: &Region, _cluster: &ClusterId, target: &Arn) -> Result<(), RdsError> {
        self.move_writer("SwitchoverGlobalCluster", region, target, true).await
    }

    async fn fail_over_in_region(&self, region: &Region, _arn: &Arn, _instance: Option<&str>) -> Result<(), RdsError> {
        self.rds("FailoverDBCluster", region, |truth| {
            truth.note("rds: accepted an in-region failover");
            Ok(())
        })
        .await
    }
}

fn moving_failed(call: &'static str, detail: String) -> CallError {
    match detail.as_str() {
        "throttled" => CallError::Answered { call, code: "Throttling".into(), message: detail },
        _ => CallError::NoAnswer { call, detail },
    }
}

impl Process {
    /// Somebody changes what moves the name, at this very moment.
    fn meddled(&self) -> bool {
        let meddle = self.world.weather.lock().expect("nobody panics while holding it").meddle;
        self.world.chance(meddle)
    }
}

#[async_trait]
impl Route53 for Process {
    async fn current(&self, _zone: &str, _name: &str) -> Result<Option<CurrentRecord>, CallError> {
        const CALL: &str = "ListResourceRecordSets";
        let read = |truth: &mut Truth| CurrentRecord { value: truth.record.clone(), ttl_s: 1 };
        let current = self.call(Service::Route53, CALL, read).await;
        current.map(Some).map_err(|detail| moving_failed(CALL, detail))
    }

    async fn swap(&self, _zone: &str, changes: &[(RecordChange, CurrentRecord)]) -> Result<String, CallError> {
        const CALL: &str = "ChangeResourceRecordSets";
        let (change, read) = &changes[0];
        let checked = self.world.without != Without::CompareAndSwap;
        let (takes_ms, meddled) = (100 + self.world.below(3_000), self.meddled());
        let swap = |truth: &mut Truth| {
            if meddled {
                truth.meddle_with_the_name();
            }
            let swapped = truth.swap(&change.from, &read.value, &change.to, checked, takes_ms);
            swapped.then(|| (truth.changes.len() - 1).to_string())
        };
        match self.call(Service::Route53, CALL, swap).await {
            Ok(Some(change)) => Ok(change),
            Ok(None) => Err(CallError::SwapRefused { call: CALL, detail: "the values do not match".into() }),
            Err(detail) => Err(moving_failed(CALL, detail)),
        }
    }

    async fn in_sync(&self, change: &str) -> Result<bool, CallError> {
        const CALL: &str = "GetChange";
        let index: usize = change.parse().expect("one of ours");
        if self.world.chance(20) {
            return Err(CallError::Answered { call: CALL, code: "NoSuchChange".into(), message: String::new() });
        }
        let look = |truth: &mut Truth| truth.now >= truth.changes[index];
        self.call(Service::Route53, CALL, look).await.map_err(|detail| moving_failed(CALL, detail))
    }
}

#[async_trait]
impl Objects for Process {
    async fn read(&self, _: Location<'_>) -> Result<Option<Object>, CallError> {
        const CALL: &str = "GetObject";
        let read = |truth: &mut Truth| truth.object.clone();
        self.call(Service::Objects, CALL, read).await.map_err(|detail| moving_failed(CALL, detail))
    }

    async fn swap(&self, _: Location<'_>, text: &str, seen: Option<&Object>) -> Result<(), CallError> {
        const CALL: &str = "PutObject";
        // The checkers of Route 53 have to notice.
        let (takes_ms, meddled) = (1_000 + self.world.below(5_000), self.meddled());
        let swap = |truth: &mut Truth| {
            if meddled {
                truth.meddle_with_the_name();
            }
            truth.swap_object(text, seen, takes_ms)
        };
        match self.call(Service::Objects, CALL, swap).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CallError::SwapRefused { call: CALL, detail: "the etag does not match".into() }),
            Err(detail) => Err(moving_failed(CALL, detail)),
        }
    }
}

#[async_trait]
impl RoutingControls for Process {
    async fn on(&self, _: &[ArcEndpoint], controls: &[Arn]) -> Result<BTreeSet<Arn>, CallError> {
        const CALL: &str = "GetRoutingControlState";
        let read = |truth: &mut Truth| region_of(&truth.record);
        let on = self.call(Service::Controls, CALL, read).await.map_err(|detail| moving_failed(CALL, detail))?;
        Ok(controls.iter().filter(|control| on.is_some_and(|on| control.as_str() == on)).cloned().collect())
    }

    async fn switch(&self, _: &[ArcEndpoint], on: &Arn, off: &[Arn]) -> Result<(), CallError> {
        const CALL: &str = "UpdateRoutingControlStates";
        let takes_ms = 100 + self.world.below(3_000);
        let (to, from) = (endpoint(on.as_str()), endpoint(off[0].as_str()));
        let switch = |truth: &mut Truth| {
            let read = truth.record.clone();
            // Routing controls know no compare-and-swap: what somebody turned since the look is overwritten.
            let from = if truth.meddled { read.clone() } else { from.clone() };
            truth.swap(&from, &read, &to, true, takes_ms);
        };
        self.call(Service::Controls, CALL, switch).await.map_err(|detail| moving_failed(CALL, detail))
    }
}

#[async_trait]
impl Resolver for Process {
    async fn cname(&self, name: &str) -> Result<String, DnsError> {
        let answer = self.call(Service::Database, "dns", |truth| truth.answered.clone()).await;
        answer.map_err(|detail| DnsError { name: name.into(), detail })
    }
}

#[async_trait]
impl Databases for Process {
    async fn prove_write(&self, name: &str, _: &str, _: u64, deadline: Duration) -> Result<String, ProbeError> {
        let write = |truth: &mut Truth| {
            let endpoint = if name == NAME { truth.answered.clone() } else { name.to_owned() };
            region_of(&endpoint).filter(|region| truth.commits(region))
        };
        match self.call(Service::Database, "write", write).await {
            Ok(Some(region)) => Ok(endpoint(region)),
            Ok(None) => {
                tokio::time::sleep(deadline).await;
                Err(ProbeError::new("timeout", "no commit"))
            }
            Err(detail) => Err(ProbeError::new("timeout", detail)),
        }
    }

    async fn newest_heartbeat(
        &self,
        _name: &str,
        _region: &Region,
        _deadline: Duration,
    ) -> Result<Option<Timestamp>, ProbeError> {
        Ok(None)
    }

    async fn fence(&self, name: &str, deadline: Duration) -> Result<String, ProbeError> {
        let region = region_of(name).expect("an endpoint of the world");
        if !self.world.truth().up[region] {
            tokio::time::sleep(deadline).await;
            return Err(ProbeError::new("timeout", "no connection"));
        }
        let fenced = self.call(Service::Database, "fence", |truth| truth.fence(region)).await;
        fenced.map(|()| "read-only".into()).map_err(|detail| ProbeError::new("timeout", detail))
    }
}

#[async_trait]
impl Bus for Process {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError> {
        let published = self.call(Service::Bus, "publish", |truth| truth.now).await;
        let _count = events.len();
        published.map(drop).map_err(|detail| BusError::Call { bus: "simulated".into(), detail })
    }
}

/// What everything looks like from outside, for messages.
pub(crate) fn message(source: &str, detail_type: &str, detail: &str, id: &str) -> String {
    format!(
        r#"{{"version":"0","id":"{id}","detail-type":"{detail_type}","source":"{source}","account":"123456789012","time":"","region":"{}","resources":[],"detail":{detail}}}"#,
        truth::WEST
    )
}
