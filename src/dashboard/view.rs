//! What the dashboard shows, as data.

use crate::audit::explain;
use crate::board::Known;
use crate::store::HistoryRow;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{Epoch, Event, GuardResult, Record, Region, Rule, Timestamp, Vantage, Verdict};

/// A line of the fleet.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Global cluster.
    pub cluster: String,
    /// State of the machine.
    pub state: &'static str,
    /// Since when; none while healthy since ever.
    pub since: Option<Timestamp>,
    /// What it may do by itself.
    pub mode: &'static str,
    /// Region of the writer.
    pub primary: Region,
    /// Counts changes of primary.
    pub epoch: Epoch,
    /// Version of the record.
    pub version: u64,
    /// When this was so.
    pub at: Timestamp,
    /// Heard by this process; otherwise read from the table.
    pub live: bool,
    /// How much it needs a human: 0 for not at all; higher first.
    pub attention: u8,
    /// Why, in words.
    pub notes: Vec<String>,
    /// What each vantage sees.
    pub vantages: Vec<VantageView>,
    /// How far secondaries are behind.
    pub lag: Vec<LagView>,
}

/// What a vantage sees of the primary.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VantageView {
    /// Its name.
    pub name: Vantage,
    /// `ok`, `failing`, `isolated`, `silent`.
    pub sees: &'static str,
    /// Failures in a row that nobody's success voids.
    pub failures: usize,
    /// Class of the newest failure, or why no new session is taken.
    pub class: String,
    /// When it was last heard of.
    pub last_seen: Option<Timestamp>,
}

/// The lag of a secondary.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LagView {
    /// Its region.
    pub region: Region,
    /// Milliseconds behind.
    pub ms: u64,
    /// When that was so.
    pub at: Timestamp,
}

/// Everything of one cluster.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    /// As in the fleet.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its members.
    pub members: Vec<MemberView>,
    /// Public names, and what moves them.
    pub routes: Vec<RouteView>,
    /// What is looked at beside the writes.
    pub observed: Vec<ObservedView>,
    /// Holding, and what releases it.
    pub hold: Option<HoldView>,
    /// Why it would not fail over by itself now.
    pub obstacles: Vec<String>,
    /// The record in sentences.
    pub sentences: Vec<String>,
    /// Marks of the open episode.
    pub episode: Option<EpisodeView>,
    /// Effects that are due or under way, in words.
    pub pending: Vec<String>,
}

/// A member of the global cluster.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MemberView {
    /// Its region.
    pub region: Region,
    /// Is it the writer, as far as the record knows?
    pub primary: bool,
    /// Writer endpoint.
    pub endpoint: String,
    /// It commits writes although it is not the primary.
    pub second_writer: bool,
}

/// A public name.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RouteView {
    /// The name.
    pub name: String,
    /// `record`, `health-check` or `arc`.
    pub by: &'static str,
    /// Time to live in caches, in seconds.
    pub ttl_s: u64,
}

/// A target beside the writes.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObservedView {
    /// Its name.
    pub name: String,
    /// Vantages that see it fail.
    pub failing: usize,
    /// Vantages that look.
    pub of: usize,
    /// A quorum sees it fail.
    pub down: bool,
    /// Class of a failure.
    pub class: String,
}

/// Why it waits.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HoldView {
    /// The reason, by name.
    pub reason: &'static str,
    /// What for.
    pub detail: String,
    /// What releases it.
    pub release: String,
}

/// Marks of the open episode.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EpisodeView {
    /// Its id.
    pub id: String,
    /// Failover, switchover …
    pub kind: String,
    /// First failure, or the order.
    pub began_at: Timestamp,
    /// A quorum saw it.
    pub confirmed_at: Option<Timestamp>,
    /// The guards passed.
    pub decided_at: Option<Timestamp>,
    /// The new writer commits.
    pub promoted_at: Option<Timestamp>,
    /// The names are in sync.
    pub rerouted_at: Option<Timestamp>,
    /// A write through the public name.
    pub verified_at: Option<Timestamp>,
    /// The most that can be lost, in milliseconds.
    pub rpo_bound_ms: Option<u64>,
    /// What was lost by the heartbeat rows, in milliseconds.
    pub rpo_heartbeat_ms: Option<u64>,
}

/// A stored turn in brief.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TurnView {
    /// Version of the record.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// Kind of event.
    pub event: &'static str,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// The rule, by name.
    pub rule: Rule,
    /// The rule, as a sentence.
    pub what: &'static str,
    /// Who brought the event.
    pub actor: String,
    /// Facts of the turn.
    pub detail: String,
    /// Guards that were asked.
    pub guards: Vec<GuardResult>,
    /// Of an order: its nonce.
    pub nonce: Option<String>,
    /// Of an order: what the operator was told.
    pub answer: Option<String>,
    /// The episode that was open, or that it closed.
    pub episode: Option<String>,
    /// Something moved: worth a line in the story.
    pub moved: bool,
}

impl From<&HistoryRow> for TurnView {
    fn from(row: &HistoryRow) -> Self {
        let nonce = match &row.event.event {
            Event::Command(command) => Some(command.nonce.clone()),
            _ => None,
        };
        Self {
            version: row.version,
            at: row.at,
            event: row.event.event.name(),
            from: row.from.clone(),
            to: row.to.clone(),
            rule: row.rule,
            what: row.rule.sentence(),
            actor: row.actor.clone(),
            detail: explain::facts(row).join("; "),
            guards: row.guards.clone(),
            nonce,
            answer: row.answer.clone(),
            episode: row.episode.as_ref().map(ToString::to_string),
            moved: row.verdict == Verdict::Moved,
        }
    }
}

impl Summary {
    /// Of what is known, at a time.
    #[must_use]
    pub fn of(known: &Known, now: Timestamp) -> Self {
        let record = &known.record;
        let (attention, notes) = attention(record);
        let policy = &record.config.policy;
        let vantages = policy.vantages.iter().map(|vantage| vantage_view(record, vantage, now)).collect();
        let lag = record.evidence.lag.iter().filter(|(region, _)| **region != record.primary);
        Self {
            cluster: record.cluster.to_string(),
            state: record.state.name(),
            since: record.state.since(),
            mode: record.mode.name(),
            primary: record.primary.clone(),
            epoch: record.epoch,
            version: known.version,
            at: known.at,
            live: known.live,
            attention,
            notes,
            vantages,
            lag: lag.map(|(region, lag)| LagView { region: region.clone(), ms: lag.ms, at: lag.at }).collect(),
        }
    }
}

fn vantage_view(record: &Record, vantage: &Vantage, now: Timestamp) -> VantageView {
    let track = record.evidence.tracks.get(vantage);
    let silent = track.is_none_or(|track| now.since_ms(track.last_seen) > record.config.policy.vantage_stale_after_ms);
    let sees = match track {
        Some(track) if !silent && track.isolated => "isolated",
        Some(track) if !silent && !track.failures.is_empty() => "failing",
        Some(_) if !silent => "ok",
        _ => "silent",
    };
    let class = match track {
        Some(track) if !track.failures.is_empty() => track.last_failure.clone(),
        Some(track) => track.connect_failure.clone().unwrap_or_default(),
        None => String::new(),
    };
    VantageView {
        name: vantage.clone(),
        sees,
        failures: track.map_or(0, |track| track.failures.len()),
        class,
        last_seen: track.map(|track| track.last_seen),
    }
}

/// How much it needs a human, and why.
fn attention(record: &Record) -> (u8, Vec<String>) {
    let mut notes: Vec<(u8, String)> = Vec::new();
    if let Some(hold) = &record.hold {
        notes.push((5, format!("holding: {}", hold.detail)));
    }
    if record.dual_writer.is_some() {
        notes.push((5, "a second member commits writes".into()));
    }
    if record.blind {
        notes.push((4, "blind: too few vantages can judge".into()));
    }
    if record.limit_latched {
        notes.push((4, "the limit of automatic failovers is reached".into()));
    }
    if record.exposed {
        notes.push((3, "exposed: no healthy secondary".into()));
    }
    if let Some(pause) = &record.paused {
        notes.push((2, format!("paused by {}: {}", pause.by, pause.reason)));
    }
    if !record.proven {
        notes.push((1, "never seen healthy yet".into()));
    }
    let state = match record.state.name() {
        "healthy" => 0,
        "stable" => 3,
        _ => 5,
    };
    let worst = notes.iter().map(|(level, _)| *level).max().unwrap_or(0).max(state);
    (worst, notes.into_iter().map(|(_, note)| note).collect())
}

impl Detail {
    /// Of what is known, at a time.
    #[must_use]
    pub fn of(known: &Known, now: Timestamp) -> Self {
        let record = &known.record;
        let members = record.config.members.iter().map(|member| MemberView {
            region: member.region.clone(),
            primary: member.region == record.primary,
            endpoint: member.endpoint.clone(),
            second_writer: record.dual_writer.as_ref().is_some_and(|dual| dual.region == member.region),
        });
        let routes = record.config.routes.iter().map(|route| RouteView {
            name: route.name.clone(),
            by: match route.by {
                statemachine::RouteBy::Record => "record",
                statemachine::RouteBy::HealthCheck { .. } => "health-check",
                statemachine::RouteBy::Arc { .. } => "arc",
            },
            ttl_s: route.ttl_s,
        });
        let policy = &record.config.policy;
        let observed = record.evidence.observed.iter().map(|(name, sights)| {
            let failing: Vec<_> = sights.values().filter(|sight| sight.failing_since.is_some()).collect();
            ObservedView {
                name: name.clone(),
                failing: failing.len(),
                of: sights.len(),
                down: record.evidence.is_failing(name, policy, now),
                class: failing.first().map(|sight| sight.last_failure.clone()).unwrap_or_default(),
            }
        });
        let episode = record.episode.as_ref().map(|episode| EpisodeView {
            id: episode.id.to_string(),
            kind: explain::word(&episode.kind),
            began_at: episode.began_at,
            confirmed_at: episode.confirmed_at,
            decided_at: episode.decided_at,
            promoted_at: episode.promoted_at,
            rerouted_at: episode.rerouted_at,
            verified_at: episode.verified_at,
            rpo_bound_ms: episode.rpo_bound_ms,
            rpo_heartbeat_ms: episode.rpo_heartbeat_ms,
        });
        Self {
            summary: Summary::of(known, now),
            members: members.collect(),
            routes: routes.collect(),
            observed: observed.collect(),
            hold: record.hold.as_ref().map(|hold| HoldView {
                reason: hold.reason.name(),
                detail: hold.detail.clone(),
                release: hold.release.to_string(),
            }),
            obstacles: explain::obstacles(record, now),
            sentences: explain::record(record, now),
            episode,
            pending: record.pending.iter().map(|pending| explain::effect(&pending.effect)).collect(),
        }
    }
}
