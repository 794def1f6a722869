//! An episode's report for a terminal, for an incident review, and as a page.

use super::table;
use aurora_failover::audit::explain::{self, duration, word};
use aurora_failover::audit::report::{Held, Ordered, Phase, Report};
use aurora_failover::clock::rfc3339;
use comfy_table::CellAlignment;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use statemachine::Policy;
use std::fmt::Write as _;

/// Width and height of a row of the chart, in its own units.
const CHART: (f64, f64) = (900.0, 26.0);

/// Most moments of which the timeline on a page shows the detail in full.
const DETAIL_CHARACTERS: usize = 400;

fn known(value: Option<u64>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// What is said first, with its name.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let region = |region: &Option<statemachine::Region>| region.as_ref().map_or("?".to_owned(), ToString::to_string);
    let mut facts = vec![
        ("episode", report.id.to_string()),
        ("cluster", report.cluster.clone()),
        ("kind", report.kind.map_or_else(|| "?".into(), |kind| word(&kind))),
        ("outcome", report.outcome.map_or_else(|| "open".into(), |outcome| word(&outcome))),
        ("primary", format!("{} before, {} after", region(&report.primary_before), region(&report.primary_after))),
        ("began", rfc3339(report.began_at)),
        ("closed", report.closed_at.map_or_else(|| "not yet".into(), rfc3339)),
        ("mode", report.mode.unwrap_or("?").into()),
        ("recovery time (RTO), ms", known(report.rto_ms)),
        (
            "RTO of clients, ms",
            match report.rto_client_ms {
                Some(ms) => format!("{ms}, as told with --client-outage"),
                None => "not measured: the service has no client".into(),
            },
        ),
        ("loss bound (RPO by lag), ms", known(report.rpo_bound_ms)),
        ("loss by heartbeats, ms", known(report.rpo_heartbeat_ms)),
        ("failed tries of effects", report.retries.to_string()),
        ("rows of history", report.rows.to_string()),
        ("configuration", report.config_hash.clone()),
        ("software", report.software.join(", ")),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

/// What is told in sentences, with its title: only what there is.
fn sections(report: &Report) -> Vec<(&'static str, Vec<String>)> {
    let held = |held: &Held| format!("{} for {}: {}", rfc3339(held.at), duration(held.ms), held.why);
    let ordered = |order: &Ordered| {
        let verdict = if order.accepted { "done" } else { "refused" };
        let Ordered { at, actor, order, reason, answer, .. } = order;
        format!("{} {order} by {actor} ({reason}): {verdict}: {answer}", rfc3339(*at))
    };
    let mut sections = vec![
        ("What it waited for", report.holds.iter().map(held).collect::<Vec<_>>()),
        ("Who ordered what", report.orders.iter().map(ordered).collect()),
        ("The guards of the decision", report.guards.iter().map(explain::guard).collect()),
        ("The configuration at the time", report.policy.as_ref().map(configuration).unwrap_or_default()),
    ];
    sections.retain(|(_, lines)| !lines.is_empty());
    sections
}

/// A line for each value of a policy, as in the configuration file.
fn configuration(policy: &Policy) -> Vec<String> {
    let Ok(serde_json::Value::Object(values)) = serde_json::to_value(policy) else { return Vec::new() };
    let line = |(name, value): (&String, &serde_json::Value)| match (name.strip_suffix("-ms"), value) {
        (Some(name), value) => format!("{name} = {}", value.as_u64().map_or_else(|| value.to_string(), duration)),
        (None, serde_json::Value::Array(all)) => {
            format!("{name} = {}", all.iter().map(explain::word).collect::<Vec<_>>().join(", "))
        }
        (None, value) => format!("{name} = {}", explain::word(value)),
    };
    values.iter().map(line).collect()
}

fn seconds(ms: u64) -> String {
    format!("{:.3}", ms as f64 / 1000.0)
}

/// For a terminal.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for (name, value) in facts(report) {
        let _infallible = writeln!(text, "{name:<28} {value}");
    }
    if !report.phases.is_empty() {
        text.push_str("\nWhere the time went\n");
        let mut phases = table(["phase", "ms"]);
        for phase in &report.phases {
            phases.add_row([phase.name.to_owned(), phase.ms.to_string()]);
        }
        if let Some(column) = phases.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _infallible = writeln!(text, "{phases}");
    }
    text.push_str("\nTimeline (seconds since the last good commit)\n");
    let mut moments = table(["seconds", "version", "state", "what", "by", "detail"]);
    for moment in &report.timeline {
        moments.add_row([
            seconds(moment.elapsed_ms),
            moment.version.to_string(),
            moment.state.clone().unwrap_or_default(),
            moment.what.into(),
            moment.actor.clone(),
            moment.detail.clone(),
        ]);
    }
    let _infallible = writeln!(text, "{moments}");
    for (title, lines) in sections(report) {
        let _infallible = writeln!(text, "\n{title}\n{}", lines.join("\n"));
    }
    text.trim_end().to_owned()
}

/// For an incident review.
pub(super) fn markdown(report: &Report) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut text = format!("# Episode {}\n\n| | |\n|---|---|\n", report.id);
    for (name, value) in facts(report) {
        let _infallible = writeln!(text, "| {name} | {} |", cell(&value));
    }
    if !report.phases.is_empty() {
        text.push_str("\n## Where the time went\n\n| phase | ms |\n|---|---:|\n");
        for phase in &report.phases {
            let _infallible = writeln!(text, "| {} | {} |", phase.name, phase.ms);
        }
    }
    text.push_str("\n## Timeline\n\nSeconds since the last good commit.\n\n");
    text.push_str("| seconds | version | state | what | by | detail |\n|---:|---:|---|---|---|---|\n");
    for moment in &report.timeline {
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            seconds(moment.elapsed_ms),
            moment.version,
            moment.state.as_deref().unwrap_or_default(),
            moment.what,
            cell(&moment.actor),
            cell(&moment.detail)
        );
    }
    for (title, lines) in sections(report) {
        let _infallible = writeln!(text, "\n## {title}\n\n- {}", lines.join("\n- "));
    }
    text.trim_end().to_owned()
}

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.detail { font-size: .85rem; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.detect { fill: #c98500; } .decide { fill: #c0262d; } .promote { fill: #8a4fbf; } .reroute { fill: #2b6cb0; }
.verify { fill: #1c7f8c; } .settle { fill: #2f855a; } .ok { fill: #2f855a; } .failed { fill: #c0262d; }
.isolated { fill: #888; } .grid { stroke: #8886; }
";

/// A page that needs nothing else.
pub(super) fn html(report: &Report) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Episode " (report.id) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Episode " (report.id) }
                table { @for (name, value) in facts(report) { tr { th { (name) } td { (value) } } } }
                @if !report.phases.is_empty() {
                    h2 { "Where the time went" }
                    (phases(&report.phases))
                }
                @if !report.probes.is_empty() {
                    h2 { "What the vantages saw" }
                    (probes(report))
                    p { "Green: the write committed. Red: it failed. Grey: the vantage was cut off itself." }
                }
                h2 { "Timeline" }
                table {
                    tr { th { "seconds" } th { "version" } th { "state" } th { "what" } th { "by" } th { "detail" } }
                    @for moment in &report.timeline {
                        tr {
                            td class="number" { (seconds(moment.elapsed_ms)) }
                            td class="number" { (moment.version) }
                            td { (moment.state.as_deref().unwrap_or_default()) }
                            td { (moment.what) }
                            td { (moment.actor) }
                            td class="detail" { (moment.detail.chars().take(DETAIL_CHARACTERS).collect::<String>()) }
                        }
                    }
                }
                @for (title, lines) in sections(report) {
                    h2 { (title) }
                    ul { @for line in lines { li { (line) } } }
                }
            }
        }
    };
    page.into_string()
}

/// One bar, a part for each phase.
fn phases(phases: &[Phase]) -> Markup {
    let (width, height) = CHART;
    let total = phases.iter().map(|phase| phase.ms).sum::<u64>().max(1) as f64;
    let mut x = 0.0;
    let parts: Vec<(f64, f64, &Phase)> = phases
        .iter()
        .map(|phase| {
            let part = (x, phase.ms as f64 / total * width, phase);
            x += part.1;
            part
        })
        .collect();
    html! {
        svg viewBox=(format!("0 0 {width} {height}")) role="img" aria-label="phases" {
            @for (x, width, phase) in &parts {
                rect class=(phase.name) x=(x) y="0" width=(width) height=(height) {
                    title { (phase.name) ": " (phase.ms) " ms" }
                }
            }
        }
        table {
            @for phase in phases {
                tr {
                    td {
                        svg viewBox="0 0 10 10" style="width: .8rem" { rect class=(phase.name) width="10" height="10" {} }
                        " " (phase.name)
                    }
                    td class="number" { (phase.ms) " ms" }
                }
            }
        }
    }
}

/// A row of dots for each vantage.
fn probes(report: &Report) -> Markup {
    let (width, height) = CHART;
    let vantages = report.vantages();
    let names = 160.0;
    let from = report.probes.first().map_or(0, |probe| probe.at.0);
    let span = report.probes.last().map_or(1, |probe| probe.at.0.saturating_sub(from)).max(1) as f64;
    let whole = height * (vantages.len() as f64 + 1.0);
    html! {
        svg viewBox=(format!("0 0 {width} {whole}")) role="img" aria-label="probes" {
            @for (row, vantage) in vantages.iter().enumerate() {
                @let y = height * (row as f64 + 0.5);
                text x="0" y=(y + 4.0) { (vantage) }
                line class="grid" x1=(names) x2=(width) y1=(y) y2=(y) {}
                @for probe in report.probes.iter().filter(|probe| probe.vantage == *vantage) {
                    @let class = match (&probe.failed, probe.isolated) {
                        (_, true) => "isolated",
                        (Some(_), false) => "failed",
                        (None, false) => "ok",
                    };
                    circle class=(class) r="4" cy=(y)
                        cx=(names + (probe.at.0 - from) as f64 / span * (width - names - 8.0) + 4.0) {
                        title { (rfc3339(probe.at)) " " (probe.failed.as_deref().unwrap_or("committed")) }
                    }
                }
            }
            text x=(names) y=(whole - 6.0) { (rfc3339(statemachine::Timestamp(from))) }
            text x=(width) y=(whole - 6.0) text-anchor="end" {
                (format!("+{:.1} s", span / 1000.0))
            }
        }
    }
}
