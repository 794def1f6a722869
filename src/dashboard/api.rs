//! The API behind the page: JSON over HTTP, documented at `/api/openapi.json`.

use super::access::{self, Person};
use super::view::{Detail, Summary, TurnView};
use super::{Dashboard, feed};
use crate::audit::explain;
use crate::audit::report::{Report, report};
use crate::clock;
use crate::orders;
use crate::rehearse::rehearse;
use crate::store::{EpisodeEntry, HistoryRow, Path, SeenProbe};
use axum::extract::{Extension, Json, Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statemachine::{ClusterId, Command, EpisodeId, Event, Order, Timestamp};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;
use uuid::Uuid;

/// Most turns in one answer.
const TURNS_MAX: usize = 500;

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// An order is refused when it arrives later.
const EXPIRES_AFTER_MS: u64 = 60_000;

/// What went wrong, for people.
pub(super) struct Failure(StatusCode, String);

impl Failure {
    fn not_found(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(StatusCode::BAD_GATEWAY, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;
type Shared = State<Arc<Dashboard>>;

/// A route, for the router and for its description.
struct Described {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: fn(&mut SchemaGenerator) -> Value,
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Every route that is served; see [`routes`].
const DESCRIBED: [Described; 10] = [
    Described {
        method: "get",
        path: "/fleet",
        summary: "Every cluster, and what this page may do",
        answer: schema_of::<Fleet>,
    },
    Described {
        method: "get",
        path: "/stream",
        summary: "Changes of the fleet, or of one cluster, as server-sent events",
        answer: schema_of::<String>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}",
        summary: "Everything of one cluster",
        answer: schema_of::<Detail>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}/turns",
        summary: "Stored turns, newest first",
        answer: schema_of::<Turns>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}/turns/{version}",
        summary: "One turn in sentences",
        answer: schema_of::<Vec<String>>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}/probes",
        summary: "Probes that this process heard of",
        answer: schema_of::<Vec<SeenProbe>>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}/episodes",
        summary: "Episodes, newest first",
        answer: schema_of::<Vec<EpisodeEntry>>,
    },
    Described {
        method: "get",
        path: "/clusters/{cluster}/episodes/{id}",
        summary: "The report of one of them",
        answer: schema_of::<Report>,
    },
    Described {
        method: "post",
        path: "/clusters/{cluster}/orders",
        summary: "Give an order, or see what would come of it",
        answer: schema_of::<Given>,
    },
    Described {
        method: "post",
        path: "/demo",
        summary: "Break, heal or start something in the demonstration",
        answer: schema_of::<Value>,
    },
];

/// Routes below `/api`.
pub(super) fn routes(dashboard: Arc<Dashboard>, stop: CancellationToken) -> Router {
    let stream = async move |State(dashboard): Shared, Query(which): Query<Which>, headers: HeaderMap| {
        let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
        feed::follow(dashboard, which.cluster.map(ClusterId), seen, stop.clone())
    };
    Router::new()
        .route("/fleet", get(fleet))
        .route("/stream", get(stream))
        .route("/clusters/{cluster}", get(cluster))
        .route("/clusters/{cluster}/turns", get(turns))
        .route("/clusters/{cluster}/turns/{version}", get(turn))
        .route("/clusters/{cluster}/probes", get(probes))
        .route("/clusters/{cluster}/episodes", get(episodes))
        .route("/clusters/{cluster}/episodes/{id}", get(episode))
        .route("/clusters/{cluster}/orders", post(order))
        .route("/demo", get(demo).post(demo_order))
        .route("/openapi.json", get(async || Json(openapi())))
        .layer(middleware::from_fn_with_state(Arc::clone(&dashboard), allowed))
        .layer(RequestBodyLimitLayer::new(BODY_BYTES_MAX))
        .with_state(dashboard)
}

/// Nobody without leave comes further, and nobody without measure; whoever does is known to the handlers.
async fn allowed(State(dashboard): Shared, mut request: Request, next: Next) -> Response {
    let refuse = |status, why: &str| Failure(status, why.to_owned()).into_response();
    let changes = request.method() != axum::http::Method::GET;
    let measure = if changes { &dashboard.limits.orders } else { &dashboard.limits.looks };
    if measure.check().is_err() {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests; wait a moment");
    }
    let person = match dashboard.access.who(request.headers(), clock::now()).await {
        Ok(Some(person)) => person,
        Ok(None) => return refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong"),
        Err(why) => {
            return refuse(StatusCode::UNAUTHORIZED, &format!("who you are could not be established: {why}"));
        }
    };
    if changes && !dashboard.access.takes_orders() {
        let why = "this dashboard only shows: it was started without AURORA_FAILOVER_DASHBOARD_TOKEN";
        return refuse(StatusCode::UNAUTHORIZED, why);
    }
    if changes && !person.operator {
        return match person.name {
            Some(name) => refuse(StatusCode::FORBIDDEN, &format!("{name} is not one of the operators")),
            None => refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong"),
        };
    }
    if changes && !access::is_from_here(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, "orders are taken from this page only");
    }
    request.extensions_mut().insert(person);
    next.run(request).await
}

/// The fleet page.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Fleet {
    /// The server's clock.
    now: Timestamp,
    /// Version of the software.
    software: &'static str,
    /// Who asked, where that is known.
    person: Option<String>,
    /// May whoever asked give orders?
    may_order: bool,
    /// Is there a demonstration to control?
    demo: bool,
    /// Those that something is known of.
    clusters: Vec<Summary>,
    /// Those that nothing is known of yet.
    unknown: Vec<String>,
}

async fn fleet(State(dashboard): Shared, Extension(person): Extension<Person>) -> Json<Fleet> {
    let now = clock::now();
    let (mut clusters, mut unknown) = (Vec::new(), Vec::new());
    for cluster in &dashboard.settings.clusters {
        match dashboard.board.known(&cluster.id) {
            Some(known) => clusters.push(Summary::of(&known, now)),
            None => unknown.push(cluster.id.to_string()),
        }
    }
    Json(Fleet {
        now,
        software: env!("CARGO_PKG_VERSION"),
        may_order: person.operator,
        person: person.name,
        demo: dashboard.demo_url.is_some(),
        clusters,
        unknown,
    })
}

#[derive(Deserialize)]
struct Which {
    cluster: Option<String>,
}

impl Dashboard {
    fn cluster(&self, id: &str) -> Result<ClusterId, Failure> {
        let found = self.settings.clusters.iter().find(|cluster| cluster.id.as_str() == id);
        found.map(|cluster| cluster.id.clone()).ok_or_else(|| Failure::not_found(format!("cluster {id}")))
    }
}

async fn cluster(State(dashboard): Shared, UrlPath(id): UrlPath<String>) -> Answer<Detail> {
    let id = dashboard.cluster(&id)?;
    let known = dashboard.board.known(&id).ok_or_else(|| Failure::not_found(format!("record of {id} yet")))?;
    Ok(Json(Detail::of(&known, clock::now())))
}

/// Which turns.
#[derive(Deserialize)]
struct TurnsAsked {
    /// Older than this version.
    before: Option<u64>,
    limit: Option<usize>,
    state: Option<String>,
    actor: Option<String>,
    rule: Option<String>,
    event: Option<String>,
    /// Only those in which something moved.
    #[serde(default)]
    moved: bool,
}

/// A page of turns.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Turns {
    /// Newest first.
    turns: Vec<TurnView>,
    /// Ask for those before this version to go on; none at the end.
    before: Option<u64>,
}

async fn turns(
    State(dashboard): Shared,
    UrlPath(id): UrlPath<String>,
    Query(asked): Query<TurnsAsked>,
) -> Answer<Turns> {
    let cluster = dashboard.cluster(&id)?;
    let limit = asked.limit.unwrap_or(100).clamp(1, TURNS_MAX);
    let to = asked.before.map_or(u64::MAX, |before| before.saturating_sub(1));
    let is = |wanted: &Option<String>, value: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || value.contains(wanted.as_str()))
    };
    let mut rows = dashboard.store.rows(&Path::Cluster { cluster, from: 0, to }, true);
    let (mut turns, mut looked) = (Vec::new(), 0);
    while let Some(row) = rows.next().await? {
        let meets = is(&asked.state, &row.to)
            && is(&asked.actor, &row.actor)
            && is(&asked.rule, &explain::word(&row.rule))
            && is(&asked.event, row.event.event.name())
            && (!asked.moved || row.from != row.to);
        looked += 1;
        if meets {
            turns.push(TurnView::from(&row));
        }
        // A filter that nothing meets must not read a million rows for one answer.
        if turns.len() == limit || looked == TURNS_MAX * 10 {
            return Ok(Json(Turns { turns, before: Some(row.version) }));
        }
    }
    Ok(Json(Turns { turns, before: None }))
}

async fn turn(State(dashboard): Shared, UrlPath((id, version)): UrlPath<(String, u64)>) -> Answer<Vec<String>> {
    let cluster = dashboard.cluster(&id)?;
    let mut rows = dashboard.store.rows(&Path::Cluster { cluster, from: version, to: version }, false);
    let row = rows.next().await?.ok_or_else(|| Failure::not_found(format!("version {version}")))?;
    Ok(Json(explain::turn(&row)))
}

async fn probes(State(dashboard): Shared, UrlPath(id): UrlPath<String>) -> Answer<Vec<SeenProbe>> {
    Ok(Json(dashboard.board.probes(&dashboard.cluster(&id)?)))
}

async fn episodes(State(dashboard): Shared, UrlPath(id): UrlPath<String>) -> Answer<Vec<EpisodeEntry>> {
    Ok(Json(dashboard.store.episodes(&dashboard.cluster(&id)?, Timestamp(0)).await?))
}

async fn episode(State(dashboard): Shared, UrlPath((id, episode)): UrlPath<(String, String)>) -> Answer<Report> {
    let cluster = dashboard.cluster(&id)?;
    let entry = dashboard.store.episode(&cluster, &EpisodeId(episode.clone())).await?;
    let entry = entry.ok_or_else(|| Failure::not_found(format!("episode {episode}")))?;
    let to = entry.closed_version.unwrap_or(u64::MAX);
    let mut found =
        dashboard.store.rows(&Path::Cluster { cluster: cluster.clone(), from: entry.opened_version, to }, false);
    let mut rows: Vec<HistoryRow> = Vec::new();
    while let Some(row) = found.next().await? {
        rows.push(row);
    }
    let open = dashboard.store.read(&cluster).await?.and_then(|item| item.record.episode);
    let open = open.filter(|open| open.id == entry.id);
    let told = report(&rows, open.as_ref()).ok_or_else(|| Failure::not_found(format!("row of episode {episode}")))?;
    Ok(Json(told))
}

/// An order from the page.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Asked {
    /// The order, as in the schema of operator commands.
    order: Order,
    /// Why.
    reason: String,
    /// Who gives it.
    name: String,
    /// The epoch that was on the page.
    expected_epoch: statemachine::Epoch,
    /// Only show what would come of it.
    #[serde(default)]
    dry_run: bool,
}

/// What came of an order.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Given {
    /// Was it carried out, or would it be?
    accepted: bool,
    /// What the machine says, line by line.
    said: Vec<String>,
}

async fn order(
    State(dashboard): Shared,
    Extension(person): Extension<Person>,
    UrlPath(id): UrlPath<String>,
    Json(asked): Json<Asked>,
) -> Answer<Given> {
    let cluster = dashboard.cluster(&id)?;
    if asked.reason.trim().is_empty() || asked.name.trim().is_empty() {
        let why = "a name and a reason are needed: they are kept in the history";
        return Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, why.into()));
    }
    let command = Command {
        actor: match &person.name {
            Some(known) => format!("dashboard: {known}"),
            None => format!("dashboard on behalf of {}", asked.name.trim()),
        },
        reason: asked.reason.trim().to_owned(),
        expected_epoch: asked.expected_epoch,
        expires_at: clock::now().plus_ms(EXPIRES_AFTER_MS),
        nonce: Uuid::new_v4().simple().to_string(),
        order: asked.order,
    };
    if asked.dry_run {
        let item = dashboard.store.read(&cluster).await?;
        let item = item.ok_or_else(|| Failure::not_found(format!("record of {cluster} yet")))?;
        let rehearsal = rehearse(&dashboard.world, &item, Event::Command(command)).await;
        return Ok(Json(Given { accepted: !rehearsal.refused(), said: rehearsal.outlook() }));
    }
    tracing::info!(%cluster, order = command.order.name(), actor = command.actor, "an order from the dashboard");
    match orders::give(dashboard.bus.as_ref(), &dashboard.store, &cluster, &command).await? {
        Some(row) => {
            let said = row.answer.clone().into_iter().chain([format!("version {}", row.version)]).collect();
            Ok(Json(Given { accepted: !orders::is_refused(&row), said }))
        }
        None => {
            let why =
                format!("no answer within {:?}: is a controller running? It expires by itself", orders::ANSWER_WITHIN);
            Err(Failure(StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}

async fn demo(State(dashboard): Shared) -> Result<Response, Failure> {
    pass_on(&dashboard, reqwest::Method::GET, Vec::new()).await
}

async fn demo_order(
    State(dashboard): Shared,
    Extension(person): Extension<Person>,
    body: axum::body::Bytes,
) -> Result<Response, Failure> {
    tracing::info!(order = %String::from_utf8_lossy(&body), person = ?person.name, "an order for the demonstration");
    pass_on(&dashboard, reqwest::Method::POST, body.to_vec()).await
}

/// The demonstration has its own process; the page knows only this one.
async fn pass_on(dashboard: &Dashboard, method: reqwest::Method, body: Vec<u8>) -> Result<Response, Failure> {
    let url = dashboard.demo_url.as_ref().ok_or_else(|| Failure::not_found("demonstration here"))?;
    let asked = reqwest::Client::new().request(method, format!("{url}/demo"));
    let answer = asked.header("content-type", "application/json").body(body).send().await?;
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let body = Body::from(answer.bytes().await?);
    Ok((status, [("content-type", "application/json")], body).into_response())
}

/// OpenAPI 3.1 of all of this.
fn openapi() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    let mut generator =
        settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
    let mut paths = serde_json::Map::new();
    for Described { method, path, summary, answer } in &DESCRIBED {
        let content = if *path == "/stream" { "text/event-stream" } else { "application/json" };
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Value> = names
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let mut operation = json!({
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": { "description": "as asked", "content": { content: { "schema": answer(&mut generator) } } },
                "default": { "description": "what went wrong, in `error`" },
            },
        });
        if *path == "/clusters/{cluster}/orders" {
            let schema = schema_of::<Asked>(&mut generator);
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        paths.entry(format!("/api{path}")).or_insert_with(|| json!({}))[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "aurora-failover dashboard", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}
