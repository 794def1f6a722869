//! What the machine would do with an event: the real decisions on the real record, with real looks at the world, and
//! without storing or doing anything.

use crate::audit::explain;
use crate::effects::{Task, World};
use crate::store::Item;
use statemachine::{
    Claimant, ControllerId, Decision, Effect, EffectId, EffectResult, Envelope, Event, Pending, Record, Verdict, step,
};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for one look at the world.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// Most looks in one rehearsal: more than any way through the machine needs.
const LOOKS_MAX: usize = 5;

/// How a rehearsal went.
#[derive(Debug)]
pub struct Rehearsal {
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
        let mut said = Vec::new();
        for decision in &self.decisions {
            said.push(format!("it would decide: {}", decision.rule.sentence()));
            said.extend(decision.answer.iter().map(|answer| format!("  and answer: {answer}")));
            said.extend(decision.guards.iter().map(|guard| format!("  {}", explain::guard(guard))));
            if decision.verdict == Verdict::Moved {
                said.push(format!("  and be {}", decision.record.state.name()));
            }
        }
        if let Some(hold) = self.record().and_then(|record| record.hold.as_ref()) {
            said.push(format!("it would hold: {}; to go on: {}", hold.detail, hold.release));
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

/// Rehearses what `event` would lead to, up to the first thing that would be done.
pub async fn rehearse(world: &World, item: &Item, event: Event) -> Rehearsal {
    let now = || world.clock.now();
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
    Rehearsal { decisions, next }
}

/// The look that the record asks for.
fn asked(record: &Record) -> Option<EffectId> {
    record.pending.iter().find(|pending| matches!(pending.effect, Effect::Assess { .. })).map(|pending| pending.id)
}

fn claim_of(record: &Record, id: EffectId) -> Option<(&Pending, statemachine::ClaimToken)> {
    let pending = record.pending(id)?;
    Some((pending, pending.claim.as_ref()?.token))
}
