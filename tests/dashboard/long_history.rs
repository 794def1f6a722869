//! A DynamoDB whose table holds a long history of one cluster, without holding it: its rows are made when they are asked
//! for. Everything else is passed on to the lab's endpoint. Filling the lab's table with so many rows takes minutes.

use aurora_failover::clock;
use aurora_failover::store::HistoryRow;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use statemachine::{ClusterId, Timestamp};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// Pause between two rows.
pub(crate) const ROW_EVERY_MS: u64 = 30_000;

/// Versions below are left to the controller.
const FIRST_VERSION: u64 = 1_001;

/// A page of DynamoDB is a megabyte; this is less.
const PAGE_ROWS: u64 = 500;

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(crate) struct LongHistory {
    cluster: String,
    rows: u64,
    /// When the row before the first would have been.
    began: u64,
    /// A row, with numbers that stand nowhere else in it.
    template: String,
    behind: String,
    client: reqwest::Client,
    queries: AtomicUsize,
}

const VERSION: u64 = 987_654_321;
const AT: Timestamp = Timestamp(1_234_567_890_123);

impl LongHistory {
    /// Of `rows` rows until now, in front of the endpoint `behind`.
    pub(crate) async fn start(
        cluster: &str,
        rows: u64,
        template: HistoryRow,
        behind: String,
    ) -> (Arc<Self>, SocketAddr) {
        let template = HistoryRow { cluster: ClusterId(cluster.into()), version: VERSION, at: AT, ..template };
        let history = Arc::new(Self {
            cluster: cluster.into(),
            rows,
            began: clock::now().0 - rows * ROW_EVERY_MS,
            template: serde_json::to_string(&template).expect("plain data"),
            behind,
            client: reqwest::Client::new(),
            queries: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&history));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (history, address)
    }

    /// How often the history was asked.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }

    fn at(&self, version: u64) -> u64 {
        self.began + (version - FIRST_VERSION + 1) * ROW_EVERY_MS
    }

    /// The first version that is not older.
    fn version_at(&self, at: u64) -> u64 {
        FIRST_VERSION - 1 + at.saturating_sub(self.began).div_ceil(ROW_EVERY_MS).max(1)
    }

    fn item(&self, version: u64) -> Value {
        let at = Timestamp(self.at(version));
        let row = self.template.replace(&VERSION.to_string(), &version.to_string());
        json!({
            "PK": { "S": format!("CLUSTER#{}", self.cluster) },
            "SK": { "S": format!("HIST#{version:020}") },
            "version": { "N": version.to_string() },
            "day": { "S": clock::day(at) },
            "at": { "S": clock::rfc3339(at) },
            "actor": { "S": "us-west-2" },
            "row": { "S": row.replace(&AT.0.to_string(), &at.0.to_string()) },
        })
    }

    /// The answer, if it is a question about this history.
    fn query(&self, asked: &Value) -> Option<Value> {
        let value = |name: &str| asked["ExpressionAttributeValues"][name]["S"].as_str();
        let version_of = |key: &str| key.strip_prefix("HIST#")?.parse::<u64>().ok();
        let newest = FIRST_VERSION + self.rows - 1;
        let (mut from, mut to) = match asked["IndexName"].as_str() {
            None if value(":pk") == Some(&format!("CLUSTER#{}", self.cluster)) => {
                (version_of(value(":from")?)?, version_of(value(":to")?)?)
            }
            // Of the day that it is, the other clusters have something to tell.
            Some("GSI1") if value(":day")? != clock::day(clock::now()) => {
                let time = |name| clock::parse_rfc3339(value(name)?);
                let (since, until) = (time(":since")?.0, time(":until")?.0);
                let of_day =
                    |version: &u64| clock::day(Timestamp(self.at(*version))) == value(":day").unwrap_or_default();
                let all = self.version_at(since)..=self.version_at(until + 1).saturating_sub(1).min(newest);
                let mut own = all.filter(of_day);
                let first = own.next().unwrap_or(newest + 1);
                (first, own.last().unwrap_or(first))
            }
            _ => return None,
        };
        (from, to) = (from.max(FIRST_VERSION), to.min(newest));
        let forward = asked["ScanIndexForward"].as_bool().unwrap_or(true);
        if let Some(seen) = asked["ExclusiveStartKey"]["SK"]["S"].as_str().and_then(version_of) {
            (from, to) = if forward { (seen + 1, to) } else { (from, seen - 1) };
        }
        let count = asked["Limit"].as_u64().unwrap_or(PAGE_ROWS).min(PAGE_ROWS);
        let found: Vec<u64> = if forward {
            (from..=to).take(count as usize).collect()
        } else {
            (from..=to).rev().take(count as usize).collect()
        };
        let items: Vec<Value> = found.iter().map(|version| self.item(*version)).collect();
        let mut answer = json!({ "Items": items, "Count": items.len(), "ScannedCount": items.len() });
        let more = found.last().filter(|last| if forward { **last < to } else { **last > from });
        if let Some(last) = more {
            answer["LastEvaluatedKey"] = json!({
                "PK": { "S": format!("CLUSTER#{}", self.cluster) },
                "SK": { "S": format!("HIST#{last:020}") },
            });
        }
        Some(answer)
    }
}

async fn answer(State(history): State<Arc<LongHistory>>, headers: HeaderMap, body: Body) -> Response {
    let body = to_bytes(body, BODY_BYTES_MAX).await.expect("it is whole");
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    if target == "DynamoDB_20120810.Query"
        && let Some(answer) = serde_json::from_slice(&body).ok().and_then(|asked| history.query(&asked))
    {
        history.queries.fetch_add(1, Ordering::Relaxed);
        return ([(header::CONTENT_TYPE, "application/x-amz-json-1.0")], answer.to_string()).into_response();
    }
    pass_on(&history, headers, body).await
}

async fn pass_on(history: &LongHistory, mut headers: HeaderMap, body: Bytes) -> Response {
    for own in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::EXPECT] {
        headers.remove(own);
    }
    let answer = history.client.post(&history.behind).headers(headers).body(body).send().await.expect("it answers");
    let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
    let body = answer.bytes().await.expect("it is whole");
    let kind: HeaderMap = kind.map(|kind| (header::CONTENT_TYPE, kind)).into_iter().collect();
    (status, kind, body).into_response()
}
