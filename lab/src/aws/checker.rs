//! A pair of failover records, and the inverted health check that decides between them: Route 53's checkers read an
//! object, and while they find the text that they search for, the second record answers.

use crate::dns::{RecordKind, Zones};
use axum::body::{Body, to_bytes};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// A health check reads no further.
const BODY_BYTES_MAX: usize = 5_120;

/// The records and their health check.
#[derive(Debug, Clone)]
pub struct FailoverRecords {
    /// The public name.
    pub name: String,
    /// TTL of both records, in seconds.
    pub ttl_s: u32,
    /// What the name answers while the text is not found.
    pub first: String,
    /// What it answers while it is.
    pub second: String,
    /// Where the object is read, without a signature.
    pub url: String,
    /// What is searched for.
    pub search: String,
    /// Pause between two looks.
    pub every: Duration,
    /// Looks in a row with the same result that are needed to believe it.
    pub threshold: u32,
}

/// Looks for ever.
pub(super) async fn follow(records: FailoverRecords, zones: Zones) {
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
    let (mut second, mut differing) = (false, 0);
    loop {
        let looked = tokio::time::timeout(records.every * 2, is_found(&client, &records)).await;
        // Whatever cannot be read holds no text: the first record answers.
        let found = looked.ok().flatten().unwrap_or(false);
        differing = if found == second { 0 } else { differing + 1 };
        if differing >= records.threshold {
            (second, differing) = (found, 0);
            let answer = if second { &records.second } else { &records.first };
            if let Err(error) = zones.set(&records.name, RecordKind::Cname, records.ttl_s, &[answer]) {
                tracing::error!(error = format!("{error:#}"), "a failover record cannot be served");
            }
        }
        tokio::time::sleep(records.every).await;
    }
}

async fn is_found(client: &Client<HttpConnector, Body>, records: &FailoverRecords) -> Option<bool> {
    let answer = client.get(records.url.parse().ok()?).await.ok()?;
    let fine = answer.status().is_success();
    let body = to_bytes(Body::new(answer.into_body()), BODY_BYTES_MAX).await.ok()?;
    Some(fine && String::from_utf8_lossy(&body).contains(&records.search))
}
