//! Turns and records in sentences: why did it, and why did it not.

pub use super::held::{Held, count, duration, held};

use crate::clock::rfc3339;
use crate::store::HistoryRow;
use statemachine::{
    Effect, Event, GuardResult, HoldReason, Lag, Mode, Outcome, ProbeOutcome, Record, Region, Report, State, Timestamp,
    Vantage, Verdict, Way, next_wakeup,
};

/// A guard with its inputs and its verdict.
#[must_use]
pub fn guard(result: &GuardResult) -> String {
    let inputs: Vec<String> = result.inputs.iter().map(|input| format!("{}={}", input.name, input.value)).collect();
    format!("guard {} {} ({})", result.guard.name(), if result.pass { "passes" } else { "refuses" }, inputs.join(", "))
}

/// The event of a turn as a sentence without its end.
#[must_use]
pub fn event(event: &Event) -> String {
    match event {
        Event::Probe(probe) => match &probe.outcome {
            ProbeOutcome::Ok => format!("{} committed in {} ms", probe.vantage, probe.latency_ms),
            ProbeOutcome::Failed { class } => format!("{} failed: {class}", probe.vantage),
        },
        Event::Observation(seen) => match &seen.outcome {
            ProbeOutcome::Ok => format!("{} by {}: ok in {} ms", seen.name, seen.vantage, seen.latency_ms),
            ProbeOutcome::Failed { class } => format!("{} by {} failed: {class}", seen.name, seen.vantage),
        },
        Event::Lag(reading) => format!("{} is {} ms behind", reading.region, reading.ms),
        Event::Result(result) => format!("effect {}: {}", result.effect, outcome(&result.outcome)),
        Event::Claim(claimant) => format!("{} claims what is due", claimant.by),
        Event::Configured(configured) => format!("mode {}", configured.mode.name()),
        Event::Command(command) => format!("{} by {}: {}", command.order.name(), command.by(), command.reason),
        Event::Rds(event) => format!("{} about {}", event.code, event.source),
        Event::Alarm(alarm) => {
            format!("{} is {}", alarm.name, if alarm.in_alarm { "in alarm" } else { "not in alarm" })
        }
        Event::Tick => "time went by".into(),
    }
}

/// What the ids of events begin with that never passed a bus.
pub const DIRECT: &str = "direct/";

/// Was the order written straight into the table, past the bus and the queue?
#[must_use]
pub fn is_direct(row: &HistoryRow) -> bool {
    row.event.id.as_str().starts_with(DIRECT)
}

/// The facts of a turn, briefly.
#[must_use]
pub fn facts(row: &HistoryRow) -> Vec<String> {
    let mut facts = Vec::new();
    match &row.event.event {
        Event::Claim(_) => {
            facts.push(format!(
                "claimed {}",
                row.claimed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
        Event::Tick => {}
        other => facts.push(event(other)),
    }
    if is_direct(row) {
        facts.push("written straight into the table (direct)".into());
    }
    facts.extend(row.answer.clone());
    facts.extend(row.guards.iter().map(guard));
    let asked = row.effects.iter().map(|pending| format!("effect {} asked for: {}", pending.id, pending.effect.name()));
    facts.extend(asked);
    facts
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { report } => match report {
            Report::Assessed(assessment) => format!("{} says {}", assessment.asked, assessment.status),
            Report::Promoted { detail, .. } | Report::Rerouted { detail, .. } | Report::Verified { detail } => {
                detail.clone()
            }
            Report::Announced => "announced".into(),
            Report::Fenced { detail } => detail.clone(),
            Report::FailingOverInRegion => "RDS fails over in the region".into(),
        },
        Outcome::InProgress { detail } => format!("in progress: {detail}"),
        Outcome::Refused { detail } => format!("refused: {detail}"),
        Outcome::Retry { detail } => format!("failed: {detail}"),
        Outcome::Unknown { detail } => format!("unknown: {detail}"),
    }
}

/// One turn: what came, what was decided, by which rule, on which guards, and what was asked for.
#[must_use]
pub fn turn(row: &HistoryRow) -> Vec<String> {
    let mut said = vec![
        format!("Version {} of {}, decided at {}.", row.version, row.cluster, rfc3339(row.at)),
        format!(
            "What came: {} ({}, {} old when it was decided upon).",
            event(&row.event.event),
            row.event.event.name(),
            duration(row.event_age_ms)
        ),
        match row.verdict {
            Verdict::Moved => format!("So it went from {} to {}, because {}.", row.from, row.to, row.rule.sentence()),
            _ => format!("So it stayed {}, and noted: {}.", row.to, row.rule.sentence()),
        },
    ];
    if is_direct(row) {
        said.push("It came past the bus and the queue, straight into the table (direct).".into());
    }
    for asked in &row.guards {
        said.push(format!("It asked the {}.", guard(asked)));
    }
    for pending in &row.effects {
        said.push(format!(
            "It asked for effect {}: {}, to be done by {}.",
            pending.id,
            effect(&pending.effect),
            rfc3339(pending.deadline)
        ));
    }
    if !row.claimed.is_empty() {
        let ids: Vec<String> = row.claimed.iter().map(ToString::to_string).collect();
        said.push(format!("It gave {} the right to carry out effect {}.", row.actor, ids.join(", ")));
    }
    if let Some(answer) = &row.answer {
        said.push(format!("The answer was: {answer}."));
    }
    if let Some(outcome) = row.outcome {
        let id = row.episode.as_ref().map(ToString::to_string).unwrap_or_default();
        said.push(format!("It closed episode {id}: {}.", word(&outcome)));
    }
    said
}

/// An effect as something to do.
#[must_use]
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Promote { region, how, .. } => format!("make {region} the writer ({})", word(how)),
        Effect::Reroute { changes, overlap } => {
            let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
            let when = match overlap.as_ref().map(|overlap| overlap.way) {
                Some(Way::Ahead) => " as soon as RDS shows the promotion under way",
                Some(Way::Back) => " back to the old primary",
                None => "",
            };
            format!("move {}{when}", names.join(", "))
        }
        Effect::Fence { region, .. } => format!("keep {region} from taking writes"),
        Effect::Announce { from, to, .. } => format!("announce {from} > {to}"),
        Effect::FailOverInRegion { region, .. } => format!("fail over inside {region}"),
        other => other.name().into(),
    }
}

/// A word of ours as it is stored.
#[must_use]
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// A record at `now`: where it is, what it waits for, and what keeps it from failing over.
#[must_use]
pub fn record(record: &Record, now: Timestamp) -> Vec<String> {
    record_asked(record, now, &[])
}

/// The same, with the guards as they were asked last: a hold then names all that refused.
#[must_use]
pub fn record_asked(record: &Record, now: Timestamp, asked: &[GuardResult]) -> Vec<String> {
    let mut said = vec![format!(
        "{} is {}{}, primary {} in epoch {}, mode {}.",
        record.cluster,
        record.state.name(),
        record.state.since().map(|since| format!(" since {}", rfc3339(since))).unwrap_or_default(),
        record.primary,
        record.epoch,
        record.mode.name(),
    )];
    for Held { why, release } in held(record, asked) {
        said.push(format!("It holds: {why}. To go on: {release}"));
    }
    if let Some(hold) = &record.hold {
        let ago = duration(now.since_ms(hold.since));
        said.push(format!(
            "It holds since {} ({ago}), and looks at the facts again at {}.",
            rfc3339(hold.since),
            rfc3339(hold.deadline)
        ));
        let asks = matches!(hold.reason, HoldReason::Guard(statemachine::Guard::Approved));
        if asks {
            let ends = hold.since.plus_ms(record.config.policy.approval_timeout_ms);
            said.push(format!("Without an approval the episode is given up at {}.", rfc3339(ends)));
        }
    }
    said.extend(evidence(record, now));
    said.extend(obstacles(record, now).into_iter().map(|why| format!("No automatic failover: {why}.")));
    for pending in &record.pending {
        let claim = match &pending.claim {
            Some(claim) => format!("{} is at it until {}", claim.by, rfc3339(claim.expires_at)),
            None => format!("nobody is at it, due from {}", rfc3339(pending.not_before)),
        };
        said.push(format!("It waits for effect {}: {}; {claim}.", pending.id, effect(&pending.effect)));
    }
    if let Some(at) = next_wakeup(record) {
        said.push(format!("If nothing else comes, it looks again at {}.", rfc3339(at)));
    }
    said
}

/// What the vantages see, and how far that is from a confirmed outage.
fn evidence(record: &Record, now: Timestamp) -> Vec<String> {
    let policy = &record.config.policy;
    let quorum = record.evidence.confirms_down(&record.config, now);
    let mut added = String::new();
    if quorum.alarm_votes > 0 {
        added.push_str(&format!("; alarms add {}", count(quorum.alarm_votes, "vote")));
    }
    if quorum.observed_votes > 0 {
        added.push_str(&format!("; observed targets add {}", count(quorum.observed_votes, "vote")));
    }
    let mut said = vec![format!(
        "{} of {} have seen it fail {} over {}, and {} needed; {} live{added}.",
        quorum.votes.len(),
        count(policy.vantages.len(), "vantage"),
        count(policy.failures_min, "time"),
        duration(policy.confirm_after_ms),
        are(quorum.needed),
        are(quorum.live),
    )];
    for vantage in &policy.vantages {
        said.push(format!("Vantage {vantage}: {}.", sight(record, vantage, now)));
    }
    for (region, lag) in lags(record) {
        said.push(format!("{region} was {} behind, {} ago.", duration(lag.ms), duration(now.since_ms(lag.at))));
    }
    for name in record.evidence.observed.keys().filter(|name| record.evidence.is_failing(name, policy, now)) {
        said.push(format!(
            "{name} fails for a quorum; that is shown, and adds only the votes that the policy gives it."
        ));
    }
    said
}

fn are(number: u32) -> String {
    format!("{number} {}", if number == 1 { "is" } else { "are" })
}

/// How far each secondary was behind; what was known of the primary before it was one is no news.
pub fn lags(record: &Record) -> impl Iterator<Item = (&Region, &Lag)> {
    record.evidence.lag.iter().filter(move |(region, _)| **region != record.primary)
}

/// What a vantage sees, in a few words, with its age.
#[must_use]
pub fn sight(record: &Record, vantage: &Vantage, now: Timestamp) -> String {
    let policy = &record.config.policy;
    let Some(track) = record.evidence.tracks.get(vantage) else { return "never heard of".into() };
    let ago_ms = now.since_ms(track.last_seen);
    if ago_ms > policy.vantage_stale_after_ms {
        return format!("not heard of for {}; silence is no evidence", duration(ago_ms));
    }
    if track.isolated {
        return format!("cut off itself, heard of {} ago; it counts neither way", duration(ago_ms));
    }
    match (track.failing_since, track.failures.last()) {
        (Some(since), Some(last)) => {
            let outvoted = if track.outvoted { "; the others see it commit" } else { "" };
            let (count, span_ms) = (track.failures.len(), last.since_ms(since));
            let (times, span) = (super::held::count(count, "time"), duration(span_ms));
            format!(
                "failed {times} over {span}, last by {}{outvoted}, heard of {} ago",
                track.last_failure,
                duration(ago_ms)
            )
        }
        _ => {
            let refused = track.connect_failure.as_ref();
            let refused = refused.map(|class| format!(", but takes no new session ({class})")).unwrap_or_default();
            format!("saw it commit{refused}, heard of {} ago", duration(ago_ms))
        }
    }
}

/// Everything that would keep the machine from promoting by itself now, beside the evidence.
#[must_use]
pub fn obstacles(record: &Record, now: Timestamp) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(pause) = &record.paused {
        why.push(format!("{} paused it until {} ({})", pause.by, rfc3339(pause.until), pause.reason));
    }
    match record.mode {
        Mode::Observe => why.push("the mode is observe, which never acts".into()),
        Mode::Approve => why.push("the mode is approve: a human has to approve".into()),
        Mode::Auto => {}
    }
    if !record.proven {
        why.push("it was never seen healthy, so its configuration may be wrong".into());
    }
    if record.blind {
        why.push("too few vantages can judge".into());
    }
    if record.exposed {
        why.push("no healthy secondary is known".into());
    }
    let cooldown_ms = record.config.policy.cooldown_ms;
    let cooling = record.failovers.last().map(|last| now.since_ms(*last)).filter(|ago_ms| *ago_ms < cooldown_ms);
    if let Some(ago_ms) = cooling.filter(|_| !record.cooldown_lifted) {
        let (ago, cooldown) = (duration(ago_ms), duration(cooldown_ms));
        why.push(format!("the last failover was {ago} ago, and the cooldown is {cooldown}"));
    }
    if record.limit_latched {
        let reset = super::held::command(&record.cluster, "reset-limit");
        why.push(format!("the limit of automatic failovers was reached; to reset it: {reset}"));
    }
    if record.grace.as_ref().is_some_and(|grace| now < grace.until) {
        why.push("a failover inside the primary's region is under way".into());
    }
    if let State::Stable { .. } = record.state {
        why.push("the last failover has not settled".into());
    }
    why
}
