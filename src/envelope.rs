//! Bytes from the queue to an event of the machine, and back: versioned JSON in EventBridge envelopes.
//!
//! Strict: an unknown version, an unknown field inside `detail` or a missing one is refused with the reason, and
//! the message goes to the dead-letter queue. EventBridge's own envelope may grow; its unknown fields are dropped.

use crate::bus::{CANARY_SOURCE, OPERATOR_SOURCE};
use crate::clock;
use crate::config::ClusterSettings;
use schemars::{JsonSchema, Schema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use statemachine::{
    Alarm, Arn, ClusterId, Command, Envelope, Event, EventId, LagReading, Observation, Probe, ProbeOutcome, RdsEvent,
    Vantage,
};
use std::collections::{BTreeMap, BTreeSet};

/// `detail-type` of a probe.
pub const PROBE_DETAIL_TYPE: &str = "Probe Result";

/// `detail-type` of a probe of another kind than a write.
pub const OBSERVATION_DETAIL_TYPE: &str = "Observation";

/// `detail-type` of a replication lag by CloudWatch.
pub const LAG_DETAIL_TYPE: &str = "Replication Lag";

/// `detail-type` of an operator's command.
pub const COMMAND_DETAIL_TYPE: &str = "Operator Command";

/// `detail-type` of an announcement.
pub const TRANSITION_DETAIL_TYPE: &str = "Failover Transition";

/// `detail-type` of an event about a DB cluster.
pub const RDS_CLUSTER_DETAIL_TYPE: &str = "RDS DB Cluster Event";

/// `detail-type` of an event about a DB instance.
pub const RDS_INSTANCE_DETAIL_TYPE: &str = "RDS DB Instance Event";

/// `detail-type` of an alarm.
pub const ALARM_DETAIL_TYPE: &str = "CloudWatch Alarm State Change";

/// `source` of RDS.
pub const RDS_SOURCE: &str = "aws.rds";

/// `source` of alarms.
pub const CLOUDWATCH_SOURCE: &str = "aws.cloudwatch";

/// Longest name in a message, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest reason of a command, in bytes.
const REASON_BYTES_MAX: usize = 2048;

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
    /// Sent from an account that holds no member.
    #[error("account {found} may not send {detail_type}")]
    WrongAccount {
        /// The account.
        found: String,
        /// What it sent.
        detail_type: String,
    },
    /// Somebody replays an archive: the past is not decided upon twice.
    #[error("the event is replayed from an archive ({replay})")]
    Replayed {
        /// Name of the replay.
        replay: String,
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

impl Refusal {
    /// Name as in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too-long",
            Self::NotAnEnvelope(_) => "not-an-envelope",
            Self::ForgedSource { .. } => "forged-source",
            Self::WrongAccount { .. } => "wrong-account",
            Self::Replayed { .. } => "replayed",
            Self::WrongQueue { .. } => "wrong-queue",
            Self::UnknownKind(_) => "unknown-kind",
            Self::UnknownVersion { .. } => "unknown-version",
            Self::BadDetail { .. } => "bad-detail",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Outer {
    id: String,
    source: String,
    detail_type: String,
    account: String,
    /// Only in events that somebody replays from an archive.
    replay_name: Option<String>,
    detail: serde_json::Value,
}

/// What a vantage saw of one member: `detail` of a `Probe Result`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ProbeDetail {
    /// Version of this shape.
    version: u32,
    /// Global cluster.
    cluster: ClusterId,
    /// When it happened, RFC 3339.
    at: String,
    probe: Probe,
}

/// What a vantage saw of another target: `detail` of an `Observation`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ObservationDetail {
    /// Version of this shape.
    version: u32,
    /// Global cluster.
    cluster: ClusterId,
    /// When it happened, RFC 3339.
    at: String,
    observation: Observation,
}

/// How far a secondary is behind: `detail` of a `Replication Lag`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LagDetail {
    /// Version of this shape.
    version: u32,
    /// Global cluster.
    cluster: ClusterId,
    /// When it happened, RFC 3339.
    at: String,
    vantage: Vantage,
    lag: LagReading,
}

/// An operator's order: `detail` of an `Operator Command`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CommandDetail {
    /// Version of this shape.
    version: u32,
    /// Global cluster.
    cluster: ClusterId,
    /// When it happened, RFC 3339.
    at: String,
    command: Command,
}

/// An event of RDS, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RdsDetail {
    source_arn: String,
    date: String,
    message: Option<String>,
    #[serde(rename = "EventID")]
    event_id: String,
}

/// An alarm's change of state, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlarmDetail {
    alarm_name: String,
    state: AlarmState,
}

#[derive(Deserialize)]
struct AlarmState {
    value: String,
    timestamp: String,
}

/// A message that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Whom it is about: one cluster, several for an alarm that they share, none when it is about nothing of ours.
    pub clusters: Vec<ClusterId>,
    /// The event.
    pub envelope: Envelope,
}

/// Reads messages, with what is configured in mind.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Members by ARN.
    members: BTreeMap<Arn, ClusterId>,
    /// Clusters by alarm.
    alarms: BTreeMap<String, Vec<ClusterId>>,
    /// Accounts that may send: those of the members.
    accounts: BTreeSet<String>,
}

impl Decoder {
    /// For these clusters.
    #[must_use]
    pub fn new(clusters: &[ClusterSettings]) -> Self {
        let mut decoder = Self { members: BTreeMap::new(), alarms: BTreeMap::new(), accounts: BTreeSet::new() };
        for cluster in clusters {
            for member in &cluster.config.members {
                decoder.accounts.insert(member.arn.account().to_owned());
                decoder.members.insert(member.arn.clone(), cluster.id.clone());
            }
            for alarm in &cluster.config.alarms {
                decoder.alarms.entry(alarm.name.clone()).or_default().push(cluster.id.clone());
            }
        }
        decoder
    }

    /// Reads one message.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn decode(&self, body: &str, channel: Channel) -> Result<Decoded, Refusal> {
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::TooLong { bytes: body.len() });
        }
        let outer: Outer = serde_json::from_str(body).map_err(|e| Refusal::NotAnEnvelope(e.to_string()))?;
        let (source, expected) = match outer.detail_type.as_str() {
            PROBE_DETAIL_TYPE | OBSERVATION_DETAIL_TYPE | LAG_DETAIL_TYPE => (CANARY_SOURCE, Channel::Evidence),
            COMMAND_DETAIL_TYPE => (OPERATOR_SOURCE, Channel::Operator),
            RDS_CLUSTER_DETAIL_TYPE | RDS_INSTANCE_DETAIL_TYPE => (RDS_SOURCE, Channel::Evidence),
            ALARM_DETAIL_TYPE => (CLOUDWATCH_SOURCE, Channel::Evidence),
            _ => return Err(Refusal::UnknownKind(outer.detail_type)),
        };
        if outer.source != source {
            return Err(Refusal::ForgedSource { found: outer.source, detail_type: outer.detail_type });
        }
        if channel != expected {
            return Err(Refusal::WrongQueue { detail_type: outer.detail_type });
        }
        if !self.accounts.contains(&outer.account) {
            return Err(Refusal::WrongAccount { found: outer.account, detail_type: outer.detail_type });
        }
        if let Some(replay) = outer.replay_name {
            return Err(Refusal::Replayed { replay });
        }
        match outer.detail_type.as_str() {
            PROBE_DETAIL_TYPE => probe(&outer),
            OBSERVATION_DETAIL_TYPE => observation(&outer),
            LAG_DETAIL_TYPE => lag(&outer),
            COMMAND_DETAIL_TYPE => command(&outer),
            ALARM_DETAIL_TYPE => self.alarm(&outer),
            _ => self.rds(&outer),
        }
    }

    fn rds(&self, outer: &Outer) -> Result<Decoded, Refusal> {
        let detail: RdsDetail = read_foreign(outer)?;
        // An instance's event names its cluster in the message only.
        let message = detail.message.unwrap_or_default();
        let mut arn_parts = detail.source_arn.split(':').skip(3);
        let (region, kind) = (arn_parts.next().unwrap_or_default(), arn_parts.nth(1).unwrap_or_default());
        let member = self.members.iter().find(|(arn, _)| {
            let names_it = || message.split([' ', ',', '.', '\'', '"']).any(|word| word == arn.resource_id());
            arn.as_str() == detail.source_arn || kind == "db" && arn.region() == region && names_it()
        });
        let Some((source, cluster)) = member else {
            let event = Event::Rds(RdsEvent { code: detail.event_id, source: Arn(detail.source_arn) });
            return Ok(Decoded { clusters: Vec::new(), envelope: envelope(outer, &outer.id, &detail.date, event)? });
        };
        let event = Event::Rds(RdsEvent { code: detail.event_id, source: source.clone() });
        let id = format!("rds/{}", outer.id);
        Ok(Decoded { clusters: vec![cluster.clone()], envelope: envelope(outer, &id, &detail.date, event)? })
    }

    fn alarm(&self, outer: &Outer) -> Result<Decoded, Refusal> {
        let detail: AlarmDetail = read_foreign(outer)?;
        let clusters = self.alarms.get(&detail.alarm_name).cloned().unwrap_or_default();
        // Not enough data says nothing, like silence.
        let event = Event::Alarm(Alarm { name: detail.alarm_name, in_alarm: detail.state.value == "ALARM" });
        let id = format!("alarm/{}", outer.id);
        Ok(Decoded { clusters, envelope: envelope(outer, &id, &detail.state.timestamp, event)? })
    }
}

fn probe(outer: &Outer) -> Result<Decoded, Refusal> {
    let ProbeDetail { cluster, at, probe, .. } = read_detail(outer)?;
    short(outer, "vantage", probe.vantage.as_str())?;
    short(outer, "incarnation", &probe.incarnation)?;
    short(outer, "target", probe.target.as_str())?;
    if let ProbeOutcome::Failed { class } = &probe.outcome {
        short(outer, "class", class)?;
    }
    short(outer, "connect-failure", probe.connect_failure.as_deref().unwrap_or_default())?;
    let id = format!("{}/{}/{}/{}", probe.vantage, probe.incarnation, probe.target, probe.sequence);
    Ok(Decoded { clusters: vec![cluster], envelope: envelope(outer, &id, &at, Event::Probe(probe))? })
}

fn observation(outer: &Outer) -> Result<Decoded, Refusal> {
    let ObservationDetail { cluster, at, observation: seen, .. } = read_detail(outer)?;
    short(outer, "vantage", seen.vantage.as_str())?;
    short(outer, "incarnation", &seen.incarnation)?;
    short(outer, "name", &seen.name)?;
    if let ProbeOutcome::Failed { class } = &seen.outcome {
        short(outer, "class", class)?;
    }
    let id = format!("{}/{}/probe {}/{}", seen.vantage, seen.incarnation, seen.name, seen.sequence);
    Ok(Decoded { clusters: vec![cluster], envelope: envelope(outer, &id, &at, Event::Observation(seen))? })
}

fn lag(outer: &Outer) -> Result<Decoded, Refusal> {
    let LagDetail { cluster, at, vantage, lag, .. } = read_detail(outer)?;
    short(outer, "vantage", vantage.as_str())?;
    short(outer, "region", lag.region.as_str())?;
    let id = format!("lag/{vantage}/{}/{}", lag.region, lag.measured_at.0);
    Ok(Decoded { clusters: vec![cluster], envelope: envelope(outer, &id, &at, Event::Lag(lag))? })
}

fn command(outer: &Outer) -> Result<Decoded, Refusal> {
    let CommandDetail { cluster, at, command, .. } = read_detail(outer)?;
    check_command(&command).map_err(|reason| bad(outer, reason))?;
    let id = format!("command/{}", command.nonce);
    Ok(Decoded { clusters: vec![cluster], envelope: envelope(outer, &id, &at, Event::Command(command))? })
}

/// Is there anything in a command that no service would take? For whoever sends one.
///
/// # Errors
/// What is wrong, with the bound.
pub fn check_command(command: &Command) -> Result<(), String> {
    let on_behalf_of = command.on_behalf_of.as_deref().unwrap_or_default();
    let bounded = [
        ("actor", command.actor.as_str(), NAME_BYTES_MAX),
        ("on-behalf-of", on_behalf_of, NAME_BYTES_MAX),
        ("nonce", command.nonce.as_str(), NAME_BYTES_MAX),
        ("reason", command.reason.as_str(), REASON_BYTES_MAX),
    ];
    match bounded.iter().find(|(_, text, max)| text.len() > *max) {
        Some((field, text, max)) => Err(format!("{field} has {} bytes, at most {max}", text.len())),
        None => Ok(()),
    }
}

/// Names are kept in records: they are bounded.
fn short(outer: &Outer, field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(bad(outer, format!("{field} has {} bytes, at most {NAME_BYTES_MAX}", text.len())))
}

fn bad(outer: &Outer, reason: String) -> Refusal {
    Refusal::BadDetail { detail_type: outer.detail_type.clone(), reason }
}

/// The detail, if it has our version and exactly the published fields.
fn read_detail<T: DeserializeOwned>(outer: &Outer) -> Result<T, Refusal> {
    match outer.detail.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(DETAIL_VERSION) => return Err(Refusal::UnknownVersion { found }),
        Some(_) => {}
        None => return Err(bad(outer, "version is missing".into())),
    }
    read_foreign(outer)
}

/// The detail of somebody else's event: what is not known of it is left alone.
fn read_foreign<T: DeserializeOwned>(outer: &Outer) -> Result<T, Refusal> {
    T::deserialize(&outer.detail).map_err(|error| bad(outer, error.to_string()))
}

fn envelope(outer: &Outer, id: &str, at: &str, event: Event) -> Result<Envelope, Refusal> {
    let at = clock::parse_rfc3339(at).ok_or_else(|| bad(outer, format!("{at:?} is not a time")))?;
    Ok(Envelope { id: EventId(id.into()), at, event })
}

/// An announcement: `detail` of a `Failover Transition`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct TransitionDetail<'a> {
    /// Version of this shape.
    version: u32,
    /// Global cluster.
    cluster: &'a ClusterId,
    /// State, or situation, before.
    from: &'a str,
    /// State, or situation, after.
    to: &'a str,
    /// Why, as a sentence.
    reason: &'a str,
    /// Region of the writer.
    primary: &'a str,
}

/// The published JSON Schemas: name and schema of every `detail` that is read or written.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("probe-result", schema_for!(ProbeDetail)),
        ("observation", schema_for!(ObservationDetail)),
        ("replication-lag", schema_for!(LagDetail)),
        ("operator-command", schema_for!(CommandDetail)),
        ("failover-transition", schema_for!(TransitionDetail<'_>)),
    ]
}

/// The `detail` of a probe.
#[must_use]
pub fn probe_detail(cluster: &ClusterId, at: statemachine::Timestamp, probe: &Probe) -> String {
    let detail =
        ProbeDetail { version: DETAIL_VERSION, cluster: cluster.clone(), at: clock::rfc3339(at), probe: probe.clone() };
    serde_json::to_string(&detail).expect("a probe is plain data")
}

/// The `detail` of a probe of another kind.
#[must_use]
pub fn observation_detail(cluster: &ClusterId, at: statemachine::Timestamp, seen: &Observation) -> String {
    let (cluster, at, observation) = (cluster.clone(), clock::rfc3339(at), seen.clone());
    let detail = ObservationDetail { version: DETAIL_VERSION, cluster, at, observation };
    serde_json::to_string(&detail).expect("an observation is plain data")
}

/// The `detail` of a lag, told by `vantage`.
#[must_use]
pub fn lag_detail(cluster: &ClusterId, vantage: &Vantage, at: statemachine::Timestamp, reading: &LagReading) -> String {
    let (cluster, at, vantage, lag) = (cluster.clone(), clock::rfc3339(at), vantage.clone(), reading.clone());
    let detail = LagDetail { version: DETAIL_VERSION, cluster, at, vantage, lag };
    serde_json::to_string(&detail).expect("a reading is plain data")
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
    let detail = TransitionDetail { version: DETAIL_VERSION, cluster, from, to, reason, primary };
    serde_json::to_string(&detail).expect("an announcement is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use statemachine::{Epoch, Order, SelfCheck, Timestamp};

    fn decoder() -> Decoder {
        let example = include_str!("../aurora-failover.example.toml");
        let mut settings = config::parse(example, "example", |_| None).expect("the example is valid");
        settings.clusters[0].config.alarms = vec![statemachine::AlarmWeight { name: "commits".into(), weight: 1 }];
        Decoder::new(&settings.clusters)
    }

    fn probe() -> Probe {
        Probe {
            vantage: "witness".into(),
            incarnation: "run-1".into(),
            sequence: 7,
            target: "us-east-1".into(),
            outcome: ProbeOutcome::Failed { class: "timeout".into() },
            self_check: SelfCheck::Ok,
            latency_ms: 200,
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms: None,
        }
    }

    fn message(source: &str, detail_type: &str, detail: &str) -> String {
        format!(
            r#"{{"version":"0","id":"x","source":"{source}","account":"123456789012","detail-type":"{detail_type}",
            "detail":{detail}}}"#
        )
    }

    fn probe_message() -> String {
        message(CANARY_SOURCE, PROBE_DETAIL_TYPE, &probe_detail(&"orders".into(), Timestamp(1_000_123), &probe()))
    }

    #[test]
    fn a_probe_survives_the_round_trip() {
        let decoded = decoder().decode(&probe_message(), Channel::Evidence).expect("it is ours");
        assert_eq!(decoded.clusters, ["orders".into()]);
        assert_eq!(decoded.envelope.at, Timestamp(1_000_123));
        assert_eq!(decoded.envelope.id.as_str(), "witness/run-1/us-east-1/7");
        assert_eq!(decoded.envelope.event, Event::Probe(probe()));
    }

    #[test]
    fn an_observation_and_a_lag_survive_the_round_trip() {
        let Probe { vantage, incarnation, sequence, outcome, self_check, latency_ms, .. } = probe();
        let name = "website".to_owned();
        let seen = Observation { vantage, incarnation, sequence, name, outcome, self_check, latency_ms };
        let detail = observation_detail(&"orders".into(), Timestamp(1_000_123), &seen);
        let body = message(CANARY_SOURCE, OBSERVATION_DETAIL_TYPE, &detail);
        let decoded = decoder().decode(&body, Channel::Evidence).expect("it is ours");
        assert_eq!(decoded.envelope.id.as_str(), "witness/run-1/probe website/7");
        assert_eq!(decoded.envelope.event, Event::Observation(seen));
        let reading = LagReading { region: "us-west-2".into(), ms: 7, measured_at: Timestamp(960_000) };
        let detail = lag_detail(&"orders".into(), &"witness".into(), Timestamp(1_000_123), &reading);
        let body = message(CANARY_SOURCE, LAG_DETAIL_TYPE, &detail);
        let decoded = decoder().decode(&body, Channel::Evidence).expect("it is ours");
        assert_eq!(decoded.envelope.at, Timestamp(1_000_123));
        assert_eq!(decoded.envelope.event, Event::Lag(reading));
    }

    #[test]
    fn a_command_counts_only_from_the_operators_queue() {
        let command = Command {
            actor: "alice".into(),
            on_behalf_of: Some("ticket 4711".into()),
            reason: "drill".into(),
            expected_epoch: Epoch(3),
            expires_at: Timestamp(2_000_000),
            nonce: "n-1".into(),
            order: Order::Approve { allow_data_loss: true },
        };
        let detail = command_detail(&"orders".into(), Timestamp(1_000_000), &command);
        let body = message(OPERATOR_SOURCE, COMMAND_DETAIL_TYPE, &detail);
        let decoded = decoder().decode(&body, Channel::Operator).expect("it is ours");
        assert_eq!(decoded.envelope.event, Event::Command(command.clone()));
        let endless = Command { on_behalf_of: Some("x".repeat(300)), ..command };
        let detail = command_detail(&"orders".into(), Timestamp(1_000_000), &endless);
        let refused = decoder().decode(&message(OPERATOR_SOURCE, COMMAND_DETAIL_TYPE, &detail), Channel::Operator);
        let refused = refused.expect_err("a name has its bound").to_string();
        assert!(refused.contains("on-behalf-of has 300 bytes, at most 256"), "{refused}");
        let refusal = decoder().decode(&body, Channel::Evidence).expect_err("the canary's queue is not for commands");
        assert!(matches!(refusal, Refusal::WrongQueue { .. }), "{refusal}");
    }

    #[test]
    fn an_event_of_rds_finds_its_cluster_by_arn_or_by_the_message_of_its_instance() {
        let cluster_arn = "arn:aws:rds:us-east-2:123456789012:cluster:orders-us-east-2";
        let detail = |arn: &str, message: &str| {
            format!(
                r#"{{"EventCategories":["failover"],"SourceType":"CLUSTER","SourceArn":"{arn}",
                "Date":"2018-10-06T12:26:13.882Z","Message":"{message}","SourceIdentifier":"x",
                "EventID":"RDS-EVENT-0073"}}"#
            )
        };
        let blocked = "Attempt to block writes for DB cluster orders-us-east-2 in Region us-east-2 succeeded.";
        let instance = "arn:aws:rds:us-east-2:123456789012:db:orders-1";
        let cases = [
            (RDS_CLUSTER_DETAIL_TYPE, detail(cluster_arn, ""), true),
            (RDS_INSTANCE_DETAIL_TYPE, detail(instance, blocked), true),
            (RDS_INSTANCE_DETAIL_TYPE, detail(&instance.replace("us-east-2", "us-west-2"), blocked), false),
            (RDS_CLUSTER_DETAIL_TYPE, detail(&cluster_arn.replace("orders", "other"), ""), false),
        ];
        for (detail_type, detail, ours) in cases {
            let body = message(RDS_SOURCE, detail_type, &detail);
            let decoded = decoder().decode(&body, Channel::Evidence).expect("it can be read");
            assert_eq!(!decoded.clusters.is_empty(), ours, "{body}");
            let Event::Rds(event) = decoded.envelope.event else { panic!("{body}") };
            assert_eq!((event.code.as_str(), event.source.as_str() == cluster_arn), ("RDS-EVENT-0073", ours));
            assert_eq!(decoded.envelope.at, Timestamp(1_538_828_773_882));
        }
    }

    #[test]
    fn an_alarm_finds_the_clusters_that_count_it() {
        let detail = |name: &str, value: &str| {
            format!(
                r#"{{"alarmName":"{name}","state":{{"value":"{value}","reason":"r",
                "timestamp":"2019-10-02T17:04:40.989+0000"}},"previousState":{{"value":"OK"}}}}"#
            )
        };
        for (name, value, clusters, in_alarm) in
            [("commits", "ALARM", 1, true), ("commits", "INSUFFICIENT_DATA", 1, false), ("other", "ALARM", 0, true)]
        {
            let body = message(CLOUDWATCH_SOURCE, ALARM_DETAIL_TYPE, &detail(name, value));
            let decoded = decoder().decode(&body, Channel::Evidence).expect("it can be read");
            assert_eq!(decoded.clusters.len(), clusters);
            assert_eq!(decoded.envelope.at, Timestamp(1_570_035_880_989));
            assert_eq!(decoded.envelope.event, Event::Alarm(Alarm { name: name.into(), in_alarm }));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let ours = probe_message();
        let cases = [
            ("not json".to_owned(), "not an EventBridge envelope"),
            ("x".repeat(MESSAGE_BYTES_MAX + 1), "at most"),
            (ours.replace(CANARY_SOURCE, "evil"), "may not send"),
            (ours.replace(r#""source":"aurora-failover.canary""#, r#""source":"aws.rds""#), "may not send"),
            (ours.replace("123456789012", "999999999999"), "account 999999999999"),
            (ours.replace(r#""id":"x""#, r#""id":"x","replay-name":"again""#), "replayed"),
            (message(CANARY_SOURCE, "Weather Report", "{}"), "unknown detail-type"),
            (ours.replace("\"version\":1", "\"version\":2"), "version 2"),
            (ours.replace("{\"version\":1", "{\"x\":1,\"version\":1"), "unknown field"),
            (ours.replace("\"timeout\"", &format!("{:?}", "t".repeat(300))), "class has 300 bytes"),
            (ours.replace("\"at\":\"1970", "\"at\":\"in 1970"), "not a time"),
            (message(CANARY_SOURCE, PROBE_DETAIL_TYPE, "{}"), "version is missing"),
            (message(RDS_SOURCE, RDS_CLUSTER_DETAIL_TYPE, "{}"), "missing field"),
        ];
        for (body, reason) in cases {
            let refusal = decoder().decode(&body, Channel::Evidence).expect_err("it must be refused").to_string();
            assert!(refusal.contains(reason), "{refusal:?} should say {reason:?}");
        }
    }
}
