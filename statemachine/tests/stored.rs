//! What was ever stored can be read for ever. `fixtures/<shape>/` holds records and events as a release wrote them; a
//! folder is never changed once it is released. When the shape changes, the newest folder no longer matches what is
//! written today: add another beside it, with `UPDATE_EXPECT=1 cargo test -p statemachine --test stored`.

mod common;
#[path = "common/edited.rs"]
mod edited;

use common::{Cluster, EAST, VANTAGES, WEST, arn, assessment, config, observation, probe, promoted};
use proptest::prelude::*;
use serde_json::Value;
use statemachine::{
    AlarmWeight, Claimant, Configured, EffectId, EffectResult, Envelope, Event, FailoverInProgress, LagReading, Mode,
    Order, Outcome, ProbeWeight, Record, Report, Timestamp,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder that today's code writes.
const NEWEST: &str = "v2";

fn folder(shape: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(shape)
}

// ---- what today's code writes --------------------------------------------------------------------------------

fn records() -> BTreeMap<&'static str, Record> {
    let mut records = BTreeMap::new();
    let mut keep = |name, cluster: &Cluster| drop(records.insert(name, cluster.record().clone()));
    keep("new", &Cluster::new(Mode::Approve));
    keep("healthy", &Cluster::healthy(Mode::Auto));

    let mut watched = Cluster::healthy(Mode::Auto);
    watched.edit(|record| record.config.alarms = vec![AlarmWeight { name: "commits".into(), weight: 1 }]);
    watched.edit(|record| record.config.probes = vec![ProbeWeight { name: "website".into(), weight: 1 }]);
    watched.observe("website", "ok timeout ok");
    watched.alarm("commits", true);
    watched.rds("RDS-EVENT-0073", EAST);
    watched.rounds(1, "ok timeout isolated");
    keep("suspect", &watched);

    keep("confirmed-down", &Cluster::confirmed_down(Mode::Auto));
    let mut held = Cluster::confirmed_down(Mode::Approve);
    held.done("assess", Report::Assessed(assessment(EAST)));
    keep("held", &held);
    held.order(Order::Pause { until: held.now.plus_ms(60_000) });
    let other = statemachine::Config { hash: "two".into(), ..config() };
    held.give(Event::Configured(Configured { config: other, mode: Mode::Observe }));
    keep("paused", &held);

    let mut latched = Cluster::confirmed_down(Mode::Auto);
    let long_ago = Timestamp(latched.now.0 - 7_200_000);
    latched.edit(|record| record.failovers = vec![long_ago, long_ago]);
    latched.done("assess", Report::Assessed(assessment(EAST)));
    keep("limit-latched", &latched);

    let mut promoting = Cluster::promoting();
    promoting.answer("promote", Outcome::Unknown { detail: "no answer".into() });
    promoting.wait(2_000);
    promoting.claim();
    keep("promoting", &promoting);
    promoting.done_claimed("promote", promoted());
    keep("rerouting", &promoting);
    promoting.done("reroute", Report::Rerouted { at: promoting.now, detail: "in sync".into() });
    keep("verifying", &promoting);

    let mut stable = Cluster::stable();
    stable.wait(10_000);
    stable.give(Event::Probe(probe("witness", 900, EAST, "ok")));
    stable.order(Order::FailoverInRegion { instance: Some("orders-2".into()) });
    keep("stable", &stable);

    let mut adopted = Cluster::healthy(Mode::Auto);
    adopted.rds("RDS-EVENT-0181", EAST);
    let mut moving = assessment(EAST);
    moving.failover = Some(FailoverInProgress { status: "switching-over".into(), to: arn(WEST) });
    adopted.done("assess", Report::Assessed(moving));
    keep("adopted", &adopted);

    let mut planned = Cluster::healthy(Mode::Approve);
    planned.order(Order::Switchover { target: Some(WEST.into()) });
    planned.done("assess", Report::Assessed(assessment(EAST)));
    keep("switchover", &planned);

    let mut forced = Cluster::healthy(Mode::Approve);
    forced.order(Order::Failover { target: None, allow_data_loss: true });
    keep("failover-ordered", &forced);
    records
}

fn events() -> BTreeMap<String, Envelope> {
    let mut cluster = Cluster::new(Mode::Auto);
    let mut events = vec![
        ("tick".to_owned(), Event::Tick),
        ("probe-ok".into(), Event::Probe(probe("west", 1, EAST, "ok"))),
        ("probe-failed".into(), Event::Probe(probe("west", 2, EAST, "timeout"))),
        ("claim".into(), Event::Claim(Claimant { by: "controller-1".into() })),
        ("configured".into(), Event::Configured(Configured { config: config(), mode: Mode::Auto })),
        ("rds".into(), Event::Rds(statemachine::RdsEvent { code: "RDS-EVENT-0073".into(), source: arn(EAST) })),
        ("alarm".into(), Event::Alarm(statemachine::Alarm { name: "commits".into(), in_alarm: true })),
    ];
    events.push(("observation".into(), Event::Observation(observation("website", "west", 1, "timeout"))));
    let measured_at = cluster.now;
    events.push(("lag".into(), Event::Lag(LagReading { region: WEST.into(), ms: 7, measured_at })));
    let orders = [
        Order::Pause { until: cluster.now.plus_ms(1) },
        Order::Resume,
        Order::SetMode { mode: Mode::Observe },
        Order::Failover { target: Some(WEST.into()), allow_data_loss: true },
        Order::Switchover { target: None },
        Order::FailoverInRegion { instance: None },
        Order::Approve { allow_data_loss: false },
        Order::Abort,
        Order::Acknowledge,
        Order::ResetLimit,
    ];
    for order in orders {
        events.push((format!("command-{}", order.name()), Event::Command(cluster.command(order))));
    }
    let detail = String::new;
    let outcomes = [
        ("assessed", Outcome::Done { report: Report::Assessed(assessment(EAST)) }),
        ("promoted", Outcome::Done { report: promoted() }),
        ("fenced", Outcome::Done { report: Report::Fenced { detail: detail() } }),
        ("failing-over-in-region", Outcome::Done { report: Report::FailingOverInRegion }),
        ("rerouted", Outcome::Done { report: Report::Rerouted { at: cluster.now, detail: detail() } }),
        ("verified", Outcome::Done { report: Report::Verified { detail: detail() } }),
        ("announced", Outcome::Done { report: Report::Announced }),
        ("in-progress", Outcome::InProgress { detail: detail() }),
        ("refused", Outcome::Refused { detail: detail() }),
        ("retry", Outcome::Retry { detail: detail() }),
        ("unknown", Outcome::Unknown { detail: detail() }),
    ];
    for (name, outcome) in outcomes {
        let token = statemachine::ClaimToken(1);
        let result = EffectResult { effect: EffectId(1), token, outcome };
        events.push((format!("result-{name}"), Event::Result(result)));
    }
    let envelope = |(name, event)| (name, Envelope { id: "event-1".into(), at: cluster.now, event });
    events.into_iter().map(envelope).collect()
}

fn written() -> BTreeMap<String, Value> {
    let records = records()
        .into_iter()
        .map(|(name, record)| (format!("record-{name}.json"), serde_json::to_value(record).expect("plain data")));
    let events = events()
        .into_iter()
        .map(|(name, envelope)| (format!("event-{name}.json"), serde_json::to_value(envelope).expect("plain data")));
    records.chain(events).collect()
}

// ---- the tests -----------------------------------------------------------------------------------------------

#[test]
fn the_newest_fixtures_are_what_is_written_today() {
    let folder = folder(NEWEST);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(&folder).expect("it can be made");
        for (name, value) in written() {
            let text = serde_json::to_string_pretty(&value).expect("plain data");
            fs::write(folder.join(name), text + "\n").expect("it is written");
        }
    }
    for (name, value) in written() {
        let kept = fs::read_to_string(folder.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let kept: Value = serde_json::from_str(&kept).expect("JSON");
        assert!(kept == value, "{name} is not what is written today: the shape of what is stored has changed");
    }
}

#[test]
fn every_fixture_of_every_shape_loads_and_lives_on() {
    let mut count = 0;
    for shape in fs::read_dir(folder("")).expect("there are fixtures") {
        for file in fs::read_dir(shape.expect("readable").path()).expect("a folder") {
            let path = file.expect("readable").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("readable");
            count += 1;
            if name.starts_with("event-") {
                let _envelope: Envelope = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
                continue;
            }
            let record: Record = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut cluster = Cluster::new(Mode::Observe);
            cluster.now = record.last_now;
            cluster.record = Some(record);
            for _ in 0..100 {
                cluster.wait(30_000);
                cluster.give(Event::Tick);
                for vantage in VANTAGES {
                    cluster.probe(vantage, "ok");
                }
                cluster.claim();
            }
        }
    }
    assert!(count >= 40, "only {count} fixtures");
}

#[test]
fn an_unknown_schema_state_or_effect_is_refused_with_its_name() {
    let promoting = serde_json::to_string(&records()["promoting"]).expect("plain data");
    let cases = [
        (r#""schema":1"#, r#""schema":2"#, "schema 2, and this software reads 1"),
        (r#""name":"promoting""#, r#""name":"teleporting""#, "teleporting"),
        (r#""kind":"promote""#, r#""kind":"teleport""#, "teleport"),
        (r#""mode":"auto""#, r#""mode":"wild""#, "wild"),
    ];
    for (known, unknown, named) in cases {
        assert!(promoting.contains(known), "{known}");
        let error = serde_json::from_str::<Record>(&promoting.replace(known, unknown)).expect_err("it is unknown");
        assert!(error.to_string().contains(named), "{error}");
    }
}

proptest! {
    /// The fuzz target's body, on random input: see `statemachine/fuzz`.
    #[test]
    fn a_spoiled_record_or_event_is_refused_or_keeps_the_invariants(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        edited::step_of(&bytes);
    }
}
