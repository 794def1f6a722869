//! What a message costs on its way: `cargo bench --bench turn`.
//!
//! The world around the controller is that of the simulation, in memory and without faults; its time costs nothing.

#![allow(missing_docs, dead_code)]

#[path = "../tests/sim/net.rs"]
mod net;
#[path = "../tests/sim/truth.rs"]
mod truth;

use aurora_failover::bus::CANARY_SOURCE;
use aurora_failover::config::{self, Settings};
use aurora_failover::controller;
use aurora_failover::envelope::{Channel, Decoder, PROBE_DETAIL_TYPE, probe_detail};
use aurora_failover::inbox::Inbox;
use aurora_failover::store::HistoryRow;
use divan::Bencher;
use divan::counter::ItemsCount;
use net::{CONFIG, Process, SimulatedQueue, Without, World, message};
use statemachine::{ClusterId, Probe, ProbeOutcome, SelfCheck, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use truth::{EAST, wall};

/// Messages of one run of the controller.
const MESSAGES: usize = 1_000;

/// Between two of them, in simulated time: three vantages every ten seconds.
const APART_MS: u64 = 3_333;

fn main() {
    divan::main();
}

fn settings() -> Settings {
    config::parse(&CONFIG.replace("MODE", "auto"), "bench", |_| None).expect("it is valid")
}

fn probe(number: u64) -> Probe {
    Probe {
        vantage: ["us-east-2", "us-west-2", "witness"][(number % 3) as usize].into(),
        incarnation: "run-1".into(),
        sequence: 1 + number / 3,
        target: EAST.into(),
        outcome: ProbeOutcome::Ok,
        self_check: SelfCheck::Ok,
        latency_ms: 5,
        connect_ms: None,
        connect_failure: None,
        dropped: 0,
        lag_ms: None,
    }
}

fn detail(number: u64, at: Timestamp) -> String {
    probe_detail(&ClusterId("orders".into()), at, &probe(number))
}

fn body(number: u64, at: Timestamp) -> String {
    message(CANARY_SOURCE, PROBE_DETAIL_TYPE, &detail(number, at), &format!("event-{number}"))
}

/// A vantage's result, as it is published.
#[divan::bench]
fn encode() -> String {
    detail(1, wall(1_000))
}

/// A message of the queue, checked and read.
#[divan::bench]
fn decode(bencher: Bencher) {
    let (decoder, body) = (Decoder::new(&settings().clusters), body(1, wall(1_000)));
    bencher.bench(|| decoder.decode(&body, Channel::Evidence).expect("it is one of ours"));
}

/// A row of the history, hashed over its canonical text.
#[divan::bench]
fn row(bencher: Bencher) {
    let row = quiet(100).last().cloned().expect("a heartbeat was stored");
    bencher.bench(|| row.digest());
}

/// Healthy probes from the queue through the decoder and the controller; all but the heartbeats' turns stay in memory.
#[divan::bench(sample_count = 20)]
fn healthy_turns(bencher: Bencher) {
    bencher.counter(ItemsCount::new(MESSAGES)).bench(|| quiet(MESSAGES));
}

/// Runs a controller until it has taken so many healthy probes; what it stored.
fn quiet(messages: usize) -> Vec<HistoryRow> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(async {
        let world = World::new(1, Without::Nothing);
        for number in 0..messages as u64 {
            let at_ms = number * APART_MS;
            world.truth().send(0, body(number, wall(at_ms)), at_ms);
        }
        let process = Process::new(&world, "controller", 0);
        let settings = settings();
        let decoder = Arc::new(Decoder::new(&settings.clusters));
        let queue = SimulatedQueue { process: Arc::clone(&process), queue: 0 };
        let inboxes = vec![Inbox::new(Arc::new(queue), Channel::Evidence, decoder)];
        let (stop, outside) = (CancellationToken::new(), process.effects_world());
        let stopping = stop.clone();
        let task = controller::run(settings, process, outside, inboxes, Arc::default(), Arc::default(), stopping);
        let all_taken = async {
            while !world.truth().queues[0].is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            stop.cancel();
        };
        tokio::join!(task, all_taken);
        world.truth().rows.values().cloned().collect()
    })
}
