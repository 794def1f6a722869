//! DynamoDB: one in-memory dynoxide database per region, made on first use.
//!
//! dynoxide's request handler is private, so each database listens on a hidden loopback port and
//! the body is passed on as it came. There are no global tables: regions share nothing.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header, request::Parts};
use dynoxide::Database;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::wire::{Refusal, Reply, json_reply};

const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) struct DynamoDb {
    client: Client<HttpConnector, Body>,
    regions: Mutex<HashMap<String, SocketAddr>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl DynamoDb {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), regions: Mutex::default(), tasks, stop }
    }

    pub(super) async fn call(&self, region: &str, parts: &Parts, body: Bytes) -> Reply {
        self.forward(region, parts, body).await.unwrap_or_else(|error| {
            let message = format!("the lab's DynamoDB of {region} did not answer: {error:#}");
            let refusal = Refusal::new("InternalServerError", message).status(500);
            json_reply("1.0", "com.amazonaws.dynamodb.v20120810#", Err(refusal))
        })
    }

    async fn forward(&self, region: &str, parts: &Parts, body: Bytes) -> anyhow::Result<Reply> {
        let address = self.address(region).await?;
        let mut request =
            Request::builder().method(parts.method.clone()).uri(format!("http://{address}/")).body(Body::from(body))?;
        *request.headers_mut() = parts.headers.clone();
        for hop in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING, header::EXPECT]
        {
            request.headers_mut().remove(hop);
        }
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = to_bytes(Body::new(body), REPLY_BYTES_MAX).await?;
        let error_code = (!head.status.is_success()).then(|| error_code(&body));
        let response = axum::response::Response::from_parts(head, Body::from(body));
        Ok(Reply { error_code, response })
    }

    async fn address(&self, region: &str) -> anyhow::Result<SocketAddr> {
        let mut regions = self.regions.lock().await;
        if let Some(address) = regions.get(region) {
            return Ok(*address);
        }
        let database = Database::memory().context("making an in-memory database")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = self.stop.clone().cancelled_owned();
        self.tasks.spawn(async move {
            if let Err(error) = dynoxide::server::serve_with_shutdown(listener, database, stop).await {
                tracing::error!(error, "the lab's DynamoDB ended");
            }
        });
        regions.insert(region.to_owned(), address);
        Ok(address)
    }
}

/// The short name in `"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"`.
fn error_code(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body["__type"].as_str().unwrap_or("UnknownError");
    code.rsplit('#').next().unwrap_or(code).to_owned()
}
