//! `aurora-failover status --watch`: the same, live.

use super::status::{HEADER, cells};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::explain;
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::{DynamoDb, HistoryRow, Item};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};
use statemachine::{State, Timestamp};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Pause between two looks at the table.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Newest turns that are shown.
const TURNS: usize = 8;

/// Rows that are looked through for them, per cluster.
const ROWS: usize = 30;

/// What is shown.
#[derive(Default)]
struct View {
    items: Vec<Item>,
    turns: Vec<HistoryRow>,
    read_at: Timestamp,
    trouble: Option<String>,
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

async fn watch(settings: &Settings, store: &DynamoDb, terminal: &mut ratatui::DefaultTerminal) -> Result<()> {
    let mut view = View::default();
    loop {
        match read(settings, store).await {
            Ok(read) => view = read,
            // What was read before stays, and says how old it is.
            Err(error) => view.trouble = Some(format!("{error:#}")),
        }
        terminal.draw(|frame| draw(frame, &view, clock::now()))?;
        let ended = tokio::task::spawn_blocking(|| -> Result<bool> {
            if !event::poll(LOOK_EVERY)? {
                return Ok(false);
            }
            Ok(match event::read()? {
                Event::Key(key) => {
                    let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
                }
                _ => false,
            })
        });
        if ended.await?? {
            return Ok(());
        }
    }
}

async fn read(settings: &Settings, store: &DynamoDb) -> Result<View> {
    let mut view = View { read_at: clock::now(), ..View::default() };
    for cluster in &settings.clusters {
        view.items.extend(store.read(&cluster.id).await?);
        let rows = store.newest(&cluster.id, ROWS).await?;
        view.turns.extend(rows.into_iter().filter(|row| row.from != row.to || !row.guards.is_empty()));
    }
    // What needs attention first.
    view.items.sort_by_key(|item| (item.record.hold.is_none(), item.record.state == State::Healthy));
    view.turns.sort_by_key(|row| std::cmp::Reverse(row.at));
    view.turns.truncate(TURNS);
    Ok(view)
}

fn draw(frame: &mut Frame<'_>, view: &View, now: Timestamp) {
    let turns_height = u16::try_from(view.turns.len()).unwrap_or(0) + 2;
    let [head, fleet, turns] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(turns_height)])
            .areas(frame.area());
    let age_s = now.since_ms(view.read_at) / 1000;
    let title = match &view.trouble {
        Some(trouble) => Line::styled(format!("{age_s} s old: {trouble}"), Style::new().fg(Color::Red)),
        None => Line::from(format!("aurora-failover, {} (q ends)", clock::rfc3339(now))),
    };
    frame.render_widget(Paragraph::new(title), head);
    let rows = view.items.iter().map(|item| {
        let cells = cells(item, now);
        let height = cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(1);
        let style = match &item.record.state {
            _ if item.record.hold.is_some() => Style::new().fg(Color::Red),
            State::Healthy => Style::new(),
            _ => Style::new().fg(Color::Yellow),
        };
        let cells = cells.into_iter().map(|cell| Cell::from(Text::from(cell)));
        Row::new(cells).height(u16::try_from(height).unwrap_or(1).max(1)).style(style)
    });
    let fixed = [12, 15, 24, 8, 14, 6].map(Constraint::Length);
    let widths = fixed.into_iter().chain([2, 2, 2, 3].map(Constraint::Fill));
    let header = Row::new(HEADER).style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(header), fleet);
    let lines = view.turns.iter().map(|row| {
        let guards = row.guards.iter().filter(|guard| !guard.pass).map(explain::guard).collect::<Vec<_>>().join("; ");
        Line::from(format!(
            "{} {} {} > {}: {} {guards}",
            clock::rfc3339(row.at),
            row.cluster,
            row.from,
            row.to,
            row.rule.sentence()
        ))
    });
    let lines = Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: true });
    frame.render_widget(lines.block(Block::bordered().title("last turns")), turns);
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurora_failover::config;
    use aurora_failover::turn::{Before, new_row};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use statemachine::{ControllerId, Envelope, Mode, Record, step};

    #[test]
    fn it_shows_the_fleet_and_how_old_what_it_shows_is() {
        let example = include_str!("../../aurora-failover.example.toml");
        let settings = config::parse(example, "example", |_| None).expect("the example is valid");
        let now = Timestamp(1_795_453_200_000);
        let config = settings.clusters[0].config.clone();
        let record = Record::new("orders".into(), config.clone(), Mode::Auto, now);
        let before = Before::of(&record);
        let event = statemachine::Event::Configured(statemachine::Configured { config, mode: Mode::Observe });
        let envelope = Envelope { id: "one".into(), at: now, event };
        let decision = step(record, &envelope, now);
        let by = ControllerId("controller".into());
        let row = new_row(before, &envelope, &decision, 1, "", now, "d".into(), &by, Vec::new());
        let item = Item { version: 1, decision_id: "d".into(), record: decision.record, row: row.clone() };
        let trouble = Some("no answer".to_owned());
        let view = View { items: vec![item], turns: vec![row], read_at: now, trouble };
        let mut terminal = Terminal::new(TestBackend::new(160, 12)).expect("a screen");
        terminal.draw(|frame| draw(frame, &view, now.plus_ms(7_000))).expect("drawn");
        let screen = terminal.backend().to_string();
        for text in ["7 s old: no answer", "orders", "healthy", "observe", "us-east-2", "last turns", "unproven"] {
            assert!(screen.contains(text), "{text} is missing in:\n{screen}");
        }
    }
}
