//! The API behind the page: JSON over HTTP, documented at `/api/openapi.json`.

use super::access::{self, Person};
use super::names::{self, NameView};
use super::view::{Detail, Summary, TurnView};
use super::{STREAMS_MAX, Served, TableView, feed};
use crate::audit::explain;
use crate::audit::report::{Report, report};
use crate::clock;
use crate::config::ProbeSettings;
use crate::orders;
use crate::rehearse::rehearse;
use crate::store::{EpisodeEntry, HistoryRow, Item, Path, SeenProbe, StoreError};
use axum::extract::{ConnectInfo, Extension, Json, Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statemachine::{Arn, ClusterId, Command, Decision, EpisodeId, Event, GuardResult, Order, Timestamp};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;
use uuid::Uuid;

/// Most turns in one answer.
const TURNS_MAX: usize = 500;

/// So far back the whole fleet is looked at when no time is asked for.
const FLEET_LOOKS_BACK_MS: u64 = 30 * 86_400_000;

/// Most episodes in one answer.
const EPISODES_MAX: usize = 500;

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
type Shared = State<Arc<Served>>;

/// A route, for the router and for its description.
struct Described {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// What may stand behind the question mark.
    query: Option<Schema>,
    /// What has to be sent.
    body: Option<Schema>,
    answer: Schema,
}

/// Makes the schema of a type.
type Schema = fn(&mut SchemaGenerator) -> Value;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// With its properties, not as a reference.
fn whole_schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    T::json_schema(generator).to_value()
}

const fn look(path: &'static str, summary: &'static str, answer: Schema) -> Described {
    Described { method: "get", path, summary, query: None, body: None, answer }
}

const fn choose(path: &'static str, summary: &'static str, query: Schema, answer: Schema) -> Described {
    Described { method: "get", path, summary, query: Some(query), body: None, answer }
}

const fn change(path: &'static str, summary: &'static str, body: Schema, answer: Schema) -> Described {
    Described { method: "post", path, summary, query: None, body: Some(body), answer }
}

/// Every route that is served; see [`routes`].
const DESCRIBED: [Described; 12] = [
    look("/fleet", "Every cluster, and what this page may do", schema_of::<Fleet>),
    choose(
        "/stream",
        "Changes of the fleet, or of one cluster, as server-sent events",
        whole_schema_of::<Which>,
        schema_of::<String>,
    ),
    choose("/turns", "Stored turns of all clusters, newest first", whole_schema_of::<TurnsAsked>, schema_of::<Turns>),
    look("/clusters/{cluster}", "Everything of one cluster", schema_of::<Detail>),
    choose(
        "/clusters/{cluster}/turns",
        "Stored turns, newest first",
        whole_schema_of::<TurnsAsked>,
        schema_of::<Turns>,
    ),
    look("/clusters/{cluster}/turns/{version}", "One turn in sentences", schema_of::<Vec<String>>),
    look("/clusters/{cluster}/probes", "Probes that this process heard of", schema_of::<Vec<SeenProbe>>),
    choose(
        "/clusters/{cluster}/episodes",
        "Episodes, newest first",
        whole_schema_of::<EpisodesAsked>,
        schema_of::<Vec<EpisodeView>>,
    ),
    look("/clusters/{cluster}/episodes/{id}", "The report of one of them", schema_of::<Report>),
    change(
        "/clusters/{cluster}/orders",
        "Give an order, or see what would come of it",
        schema_of::<Asked>,
        schema_of::<Given>,
    ),
    look("/demo", "How the demonstration is, where there is one", schema_of::<Value>),
    change(
        "/demo",
        "Break, heal or start something in the demonstration",
        schema_of::<DemoOrder>,
        schema_of::<DemoAnswer>,
    ),
];

/// Routes below `/api`.
pub(super) fn routes(dashboard: Arc<Served>, stop: CancellationToken) -> Router {
    let stream = async move |State(dashboard): Shared, Query(which): Query<Which>, headers: HeaderMap| {
        let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
        let cluster = which.cluster.map(ClusterId);
        match feed::follow(&dashboard, cluster, seen, stop.clone()) {
            Some(stream) => stream.into_response(),
            None => {
                let why = format!("{STREAMS_MAX} pages are open already; close some, or look again later");
                let refused = Failure(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
                ([(header::RETRY_AFTER, "30")], refused).into_response()
            }
        }
    };
    Router::new()
        .route("/fleet", get(fleet))
        .route("/turns", get(all_turns))
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
async fn allowed(
    State(dashboard): Shared,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let refuse = |status, why: &str| Failure(status, why.to_owned()).into_response();
    let changes = request.method() != axum::http::Method::GET;
    let found = dashboard.access.who(request.headers(), clock::now()).await;
    // Those who are known are measured by name: behind a load balancer all come from its address.
    let named = found.as_ref().ok().and_then(|person| person.as_ref()?.name.clone());
    if !dashboard.limits.allow(&named.unwrap_or_else(|| address.ip().to_string()), changes) {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests; wait a moment");
    }
    let person = match found {
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
    /// How reading the table goes, where another controller listens.
    table: TableView,
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
        table: dashboard.table.borrow().clone(),
    })
}

#[derive(Deserialize, JsonSchema)]
struct Which {
    /// Everything of this one; the fleet in brief without it.
    cluster: Option<String>,
}

impl Served {
    fn cluster(&self, id: &str) -> Result<ClusterId, Failure> {
        let found = self.settings.clusters.iter().find(|cluster| cluster.id.as_str() == id);
        found.map(|cluster| cluster.id.clone()).ok_or_else(|| Failure::not_found(format!("cluster {id}")))
    }

    /// The targets of a cluster beside the writes.
    pub(super) fn probes_of(&self, id: &ClusterId) -> Vec<ProbeSettings> {
        let own = self.settings.clusters.iter().find(|cluster| cluster.id == *id);
        own.map(|cluster| cluster.probes.clone()).unwrap_or_default()
    }
}

async fn cluster(State(dashboard): Shared, UrlPath(id): UrlPath<String>) -> Answer<Detail> {
    let id = dashboard.cluster(&id)?;
    let known = dashboard.board.known(&id).ok_or_else(|| Failure::not_found(format!("record of {id} yet")))?;
    Ok(Json(Detail::of(&known, &dashboard.probes_of(&id), clock::now())))
}

/// Which turns.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct TurnsAsked {
    /// Of this cluster only.
    cluster: Option<String>,
    /// Of this episode only.
    episode: Option<String>,
    /// Not older than this, in milliseconds since 1970.
    since: Option<u64>,
    /// Not newer than this, in milliseconds since 1970.
    until: Option<u64>,
    /// Of one cluster: older than this version.
    before: Option<u64>,
    /// So many at most; 100 without it.
    limit: Option<usize>,
    /// State after the turn contains this.
    state: Option<String>,
    /// Whoever brought the event contains this.
    actor: Option<String>,
    /// The rule's name contains this.
    rule: Option<String>,
    /// The kind of event contains this.
    event: Option<String>,
    /// The episode that it closed ended so: `completed`, `averted`, `cancelled`, `failed`.
    outcome: Option<String>,
    /// Only those in which the state changed.
    #[serde(default)]
    moved: bool,
}

impl TurnsAsked {
    fn meets(&self, row: &HistoryRow) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || value.contains(wanted.as_str()))
        };
        let outcome = row.outcome.map(|outcome| explain::word(&outcome)).unwrap_or_default();
        is(&self.state, &row.to)
            && is(&self.actor, &row.actor)
            && is(&self.rule, &explain::word(&row.rule))
            && is(&self.event, row.event.event.name())
            && is(&self.outcome, &outcome)
            && is(&self.episode, row.episode.as_ref().map(EpisodeId::as_str).unwrap_or_default())
            && (!self.moved || row.from != row.to)
            && self.since.is_none_or(|since| row.at.0 >= since)
            && self.until.is_none_or(|until| row.at.0 <= until)
    }
}

/// A page of turns.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Turns {
    /// Newest first.
    turns: Vec<TurnView>,
    /// Of one cluster: ask for those before this version to go on; none at the end.
    before: Option<u64>,
    /// Of all clusters: ask for those until this time to go on; none at the end.
    until: Option<Timestamp>,
}

async fn turns(
    State(dashboard): Shared,
    UrlPath(id): UrlPath<String>,
    Query(asked): Query<TurnsAsked>,
) -> Answer<Turns> {
    let cluster = dashboard.cluster(&id)?;
    turns_of(&dashboard, cluster, &asked).await
}

/// By cluster or episode where one is named; else by time, the last 30 days when no other time is asked for.
async fn all_turns(State(dashboard): Shared, Query(asked): Query<TurnsAsked>) -> Answer<Turns> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(cluster) = given(&asked.cluster) {
        return turns_of(&dashboard, dashboard.cluster(&cluster)?, &asked).await;
    }
    if let Some(episode) = given(&asked.episode) {
        let own = dashboard.settings.clusters.iter().map(|cluster| &cluster.id);
        let own = own.filter(|id| episode.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('-')));
        // Of `orders` and `orders-eu` the longer one that fits.
        let cluster = own.max_by_key(|id| id.as_str().len());
        let cluster = cluster.ok_or_else(|| Failure::not_found(format!("cluster of episode {episode}")))?;
        return turns_of(&dashboard, cluster.clone(), &asked).await;
    }
    let until = asked.until.map_or_else(clock::now, Timestamp);
    let since = Timestamp(asked.since.unwrap_or_else(|| until.0.saturating_sub(FLEET_LOOKS_BACK_MS)));
    let (turns, last) = collect(&dashboard, &Path::Fleet { since, until }, &asked).await?;
    // A millisecond that is whole on this page must not be asked for again for ever.
    let older = |at: Timestamp| if at < until { at } else { Timestamp(at.0.saturating_sub(1)) };
    Ok(Json(Turns { turns, before: None, until: last.map(|row| older(row.at)) }))
}

async fn turns_of(dashboard: &Served, cluster: ClusterId, asked: &TurnsAsked) -> Answer<Turns> {
    let (mut from, mut to) = (0, asked.before.map_or(u64::MAX, |before| before.saturating_sub(1)));
    if let Some(episode) = asked.episode.as_ref().filter(|episode| !episode.is_empty()) {
        let entry = dashboard.store.episode(&cluster, &EpisodeId(episode.clone())).await?;
        let entry = entry.ok_or_else(|| Failure::not_found(format!("episode {episode}")))?;
        from = entry.opened_version;
        to = to.min(entry.closed_version.unwrap_or(u64::MAX));
    }
    if let Some(since) = asked.since {
        match dashboard.store.version_at(&cluster, Timestamp(since)).await? {
            Some(version) => from = from.max(version),
            None => return Ok(Json(Turns { turns: Vec::new(), before: None, until: None })),
        }
    }
    if let Some(until) = asked.until
        && let Some(version) = dashboard.store.version_at(&cluster, Timestamp(until.saturating_add(1))).await?
    {
        to = to.min(version.saturating_sub(1));
    }
    if from > to {
        return Ok(Json(Turns { turns: Vec::new(), before: None, until: None }));
    }
    let (turns, last) = collect(dashboard, &Path::Cluster { cluster, from, to }, asked).await?;
    Ok(Json(Turns { turns, before: last.map(|row| row.version), until: None }))
}

/// The newest turns that are asked for, and the row behind which others may be.
async fn collect(
    dashboard: &Served,
    path: &Path,
    asked: &TurnsAsked,
) -> Result<(Vec<TurnView>, Option<HistoryRow>), Failure> {
    let limit = asked.limit.unwrap_or(100).clamp(1, TURNS_MAX);
    let mut rows = dashboard.store.rows(path, true);
    let (mut turns, mut looked) = (Vec::new(), 0);
    while let Some(row) = rows.next().await? {
        looked += 1;
        if asked.meets(&row) {
            turns.push(TurnView::from(&row));
        }
        // A filter that nothing meets must not read a million rows for one answer.
        if turns.len() == limit || looked == TURNS_MAX * 10 {
            return Ok((turns, Some(row)));
        }
    }
    Ok((turns, None))
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

/// Which episodes.
#[derive(Deserialize, JsonSchema)]
struct EpisodesAsked {
    /// So many at most; 50 without it.
    limit: Option<usize>,
}

/// An episode in brief.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct EpisodeView {
    /// As it is stored.
    #[serde(flatten)]
    entry: EpisodeEntry,
    /// The newest commit before it, or else its beginning: times are counted from here, as in its report.
    last_good_at: Timestamp,
    /// From there to the proof of a write through the public names, in milliseconds, as in its report.
    rto_ms: Option<u64>,
}

async fn episodes(
    State(dashboard): Shared,
    UrlPath(id): UrlPath<String>,
    Query(asked): Query<EpisodesAsked>,
) -> Answer<Vec<EpisodeView>> {
    let entries = dashboard.store.episodes(&dashboard.cluster(&id)?, Timestamp(0)).await?;
    let limit = asked.limit.unwrap_or(50).clamp(1, EPISODES_MAX);
    let mut views = Vec::new();
    for entry in entries.into_iter().take(limit) {
        let began_at = entry.episode.as_ref().map_or(entry.opened_at, |episode| episode.began_at);
        let last_good = dashboard.last_good(&entry).await?.filter(|ok| *ok <= began_at);
        let last_good_at = last_good.unwrap_or(began_at);
        let verified_at = entry.episode.as_ref().and_then(|episode| episode.verified_at);
        views.push(EpisodeView { last_good_at, rto_ms: verified_at.map(|at| at.since_ms(last_good_at)), entry });
    }
    Ok(Json(views))
}

impl Served {
    /// The newest commit before an episode, by the row that opened it.
    async fn last_good(&self, entry: &EpisodeEntry) -> Result<Option<Timestamp>, StoreError> {
        let kept = || self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&entry.id) {
            return Ok(*known);
        }
        let (cluster, version) = (entry.cluster.clone(), entry.opened_version);
        let path = Path::Cluster { cluster, from: version, to: version };
        let Some(row) = self.store.rows(&path, false).next().await? else { return Ok(None) };
        let mut kept = kept();
        if kept.len() == EPISODES_MAX {
            kept.clear();
        }
        kept.insert(entry.id.clone(), row.evidence.newest_ok);
        Ok(row.evidence.newest_ok)
    }
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
    /// What RDS says, of a rehearsal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rds: Vec<String>,
    /// Where the public names lead, of a rehearsal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<NameView>,
    /// What would be decided, of a rehearsal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decisions: Vec<Decided>,
    /// What would then be done outside, of a rehearsal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<String>,
    /// What it would hold for, and what would release it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<(String, String)>,
}

impl Given {
    fn told(accepted: bool, said: Vec<String>) -> Self {
        let (rds, names, decisions, next) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { accepted, said, rds, names, decisions, next, hold: None }
    }
}

/// A decision of a rehearsal.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Decided {
    /// The rule, as a sentence.
    what: &'static str,
    /// What the operator would be told.
    answer: Option<String>,
    /// Guards that would be asked.
    guards: Vec<GuardResult>,
    /// The state that it would be in.
    state: &'static str,
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
        on_behalf_of: None,
        reason: asked.reason.trim().to_owned(),
        expected_epoch: asked.expected_epoch,
        expires_at: clock::now().plus_ms(EXPIRES_AFTER_MS),
        nonce: Uuid::new_v4().simple().to_string(),
        order: asked.order,
    };
    if asked.dry_run {
        let item = dashboard.store.read(&cluster).await?;
        let item = item.ok_or_else(|| Failure::not_found(format!("record of {cluster} yet")))?;
        let rehearsed = rehearse(&dashboard.world, &item, Event::Command(command));
        let (rehearsal, rds, names) =
            tokio::join!(rehearsed, rds_says(&dashboard, &item), names::lead(&dashboard.world, &item.record));
        let hold = rehearsal.record().and_then(|record| record.hold.as_ref());
        return Ok(Json(Given {
            rds,
            names,
            hold: hold.map(|hold| (hold.detail.clone(), hold.release.clone())),
            next: rehearsal.next.iter().map(explain::effect).collect(),
            decisions: rehearsal.decisions.iter().map(Decided::from).collect(),
            ..Given::told(!rehearsal.refused(), rehearsal.outlook())
        }));
    }
    tracing::info!(%cluster, order = command.order.name(), actor = command.actor, "an order from the dashboard");
    match orders::give(dashboard.bus.as_ref(), &dashboard.store, &cluster, &command).await? {
        Some(row) => {
            let said = row.answer.clone().into_iter().chain([format!("version {}", row.version)]).collect();
            Ok(Json(Given::told(!orders::is_refused(&row), said)))
        }
        None => {
            let why =
                format!("no answer within {:?}: is a controller running? It expires by itself", orders::ANSWER_WITHIN);
            Err(Failure(StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}

impl From<&Decision> for Decided {
    fn from(decision: &Decision) -> Self {
        Self {
            what: decision.rule.sentence(),
            answer: decision.answer.clone(),
            guards: decision.guards.clone(),
            state: decision.record.state.name(),
        }
    }
}

/// What RDS says of a cluster, asked in a secondary's region.
async fn rds_says(dashboard: &Served, item: &Item) -> Vec<String> {
    let record = &item.record;
    let secondary = record.config.members.iter().map(|member| &member.region).find(|region| **region != record.primary);
    let asked = secondary.unwrap_or(&dashboard.settings.region);
    let region_of = |arn: &Arn| {
        let member = record.config.members.iter().find(|member| member.arn == *arn);
        member.map_or_else(|| arn.to_string(), |member| member.region.to_string())
    };
    match dashboard.world.rds.global_cluster(asked, &record.cluster).await {
        Err(error) => vec![format!("in {asked}: {error}")],
        Ok(seen) => {
            let writer = seen.members.iter().find(|member| member.writer).map(|member| region_of(&member.arn));
            let writer = writer.unwrap_or_else(|| "nobody".into());
            let mut said = vec![format!("in {asked}: the global cluster is {}, its writer is {writer}", seen.status)];
            said.extend(seen.failover.map(|under_way| {
                format!("in {asked}: a move to {} is {}", region_of(&under_way.to), under_way.status)
            }));
            said
        }
    }
}

/// An order for the demonstration.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DemoOrder {
    /// As in the lab's terminal: `fault lose-region us-east-2`, `heal all`, `traffic 8 20ms proxy`, `traffic stop`,
    /// `scenario region-loss`, `switchover`, `failover-in-region`, `restart-controller`, or `reset`.
    order: String,
}

/// What came of it.
#[derive(Serialize, JsonSchema)]
struct DemoAnswer {
    /// What the demonstration says.
    said: String,
}

async fn demo(State(dashboard): Shared) -> Result<Response, Failure> {
    pass_on(&dashboard, reqwest::Method::GET, Vec::new()).await
}

async fn demo_order(
    State(dashboard): Shared,
    Extension(person): Extension<Person>,
    Json(asked): Json<DemoOrder>,
) -> Result<Response, Failure> {
    tracing::info!(order = asked.order, person = ?person.name, "an order for the demonstration");
    pass_on(&dashboard, reqwest::Method::POST, json!(asked).to_string().into_bytes()).await
}

/// The demonstration has its own process; the page knows only this one.
async fn pass_on(dashboard: &Served, method: reqwest::Method, body: Vec<u8>) -> Result<Response, Failure> {
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
    for Described { method, path, summary, query, body, answer } in &DESCRIBED {
        let content = if *path == "/stream" { "text/event-stream" } else { "application/json" };
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = names
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        if let Some(query) = query {
            let schema = query(&mut generator);
            let asked = schema["properties"].as_object().into_iter().flatten();
            // What stands in the path already is not asked twice.
            let asked = asked.filter(|(name, _)| !path.contains(&format!("{{{name}}}")));
            parameters.extend(asked.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema })));
        }
        let mut operation = json!({
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": { "description": "as asked", "content": { content: { "schema": answer(&mut generator) } } },
                "default": {
                    "description": "what went wrong",
                    "content": { "application/json": { "schema": {
                        "type": "object",
                        "properties": { "error": { "type": "string" } },
                        "required": ["error"],
                    } } },
                },
            },
        });
        if let Some(body) = body {
            let schema = body(&mut generator);
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
