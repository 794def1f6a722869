//! Another service embeds the machine: it keeps the record, feeds it facts, stores what it decides, carries out what
//! it claims, and reports back. Here the facts are made up and the effects only pretend.
//!
//! Run it: `cargo run -p statemachine --example embed`

use statemachine::{
    Arn, Assessment, Claimant, ClusterFacts, Config, Decision, Effect, EffectResult, Envelope, Event, EventId, Member,
    MemberFacts, Mode, Outcome, Policy, Probe, ProbeOutcome, Record, Report, Route, RouteBy, SelfCheck, Timestamp,
    step,
};

const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";

/// A service: a stored record, a clock, and one loop.
struct Service {
    stored: Record,
    now: Timestamp,
    events: u64,
}

impl Service {
    /// One turn: decide, store, and only then act.
    fn turn(&mut self, event: Event) -> Decision {
        self.events += 1;
        let envelope = Envelope { id: EventId(format!("event-{}", self.events)), at: self.now, event };
        let decision = step(self.stored.clone(), &envelope, self.now);
        // A real service writes this with a condition on the version that it read, and decides anew if it lost.
        let before = std::mem::replace(&mut self.stored, decision.record.clone());
        if before.state.name() != self.stored.state.name() {
            println!("{:>15} -> {:<15} {}", before.state.name(), self.stored.state.name(), decision.rule.sentence());
        }
        for guard in &decision.guards {
            println!("{:>22} {}", guard.guard.name(), if guard.pass { "passes" } else { "refuses" });
        }
        decision
    }

    /// Claims what is due, carries it out, and reports each result under its claim's token.
    fn carry_out(&mut self) {
        let claimed = self.turn(Event::Claim(Claimant { by: "service-1".into() })).claimed;
        for id in claimed {
            let Some(pending) = self.stored.pending(id).cloned() else { continue };
            let Some(claim) = pending.claim else { continue };
            let report = match pending.effect {
                Effect::Assess { .. } => Report::Assessed(what_rds_says()),
                Effect::Promote { .. } => {
                    Report::Promoted { called: true, heartbeat_at: None, detail: "it committed a write".into() }
                }
                Effect::Fence { .. } => Report::Fenced { detail: "read-only".into() },
                Effect::FailOverInRegion { .. } => Report::FailingOverInRegion,
                Effect::Reroute { .. } => Report::Rerouted { at: self.now, detail: "in sync".into() },
                Effect::Verify { .. } => Report::Verified { detail: "a write came through".into() },
                Effect::Announce { .. } => Report::Announced,
            };
            let outcome = Outcome::Done { report };
            self.turn(Event::Result(EffectResult { effect: id, token: claim.token, outcome }));
        }
    }

    fn probe(&mut self, vantage: &str, target: &str, outcome: ProbeOutcome, lag_ms: Option<u64>) {
        let probe = Probe {
            vantage: vantage.into(),
            incarnation: "first run".into(),
            sequence: self.events,
            target: target.into(),
            outcome,
            self_check: SelfCheck::Ok,
            latency_ms: 4,
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms,
        };
        self.turn(Event::Probe(probe));
    }
}

fn main() {
    let now = Timestamp(1_800_000_000_000);
    let stored = Record::new("orders".into(), config(), Mode::Auto, now);
    let mut service = Service { stored, now, events: 0 };

    // Two vantages see the primary commit, and the replica follow 40 ms behind.
    let failed = || ProbeOutcome::Failed { class: "timeout".into() };
    for vantage in ["west", "witness"] {
        service.probe(vantage, EAST, ProbeOutcome::Ok, None);
        service.probe(vantage, WEST, ProbeOutcome::Failed { class: "read-only".into() }, Some(40));
    }
    service.carry_out();

    // The region dies. Four rounds of failures span the 30 s that the policy asks for.
    for _ in 0..4 {
        service.now = service.now.plus_ms(10_000);
        for vantage in ["west", "witness"] {
            service.probe(vantage, EAST, failed(), None);
        }
        service.carry_out();
    }

    // Promoted and rerouted; after the TTL a write through the public name is the proof.
    service.carry_out();
    service.carry_out();
    service.now = service.now.plus_ms(5_000);
    service.carry_out();
    assert_eq!(service.stored.state.name(), "stable");
    println!("the writer is in {}, epoch {}", service.stored.primary, service.stored.epoch);
}

fn arn(region: &str) -> Arn {
    Arn(format!("arn:aws:rds:{region}:123456789012:cluster:orders"))
}

fn what_rds_says() -> Assessment {
    let member = |region: &str| MemberFacts {
        arn: arn(region),
        writer: region == EAST,
        synchronization: Some("connected".into()),
        cluster: Some(ClusterFacts { status: "available".into(), engine_version: "16.6".into(), instances: 2 }),
    };
    Assessment {
        asked: WEST.into(),
        status: "available".into(),
        engine_version: "16.6".into(),
        members: vec![member(EAST), member(WEST)],
        failover: None,
    }
}

fn config() -> Config {
    let member = |region: &str| Member {
        region: region.into(),
        arn: arn(region),
        endpoint: format!("orders.cluster-x.{region}.rds.amazonaws.com."),
        priority: 0,
    };
    Config {
        hash: "example".into(),
        members: vec![member(EAST), member(WEST)],
        routes: vec![Route { zone: "Z1".into(), name: "db.example.com.".into(), ttl_s: 5, by: RouteBy::Record }],
        alarms: Vec::new(),
        probes: Vec::new(),
        policy: Policy::standard(vec!["west".into(), "witness".into()]),
    }
}
