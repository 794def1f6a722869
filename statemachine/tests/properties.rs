//! What holds after any sequence of events: random probes, orders, results, hints, copies, stragglers, jumping clocks
//! and restarts. `PROPTEST_CASES=10000` runs more.

mod common;

use common::{Cluster, EAST, VANTAGES, WEST, arn, assessment, config, observation, probe};
use proptest::prelude::*;
use statemachine::{
    Alarm, ClaimToken, Claimant, Command, Configured, Decision, Effect, EffectId, EffectResult, Envelope, EpisodeKind,
    Epoch, Event, EventId, FailoverInProgress, LagReading, Mode, Order, Outcome, Pending, ProbeWeight, RdsEvent,
    Record, Report, Timestamp, Verdict, invariants, next_wakeup, step,
};
use std::collections::BTreeSet;

/// One thing that happens; what depends on the record is filled in when it does.
#[derive(Debug, Clone)]
enum Happening {
    Probe { vantage: usize, target: bool, outcome: usize, age_ms: i64, restart: bool },
    Wait(u64),
    ClockJumps(i64),
    Tick,
    Claim,
    Result { pending: usize, right_token: bool, outcome: usize, world: usize },
    Order(usize),
    Configure { mode: usize, hash: u8 },
    Rds { code: usize, about: bool },
    Alarm(bool),
    Observe { name: usize, vantage: usize, outcome: usize, age_ms: i64 },
    Lag { target: bool, age_ms: i64 },
    Again(usize),
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0..4usize, prop::bool::weighted(0.9), 0..4usize, -70_000..8_000i64, prop::bool::weighted(0.05)).prop_map(
            |(vantage, target, outcome, age_ms, restart)| {
                // Most probes are fresh.
                let age_ms = if age_ms < -10_000 && age_ms % 3 != 0 { 0 } else { age_ms };
                Happening::Probe { vantage, target, outcome, age_ms, restart }
            }
        ),
        6 => (1..40_000u64).prop_map(Happening::Wait),
        1 => (-3_600_000..3_600_000i64).prop_map(Happening::ClockJumps),
        3 => Just(Happening::Tick),
        4 => Just(Happening::Claim),
        6 => (0..4usize, prop::bool::weighted(0.9), 0..8usize, 0..4usize).prop_map(
            |(pending, right_token, outcome, world)| Happening::Result { pending, right_token, outcome, world }
        ),
        2 => (0..12usize).prop_map(Happening::Order),
        1 => (0..3usize, 0..3u8).prop_map(|(mode, hash)| Happening::Configure { mode, hash }),
        1 => (0..6usize, any::<bool>()).prop_map(|(code, about)| Happening::Rds { code, about }),
        1 => any::<bool>().prop_map(Happening::Alarm),
        2 => (0..2usize, 0..4usize, 0..4usize, -70_000..8_000i64).prop_map(
            |(name, vantage, outcome, age_ms)| Happening::Observe { name, vantage, outcome, age_ms }
        ),
        1 => (any::<bool>(), -70_000..8_000i64).prop_map(|(target, age_ms)| Happening::Lag { target, age_ms }),
        2 => (0..20usize).prop_map(Happening::Again),
        1 => Just(Happening::Restart),
    ]
}

/// An outage that is confirmed, so that random walks begin where it matters as often as in peace.
fn beginnings() -> impl Strategy<Value = Cluster> {
    prop_oneof![
        Just(()).prop_map(|()| Cluster::new(Mode::Auto)),
        Just(()).prop_map(|()| Cluster::healthy(Mode::Auto)),
        Just(()).prop_map(|()| Cluster::confirmed_down(Mode::Auto)),
        Just(()).prop_map(|()| Cluster::confirmed_down(Mode::Approve)),
        Just(()).prop_map(|()| Cluster::promoting()),
        Just(()).prop_map(|()| Cluster::stable()),
    ]
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in mode {}", self.state(), self.record().mode.name())
    }
}

/// The walk, with everything that it gave and got.
struct Walk {
    record: Record,
    start: Record,
    now: Timestamp,
    sequence: u64,
    incarnation: u64,
    events: u64,
    given: Vec<(Envelope, Timestamp)>,
    promotions: BTreeSet<(Epoch, EffectId)>,
}

impl Walk {
    fn from(cluster: Cluster) -> Self {
        let record = cluster.record().clone();
        let (now, sequence) = (cluster.now, cluster.sequence + 1_000);
        let (start, given, promotions) = (record.clone(), Vec::new(), BTreeSet::new());
        Self { record, start, now, sequence, incarnation: 1, events: 0, given, promotions }
    }

    fn happens(&mut self, happening: &Happening) {
        if let Some(envelope) = self.envelope(happening) {
            self.give(envelope);
        }
    }

    fn envelope(&mut self, happening: &Happening) -> Option<Envelope> {
        let mut at = self.now;
        let event = match happening {
            Happening::Wait(ms) => {
                self.now = self.now.plus_ms(*ms);
                return None;
            }
            Happening::ClockJumps(ms) => {
                self.now = Timestamp(self.now.0.saturating_add_signed(*ms));
                return None;
            }
            Happening::Restart => {
                let text = serde_json::to_string(&self.record).expect("a record is plain data");
                self.record = serde_json::from_str(&text).expect("it reads what it writes");
                return None;
            }
            Happening::Again(back) => {
                let index = self.given.len().checked_sub(back + 1)?;
                return Some(self.given[index].0.clone());
            }
            Happening::Probe { vantage, target, outcome, age_ms, restart } => {
                at = Timestamp(at.0.saturating_add_signed(*age_ms));
                self.sequence += 1;
                if *restart {
                    self.incarnation += 1;
                }
                let other = if self.record.primary.as_str() == EAST { WEST } else { EAST };
                let target = if *target { self.record.primary.to_string() } else { other.into() };
                let outcome = ["ok", "timeout", "timeout", "isolated"][*outcome];
                let vantage = VANTAGES.get(*vantage).copied().unwrap_or("nobody");
                let mut seen = probe(vantage, self.sequence, &target, outcome);
                seen.incarnation = format!("run-{}", self.incarnation);
                seen.lag_ms = Some(self.sequence % 60_000);
                Event::Probe(seen)
            }
            Happening::Tick => Event::Tick,
            Happening::Claim => Event::Claim(Claimant { by: "controller".into() }),
            Happening::Result { pending, right_token, outcome, world } => {
                Event::Result(self.result(*pending, *right_token, *outcome, *world)?)
            }
            Happening::Order(order) => Event::Command(self.command(*order)),
            Happening::Configure { mode, hash } => {
                let mut config = config();
                config.hash = format!("hash-{hash}");
                let probe = |name: &str| ProbeWeight { name: name.into(), weight: u32::from(*hash) };
                config.probes = ["website", "proxy"].iter().take(usize::from(*hash)).map(|name| probe(name)).collect();
                Event::Configured(Configured { config, mode: [Mode::Observe, Mode::Approve, Mode::Auto][*mode] })
            }
            Happening::Rds { code, about } => {
                let code = ["0072", "0071", "0238", "0181", "0241", "9999"][*code];
                let source = arn(if *about { EAST } else { WEST });
                Event::Rds(RdsEvent { code: format!("RDS-EVENT-{code}"), source })
            }
            Happening::Observe { name, vantage, outcome, age_ms } => {
                at = Timestamp(at.0.saturating_add_signed(*age_ms));
                self.sequence += 1;
                let outcome = ["ok", "timeout", "timeout", "isolated"][*outcome];
                let vantage = VANTAGES.get(*vantage).copied().unwrap_or("nobody");
                Event::Observation(observation(["website", "proxy"][*name], vantage, self.sequence, outcome))
            }
            Happening::Lag { target, age_ms } => {
                let region = if *target { WEST } else { EAST }.into();
                let measured_at = Timestamp(at.0.saturating_add_signed(*age_ms));
                Event::Lag(LagReading { region, ms: self.sequence % 60_000, measured_at })
            }
            Happening::Alarm(in_alarm) => Event::Alarm(Alarm { name: "website".into(), in_alarm: *in_alarm }),
        };
        self.events += 1;
        Some(Envelope { id: EventId(format!("e{}", self.events)), at, event })
    }

    fn result(&self, pending: usize, right_token: bool, outcome: usize, world: usize) -> Option<EffectResult> {
        let pending = self.record.pending.get(pending % self.record.pending.len().max(1))?;
        let token = pending.claim.as_ref().map_or(ClaimToken(0), |claim| claim.token);
        let token = if right_token { token } else { ClaimToken(token.0.wrapping_sub(1)) };
        let detail = String::from("seen");
        let outcome = match outcome {
            0 => Outcome::InProgress { detail },
            1 => Outcome::Refused { detail },
            2 => Outcome::Retry { detail },
            3 => Outcome::Unknown { detail },
            _ => Outcome::Done { report: self.report(&pending.effect, world) },
        };
        Some(EffectResult { effect: pending.id, token, outcome })
    }

    fn report(&self, effect: &Effect, world: usize) -> Report {
        match effect {
            Effect::Assess { .. } => {
                let other = if self.record.primary.as_str() == EAST { WEST } else { EAST };
                let mut answer = assessment(if world == 1 { other } else { self.record.primary.as_str() });
                if world == 2 {
                    answer.failover = Some(FailoverInProgress { status: "failing-over".into(), to: arn(other) });
                }
                if world == 3 {
                    answer.members.iter_mut().for_each(|member| member.cluster = None);
                }
                Report::Assessed(answer)
            }
            Effect::Promote { .. } => Report::Promoted { called: true, heartbeat_at: None, detail: String::new() },
            Effect::Fence { .. } => Report::Fenced { detail: String::new() },
            Effect::FailOverInRegion { .. } => Report::FailingOverInRegion,
            Effect::Reroute { .. } => Report::Rerouted { at: self.now, detail: String::new() },
            Effect::Verify { .. } => Report::Verified { detail: String::new() },
            Effect::Announce { .. } => Report::Announced,
        }
    }

    fn command(&self, order: usize) -> Command {
        let allow_data_loss = order.is_multiple_of(2);
        let order = match order {
            0 => Order::Pause { until: self.now.plus_ms(90_000) },
            1 => Order::Resume,
            2 => Order::SetMode { mode: Mode::Observe },
            3 => Order::SetMode { mode: Mode::Auto },
            4 => Order::Failover { target: None, allow_data_loss },
            5 => Order::Switchover { target: None },
            6 => Order::FailoverInRegion { instance: None },
            7 | 8 => Order::Approve { allow_data_loss },
            9 => Order::Abort,
            10 => Order::Acknowledge,
            _ => Order::ResetLimit,
        };
        Command {
            actor: "alice".into(),
            on_behalf_of: None,
            reason: "random".into(),
            expected_epoch: self.record.epoch,
            expires_at: self.now.plus_ms(60_000),
            nonce: format!("nonce-{}", self.events),
            order,
        }
    }

    /// One step, and all that must hold after it.
    fn give(&mut self, envelope: Envelope) {
        let before = self.record.clone();
        let decision = step(before.clone(), &envelope, self.now);
        self.given.push((envelope.clone(), self.now));
        let after = &decision.record;
        assert_eq!(invariants::check(after), Ok(()), "after {:?} in {}", envelope.event, before.state.name());
        assert!(after.last_now >= before.last_now && after.last_now >= self.now.min(after.last_now));
        assert!(after.tokens_issued >= before.tokens_issued && after.effects_issued >= before.effects_issued);
        assert!(after.epoch == before.epoch || after.epoch == before.epoch.next(), "the epoch rises by one");
        self.check_promotions(&before, &decision);
        if let Verdict::Ignored { .. } = decision.verdict {
            let quiet = |record: &Record| {
                let mut record = record.clone();
                record.last_now = Timestamp(0);
                record.evidence = statemachine::Evidence::default();
                record.nonces.clear();
                record
            };
            assert_eq!(quiet(after), quiet(&before), "what is ignored changes nothing that decides");
        }
        if let Event::Result(result) = &envelope.event {
            let current = before.pending(result.effect).and_then(|p| p.claim.as_ref()).map(|claim| claim.token);
            if current != Some(result.token) {
                assert!(matches!(decision.verdict, Verdict::Ignored { .. } | Verdict::Updated));
                // Time goes by all the same, and may end the sight, which is announced.
                let decides = |record: &Record| {
                    let decides = |p: &&Pending| !matches!(p.effect, Effect::Announce { .. });
                    record.pending.iter().filter(decides).cloned().collect::<Vec<_>>()
                };
                assert_eq!(decides(after), decides(&before), "I6");
                assert_eq!(after.state, before.state, "I6");
            }
        }
        let size = serde_json::to_string(after).expect("plain data").len();
        assert!(size < 64 * 1024, "{size} bytes");
        self.record = decision.record;
    }

    /// I1 and I4, as far as the machine alone can keep them.
    fn check_promotions(&mut self, before: &Record, decision: &Decision) {
        let after = &decision.record;
        for id in &decision.claimed {
            let Some(pending) = after.pending(*id) else { continue };
            let Effect::Promote { epoch, .. } = &pending.effect else { continue };
            let first_claim = before.pending(*id).is_some_and(|p| !p.ever_claimed);
            self.promotions.insert((*epoch, *id));
            let in_epoch = self.promotions.iter().filter(|(e, _)| e == epoch).count();
            let failed =
                before.episode.as_ref().is_some_and(|e| e.kind != EpisodeKind::Failover || e.ordered.is_some());
            // A planned or followed move that RDS did not carry out, or one taken over by hand, may be followed by
            // another in the same epoch; what the machine does by itself happens once.
            assert!(in_epoch == 1 || failed || self.given_up(), "I1: {:?}", self.promotions);
            if first_claim {
                let human =
                    before.episode.as_ref().is_some_and(|e| e.ordered.is_some() || e.kind == EpisodeKind::Adopted);
                assert!(before.paused.is_none() && before.mode != Mode::Observe, "I4");
                assert!(human || before.proven, "I4");
            }
        }
    }

    /// Did an operator take a stuck promotion over, or was a planned one refused, earlier in this walk?
    fn given_up(&self) -> bool {
        self.given.iter().any(|(envelope, _)| match &envelope.event {
            Event::Command(command) => matches!(command.order, Order::Acknowledge),
            Event::Result(result) => matches!(result.outcome, Outcome::Refused { .. }),
            _ => false,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_any_events(
        cluster in beginnings(),
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut walk = Walk::from(cluster);
        for happening in &happenings {
            walk.happens(happening);
        }
        // I7: the same inputs give the same records, byte for byte.
        let mut again = walk.start.clone();
        for (envelope, now) in &walk.given {
            again = step(again, envelope, *now).record;
        }
        let text = |record: &Record| serde_json::to_string(record).expect("plain data");
        prop_assert_eq!(text(&again), text(&walk.record));
    }

    #[test]
    fn from_anywhere_a_well_world_and_an_operator_lead_back_to_healthy(
        cluster in beginnings(),
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut walk = Walk::from(cluster);
        for happening in &happenings {
            walk.happens(happening);
        }
        prop_assert!(heal(&mut walk), "stuck: {:?}", walk.record);
    }

    #[test]
    fn whoever_ticks_and_claims_is_not_woken_again_at_once(
        cluster in beginnings(),
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut walk = Walk::from(cluster);
        for happening in &happenings {
            walk.happens(happening);
        }
        walk.now = walk.now.max(walk.record.last_now);
        for _ in 0..4 {
            walk.happens(&Happening::Tick);
            walk.happens(&Happening::Claim);
        }
        let next = next_wakeup(&walk.record);
        prop_assert!(next.is_none_or(|next| next > walk.now), "{next:?} at {:?}: {:?}", walk.now, walk.record);
    }
}

/// I8: vantages see a well primary, effects succeed, time passes, and an operator does what the holds ask for.
fn heal(walk: &mut Walk) -> bool {
    walk.now = walk.now.max(walk.record.last_now);
    for round in 0..400 {
        if walk.record.state.name() == "healthy" && walk.record.episode.is_none() {
            return true;
        }
        walk.now = walk.now.plus_ms(10_000);
        for vantage in 0..VANTAGES.len() {
            walk.happens(&Happening::Probe { vantage, target: true, outcome: 0, age_ms: 0, restart: false });
        }
        walk.happens(&Happening::Tick);
        walk.happens(&Happening::Claim);
        for pending in (0..walk.record.pending.len()).rev() {
            walk.happens(&Happening::Result { pending, right_token: true, outcome: 4, world: 0 });
        }
        if round == 200 {
            [1, 3, 9, 10].into_iter().for_each(|order| walk.happens(&Happening::Order(order)));
        }
    }
    false
}
