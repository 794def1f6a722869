//! A drill's result as one HTML file that needs nothing else: what clients saw, with the states as coloured bands.

use crate::drill::{DrillResult, SLICE_MS, Slice};
use anyhow::{Result, anyhow};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;
use std::collections::BTreeSet;

/// Size of each chart, in pixels.
const SIZE: (u32, u32) = (960, 260);

/// The states that have a band, and their colours; `healthy` is white.
const STATES: [(&str, RGBColor); 5] = [
    ("suspect", RGBColor(240, 180, 0)),
    ("confirmed-down", RGBColor(220, 60, 40)),
    ("promoting", RGBColor(150, 60, 200)),
    ("rerouting", RGBColor(40, 110, 220)),
    ("stable", RGBColor(30, 160, 90)),
];

/// Measurements further apart than this are not joined by a line, in seconds.
const KNOWN_WITHIN_S: f64 = 1.0;

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: #0a7d33; } .failed { color: #c0262d; }
.legend span { margin-right: 1rem; } .legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
svg { width: 100%; height: auto; background: #fff; }
";

/// The page.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(result: &DrillResult) -> Result<String> {
    let rates = chart(
        "statements per second",
        result,
        &[
            ("acknowledged writes", GREEN, |s| per_second(s.acknowledged)),
            ("reads", CYAN, |s| per_second(s.reads)),
            ("failed", RED, |s| per_second(s.failed)),
        ],
    )?;
    let latency =
        chart("slowest write of each fifth of a second, in ms", result, &[("latency", BLUE, |s| s.slowest_ms)])?;
    let lag = lag_chart(result)?;
    let known = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    let facts: [(&str, String); 8] = [
        ("client write outage, ms", known(result.outage_ms)),
        ("longest gap of writes, ms", result.longest_gap_ms.to_string()),
        ("acknowledged writes", result.acknowledged_writes.to_string()),
        ("lost writes", known(result.lost_writes)),
        ("loss by heartbeats, ms", known(result.rpo_heartbeat_ms)),
        ("failed attempts", result.failed_attempts.to_string()),
        ("accepted failover calls", result.failover_calls.to_string()),
        ("accepted switchover calls", result.switchover_calls.to_string()),
    ];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "aurora-failover drill: " (result.scenario) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (result.scenario) }
                p { (result.about) }
                p { strong class=(if result.passed() { "passed" } else { "failed" }) { (if result.passed() { "passed" } else { "FAILED" }) } }
                @for problem in &result.problems { p class="failed" { (problem) } }
                h2 { "What the application saw" }
                (PreEscaped(rates)) (PreEscaped(latency)) (PreEscaped(lag))
                p class="legend" {
                    "The bands are the states of the record; 0 is the first fault. "
                    @for (name, colour) in STATES {
                        span { i style=(format!("background: {}", css(colour, 0.4))) {} (name) } " "
                    }
                }
                h2 { "Figures" }
                table { @for (name, value) in &facts { tr { th { (name) } td class="number" { (value) } } } }
                h2 { "Timeline" }
                (timeline(result))
            }
        }
    };
    Ok(page.into_string())
}

fn timeline(result: &DrillResult) -> Markup {
    html! {
        table {
            tr { th { "seconds since the fault" } th { "state" } th { "event" } }
            @for moment in &result.timeline {
                tr {
                    td class="number" { (format!("{:.3}", moment.at_ms as f64 / 1000.0)) }
                    td { (moment.state.as_deref().unwrap_or_default()) }
                    td { (moment.what) }
                }
            }
        }
    }
}

fn per_second(count: u64) -> f64 {
    count as f64 * 1000.0 / SLICE_MS as f64
}

type Line = (&'static str, RGBColor, fn(&Slice) -> f64);

/// What the application saw.
fn chart(title: &str, result: &DrillResult, lines: &[Line]) -> Result<String> {
    let points = |value: fn(&Slice) -> f64| {
        result.series.iter().map(move |slice| (slice.at_ms as f64 / 1000.0, value(slice))).collect()
    };
    let lines = lines.iter().map(|(name, colour, value)| ((*name).to_owned(), *colour, points(*value)));
    draw(title, result, &lines.collect::<Vec<_>>())
}

/// How far the regions were behind.
fn lag_chart(result: &DrillResult) -> Result<String> {
    let regions: BTreeSet<&str> = result.lag.iter().map(|moment| moment.region.as_str()).collect();
    let line = |(region, colour): (&str, RGBColor)| {
        let own = result.lag.iter().filter(|moment| moment.region == region);
        let points = own.map(|moment| (moment.at_ms as f64 / 1000.0, moment.lag_ms as f64)).collect();
        (region.to_owned(), colour, points)
    };
    let lines: Vec<_> = regions.into_iter().zip([BLUE, MAGENTA]).map(line).collect();
    draw("replication lag of the regions that follow, in ms", result, &lines)
}

/// Points in seconds and whatever the title says.
type Drawn = (String, RGBColor, Vec<(f64, f64)>);

/// The states as bands, and the lines over them.
fn draw(title: &str, result: &DrillResult, lines: &[Drawn]) -> Result<String> {
    let mut svg = String::new();
    {
        let failed = |error: String| anyhow!("drawing {title}: {error}");
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
        let seconds = |slice: &Slice| slice.at_ms as f64 / 1000.0;
        let from = result.series.first().map_or(0.0, seconds);
        let to = result.series.last().map_or(1.0, seconds).max(from + 1.0);
        let values = lines.iter().flat_map(|(.., points)| points).map(|(_, value)| *value);
        let most = values.fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(from..to, 0.0..most)
            .map_err(|error| failed(error.to_string()))?;
        let mesh = chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_desc("seconds since the first fault")
            .draw();
        mesh.map_err(|error| failed(error.to_string()))?;
        for (_, colour, began, ended) in bands(result, from, to) {
            let band = Rectangle::new([(began, 0.0), (ended, most)], colour.mix(0.18).filled());
            chart.draw_series([band]).map_err(|error| failed(error.to_string()))?;
        }
        for (_, colour, points) in lines {
            let shown: Vec<(f64, f64)> = points.iter().copied().filter(|(at, _)| (from..=to).contains(at)).collect();
            // Where nothing is known there is no line.
            for part in shown.chunk_by(|(earlier, _), (later, _)| later - earlier <= KNOWN_WITHIN_S) {
                let drawn = chart.draw_series(LineSeries::new(part.iter().copied(), colour.stroke_width(2)));
                drawn.map_err(|error| failed(error.to_string()))?;
            }
        }
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    let shown = lines.iter().filter(|(.., points)| !points.is_empty());
    let legend = html! {
        p class="legend" {
            @for (name, colour, _) in shown {
                span { i style=(format!("background: {}", css(*colour, 1.0))) {} (name) } " "
            }
        }
    };
    Ok(svg + &legend.into_string())
}

fn css(colour: RGBColor, opacity: f64) -> String {
    format!("rgb({} {} {} / {opacity})", colour.0, colour.1, colour.2)
}

/// Each state with its colour, and when it began and ended.
fn bands(result: &DrillResult, from: f64, to: f64) -> Vec<(&'static str, RGBColor, f64, f64)> {
    let moved: Vec<(f64, &str)> = result
        .timeline
        .iter()
        .filter_map(|moment| Some((moment.at_ms as f64 / 1000.0, moment.state.as_deref()?)))
        .collect();
    let ends = moved.iter().skip(1).map(|(at, _)| *at).chain([to]);
    let spans = moved.iter().zip(ends);
    let band = |((began, state), ended): (&(f64, &str), f64)| {
        let (name, colour) = STATES.into_iter().find(|(name, _)| name == state)?;
        Some((name, colour, began.max(from), ended.min(to)))
    };
    spans.filter_map(band).collect()
}
