//! The queue: receive with long polling, decode, hand over, and delete what was dealt with.
//!
//! A message is deleted only after its turn is stored; what cannot be decoded goes to the dead-letter queue with
//! its reason. Order and copies do not matter here: the machine deals with both. A cluster that does not keep up never
//! delays another: what finds its inbox full stays in the queue and comes again.

use crate::envelope::{Channel, Decoded, Decoder, Refusal};
use crate::telemetry;
use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, FuturesUnordered, StreamExt as _};
use statemachine::{ClusterId, Envelope};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Receipts waiting to be deleted; beyond that, receiving waits.
const DELETES_MAX: usize = 1024;

/// Receives, and deletions, under way at a time while there is much to do.
const PARALLEL_MAX: usize = 8;

/// Most messages per receive and per delete (SQS maximum). A receive that answers so many: there are more.
pub const BATCH_MAX: usize = 10;

/// Longest wait for turns and deletions when stopping.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// Pause after a poll that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// One received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its text.
    pub body: String,
    /// What deletes it.
    pub receipt: String,
}

/// What the inbox needs of a queue. Errors are sentences: nothing is decided on them.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Waits for messages; may answer with none.
    async fn receive(&self) -> Result<Vec<Message>, String>;

    /// Deletes messages that were dealt with.
    async fn delete(&self, receipts: Vec<String>) -> Result<(), String>;

    /// Puts a copy of a message that cannot be used where somebody looks at it.
    async fn bury(&self, body: &str, reason: &str) -> Result<(), String>;
}

/// One decoded message on its way to its cluster.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Fire it when the turn is stored; drop it to have the message delivered again.
    pub done: oneshot::Sender<()>,
    /// When it was received.
    pub received_at: Instant,
}

/// A queue, and what may come by it.
#[derive(Clone)]
pub struct Inbox {
    queue: Arc<dyn Queue>,
    channel: Channel,
    decoder: Arc<Decoder>,
}

impl Inbox {
    /// What comes by `queue` is taken for `channel`.
    #[must_use]
    pub fn new(queue: Arc<dyn Queue>, channel: Channel, decoder: Arc<Decoder>) -> Self {
        Self { queue, channel, decoder }
    }

    /// Receives until `stop`; `route` finds the cluster's inbox.
    pub async fn run(
        self,
        route: impl Fn(&ClusterId) -> Option<mpsc::Sender<Delivery>> + Send + Sync,
        stop: CancellationToken,
    ) {
        let (deletes, to_delete) = mpsc::channel(DELETES_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(delete(Arc::clone(&self.queue), to_delete));
        info!(channel = ?self.channel, "polling");
        let mut receiving = FuturesUnordered::from_iter([self.queue.receive()]);
        loop {
            while tasks.try_join_next().is_some() {}
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(received) = receiving.next() => received,
            };
            // One more as long as full batches come, one less with each that is not full, and always one.
            let full = received.as_ref().is_ok_and(|messages| messages.len() >= BATCH_MAX);
            let more = if full { (receiving.len() + 2).min(PARALLEL_MAX) } else { 1 };
            while receiving.len() < more {
                receiving.push(self.queue.receive());
            }
            match received {
                Ok(messages) => {
                    for message in messages {
                        self.hand_over(message, &route, &deletes, &mut tasks).await;
                    }
                }
                Err(detail) => {
                    warn!(detail, "receiving failed; nothing is decided until the queue answers");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(FAILED_PAUSE) => {}
                    }
                }
            }
        }
        drop(deletes);
        // Turns that are still being made may want to delete; what is not deleted comes again and is recognised.
        let _in_time = tokio::time::timeout(STOP_GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    }

    async fn hand_over(
        &self,
        message: Message,
        route: &(impl Fn(&ClusterId) -> Option<mpsc::Sender<Delivery>> + Send + Sync),
        deletes: &mpsc::Sender<String>,
        tasks: &mut JoinSet<()>,
    ) {
        let received_at = Instant::now();
        let Message { body, receipt } = message;
        let Decoded { clusters, envelope } = match self.decoder.decode(&body, self.channel) {
            Ok(decoded) => decoded,
            Err(refusal) => return self.refuse(&body, receipt, &refusal, deletes).await,
        };
        let (envelope, mut turns) = (Arc::new(envelope), Vec::new());
        for cluster in &clusters {
            let Some(inbox) = route(cluster) else {
                debug!(%cluster, "not one of this controller's clusters");
                return;
            };
            let (done, stored) = oneshot::channel();
            match inbox.try_send(Delivery { envelope: Arc::clone(&envelope), done, received_at }) {
                Ok(()) => turns.push(stored),
                Err(TrySendError::Full(_)) => {
                    telemetry::inbox_full(cluster);
                    warn!(%cluster, "its inbox is full; the message stays in the queue");
                    return;
                }
                Err(TrySendError::Closed(_)) => return,
            }
        }
        let deletes = deletes.clone();
        tasks.spawn(async move {
            if join_all(turns).await.iter().all(Result::is_ok) {
                // When the deleter is gone the message comes again, and is recognised.
                let _gone = deletes.send(receipt).await;
            }
        });
    }

    async fn refuse(&self, body: &str, receipt: String, refusal: &Refusal, deletes: &mpsc::Sender<String>) {
        telemetry::refused(refusal.name());
        warn!(%refusal, "message refused");
        match self.queue.bury(body, &refusal.to_string()).await {
            Ok(()) => {
                let _gone = deletes.send(receipt).await;
            }
            // Left in the queue: the redrive policy moves it after some more tries.
            Err(detail) => warn!(detail, "the dead-letter queue did not take it"),
        }
    }
}

async fn delete(queue: Arc<dyn Queue>, receipts: mpsc::Receiver<String>) {
    let batches = stream::unfold(receipts, async |mut receipts| {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        (receipts.recv_many(&mut batch, BATCH_MAX).await > 0).then_some((batch, receipts))
    });
    let delete = async |batch| {
        if let Err(detail) = queue.delete(batch).await {
            debug!(detail, "messages were not deleted; they come again");
        }
    };
    batches.for_each_concurrent(PARALLEL_MAX, delete).await;
}
