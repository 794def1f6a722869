//! The one place that reads the time and makes names up: all that differs between two runs of the same events.

use jiff::Timestamp as Instant;
use statemachine::Timestamp;
use uuid::Uuid;

/// Where time and names come from; simulations bring their own.
pub trait Clock: Send + Sync {
    /// Now, by somebody's wall clock.
    fn now(&self) -> Timestamp;

    /// A name that nobody else has, of letters and digits.
    fn unique(&self) -> String;
}

/// This machine's clock, and random names.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        now()
    }

    fn unique(&self) -> String {
        Uuid::new_v4().simple().to_string()
    }
}

/// Now, by this machine's wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let ms = Instant::now().as_millisecond();
    Timestamp(u64::try_from(ms).unwrap_or_default())
}

/// A time for humans and for AWS: UTC, RFC 3339, milliseconds.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    Instant::from_millisecond(ms).map_or_else(|_| at.0.to_string(), |instant| format!("{instant:.3}"))
}

/// The UTC day, `2026-11-23`.
#[must_use]
pub fn day(at: Timestamp) -> String {
    rfc3339(at).chars().take(10).collect()
}

/// Reads an RFC 3339 time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let instant: Instant = text.parse().ok()?;
    u64::try_from(instant.as_millisecond()).ok().map(Timestamp)
}
