//! SQS, AWS JSON 1.0: standard queues with long polling, visibility timeouts and redrive.
//!
//! Deliberately absent: FIFO queues, message attributes other than strings, message groups, encryption and tags;
//! asking for them is an error. A queue's policy is stored and returned, not enforced.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::Network;
use super::wire::{Outcome, Refusal, Reply, json_reply, json_request, lock};

const MESSAGE_BYTES_MAX: usize = 1_048_576;
const VISIBILITY_S_MAX: i64 = 43_200;
const BATCH_MAX: usize = 10;

type QueueKey = (String, String);

pub(super) struct Sqs {
    account: String,
    url: String,
    network: Network,
    queues: Mutex<HashMap<QueueKey, Queue>>,
}

struct Queue {
    created_s: u64,
    modified_s: u64,
    settings: Settings,
    /// In the order in which they can be received.
    messages: BTreeMap<Place, Message>,
    /// Where in it each message is, by its id.
    places: HashMap<String, Place>,
    pushed: u64,
    arrived: Arc<Notify>,
}

/// When a message can be received, and its number, so that no two are in one place.
type Place = (Instant, u64);

#[derive(Clone)]
struct Settings {
    /// As they were given; what was not given has its default below.
    given: BTreeMap<String, String>,
    visibility_s: i64,
    retention_s: i64,
    wait_s: i64,
    redrive: Option<Redrive>,
}

#[derive(Clone)]
struct Redrive {
    queue: String,
    receives_max: u32,
}

struct Message {
    id: String,
    body: String,
    attributes: MessageAttributes,
    sent_at: SystemTime,
    first_received_at: Option<SystemTime>,
    /// Over all queues, as AWS counts; `received_here` decides about redrive.
    received: u32,
    received_here: u32,
}

impl Message {
    fn new(body: String, attributes: MessageAttributes) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            body,
            attributes,
            sent_at: SystemTime::now(),
            first_received_at: None,
            received: 0,
            received_here: 0,
        }
    }

    /// Names the message and the receive that handed it out.
    fn receipt(&self) -> String {
        format!("{}:{}", self.id, self.received)
    }
}

/// What a look at the queue says: answer now, or look again at a time or an arrival.
enum Look {
    Answer(Value),
    Wait(Instant, OwnedNotified),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetQueueUrl {
    queue_name: String,
    #[serde(rename = "QueueOwnerAWSAccountId")]
    owner: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetQueueAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SetQueueAttributes {
    queue_url: String,
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SendMessage {
    queue_url: String,
    message_body: String,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: MessageAttributes,
}

type MessageAttributes = BTreeMap<String, MessageAttribute>;

/// Strings only; a binary value is an unknown field and so refused.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct MessageAttribute {
    data_type: String,
    string_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ReceiveMessage {
    queue_url: String,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeleteMessage {
    queue_url: String,
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeleteMessageBatch {
    queue_url: String,
    entries: Vec<DeleteEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeleteEntry {
    id: String,
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ChangeMessageVisibility {
    queue_url: String,
    receipt_handle: String,
    visibility_timeout: i64,
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    json_request(body, "UnsupportedOperation", "InvalidParameterValue")
}

impl Sqs {
    pub(super) fn new(account: &str, url: &str, network: Network) -> Arc<Self> {
        Arc::new(Self { account: account.to_owned(), url: url.to_owned(), network, queues: Mutex::default() })
    }

    pub(super) async fn call(&self, region: &str, action: &str, body: &[u8]) -> Reply {
        let outcome = match action {
            "CreateQueue" => read(body).and_then(|request| self.create(region, request)),
            "GetQueueUrl" => read(body).and_then(|request| self.queue_url(region, request)),
            "GetQueueAttributes" => read(body).and_then(|request| self.attributes(region, request)),
            "SetQueueAttributes" => read(body).and_then(|request| self.set_attributes(region, request)),
            "SendMessage" => read(body).and_then(|request| self.send(region, request)),
            "ReceiveMessage" => match read(body) {
                Ok(request) => self.receive(region, request).await,
                Err(refusal) => Err(refusal),
            },
            "DeleteMessage" => read(body).and_then(|request| self.delete(region, request)),
            "DeleteMessageBatch" => read(body).and_then(|request| self.delete_batch(region, request)),
            "ChangeMessageVisibility" => read(body).and_then(|request| self.change_visibility(region, request)),
            other => {
                let message = format!("the lab's SQS has no action '{other}'");
                let refusal = Refusal::new("UnknownOperationException", message);
                return json_reply("1.0", "com.amazon.coral.service#", Err(refusal));
            }
        };
        let mut reply = json_reply("1.0", "com.amazonaws.sqs#", outcome);
        if let Some(code) = &reply.error_code {
            let code = HeaderValue::from_str(&format!("{};Sender", query_code(code)));
            let headers = reply.response.headers_mut();
            headers.insert("x-amzn-query-error", code.expect("codes are ASCII"));
        }
        reply
    }

    /// Puts an event on a queue as EventBridge does; false if there is no such queue.
    pub(super) fn deliver(&self, region: &str, queue: &str, body: String) -> bool {
        let mut queues = lock(&self.queues);
        let queue = queues.get_mut(&(region.to_owned(), queue.to_owned()));
        queue.map(|queue| queue.push(Message::new(body, MessageAttributes::new()), Instant::now())).is_some()
    }

    fn create(&self, region: &str, request: CreateQueue) -> Outcome<Value> {
        let name = request.queue_name;
        if name.ends_with(".fifo") {
            let message = format!("the lab has standard queues only; '{name}' asks for a FIFO queue");
            return Err(Refusal::new("UnsupportedOperation", message));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 80 || !name.bytes().all(allowed) {
            return Err(invalid_value(
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
            ));
        }
        let mut queues = lock(&self.queues);
        let key = (region.to_owned(), name.clone());
        let settings = self.settings(&queues, region, BTreeMap::new(), request.attributes)?;
        if let Some(queue) = queues.get(&key) {
            let same =
                |(name, value): (&String, &String)| self.attribute(&key, queue, name).is_some_and(|now| now == *value);
            if !settings.given.iter().all(same) {
                let message =
                    format!("A queue already exists with the same name and a different value for an attribute: {name}");
                return Err(Refusal::new("QueueNameExists", message));
            }
        } else {
            let now = epoch_s();
            let (messages, places) = (BTreeMap::new(), HashMap::new());
            let queue = Queue {
                created_s: now,
                modified_s: now,
                settings,
                messages,
                places,
                pushed: 0,
                arrived: Arc::default(),
            };
            queues.insert(key, queue);
        }
        Ok(json!({ "QueueUrl": self.url_of(&name) }))
    }

    fn queue_url(&self, region: &str, request: GetQueueUrl) -> Outcome<Value> {
        let ours = request.owner.is_none_or(|owner| owner == self.account);
        let key = (region.to_owned(), request.queue_name);
        if !ours || !lock(&self.queues).contains_key(&key) {
            return Err(no_queue());
        }
        Ok(json!({ "QueueUrl": self.url_of(&key.1) }))
    }

    fn attributes(&self, region: &str, request: GetQueueAttributes) -> Outcome<Value> {
        const ALL: [&str; 11] = [
            "QueueArn",
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
            "CreatedTimestamp",
            "LastModifiedTimestamp",
            "VisibilityTimeout",
            "MessageRetentionPeriod",
            "ReceiveMessageWaitTimeSeconds",
            "RedrivePolicy",
            "Policy",
        ];
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        queue.expire();
        let names = &request.attribute_names;
        if let Some(unknown) = names.iter().find(|name| *name != "All" && !ALL.contains(&name.as_str())) {
            return Err(unknown_attribute(unknown));
        }
        let wanted = |name: &str| names.iter().any(|asked| asked == "All" || asked == name);
        let values: Map<String, Value> = ALL
            .into_iter()
            .filter(|name| wanted(name))
            .filter_map(|name| Some((name.to_owned(), self.attribute(&key, queue, name)?.into())))
            .collect();
        Ok(if values.is_empty() { json!({}) } else { json!({ "Attributes": values }) })
    }

    fn set_attributes(&self, region: &str, request: SetQueueAttributes) -> Outcome<Value> {
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let given = queues.get(&key).ok_or_else(no_queue)?.settings.given.clone();
        let settings = self.settings(&queues, region, given, request.attributes)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        queue.settings = settings;
        queue.modified_s = epoch_s();
        Ok(json!({}))
    }

    fn send(&self, region: &str, request: SendMessage) -> Outcome<Value> {
        let body = request.message_body;
        if body.is_empty() {
            let message = "The request must contain the parameter MessageBody.";
            return Err(Refusal::new("MissingParameter", message));
        }
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(invalid_value(format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {MESSAGE_BYTES_MAX} bytes."
            )));
        }
        let delay_s = ranged("DelaySeconds", request.delay_seconds, 0, 0, 900)?;
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        let mut answer = json!({ "MD5OfMessageBody": md5_hex(&body) });
        if !request.message_attributes.is_empty() {
            answer["MD5OfMessageAttributes"] = attributes_md5(&request.message_attributes).into();
        }
        let message = Message::new(body, request.message_attributes);
        answer["MessageId"] = message.id.clone().into();
        queue.push(message, Instant::now() + seconds(delay_s));
        Ok(answer)
    }

    async fn receive(&self, region: &str, request: ReceiveMessage) -> Outcome<Value> {
        let max = ranged("MaxNumberOfMessages", request.max_number_of_messages, 1, 1, 10)?;
        let names = request.attribute_names.iter();
        let names = names.chain(&request.message_system_attribute_names);
        let names: Vec<&str> = names.map(String::as_str).collect();
        let known = ["All", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp"];
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            let message = format!("the lab does not support the system attribute {unknown}");
            return Err(Refusal::new("UnsupportedOperation", message));
        }
        let started = Instant::now();
        loop {
            // A region lost during a long poll hands out nothing until it is healed.
            self.network.reachable(region).await;
            match self.look(region, &request, &names, max, started)? {
                Look::Answer(answer) => return Ok(answer),
                // Either way the loop looks again.
                Look::Wait(wake, arrival) => {
                    let _ = tokio::time::timeout_at(wake, arrival).await;
                }
            }
        }
    }

    fn look(
        &self,
        region: &str,
        request: &ReceiveMessage,
        names: &[&str],
        max: i64,
        started: Instant,
    ) -> Outcome<Look> {
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get(&key).ok_or_else(no_queue)?;
        let (visibility_s, wait_s) = (queue.settings.visibility_s, queue.settings.wait_s);
        let wait_s = ranged("WaitTimeSeconds", request.wait_time_seconds, wait_s, 0, 20)?;
        let asked = request.visibility_timeout;
        let visibility_s = ranged("VisibilityTimeout", asked, visibility_s, 0, VISIBILITY_S_MAX)?;
        // Made under the lock, so that no arrival falls between looking and waiting.
        let arrival = queue.arrived.clone().notified_owned();
        let messages = take(&mut queues, &key, max, visibility_s, names, &request.message_attribute_names);
        if !messages.is_empty() {
            return Ok(Look::Answer(json!({ "Messages": messages })));
        }
        let deadline = started + seconds(wait_s);
        if Instant::now() >= deadline {
            return Ok(Look::Answer(json!({})));
        }
        let next = queues.get(&key).and_then(Queue::next_visible_at);
        let wake = next.map_or(deadline, |next| next.min(deadline));
        Ok(Look::Wait(wake, arrival))
    }

    fn delete(&self, region: &str, request: DeleteMessage) -> Outcome<Value> {
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        queue.delete(&request.receipt_handle)?;
        Ok(json!({}))
    }

    fn delete_batch(&self, region: &str, request: DeleteMessageBatch) -> Outcome<Value> {
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        let entries = request.entries;
        if entries.is_empty() {
            let message = "There should be at least one DeleteMessageBatchRequestEntry in the request.";
            return Err(Refusal::new("EmptyBatchRequest", message));
        }
        if entries.len() > BATCH_MAX {
            let message =
                format!("Maximum number of entries per request are {BATCH_MAX}. You have sent {}.", entries.len());
            return Err(Refusal::new("TooManyEntriesInBatchRequest", message));
        }
        let ids: std::collections::BTreeSet<_> = entries.iter().map(|entry| &entry.id).collect();
        if ids.len() < entries.len() {
            let message = "Two or more batch entries in the request have the same Id.";
            return Err(Refusal::new("BatchEntryIdsNotDistinct", message));
        }
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for entry in entries {
            match queue.delete(&entry.receipt_handle) {
                Ok(()) => successful.push(json!({ "Id": entry.id })),
                Err(refusal) => failed.push(json!({
                    "Id": entry.id,
                    "Code": refusal.code,
                    "Message": refusal.message,
                    "SenderFault": true,
                })),
            }
        }
        Ok(json!({ "Successful": successful, "Failed": failed }))
    }

    fn change_visibility(&self, region: &str, request: ChangeMessageVisibility) -> Outcome<Value> {
        let timeout_s = request.visibility_timeout;
        let timeout_s = ranged("VisibilityTimeout", Some(timeout_s), 0, 0, VISIBILITY_S_MAX)?;
        let (mut queues, key) = self.open(region, &request.queue_url)?;
        let queue = queues.get_mut(&key).ok_or_else(no_queue)?;
        let (id, _) = receipt_parts(&request.receipt_handle)?;
        let now = Instant::now();
        let Some((place, message)) = queue.find(id) else {
            return Err(invalid_value(format!(
                "Value {} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change.",
                request.receipt_handle
            )));
        };
        if place.0 <= now || message.receipt() != request.receipt_handle {
            let message = "The message referred to is not in flight.";
            return Err(Refusal::new("MessageNotInflight", message));
        }
        if let Some(message) = queue.remove(place) {
            queue.insert((now + seconds(timeout_s), place.1), message);
        }
        queue.arrived.notify_waiters();
        Ok(json!({}))
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.url, self.account)
    }

    fn arn_of(&self, (region, name): &QueueKey) -> String {
        format!("arn:aws:sqs:{region}:{}:{name}", self.account)
    }

    /// Locks the queues and turns a queue URL into a key; the region is the signature's.
    #[allow(clippy::type_complexity)]
    fn open(
        &self,
        region: &str,
        url: &str,
    ) -> Outcome<(std::sync::MutexGuard<'_, HashMap<QueueKey, Queue>>, QueueKey)> {
        let mut segments = url.rsplit('/');
        let name = segments.next().unwrap_or_default();
        if segments.next() != Some(self.account.as_str()) {
            return Err(no_queue());
        }
        Ok((lock(&self.queues), (region.to_owned(), name.to_owned())))
    }

    fn attribute(&self, key: &QueueKey, queue: &Queue, name: &str) -> Option<String> {
        let now = Instant::now();
        let settings = &queue.settings;
        let count = |wanted: fn(&Message, bool) -> bool| {
            let messages = queue.messages.iter();
            Some(messages.filter(|(place, message)| wanted(message, place.0 <= now)).count().to_string())
        };
        match name {
            "QueueArn" => Some(self.arn_of(key)),
            "CreatedTimestamp" => Some(queue.created_s.to_string()),
            "LastModifiedTimestamp" => Some(queue.modified_s.to_string()),
            "VisibilityTimeout" => Some(settings.visibility_s.to_string()),
            "MessageRetentionPeriod" => Some(settings.retention_s.to_string()),
            "ReceiveMessageWaitTimeSeconds" => Some(settings.wait_s.to_string()),
            "ApproximateNumberOfMessages" => count(|_, visible| visible),
            "ApproximateNumberOfMessagesNotVisible" => count(|message, visible| !visible && message.received_here > 0),
            "ApproximateNumberOfMessagesDelayed" => count(|message, visible| !visible && message.received_here == 0),
            _ => settings.given.get(name).cloned(),
        }
    }

    /// Checks `changes` and lays them over `given`.
    fn settings(
        &self,
        queues: &HashMap<QueueKey, Queue>,
        region: &str,
        mut given: BTreeMap<String, String>,
        changes: BTreeMap<String, String>,
    ) -> Outcome<Settings> {
        for (name, value) in changes {
            let clears = value.is_empty() && matches!(name.as_str(), "Policy" | "RedrivePolicy");
            if clears {
                given.remove(&name);
            } else {
                given.insert(name, value);
            }
        }
        let mut settings =
            Settings { given: BTreeMap::new(), visibility_s: 30, retention_s: 345_600, wait_s: 0, redrive: None };
        for (name, value) in &given {
            let number = |min: i64, max: i64| {
                let number = value.parse().ok().filter(|n| (min..=max).contains(n));
                number.ok_or_else(|| invalid_attribute(name))
            };
            match name.as_str() {
                "VisibilityTimeout" => settings.visibility_s = number(0, VISIBILITY_S_MAX)?,
                "MessageRetentionPeriod" => settings.retention_s = number(60, 1_209_600)?,
                "ReceiveMessageWaitTimeSeconds" => settings.wait_s = number(0, 20)?,
                "Policy" => {
                    let policy: Result<Map<String, Value>, _> = serde_json::from_str(value);
                    policy.map_err(|_| invalid_attribute(name))?;
                }
                "RedrivePolicy" => settings.redrive = Some(self.redrive(queues, region, value)?),
                unknown => return Err(unknown_attribute(unknown)),
            }
        }
        Ok(Settings { given, ..settings })
    }

    fn redrive(&self, queues: &HashMap<QueueKey, Queue>, region: &str, policy: &str) -> Outcome<Redrive> {
        let refuse = |reason: &str| {
            invalid_value(format!("Value {policy} for parameter RedrivePolicy is invalid. Reason: {reason}."))
        };
        let value: Value =
            serde_json::from_str(policy).map_err(|_| refuse("Redrive policy is not a valid JSON map"))?;
        // The console and older tools write the number as a string; AWS takes both.
        let receives_max = match &value["maxReceiveCount"] {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let receives_max = receives_max
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| refuse("maxReceiveCount must be between 1 and 1000"))?;
        let arn = value["deadLetterTargetArn"].as_str().unwrap_or_default();
        let queue = arn.rsplit(':').next().unwrap_or_default().to_owned();
        let key = (region.to_owned(), queue);
        if arn != self.arn_of(&key) || !queues.contains_key(&key) {
            return Err(refuse("Dead letter target does not exist"));
        }
        Ok(Redrive { queue: key.1, receives_max })
    }
}

impl Queue {
    fn push(&mut self, message: Message, visible_at: Instant) {
        self.pushed += 1;
        self.insert((visible_at, self.pushed), message);
        self.arrived.notify_waiters();
    }

    fn insert(&mut self, place: Place, message: Message) {
        self.places.insert(message.id.clone(), place);
        self.messages.insert(place, message);
    }

    fn find(&self, id: &str) -> Option<(Place, &Message)> {
        let place = *self.places.get(id)?;
        Some((place, self.messages.get(&place)?))
    }

    fn remove(&mut self, place: Place) -> Option<Message> {
        let message = self.messages.remove(&place)?;
        self.places.remove(&message.id);
        Some(message)
    }

    fn is_expired(&self, message: &Message) -> bool {
        message.sent_at.elapsed().unwrap_or_default() > seconds(self.settings.retention_s)
    }

    fn expire(&mut self) {
        let expired = self.messages.iter().filter(|(_, message)| self.is_expired(message));
        let expired: Vec<Place> = expired.map(|(place, _)| *place).collect();
        for place in expired {
            self.remove(place);
        }
    }

    /// The next message that can be received.
    fn pop(&mut self, now: Instant) -> Option<(u64, Message)> {
        loop {
            let place = *self.messages.first_key_value()?.0;
            if place.0 > now {
                return None;
            }
            let message = self.remove(place)?;
            if !self.is_expired(&message) {
                return Some((place.1, message));
            }
        }
    }

    fn next_visible_at(&self) -> Option<Instant> {
        self.messages.first_key_value().map(|((visible_at, _), _)| *visible_at)
    }

    /// An old receipt changes nothing: the message is with somebody else now.
    fn delete(&mut self, receipt: &str) -> Outcome<()> {
        let (id, received) = receipt_parts(receipt)?;
        if let Some((place, message)) = self.find(id)
            && message.received == received
        {
            self.remove(place);
        }
        Ok(())
    }
}

/// Hands out up to `max` visible messages, and moves those received too often to the dead letter queue.
fn take(
    queues: &mut HashMap<QueueKey, Queue>,
    key: &QueueKey,
    max: i64,
    visibility_s: i64,
    names: &[&str],
    attribute_names: &[String],
) -> Vec<Value> {
    let Some(queue) = queues.get_mut(key) else {
        return Vec::new();
    };
    let now = Instant::now();
    let redrive = queue.settings.redrive.clone();
    let receives_max = redrive.as_ref().map(|redrive| redrive.receives_max);
    let (mut taken, mut handed, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    while taken.len() < usize::try_from(max).unwrap_or(1)
        && let Some((number, mut message)) = queue.pop(now)
    {
        if receives_max.is_some_and(|max| message.received_here >= max) {
            dead.push(message);
            continue;
        }
        message.received += 1;
        message.received_here += 1;
        message.first_received_at.get_or_insert_with(SystemTime::now);
        taken.push(shown(&message, names, attribute_names));
        handed.push((number, message));
    }
    // Behind the loop: one that is visible again at once is handed out once a call.
    for (number, message) in handed {
        queue.insert((now + seconds(visibility_s), number), message);
    }
    if let Some(redrive) = redrive {
        let target = queues.get_mut(&(key.0.clone(), redrive.queue));
        let target = target.expect("a dead letter queue is checked when set, and none is ever deleted");
        for mut message in dead {
            message.received_here = 0;
            target.push(message, now);
        }
    }
    taken
}

fn shown(message: &Message, names: &[&str], attribute_names: &[String]) -> Value {
    let all = [
        ("ApproximateReceiveCount", Some(message.received.to_string())),
        ("SentTimestamp", Some(epoch_ms(message.sent_at))),
        ("ApproximateFirstReceiveTimestamp", message.first_received_at.map(epoch_ms)),
    ];
    let wanted = |name: &str| names.iter().any(|asked| *asked == "All" || *asked == name);
    let attributes: Map<String, Value> = all
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    let mut shown = json!({
        "MessageId": message.id,
        "ReceiptHandle": message.receipt(),
        "MD5OfBody": md5_hex(&message.body),
        "Body": message.body,
    });
    if !attributes.is_empty() {
        shown["Attributes"] = attributes.into();
    }
    let wanted = |name: &str| attribute_names.iter().any(|asked| asked == "All" || asked == ".*" || asked == name);
    let attributes: MessageAttributes =
        message.attributes.iter().filter(|(name, _)| wanted(name)).map(|(n, a)| (n.clone(), a.clone())).collect();
    if !attributes.is_empty() {
        shown["MD5OfMessageAttributes"] = attributes_md5(&attributes).into();
        shown["MessageAttributes"] = json!(attributes);
    }
    shown
}

/// As AWS documents it: name, type, a one for a string, value; each text with its length before it.
fn attributes_md5(attributes: &MessageAttributes) -> String {
    let put = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut bytes = Vec::new();
    for (name, attribute) in attributes {
        put(&mut bytes, name);
        put(&mut bytes, &attribute.data_type);
        bytes.push(1);
        put(&mut bytes, &attribute.string_value);
    }
    md5_hex(&bytes)
}

fn receipt_parts(receipt: &str) -> Outcome<(&str, u32)> {
    let parts = receipt.split_once(':');
    let parts = parts.and_then(|(id, received)| Some((id, received.parse().ok()?)));
    parts.ok_or_else(|| {
        let message = format!("The input receipt handle \"{receipt}\" is not a valid receipt handle.");
        Refusal::new("ReceiptHandleIsInvalid", message)
    })
}

fn ranged(name: &str, value: Option<i64>, default: i64, min: i64, max: i64) -> Outcome<i64> {
    let value = value.unwrap_or(default);
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid_value(format!(
        "Value {value} for parameter {name} is invalid. Reason: Must be between {min} and {max}, if provided."
    )))
}

fn no_queue() -> Refusal {
    Refusal::new("QueueDoesNotExist", "The specified queue does not exist.")
}

fn invalid_value(message: impl Into<String>) -> Refusal {
    Refusal::new("InvalidParameterValue", message)
}

fn invalid_attribute(name: &str) -> Refusal {
    let message = format!("Invalid value for the parameter {name}.");
    Refusal::new("InvalidAttributeValue", message)
}

fn unknown_attribute(name: &str) -> Refusal {
    let message = format!("Unknown Attribute {name}, or one that the lab does not support.");
    Refusal::new("InvalidAttributeName", message)
}

/// The code of the older query protocol, which the SDKs go by.
fn query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "QueueNameExists" => "QueueAlreadyExists".to_owned(),
        "UnsupportedOperation"
        | "MessageNotInflight"
        | "EmptyBatchRequest"
        | "TooManyEntriesInBatchRequest"
        | "BatchEntryIdsNotDistinct" => format!("AWS.SimpleQueueService.{code}"),
        same => same.to_owned(),
    }
}

fn md5_hex(body: impl AsRef<[u8]>) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(body).into()))
}

fn seconds(s: i64) -> Duration {
    Duration::from_secs(s.unsigned_abs())
}

fn epoch_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

fn epoch_ms(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}
