//! `aurora-failover status`: what the stored records say.

use super::{Format, show, show_as, store, table};
use anyhow::Result;
use aurora_failover::audit::explain::{self, duration};
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::Item;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{GuardResult, Lag, Record, Region, Timestamp};

/// What is shown of a cluster.
const HEADER: [&str; 11] =
    ["cluster", "state", "since", "mode", "primary", "epoch", "as of", "vantages", "observed", "lag", "notes"];

/// A cluster, for programs.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    /// Of the stored item.
    version: u64,
    /// Everything that the machine knows.
    record: Record,
}

pub(super) async fn run(settings: &Settings, format: Format, watch: bool) -> Result<()> {
    let (_, store) = store(settings).await;
    if watch {
        return super::watch::run(settings, &store).await;
    }
    let mut items = Vec::new();
    for cluster in &settings.clusters {
        items.push((&cluster.id, store.read(&cluster.id).await?));
    }
    if format != Format::Table {
        let found = items.into_iter().filter_map(|(_, item)| item);
        let shown: Vec<Shown> = found.map(|Item { version, record, .. }| Shown { version, record }).collect();
        return show_as(format, &shown);
    }
    let mut table = table(HEADER);
    for (id, item) in items {
        match item {
            Some(item) => {
                let asked = super::asked(&store, &item).await?;
                table.add_row(cells(&item, &asked, clock::now()));
            }
            None => {
                table.add_row([id.as_str(), "(nothing stored yet)"]);
            }
        }
    }
    show(&format!(
        "{table}\nAs the records in table {} say, each as of its own time: while all is quiet they are stored once a \
         heartbeat, and ages count from now.",
        settings.table
    ))
}

/// What each target beside the writes does, as far as vantages look.
pub(super) fn observed(record: &Record) -> impl Iterator<Item = String> {
    let policy = &record.config.policy;
    record.evidence.observed.iter().map(move |(name, sights)| {
        let failing: Vec<_> = sights.iter().filter(|(_, sight)| sight.failing_since.is_some()).collect();
        match &failing[..] {
            [] => format!("{name}: ok"),
            [(_, sight), ..] => {
                let verdict = if record.evidence.is_failing(name, policy, record.last_now) { "FAILS" } else { "fails" };
                format!("{name}: {verdict} for {} of {} ({})", failing.len(), sights.len(), sight.last_failure)
            }
        }
    })
}

/// How far the secondaries are behind, each with its age at `now`.
pub(super) fn lags(record: &Record, now: Timestamp) -> impl Iterator<Item = String> {
    let line = move |(region, lag): (&Region, &Lag)| {
        format!("{region}: {}, {} ago", duration(lag.ms), duration(now.since_ms(lag.at)))
    };
    explain::lags(record).map(line)
}

/// What stands beside the state.
pub(super) fn notes(record: &Record) -> Vec<String> {
    let flags = [
        (record.dual_writer.is_some(), "a second member commits writes"),
        (record.blind, "blind: too few vantages can judge"),
        (record.exposed, "exposed: no healthy secondary"),
        (record.limit_latched, "the limit of automatic failovers is reached"),
        (!record.proven, "unproven: never seen healthy"),
    ];
    let mut notes: Vec<String> = flags.iter().filter(|(is, _)| *is).map(|(_, note)| (*note).to_owned()).collect();
    if let Some(pause) = &record.paused {
        notes.push(format!("paused by {} until {}: {}", pause.by, clock::rfc3339(pause.until), pause.reason));
    }
    notes
}

fn cells(item: &Item, asked: &[GuardResult], now: Timestamp) -> [String; 11] {
    let record = &item.record;
    let votes = record.evidence.tracks.iter().map(|(vantage, track)| {
        let seen = match (track.isolated, track.failures.len(), &track.connect_failure) {
            (true, ..) => "isolated".into(),
            (false, 0, None) => "ok".into(),
            (false, 0, Some(class)) => format!("ok, but it takes no new session ({class})"),
            (false, failures, _) => format!("{failures} failed ({})", track.last_failure),
        };
        format!("{vantage}: {seen}")
    });
    let mut told = notes(record);
    let held = explain::held(record, asked);
    told.extend(held.iter().map(|held| format!("holding: {}; to go on: {}", held.why, held.release)));
    [
        record.cluster.to_string(),
        record.state.name().into(),
        record.state.since().map_or_else(|| "-".into(), clock::rfc3339),
        record.mode.name().into(),
        record.primary.to_string(),
        record.epoch.to_string(),
        format!("{} ago", duration(now.since_ms(record.last_now))),
        votes.collect::<Vec<_>>().join("\n"),
        observed(record).collect::<Vec<_>>().join("\n"),
        lags(record, now).collect::<Vec<_>>().join("\n"),
        told.join("\n"),
    ]
}
