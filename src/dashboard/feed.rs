//! Changes as they come, by server-sent events. Each has a number; whoever comes back with the number of the last one
//! gets what was missed, or is told to look anew.

use super::Dashboard;
use super::view::{Detail, Summary, TurnView};
use crate::board::{Entry, Told};
use crate::clock;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Serialize;
use statemachine::ClusterId;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// A sign of life, so that a page notices a connection that is gone.
const ALIVE_EVERY: Duration = Duration::from_secs(2);

/// Counts an open page for as long as it is open.
struct Watching(Arc<Dashboard>);

impl Watching {
    fn new(dashboard: Arc<Dashboard>) -> Self {
        dashboard.watchers.fetch_add(1, Ordering::Relaxed);
        Self(dashboard)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Follows the fleet, or everything of one cluster.
pub(super) fn follow(
    dashboard: Arc<Dashboard>,
    cluster: Option<ClusterId>,
    seen: Option<u64>,
    stop: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let following = dashboard.board.follow(seen);
    let demo = cluster.as_ref().map(|_| dashboard.demo.subscribe());
    let watching = Watching::new(dashboard);
    let beginning = match following.missed {
        // A page that begins has asked for everything itself; it is told where it is.
        Some(missed) if missed.is_empty() => vec![event(following.newest, "here", &())],
        Some(missed) => missed.iter().filter_map(|entry| told(entry, cluster.as_ref())).collect(),
        None => vec![event(following.newest, "anew", &())],
    };
    let coming = stream::unfold((following.coming, cluster), async |(mut coming, cluster)| {
        loop {
            match coming.recv().await {
                Ok(entry) => {
                    if let Some(event) = told(&entry, cluster.as_ref()) {
                        return Some((event, (coming, cluster)));
                    }
                }
                // Too slow for what comes: looking anew is faster than hearing all of it.
                Err(RecvError::Lagged(_)) => {
                    return Some((Event::default().event("anew").data("null"), (coming, cluster)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let demo = stream::unfold(demo, async |demo| {
        let mut demo = demo?;
        demo.changed().await.ok()?;
        // Without a number: it is not what a page comes back for.
        let event = Event::default().event("demo").data(demo.borrow_and_update().as_str());
        Some((event, Some(demo)))
    });
    let all = stream::iter(beginning)
        .chain(stream::select(Box::pin(coming), Box::pin(demo)))
        .take_until(stop.cancelled_owned());
    let all = all.map(move |event| {
        let _open = &watching;
        Ok(event)
    });
    Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE_EVERY).text("alive"))
}

fn told(entry: &Entry, only: Option<&ClusterId>) -> Option<Event> {
    let number = entry.number;
    match (&entry.told, only) {
        (Told::Changed(known), None) => Some(event(number, "summary", &Summary::of(known, clock::now()))),
        (Told::Changed(known), Some(only)) if *only == entry.cluster => {
            Some(event(number, "cluster", &Detail::of(known, clock::now())))
        }
        (Told::Turn(row), Some(only)) if *only == entry.cluster => {
            Some(event(number, "turn", &TurnView::from(row.as_ref())))
        }
        (Told::Probe(seen), Some(only)) if *only == entry.cluster => Some(event(number, "probe", seen)),
        _ => None,
    }
}

fn event(number: u64, kind: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("views are plain data");
    Event::default().id(number.to_string()).event(kind).data(data)
}
