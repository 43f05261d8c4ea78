//! The live table of `run` on a terminal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api_agent::AgentApi;
use agent_api_model::{AgentInfo, ObjectName, ObjectView, Timestamp, WatchEvent, WatchRequest};
use futures_util::StreamExt;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};
use tokio::sync::watch;

use crate::output::{Style, age, note, phase_style};

/// How often the table is drawn anew at most, and keys are looked at.
const FRAME: Duration = Duration::from_millis(200);

/// What is shown.
#[derive(Default)]
struct Shown {
    objects: BTreeMap<ObjectName, Arc<ObjectView>>,
    top: usize,
    stopping: u32,
}

enum Key {
    Stop,
    Up,
    Down,
    PageUp,
    PageDown,
    Other,
}

/// Shows the table until the agent has ended. Ctrl-C and `q` ask it to stop; the second time it is forced.
///
/// A terminal that cannot be drawn on is left alone; the agent runs on without a table.
pub(crate) async fn show(
    api: Arc<dyn AgentApi>,
    stop: &watch::Sender<u32>,
    log_file: Option<&Path>,
    running: impl Fn() -> bool,
) {
    let Ok(mut terminal) = ratatui::try_init() else {
        eprintln!("no live table on this terminal");
        return;
    };
    let mut shown = Shown::default();
    let mut events = api.watch(&WatchRequest::default()).ok();
    let mut tick = tokio::time::interval(FRAME);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while running() {
        tokio::select! {
            event = next(&mut events) => match event {
                Some(event) => shown.take(event),
                None => events = None,
            },
            _ = tick.tick() => {
                while let Some(key) = pressed() {
                    shown.press(&key, stop, terminal.size().map_or(1, |size| usize::from(size.height)));
                }
                let info = api.info();
                if terminal.draw(|frame| shown.draw(frame, &info, log_file)).is_err() {
                    break;
                }
            }
        }
    }
    ratatui::restore();
}

async fn next(events: &mut Option<agent_api_agent::ResultStream<WatchEvent>>) -> Option<WatchEvent> {
    match events {
        Some(events) => events.next().await.and_then(Result::ok),
        None => std::future::pending().await,
    }
}

/// The next key, without waiting.
fn pressed() -> Option<Key> {
    if !event::poll(Duration::ZERO).unwrap_or(false) {
        return None;
    }
    let Ok(Event::Key(key)) = event::read() else {
        return Some(Key::Other);
    };
    if key.kind == KeyEventKind::Release {
        return Some(Key::Other);
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Stop,
        KeyCode::Char('q') => Key::Stop,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Key::PageDown,
        _ => Key::Other,
    })
}

impl Shown {
    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Changed(view) => {
                self.objects.insert(view.name.clone(), view);
            }
            WatchEvent::Deleted { name, .. } => {
                self.objects.remove(&name);
            }
            // The current views follow; what is gone is not among them.
            WatchEvent::Gap { .. } => self.objects.clear(),
            WatchEvent::Synced => {}
        }
    }

    fn press(&mut self, key: &Key, stop: &watch::Sender<u32>, page: usize) {
        let last = self.objects.len().saturating_sub(1);
        match key {
            Key::Stop => {
                self.stopping += 1;
                stop.send_modify(|count| *count += 1);
            }
            Key::Up => self.top = self.top.saturating_sub(1),
            Key::Down => self.top = (self.top + 1).min(last),
            Key::PageUp => self.top = self.top.saturating_sub(page),
            Key::PageDown => self.top = (self.top + page).min(last),
            Key::Other => {}
        }
    }

    fn draw(&self, frame: &mut Frame<'_>, info: &AgentInfo, log_file: Option<&Path>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)])
                .areas(frame.area());
        let now = Timestamp::now();
        let state = if self.stopping > 0 || info.health.draining {
            "stopping"
        } else {
            "ready"
        };
        let counts: Vec<_> = info
            .objects
            .iter()
            .map(|(phase, count)| format!("{count} {phase}"))
            .collect();
        let title = format!(
            "agent {}  {state} for {}  {} objects: {}",
            info.agent,
            age(now.since(info.started)),
            self.objects.len(),
            counts.join(", ")
        );
        frame.render_widget(
            Line::from(title).style(Look::new().add_modifier(Modifier::BOLD)),
            head,
        );

        let header =
            Row::new(["NAME", "KIND", "PHASE", "RESTARTS", "AGE"]).style(Look::new().fg(Color::DarkGray));
        let visible = usize::from(body.height.saturating_sub(1));
        let rows = self
            .objects
            .values()
            .skip(self.top)
            .take(visible)
            .map(|view| row(view, now));
        let widths = [
            Constraint::Length(self.width()),
            Constraint::Length(20),
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        frame.render_widget(Table::new(rows, widths).header(header).column_spacing(2), body);

        let log = log_file.map_or_else(String::new, |file| format!("   log: {}", file.display()));
        let keys = if self.stopping > 0 {
            "Ctrl-C again forces"
        } else {
            "Ctrl-C stops the agent"
        };
        frame.render_widget(
            Line::from(format!("{keys}   ↑↓ scroll{log}")).style(Look::new().fg(Color::DarkGray)),
            foot,
        );
    }

    fn width(&self) -> u16 {
        let widest = self
            .objects
            .keys()
            .map(|name| name.as_str().len())
            .max()
            .unwrap_or(0);
        u16::try_from(widest.clamp(8, 40)).unwrap_or(40)
    }
}

fn row(view: &ObjectView, now: Timestamp) -> Row<'static> {
    let phase = match note(view, now) {
        Some(note) => format!("{} ({note})", view.phase),
        None => view.phase.to_string(),
    };
    let color = match phase_style(view) {
        Style::Good => Color::Green,
        Style::Busy => Color::Yellow,
        Style::Bad => Color::Red,
        Style::Plain | Style::Faint => Color::Reset,
    };
    Row::new(vec![
        Cell::from(view.name.to_string()),
        Cell::from(view.kind.to_string()),
        Cell::from(crate::failure::printable(&phase).replace('\n', " ")).style(Look::new().fg(color)),
        Cell::from(view.restarts.to_string()),
        Cell::from(age(now.since(view.created))),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    #[test]
    fn draws_objects_and_keeps_to_the_screen() {
        let mut shown = Shown::default();
        for i in 0..30 {
            let view: ObjectView = serde_json::from_value(json!({
                "guid": "00000000-0000-0000-0000-000000000000", "name": format!("object-{i:02}"), "kind": "process",
                "phase": if i == 1 { "Failed" } else { "Running" },
                "since": "2026-01-01T00:00:00Z", "created": "2026-01-01T00:00:00Z",
                "generation": 1, "observed_generation": 1,
                "evidence": {"source": "event", "at": "2026-01-01T00:00:00Z", "revision": 1},
            }))
            .unwrap();
            shown.take(WatchEvent::Changed(Arc::new(view)));
        }
        let info: AgentInfo = serde_json::from_value(json!({
            "agent": "a1", "version": "0.1.0", "pid": 1, "started": "2026-01-01T00:00:00Z",
            "health": {"ready": true, "live": true, "draining": false}, "tasks": {}, "objects": {"Running": 29, "Failed": 1},
            "drivers": [], "buses": [], "queues": {}, "journal": serde_json::to_value(agent_api_model::JournalInfo::default()).unwrap(),
        }))
        .unwrap();
        let mut terminal = Terminal::new(TestBackend::new(80, 10)).unwrap();
        terminal.draw(|frame| shown.draw(frame, &info, None)).unwrap();
        let text = terminal.backend().to_string();
        assert!(
            text.contains("agent a1  ready") && text.contains("29 Running, 1 Failed"),
            "{text}"
        );
        assert!(
            text.contains("object-00") && text.contains("object-05") && !text.contains("object-08"),
            "{text}"
        );

        let (stop, stopping) = watch::channel(0);
        shown.press(&Key::PageDown, &stop, 10);
        shown.press(&Key::Stop, &stop, 10);
        terminal.draw(|frame| shown.draw(frame, &info, None)).unwrap();
        let text = terminal.backend().to_string();
        assert!(
            text.contains("object-10") && text.contains("Ctrl-C again forces"),
            "{text}"
        );
        assert_eq!(*stopping.borrow(), 1);
    }
}
