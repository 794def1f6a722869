//! The demonstration's control over HTTP, for the dashboard: how the lab is, and the same orders as from a terminal.

use crate::control::Request;
use crate::scenario::{self, is_in};
use crate::stage::{PRIMARY, SECONDARY, Stage};
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// The line that asks for the state as JSON.
pub(crate) const STATE: &str = "demo-state";

/// So much of the past is shown.
const SHOWN: Duration = Duration::from_secs(180);

/// Length of a slice of it.
const SLICE_MS: u64 = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    order: String,
}

/// Answers until the lab ends; orders go where those of terminals go.
pub(crate) async fn serve(requests: mpsc::Sender<Request>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening for the dashboard")?;
    let address = listener.local_addr()?;
    let routes = Router::new().route("/demo", get(state).post(order)).with_state(requests);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

async fn state(State(requests): State<mpsc::Sender<Request>>) -> Response {
    asked(&requests, STATE.to_owned()).await
}

async fn order(State(requests): State<mpsc::Sender<Request>>, Json(order): Json<Order>) -> Response {
    asked(&requests, order.order).await
}

async fn asked(requests: &mpsc::Sender<Request>, line: String) -> Response {
    let is_state = line == STATE;
    let (sender, said) = oneshot::channel();
    let said = match requests.send((line, sender)).await {
        Ok(()) => said.await.unwrap_or_else(|_| "error: the lab is stopping".into()),
        Err(_) => "error: the lab is stopping".into(),
    };
    if is_state {
        return ([("content-type", "application/json")], said).into_response();
    }
    match said.strip_prefix("error: ") {
        Some(error) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": error }))).into_response(),
        None => Json(json!({ "said": said })).into_response(),
    }
}

fn ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How the lab is, and what its application saw lately.
pub(crate) fn describe(stage: &Stage, broken: &[String], scenario: &str) -> Value {
    let since = SystemTime::now() - SHOWN;
    let account = stage.account_since(since);
    let first = ms(since) / SLICE_MS + 1;
    let count = SHOWN.as_millis() as u64 / SLICE_MS;
    let mut slices: Vec<Value> = Vec::new();
    let slot = |at: SystemTime| (ms(at) / SLICE_MS).checked_sub(first).map(|index| index as usize);
    let mut ok = vec![[0_u64; 2]; count as usize];
    let mut slowest = vec![0_u64; count as usize];
    let mut failed = vec![0_u64; count as usize];
    for ack in &account.acknowledged {
        let Some(index) = slot(ack.at).filter(|index| *index < ok.len()) else { continue };
        ok[index][usize::from(!is_in(ack.by, PRIMARY))] += 1;
        slowest[index] = slowest[index].max(ack.took.as_millis() as u64);
    }
    for (at, _) in &account.failed {
        if let Some(index) = slot(*at).filter(|index| *index < failed.len()) {
            failed[index] += 1;
        }
    }
    for index in 0..ok.len() {
        slices.push(json!([
            (first + index as u64) * SLICE_MS,
            ok[index][0],
            ok[index][1],
            failed[index],
            slowest[index]
        ]));
    }
    let lag = stage.topology.lag_samples().into_iter().filter(|sample| sample.at >= since);
    let lag: Vec<Value> = lag.map(|sample| json!([ms(sample.at), sample.region, sample.ms])).collect();
    let writer = stage.topology.writer();
    let servers: Vec<Value> = [PRIMARY, SECONDARY]
        .iter()
        .flat_map(|region| stage.topology.instances(region).into_iter().map(move |instance| (region, instance)))
        .map(|(region, instance)| {
            let role = if instance.id == writer { "writer" } else { "reader" };
            json!({ "id": instance.id, "region": region, "zone": instance.zone, "role": role })
        })
        .collect();
    let (acknowledged, failures) = stage.counted();
    json!({
        "regions": [PRIMARY, SECONDARY],
        "writer-region": if writer.starts_with('a') { PRIMARY } else { SECONDARY },
        "servers": servers,
        "broken": broken,
        "traffic": stage.traffic(),
        "totals": { "acknowledged": acknowledged, "failed": failures },
        "last-acknowledged": account.acknowledged.last().map(|ack| ms(ack.at)),
        "gap-ms": account.longest_gap_ms(since),
        "slices": slices,
        "lag": lag,
        "scenario": scenario,
        "scenarios": scenario::all().into_iter().map(|one| json!([one.name, one.about.trim()])).collect::<Vec<_>>(),
    })
}
