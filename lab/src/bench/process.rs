//! What a process uses, as Linux tells it.

use std::time::Duration;

/// Ticks per second of the times in `/proc`, on every Linux of today.
const TICKS_PER_S: u64 = 100;

/// Resident memory, in KiB.
pub(super) fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Processor time used so far, of user and system together.
pub(super) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold blanks; the times are the 14th and 15th field.
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .map(|rest| rest.split(' ').map(|field| field.parse().unwrap_or_default()).collect())
        .unwrap_or_default();
    let ticks = fields.get(11).copied().unwrap_or_default() + fields.get(12).copied().unwrap_or_default();
    Duration::from_millis(ticks * 1000 / TICKS_PER_S)
}
