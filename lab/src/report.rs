//! A drill's result for people and for programs.

use crate::drill::DrillResult;
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use std::io::{ErrorKind, Write as _};

/// Appends a line; writing to a string cannot fail.
macro_rules! line {
    ($text:expr) => {
        $text.push('\n')
    };
    ($text:expr, $($format:tt)*) => {{
        $text.push_str(&format!($($format)*));
        $text.push('\n');
    }};
}

/// Writes to standard output. Whoever reads may have seen enough: a closed pipe is no error.
///
/// # Errors
/// Any other failure to write.
pub fn show(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One object, or for several runs an object that sums them up.
///
/// # Errors
/// Never in practice: the result is plain data.
pub fn json(results: &[DrillResult]) -> Result<String> {
    if let [only] = results {
        return Ok(serde_json::to_string_pretty(only)?);
    }
    let summary = serde_json::json!({
        "passed": results.iter().filter(|result| result.passed()).count(),
        "of": results.len(),
        "outage_ms": spread(results.iter().filter_map(|result| result.outage_ms)),
        "runs": results,
    });
    Ok(serde_json::to_string_pretty(&summary)?)
}

/// Timeline, phases, verdict; with the stored history on request.
#[must_use]
pub fn text(result: &DrillResult, with_history: bool) -> String {
    let mut text = String::new();
    if with_history {
        line!(text, "\nHistory, as stored in DynamoDB (newest first)\n{}", result.history);
    }
    line!(text, "\nTimeline (seconds since the fault)");
    let mut table = plain(&["since fault", "in phase", "state", "event"]);
    align(&mut table, [0, 1]);
    let mut entered_ms = 0;
    for moment in &result.timeline {
        let in_phase_ms = moment.at_ms - entered_ms;
        table.add_row([
            seconds(moment.at_ms),
            if moment.at_ms > 0 { seconds(in_phase_ms) } else { String::new() },
            moment.state.clone().unwrap_or_default(),
            moment.what.clone(),
        ]);
        if moment.state.is_some() {
            entered_ms = moment.at_ms;
        }
    }
    line!(text, "{table}");
    if !result.phases.is_empty() {
        line!(text, "\nWhere the outage went");
        let mut table = plain(&["phase", "ms", ""]);
        for phase in &result.phases {
            let note = if phase.in_outage { "" } else { "beside the outage: the proof after clients were served" };
            table.add_row([phase.name.to_owned(), phase.ms.to_string(), note.into()]);
        }
        align(&mut table, [1]);
        line!(text, "{table}");
    }
    line!(text);
    let known = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    line!(text, "states                   {}", result.path.join(" > "));
    line!(text, "client write outage      {} ms", known(result.outage_ms));
    line!(text, "longest gap of writes    {} ms", result.longest_gap_ms);
    line!(text, "acknowledged writes      {}, lost {}", result.acknowledged_writes, known(result.lost_writes));
    line!(text, "loss by heartbeats       {} ms", known(result.rpo_heartbeat_ms));
    line!(text, "failed client attempts   {}", result.failed_attempts);
    if result.clients > 1 || result.reads > 0 {
        line!(
            text,
            "clients                  {}, reads {}, failed {}",
            result.clients,
            result.reads,
            result.failed_reads
        );
    }
    let calls = [result.failover_calls, result.switchover_calls, result.in_region_calls];
    line!(text, "accepted calls           {} failover, {} switchover, {} in-region", calls[0], calls[1], calls[2]);
    line!(text, "packets dropped by       {}", result.packet_loss);
    if let (Some(at_ms), Some(seed)) = (result.controller_killed_at_ms, result.seed) {
        line!(text, "controller killed        {at_ms} ms after the fault (--seed {seed})");
    }
    for problem in &result.problems {
        line!(text, "problem                  {problem}");
    }
    line!(text, "outcome                  {}", if result.passed() { "passed" } else { "FAILED" });
    text
}

/// A line per run and the spread.
#[must_use]
pub fn summary(results: &[DrillResult]) -> String {
    let mut text = String::from("\nSummary\n");
    let mut table =
        plain(&["run", "scenario", "outcome", "outage ms", "longest gap ms", "lost", "calls", "killed at ms", "seed"]);
    let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for (index, result) in results.iter().enumerate() {
        table.add_row([
            (index + 1).to_string(),
            result.scenario.clone(),
            if result.passed() { "passed".into() } else { result.problems.join("; ") },
            known(result.outage_ms),
            result.longest_gap_ms.to_string(),
            known(result.lost_writes),
            (result.failover_calls + result.switchover_calls + result.in_region_calls).to_string(),
            known(result.controller_killed_at_ms),
            known(result.seed),
        ]);
    }
    align(&mut table, [0, 3, 4, 5, 6, 7]);
    line!(text, "{table}");
    let passed = results.iter().filter(|result| result.passed()).count();
    let outage = spread(results.iter().filter_map(|result| result.outage_ms));
    let ms = |name: &str| outage[name].as_u64().map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    line!(
        text,
        "passed {passed} of {}; outage ms min {} median {} max {}",
        results.len(),
        ms("min"),
        ms("median"),
        ms("max")
    );
    text
}

fn spread(values: impl Iterator<Item = u64>) -> serde_json::Value {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let median = match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(values[n / 2 - 1].midpoint(values[n / 2])),
    };
    serde_json::json!({ "min": values.first(), "median": median, "max": values.last() })
}

fn seconds(ms: i64) -> String {
    format!("{:.3}", ms as f64 / 1000.0)
}

pub(crate) fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    table
}

/// Numbers stand to the right.
pub(crate) fn align(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
