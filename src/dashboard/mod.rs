//! The dashboard: a page that shows every cluster as it is, and follows a failover while it happens.
//!
//! `view.rs` is what is shown, `api.rs` answers for it, `feed.rs` tells of changes as they come, `access.rs` decides
//! who may look and who may give orders, `assets/` is the page. What is known comes from the [`Board`] of this process;
//! where another controller listens, from the table.

mod access;
mod api;
mod feed;
mod limits;
mod names;
pub mod view;

pub use access::{Access, AccessError};
pub use limits::Limits;

use crate::board::Board;
use crate::bus::Bus;
use crate::clock;
use crate::config::Settings;
use crate::effects::World;
use crate::store::{DynamoDb, Path, StoreError};
use crate::telemetry::Health;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::Path as UrlPath;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::RustEmbed;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{ClusterId, EpisodeId, Timestamp};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

/// Pause between two looks at the table, where this process does not hear the events itself.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Pages that may be open at once; each costs a connection and a place in the feed.
const STREAMS_MAX: usize = 200;

/// Nothing from elsewhere, nothing inline; what the page shows cannot be framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
#[derive(RustEmbed)]
#[folder = "src/dashboard/assets"]
struct Assets;

/// What the dashboard needs.
pub struct Dashboard {
    /// The configuration in force.
    pub settings: Settings,
    /// What this process knows.
    pub board: Arc<Board>,
    /// Does this process hear the events itself?
    pub health: Arc<Health>,
    /// The history.
    pub store: Arc<DynamoDb>,
    /// How a rehearsal looks at the world.
    pub world: World,
    /// The operator bus.
    pub bus: Arc<dyn Bus>,
    /// Who may what.
    pub access: Access,
    /// The demonstration's control, if there is one: `http://127.0.0.1:PORT`.
    pub demo_url: Option<String>,
    /// Pages that are open.
    pub watchers: AtomicUsize,
    /// How the demonstration is, as it says itself.
    pub demo: watch::Sender<String>,
    /// How much may be asked.
    pub limits: Limits,
}

/// A dashboard while it is served.
struct Served {
    given: Dashboard,
    /// Where names lead.
    names: names::Names,
    /// How reading the table goes.
    table: watch::Sender<TableView>,
    /// The last commit before each closed episode that somebody asked for; it does not change any more.
    last_good: Mutex<BTreeMap<EpisodeId, Option<Timestamp>>>,
}

impl Deref for Served {
    type Target = Dashboard;

    fn deref(&self) -> &Dashboard {
        &self.given
    }
}

/// How reading the table goes, where another controller listens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct TableView {
    /// When all of it was last read; none when it need not be.
    at: Option<Timestamp>,
    /// Why it cannot be read now.
    error: Option<String>,
}

/// Serves pages and API until `stop`.
///
/// # Errors
/// When the address cannot be used.
pub async fn serve(listen: SocketAddr, dashboard: Dashboard, stop: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot show the dashboard on {listen}"))?;
    info!(address = %listener.local_addr()?, "showing the dashboard");
    let routes = routes(dashboard, &stop);
    tokio::spawn(async move {
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let ended = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = ended {
            warn!(%error, "the dashboard ended");
        }
    });
    Ok(())
}

fn routes(dashboard: Dashboard, stop: &CancellationToken) -> Router {
    dashboard.board.watch();
    let served = Served {
        given: dashboard,
        names: names::Names::default(),
        table: watch::Sender::default(),
        last_good: Mutex::default(),
    };
    let served = Arc::new(served);
    tokio::spawn(stop.clone().run_until_cancelled_owned(read_table(Arc::clone(&served))));
    tokio::spawn(stop.clone().run_until_cancelled_owned(names::ask(Arc::clone(&served))));
    tokio::spawn(stop.clone().run_until_cancelled_owned(ask_demo(Arc::clone(&served))));
    let header = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    Router::new()
        .route("/", get(|| asset("index.html")))
        .route("/assets/{name}", get(|UrlPath(name): UrlPath<String>| async move { asset(&name).await }))
        .nest("/api", api::routes(served, stop.clone()))
        .layer(CompressionLayer::new())
        .layer(header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
        .layer(header(header::CACHE_CONTROL, "no-store"))
}

async fn asset(name: &str) -> Response {
    match Assets::get(name) {
        Some(file) => {
            let kind = file.metadata.mimetype().to_owned();
            ([(header::CONTENT_TYPE, kind)], file.data.into_owned()).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}

/// Keeps the board current where another controller listens, while somebody looks; and says how that goes, so that what
/// is old is not taken for what is.
async fn read_table(served: Arc<Served>) {
    let mut versions: BTreeMap<ClusterId, u64> = BTreeMap::new();
    let mut first = true;
    loop {
        if !first {
            tokio::time::sleep(READ_EVERY).await;
        }
        if served.watchers.load(Ordering::Relaxed) == 0 && !first {
            continue;
        }
        first = false;
        let (mut reads, mut failed) = (0, None);
        for cluster in &served.settings.clusters {
            if served.health.is_listening() && served.board.known(&cluster.id).is_some_and(|known| known.live) {
                versions.remove(&cluster.id);
                continue;
            }
            reads += 1;
            if let Err(error) = read_cluster(&served, &cluster.id, &mut versions).await {
                failed = Some(error.to_string());
                if matches!(error, StoreError::Call { .. }) {
                    // The others would fail as slowly.
                    break;
                }
            }
        }
        served.table.send_if_modified(|table| {
            let at = if failed.is_some() { table.at } else { (reads > 0).then(clock::now) };
            if let Some(error) = failed.as_ref().filter(|_| table.error.is_none()) {
                warn!(error, "the dashboard cannot read the table");
            }
            let next = TableView { at, error: failed };
            let is_news = *table != next;
            *table = next;
            is_news
        });
    }
}

/// Asks the demonstration how it is, while somebody looks.
async fn ask_demo(dashboard: Arc<Served>) {
    let Some(url) = &dashboard.demo_url else { return };
    let client = reqwest::Client::new();
    loop {
        tokio::time::sleep(READ_EVERY).await;
        if dashboard.watchers.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let asked = client.get(format!("{url}/demo")).timeout(READ_EVERY * 5).send().await;
        if let Ok(answer) = asked
            && let Ok(state) = answer.text().await
        {
            dashboard.demo.send_replace(state);
        }
    }
}

async fn read_cluster(
    dashboard: &Dashboard,
    cluster: &ClusterId,
    versions: &mut BTreeMap<ClusterId, u64>,
) -> Result<(), StoreError> {
    let Some(item) = dashboard.store.read(cluster).await? else { return Ok(()) };
    let before = versions.insert(cluster.clone(), item.version);
    dashboard.board.read(item.version, item.record, clock::now());
    if let Some(before) = before.filter(|before| *before < item.version) {
        let path = Path::Cluster { cluster: cluster.clone(), from: before + 1, to: item.version };
        let mut rows = dashboard.store.rows(&path, false);
        while let Some(row) = rows.next().await? {
            dashboard.board.read_turn(row);
        }
    }
    Ok(())
}
