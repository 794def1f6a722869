//! The binary, and what Lambda and CloudFormation are to it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// In the ResponseURL: nobody may see it.
pub(crate) const SIGNATURE: &str = "hush-signature";

pub(crate) const STACK: &str = "arn:aws:cloudformation:us-west-2:123456789012:stack/orders/1";

/// The time of an invocation, if the test is not about it.
const LASTS: Duration = Duration::from_secs(60);

/// What a PUT brought.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) body: Value,
    pub(crate) bytes: usize,
    pub(crate) content_type: Option<String>,
    /// Since the invocation began.
    pub(crate) after: Duration,
}

impl Answer {
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.body["Status"], "SUCCESS", "{}", self.body);
        self
    }

    pub(crate) fn failed(self, why: &str) -> Self {
        assert_eq!(self.body["Status"], "FAILED", "{}", self.body);
        let reason = self.body["Reason"].as_str().expect("a reason");
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
        self
    }

    pub(crate) fn id(&self) -> String {
        self.body["PhysicalResourceId"].as_str().expect("an id").to_owned()
    }

    pub(crate) fn data(&self, name: &str) -> String {
        self.body["Data"][name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.body)).to_owned()
    }
}

/// An invocation, from Lambda's side.
pub(crate) struct Invocation {
    pub(crate) puts: Vec<Answer>,
    /// The function told Lambda of an error.
    pub(crate) is_error: bool,
}

struct Api {
    address: Mutex<Option<SocketAddr>>,
    next: tokio::sync::Mutex<mpsc::UnboundedReceiver<(Value, Duration)>>,
    ended: mpsc::UnboundedSender<bool>,
    began: Mutex<SystemTime>,
    puts: Mutex<Vec<Answer>>,
    /// Statuses of the next PUTs; then 200.
    statuses: Mutex<VecDeque<u16>>,
}

/// A running function.
pub(crate) struct Function {
    api: Arc<Api>,
    invoke: mpsc::UnboundedSender<(Value, Duration)>,
    ended: mpsc::UnboundedReceiver<bool>,
    log: Arc<Mutex<String>>,
    requests: u32,
    _running: Child,
}

impl Function {
    /// The real binary, with its AWS at this address.
    pub(crate) async fn start(aws: &str) -> Self {
        Self::start_command(Command::new(env!("CARGO_BIN_EXE_custom-resources")), aws).await
    }

    pub(crate) async fn start_command(mut command: Command, aws: &str) -> Self {
        let (invoke, next) = mpsc::unbounded_channel();
        let (ended_here, ended) = mpsc::unbounded_channel();
        let api = Arc::new(Api {
            address: Mutex::default(),
            next: tokio::sync::Mutex::new(next),
            ended: ended_here,
            began: Mutex::new(UNIX_EPOCH),
            puts: Mutex::default(),
            statuses: Mutex::default(),
        });
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(give))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/answers/{logical}", put(take))
            .with_state(Arc::clone(&api));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        *api.address.lock().expect("no panic") = Some(address);
        tokio::spawn(async move { axum::serve(listener, app).await });
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_") && name != "AWS_CA_BUNDLE") {
            command.env_remove(name);
        }
        let mut running = command
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "custom-resources")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_REGION", "us-west-2")
            .env("AWS_ENDPOINT_URL", aws)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        keep(running.stdout.take().expect("a pipe"), Arc::clone(&log));
        keep(running.stderr.take().expect("a pipe"), Arc::clone(&log));
        Self { api, invoke, ended, log, requests: 0, _running: running }
    }

    /// What the function has printed.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// The next PUTs are answered with these statuses.
    pub(crate) fn answer_puts_with(&self, statuses: &[u16]) {
        self.api.statuses.lock().expect("no panic").extend(statuses);
    }

    /// One invocation, with this payload.
    pub(crate) async fn invoke(&mut self, event: Value, lasts: Duration) -> Invocation {
        self.api.puts.lock().expect("no panic").clear();
        self.invoke.send((event, lasts)).expect("the API lives");
        let ended = tokio::time::timeout(lasts + Duration::from_secs(5), self.ended.recv()).await;
        let ended = ended.unwrap_or_else(|_| panic!("no end of the invocation; the function's log:\n{}", self.log()));
        let puts = self.api.puts.lock().expect("no panic").clone();
        Invocation { puts, is_error: ended.expect("the API lives") }
    }

    /// A request as CloudFormation sends it.
    pub(crate) fn event(&mut self, request_type: &str, resource_type: &str, more: Value) -> Value {
        self.requests += 1;
        let address = self.api.address.lock().expect("no panic").expect("it is bound");
        let mut event = json!({
            "RequestType": request_type,
            "ResponseURL": format!("http://{address}/answers/Thing?X-Amz-Signature={SIGNATURE}"),
            "StackId": STACK,
            "RequestId": format!("request-{}", self.requests),
            "ResourceType": resource_type,
            "LogicalResourceId": "Thing",
            "ServiceToken": "arn:aws:lambda:us-west-2:123456789012:function:custom-resources",
        });
        for (name, value) in more.as_object().expect("an object") {
            event[name] = value.clone();
        }
        for name in ["ResourceProperties", "OldResourceProperties"] {
            if event[name].is_object() {
                event[name]["ServiceToken"] = event["ServiceToken"].clone();
                event[name]["ServiceTimeout"] = json!("300");
            }
        }
        event
    }

    /// The answer to a request: exactly one PUT, well formed.
    pub(crate) async fn answer(&mut self, event: Value, lasts: Duration) -> Answer {
        let invocation = self.invoke(event.clone(), lasts).await;
        let log = self.log();
        assert!(!invocation.is_error, "the function reports an error:\n{log}");
        let [answer] = invocation.puts.as_slice() else { panic!("{} PUTs:\n{log}", invocation.puts.len()) };
        for name in ["StackId", "RequestId", "LogicalResourceId"] {
            assert_eq!(answer.body[name], event[name], "{name} is echoed");
        }
        let deleting = event["RequestType"] == "Delete";
        assert!(answer.bytes <= 4096 && !answer.id().is_empty());
        assert_eq!(answer.content_type.as_deref(), Some(""), "the presigned URL wants an empty Content-Type");
        assert!(!deleting || answer.body["Data"].is_null() && answer.body["NoEcho"].is_null());
        assert!(answer.body["Status"] == "SUCCESS" || answer.body["Reason"].is_string());
        assert!(!log.contains(SIGNATURE), "the ResponseURL is in the log:\n{log}");
        answer.clone()
    }

    pub(crate) async fn create(&mut self, resource_type: &str, properties: &Value) -> Answer {
        let event = self.event("Create", resource_type, json!({ "ResourceProperties": properties }));
        self.answer(event, LASTS).await
    }

    pub(crate) async fn update(&mut self, resource_type: &str, id: &str, old: &Value, new: &Value) -> Answer {
        let more = json!({ "PhysicalResourceId": id, "ResourceProperties": new, "OldResourceProperties": old });
        let event = self.event("Update", resource_type, more);
        self.answer(event, LASTS).await
    }

    pub(crate) async fn delete(&mut self, resource_type: &str, id: &str, properties: &Value) -> Answer {
        self.delete_within(resource_type, id, properties, LASTS).await
    }

    pub(crate) async fn delete_within(
        &mut self,
        resource_type: &str,
        id: &str,
        properties: &Value,
        lasts: Duration,
    ) -> Answer {
        let more = json!({ "PhysicalResourceId": id, "ResourceProperties": properties });
        let event = self.event("Delete", resource_type, more);
        let answer = self.answer(event, lasts).await;
        assert_eq!(answer.id(), id, "a Delete is answered with the id that it came with");
        answer
    }
}

fn keep(pipe: impl AsyncRead + Unpin + Send + 'static, log: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = log.lock().expect("no panic");
            log.push_str(&line);
            log.push('\n');
        }
    });
}

async fn give(State(api): State<Arc<Api>>) -> axum::response::Response {
    let next = api.next.lock().await.recv().await;
    let Some((event, lasts)) = next else { return std::future::pending().await };
    let now = SystemTime::now();
    *api.began.lock().expect("no panic") = now;
    let deadline = (now + lasts).duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let mut headers = HeaderMap::new();
    let texts = [
        ("lambda-runtime-aws-request-id", "1".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-west-2:123456789012:function:f".into()),
        ("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793".into()),
    ];
    for (name, text) in texts {
        headers.insert(name, text.parse().expect("a header"));
    }
    (headers, event.to_string()).into_response()
}

async fn response(State(api): State<Arc<Api>>, Path(_id): Path<String>) -> StatusCode {
    let _the_test_may_be_over = api.ended.send(false);
    StatusCode::ACCEPTED
}

async fn error(State(api): State<Arc<Api>>, Path(_id): Path<String>) -> StatusCode {
    let _the_test_may_be_over = api.ended.send(true);
    StatusCode::ACCEPTED
}

async fn take(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let after = api.began.lock().expect("no panic").elapsed().unwrap_or_default();
    let content_type = headers.get("content-type").map(|value| value.to_str().expect("text").to_owned());
    let length = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    assert_eq!(length, Some(body.len()), "S3 takes no chunks");
    let answer = Answer { body: serde_json::from_slice(&body).expect("JSON"), bytes: body.len(), content_type, after };
    api.puts.lock().expect("no panic").push(answer);
    let status = api.statuses.lock().expect("no panic").pop_front().unwrap_or(200);
    StatusCode::from_u16(status).expect("a status")
}
