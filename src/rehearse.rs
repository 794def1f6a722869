//! What the machine would do with an event: the real decisions on the real record, with real looks at the world, and
//! without storing or doing anything.

use crate::audit::explain;
use crate::clock::rfc3339;
use crate::effects::{Task, World};
use crate::store::Item;
use statemachine::{
    Claimant, ControllerId, Decision, Effect, EffectId, EffectResult, Envelope, Event, Order, Pending, Record,
    Timestamp, Verdict, step,
};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for one look at the world.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// Most looks in one rehearsal: more than any way through the machine needs.
const LOOKS_MAX: usize = 5;

/// So much later than a heartbeat is due, a stored record is not what a running controller would have left.
pub const HEARTBEAT_SLACK_MS: u64 = 30_000;

/// How a rehearsal went.
#[derive(Debug)]
pub struct Rehearsal {
    /// The time that the evidence is of, and at which it was judged.
    pub as_of: Timestamp,
    /// The evidence is so old, in milliseconds, that no controller seems to run; it was judged as it is, now.
    pub outdated_ms: Option<u64>,
    /// The decisions, in order.
    pub decisions: Vec<Decision>,
    /// What the machine would do next, if it would do anything but look.
    pub next: Vec<Effect>,
}

impl Rehearsal {
    /// The record as it would be then.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.decisions.last().map(|decision| &decision.record)
    }

    /// What would be decided and done, line by line.
    #[must_use]
    pub fn outlook(&self) -> Vec<String> {
        let of = rfc3339(self.as_of);
        let mut said = vec![match self.outdated_ms {
            None => format!("evidence as of {of}"),
            Some(ms) => format!(
                "evidence as of {of}, which is {} ago: no controller seems to be running; start `aurora-failover serve`, \
                 or look at its log",
                explain::duration(ms)
            ),
        }];
        for decision in &self.decisions {
            said.push(format!("it would decide: {}", decision.rule.sentence()));
            said.extend(decision.answer.iter().map(|answer| format!("  and answer: {answer}")));
            said.extend(decision.guards.iter().map(|guard| format!("  {}", explain::guard(guard))));
            if decision.verdict == Verdict::Moved {
                said.push(format!("  and be {}", decision.record.state.name()));
            }
        }
        if let Some(record) = self.record().filter(|record| record.hold.is_some()) {
            let guards = self.decisions.last().map_or(&[][..], |decision| &decision.guards);
            let held = explain::held(record, guards);
            said.extend(held.iter().map(|held| format!("it would hold: {}; to go on: {}", held.why, held.release)));
        }
        said.extend(self.next.iter().map(|effect| format!("it would then {}", explain::effect(effect))));
        if self.next.is_empty() && !self.refused() {
            said.push("it would do nothing outside".into());
        }
        said
    }

    /// Would the order be refused?
    #[must_use]
    pub fn refused(&self) -> bool {
        self.decisions.first().is_some_and(|decision| decision.rule == statemachine::Rule::CommandRefused)
    }
}

/// The time at which a stored record is judged: its own, since quiet evidence is stored once a heartbeat and would look
/// like silence a moment later. Now, where it is older than a running controller would leave it; then also its age.
fn judged_at(record: &Record, now: Timestamp) -> (Timestamp, Option<u64>) {
    let age_ms = now.since_ms(record.last_now);
    let fresh = age_ms <= record.config.policy.heartbeat_ms.saturating_add(HEARTBEAT_SLACK_MS);
    if fresh { (record.last_now, None) } else { (now, Some(age_ms)) }
}

/// Rehearses what `event` would lead to, up to the first thing that would be done. The evidence is judged as of the time
/// that it was stored, see [`Rehearsal::as_of`].
pub async fn rehearse(world: &World, item: &Item, event: Event) -> Rehearsal {
    let (judged_at, outdated_ms) = judged_at(&item.record, world.clock.now());
    // A pause asks no evidence, and its end is bounded from now on.
    let pauses = matches!(&event, Event::Command(command) if matches!(command.order, Order::Pause { .. }));
    let at = if pauses { world.clock.now() } else { judged_at };
    let now = || at;
    let give = |record: Record, number: usize, event: Event| {
        let envelope = Envelope { id: format!("rehearsal/{number}").into(), at: now(), event };
        step(record, &envelope, now())
    };
    let me = ControllerId("rehearsal".into());
    let mut decisions = vec![give(item.record.clone(), 0, event)];
    for look in 1..=LOOKS_MAX {
        let record = &decisions.last().expect("there is one").record;
        let Some(assess) = asked(record) else { break };
        let claimed = give(record.clone(), look * 2, Event::Claim(Claimant { by: me.clone() }));
        let record = claimed.record;
        let Some((pending, token)) = claim_of(&record, assess) else { break };
        let task = Task::new(&record, pending, Instant::now() + LOOK_WITHIN);
        let outcome = world.run(&task).await;
        let result = EffectResult { effect: assess, token, outcome };
        let decision = give(record, look * 2 + 1, Event::Result(result));
        let retried = asked(&decision.record) == Some(assess);
        decisions.push(decision);
        if retried {
            break;
        }
    }
    let last = &decisions.last().expect("there is one").record;
    let acts = |pending: &&Pending| !matches!(pending.effect, Effect::Assess { .. } | Effect::Announce { .. });
    let known = |pending: &&Pending| item.record.pending(pending.id).is_none();
    let next = last.pending.iter().filter(acts).filter(known).map(|pending| pending.effect.clone()).collect();
    Rehearsal { as_of: item.record.last_now, outdated_ms, decisions, next }
}

/// The look that the record asks for.
fn asked(record: &Record) -> Option<EffectId> {
    record.pending.iter().find(|pending| matches!(pending.effect, Effect::Assess { .. })).map(|pending| pending.id)
}

fn claim_of(record: &Record, id: EffectId) -> Option<(&Pending, statemachine::ClaimToken)> {
    let pending = record.pending(id)?;
    Some((pending, pending.claim.as_ref()?.token))
}
