//! SQS, reduced to what the inbox needs: long polling, deletion in batches, the dead-letter queue.

use crate::aws::chain;
use crate::inbox::{BATCH_MAX, Message, Queue};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageAttributeValue, MessageSystemAttributeName};
use statemachine::Timestamp;
use std::time::Duration;

/// Longest wait of one poll (SQS maximum).
const WAIT_S: i32 = 20;

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

/// One message that could not be used.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// SQS's id.
    pub id: String,
    /// Its text.
    pub body: String,
    /// Why it is here; none when SQS gave it up after too many deliveries.
    pub reason: Option<String>,
    /// When it came here.
    pub sent_at: Option<Timestamp>,
    receipt: String,
}

/// The dead-letter queue, for people.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    client: Client,
    url: String,
}

/// How long messages are hidden while somebody looks at them.
const LOOK_S: i32 = 30;

impl DeadLetters {
    /// Looks the queue up.
    ///
    /// # Errors
    /// When it does not exist or may not be read.
    pub async fn open(sdk: &SdkConfig, queue: &str) -> Result<Self, QueueError> {
        let client = Client::new(sdk);
        let url = find_queue(&client, queue).await?;
        Ok(Self { client, url })
    }

    fn failed(&self, detail: String) -> QueueError {
        QueueError { queue: self.url.clone(), detail }
    }

    /// At most `limit` messages. They stay, and can be looked at again at once.
    ///
    /// # Errors
    /// When SQS does not answer.
    pub async fn look(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut letters: Vec<DeadLetter> = Vec::new();
        while letters.len() < limit {
            let room = (limit - letters.len()).min(BATCH_MAX);
            let received = self
                .client
                .receive_message()
                .queue_url(&self.url)
                .max_number_of_messages(room as i32)
                .visibility_timeout(LOOK_S)
                .message_attribute_names(REASON)
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
                .send()
                .await
                .map_err(|error| self.failed(chain(&error)))?;
            let found = received.messages.unwrap_or_default();
            if found.is_empty() {
                break;
            }
            letters.extend(found.into_iter().filter_map(dead_letter));
        }
        for letter in &letters {
            let shown = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(&letter.receipt);
            let shown = shown.visibility_timeout(0).send().await;
            shown.map_err(|error| self.failed(chain(&error)))?;
        }
        Ok(letters)
    }

    /// Sends a message to `queue`, and takes it away here.
    ///
    /// # Errors
    /// When SQS does not answer; then it may be in both.
    pub async fn send_on(&self, letter: &DeadLetter, queue: &str) -> Result<(), QueueError> {
        let url = find_queue(&self.client, queue).await?;
        let sent = self.client.send_message().queue_url(url).message_body(&letter.body).send().await;
        sent.map_err(|error| self.failed(chain(&error)))?;
        let deleted = self.client.delete_message().queue_url(&self.url).receipt_handle(&letter.receipt).send().await;
        deleted.map_err(|error| self.failed(chain(&error)))?;
        Ok(())
    }
}

fn dead_letter(message: aws_sdk_sqs::types::Message) -> Option<DeadLetter> {
    let reason = message.message_attributes.as_ref().and_then(|a| a.get(REASON)?.string_value.clone());
    let sent =
        message.attributes.as_ref().and_then(|a| a.get(&MessageSystemAttributeName::SentTimestamp)?.parse().ok());
    Some(DeadLetter {
        id: message.message_id?,
        body: message.body?,
        reason,
        sent_at: sent.map(Timestamp),
        receipt: message.receipt_handle?,
    })
}

async fn find_queue(client: &Client, queue: &str) -> Result<String, QueueError> {
    let failed = |detail: String| QueueError { queue: queue.into(), detail };
    let found = client.get_queue_url().queue_name(queue).send().await.map_err(|e| failed(chain(&e)))?;
    found.queue_url.ok_or_else(|| failed("GetQueueUrl gave no URL".into()))
}
