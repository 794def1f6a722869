//! The website of a region: a page and a health check that read from the region's own database.

use super::node;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use maud::{DOCTYPE, html};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio_postgres::Client;

/// A visitor is not kept waiting for longer.
const WITHIN: Duration = Duration::from_millis(500);

/// Tables of the application, and nothing else: the page does not know whose they are.
const TABLES: &str = "SELECT relname::text, n_live_tup FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY 1";

struct Site {
    region: String,
    database: String,
    port: watch::Receiver<u16>,
    session: Mutex<Option<(u16, Client)>>,
}

/// Serves visitors for ever; `port` is where the region's database answers.
pub(super) async fn serve(listener: TcpListener, region: String, database: String, port: watch::Receiver<u16>) {
    let site = Arc::new(Site { region, database, port, session: Mutex::default() });
    let app = Router::new().route("/", get(page)).route("/health", get(health)).with_state(site);
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "a website of the lab ended");
    }
}

type Page = (StatusCode, Html<String>);

async fn page(State(site): State<Arc<Site>>) -> Page {
    let (status, tables) = match site.read().await {
        Ok(tables) => (StatusCode::OK, tables),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, vec![(format!("{error:#}"), 0)]),
    };
    let title = format!("{} in {}", site.database, site.region);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } }
            body {
                h1 { (title) }
                table { @for (table, rows) in &tables { tr { th { (table) } td { (rows) " rows" } } } }
            }
        }
    };
    (status, Html(page.into_string()))
}

async fn health(State(site): State<Arc<Site>>) -> (StatusCode, String) {
    match site.read().await {
        Ok(_) => (StatusCode::OK, "ok".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    }
}

impl Site {
    async fn read(&self) -> Result<Vec<(String, i64)>> {
        let mut kept = tokio::time::timeout(WITHIN, self.session.lock()).await.context("too many visitors")?;
        let port = *self.port.borrow();
        let usable = kept.take().filter(|(known, client)| *known == port && !client.is_closed());
        let read = async {
            let client = match usable {
                Some((_, client)) => client,
                None => node::connect(&node::dsn(port, &self.database)).await?,
            };
            let rows = client.query(TABLES, &[]).await?;
            anyhow::Ok((client, rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
        };
        let (client, tables) = tokio::time::timeout(WITHIN, read).await.context("the database does not answer")??;
        *kept = Some((port, client));
        Ok(tables)
    }
}
