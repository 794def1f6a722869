//! Publishing to EventBridge.

use crate::aws::chain;
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;

/// `source` of probes.
pub const CANARY_SOURCE: &str = "aurora-failover.canary";

/// `source` of operators' commands.
pub const OPERATOR_SOURCE: &str = "aurora-failover.operator";

/// `source` of announcements.
pub const CONTROLLER_SOURCE: &str = "aurora-failover.controller";

/// Most entries that one `PutEvents` takes (EventBridge quota).
pub const ENTRIES_MAX: usize = 10;

/// One event to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Who says it.
    pub source: &'static str,
    /// What it is.
    pub detail_type: &'static str,
    /// JSON object.
    pub detail: String,
}

/// Publishing failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The whole call.
    #[error("PutEvents on bus {bus} failed: {detail}")]
    Call {
        /// Which bus.
        bus: String,
        /// The error chain.
        detail: String,
    },
    /// Some entries.
    #[error("bus {bus} refused {count} of the events: {detail}")]
    Entries {
        /// Which bus.
        bus: String,
        /// How many.
        count: i32,
        /// The first reason.
        detail: String,
    },
}

/// Where events are published.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Publishes at most [`ENTRIES_MAX`] events.
    async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError>;
}

/// An EventBridge bus.
#[derive(Debug, Clone)]
pub struct EventBridge {
    client: Client,
    bus: String,
}

impl EventBridge {
    /// The bus `bus`.
    #[must_use]
    pub fn new(sdk: &SdkConfig, bus: &str) -> Self {
        Self { client: Client::new(sdk), bus: bus.into() }
    }
}

#[async_trait]
impl Bus for EventBridge {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError> {
        let entry = |event: &Outgoing| {
            PutEventsRequestEntry::builder()
                .source(event.source)
                .detail_type(event.detail_type)
                .detail(&event.detail)
                .event_bus_name(&self.bus)
                .build()
        };
        let entries = events.iter().map(entry).collect();
        let sent = self.client.put_events().set_entries(Some(entries)).send().await;
        let sent = sent.map_err(|e| BusError::Call { bus: self.bus.clone(), detail: chain(&e) })?;
        match sent.failed_entry_count() {
            0 => Ok(()),
            count => {
                let first = sent.entries().iter().find(|e| e.error_code().is_some());
                let detail = first.map_or_else(String::new, |e| {
                    format!("{} {}", e.error_code().unwrap_or_default(), e.error_message().unwrap_or_default())
                });
                Err(BusError::Entries { bus: self.bus.clone(), count, detail })
            }
        }
    }
}
