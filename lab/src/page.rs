//! A drill's result as one HTML file that needs nothing else: what clients saw, with the states as coloured bands.

use crate::drill::{DrillResult, SLICE_MS, Slice};
use anyhow::{Result, anyhow};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;

/// Size of each chart, in pixels.
const SIZE: (u32, u32) = (960, 260);

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: #0a7d33; } .failed { color: #c0262d; }
svg { width: 100%; height: auto; background: #fff; }
";

/// The page.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(result: &DrillResult) -> Result<String> {
    let rates = chart(
        "writes per second",
        result,
        &[("acknowledged", GREEN, |s| per_second(s.acknowledged)), ("failed", RED, |s| per_second(s.failed))],
    )?;
    let latency =
        chart("slowest write of each fifth of a second, in ms", result, &[("latency", BLUE, |s| s.slowest_ms)])?;
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
                (PreEscaped(rates)) (PreEscaped(latency))
                p { "The bands are the states of the record; 0 is the first fault." }
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

/// The states as bands, and the lines over them.
fn chart(title: &str, result: &DrillResult, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let failed = |error: String| anyhow!("drawing {title}: {error}");
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
        let seconds = |slice: &Slice| slice.at_ms as f64 / 1000.0;
        let from = result.series.first().map_or(0.0, seconds);
        let to = result.series.last().map_or(1.0, seconds).max(from + 1.0);
        let most = lines.iter().flat_map(|(_, _, value)| result.series.iter().map(value)).fold(1.0, f64::max) * 1.1;
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
        for (name, colour, began, ended) in bands(result, from, to) {
            let band = Rectangle::new([(began, 0.0), (ended, most)], colour.mix(0.18).filled());
            let drawn = chart.draw_series([band]).map_err(|error| failed(error.to_string()))?;
            drawn
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.mix(0.5).filled()));
        }
        for (name, colour, value) in lines {
            let points = result.series.iter().map(|slice| (seconds(slice), value(slice)));
            let drawn = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)));
            let colour = *colour;
            drawn
                .map_err(|error| failed(error.to_string()))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 10, y)], colour.stroke_width(2)));
        }
        let labels = chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw();
        labels.map_err(|error| failed(error.to_string()))?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    Ok(svg)
}

/// Each state with its colour, and when it began and ended; `healthy` is white.
fn bands(result: &DrillResult, from: f64, to: f64) -> Vec<(&'static str, RGBColor, f64, f64)> {
    const STATES: [(&str, RGBColor); 5] = [
        ("suspect", RGBColor(240, 180, 0)),
        ("confirmed-down", RGBColor(220, 60, 40)),
        ("promoting", RGBColor(150, 60, 200)),
        ("rerouting", RGBColor(40, 110, 220)),
        ("stable", RGBColor(30, 160, 90)),
    ];
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
