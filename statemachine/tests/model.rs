//! Model checking of the real `step` in a world that is out to break it: two controllers with stale copies of the
//! record, executors that crash between look and call and before their result, results that come late and twice, an
//! operator, and a primary that dies and returns. The executors do what the service's do: claim, look, call, look.
//!
//! Exhaustive within the bounds in [`Bounds`]. `MODEL_BOUND=large cargo test --release -p statemachine --test model`
//! goes further. Each protection is also taken away from the world, one at a time, to show that the check would
//! notice.

mod common;

use RerouteWhen::{AfterPromotion, Overlapped};
use common::{EAST, WEST, arn, assessment, config, probe};
use statemachine::{
    Claimant, Command, Config, Effect, EffectId, EffectResult, Envelope, Epoch, Event, EventId, FailoverInProgress,
    How, Mode, Order, Outcome, Overlap, Record, Report, RerouteWhen, Timestamp, Way, invariants, next_wakeup, step,
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

/// One tick of the coarse clock, in milliseconds.
const TICK_MS: u64 = 10_000;

/// How far the exploration goes.
#[derive(Clone, Copy)]
struct Bounds {
    ticks: u64,
    crashes: u8,
    orders: u8,
    /// Promotions that RDS accepts and gives up.
    given_up: u8,
}

impl Bounds {
    fn usual() -> Self {
        if std::env::var("MODEL_BOUND").is_ok_and(|bound| bound == "large") {
            Self { ticks: 4, crashes: 2, orders: 2, given_up: 1 }
        } else {
            Self { ticks: 3, crashes: 1, orders: 1, given_up: 1 }
        }
    }
}

/// Where a search for a broken property ends, if it finds none.
const STATES_MAX: usize = 2_000_000;

const I1: &str = "I1 one accepted promotion per epoch";
const I4: &str = "I4 nothing is claimed that the evidence does not confirm";
const ONE_ORDER: &str = "one order moves the writer once";

/// A protection that the world goes without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// The executor calls without a look at the world.
    Look,
    /// Executors run what is pending without a claim.
    Claim,
    /// A command's epoch is not compared.
    Epoch,
    /// Evidence is not checked again when the promotion is claimed.
    Recheck,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    stored: Record,
    version: u32,
    /// What each controller has loaded, with its version.
    copies: [Option<(Record, u32)>; 2],
    /// What executors are at.
    runs: Vec<Run>,
    /// Results on their way; delivered any number of times.
    results: Vec<EffectResult>,
    ticks: u64,
    ticks_max: u64,
    orders: u8,
    east_is_up: bool,
    crashes: u8,
    /// Promotions that RDS accepted and gave up.
    given_up: u8,
    // What is true outside.
    writer: &'static str,
    failing_over_to: Option<&'static str>,
    dns: &'static str,
    /// Accepted calls, by epoch.
    accepted: Vec<Epoch>,
    /// Orders that the operator gave, and moves of the writer that followed one.
    ordered: u8,
    ordered_moves: u8,
    /// A promotion was claimed while the evidence did not confirm the outage, and nobody ordered it.
    claimed_in_vain: bool,
    broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    effect: Effect,
    result: EffectResult,
    until: Timestamp,
    looked: bool,
    /// It was seen under way before.
    under_way: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Act {
    Time,
    /// A controller looks at its deadlines.
    Tick,
    Probe {
        vantage: usize,
        controller: usize,
    },
    EastDies,
    EastReturns,
    Claim(usize),
    Look(usize),
    Call {
        run: usize,
        crash: bool,
    },
    RdsFinishes,
    RdsGivesUp,
    Deliver {
        result: usize,
        controller: usize,
    },
    /// The one order of [`Story::LateOrder`], again.
    OrderFailover(usize),
    Command(Wish),
}

/// What an operator may say, by one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wish {
    Approve,
    Abort,
    Pause,
    Resume,
    Failover,
    Acknowledge,
}

const WISHES: [Wish; 6] = [Wish::Approve, Wish::Abort, Wish::Pause, Wish::Resume, Wish::Failover, Wish::Acknowledge];

/// What the world is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// Mode `auto`, and nobody says anything.
    Autonomous,
    /// Mode `approve`, and an operator who says anything at any time.
    Operator,
    /// An operator's failover has been carried out, and its message comes again.
    LateOrder,
    /// A promotion has just been decided.
    Promoting,
    /// The same, and the name goes ahead of it; RDS may give it up.
    Overlapping,
}

struct Sys {
    bounds: Bounds,
    without: Without,
    story: Story,
    /// Fingerprints of the stored records and outside worlds that were seen to heal.
    healed: Mutex<HashSet<u64>>,
}

impl Sys {
    fn new(bounds: Bounds, without: Without, story: Story) -> Self {
        Self { bounds, without, story, healed: Mutex::default() }
    }

    /// I8: whatever happened so far, from now on all is well, and an operator acknowledges what needs it. Then it is
    /// healthy again, after a bounded time, with nothing left to do, and the name leads to the writer.
    fn heals(&self, w: &World) -> bool {
        let mut hasher = DefaultHasher::new();
        (&w.stored, w.writer, w.failing_over_to, w.dns).hash(&mut hasher);
        if self.healed.lock().expect("nobody panics").contains(&hasher.finish()) {
            return true;
        }
        let mut w = w.clone();
        (w.runs, w.results, w.copies, w.east_is_up) = (Vec::new(), Vec::new(), [None, None], true);
        for round in 0..40 {
            let record = &w.stored;
            let settled = record.state.name() == "healthy" && record.episode.is_none() && record.pending.is_empty();
            if settled && w.dns == w.writer {
                self.healed.lock().expect("nobody panics").insert(hasher.finish());
                return true;
            }
            let due = next_wakeup(record).unwrap_or_default().0.saturating_sub(w.now().0).div_ceil(TICK_MS);
            w.ticks += due.max(1);
            w.writer = w.failing_over_to.take().unwrap_or(w.writer);
            for vantage in 0..2 {
                w.probe(vantage, 0, Without::Nothing);
            }
            w.turn(0, Event::Tick, Without::Nothing);
            if round % 10 == 9 {
                let event = Event::Command(command(&w, w.stored.epoch, Order::Acknowledge));
                w.turn(0, event, Without::Nothing);
                // Whoever takes over by hand puts the name right, too.
                w.dns = w.writer;
            }
            w.turn(0, Event::Claim(Claimant { by: "healer".into() }), Without::Nothing);
            for run in std::mem::take(&mut w.runs) {
                let outcome = w.look(&run).unwrap_or_else(|| {
                    w.call(&run.effect);
                    w.look(&run).unwrap_or(Outcome::Unknown { detail: String::new() })
                });
                w.turn(0, Event::Result(EffectResult { outcome, ..run.result }), Without::Nothing);
            }
        }
        println!("a dead end: {:?}, writer {}, DNS {}", w.stored, w.writer, w.dns);
        false
    }
}

fn model_config() -> Config {
    let mut config = config();
    config.policy.vantages.truncate(2);
    config.policy.failures_min = 2;
    config.policy.confirm_after_ms = TICK_MS;
    config.policy.recover_after = 1;
    config.policy.claim_ttl_ms = TICK_MS;
    config.policy.event_age_max_ms = 1_000_000;
    config.policy.vantage_stale_after_ms = 1_000_000;
    config.policy.heartbeat_ms = 1_000_000_000;
    config.routes[0].ttl_s = 0;
    config
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000_000 + self.ticks * TICK_MS)
    }

    fn new(mode: Mode, bounds: Bounds, reroute: RerouteWhen) -> Self {
        let now = Timestamp(1_000_000_000);
        let mut config = model_config();
        config.policy.reroute = reroute;
        let mut record = Record::new("orders".into(), config, mode, now);
        record.proven = true;
        record.blind = false;
        let mut world = Self {
            stored: record,
            version: 0,
            copies: [None, None],
            runs: Vec::new(),
            results: Vec::new(),
            ticks: 0,
            ticks_max: bounds.ticks,
            orders: 0,
            east_is_up: true,
            crashes: 0,
            given_up: 0,
            writer: EAST,
            failing_over_to: None,
            dns: EAST,
            accepted: Vec::new(),
            ordered: 0,
            ordered_moves: 0,
            claimed_in_vain: false,
            broken: false,
        };
        for vantage in 0..2 {
            let mut lag = probe(common::VANTAGES[vantage], 1, WEST, "read-only");
            lag.lag_ms = Some(10);
            world.turn(0, Event::Probe(lag), Without::Nothing);
            world.turn(0, Event::Probe(probe(common::VANTAGES[vantage], 1, EAST, "ok")), Without::Nothing);
        }
        world.stored.effects_issued = EffectId(0);
        world.copies = [None, None];
        // The exploration begins a moment after everybody has seen all well.
        world.ticks = 1;
        world
    }

    /// One probe of the primary per tick and vantage: the sequence is the time.
    fn probe(&mut self, vantage: usize, controller: usize, without: Without) {
        let primary = self.stored.primary.to_string();
        let outcome = if self.is_up(&primary) && self.writer == primary { "ok" } else { "timeout" };
        let event = Event::Probe(probe(common::VANTAGES[vantage], self.ticks + 2, &primary, outcome));
        self.turn(controller, event, without);
    }

    /// One turn of one controller: on its own copy, committed only if nobody was faster.
    fn turn(&mut self, controller: usize, event: Event, without: Without) -> bool {
        let (copy, version) = self.copies[controller].take().unwrap_or_else(|| (self.stored.clone(), self.version));
        let claims = matches!(event, Event::Claim(_));
        let mut before = copy;
        let evidence = before.evidence.clone();
        if claims && without == Without::Recheck {
            // The claim sees the evidence of the decision instead of today's.
            for track in before.evidence.tracks.values_mut() {
                let now = self.now();
                track.failures = vec![Timestamp(now.0 - TICK_MS), now];
                track.failing_since = Some(Timestamp(now.0 - 2 * TICK_MS));
            }
        }
        let envelope = Envelope { id: EventId::default(), at: self.now(), event };
        let mut decision = step(before.clone(), &envelope, self.now());
        if claims && without == Without::Recheck {
            decision.record.evidence = evidence;
        }
        let mut record = decision.record;
        // Announcements and fences hold nothing back and are out of this world; event ids only recognise copies, which sequences and tokens do here.
        record.pending.retain(|p| !matches!(p.effect, Effect::Announce { .. } | Effect::Fence { .. }));
        record.seen.clear();
        if !decision.verdict.is_durable() {
            self.copies[controller] = Some((record, version));
            return true;
        }
        if version != self.version {
            return false;
        }
        self.broken |= invariants::check(&record).is_err();
        for id in &decision.claimed {
            let Some(pending) = record.pending(*id) else { continue };
            let (Some(claim), first) = (&pending.claim, before.pending(*id).is_some_and(|p| !p.ever_claimed)) else {
                continue;
            };
            if matches!(pending.effect, Effect::Promote { how: How::Failover, .. }) && first {
                let ordered = record.episode.as_ref().is_some_and(|episode| episode.ordered.is_some());
                let approved = record.episode.as_ref().is_some_and(|episode| episode.approval.is_some());
                let confirmed = record.evidence.confirms_down(&record.config, self.now()).reached();
                self.claimed_in_vain |= !ordered && !confirmed;
                self.claimed_in_vain |= record.paused.is_some();
                self.claimed_in_vain |= record.mode != Mode::Auto && !ordered && !approved;
            }
            let outcome = Outcome::Unknown { detail: String::new() };
            let result = EffectResult { effect: *id, token: claim.token, outcome };
            self.runs.push(Run {
                effect: pending.effect.clone(),
                result,
                until: claim.expires_at,
                looked: false,
                under_way: pending.under_way,
            });
        }
        self.version += 1;
        self.stored = record.clone();
        self.copies[controller] = Some((record, self.version));
        true
    }

    /// What RDS and DNS answer now; none where a call is the next step.
    fn look(&self, run: &Run) -> Option<Outcome> {
        let done = |report| Some(Outcome::Done { report });
        match &run.effect {
            Effect::Assess { .. } => {
                let mut answer = assessment(self.writer);
                answer.failover =
                    self.failing_over_to.map(|to| FailoverInProgress { status: "failing-over".into(), to: arn(to) });
                done(Report::Assessed(answer))
            }
            Effect::Promote { to, .. } if *to == arn(self.writer) && self.failing_over_to.is_none() => {
                done(Report::Promoted { called: false, heartbeat_at: None, detail: String::new() })
            }
            Effect::Promote { .. } if self.failing_over_to.is_some() => {
                Some(Outcome::InProgress { detail: String::new() })
            }
            Effect::Promote { .. } if run.under_way => Some(Outcome::Refused { detail: String::new() }),
            Effect::Promote { how: How::Follow, .. } => Some(Outcome::Refused { detail: String::new() }),
            Effect::Promote { .. } => None,
            Effect::Reroute { overlap: Some(overlap), .. } if !self.presumed(overlap) => {
                Some(Outcome::InProgress { detail: String::new() })
            }
            Effect::Reroute { changes, .. } if changes[0].to == endpoint(self.dns) => {
                done(Report::Rerouted { at: self.now(), detail: String::new() })
            }
            Effect::Reroute { changes, .. } if changes[0].from != endpoint(self.dns) => {
                Some(Outcome::Refused { detail: String::new() })
            }
            Effect::Reroute { .. } => None,
            Effect::Verify { changes, region, .. } => {
                let proven = changes[0].to == endpoint(self.dns) && region.as_str() == self.writer;
                if proven {
                    done(Report::Verified { detail: String::new() })
                } else {
                    Some(Outcome::Retry { detail: String::new() })
                }
            }
            Effect::FailOverInRegion { .. } => done(Report::FailingOverInRegion),
            Effect::Fence { .. } | Effect::Announce { .. } => None,
        }
    }

    /// RDS accepts whatever reaches it while nothing runs: nothing documented says that it would not.
    fn call(&mut self, effect: &Effect) {
        match effect {
            Effect::Promote { region, epoch, .. } if self.failing_over_to.is_none() => {
                self.accepted.push(*epoch);
                self.failing_over_to = Some(if region.as_str() == EAST { EAST } else { WEST });
            }
            // A compare-and-swap.
            Effect::Reroute { changes, .. } if changes[0].from == endpoint(self.dns) => {
                self.dns = if changes[0].to == endpoint(EAST) { EAST } else { WEST };
            }
            _ => {}
        }
    }

    /// What names that move while the writer does presume of RDS.
    fn presumed(&self, overlap: &Overlap) -> bool {
        match self.failing_over_to {
            Some(to) => overlap.way == Way::Ahead && overlap.region.as_str() == to,
            None => overlap.region.as_str() == self.writer,
        }
    }

    fn is_up(&self, region: &str) -> bool {
        region == WEST || self.east_is_up
    }
}

fn endpoint(region: &str) -> String {
    format!("orders.{region}.")
}

impl Sys {
    /// An operator's failover has been carried out, and its message may still come again.
    fn after_one_order(&self) -> World {
        let begun = self.next_state(&World::new(Mode::Auto, self.bounds, AfterPromotion), Act::OrderFailover(0));
        let mut w = self.drive(begun.expect("the order is taken"), "stable");
        w.ticks_max = w.ticks + 1;
        w
    }

    /// An outage is confirmed and the promotion decided; nothing is claimed yet.
    fn promoting(&self, reroute: RerouteWhen) -> World {
        let mut w = World::new(Mode::Auto, self.bounds, reroute);
        w.east_is_up = false;
        for _ in 0..2 {
            w.probe(0, 0, Without::Nothing);
            w.probe(1, 0, Without::Nothing);
            w.ticks += 1;
        }
        let mut w = self.drive(w, "promoting");
        w.ticks_max = w.ticks + 2;
        w
    }

    /// Whatever is due is done, until `state`.
    fn drive(&self, mut w: World, state: &str) -> World {
        let sound = Self::new(self.bounds, Without::Nothing, self.story);
        w.ticks_max = u64::MAX;
        for _ in 0..200 {
            if w.stored.state.name() == state {
                return w;
            }
            let act = if !w.results.is_empty() {
                Act::Deliver { result: 0, controller: 0 }
            } else if w.failing_over_to.is_some() {
                Act::RdsFinishes
            } else if w.runs.first().is_some_and(|run| run.looked) {
                Act::Call { run: 0, crash: false }
            } else if !w.runs.is_empty() {
                Act::Look(0)
            } else if let Some(claimed) = sound.next_state(&w, Act::Claim(0)).filter(|next| !next.runs.is_empty()) {
                w = claimed;
                continue;
            } else {
                Act::Time
            };
            w = sound.next_state(&w, act).expect("every act changes something here");
        }
        panic!("{state} is never reached: {:?}", w.stored.state)
    }
}

impl Model for Sys {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![match self.story {
            Story::Autonomous => World::new(Mode::Auto, self.bounds, AfterPromotion),
            Story::Operator => World::new(Mode::Approve, self.bounds, AfterPromotion),
            Story::LateOrder => self.after_one_order(),
            Story::Promoting => self.promoting(AfterPromotion),
            Story::Overlapping => self.promoting(Overlapped),
        }]
    }

    fn actions(&self, w: &World, acts: &mut Vec<Act>) {
        if w.ticks < w.ticks_max {
            acts.push(Act::Time);
        }
        // Past the point of no return evidence decides nothing.
        let seeing = self.story != Story::Overlapping;
        if seeing {
            acts.push(if w.east_is_up { Act::EastDies } else { Act::EastReturns });
        }
        // Races of controllers are the autonomous story's; an operator's are with time and evidence, a name's with RDS.
        let controllers = if matches!(self.story, Story::Operator | Story::Overlapping) { 1 } else { 2 };
        for vantage in 0..if seeing { 2 } else { 0 } {
            acts.push(Act::Probe { vantage, controller: vantage % controllers });
        }
        for controller in 0..controllers {
            acts.push(Act::Claim(controller));
        }
        for (run, at) in w.runs.iter().enumerate() {
            if !at.looked && self.without != Without::Look {
                acts.push(Act::Look(run));
            } else {
                acts.push(Act::Call { run, crash: false });
                if w.crashes < self.bounds.crashes {
                    acts.push(Act::Call { run, crash: true });
                }
            }
        }
        if w.failing_over_to.is_some() {
            acts.push(Act::RdsFinishes);
            if self.story == Story::Overlapping && w.given_up < self.bounds.given_up {
                acts.push(Act::RdsGivesUp);
            }
        }
        for result in 0..w.results.len() {
            acts.push(Act::Deliver { result, controller: result % controllers });
        }
        match self.story {
            Story::Autonomous | Story::Promoting | Story::Overlapping => {}
            Story::Operator => {
                acts.push(Act::Tick);
                if w.orders < self.bounds.orders {
                    acts.extend(WISHES.map(Act::Command));
                }
            }
            Story::LateOrder => {
                acts.push(Act::OrderFailover(0));
                acts.push(Act::Command(Wish::Acknowledge));
            }
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut w = last.clone();
        match act {
            Act::Time => w.ticks += 1,
            Act::EastDies => w.east_is_up = false,
            Act::EastReturns => w.east_is_up = true,
            Act::Probe { vantage, controller } => {
                w.probe(vantage, controller, self.without);
            }
            Act::Claim(controller) => {
                if self.without == Without::Claim {
                    // Whoever has loaded something pending runs it.
                    let (copy, _) = w.copies[controller].clone().unwrap_or_else(|| (w.stored.clone(), w.version));
                    for pending in &copy.pending {
                        let token = pending.claim.as_ref().map(|claim| claim.token).unwrap_or_default();
                        let outcome = Outcome::Unknown { detail: String::new() };
                        let result = EffectResult { effect: pending.id, token, outcome };
                        let run = Run {
                            effect: pending.effect.clone(),
                            result,
                            until: Timestamp(u64::MAX),
                            looked: false,
                            under_way: pending.under_way,
                        };
                        if w.runs.iter().filter(|at| at.effect == run.effect).count() < 2 {
                            w.runs.push(run);
                        }
                    }
                }
                w.turn(controller, Event::Claim(Claimant { by: format!("c{controller}").into() }), self.without);
            }
            Act::Look(run) => {
                if w.now() >= w.runs[run].until {
                    w.runs.remove(run);
                } else if let Some(outcome) = w.look(&w.runs[run]) {
                    let run = w.runs.remove(run);
                    w.results.push(EffectResult { outcome, ..run.result });
                } else {
                    w.runs[run].looked = true;
                }
            }
            Act::Call { run, crash } => {
                let run = w.runs.remove(run);
                if w.now() < run.until {
                    w.call(&run.effect);
                }
                if crash {
                    w.crashes += 1;
                } else {
                    let outcome = w.look(&run).unwrap_or(Outcome::Unknown { detail: String::new() });
                    w.results.push(EffectResult { outcome, ..run.result });
                }
            }
            Act::RdsFinishes => {
                let to = w.failing_over_to.take()?;
                if w.writer != to && w.ordered > 0 {
                    w.ordered_moves += 1;
                }
                w.writer = to;
            }
            Act::RdsGivesUp => {
                w.failing_over_to = None;
                w.given_up += 1;
                // It moved nothing, and does not count for its epoch.
                w.accepted.pop();
            }
            Act::Deliver { result, controller } => {
                let event = Event::Result(w.results[result].clone());
                if w.turn(controller, event, self.without) {
                    // Delivered; a copy may come once more, and must change nothing then.
                    let again = w.results.remove(result);
                    let other = if matches!(self.story, Story::Operator | Story::Overlapping) {
                        controller
                    } else {
                        1 - controller
                    };
                    w.turn(other, Event::Result(again), self.without);
                }
            }
            Act::OrderFailover(controller) => {
                // The same wish, late or repeated: always meant for the first epoch.
                let epoch = if self.without == Without::Epoch { w.stored.epoch } else { Epoch(1) };
                w.ordered = 1;
                let order = Order::Failover { target: None, allow_data_loss: true };
                let event = Event::Command(command(&w, epoch, order));
                w.turn(controller, event, self.without);
            }
            Act::Command(wish) => {
                w.orders += u8::from(self.story == Story::Operator);
                let order = match wish {
                    Wish::Approve => Order::Approve { allow_data_loss: true },
                    Wish::Abort => Order::Abort,
                    Wish::Pause => Order::Pause { until: w.now().plus_ms(TICK_MS) },
                    Wish::Resume => Order::Resume,
                    Wish::Failover => Order::Failover { target: None, allow_data_loss: true },
                    Wish::Acknowledge => Order::Acknowledge,
                };
                let event = Event::Command(command(&w, w.stored.epoch, order));
                w.turn(0, event, self.without);
            }
            Act::Tick => drop(w.turn(0, Event::Tick, self.without)),
        }
        // Refusals are kept in history, not here; nonces only recognise copies.
        w.stored.nonces.clear();
        w.copies.iter_mut().flatten().for_each(|(record, _)| record.nonces.clear());
        // A copy that is current need not be told apart from none.
        for copy in &mut w.copies {
            if copy.as_ref().is_some_and(|(record, version)| *version == w.version && *record == w.stored) {
                *copy = None;
            }
        }
        w.runs.dedup();
        w.results.dedup();
        let same =
            World { version: 0, copies: last.copies.clone(), ..w.clone() } == World { version: 0, ..last.clone() };
        (!same || w.copies != last.copies).then_some(w)
    }

    fn within_boundary(&self, w: &World) -> bool {
        w.version < 60
            && w.runs.len() <= 3
            && w.results.len() <= 2
            && w.accepted.len() <= 2
            && w.stored.effects_issued.0 < if self.story == Story::LateOrder { 28 } else { 13 }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, w: &World| w.accepted.iter().collect::<BTreeSet<_>>().len() == w.accepted.len()),
            Property::always("I3 stable means that DNS answers the writer", |_, w: &World| {
                w.stored.state.name() != "stable" || (w.dns == w.writer && w.writer == w.stored.primary.as_str())
            }),
            Property::always(I4, |_, w: &World| !w.claimed_in_vain),
            Property::always("I8 a path leads back to healthy", |sys: &Self, w: &World| sys.heals(w)),
            Property::always(ONE_ORDER, |_, w: &World| w.ordered_moves <= 1),
            Property::always("the record's own invariants", |_, w: &World| !w.broken),
            Property::sometimes("stable is reached", |_, w: &World| w.stored.state.name() == "stable"),
            Property::sometimes("an episode is averted", |_, w: &World| {
                w.stored.state.name() == "healthy" && w.version > 6 && w.accepted.is_empty()
            }),
        ]
    }
}

fn command(w: &World, epoch: Epoch, order: Order) -> Command {
    Command {
        actor: "alice".into(),
        on_behalf_of: None,
        reason: "model".into(),
        expected_epoch: epoch,
        expires_at: w.now().plus_ms(1),
        nonce: "one".into(),
        order,
    }
}

/// Is a way found to break `property` when the world goes without a protection?
fn is_broken(property: &'static str, without: Without, story: Story) -> bool {
    let sys = Sys::new(Bounds::usual(), without, story);
    let wanted = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = sys.checker().finish_when(wanted).target_state_count(STATES_MAX).spawn_bfs().join();
    println!("{story:?} without {without:?}: {} distinct states", checker.unique_state_count());
    checker.discovery(property).is_some()
}

fn nothing_breaks(story: Story, bounds: Bounds) -> usize {
    let checker = Sys::new(bounds, Without::Nothing, story).checker().spawn_dfs().join();
    println!("{story:?}: {} distinct states, nothing breaks", checker.unique_state_count());
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn within_the_bounds_nothing_breaks() {
    let states = nothing_breaks(Story::Autonomous, Bounds::usual());
    assert!(states >= 100_000, "only {states} states");
}

#[test]
fn a_name_that_goes_ahead_of_a_promotion_leads_to_the_writer_in_the_end() {
    let checker = Sys::new(Bounds { ticks: 2, ..Bounds::usual() }, Without::Nothing, Story::Overlapping);
    let checker = checker.checker().spawn_dfs().join();
    println!("Overlapping: {} distinct states", checker.unique_state_count());
    let broken: Vec<_> = checker.discoveries().into_keys().filter(|name| *name != "an episode is averted").collect();
    assert_eq!(broken, ["stable is reached"], "what is reached is told like what is broken");
    assert!(checker.unique_state_count() >= 10_000);
}

#[test]
fn an_operator_who_says_anything_at_any_time_breaks_nothing() {
    let states = nothing_breaks(Story::Operator, Bounds { ticks: 2, crashes: 0, ..Bounds::usual() });
    assert!(states >= 10_000, "only {states} states");
}

#[test]
fn a_late_copy_of_an_order_breaks_nothing() {
    let checker = Sys::new(Bounds::usual(), Without::Nothing, Story::LateOrder).checker().spawn_dfs().join();
    let sometimes = ["stable is reached", "an episode is averted"];
    let broken: Vec<_> = checker.discoveries().into_keys().filter(|name| !sometimes.contains(name)).collect();
    assert_eq!(broken, Vec::<&str>::new());
}

#[test]
fn without_a_look_before_the_call_a_promotion_happens_twice() {
    assert!(is_broken(I1, Without::Look, Story::Promoting));
}

#[test]
fn without_claims_a_promotion_happens_twice() {
    assert!(is_broken(I1, Without::Claim, Story::Promoting));
}

#[test]
fn without_the_epoch_a_late_order_moves_the_writer_again() {
    assert!(is_broken(ONE_ORDER, Without::Epoch, Story::LateOrder));
}

#[test]
fn without_the_check_before_the_claim_a_primary_that_is_back_is_failed_over() {
    assert!(is_broken(I4, Without::Recheck, Story::Promoting));
}
