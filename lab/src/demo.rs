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
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// The line that asks for the state as JSON.
pub(crate) const STATE: &str = "demo-state";

/// The order that undoes everything.
const RESET: &str = "reset";

/// Faults that are remembered.
const FAULTS_MAX: usize = 100;

/// So much of the past is shown.
const SHOWN: Duration = Duration::from_secs(180);

/// Length of a slice of it.
const SLICE_MS: u64 = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    order: String,
}

/// The way to the lab, and what it was seen to be.
struct Control {
    requests: mpsc::Sender<Request>,
    past: Mutex<Past>,
}

/// What was broken and healed lately, and the traffic at the start.
#[derive(Default)]
struct Past {
    broken: Vec<String>,
    faults: VecDeque<Value>,
    traffic: Option<Value>,
}

impl Past {
    fn note(&mut self, at: SystemTime, kind: &str, what: &str) {
        if self.faults.len() == FAULTS_MAX {
            self.faults.pop_front();
        }
        self.faults.push_back(json!({ "at": ms(at), "kind": kind, "what": what }));
    }

    /// What was broken or healed from elsewhere since the last look is known to the second only.
    fn look(&mut self, state: &mut Value) {
        let broken: Vec<String> = serde_json::from_value(state["broken"].clone()).unwrap_or_default();
        let now = SystemTime::now();
        let before = std::mem::replace(&mut self.broken, broken.clone());
        for what in broken.iter().filter(|what| !before.contains(what)) {
            self.note(now, "fault", what);
        }
        for what in before.iter().filter(|what| !broken.contains(what)) {
            self.note(now, "heal", what);
        }
        self.traffic.get_or_insert_with(|| state["traffic"].clone());
        state["faults"] = self.faults.iter().cloned().collect();
    }
}

/// Answers until the lab ends; orders go where those of terminals go.
pub(crate) async fn serve(requests: mpsc::Sender<Request>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening for the dashboard")?;
    let address = listener.local_addr()?;
    let control = Arc::new(Control { requests, past: Mutex::default() });
    let routes = Router::new().route("/demo", get(state).post(order)).with_state(Arc::clone(&control));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    // The first answer, as soon as the lab takes orders, tells the traffic at the start.
    tokio::spawn(async move { control.state().await });
    Ok(address)
}

async fn state(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(control.state().await)
}

async fn order(State(control): State<Arc<Control>>, Json(order): Json<Order>) -> Response {
    let said = if order.order == RESET { control.reset().await } else { control.give(&order.order).await };
    match said.strip_prefix("error: ") {
        Some(error) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": error }))).into_response(),
        None => Json(json!({ "said": said })).into_response(),
    }
}

impl Control {
    async fn state(&self) -> Value {
        let said = self.asked(STATE.to_owned()).await;
        let mut state: Value = serde_json::from_str(&said).unwrap_or_default();
        if state.is_object() {
            self.past().look(&mut state);
        }
        state
    }

    async fn give(&self, line: &str) -> String {
        let at = SystemTime::now();
        let said = self.asked(line.to_owned()).await;
        if said.starts_with("error: ") {
            return said;
        }
        let mut past = self.past();
        match line.split_once(' ') {
            Some(("fault", what)) => {
                past.note(at, "fault", what);
                past.broken.push(what.to_owned());
            }
            None if line == "restart-controller" => past.note(at, "fault", "restart-controller"),
            _ => {}
        }
        said
    }

    /// Everything healed, and the traffic as at the start.
    async fn reset(&self) -> String {
        let healed = self.give("heal all").await;
        let traffic = self.past().traffic.clone().unwrap_or_default();
        let (clients, pace) = (traffic["clients"].as_u64().unwrap_or(0), traffic["pace-ms"].as_u64());
        let line = match (clients, pace, traffic["through"].as_str()) {
            (1.., Some(pace), Some(through)) => format!("traffic {clients} {pace}ms {through}"),
            _ => "traffic stop".into(),
        };
        let said = self.give(&line).await;
        if healed.starts_with("error: ") { healed } else { format!("{healed}; {said}") }
    }

    async fn asked(&self, line: String) -> String {
        let (sender, said) = oneshot::channel();
        match self.requests.send((line, sender)).await {
            Ok(()) => said.await.unwrap_or_else(|_| "error: the lab is stopping".into()),
            Err(_) => "error: the lab is stopping".into(),
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
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
    let mut slowest = vec![[None::<u64>; 2]; count as usize];
    let mut failed = vec![0_u64; count as usize];
    for ack in &account.acknowledged {
        let Some(index) = slot(ack.at).filter(|index| *index < ok.len()) else { continue };
        let region = usize::from(!is_in(ack.by, PRIMARY));
        ok[index][region] += 1;
        slowest[index][region] = slowest[index][region].max(Some(ack.took.as_millis() as u64));
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
            slowest[index][0],
            slowest[index][1]
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
