//! What the protocols share: refusals, replies, and reading and writing JSON and XML.
//!
//! Requests are read strictly: a parameter that the lab does not know is refused, because
//! ignoring it would make a caller believe that it works.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use quick_xml::escape::escape;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An AWS error before it is put into the form of a protocol.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: 400, code, message }
    }

    pub(super) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

pub(super) type Outcome<T> = Result<T, Refusal>;

/// A complete answer, with the error's code kept beside it for the call log.
pub(super) struct Reply {
    pub(super) error_code: Option<String>,
    pub(super) response: Response,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Body>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(status).expect("statuses are literals");
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_str(content_type).expect("types are literals");
        headers.insert(header::CONTENT_TYPE, content_type);
        let id = HeaderValue::from_str(&request_id()).expect("a UUID is ASCII");
        headers.insert("x-amzn-requestid", id);
        Self { error_code: None, response }
    }

    pub(super) fn failed(self, code: &str) -> Self {
        let error_code = Some(code.to_owned());
        Self { error_code, ..self }
    }
}

pub(super) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A panic while a lock is held cannot leave these maps half changed in a way that matters here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers in AWS JSON; `namespace` stands before the error's type, as the service writes it.
pub(super) fn json_reply(version: &str, namespace: &str, outcome: Outcome<Value>) -> Reply {
    let content_type = format!("application/x-amz-json-{version}");
    match outcome {
        Ok(body) => Reply::new(200, &content_type, body.to_string()),
        Err(Refusal { status, code, message }) => {
            let body = json!({ "__type": format!("{namespace}{code}"), "message": message });
            Reply::new(status, &content_type, body.to_string()).failed(code)
        }
    }
}

/// Reads a JSON request. A known shape with something unknown in it gets `unsupported`.
pub(super) fn json_request<T: DeserializeOwned>(
    body: &[u8],
    unsupported: &'static str,
    invalid: &'static str,
) -> Outcome<T> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        if !error.is_data() {
            Refusal::new("SerializationException", text)
        } else if text.starts_with("unknown field") {
            let message = format!("the lab does not support this parameter: {text}");
            Refusal::new(unsupported, message)
        } else {
            Refusal::new(invalid, text)
        }
    })
}

/// `<name>content</name>`; the content is XML already.
pub(super) fn tag(name: &str, content: impl AsRef<str>) -> String {
    format!("<{name}>{}</{name}>", content.as_ref())
}

/// `<name>value</name>` with the value escaped.
pub(super) fn text(name: &str, value: impl ToString) -> String {
    tag(name, escape(value.to_string().as_str()))
}

/// A document whose root carries the service's namespace.
pub(super) fn document(root: &str, namespace: &str, content: impl AsRef<str>) -> String {
    let content = content.as_ref();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"{namespace}\">{content}</{root}>")
}

pub(super) fn xml_error(namespace: &str, refusal: &Refusal) -> Reply {
    let error = text("Type", "Sender") + &text("Code", refusal.code) + &text("Message", &refusal.message);
    let content = tag("Error", error) + &text("RequestId", request_id());
    let body = document("ErrorResponse", namespace, content);
    Reply::new(refusal.status, "text/xml", body).failed(refusal.code)
}
