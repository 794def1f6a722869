//! One durable turn as a row of the history.

use crate::store::{HistoryRow, SeenProbe};
use statemachine::{ControllerId, Decision, EffectId, Envelope, EpisodeId, Event, Evidence, Record, Timestamp};

/// What history keeps of a record before its turn.
pub struct Before {
    state: &'static str,
    evidence: Evidence,
    last_now: Timestamp,
    hold: Option<&'static str>,
    episode: Option<EpisodeId>,
    /// All of it, when no episode was open.
    quiet: Option<Box<Record>>,
}

impl Before {
    /// Of this record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            state: record.state.name(),
            evidence: record.evidence.clone(),
            last_now: record.last_now,
            hold: record.hold.as_ref().map(|hold| hold.reason.name()),
            episode: record.episode.as_ref().map(|episode| episode.id.clone()),
            quiet: record.episode.is_none().then(|| Box::new(record.clone())),
        }
    }

    /// Why it held, if it did.
    #[must_use]
    pub const fn hold(&self) -> Option<&'static str> {
        self.hold
    }
}

/// The row of a turn, sealed.
#[expect(clippy::too_many_arguments, reason = "a row says everything about its turn")]
#[must_use]
pub fn new_row(
    before: Before,
    envelope: &Envelope,
    decision: &Decision,
    version: u64,
    last_hash: &str,
    now: Timestamp,
    decision_id: String,
    controller: &ControllerId,
    probes: Vec<SeenProbe>,
) -> HistoryRow {
    let record = &decision.record;
    let asked_for = |id: &EffectId| record.pending(*id).cloned();
    let open = record.episode.as_ref().map(|episode| episode.id.clone());
    let row = HistoryRow {
        schema: record.schema,
        cluster: record.cluster.clone(),
        version,
        at: now,
        decision_id,
        event: envelope.clone(),
        from: before.state.into(),
        to: record.state.name().into(),
        verdict: decision.verdict,
        rule: decision.rule,
        guards: decision.guards.clone(),
        effects: decision.effects.iter().filter_map(asked_for).collect(),
        claimed: decision.claimed.clone(),
        answer: decision.answer.clone(),
        episode: match &decision.closed {
            Some((episode, _)) => Some(episode.id.clone()),
            None => open.clone(),
        },
        opened: open.filter(|id| before.episode.as_ref() != Some(id)),
        closed: decision.closed.as_ref().map(|(episode, _)| episode.clone()),
        outcome: decision.closed.as_ref().map(|(_, outcome)| *outcome),
        probes,
        epoch: record.epoch,
        actor: match &envelope.event {
            Event::Probe(probe) => probe.vantage.to_string(),
            Event::Observation(seen) => seen.vantage.to_string(),
            Event::Lag(_) => "cloudwatch".into(),
            Event::Command(command) => command.actor.clone(),
            Event::Rds(event) => event.source.to_string(),
            Event::Alarm(alarm) => alarm.name.clone(),
            Event::Claim(_) | Event::Result(_) | Event::Configured(_) | Event::Tick => controller.to_string(),
        },
        config_hash: record.config.hash.clone(),
        software: env!("CARGO_PKG_VERSION").into(),
        event_age_ms: now.since_ms(envelope.at),
        evidence: before.evidence,
        last_now: before.last_now,
        checkpoint: before.quiet.filter(|_| version == 1 || record.episode.is_some()),
        record_hash: HistoryRow::hash_of(record),
        previous_hash: last_hash.into(),
        hash: String::new(),
    };
    row.sealed()
}
