//! Changes as they come, by server-sent events. Each has a number; whoever comes back with the number of the last one
//! gets what was missed, or is told to look anew.

use super::view::{Detail, Summary, TurnView};
use super::{STREAMS_MAX, Served};
use crate::board::{Entry, Told};
use crate::clock;
use crate::config::ProbeSettings;
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
struct Watching(Arc<Served>, Option<ClusterId>);

impl Watching {
    /// None when too many are open.
    fn new(served: Arc<Served>, cluster: Option<ClusterId>) -> Option<Self> {
        let more = |open: usize| (open < STREAMS_MAX).then_some(open + 1);
        served.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(served, cluster))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
        if let Some(cluster) = &self.1 {
            self.0.names.leave(cluster);
        }
    }
}

/// Follows the fleet, or everything of one cluster; none when too many do already.
pub(super) fn follow(
    served: &Arc<Served>,
    cluster: Option<ClusterId>,
    seen: Option<u64>,
    stop: CancellationToken,
) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
    let watching = Watching::new(Arc::clone(served), cluster.clone())?;
    let following = served.board.follow(seen);
    let demo = cluster.as_ref().map(|_| served.demo.subscribe());
    let names = cluster.clone().map(|cluster| (served.names.follow(&cluster), cluster));
    let mut table = served.table.subscribe();
    table.mark_changed();
    let probes = cluster.as_ref().map(|cluster| served.probes_of(cluster)).unwrap_or_default();
    let told = move |entry: &Entry, only: Option<&ClusterId>| told(entry, only, &probes);
    let beginning = match following.missed {
        // A page that begins has asked for everything itself; it is told where it is.
        Some(missed) if missed.is_empty() => vec![event(following.newest, "here", &())],
        Some(missed) => missed.iter().filter_map(|entry| told(entry, cluster.as_ref())).collect(),
        None => vec![event(following.newest, "anew", &())],
    };
    let coming = stream::unfold((following.coming, cluster, told), async |(mut coming, cluster, told)| {
        loop {
            match coming.recv().await {
                Ok(entry) => {
                    if let Some(event) = told(&entry, cluster.as_ref()) {
                        return Some((event, (coming, cluster, told)));
                    }
                }
                // Too slow for what comes: looking anew is faster than hearing all of it.
                Err(RecvError::Lagged(_)) => {
                    return Some((Event::default().event("anew").data("null"), (coming, cluster, told)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let demo = stream::unfold(demo, async |demo| {
        let mut demo = demo?;
        demo.changed().await.ok()?;
        let event = Event::default().event("demo").data(demo.borrow_and_update().as_str());
        Some((event, Some(demo)))
    });
    let names = stream::unfold(names, async |names| {
        let (mut answers, cluster) = names?;
        loop {
            answers.changed().await.ok()?;
            let found = answers.borrow_and_update().get(&cluster).cloned();
            if let Some(found) = found {
                return Some((unnumbered("names", &found), Some((answers, cluster))));
            }
        }
    });
    let table = stream::unfold(table, async |mut table| {
        table.changed().await.ok()?;
        let event = unnumbered("table", &*table.borrow_and_update());
        Some((event, table))
    });
    let beside = stream::select(Box::pin(names), Box::pin(table));
    let live = stream::select(stream::select(Box::pin(coming), Box::pin(demo)), beside);
    let all = stream::iter(beginning).chain(live).take_until(stop.cancelled_owned());
    let all = all.map(move |event| {
        let _open = &watching;
        Ok(event)
    });
    Some(Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE_EVERY).text("alive")))
}

fn told(entry: &Entry, only: Option<&ClusterId>, probes: &[ProbeSettings]) -> Option<Event> {
    let number = entry.number;
    match (&entry.told, only) {
        (Told::Changed(known), None) => Some(event(number, "summary", &Summary::of(known, clock::now()))),
        (Told::Changed(known), Some(only)) if *only == entry.cluster => {
            Some(event(number, "cluster", &Detail::of(known, probes, clock::now())))
        }
        (Told::Turn(row), Some(only)) if *only == entry.cluster => {
            Some(event(number, "turn", &TurnView::from(row.as_ref())))
        }
        (Told::Probe(seen), Some(only)) if *only == entry.cluster => Some(event(number, "probe", seen)),
        _ => None,
    }
}

/// What is no part of the feed has no number: it is not what a page comes back for.
fn unnumbered(kind: &str, data: &impl Serialize) -> Event {
    Event::default().event(kind).data(serde_json::to_string(data).expect("views are plain data"))
}

fn event(number: u64, kind: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("views are plain data");
    Event::default().id(number.to_string()).event(kind).data(data)
}
