//! The transition table and the state diagram, made by running [`step`], so that they cannot say anything else than
//! the code does. Each state is reached by a walk, then every kind of event is given to a copy of it.

use crate::{
    Alarm, Arn, Assessment, Claimant, ClusterFacts, Command, Config, Configured, Decision, Effect, EffectResult,
    Envelope, Event, EventId, Guard, LagReading, Member, MemberFacts, Mode, Observation, Order, Outcome, Policy, Probe,
    ProbeOutcome, RdsEvent, Record, Report, Route, SelfCheck, Timestamp, Verdict, next_wakeup, step,
};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

const EAST: &str = "us-east-2";
const WEST: &str = "us-west-2";
const VANTAGES: [&str; 3] = ["east", "west", "witness"];

/// The whole page: diagram, guards, and a table per state.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Transitions\n\nGenerated from the code; do not edit. `aurora-failover diagram` prints it.\n\n\
         ## Diagram\n\n```mermaid\nstateDiagram-v2\n    [*] --> healthy\n",
    );
    let tables: Vec<(Place, Vec<Row>)> = Place::ALL.iter().map(|place| (*place, rows(*place))).collect();
    let moves = tables.iter().flat_map(|(_, rows)| rows.iter()).filter(|row| row.from != row.to);
    let moves: BTreeSet<String> =
        moves.map(|row| format!("    {} --> {}: {}\n", name(&row.from), name(&row.to), row.rule)).collect();
    page.extend(moves);
    page.push_str("```\n\n## Guards\n\nAll are asked each time, in this order; the first refusal is the hold.\n\n");
    page.push_str("| guard | the hold is released by |\n|---|---|\n");
    for guard in [
        Guard::MayAct,
        Guard::CanJudge,
        Guard::StillDown,
        Guard::TargetFit,
        Guard::WithinRpo,
        Guard::CooledDown,
        Guard::BelowLimit,
        Guard::Approved,
        Guard::Whole,
    ] {
        page.push_str(&format!("| {} | {} |\n", guard.name(), guard.release()));
    }
    for (place, rows) in &tables {
        page.push_str(&format!("\n## {}\n\n{}\n\n", place.title(), place.meaning()));
        page.push_str("| event | next | what happens | effects |\n|---|---|---|---|\n");
        for row in rows {
            let next = if row.from == row.to { "" } else { row.to.as_str() };
            page.push_str(&format!("| {} | {next} | {} | {} |\n", row.event, row.what, row.effects));
        }
    }
    page
}

/// Mermaid wants no hyphens in names.
fn name(state: &str) -> String {
    state.replace('-', "_")
}

struct Row {
    event: &'static str,
    from: String,
    to: String,
    rule: &'static str,
    what: String,
    effects: String,
}

/// Every event kind, given to a copy of the place.
fn rows(place: Place) -> Vec<Row> {
    EVENTS
        .iter()
        .filter_map(|(event, give)| {
            let mut walk = place.walk();
            let from = walk.record.state.name().to_string();
            let decision = give(&mut walk)?;
            let what = match (&decision.answer, decision.verdict) {
                (_, Verdict::Ignored { reason }) => format!("ignored: {}", reason.sentence()),
                (Some(answer), _) if decision.rule == crate::Rule::CommandRefused => format!("refused: {answer}"),
                (Some(answer), _) => format!("{}: {answer}", decision.rule.sentence()),
                (None, Verdict::Noted) => "noted, not stored".into(),
                (None, _) => decision.rule.sentence().into(),
            };
            let effects = decision.effects.iter().filter_map(|id| decision.record.pending(*id));
            let effects: Vec<&str> = effects.map(|pending| pending.effect.name()).collect();
            let to = decision.record.state.name().into();
            Some(Row { event, from, to, rule: decision.rule.sentence(), what, effects: effects.join(", ") })
        })
        .collect()
}

// ---- places --------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Place {
    Healthy,
    Suspect,
    ConfirmedDown,
    Held,
    PromotingUnclaimed,
    PromotingClaimed,
    Rerouting,
    Proving,
    Stable,
    Settling,
}

impl Place {
    const ALL: [Self; 10] = [
        Self::Healthy,
        Self::Suspect,
        Self::ConfirmedDown,
        Self::Held,
        Self::PromotingUnclaimed,
        Self::PromotingClaimed,
        Self::Rerouting,
        Self::Proving,
        Self::Stable,
        Self::Settling,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::ConfirmedDown => "confirmed-down",
            Self::Held => "confirmed-down, holding for an approval",
            Self::PromotingUnclaimed => "promoting, the promotion not yet claimed",
            Self::PromotingClaimed => "promoting, past the point of no return",
            Self::Rerouting => "rerouting, the public names",
            Self::Proving => "rerouting, the proof",
            Self::Stable => "stable",
            Self::Settling => "stable, RDS asked after the soak",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Healthy => "The primary commits writes.",
            Self::Suspect => "Somebody saw it fail; evidence is gathered.",
            Self::ConfirmedDown => "A quorum agrees that it is down; RDS is asked, then the guards decide.",
            Self::Held => "The machine wants to promote and may not (mode `approve`).",
            Self::PromotingUnclaimed => "All guards passed; nothing has been done outside.",
            Self::PromotingClaimed => "The call may have been made; from here only forward.",
            Self::Rerouting => "The other region is the writer; the public names are moved by compare-and-swap.",
            Self::Proving => "The names are in sync and caches have expired; a write through them is the proof.",
            Self::Stable => "Writes through the public names are proven; the new primary is watched.",
            Self::Settling => "The soak is over; the episode closes when a healthy secondary replicates again.",
        }
    }

    fn walk(self) -> Walk {
        let mut walk = Walk::healthy(if matches!(self, Self::Held) { Mode::Approve } else { Mode::Auto });
        let steps: usize = match self {
            Self::Healthy => 0,
            Self::Suspect => 1,
            Self::ConfirmedDown => 2,
            Self::Held | Self::PromotingUnclaimed => 3,
            Self::PromotingClaimed => 4,
            Self::Rerouting => 5,
            Self::Proving => 6,
            Self::Stable => 7,
            Self::Settling => 8,
        };
        let way: [fn(&mut Walk); 8] = [
            |walk| drop(walk.probe(1, false)),
            |walk| drop(walk.fail_until_confirmed()),
            |walk| drop(walk.answer("assess")),
            |walk| drop(walk.claim()),
            |walk| drop(walk.answer("promote")),
            |walk| {
                walk.answer("reroute");
                walk.now = walk.now.plus_ms(10_000);
            },
            |walk| drop(walk.answer("verify")),
            |walk| {
                walk.now = walk.now.plus_ms(walk.record.config.policy.soak_ms);
                walk.give(Event::Tick);
            },
        ];
        way[..steps].iter().for_each(|go| go(&mut walk));
        walk
    }
}

// ---- events --------------------------------------------------------------------------------------------------

type Give = fn(&mut Walk) -> Option<Decision>;

const EVENTS: &[(&str, Give)] = &[
    ("probe: a vantage commits", |w| Some(w.probe(1, true))),
    ("probe: a vantage fails", |w| Some(w.probe(1, false))),
    ("probes: a quorum fails for long enough", |w| w.fail_until_confirmed()),
    ("probes: a quorum commits again", |w| w.recover()),
    ("tick: no probes for a while", |w| Some(w.silence())),
    ("tick: the next deadline", |w| w.next_deadline()),
    ("claim", |w| Some(w.claim())),
    ("result: done", |w| w.result(None)),
    ("result: refused by the world", |w| w.result(Some(Outcome::Refused { detail: "not as presumed".into() }))),
    ("result: unknown", |w| w.result(Some(Outcome::Unknown { detail: "no answer".into() }))),
    ("result: of an old claim", |w| Some(w.late_result())),
    ("RDS: in-region failover begins (0072, 0073)", |w| Some(w.rds("RDS-EVENT-0072"))),
    ("RDS: in-region failover ends (0069, 0070, 0071)", |w| Some(w.rds("RDS-EVENT-0071"))),
    ("RDS: the writer moves (0181-0187, 0238, 0239, 0397, 0423, 0519)", |w| Some(w.rds("RDS-EVENT-0238"))),
    ("RDS: the topology changes (0240, 0241, 0390, 0391)", |w| Some(w.rds("RDS-EVENT-0241"))),
    ("alarm", |w| Some(w.give(Event::Alarm(Alarm { name: "website".into(), in_alarm: true })))),
    ("observation: the website fails for a quorum", |w| Some(w.website_fails())),
    ("lag: a metric", |w| {
        let reading = LagReading { region: WEST.into(), ms: 5, measured_at: w.now };
        Some(w.give(Event::Lag(reading)))
    }),
    ("configured: mode observe", |w| Some(w.configure(Mode::Observe))),
    ("command: pause", |w| {
        let until = w.now.plus_ms(600_000);
        Some(w.order(Order::Pause { until }))
    }),
    ("command: resume", |w| Some(w.order(Order::Resume))),
    ("command: set-mode observe", |w| Some(w.order(Order::SetMode { mode: Mode::Observe }))),
    ("command: failover", |w| Some(w.order(Order::Failover { target: None, allow_data_loss: false }))),
    ("command: switchover", |w| Some(w.order(Order::Switchover { target: None }))),
    ("command: failover-in-region", |w| Some(w.order(Order::FailoverInRegion { instance: None }))),
    ("command: approve", |w| Some(w.order(Order::Approve { allow_data_loss: false }))),
    ("command: abort", |w| Some(w.order(Order::Abort))),
    ("command: acknowledge", |w| Some(w.order(Order::Acknowledge))),
    ("command: reset-limit", |w| Some(w.order(Order::ResetLimit))),
];

// ---- walking -------------------------------------------------------------------------------------------------

/// A record with a clock and hands.
struct Walk {
    record: Record,
    now: Timestamp,
    count: u64,
}

impl Walk {
    fn healthy(mode: Mode) -> Self {
        let now = Timestamp(1_800_000_000_000);
        let mut walk = Self { record: Record::new("orders".into(), config(), mode, now), now, count: 0 };
        let mut lag = walk.a_probe(2, false);
        lag.target = WEST.into();
        lag.lag_ms = Some(40);
        walk.give(Event::Probe(lag));
        (0..VANTAGES.len()).for_each(|vantage| drop(walk.probe(vantage, true)));
        walk.answer_beside();
        walk
    }

    fn give(&mut self, event: Event) -> Decision {
        self.count += 1;
        let envelope = Envelope { id: EventId(format!("event-{}", self.count)), at: self.now, event };
        let decision = step(self.record.clone(), &envelope, self.now);
        self.record = decision.record.clone();
        decision
    }

    fn a_probe(&self, vantage: usize, ok: bool) -> Probe {
        Probe {
            vantage: VANTAGES[vantage].into(),
            incarnation: "run".into(),
            sequence: self.count + 1,
            target: self.record.primary.clone(),
            outcome: if ok { ProbeOutcome::Ok } else { ProbeOutcome::Failed { class: "timeout".into() } },
            self_check: SelfCheck::Ok,
            latency_ms: 5,
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms: None,
        }
    }

    fn probe(&mut self, vantage: usize, ok: bool) -> Decision {
        let probe = self.a_probe(vantage, ok);
        self.give(Event::Probe(probe))
    }

    /// Rounds of probes by two vantages until the state changes, or the window is long over.
    fn rounds(&mut self, ok: bool) -> Option<Decision> {
        let mut last = None;
        for _ in 0..6 {
            self.now = self.now.plus_ms(10_000);
            for vantage in [1, 2] {
                let decision = self.probe(vantage, ok);
                let moved = decision.verdict == Verdict::Moved;
                last = Some(decision);
                let only_suspect = last.as_ref().is_some_and(|d| d.record.state.name() == "suspect");
                if moved && !only_suspect {
                    return last;
                }
            }
        }
        last
    }

    fn fail_until_confirmed(&mut self) -> Option<Decision> {
        self.rounds(false)
    }

    fn recover(&mut self) -> Option<Decision> {
        self.rounds(true)
    }

    fn silence(&mut self) -> Decision {
        self.now = self.now.plus_ms(self.record.config.policy.vantage_stale_after_ms + 1);
        self.give(Event::Tick)
    }

    /// A tick for the state's own deadline: vantages go on reporting until then.
    fn next_deadline(&mut self) -> Option<Decision> {
        let horizon = self.now.plus_ms(86_400_000);
        while self.now < horizon {
            let next = next_wakeup(&self.record)?.max(self.now.plus_ms(1));
            self.now = next;
            let decision = self.give(Event::Tick);
            let sight = decision.rule == crate::Rule::SightChanged;
            if decision.verdict.is_durable() && !sight {
                return Some(decision);
            }
            if self.claim().claimed.is_empty() && !sight && next_wakeup(&self.record)? <= self.now {
                return None;
            }
        }
        None
    }

    fn claim(&mut self) -> Decision {
        self.give(Event::Claim(Claimant { by: "controller".into() }))
    }

    /// Claims and answers the pending effect `name` as done.
    fn answer(&mut self, name: &str) -> Option<Decision> {
        self.claim();
        let pending = self.record.pending.iter().find(|p| p.effect.name() == name)?;
        let (id, token) = (pending.id, pending.claim.as_ref()?.token);
        let report = match &pending.effect {
            Effect::Assess { .. } => Report::Assessed(assessment(&self.record)),
            Effect::Promote { .. } => Report::Promoted { called: true, heartbeat_at: None, detail: String::new() },
            Effect::FailOverInRegion { .. } => Report::FailingOverInRegion,
            Effect::Reroute { .. } => Report::Rerouted { at: self.now, detail: String::new() },
            Effect::Verify { .. } => Report::Verified { detail: String::new() },
            Effect::Fence { .. } => Report::Fenced { detail: String::new() },
            Effect::Announce { .. } => Report::Announced,
        };
        Some(self.give(Event::Result(EffectResult { effect: id, token, outcome: Outcome::Done { report } })))
    }

    /// Answers everything that no state waits for.
    fn answer_beside(&mut self) {
        while self.first(true).is_some_and(|name| self.answer(name).is_some()) {}
    }

    /// The first pending effect that no state waits for, or that one does.
    fn first(&self, best_effort: bool) -> Option<&'static str> {
        self.record.pending.iter().find(|p| p.is_best_effort() == best_effort).map(|p| p.effect.name())
    }

    /// Claims and answers the effect that the state waits for.
    fn result(&mut self, outcome: Option<Outcome>) -> Option<Decision> {
        let name = self.first(false)?;
        let Some(outcome) = outcome else { return self.answer(name) };
        self.claim();
        let pending = self.record.pending.iter().find(|p| p.effect.name() == name)?;
        let (effect, token) = (pending.id, pending.claim.as_ref()?.token);
        Some(self.give(Event::Result(EffectResult { effect, token, outcome })))
    }

    fn late_result(&mut self) -> Decision {
        self.claim();
        let effect = self.record.pending.first().map_or(crate::EffectId(0), |p| p.id);
        let outcome = Outcome::Done { report: Report::Announced };
        self.give(Event::Result(EffectResult { effect, token: crate::ClaimToken(0), outcome }))
    }

    fn website_fails(&mut self) -> Decision {
        let mut seen = |vantage: usize| {
            let vantage = self.a_probe(vantage, false);
            let Probe { vantage, incarnation, sequence, outcome, self_check, latency_ms, .. } = vantage;
            let name = "website".into();
            self.give(Event::Observation(Observation {
                vantage,
                incarnation,
                sequence,
                name,
                outcome,
                self_check,
                latency_ms,
            }))
        };
        seen(1);
        seen(2)
    }

    fn rds(&mut self, code: &str) -> Decision {
        let source = self.record.primary_member().map(|m| m.arn.clone()).unwrap_or_default();
        self.give(Event::Rds(RdsEvent { code: code.into(), source }))
    }

    fn configure(&mut self, mode: Mode) -> Decision {
        let config = Config { hash: "other".into(), ..config() };
        self.give(Event::Configured(Configured { config, mode }))
    }

    fn order(&mut self, order: Order) -> Decision {
        self.give(Event::Command(Command {
            actor: "alice".into(),
            on_behalf_of: None,
            reason: "drill".into(),
            expected_epoch: self.record.epoch,
            expires_at: self.now.plus_ms(60_000),
            nonce: "nonce".into(),
            order,
        }))
    }
}

fn arn(region: &str) -> Arn {
    Arn(format!("arn:aws:rds:{region}:1:cluster:orders"))
}

fn assessment(record: &Record) -> Assessment {
    let member = |member: &Member| MemberFacts {
        arn: member.arn.clone(),
        writer: member.region == record.primary,
        synchronization: Some("connected".into()),
        cluster: Some(ClusterFacts { status: "available".into(), engine_version: "16.6".into(), instances: 2 }),
    };
    Assessment {
        asked: WEST.into(),
        status: "available".into(),
        engine_version: "16.6".into(),
        members: record.config.members.iter().map(member).collect(),
        failover: None,
    }
}

/// The default policy.
fn config() -> Config {
    let member = |region: &str| Member {
        region: region.into(),
        arn: arn(region),
        endpoint: format!("orders.{region}."),
        priority: 0,
    };
    Config {
        hash: "one".into(),
        members: vec![member(EAST), member(WEST)],
        routes: vec![Route { zone: "Z".into(), name: "db.example.".into(), ttl_s: 5, by: crate::RouteBy::Record }],
        alarms: vec![crate::AlarmWeight { name: "website".into(), weight: 1 }],
        probes: vec![crate::ProbeWeight { name: "website".into(), weight: 0 }],
        policy: Policy::standard(VANTAGES.map(Into::into).to_vec()),
    }
}
