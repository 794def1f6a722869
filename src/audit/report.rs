//! An episode as a report: what happened and when, how long it took, what was lost, who did what, and why.

use super::held::refusals;
use crate::store::{HistoryRow, SeenProbe};
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{
    Effect, Episode, EpisodeId, EpisodeKind, EpisodeOutcome, Event, GuardResult, Order, Policy, Region, Rule,
    Timestamp, Vantage,
};

/// Everything that an incident review asks for first.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The episode.
    pub id: EpisodeId,
    /// Whose.
    pub cluster: String,
    /// What it was for.
    pub kind: Option<EpisodeKind>,
    /// How it ended; none while it is open.
    pub outcome: Option<EpisodeOutcome>,
    /// Primary region when it began.
    pub primary_before: Option<Region>,
    /// Primary region at its end, or now.
    pub primary_after: Option<Region>,
    /// First failure, or the order.
    pub began_at: Timestamp,
    /// The turn that closed it.
    pub closed_at: Option<Timestamp>,
    /// Mode when it began.
    pub mode: Option<&'static str>,
    /// Hash of the configuration in force.
    pub config_hash: String,
    /// The policy in force when it began.
    pub policy: Option<Policy>,
    /// Versions of the software that decided.
    pub software: Vec<String>,
    /// Where the time went, in order.
    pub phases: Vec<Phase>,
    /// From the last commit that a vantage saw to the proof of a write through the public names, in milliseconds: the
    /// recovery time as probes saw it.
    pub rto_ms: Option<u64>,
    /// What clients of the application went without writes, in milliseconds, as somebody who measured it says. The service
    /// has no client of its own, so that the history does not know it.
    pub rto_client_ms: Option<u64>,
    /// The most that can be lost: the last known lag and its age, in milliseconds.
    pub rpo_bound_ms: Option<u64>,
    /// What was lost by the heartbeat rows, in milliseconds.
    pub rpo_heartbeat_ms: Option<u64>,
    /// Tries of effects that failed or whose outcome was unknown.
    pub retries: u32,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
    /// What it waited for a human or the world.
    pub holds: Vec<Held>,
    /// What humans ordered.
    pub orders: Vec<Ordered>,
    /// The guards of the decision to promote, or of the last refusal.
    pub guards: Vec<GuardResult>,
    /// What the vantages saw.
    pub probes: Vec<SeenProbe>,
    /// How many rows of history it has.
    pub rows: usize,
}

/// A part of the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Phase {
    /// `detect`, `decide`, `promote`, `reroute`, `verify`, `settle`.
    pub name: &'static str,
    /// Its beginning.
    pub from: Timestamp,
    /// How long it took.
    pub ms: u64,
}

/// A turn that moved something.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Moment {
    /// Version of the record.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// Since the beginning of the episode, in milliseconds.
    pub elapsed_ms: u64,
    /// State after the turn, where it changed.
    pub state: Option<String>,
    /// The rule, as a sentence.
    pub what: &'static str,
    /// Who brought the event.
    pub actor: String,
    /// Facts of the turn.
    pub detail: String,
}

/// A hold.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Since when.
    pub at: Timestamp,
    /// Until the next turn that was not a hold.
    pub ms: u64,
    /// Why.
    pub why: String,
}

/// An operator's order.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Ordered {
    /// When it was decided upon.
    pub at: Timestamp,
    /// Who: the caller, and on whose behalf.
    pub actor: String,
    /// What.
    pub order: &'static str,
    /// Why, in the operator's words.
    pub reason: String,
    /// Was it carried out?
    pub accepted: bool,
    /// What the operator was told.
    pub answer: String,
}

/// The report of the episode whose rows these are, oldest first; `open` is the episode as the record has it, if it is
/// not closed. None when there are no rows.
#[must_use]
pub fn report(rows: &[HistoryRow], open: Option<&Episode>) -> Option<Report> {
    let (first, last) = (rows.first()?, rows.last()?);
    let id = first.opened.clone().or_else(|| first.episode.clone())?;
    let closed = rows.iter().find_map(|row| row.closed.as_deref().filter(|episode| episode.id == id));
    let episode = closed.or(open);
    let closing = rows.iter().find(|row| row.closed.as_ref().is_some_and(|episode| episode.id == id));
    let checkpoint = first.checkpoint.as_deref();
    let began_at = episode.map_or(first.at, |episode| episode.began_at);
    let began = first.evidence.newest_ok.filter(|ok| *ok <= began_at).unwrap_or(began_at);
    let verified = episode.and_then(|episode| episode.verified_at);
    let mut software: Vec<String> = rows.iter().map(|row| row.software.clone()).collect();
    software.dedup();
    let target = promoted(rows);
    let mut probes: Vec<SeenProbe> = rows.iter().flat_map(HistoryRow::seen_probes).collect();
    probes.sort_by_key(|probe| probe.at);
    let before = checkpoint.map(|record| record.primary.clone());
    Some(Report {
        id,
        cluster: first.cluster.to_string(),
        kind: episode.map(|episode| episode.kind),
        outcome: closing.and_then(|row| row.outcome),
        primary_after: target.or_else(|| before.clone()),
        primary_before: before,
        began_at,
        closed_at: closing.map(|row| row.at),
        mode: checkpoint.map(|record| record.mode.name()),
        config_hash: first.config_hash.clone(),
        policy: checkpoint.map(|record| record.config.policy.clone()),
        software,
        phases: episode.map(|episode| phases(episode, began, closing.map(|row| row.at))).unwrap_or_default(),
        rto_ms: verified.map(|at| at.since_ms(began)),
        rto_client_ms: None,
        rpo_bound_ms: episode.and_then(|episode| episode.rpo_bound_ms),
        rpo_heartbeat_ms: episode.and_then(|episode| episode.rpo_heartbeat_ms),
        retries: episode.map_or(0, |episode| episode.retries),
        timeline: rows.iter().filter(|row| is_told(row)).map(|row| moment(row, began)).collect(),
        holds: holds(rows, last.at),
        orders: rows.iter().filter_map(ordered).collect(),
        guards: deciding_guards(rows),
        probes,
        rows: rows.len(),
    })
}

fn phases(episode: &Episode, began: Timestamp, closed_at: Option<Timestamp>) -> Vec<Phase> {
    let marks = [
        ("detect", episode.confirmed_at),
        ("decide", episode.decided_at),
        ("promote", episode.promoted_at),
        ("reroute", episode.rerouted_at),
        ("verify", episode.verified_at),
        ("settle", closed_at),
    ];
    let mut from = began;
    let reached = marks.into_iter().filter_map(|(name, at)| Some((name, at?)));
    reached
        .map(|(name, at)| {
            let phase = Phase { name, from, ms: at.since_ms(from) };
            from = at.max(from);
            phase
        })
        .collect()
}

/// Is this turn a part of the story?
fn is_told(row: &HistoryRow) -> bool {
    row.from != row.to
        || !row.guards.is_empty()
        || row.outcome.is_some()
        || matches!(row.event.event, Event::Command(_) | Event::Rds(_) | Event::Alarm(_))
        || matches!(
            row.rule,
            Rule::Rerouted
                | Rule::NamesBack
                | Rule::Fenced
                | Rule::GivenUp
                | Rule::EffectHeld
                | Rule::EffectRetried
                | Rule::DualWriter
                | Rule::DualWriterGone
                | Rule::SightChanged
                | Rule::ObservedCounted
        )
}

fn moment(row: &HistoryRow, began: Timestamp) -> Moment {
    Moment {
        version: row.version,
        at: row.at,
        elapsed_ms: row.at.since_ms(began),
        state: (row.from != row.to).then(|| row.to.clone()),
        what: row.rule.sentence(),
        actor: row.actor.clone(),
        detail: super::explain::facts(row).join("; "),
    }
}

fn holds(rows: &[HistoryRow], now: Timestamp) -> Vec<Held> {
    let holding = |row: &HistoryRow| matches!(row.rule, Rule::GuardRefused | Rule::EffectHeld);
    let mut holds: Vec<Held> = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| holding(row)) {
        let until = rows[index + 1..].iter().find(|next| next.from != next.to || next.rule == Rule::GuardsPassed);
        let refused: Vec<String> = refusals(&row.cluster, &row.guards).into_iter().map(|held| held.why).collect();
        let why = if refused.is_empty() { super::explain::facts(row) } else { refused }.join("; ");
        // A hold that is looked at again is one hold.
        if holds.last().is_some_and(|held| held.why == why) {
            continue;
        }
        holds.push(Held { at: row.at, ms: until.map_or(now, |next| next.at).since_ms(row.at), why });
    }
    holds
}

fn ordered(row: &HistoryRow) -> Option<Ordered> {
    let Event::Command(command) = &row.event.event else { return None };
    Some(Ordered {
        at: row.at,
        actor: command.by(),
        order: Order::name(&command.order),
        reason: command.reason.clone(),
        accepted: row.rule != Rule::CommandRefused,
        answer: row.answer.clone().unwrap_or_default(),
    })
}

/// The region that was promoted, if one was.
fn promoted(rows: &[HistoryRow]) -> Option<Region> {
    rows.iter().find(|row| row.rule == Rule::Promoted)?;
    let effects = rows.iter().rev().flat_map(|row| &row.effects);
    effects.into_iter().find_map(|pending| match &pending.effect {
        Effect::Promote { region, .. } => Some(region.clone()),
        _ => None,
    })
}

/// Those that let it pass, else the last that refused.
fn deciding_guards(rows: &[HistoryRow]) -> Vec<GuardResult> {
    let passed = rows.iter().find(|row| row.rule == Rule::GuardsPassed || row.rule == Rule::Adopted);
    let asked = passed.or_else(|| rows.iter().rev().find(|row| row.rule == Rule::GuardRefused));
    asked.map(|row| row.guards.clone()).unwrap_or_default()
}

impl Report {
    /// Vantages that saw something, in order of their names.
    #[must_use]
    pub fn vantages(&self) -> Vec<Vantage> {
        let mut vantages: Vec<Vantage> = self.probes.iter().map(|probe| probe.vantage.clone()).collect();
        vantages.sort();
        vantages.dedup();
        vantages
    }
}
