//! A cluster for tests: a record with a clock and hands, doing what the service would do, without the service.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::missing_panics_doc)]

use statemachine::{
    Alarm, Arn, Assessment, Claimant, ClusterFacts, Command, Config, Decision, EffectId, EffectResult, Envelope, Event,
    EventId, Member, MemberFacts, Mode, Observation, Order, Outcome, Policy, Probe, ProbeOutcome, RdsEvent, Record,
    Report, Route, RouteBy, SelfCheck, Timestamp, invariants, next_wakeup, step,
};

pub const EAST: &str = "us-east-1";
pub const WEST: &str = "us-west-2";
pub const VANTAGES: [&str; 3] = ["east", "west", "witness"];

pub fn arn(region: &str) -> Arn {
    Arn(format!("arn:aws:rds:{region}:1:cluster:orders"))
}

pub fn config() -> Config {
    let member = |region: &str, priority| Member {
        region: region.into(),
        arn: arn(region),
        endpoint: format!("orders.{region}."),
        priority,
    };
    Config {
        hash: "one".into(),
        members: vec![member(EAST, 0), member(WEST, 0)],
        routes: vec![Route { zone: "Z".into(), name: "db.example.".into(), ttl_s: 5, by: RouteBy::Record }],
        alarms: Vec::new(),
        probes: Vec::new(),
        policy: Policy::standard(VANTAGES.map(Into::into).to_vec()),
    }
}

/// A record with a clock and hands: what the service would do, without the service.
pub struct Cluster {
    pub record: Option<Record>,
    pub now: Timestamp,
    pub sequence: u64,
    pub events: u64,
}

impl Cluster {
    pub fn new(mode: Mode) -> Self {
        let now = Timestamp(1_800_000_000_000);
        Self { record: Some(Record::new("orders".into(), config(), mode, now)), now, sequence: 0, events: 0 }
    }

    /// Proven, seen by all vantages, lag known.
    pub fn healthy(mode: Mode) -> Self {
        let mut cluster = Self::new(mode);
        cluster.probe_lag(40);
        cluster.round("ok ok ok");
        assert_eq!(cluster.state(), "healthy");
        assert!(cluster.record().proven && !cluster.record().blind);
        cluster
    }

    pub fn record(&self) -> &Record {
        self.record.as_ref().expect("a record is always put back")
    }

    pub fn state(&self) -> &'static str {
        self.record().state.name()
    }

    pub fn give(&mut self, event: Event) -> Decision {
        self.events += 1;
        let id = EventId(format!("event-{}", self.events));
        self.give_as(Envelope { id, at: self.now, event })
    }

    pub fn give_as(&mut self, envelope: Envelope) -> Decision {
        let before = self.record.take().expect("a record is always put back");
        let decision = step(before, &envelope, self.now);
        invariants::check(&decision.record).expect("invariants hold after every step");
        self.record = Some(decision.record.clone());
        decision
    }

    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn probe(&mut self, vantage: &str, outcome: &str) -> Decision {
        self.sequence += 1;
        self.give(Event::Probe(probe(vantage, self.sequence, EAST, outcome)))
    }

    pub fn probe_lag(&mut self, ms: u64) {
        self.sequence += 1;
        let mut about_west = probe("witness", self.sequence, WEST, "read-only");
        about_west.lag_ms = Some(ms);
        self.give(Event::Probe(about_west));
    }

    /// One probe per vantage, `ok`, `isolated`, `-` for silence, or an error class; the last decision.
    pub fn round(&mut self, outcomes: &str) -> Option<Decision> {
        let mut last = None;
        for (vantage, outcome) in VANTAGES.iter().zip(outcomes.split(' ')) {
            if outcome != "-" {
                last = Some(self.probe(vantage, outcome));
            }
        }
        last
    }

    /// Rounds ten seconds apart.
    pub fn rounds(&mut self, count: u32, outcomes: &str) {
        for _ in 0..count {
            self.wait(10_000);
            self.round(outcomes);
        }
    }

    pub fn claim(&mut self) -> Decision {
        self.give(Event::Claim(Claimant { by: "controller-1".into() }))
    }

    pub fn pending(&self, name: &str) -> Option<EffectId> {
        self.record().pending.iter().find(|p| p.effect.name() == name).map(|p| p.id)
    }

    /// Claims what is due and answers the pending effect `name`.
    pub fn answer(&mut self, name: &str, outcome: Outcome) -> Decision {
        self.claim();
        let effect = self.pending(name).unwrap_or_else(|| panic!("{name} is pending in {:?}", self.record().pending));
        let token = self.record().pending(effect).and_then(|p| p.claim.clone()).expect("it was claimed").token;
        self.give(Event::Result(EffectResult { effect, token, outcome }))
    }

    /// Answers an effect that is claimed already.
    pub fn done_claimed(&mut self, name: &str, report: Report) -> Decision {
        let effect = self.pending(name).expect("it is pending");
        let token = self.record().pending(effect).and_then(|p| p.claim.clone()).expect("it is claimed").token;
        self.give(Event::Result(EffectResult { effect, token, outcome: Outcome::Done { report } }))
    }

    pub fn done(&mut self, name: &str, report: Report) -> Decision {
        self.answer(name, Outcome::Done { report })
    }

    /// Answers everything that no state waits for.
    pub fn done_beside(&mut self) {
        self.claim();
        while self.pending("announce").is_some() {
            self.done_claimed("announce", Report::Announced);
        }
        while self.pending("fence").is_some() {
            self.done_claimed("fence", Report::Fenced { detail: String::new() });
        }
    }

    pub fn confirmed_down(mode: Mode) -> Self {
        let mut cluster = Self::healthy(mode);
        cluster.rounds(4, "- timeout timeout");
        assert_eq!(cluster.state(), "confirmed-down");
        cluster
    }

    pub fn promoting() -> Self {
        let mut cluster = Self::confirmed_down(Mode::Auto);
        let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
        assert_eq!(cluster.state(), "promoting", "{:?}", decision.guards);
        cluster
    }

    pub fn stable() -> Self {
        let mut cluster = Self::promoting();
        cluster.done("promote", promoted());
        cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
        cluster.wait(5_000);
        cluster.done("verify", Report::Verified { detail: String::new() });
        assert_eq!(cluster.state(), "stable");
        cluster
    }
}

pub fn observation(name: &str, vantage: &str, sequence: u64, outcome: &str) -> Observation {
    let Probe { vantage, incarnation, outcome, self_check, latency_ms, .. } = probe(vantage, sequence, EAST, outcome);
    Observation { vantage, incarnation, sequence, name: name.into(), outcome, self_check, latency_ms }
}

pub fn probe(vantage: &str, sequence: u64, target: &str, outcome: &str) -> Probe {
    let (outcome, self_check) = match outcome {
        "ok" => (ProbeOutcome::Ok, SelfCheck::Ok),
        "isolated" => (ProbeOutcome::Failed { class: "timeout".into() }, SelfCheck::Failed),
        class => (ProbeOutcome::Failed { class: class.into() }, SelfCheck::Ok),
    };
    Probe {
        vantage: vantage.into(),
        incarnation: "run-1".into(),
        sequence,
        target: target.into(),
        outcome,
        self_check,
        latency_ms: 3,
        connect_ms: None,
        connect_failure: None,
        dropped: 0,
        lag_ms: None,
    }
}

pub fn promoted() -> Report {
    Report::Promoted { called: true, heartbeat_at: None, detail: String::new() }
}

pub fn assessment(writer: &str) -> Assessment {
    let member = |region: &str| MemberFacts {
        arn: arn(region),
        writer: region == writer,
        synchronization: Some("connected".into()),
        cluster: Some(ClusterFacts { status: "available".into(), engine_version: "16.6".into(), instances: 1 }),
    };
    Assessment {
        asked: WEST.into(),
        status: "available".into(),
        engine_version: "16.6".into(),
        members: vec![member(EAST), member(WEST)],
        failover: None,
    }
}

impl Cluster {
    /// An operator's order, in order.
    pub fn order(&mut self, order: Order) -> Decision {
        let command = self.command(order);
        self.give(Event::Command(command))
    }

    /// The command that [`Cluster::order`] gives.
    pub fn command(&mut self, order: Order) -> Command {
        self.events += 1;
        Command {
            actor: "alice".into(),
            on_behalf_of: None,
            reason: "test".into(),
            expected_epoch: self.record().epoch,
            expires_at: self.now.plus_ms(60_000),
            nonce: format!("nonce-{}", self.events),
            order,
        }
    }

    /// RDS says something about the cluster in `region`.
    pub fn rds(&mut self, code: &str, region: &str) -> Decision {
        self.give(Event::Rds(RdsEvent { code: code.into(), source: arn(region) }))
    }

    /// An alarm changes.
    pub fn alarm(&mut self, name: &str, in_alarm: bool) -> Decision {
        self.give(Event::Alarm(Alarm { name: name.into(), in_alarm }))
    }

    /// What each vantage of [`VANTAGES`] sees of an observed target: `ok`, a failure's class, `isolated`, or `-`.
    pub fn observe(&mut self, name: &str, seen: &str) -> Option<Decision> {
        let mut last = None;
        for (vantage, outcome) in VANTAGES.iter().zip(seen.split(' ')).filter(|(_, outcome)| *outcome != "-") {
            self.sequence += 1;
            last = Some(self.give(Event::Observation(observation(name, vantage, self.sequence, outcome))));
        }
        last
    }

    /// Ticks until the record changes, at each wake-up; panics when nothing ever happens.
    pub fn tick_until(&mut self, what: &str, reached: impl Fn(&Record) -> bool) {
        for _ in 0..10_000 {
            if reached(self.record()) {
                return;
            }
            let next = next_wakeup(self.record()).unwrap_or_else(|| panic!("nothing is ever due: {what}"));
            self.now = next.max(self.now.plus_ms(1));
            self.give(Event::Tick);
            // Somebody is at everything that is due, and never comes back.
            self.claim();
        }
        panic!("never: {what}");
    }

    pub fn edit(&mut self, edit: impl FnOnce(&mut Record)) {
        edit(self.record.as_mut().expect("a record is always put back"));
    }

    pub fn set_mode(&mut self, mode: Mode) {
        self.edit(|record| record.mode = mode);
    }
}
