//! The protocol of custom resources: what CloudFormation sends, and the answer that it waits for, by PUT to a
//! presigned URL. That URL is a credential: it is never logged.

use crate::failure::{Failure, chain};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// What `Fn::GetAtt` finds.
pub type Data = BTreeMap<String, String>;

/// CloudFormation refuses a longer answer.
pub(crate) const BODY_BYTES_MAX: usize = 4096;

/// Of the PUT.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
const BACKOFF: Duration = Duration::from_millis(100);

/// What shall be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestType {
    /// The resource is new.
    Create,
    /// Its properties have changed.
    Update,
    /// It goes: with its stack, after a failed creation, or because another one takes its place.
    Delete,
}

/// One request. There is no `Debug`: properties may hold what is not for logs.
#[derive(Clone)]
pub struct Request {
    /// What shall be done.
    pub request_type: RequestType,
    /// Such as `Custom::EmptyBucket`.
    pub resource_type: String,
    /// Of the stack.
    pub stack_id: String,
    /// Name of the resource in the template.
    pub logical_id: String,
    /// What we, or CloudFormation for us, called it before; none for Create.
    pub physical_id: Option<String>,
    /// As in the template, scalars as strings.
    pub properties: Map<String, Value>,
    /// Those before an Update.
    pub old_properties: Map<String, Value>,
}

/// What an answer needs, and nothing else: it can be sent even if the rest of a request cannot be read.
#[derive(Clone)]
pub(crate) struct Envelope {
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_id: String,
    physical_id: Option<String>,
    event: Value,
}

impl Envelope {
    /// None without a ResponseURL: then nobody waits for an answer.
    pub(crate) fn of(event: Value) -> Option<Self> {
        let text = |name: &str| event[name].as_str().map(ToOwned::to_owned);
        let physical_id = text("PhysicalResourceId").filter(|id| !id.is_empty());
        let [stack_id, request_id, logical_id] =
            ["StackId", "RequestId", "LogicalResourceId"].map(|name| text(name).unwrap_or_default());
        Some(Self { response_url: text("ResponseURL")?, stack_id, request_id, logical_id, physical_id, event })
    }

    /// The request itself.
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        let request_type = match self.event["RequestType"].as_str() {
            Some("Create") => RequestType::Create,
            Some("Update") => RequestType::Update,
            Some("Delete") => RequestType::Delete,
            _ => return Err(Failure::new("RequestType is none of Create, Update, Delete")),
        };
        let resource_type = self.event["ResourceType"].as_str().unwrap_or_default().to_owned();
        for (name, value) in [("StackId", &self.stack_id), ("RequestId", &self.request_id)] {
            if value.is_empty() {
                return Err(Failure::new(format!("the request has no {name}")));
            }
        }
        let properties = |name: &str| self.event[name].as_object().cloned().unwrap_or_default();
        Ok(Request {
            request_type,
            resource_type,
            stack_id: self.stack_id.clone(),
            logical_id: self.logical_id.clone(),
            physical_id: self.physical_id.clone(),
            properties: properties("ResourceProperties"),
            old_properties: properties("OldResourceProperties"),
        })
    }

    /// For logs.
    pub(crate) fn log_received(&self) {
        info!(
            stack = self.stack_id,
            resource = self.logical_id,
            resource_type = self.event["ResourceType"].as_str(),
            request = self.request_id,
            request_type = self.event["RequestType"].as_str(),
            "request received"
        );
    }

    /// The id for when there is no better one: what CloudFormation said, or something that stays the same.
    pub(crate) fn spare_id(&self) -> String {
        self.physical_id.clone().unwrap_or_else(|| format!("{}-unusable", self.logical_id))
    }

    /// The answer, at most as long as CloudFormation takes.
    pub(crate) fn answer(&self, physical_id: &str, deleting: bool, outcome: &Result<Data, Failure>) -> String {
        let mut answer = json!({
            "Status": if outcome.is_ok() { "SUCCESS" } else { "FAILED" },
            "PhysicalResourceId": physical_id,
            "StackId": self.stack_id,
            "RequestId": self.request_id,
            "LogicalResourceId": self.logical_id,
        });
        match outcome {
            Ok(data) => {
                if !deleting && !data.is_empty() {
                    answer["Data"] = json!(data);
                }
                let body = answer.to_string();
                if body.len() <= BODY_BYTES_MAX {
                    return body;
                }
                let bytes = json!(data).to_string().len();
                let room = bytes.saturating_sub(body.len() - BODY_BYTES_MAX);
                let why = format!("the answer has {bytes} bytes of data, and CloudFormation takes {room}");
                self.answer(physical_id, deleting, &Err(Failure::new(why)))
            }
            Err(failure) => {
                answer["Reason"] = json!("");
                let room = BODY_BYTES_MAX.saturating_sub(answer.to_string().len());
                answer["Reason"] = json!(cut(&failure.to_string(), room));
                answer.to_string()
            }
        }
    }

    /// Puts the answer where CloudFormation looks for it, again and again until `until` at the latest.
    pub(crate) async fn send(&self, http: &reqwest::Client, body: String, until: Instant) -> Result<(), Failure> {
        let mut last = Failure::new("there was no time left to answer");
        for attempt in 0..ATTEMPTS_MAX {
            let left = until.saturating_duration_since(Instant::now()).min(ATTEMPT_WITHIN);
            if left.is_zero() {
                break;
            }
            // An empty one is part of the URL's signature.
            let put = http.put(&self.response_url).header(CONTENT_TYPE, HeaderValue::from_static(""));
            match put.timeout(left).body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    last = Failure::new(format!("the PUT of the answer was refused with status {status}"));
                    if status.is_client_error() && !matches!(status.as_u16(), 408 | 429) {
                        break;
                    }
                }
                Err(error) => {
                    last = Failure::new(format!("the PUT of the answer failed: {}", chain(&error.without_url())));
                }
            }
            warn!(attempt, failure = %last, "no answer given yet");
            let wait = BACKOFF * 2_u32.pow(attempt);
            tokio::time::sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Err(last)
    }
}

/// The beginning of a text that takes at most so many bytes as JSON, without its quotes.
fn cut(text: &str, bytes_max: usize) -> String {
    const MORE: &str = " … (more in the function's log)";
    let length = |text: &str| json!(text).to_string().len() - 2;
    if length(text) <= bytes_max {
        return text.to_owned();
    }
    let room = bytes_max.saturating_sub(length(MORE));
    let mut taken = 0;
    let mut short = String::new();
    for c in text.chars() {
        taken += length(c.encode_utf8(&mut [0; 4]));
        if taken > room {
            break;
        }
        short.push(c);
    }
    short.push_str(MORE);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let event = json!({
            "ResponseURL": "https://example.com/", "StackId": "stack", "RequestId": "request",
            "LogicalResourceId": "Thing", "RequestType": "Create", "ResourceType": "Custom::Thing",
        });
        Envelope::of(event).expect("it has a ResponseURL")
    }

    #[test]
    fn a_reason_of_any_characters_is_cut_to_what_cloudformation_takes() {
        for unit in ["x", "\"", "\n", "\u{1}", "é", "𝄞", "\\"] {
            for length in [1, 3_000, 4_200, 50_000] {
                let failure = Failure::new(unit.repeat(length));
                let body = envelope().answer("id", false, &Err(failure));
                assert!(body.len() <= BODY_BYTES_MAX, "{unit:?} × {length}: {} bytes", body.len());
                let answer: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(answer["Status"], "FAILED");
                let reason = answer["Reason"].as_str().expect("a reason");
                assert!(reason.starts_with(unit) && (length > 1 || reason == unit));
                assert!(length < 50_000 || body.len() > BODY_BYTES_MAX - 8, "as much as fits");
            }
        }
    }

    #[test]
    fn data_that_does_not_fit_is_a_failure_that_says_how_much_would() {
        let fits = Data::from([("Name".to_owned(), "x".repeat(3_900))]);
        assert!(envelope().answer("id", false, &Ok(fits)).contains("SUCCESS"));
        let body = envelope().answer("id", false, &Ok(Data::from([("Name".to_owned(), "x".repeat(4_000))])));
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["Status"], "FAILED");
        assert!(answer["Data"].is_null());
        assert!(answer["Reason"].as_str().is_some_and(|reason| reason.contains("4011 bytes")), "{answer}");
    }

    #[test]
    fn a_delete_is_answered_without_data() {
        let body = envelope().answer("id", true, &Ok(Data::from([("Name".to_owned(), "value".to_owned())])));
        assert!(!body.contains("Data"), "{body}");
    }
}
