//! SQS, reduced to what the inbox needs: long polling, deletion in batches, the dead-letter queue.

use crate::aws::chain;
use crate::inbox::{Message, Queue};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageAttributeValue};
use std::time::Duration;

/// Longest wait of one poll (SQS maximum).
const WAIT_S: i32 = 20;

/// Most messages per receive and per delete (SQS maximum).
const BATCH_MAX: usize = 10;

/// Message attribute of a dead letter that says why it is one.
pub const REASON: &str = "reason";

/// The queue could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("queue {queue} cannot be used: {detail}; run `aurora-failover init` or check its name")]
pub struct QueueError {
    queue: String,
    detail: String,
}

/// An SQS queue and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct Sqs {
    client: Client,
    queue_url: String,
    dead_letters_url: String,
}

impl Sqs {
    /// Looks the queues up.
    ///
    /// # Errors
    /// When one of them does not exist or may not be read.
    pub async fn open(sdk: &SdkConfig, queue: &str, dead_letters: &str) -> Result<Self, QueueError> {
        let client = Client::new(sdk);
        let queue_url = find_queue(&client, queue).await?;
        let dead_letters_url = find_queue(&client, dead_letters).await?;
        Ok(Self { client, queue_url, dead_letters_url })
    }
}

#[async_trait]
impl Queue for Sqs {
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
        let messages = received.messages.unwrap_or_default().into_iter();
        Ok(messages.filter_map(|m| Some(Message { body: m.body?, receipt: m.receipt_handle? })).collect())
    }

    async fn delete(&self, receipts: Vec<String>) -> Result<(), String> {
        for batch in receipts.chunks(BATCH_MAX) {
            let entry = |(index, receipt): (usize, &String)| {
                DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build()
            };
            let entries: Result<Vec<_>, _> = batch.iter().enumerate().map(entry).collect();
            let entries = entries.expect("id and receipt are given");
            let sent = self.client.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries)).send();
            let answer = sent.await.map_err(|error| chain(&error))?;
            if let Some(failed) = answer.failed().first() {
                return Err(format!(
                    "{} of {} were not deleted: {}",
                    answer.failed().len(),
                    batch.len(),
                    failed.code()
                ));
            }
        }
        Ok(())
    }

    async fn bury(&self, body: &str, reason: &str) -> Result<(), String> {
        let reason = MessageAttributeValue::builder().data_type("String").string_value(reason).build();
        let reason = reason.map_err(|error| chain(&error))?;
        self.client
            .send_message()
            .queue_url(&self.dead_letters_url)
            .message_body(body)
            .message_attributes(REASON, reason)
            .send()
            .await
            .map_err(|error| chain(&error))?;
        Ok(())
    }
}

async fn find_queue(client: &Client, queue: &str) -> Result<String, QueueError> {
    let failed = |detail: String| QueueError { queue: queue.into(), detail };
    let found = client.get_queue_url().queue_name(queue).send().await.map_err(|e| failed(chain(&e)))?;
    found.queue_url.ok_or_else(|| failed("GetQueueUrl gave no URL".into()))
}
