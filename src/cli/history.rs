//! `aurora-failover history`: what was decided, and why.

use super::{Format, show};
use anyhow::{Result, bail};
use aurora_failover::config::Settings;
use aurora_failover::store::{DynamoDb, HistoryRow, Store as _};
use aurora_failover::{aws, clock};
use comfy_table::{Table, presets};
use statemachine::{ClusterId, Event, GuardResult, Outcome, ProbeOutcome, Report};

pub(super) async fn run(settings: &Settings, format: Format, cluster: Option<String>, limit: usize) -> Result<()> {
    let cluster = match (cluster, settings.clusters.as_slice()) {
        (Some(cluster), _) => ClusterId(cluster),
        (None, [only]) => only.id.clone(),
        (None, several) => {
            let names: Vec<_> = several.iter().map(|c| c.id.as_str()).collect();
            bail!("the configuration has several clusters; pass --cluster with one of: {}", names.join(", "));
        }
    };
    let sdk = aws::load(&settings.region, &settings.aws).await;
    let rows = DynamoDb::new(&sdk, &settings.table).history(&cluster, limit).await?;
    if format == Format::Json {
        return show(&serde_json::to_string_pretty(&rows)?);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["version", "time (UTC)", "event", "state", "rule", "detail"]);
    for row in &rows {
        let state = if row.from == row.to { row.to.clone() } else { format!("{} → {}", row.from, row.to) };
        table.add_row([
            row.version.to_string(),
            clock::rfc3339(row.at),
            row.event.event.name().into(),
            state,
            row.rule.sentence().into(),
            detail(row),
        ]);
    }
    show(&table.to_string())?;
    if rows.len() == limit {
        show(&format!("Only the newest {limit} turns are shown; pass --limit for more."))?;
    }
    Ok(())
}

/// The facts of a turn, briefly.
fn detail(row: &HistoryRow) -> String {
    let mut facts = Vec::new();
    match &row.event.event {
        Event::Probe(probe) => facts.push(match &probe.outcome {
            ProbeOutcome::Ok => format!("{} committed in {} ms", probe.vantage, probe.latency_ms),
            ProbeOutcome::Failed { class } => format!("{} failed: {class}", probe.vantage),
        }),
        Event::Observation(seen) => facts.push(match &seen.outcome {
            ProbeOutcome::Ok => format!("{} by {}: ok in {} ms", seen.name, seen.vantage, seen.latency_ms),
            ProbeOutcome::Failed { class } => format!("{} by {} failed: {class}", seen.name, seen.vantage),
        }),
        Event::Lag(reading) => facts.push(format!("{} is {} ms behind", reading.region, reading.ms)),
        Event::Result(result) => facts.push(format!("effect {}: {}", result.effect, outcome(&result.outcome))),
        Event::Claim(_) => facts
            .push(format!("claimed {}", row.claimed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
        Event::Configured(configured) => facts.push(format!("mode {}", configured.mode.name())),
        Event::Command(command) => {
            facts.push(format!("{} by {}: {}", command.order.name(), command.actor, command.reason));
        }
        Event::Rds(event) => facts.push(format!("{} about {}", event.code, event.source)),
        Event::Alarm(alarm) => {
            facts.push(format!("{} is {}", alarm.name, if alarm.in_alarm { "in alarm" } else { "not in alarm" }));
        }
        Event::Tick => {}
    }
    facts.extend(row.answer.clone());
    facts.extend(row.guards.iter().map(guard));
    facts.extend(
        row.effects.iter().map(|pending| format!("effect {} asked for: {}", pending.id, pending.effect.name())),
    );
    facts.join("\n")
}

fn guard(result: &GuardResult) -> String {
    let inputs: Vec<String> = result.inputs.iter().map(|input| format!("{}={}", input.name, input.value)).collect();
    format!("guard {} {} ({})", result.guard.name(), if result.pass { "passes" } else { "refuses" }, inputs.join(", "))
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { report } => match report {
            Report::Assessed(assessment) => format!("{} says {}", assessment.asked, assessment.status),
            Report::Promoted { detail, .. } | Report::Rerouted { detail, .. } | Report::Verified { detail } => {
                detail.clone()
            }
            Report::Announced => "announced".into(),
            Report::Fenced { detail } => detail.clone(),
            Report::FailingOverInRegion => "RDS fails over in the region".into(),
        },
        Outcome::InProgress { detail } => format!("in progress: {detail}"),
        Outcome::Refused { detail } => format!("refused: {detail}"),
        Outcome::Retry { detail } => format!("failed: {detail}"),
        Outcome::Unknown { detail } => format!("unknown: {detail}"),
    }
}
