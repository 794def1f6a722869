//! The queue: receive with long polling, decode, hand over, and delete what was dealt with.
//!
//! A message is deleted only after its turn is stored; what cannot be decoded goes to the dead-letter queue with
//! its reason. Order and copies do not matter here: the machine deals with both.

use crate::aws::chain;
use crate::envelope::{self, Channel, Refusal};
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageAttributeValue};
use statemachine::{ClusterId, Envelope};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Longest wait of one poll (SQS maximum).
const WAIT_S: i32 = 20;

/// Most messages per receive and per delete (SQS maximum).
const BATCH_MAX: usize = 10;

/// Longest wait for deletions when stopping.
const DELETE_GRACE: Duration = Duration::from_secs(2);

/// Pause after a poll that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// One decoded message on its way to its cluster.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub envelope: Envelope,
    /// Fire it when the turn is stored; drop it to have the message delivered again.
    pub done: oneshot::Sender<()>,
}

/// The queue could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("queue {queue} cannot be used: {detail}; run `aurora-failover init` or check its name")]
pub struct InboxError {
    queue: String,
    detail: String,
}

/// The queue and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct Inbox {
    client: Client,
    channel: Channel,
    queue_url: String,
    dead_letters_url: String,
}

impl Inbox {
    /// Looks the queues up.
    ///
    /// # Errors
    /// When one of them does not exist or may not be read.
    pub async fn open(sdk: &SdkConfig, channel: Channel, queue: &str, dead_letters: &str) -> Result<Self, InboxError> {
        let client = Client::new(sdk);
        let queue_url = find_queue(&client, queue).await?;
        let dead_letters_url = find_queue(&client, dead_letters).await?;
        Ok(Self { client, channel, queue_url, dead_letters_url })
    }

    /// Receives until `stop`; `route` finds the cluster's inbox.
    pub async fn run(
        self,
        route: impl Fn(&ClusterId) -> Option<mpsc::Sender<Delivery>> + Send + Sync,
        stop: CancellationToken,
    ) {
        let (deletes, to_delete) = mpsc::channel(1024);
        let deleter = tokio::spawn(self.clone().delete(to_delete));
        info!(queue = %self.queue_url, "polling");
        while !stop.is_cancelled() {
            let received = tokio::select! {
                () = stop.cancelled() => break,
                received = self.receive() => received,
            };
            match received {
                Ok(messages) => {
                    for message in messages {
                        self.hand_over(message, &route, &deletes).await;
                    }
                }
                Err(detail) => {
                    warn!(detail, "receiving failed; nothing is decided until the queue answers");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(FAILED_PAUSE) => {}
                    }
                }
            }
        }
        drop(deletes);
        // Turns that are still being made may want to delete; what is not deleted comes again and is recognised.
        match tokio::time::timeout(DELETE_GRACE, deleter).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => error!(%error, "the task that deletes messages panicked"),
        }
    }

    async fn receive(&self) -> Result<Vec<Message>, String> {
        let slack = Duration::from_secs(WAIT_S as u64 + 5);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(slack).operation_timeout(slack).build();
        let received = self
            .client
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(BATCH_MAX as i32)
            .wait_time_seconds(WAIT_S)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::default().timeout_config(timeouts))
            .send()
            .await
            .map_err(|error| chain(&error))?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn hand_over(
        &self,
        message: Message,
        route: &(impl Fn(&ClusterId) -> Option<mpsc::Sender<Delivery>> + Send + Sync),
        deletes: &mpsc::Sender<String>,
    ) {
        let (Some(body), Some(receipt)) = (message.body, message.receipt_handle) else { return };
        let (cluster, envelope) = match envelope::decode(&body, self.channel) {
            Ok(decoded) => decoded,
            Err(refusal) => return self.refuse(body, receipt, &refusal, deletes).await,
        };
        let Some(inbox) = route(&cluster) else {
            debug!(%cluster, "not one of this controller's clusters");
            return;
        };
        let (done, stored) = oneshot::channel();
        if inbox.send(Delivery { envelope, done }).await.is_err() {
            return;
        }
        let deletes = deletes.clone();
        tokio::spawn(async move {
            if stored.await.is_ok() {
                // When the deleter is gone the message comes again, and is recognised.
                let _gone = deletes.send(receipt).await;
            }
        });
    }

    async fn refuse(&self, body: String, receipt: String, refusal: &Refusal, deletes: &mpsc::Sender<String>) {
        warn!(%refusal, "message refused");
        let reason = MessageAttributeValue::builder().data_type("String").string_value(refusal.to_string()).build();
        let Ok(reason) = reason else { return };
        let sent = self
            .client
            .send_message()
            .queue_url(&self.dead_letters_url)
            .message_body(body)
            .message_attributes("reason", reason)
            .send()
            .await;
        match sent {
            Ok(_) => {
                let _gone = deletes.send(receipt).await;
            }
            // Left in the queue: the redrive policy moves it after some more tries.
            Err(error) => warn!(detail = chain(&error), "the dead-letter queue did not take it"),
        }
    }

    async fn delete(self, mut receipts: mpsc::Receiver<String>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while receipts.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let entry = |(index, receipt): (usize, String)| {
                DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build()
            };
            let entries: Result<Vec<_>, _> = batch.drain(..).enumerate().map(entry).collect();
            let entries = entries.expect("id and receipt are given");
            let sent = self.client.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries)).send();
            match sent.await {
                Ok(answer) if answer.failed().is_empty() => {}
                Ok(answer) => debug!(count = answer.failed().len(), "some messages were not deleted; they come again"),
                Err(error) => debug!(detail = chain(&error), "messages were not deleted; they come again"),
            }
        }
    }
}

async fn find_queue(client: &Client, queue: &str) -> Result<String, InboxError> {
    let failed = |detail: String| InboxError { queue: queue.into(), detail };
    let found = client.get_queue_url().queue_name(queue).send().await.map_err(|e| failed(chain(&e)))?;
    found.queue_url.ok_or_else(|| failed("GetQueueUrl gave no URL".into()))
}
