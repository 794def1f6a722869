//! Results on their way to the bus. A batch is what came while the one before was on its way, ten at most: nothing
//! waits for a batch to fill, and no probe waits for the bus. What cannot be sent is kept while it is of use, and
//! counted when it is dropped, oldest first.

use super::Sent;
use crate::bus::{Bus, BusError, ENTRIES_MAX, Outgoing};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

/// Results that are kept at most.
const KEPT_MAX: usize = 1024;

/// Pause before a bus that could not be reached is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

pub(super) struct Outbox {
    /// A result older than this is ignored by the controller.
    useful: Duration,
    waiting: Mutex<VecDeque<Waiting>>,
    changed: Notify,
    closed: AtomicBool,
    published: AtomicU64,
    dropped: AtomicU64,
}

struct Waiting {
    since: Instant,
    event: Outgoing,
}

impl Outbox {
    pub(super) fn new(useful: Duration) -> Self {
        Self {
            useful,
            waiting: Mutex::default(),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            published: AtomicU64::default(),
            dropped: AtomicU64::default(),
        }
    }

    /// Never waits.
    pub(super) fn put(&self, event: Outgoing) {
        let mut waiting = self.waiting();
        waiting.push_back(Waiting { since: Instant::now(), event });
        self.trim(&mut waiting);
        self.changed.notify_one();
    }

    /// Nothing comes any more: `send_to` ends when all is sent.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn sent(&self) -> Sent {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sent { published: count(&self.published), dropped: count(&self.dropped) }
    }

    /// Publishes until it is closed and empty.
    pub(super) async fn send_to(self: Arc<Self>, bus: Arc<dyn Bus>) {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                if self.closed.load(Ordering::Relaxed) {
                    return;
                }
                self.changed.notified().await;
                continue;
            }
            let events: Vec<Outgoing> = batch.iter().map(|waiting| waiting.event.clone()).collect();
            match bus.publish(&events).await {
                Ok(()) => drop(self.published.fetch_add(batch.len() as u64, Ordering::Relaxed)),
                // Sent again they would be refused again.
                Err(error @ BusError::Entries { .. }) => {
                    warn!(%error, "probe results were refused");
                    self.count_dropped(batch.len());
                }
                Err(error @ BusError::Call { .. }) => {
                    self.put_back(batch);
                    let (waiting, dropped) = (self.waiting().len(), self.sent().dropped);
                    warn!(%error, waiting, dropped, "probe results wait for the bus");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// The oldest that are of use.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        self.trim(&mut waiting);
        let count = waiting.len().min(ENTRIES_MAX);
        waiting.drain(..count).collect()
    }

    fn put_back(&self, batch: Vec<Waiting>) {
        let mut waiting = self.waiting();
        batch.into_iter().rev().for_each(|event| waiting.push_front(event));
        self.trim(&mut waiting);
    }

    /// Lets go of what is of no use any more, and of the oldest beyond the limit.
    fn trim(&self, waiting: &mut VecDeque<Waiting>) {
        let stale = waiting.iter().take_while(|waiting| waiting.since.elapsed() > self.useful).count();
        let gone = stale.max(waiting.len().saturating_sub(KEPT_MAX));
        waiting.drain(..gone);
        self.count_dropped(gone);
    }

    fn count_dropped(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().expect("no panic while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    /// A bus that cannot be reached until it can.
    #[derive(Default)]
    struct Sometimes {
        reachable: AtomicBool,
        got: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Bus for Sometimes {
        async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError> {
            if !self.reachable.load(Ordering::Relaxed) {
                return Err(BusError::Call { bus: "bus".into(), detail: "unreachable".into() });
            }
            let details = events.iter().map(|event| event.detail.clone());
            self.got.lock().expect("no panic while it is held").extend(details);
            Ok(())
        }
    }

    fn event(number: usize) -> Outgoing {
        Outgoing { source: "test", detail_type: "Test", detail: number.to_string() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_bus_cannot_take_is_kept_in_order_up_to_a_bound_and_counted_when_it_is_dropped() {
        let (outbox, bus) = (Arc::new(Outbox::new(Duration::from_secs(60))), Arc::new(Sometimes::default()));
        let sending = tokio::spawn(Arc::clone(&outbox).send_to(Arc::clone(&bus) as Arc<dyn Bus>));
        for number in 0..KEPT_MAX + 100 {
            outbox.put(event(number));
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        bus.reachable.store(true, Ordering::Relaxed);
        outbox.close();
        sending.await.expect("it ends when all is sent");
        assert_eq!(outbox.sent(), Sent { published: KEPT_MAX as u64, dropped: 100 });
        let got = bus.got.lock().expect("no panic").clone();
        let newest: Vec<String> = (100..KEPT_MAX + 100).map(|number| number.to_string()).collect();
        assert_eq!(got, newest, "the oldest are dropped first");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_to_be_of_use_is_not_sent() {
        let (outbox, bus) = (Arc::new(Outbox::new(Duration::from_secs(10))), Arc::new(Sometimes::default()));
        let sending = tokio::spawn(Arc::clone(&outbox).send_to(Arc::clone(&bus) as Arc<dyn Bus>));
        outbox.put(event(1));
        tokio::time::sleep(Duration::from_secs(8)).await;
        outbox.put(event(2));
        tokio::time::sleep(Duration::from_secs(5)).await;
        bus.reachable.store(true, Ordering::Relaxed);
        outbox.close();
        sending.await.expect("it ends when all is sent");
        assert_eq!(outbox.sent(), Sent { published: 1, dropped: 1 });
        assert_eq!(*bus.got.lock().expect("no panic"), ["2"]);
    }
}
