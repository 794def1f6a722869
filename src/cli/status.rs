//! `aurora-failover status`: what the stored records say.

use super::{Format, show, show_as, store, table};
use anyhow::Result;
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::Item;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{Record, Timestamp};

/// What is shown of a cluster.
pub(super) const HEADER: [&str; 10] =
    ["cluster", "state", "since", "mode", "primary", "epoch", "vantages", "observed", "lag", "notes"];

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
            Some(item) => table.add_row(cells(&item, clock::now())),
            None => table.add_row([id.as_str(), "(nothing stored yet)"]),
        };
    }
    show(&format!("{table}\nAs the record in table {} says; the world may have moved on.", settings.table))
}

pub(super) fn cells(item: &Item, now: Timestamp) -> [String; 10] {
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
    let policy = &record.config.policy;
    let observed = record.evidence.observed.iter().map(|(name, sights)| {
        let failing: Vec<_> = sights.iter().filter(|(_, sight)| sight.failing_since.is_some()).collect();
        match &failing[..] {
            [] => format!("{name}: ok"),
            [(_, sight), ..] => {
                let verdict = if record.evidence.is_failing(name, policy, record.last_now) { "FAILS" } else { "fails" };
                format!("{name}: {verdict} for {} of {} ({})", failing.len(), sights.len(), sight.last_failure)
            }
        }
    });
    let lag = record
        .evidence
        .lag
        .iter()
        .map(|(region, lag)| format!("{region}: {} ms, {} s ago", lag.ms, now.since_ms(lag.at) / 1000));
    let mut notes = Vec::new();
    for (is, note) in [(record.blind, "blind"), (record.exposed, "exposed"), (!record.proven, "unproven")] {
        if is {
            notes.push(note.to_owned());
        }
    }
    if let Some(hold) = &record.hold {
        notes.push(format!("holding: {}; to go on: {}", hold.detail, hold.release));
    }
    [
        record.cluster.to_string(),
        record.state.name().into(),
        record.state.since().map_or_else(|| "-".into(), clock::rfc3339),
        record.mode.name().into(),
        record.primary.to_string(),
        record.epoch.to_string(),
        votes.collect::<Vec<_>>().join("\n"),
        observed.collect::<Vec<_>>().join("\n"),
        lag.collect::<Vec<_>>().join("\n"),
        notes.join("\n"),
    ]
}
