//! Bytes from the queue to an event of the machine, and back: versioned JSON in EventBridge envelopes.
//!
//! Strict: an unknown version, an unknown field inside `detail` or a missing one is refused with the reason, and
//! the message goes to the dead-letter queue. EventBridge's own envelope may grow; its unknown fields are dropped.

use crate::clock;
use serde::{Deserialize, Serialize};
use statemachine::{ClusterId, Command, Envelope, Event, EventId, Probe};

/// `detail-type` of a probe.
pub const PROBE_DETAIL_TYPE: &str = "Probe Result";

/// `detail-type` of an operator's command.
pub const COMMAND_DETAIL_TYPE: &str = "Operator Command";

/// `detail-type` of an announcement.
pub const TRANSITION_DETAIL_TYPE: &str = "Failover Transition";

/// Version of the `detail` that this software writes and reads.
const DETAIL_VERSION: u32 = 1;

/// Longest message that is looked at, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Where a message came from: commands count only from the operators' own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The queue of probes.
    Evidence,
    /// The queue of commands.
    Operator,
}

/// Why a message cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too long to be one of ours.
    #[error("the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not an EventBridge envelope.
    #[error("not an EventBridge envelope: {0}")]
    NotAnEnvelope(String),
    /// Sent by somebody who may not send this.
    #[error("source {found} may not send {detail_type}")]
    ForgedSource {
        /// The source.
        found: String,
        /// What it sent.
        detail_type: String,
    },
    /// Came by the wrong queue.
    #[error("{detail_type} is not taken from this queue")]
    WrongQueue {
        /// What came.
        detail_type: String,
    },
    /// Nothing that the machine knows.
    #[error("unknown detail-type {0}")]
    UnknownKind(String),
    /// Written by another version.
    #[error("detail has version {found}, this software reads version {DETAIL_VERSION}")]
    UnknownVersion {
        /// Its version.
        found: u64,
    },
    /// The detail does not have the published shape.
    #[error("detail of {detail_type}: {reason}")]
    BadDetail {
        /// Which kind.
        detail_type: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Outer {
    source: String,
    detail_type: String,
    detail: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ProbeDetail {
    version: u32,
    cluster: ClusterId,
    at: String,
    probe: Probe,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CommandDetail {
    version: u32,
    cluster: ClusterId,
    at: String,
    command: Command,
}

/// Reads one message.
///
/// # Errors
/// Why it cannot be used.
pub fn decode(body: &str, channel: Channel) -> Result<(ClusterId, Envelope), Refusal> {
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(Refusal::TooLong { bytes: body.len() });
    }
    let outer: Outer = serde_json::from_str(body).map_err(|e| Refusal::NotAnEnvelope(e.to_string()))?;
    let (source, expected) = match outer.detail_type.as_str() {
        PROBE_DETAIL_TYPE => (crate::bus::CANARY_SOURCE, Channel::Evidence),
        COMMAND_DETAIL_TYPE => (crate::bus::OPERATOR_SOURCE, Channel::Operator),
        _ => return Err(Refusal::UnknownKind(outer.detail_type)),
    };
    if outer.source != source {
        return Err(Refusal::ForgedSource { found: outer.source, detail_type: outer.detail_type });
    }
    if channel != expected {
        return Err(Refusal::WrongQueue { detail_type: outer.detail_type });
    }
    match expected {
        Channel::Evidence => {
            let detail: ProbeDetail = read_detail(&outer)?;
            let probe = detail.probe;
            let id = format!("{}/{}/{}/{}", probe.vantage, probe.incarnation, probe.target, probe.sequence);
            Ok((detail.cluster, envelope(&outer, id, &detail.at, Event::Probe(probe))?))
        }
        Channel::Operator => {
            let detail: CommandDetail = read_detail(&outer)?;
            let id = format!("command/{}", detail.command.nonce);
            Ok((detail.cluster, envelope(&outer, id, &detail.at, Event::Command(detail.command))?))
        }
    }
}

fn bad(outer: &Outer, reason: String) -> Refusal {
    Refusal::BadDetail { detail_type: outer.detail_type.clone(), reason }
}

/// The detail, if it has our version and exactly the published fields.
fn read_detail<T: serde::de::DeserializeOwned>(outer: &Outer) -> Result<T, Refusal> {
    match outer.detail.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(DETAIL_VERSION) => return Err(Refusal::UnknownVersion { found }),
        Some(_) => {}
        None => return Err(bad(outer, "version is missing".into())),
    }
    T::deserialize(&outer.detail).map_err(|error| bad(outer, error.to_string()))
}

fn envelope(outer: &Outer, id: String, at: &str, event: Event) -> Result<Envelope, Refusal> {
    let at = clock::parse_rfc3339(at).ok_or_else(|| bad(outer, format!("at {at:?} is not RFC 3339")))?;
    Ok(Envelope { id: EventId(id), at, event })
}

/// The `detail` of a probe.
#[must_use]
pub fn probe_detail(cluster: &ClusterId, at: statemachine::Timestamp, probe: &Probe) -> String {
    let detail =
        ProbeDetail { version: DETAIL_VERSION, cluster: cluster.clone(), at: clock::rfc3339(at), probe: probe.clone() };
    serde_json::to_string(&detail).expect("a probe is plain data")
}

/// The `detail` of a command.
#[must_use]
pub fn command_detail(cluster: &ClusterId, at: statemachine::Timestamp, command: &Command) -> String {
    let (cluster, command) = (cluster.clone(), command.clone());
    let detail = CommandDetail { version: DETAIL_VERSION, cluster, at: clock::rfc3339(at), command };
    serde_json::to_string(&detail).expect("a command is plain data")
}

/// The `detail` of an announcement.
#[must_use]
pub fn transition_detail(cluster: &ClusterId, from: &str, to: &str, reason: &str, primary: &str) -> String {
    serde_json::json!({
        "version": DETAIL_VERSION,
        "cluster": cluster,
        "from": from,
        "to": to,
        "reason": reason,
        "primary": primary,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use statemachine::{Epoch, Order, ProbeOutcome, SelfCheck, Timestamp};

    fn probe() -> Probe {
        Probe {
            vantage: "witness".into(),
            incarnation: "run-1".into(),
            sequence: 7,
            target: "us-east-1".into(),
            outcome: ProbeOutcome::Failed { class: "timeout".into() },
            self_check: SelfCheck::Ok,
            latency_ms: 200,
            lag_ms: None,
        }
    }

    fn message(source: &str, detail_type: &str, detail: &str) -> String {
        format!(r#"{{"version":"0","id":"x","source":"{source}","detail-type":"{detail_type}","detail":{detail}}}"#)
    }

    #[test]
    fn a_probe_survives_the_round_trip() {
        let detail = probe_detail(&"orders".into(), Timestamp(1_000_123), &probe());
        let (cluster, envelope) =
            decode(&message(crate::bus::CANARY_SOURCE, PROBE_DETAIL_TYPE, &detail), Channel::Evidence)
                .expect("it is ours");
        assert_eq!(cluster.as_str(), "orders");
        assert_eq!(envelope.at, Timestamp(1_000_123));
        assert_eq!(envelope.id.as_str(), "witness/run-1/us-east-1/7");
        assert_eq!(envelope.event, Event::Probe(probe()));
    }

    #[test]
    fn a_command_counts_only_from_the_operators_queue() {
        let command = Command {
            actor: "alice".into(),
            reason: "drill".into(),
            expected_epoch: Epoch(3),
            expires_at: Timestamp(2_000_000),
            nonce: "n-1".into(),
            order: Order::Approve { allow_data_loss: true },
        };
        let detail = command_detail(&"orders".into(), Timestamp(1_000_000), &command);
        let body = message(crate::bus::OPERATOR_SOURCE, COMMAND_DETAIL_TYPE, &detail);
        let (_, envelope) = decode(&body, Channel::Operator).expect("it is ours");
        assert_eq!(envelope.event, Event::Command(command));
        let refusal = decode(&body, Channel::Evidence).expect_err("the canary's queue is not for commands");
        assert!(matches!(refusal, Refusal::WrongQueue { .. }), "{refusal}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let detail = probe_detail(&"orders".into(), Timestamp(0), &probe());
        let ours = crate::bus::CANARY_SOURCE;
        let cases = [
            ("not json".to_owned(), "not an EventBridge envelope"),
            ("x".repeat(MESSAGE_BYTES_MAX + 1), "at most"),
            (message("evil", PROBE_DETAIL_TYPE, &detail), "may not send"),
            (message(ours, "Weather Report", "{}"), "unknown detail-type"),
            (message(ours, PROBE_DETAIL_TYPE, &detail.replace("\"version\":1", "\"version\":2")), "version 2"),
            (message(ours, PROBE_DETAIL_TYPE, &detail.replace("{\"version", "{\"x\":1,\"version")), "unknown field"),
            (message(ours, PROBE_DETAIL_TYPE, "{}"), "version is missing"),
        ];
        for (body, reason) in cases {
            let refusal = decode(&body, Channel::Evidence).expect_err("it must be refused").to_string();
            assert!(refusal.contains(reason), "{refusal:?} should say {reason:?}");
        }
    }
}
