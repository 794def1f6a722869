//! A vantage as a Lambda function: the real binary, started as Lambda starts it, against a stand-in of the runtime's API
//! that speaks HTTP as the real one does, and an EventBridge that keeps what is published.
#![cfg(feature = "lambda")]

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Invocations, and the time that each of them has.
const INVOCATIONS: u64 = 2;
const LASTS: Duration = Duration::from_secs(4);

/// Longest time for all of them.
const WITHIN: Duration = Duration::from_secs(60);

struct Api {
    given: Mutex<u64>,
    answers: mpsc::UnboundedSender<(u64, Duration, Value)>,
    published: Mutex<Vec<Value>>,
    began: Mutex<SystemTime>,
}

async fn serve(api: Arc<Api>) -> SocketAddr {
    let app = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answer))
        .fallback(publish)
        .with_state(api);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn next(State(api): State<Arc<Api>>) -> axum::response::Response {
    let number = {
        let mut given = api.given.lock().expect("no panic while it is held");
        *given += 1;
        *given
    };
    if number > INVOCATIONS {
        std::future::pending::<()>().await;
    }
    let now = SystemTime::now();
    *api.began.lock().expect("no panic while it is held") = now;
    let deadline = (now + LASTS).duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let mut headers = HeaderMap::new();
    let texts = [
        ("lambda-runtime-aws-request-id", number.to_string()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-west-2:123456789012:function:canary".into()),
        ("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793".into()),
    ];
    for (name, text) in texts {
        headers.insert(name, text.parse().expect("a header"));
    }
    (headers, "{}").into_response()
}

async fn answer(State(api): State<Arc<Api>>, Path(id): Path<u64>, body: Bytes) {
    let took = api.began.lock().expect("no panic while it is held").elapsed().unwrap_or_default();
    let _the_test_may_be_over = api.answers.send((id, took, serde_json::from_slice(&body).expect("JSON")));
}

/// PutEvents.
async fn publish(State(api): State<Arc<Api>>, body: Bytes) -> String {
    let request: Value = serde_json::from_slice(&body).expect("JSON");
    let entries = request["Entries"].as_array().expect("entries").clone();
    let answers: Vec<Value> = entries.iter().map(|_| json!({ "EventId": "1" })).collect();
    api.published.lock().expect("no panic while it is held").extend(entries);
    json!({ "FailedEntryCount": 0, "Entries": answers }).to_string()
}

#[tokio::test]
async fn a_lambda_probes_until_its_time_is_nearly_over_and_starts_anew_with_each_invocation() {
    let (answers, mut answered) = mpsc::unbounded_channel();
    let (given, published, began) = (Mutex::default(), Mutex::default(), Mutex::new(UNIX_EPOCH));
    let api = Arc::new(Api { given, answers, published, began });
    let address = serve(Arc::clone(&api)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("aurora-failover.toml");
    // No name server and no server: every probe fails, and is told.
    let text = include_str!("../aurora-failover.example.toml")
        .replace("# profile = \"default\"", "profile = \"fast\"")
        .replace("tls = \"verify\"", "tls = \"off\"")
        .replace("[dns]", "[dns]\nnameservers = [\"127.0.0.1:1\"]")
        .replace("self-check = [\"checkip.us-west-2.example.com:443\"]", "lag-every = \"never\"");
    std::fs::write(&config, text).expect("written");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aurora-failover"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let _running = command
        .arg("canary")
        .env("AURORA_FAILOVER_CONFIG", &config)
        .env("AURORA_FAILOVER_VANTAGE", "us-west-2")
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "canary")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_ENDPOINT_URL", format!("http://{address}"))
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary runs");
    let mut told = 0;
    for number in 1..=INVOCATIONS {
        let answer = tokio::time::timeout(WITHIN, answered.recv()).await.expect("an answer in time");
        let (id, took, sent) = answer.expect("the API lives");
        assert_eq!(id, number);
        assert!(took < LASTS, "answered after {took:?}, when Lambda had stopped it");
        assert!(took > LASTS / 2, "stopped probing after {took:?} already");
        assert_eq!(sent["dropped"], 0, "{sent}");
        told += sent["published"].as_u64().expect("a number");
    }
    let published = api.published.lock().expect("no panic while it is held").clone();
    assert_eq!(published.len() as u64, told, "the answer counts what was published");
    let details = published.iter().map(|entry| entry["Detail"].as_str().expect("text"));
    let details: Vec<Value> = details.map(|detail| serde_json::from_str(detail).expect("JSON")).collect();
    let runs: std::collections::BTreeSet<_> =
        details.iter().map(|detail| detail["probe"]["incarnation"].to_string()).collect();
    assert_eq!(runs.len() as u64, INVOCATIONS, "each invocation is a run of its own");
    assert!(details.len() > 10 && details.iter().all(|detail| detail["probe"]["vantage"] == "us-west-2"));
}
