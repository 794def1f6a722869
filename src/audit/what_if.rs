//! What another policy would have decided on the probes of an episode, as far as they were kept.
//!
//! The rows of an episode carry the probes that were seen in it (at most [`PROBES_KEPT`](crate::store::PROBES_KEPT)
//! between two rows). They are given to the machine again, under the other policy, until an outage is confirmed or
//! the suspicion ends. What lies beyond the end of the recorded evidence is not known: after a promotion nobody probes
//! the old primary any more.

use crate::store::{HistoryRow, SeenProbe};
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{
    Envelope, EpisodeId, EpisodeOutcome, Event, Policy, Probe, ProbeOutcome, Record, SelfCheck, State, Timestamp, step,
};

/// What a policy makes of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "verdict", rename_all_fields = "kebab-case")]
pub enum Judged {
    /// An outage was confirmed so long after the last commit that a vantage saw.
    Confirmed {
        /// Milliseconds.
        after_ms: u64,
    },
    /// The suspicion ended by itself.
    Averted,
    /// Neither, by the end of what was recorded, so long after the last commit.
    Undecided {
        /// Milliseconds.
        after_ms: u64,
    },
}

/// An episode by two policies.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Compared {
    /// The episode.
    pub episode: EpisodeId,
    /// When it began.
    pub began_at: Timestamp,
    /// How it ended.
    pub outcome: Option<EpisodeOutcome>,
    /// By the policy of that time.
    pub recorded: Judged,
    /// By the other one.
    pub other: Judged,
    /// The primary came back by itself, and the other policy would have called it an outage.
    pub false_outage: bool,
}

/// Compares the policy of the time with another one; rows of one episode, oldest first. None where no evidence was
/// recorded: an order, or somebody else's failover.
#[must_use]
pub fn compare(rows: &[HistoryRow], other: &Policy) -> Option<Compared> {
    let first = rows.first()?;
    let start = first.checkpoint.as_deref()?;
    let probes = probes(rows);
    if probes.iter().all(|probe| probe.failed.is_none()) {
        return None;
    }
    let outcome = rows.iter().find_map(|row| row.outcome);
    let recorded = judge(start, &start.config.policy, first, &probes);
    let other = judge(start, other, first, &probes);
    let came_back = matches!(outcome, Some(EpisodeOutcome::Averted));
    Some(Compared {
        episode: first.opened.clone()?,
        began_at: first.at,
        outcome,
        recorded,
        other,
        false_outage: came_back && matches!(other, Judged::Confirmed { .. }),
    })
}

/// All that is known of the vantages' writes, oldest first, until the primary moved.
fn probes(rows: &[HistoryRow]) -> Vec<SeenProbe> {
    let epoch = rows.first().map(|row| row.epoch);
    let before = rows.iter().take_while(|row| Some(row.epoch) == epoch);
    let mut probes: Vec<SeenProbe> = before.flat_map(HistoryRow::seen_probes).collect();
    probes.sort_by_key(|probe| probe.at);
    probes.dedup();
    probes
}

fn judge(start: &Record, policy: &Policy, first: &HistoryRow, probes: &[SeenProbe]) -> Judged {
    let mut record = start.clone();
    record.config.policy = policy.clone();
    // What keeps it from acting is not the question; who is heard, and what they saw, is.
    record.evidence = first.evidence.clone();
    record.evidence.listen_since(first.at);
    record.last_now = first.last_now;
    record.heartbeat_at = first.last_now;
    let last_ok = first.evidence.newest_ok.unwrap_or(first.at);
    let mut now = first.last_now;
    for (number, probe) in probes.iter().enumerate() {
        now = now.max(probe.at);
        let outcome = match &probe.failed {
            None => ProbeOutcome::Ok,
            Some(class) => ProbeOutcome::Failed { class: class.clone() },
        };
        let event = Event::Probe(Probe {
            vantage: probe.vantage.clone(),
            incarnation: "replay".into(),
            sequence: number as u64 + 1,
            target: record.primary.clone(),
            outcome,
            self_check: if probe.isolated { SelfCheck::Failed } else { SelfCheck::Ok },
            latency_ms: probe.latency_ms,
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms: None,
        });
        let was = record.state.clone();
        let envelope = Envelope { id: format!("replay/{number}").into(), at: probe.at, event };
        record = step(record, &envelope, now).record;
        match (&was, &record.state) {
            (_, State::ConfirmedDown { .. }) => return Judged::Confirmed { after_ms: now.since_ms(last_ok) },
            (State::Suspect { .. }, State::Healthy) => return Judged::Averted,
            _ => {}
        }
    }
    if record.state == State::Healthy {
        return Judged::Averted;
    }
    Judged::Undecided { after_ms: now.since_ms(last_ok) }
}
