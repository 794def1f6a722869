//! Any text as a message of either queue: it is decoded or refused with a reason, and what is decoded is bounded and
//! can be encoded again. The corpus holds a probe, a command, an event of RDS and an alarm.
#![no_main]

use aurora_failover::config;
use aurora_failover::envelope::{Channel, Decoder, command_detail, probe_detail};
use statemachine::Event;
use std::sync::LazyLock;

static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let text = include_str!("../../../aurora-failover.example.toml");
    let mut settings = config::parse(text, "example", |_| None).expect("the example is valid");
    settings.clusters[0].config.alarms = vec![statemachine::AlarmWeight { name: "commits".into(), weight: 1 }];
    Decoder::new(&settings.clusters)
});

libfuzzer_sys::fuzz_target!(|text: &str| {
    for channel in [Channel::Evidence, Channel::Operator] {
        let decoded = match DECODER.decode(text, channel) {
            Ok(decoded) => decoded,
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty() && !refusal.name().is_empty());
                continue;
            }
        };
        assert_eq!(channel == Channel::Operator, matches!(decoded.envelope.event, Event::Command(_)));
        let stored = serde_json::to_string(&decoded.envelope).expect("plain data");
        assert!(stored.len() < 64 * 1024 * 7, "it fits an item");
        let read: statemachine::Envelope = serde_json::from_str(&stored).expect("as written");
        assert_eq!(read, decoded.envelope);
        let detail = match &decoded.envelope.event {
            Event::Probe(probe) => probe_detail(&decoded.clusters[0], decoded.envelope.at, probe),
            Event::Command(command) => command_detail(&decoded.clusters[0], decoded.envelope.at, command),
            _ => continue,
        };
        assert!(serde_json::from_str::<serde_json::Value>(&detail).is_ok());
    }
});
