//! Times on the command line: `1h` ago, or `2026-11-23T12:00:00Z`.

use anyhow::{Result, anyhow};
use aurora_failover::clock;
use statemachine::Timestamp;

/// Reads a time: so long ago, or RFC 3339.
pub(super) fn parse(text: &str) -> Result<Timestamp> {
    if let Some(at) = clock::parse_rfc3339(text) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        anyhow!("{text:?} is neither a time such as 2026-11-23T12:00:00Z nor a duration such as 90m, 12h or 30d")
    })?;
    let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(Timestamp(clock::now().0.saturating_sub(ago_ms)))
}
