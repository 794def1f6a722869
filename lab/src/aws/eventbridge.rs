//! EventBridge, AWS JSON 1.1: buses, rules on event patterns, and SQS queues as targets.
//!
//! Delivery is immediate, once and in order, which is kinder than AWS: at least once, any order.
//! Deliberately absent: schedules, archives, other targets, input transformation, target dead
//! letter queues. An event for a queue that does not exist is dropped, as AWS does without one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::{FaultKind, Faults};
use super::pattern::Pattern;
use super::sqs::Sqs;
use super::wire::{Outcome, Refusal, Reply, json_reply, json_request, lock};

const ENTRIES_MAX: usize = 10;
const ENTRIES_BYTES_MAX: usize = 1_048_576;
const TARGETS_PER_RULE_MAX: usize = 5;
const DEFAULT_BUS: &str = "default";

pub(super) struct EventBridge {
    account: String,
    sqs: Arc<Sqs>,
    regions: Mutex<HashMap<String, Buses>>,
    late: Late,
}

type Buses = BTreeMap<String, BTreeMap<String, Rule>>;

struct Rule {
    text: String,
    pattern: Pattern,
    enabled: bool,
    description: Option<String>,
    /// Target id to queue name.
    targets: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateEventBus {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DescribeEventBus {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutRule {
    name: String,
    event_pattern: String,
    event_bus_name: Option<String>,
    state: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutTargets {
    rule: String,
    event_bus_name: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Target {
    id: String,
    arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListRules {
    name_prefix: Option<String>,
    event_bus_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListTargetsByRule {
    rule: String,
    event_bus_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutEvents {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Entry {
    time: Option<f64>,
    source: Option<String>,
    #[serde(default)]
    resources: Vec<String>,
    detail_type: Option<String>,
    detail: Option<String>,
    event_bus_name: Option<String>,
}

impl Entry {
    fn bytes(&self) -> usize {
        let texts = [&self.source, &self.detail_type, &self.detail];
        let texts = texts.into_iter().flatten().chain(&self.resources);
        texts.map(String::len).sum::<usize>() + self.time.map_or(0, |_| 14)
    }
}

/// An event on its way: what a rule is matched against and what a queue receives.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Event {
    version: &'static str,
    id: String,
    detail_type: String,
    source: String,
    account: String,
    time: String,
    region: String,
    resources: Vec<String>,
    detail: Map<String, Value>,
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    json_request(body, "ValidationException", "ValidationException")
}

/// What makes events late, or lose their way.
pub(super) struct Late {
    pub(super) faults: Faults,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl EventBridge {
    pub(super) fn new(account: &str, sqs: Arc<Sqs>, late: Late) -> Arc<Self> {
        Arc::new(Self { account: account.to_owned(), sqs, regions: Mutex::default(), late })
    }

    pub(super) fn call(&self, region: &str, action: &str, body: &[u8]) -> Reply {
        let outcome = match action {
            "CreateEventBus" => read(body).and_then(|request| self.create_bus(region, request)),
            "DescribeEventBus" => read(body).and_then(|request| self.describe_bus(region, request)),
            "PutRule" => read(body).and_then(|request| self.put_rule(region, request)),
            "PutTargets" => read(body).and_then(|request| self.put_targets(region, request)),
            "ListRules" => read(body).and_then(|request| self.list_rules(region, request)),
            "ListTargetsByRule" => read(body).and_then(|request| self.list_targets(region, request)),
            "PutEvents" => read(body).and_then(|request| self.put_events(region, request)),
            other => {
                let message = format!("the lab's EventBridge has no action '{other}'");
                Err(Refusal::new("UnknownOperationException", message))
            }
        };
        json_reply("1.1", "", outcome)
    }

    /// Publishes an event of RDS on the default bus of a region: best effort, as in AWS. Some come late, some never, if
    /// a fault says so.
    pub(super) fn publish(
        self: &Arc<Self>,
        region: &str,
        code: &str,
        detail_type: &str,
        resource: String,
        detail: Map<String, Value>,
    ) {
        let event = Event {
            version: "0",
            id: uuid::Uuid::new_v4().to_string(),
            detail_type: detail_type.to_owned(),
            source: "aws.rds".to_owned(),
            account: self.account.clone(),
            time: whole_second(Timestamp::now()),
            region: region.to_owned(),
            resources: vec![resource],
            detail,
        };
        match self.late.faults.draw_event(region, code) {
            Some(FaultKind::Lost) => tracing::info!(code, "an event of RDS is lost"),
            Some(FaultKind::Latency(latency)) => {
                let bus = Arc::clone(self);
                let later = async move {
                    tokio::time::sleep(latency).await;
                    bus.route(DEFAULT_BUS, &event);
                };
                self.late.tasks.spawn(self.late.stop.clone().run_until_cancelled_owned(later));
            }
            _ => self.route(DEFAULT_BUS, &event),
        }
    }

    fn create_bus(&self, region: &str, request: CreateEventBus) -> Outcome<Value> {
        let name = request.name;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/.-_".contains(&b);
        if name.is_empty() || name.len() > 256 || !name.bytes().all(allowed) {
            return Err(invalid(format!("'{name}' is not a valid event bus name")));
        }
        let mut regions = self.buses(region);
        let buses = regions.get_mut(region).expect("buses() made it");
        if buses.contains_key(&name) {
            let message = format!("Event bus {name} already exists.");
            return Err(Refusal::new("ResourceAlreadyExistsException", message));
        }
        buses.insert(name.clone(), BTreeMap::new());
        Ok(json!({ "EventBusArn": self.bus_arn(region, &name) }))
    }

    fn describe_bus(&self, region: &str, request: DescribeEventBus) -> Outcome<Value> {
        self.with_bus(region, request.name.as_deref(), |name, _| {
            Ok(json!({ "Name": name, "Arn": self.bus_arn(region, name) }))
        })
    }

    fn put_rule(&self, region: &str, request: PutRule) -> Outcome<Value> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        let name = request.name;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
            return Err(invalid(format!("'{name}' is not a valid rule name")));
        }
        let pattern = Pattern::parse(&request.event_pattern).map_err(|reason| {
            let message = format!("Event pattern is not valid. Reason: {reason}");
            Refusal::new("InvalidEventPatternException", message)
        })?;
        let enabled = match request.state.as_deref() {
            None | Some("ENABLED") => true,
            Some("DISABLED") => false,
            Some(other) => return Err(invalid(format!("the lab does not support state {other}"))),
        };
        self.with_bus(region, request.event_bus_name.as_deref(), |bus, rules| {
            let targets = rules.remove(&name).map(|old| old.targets).unwrap_or_default();
            let rule =
                Rule { text: request.event_pattern, pattern, enabled, description: request.description, targets };
            let arn = self.rule_arn(region, bus, &name);
            rules.insert(name, rule);
            Ok(json!({ "RuleArn": arn }))
        })
    }

    fn put_targets(&self, region: &str, request: PutTargets) -> Outcome<Value> {
        if request.targets.is_empty() {
            return Err(invalid("PutTargets needs at least one target"));
        }
        let prefix = format!("arn:aws:sqs:{region}:{}:", self.account);
        let mut added = BTreeMap::new();
        for Target { id, arn } in request.targets {
            let queue = arn.strip_prefix(&prefix).filter(|name| !name.contains(':'));
            let queue = queue.ok_or_else(|| {
                invalid(format!(
                    "Parameter {arn} is not valid. Reason: the lab delivers only to SQS queues of the same region and account, {prefix}*"
                ))
            })?;
            added.insert(id, queue.to_owned());
        }
        self.with_bus(region, request.event_bus_name.as_deref(), |bus, rules| {
            let rule = rules.get_mut(&request.rule).ok_or_else(|| no_rule(&request.rule, bus))?;
            let mut targets = rule.targets.clone();
            targets.extend(added);
            if targets.len() > TARGETS_PER_RULE_MAX {
                let message = "The requested resource exceeds the maximum number allowed.";
                return Err(Refusal::new("LimitExceededException", message));
            }
            rule.targets = targets;
            Ok(json!({ "FailedEntryCount": 0, "FailedEntries": [] }))
        })
    }

    fn list_rules(&self, region: &str, request: ListRules) -> Outcome<Value> {
        let prefix = request.name_prefix.unwrap_or_default();
        self.with_bus(region, request.event_bus_name.as_deref(), |bus, rules| {
            let rules = rules.iter().filter(|(name, _)| name.starts_with(&prefix));
            let rules = rules.map(|(name, rule)| {
                let mut shown = json!({
                    "Name": name,
                    "Arn": self.rule_arn(region, bus, name),
                    "EventPattern": rule.text,
                    "State": if rule.enabled { "ENABLED" } else { "DISABLED" },
                    "EventBusName": bus,
                });
                if let Some(description) = &rule.description {
                    shown["Description"] = json!(description);
                }
                shown
            });
            Ok(json!({ "Rules": rules.collect::<Vec<_>>() }))
        })
    }

    fn list_targets(&self, region: &str, request: ListTargetsByRule) -> Outcome<Value> {
        self.with_bus(region, request.event_bus_name.as_deref(), |bus, rules| {
            let rule = rules.get(&request.rule).ok_or_else(|| no_rule(&request.rule, bus))?;
            let arn = |queue: &String| format!("arn:aws:sqs:{region}:{}:{queue}", self.account);
            let targets = rule.targets.iter();
            let targets = targets.map(|(id, queue)| json!({ "Id": id, "Arn": arn(queue) }));
            Ok(json!({ "Targets": targets.collect::<Vec<_>>() }))
        })
    }

    fn put_events(&self, region: &str, request: PutEvents) -> Outcome<Value> {
        let entries = request.entries;
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(invalid(format!(
                "1 validation error detected: Value '{}' at 'entries' failed to satisfy constraint: Member must have length between 1 and {ENTRIES_MAX}",
                entries.len()
            )));
        }
        if entries.iter().map(Entry::bytes).sum::<usize>() >= ENTRIES_BYTES_MAX {
            return Err(invalid("Total size of the entries in the request is over the limit."));
        }
        let mut failed = 0;
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.event(region, entry) {
                Ok((bus, event)) => {
                    results.push(json!({ "EventId": event.id }));
                    // A bus that does not exist takes the event and drops it, as in AWS.
                    self.route(&bus, &event);
                }
                Err(refusal) => {
                    failed += 1;
                    results.push(json!({ "ErrorCode": refusal.code, "ErrorMessage": refusal.message }));
                }
            }
        }
        Ok(json!({ "FailedEntryCount": failed, "Entries": results }))
    }

    fn event(&self, region: &str, entry: Entry) -> Outcome<(String, Event)> {
        let required = |name: &str, value: Option<String>| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                let message = format!("Parameter {name} is not valid. Reason: {name} is a required argument.");
                Refusal::new("InvalidArgument", message)
            })
        };
        let source = required("Source", entry.source)?;
        let detail_type = required("DetailType", entry.detail_type)?;
        let detail = required("Detail", entry.detail)?;
        if source.starts_with("aws.") {
            let message = "Not authorized for the source.";
            return Err(Refusal::new("NotAuthorizedForSourceException", message));
        }
        if detail_type.len() > 128 {
            let message = "Parameter DetailType is not valid. Reason: it is longer than 128 characters.";
            return Err(Refusal::new("InvalidArgument", message));
        }
        let detail =
            serde_json::from_str(&detail).map_err(|_| Refusal::new("MalformedDetail", "Detail is malformed."))?;
        let time = match entry.time {
            None => Some(Timestamp::now()),
            // Cut to whole seconds on purpose: the envelope has no fraction.
            Some(seconds) => Timestamp::from_second(seconds as i64).ok(),
        };
        let time = time.ok_or_else(|| Refusal::new("InvalidArgument", "Parameter Time is not valid."))?;
        let event = Event {
            version: "0",
            id: uuid::Uuid::new_v4().to_string(),
            detail_type,
            source,
            account: self.account.clone(),
            time: whole_second(time),
            region: region.to_owned(),
            resources: entry.resources,
            detail,
        };
        Ok((self.bus_name(region, entry.event_bus_name.as_deref()), event))
    }

    /// Hands the event to every queue of every enabled rule that matches.
    fn route(&self, bus: &str, event: &Event) {
        let body = serde_json::to_value(event).expect("an event is plain JSON");
        let regions = self.buses(&event.region);
        let rules = regions.get(&event.region).and_then(|buses| buses.get(bus));
        for (name, rule) in rules.into_iter().flatten() {
            if !rule.enabled || !rule.pattern.matches(&body) {
                continue;
            }
            // Serialized from the struct, so that the fields stand in AWS's order.
            let text = serde_json::to_string(event).expect("an event is plain JSON");
            for queue in rule.targets.values() {
                if !self.sqs.deliver(&event.region, queue, text.clone()) {
                    tracing::warn!(rule = name, queue, "event dropped: its target queue does not exist");
                }
            }
        }
    }

    /// All buses, with the default bus of `region` in place.
    fn buses(&self, region: &str) -> MutexGuard<'_, HashMap<String, Buses>> {
        let mut regions = lock(&self.regions);
        let buses = regions.entry(region.to_owned()).or_default();
        buses.entry(DEFAULT_BUS.to_owned()).or_default();
        regions
    }

    fn with_bus(
        &self,
        region: &str,
        bus: Option<&str>,
        act: impl FnOnce(&str, &mut BTreeMap<String, Rule>) -> Outcome<Value>,
    ) -> Outcome<Value> {
        let name = self.bus_name(region, bus);
        let mut regions = self.buses(region);
        let rules = regions.get_mut(region).and_then(|buses| buses.get_mut(&name));
        let rules = rules.ok_or_else(|| {
            let message = format!("Event bus {name} does not exist.");
            Refusal::new("ResourceNotFoundException", message)
        })?;
        act(&name, rules)
    }

    /// A bus may be given by name or by ARN.
    fn bus_name(&self, region: &str, bus: Option<&str>) -> String {
        let bus = bus.unwrap_or(DEFAULT_BUS);
        let prefix = self.bus_arn(region, "");
        bus.strip_prefix(&prefix).unwrap_or(bus).to_owned()
    }

    fn bus_arn(&self, region: &str, bus: &str) -> String {
        format!("arn:aws:events:{region}:{}:event-bus/{bus}", self.account)
    }

    fn rule_arn(&self, region: &str, bus: &str, rule: &str) -> String {
        let path = if bus == DEFAULT_BUS { String::new() } else { format!("{bus}/") };
        format!("arn:aws:events:{region}:{}:rule/{path}{rule}", self.account)
    }
}

fn whole_second(at: Timestamp) -> String {
    let at = at.as_second();
    Timestamp::from_second(at).expect("it was a timestamp").to_string()
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new("ValidationException", message)
}

fn no_rule(rule: &str, bus: &str) -> Refusal {
    let message = format!("Rule {rule} does not exist on EventBus {bus}.");
    Refusal::new("ResourceNotFoundException", message)
}
