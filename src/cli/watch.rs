//! `aurora-failover status --watch`: the same, live, and readable at any width: one cluster below the other, and of each
//! what needs a human first.

use super::status::{lags, notes, observed};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain::{self, duration};
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::{DynamoDb, HistoryRow, Item};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use statemachine::{GuardResult, State, Timestamp};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Pause between two looks at the table.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Turns that are shown of a cluster that is not quiet.
const TURNS: usize = 4;

/// Rows that are looked through for them, per cluster.
const ROWS: usize = 30;

/// Width of the names before what is said.
const NAMES: usize = 20;

/// One cluster as it was read.
struct Seen {
    item: Item,
    /// The guards as they were asked last, where it holds.
    asked: Vec<GuardResult>,
    /// The newest turns that moved something, newest first.
    turns: Vec<HistoryRow>,
}

impl Seen {
    fn is_quiet(&self) -> bool {
        let record = &self.item.record;
        record.hold.is_none() && record.state == State::Healthy && notes(record).is_empty()
    }
}

/// What is shown.
#[derive(Default)]
struct View {
    clusters: Vec<Seen>,
    /// Configured, and nothing is stored of them.
    unknown: Vec<String>,
    read_at: Timestamp,
    trouble: Option<String>,
    /// The first line of the fleet that is shown.
    top: usize,
}

/// Shows it until `q`.
pub(super) async fn run(settings: &Settings, store: &DynamoDb) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("--watch needs a terminal; without it use `status` in a loop, or `--output json`");
    }
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let ended = watch(settings, store, &mut terminal).await;
    ratatui::restore();
    ended
}

/// What a key asks for.
enum Key {
    End,
    Scroll(isize),
    Nothing,
}

async fn watch(settings: &Settings, store: &DynamoDb, terminal: &mut ratatui::DefaultTerminal) -> Result<()> {
    let mut view = View::default();
    loop {
        match read(settings, store).await {
            Ok(read) => view = View { top: view.top, ..read },
            // What was read before stays, and says how old it is.
            Err(error) => view.trouble = Some(format!("{error:#}")),
        }
        terminal.draw(|frame| draw(frame, &mut view, clock::now()))?;
        match tokio::task::spawn_blocking(key).await?? {
            Key::End => return Ok(()),
            Key::Scroll(lines) => view.top = view.top.saturating_add_signed(lines),
            Key::Nothing => {}
        }
    }
}

/// Waits for a key, but no longer than until the next look.
fn key() -> Result<Key> {
    if !event::poll(LOOK_EVERY)? {
        return Ok(Key::Nothing);
    }
    let Event::Key(key) = event::read()? else { return Ok(Key::Nothing) };
    let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(match key.code {
        _ if interrupted => Key::End,
        KeyCode::Char('q') | KeyCode::Esc => Key::End,
        KeyCode::Down | KeyCode::Char('j') => Key::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Key::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Key::Scroll(10),
        KeyCode::PageUp => Key::Scroll(-10),
        _ => Key::Nothing,
    })
}

async fn read(settings: &Settings, store: &DynamoDb) -> Result<View> {
    let mut view = View { read_at: clock::now(), ..View::default() };
    for cluster in &settings.clusters {
        let Some(item) = store.read(&cluster.id).await? else {
            view.unknown.push(cluster.id.to_string());
            continue;
        };
        let asked = super::asked(store, &item).await?;
        let rows = store.newest(&cluster.id, ROWS).await?;
        let turns = rows.into_iter().filter(|row| row.from != row.to || !row.guards.is_empty()).take(TURNS).collect();
        view.clusters.push(Seen { item, asked, turns });
    }
    // What needs attention first.
    view.clusters.sort_by_key(|seen| (seen.item.record.hold.is_none(), seen.is_quiet()));
    Ok(view)
}

fn draw(frame: &mut Frame<'_>, view: &mut View, now: Timestamp) {
    let [head, fleet, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let age = duration(now.since_ms(view.read_at));
    let title = match &view.trouble {
        Some(trouble) => Line::styled(format!("{age} old: {trouble}"), Style::new().fg(Color::Red)),
        None => Line::from(format!("aurora-failover, {} (q ends)", clock::rfc3339(now))),
    };
    frame.render_widget(Paragraph::new(title), head);
    let (width, height) = (usize::from(fleet.width), usize::from(fleet.height));
    let mut lines = fleet_lines(view, now, width, false);
    if lines.len() > height {
        lines = fleet_lines(view, now, width, true);
    }
    view.top = view.top.min(lines.len().saturating_sub(height));
    let below = lines.len().saturating_sub(view.top + height);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(view.top).take(height).collect();
    frame.render_widget(Paragraph::new(shown), fleet);
    if below > 0 || view.top > 0 {
        let more = format!("{} above, {below} below: arrow keys", explain::count(view.top, "line"));
        frame.render_widget(Paragraph::new(Line::from(more).style(Style::new().add_modifier(Modifier::DIM))), foot);
    }
}

/// Every cluster below the other; quiet ones in one line where there is no room.
fn fleet_lines(view: &View, now: Timestamp, width: usize, brief: bool) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for seen in &view.clusters {
        if brief && seen.is_quiet() {
            lines.push(Line::from(headline(seen, now)));
        } else {
            lines.extend(cluster_lines(seen, now, width));
        }
    }
    let unknown = view.unknown.iter().map(|id| Line::from(format!("{id}  nothing is stored of it yet")));
    lines.extend(unknown);
    lines
}

fn headline(seen: &Seen, now: Timestamp) -> String {
    let record = &seen.item.record;
    let since = record.state.since().map(|since| format!(" for {}", duration(now.since_ms(since))));
    format!(
        "{}  {}{}  mode {}  primary {}  epoch {}  as of {} ago",
        record.cluster,
        record.state.name(),
        since.unwrap_or_default(),
        record.mode.name(),
        record.primary,
        record.epoch,
        duration(now.since_ms(record.last_now)),
    )
}

fn cluster_lines(seen: &Seen, now: Timestamp, width: usize) -> Vec<Line<'static>> {
    let record = &seen.item.record;
    let bad = Style::new().fg(Color::Red);
    let head = match &record.state {
        _ if record.hold.is_some() => bad,
        State::Healthy => Style::new(),
        _ => Style::new().fg(Color::Yellow),
    };
    let mut lines = Vec::new();
    let mut say = |name: &str, text: &str, style: Style| lines.extend(wrapped(name, text, width, style));
    say("", &headline(seen, now), head.add_modifier(Modifier::BOLD));
    for held in explain::held(record, &seen.asked) {
        say("  HOLDS", &held.why, bad.add_modifier(Modifier::BOLD));
        say("    to go on", &held.release, bad);
    }
    for note in notes(record) {
        say("  note", &note, Style::new().fg(Color::Yellow));
    }
    for vantage in &record.config.policy.vantages {
        let fails =
            record.evidence.tracks.get(vantage).is_none_or(|track| track.isolated || !track.failures.is_empty());
        let style = if fails { Style::new().fg(Color::Yellow) } else { Style::new() };
        // A quiet record is judged as of its own time; what is newer than that is not known here.
        say(&format!("  {vantage}"), &explain::sight(record, vantage, record.last_now), style);
    }
    for lag in lags(record, now) {
        say("  lag", &lag, Style::new());
    }
    let observed = observed(record).collect::<Vec<_>>().join("; ");
    if !observed.is_empty() {
        say("  observed", &observed, Style::new());
    }
    let turns = if seen.is_quiet() { 1 } else { TURNS };
    for (number, row) in seen.turns.iter().take(turns).enumerate() {
        let moved = if row.from == row.to { row.to.clone() } else { format!("{} > {}", row.from, row.to) };
        let ago = duration(now.since_ms(row.at));
        let text = format!("{moved}: {}, {ago} ago (version {})", row.rule.sentence(), row.version);
        say(if number == 0 { "  last" } else { "  " }, &text, Style::new());
    }
    lines.push(Line::default());
    lines
}

/// A name and what is said, broken between words; what follows stands below what is said.
fn wrapped(name: &str, text: &str, width: usize, style: Style) -> Vec<Line<'static>> {
    let indent = if name.is_empty() { 0 } else { NAMES.max(name.chars().count() + 1) };
    let room = width.saturating_sub(indent).max(10);
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        let last = rows.last_mut().expect("there is one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > room {
            rows.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    let line = |(number, row): (usize, String)| {
        let name = if number == 0 { name } else { "" };
        Line::styled(format!("{name:<indent$}{row}"), style)
    };
    rows.into_iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurora_failover::config;
    use aurora_failover::turn::{Before, new_row};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use statemachine::{
        ControllerId, Envelope, Guard, Hold, HoldReason, Input, Lag, Mode, Pause, Record, Sight, Track, step,
    };
    use std::collections::BTreeMap;

    const NOW: Timestamp = Timestamp(1_795_453_200_000);

    fn ago(s: u64) -> Timestamp {
        Timestamp(NOW.0 - s * 1000)
    }

    fn seen(change: impl FnOnce(&mut Record)) -> Seen {
        let example = include_str!("../../aurora-failover.example.toml");
        let settings = config::parse(example, "example", |_| None).expect("the example is valid");
        let config = settings.clusters[0].config.clone();
        let record = Record::new("orders".into(), config.clone(), Mode::Auto, ago(40));
        let before = Before::of(&record);
        let event = statemachine::Event::Configured(statemachine::Configured { config, mode: Mode::Approve });
        let envelope = Envelope { id: "one".into(), at: ago(20), event };
        let mut decision = step(record, &envelope, ago(20));
        change(&mut decision.record);
        let by = ControllerId("controller".into());
        let row = new_row(before, &envelope, &decision, 1, "", ago(20), "d".into(), &by, Vec::new());
        let item = Item { version: 1, decision_id: "d".into(), record: decision.record, row: row.clone() };
        Seen { item, asked: Vec::new(), turns: vec![row] }
    }

    /// A cluster at 3 a.m.: everything that can be said at once.
    fn rich() -> Seen {
        let mut seen = seen(|record| {
            record.state = State::ConfirmedDown { since: ago(125) };
            (record.blind, record.proven, record.exposed) = (false, true, true);
            let vantages = record.config.policy.vantages.clone();
            for (number, vantage) in vantages.into_iter().enumerate() {
                let failing = Track {
                    last_seen: ago(22),
                    failing_since: Some(ago(160)),
                    failures: vec![ago(140), ago(80), ago(22)],
                    last_failure: "timeout".into(),
                    ..Track::default()
                };
                let cut_off = Track { last_seen: ago(23), isolated: true, ..Track::default() };
                record.evidence.tracks.insert(vantage, if number == 1 { cut_off } else { failing });
            }
            let failing =
                Sight { failing_since: Some(ago(100)), last_failure: "status 503".into(), ..Sight::default() };
            let sights = BTreeMap::from([("us-west-2".into(), failing), ("us-east-2".into(), Sight::default())]);
            record.evidence.observed.insert("website".into(), sights);
            record.evidence.lag.insert("us-west-2".into(), Lag { ms: 71_000, at: ago(180) });
            record.evidence.lag.insert("us-east-2".into(), Lag { ms: 7, at: ago(9_000) });
            record.paused =
                Some(Pause { by: "alice on behalf of ticket 4711".into(), reason: "network work".into(), until: NOW });
            record.hold = Some(Hold {
                reason: HoldReason::Guard(Guard::WithinRpo),
                detail: String::new(),
                release: String::new(),
                since: ago(120),
                deadline: NOW,
            });
        });
        let input = |name: &'static str, value: &str| Input { name: name.into(), value: value.into() };
        let rpo = vec![input("lag_and_age_ms", "91000"), input("rpo_max_ms", "30000")];
        let nobody = ["mode", "by", "people", "needed"].into_iter().zip(["approve", "nobody", "0", "1"]);
        let refused = |guard, inputs| GuardResult { guard, pass: false, inputs };
        let nobody = nobody.map(|(name, value)| input(name, value)).collect();
        seen.asked = vec![refused(Guard::WithinRpo, rpo), refused(Guard::Approved, nobody)];
        seen
    }

    fn screen(width: u16, height: u16, mut view: View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, &mut view, NOW)).expect("drawn");
        let lines = terminal.backend().to_string();
        lines.lines().map(|line| line.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn it_shows_the_fleet_and_how_old_what_it_shows_is() {
        let trouble = Some("no answer".to_owned());
        let view = View { clusters: vec![seen(|_| {})], read_at: ago(7), trouble, ..View::default() };
        let screen = screen(160, 12, view);
        for text in ["7 s old: no answer", "orders", "healthy", "approve", "us-east-2", "last", "unproven"] {
            assert!(screen.contains(text), "{text} is missing in:\n{screen}");
        }
    }

    #[test]
    fn nothing_vanishes_at_any_width() {
        for width in [80, 120, 200] {
            let view = View { clusters: vec![rich()], read_at: NOW, ..View::default() };
            let screen = screen(width, 30, view);
            let flat = screen.split_whitespace().collect::<Vec<_>>().join(" ");
            for text in [
                "HOLDS up to 1 min 31 s of writes would be lost",
                "to go on aurora-failover override orders approve --allow-data-loss --reason \"…\"",
                "nobody has approved it yet",
                "failed 3 times over 2 min 18 s, last by timeout",
                "cut off itself",
                "us-west-2: 1 min 11 s, 3 min ago",
                "website: fails for 1 of 2 (status 503)",
                "paused by alice on behalf of ticket 4711",
            ] {
                assert!(flat.contains(text), "{text} is missing at {width}:\n{screen}");
            }
            assert!(!flat.contains("us-east-2: 7 ms"), "the primary's own lag is old news:\n{screen}");
            insta::with_settings!({ snapshot_path => "../../tests/snapshots", prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(format!("status-watch-{width}"), screen);
            });
        }
    }

    #[test]
    fn what_does_not_fit_is_brief_where_it_is_quiet_and_can_be_scrolled_to() {
        let quiet = || seen(|record| (record.blind, record.proven) = (false, true));
        let clusters = [rich()].into_iter().chain(std::iter::repeat_with(quiet).take(30)).collect();
        let view = View { clusters, read_at: NOW, ..View::default() };
        let shown = screen(100, 24, View { top: 0, ..view });
        assert!(shown.contains("HOLDS") && shown.contains("below: arrow keys"), "{shown}");
        let clusters = std::iter::repeat_with(quiet).take(30).collect();
        let view = View { clusters, read_at: NOW, top: 1_000, ..View::default() };
        assert!(screen(100, 24, view).contains("0 below"));
    }
}
