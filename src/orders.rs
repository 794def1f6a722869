//! An operator's order: over the operator bus, with the answer from the history. The one way for the command line and
//! the dashboard.

use crate::bus::{Bus, BusError, OPERATOR_SOURCE, Outgoing};
use crate::clock;
use crate::envelope::{COMMAND_DETAIL_TYPE, check_command, command_detail};
use crate::store::{DynamoDb, HistoryRow, StoreError};
use statemachine::{ClusterId, Command, Event, Rule};
use std::time::{Duration, Instant};

/// How long to wait for the answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two looks at the history.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Newest rows that are looked through for the answer.
const ROWS_MAX: usize = 50;

/// Why an order has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No service would take it.
    #[error("the order was not sent: {0}")]
    NotInOrder(String),
    /// It never left.
    #[error("the order was not sent: {0}")]
    NotSent(#[from] BusError),
    /// It left, and the history cannot be read.
    #[error("the order was sent, and its answer cannot be read: {0}")]
    Unread(#[from] StoreError),
}

/// Gives the order, and waits for the turn that answers it; none when no controller answers in time.
///
/// # Errors
/// See [`OrderError`].
pub async fn give(
    bus: &dyn Bus,
    store: &DynamoDb,
    cluster: &ClusterId,
    command: &Command,
) -> Result<Option<HistoryRow>, OrderError> {
    check_command(command).map_err(OrderError::NotInOrder)?;
    let detail = command_detail(cluster, clock::now(), command);
    bus.publish(&[Outgoing { source: OPERATOR_SOURCE, detail_type: COMMAND_DETAIL_TYPE, detail }]).await?;
    let is_ours = |row: &HistoryRow| matches!(&row.event.event, Event::Command(its) if its.nonce == command.nonce);
    let began = Instant::now();
    while began.elapsed() < ANSWER_WITHIN {
        if let Some(row) = store.newest(cluster, ROWS_MAX).await?.into_iter().find(is_ours) {
            return Ok(Some(row));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// Did the machine refuse the order that this turn answers?
#[must_use]
pub fn is_refused(answer: &HistoryRow) -> bool {
    answer.rule == Rule::CommandRefused
}
