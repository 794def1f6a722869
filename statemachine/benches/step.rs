//! What a step costs: `cargo bench -p statemachine`.

#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Cluster, EAST, VANTAGES, probe};
use divan::{AllocProfiler, Bencher};
use statemachine::{Envelope, Event, EventId, Mode, Record, Timestamp, step};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Events of the replay.
const EVENTS: u64 = 10_000;

fn main() {
    divan::main();
}

fn envelope(number: u64, at: Timestamp, outcome: &str) -> Envelope {
    let vantage = VANTAGES[usize::try_from(number % 3).unwrap_or(0)];
    let event = Event::Probe(probe(vantage, 1_000 + number, EAST, outcome));
    Envelope { id: EventId(format!("event-{number}")), at, event }
}

/// A probe that finds everything well, as nearly all do. Should allocate nothing.
#[divan::bench]
fn healthy_probe(bencher: Bencher) {
    let cluster = Cluster::healthy(Mode::Auto);
    let now = cluster.now.plus_ms(1_000);
    let event = envelope(0, now, "ok");
    bencher.with_inputs(|| cluster.record().clone()).bench_values(|record| step(record, &event, now).record);
}

/// Ten thousand probes, one in ten of which fails: suspicions come and go.
#[divan::bench]
fn replay_of_10_000_events(bencher: Bencher) {
    let cluster = Cluster::healthy(Mode::Auto);
    let start = cluster.now;
    let at = |number: u64| start.plus_ms(number * 1_000);
    let event = |number| envelope(number, at(number), if number % 10 == 0 { "timeout" } else { "ok" });
    let events: Vec<Envelope> = (1..=EVENTS).map(event).collect();
    bencher.with_inputs(|| cluster.record().clone()).bench_values(|record: Record| {
        events.iter().fold(record, |record, event| step(record, event, event.at).record)
    });
}
