//! Objects in a table.

use std::time::Duration;

use agent_api_model::{EvidenceSource, HealthState, ObjectView, Phase, Timestamp};

use super::table::{Cell, Style, Table};

/// A driver call that takes longer than this is told as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The table of `get`.
pub(crate) fn object_table<'a>(
    views: impl IntoIterator<Item = &'a ObjectView>,
    now: Timestamp,
    wide: bool,
    header: bool,
) -> Table {
    let columns: &[&str] = match (header, wide) {
        (false, _) => &["", "", "", "", "", "", "", "", "", "", ""],
        (true, false) => &["NAME", "KIND", "PHASE", "RESTARTS", "AGE"],
        (true, true) => &[
            "NAME",
            "KIND",
            "PHASE",
            "RESTARTS",
            "AGE",
            "HEALTH",
            "PID",
            "GENERATION",
            "EVIDENCE",
            "ADOPTED",
            "GUID",
        ],
    };
    let mut table = Table::new(columns);
    for view in views {
        table.row(row(view, now, wide));
    }
    table
}

fn row(view: &ObjectView, now: Timestamp, wide: bool) -> Vec<Cell> {
    let phase = match note(view, now) {
        Some(note) => format!("{} ({note})", view.phase),
        None => view.phase.to_string(),
    };
    let mut cells = vec![
        view.name.to_string().into(),
        view.kind.to_string().into(),
        Cell::styled(phase, phase_style(view)),
        view.restarts.to_string().into(),
        age(now.since(view.created)).into(),
    ];
    if wide {
        let source = match view.evidence.source {
            EvidenceSource::Event => "event",
            EvidenceSource::Poll => "poll",
            EvidenceSource::Inferred => "inferred",
            _ => "?",
        };
        cells.extend([
            health(view).unwrap_or("-").into(),
            view.details
                .get("pid")
                .map_or_else(|| "-".into(), ToString::to_string)
                .into(),
            format!("{}/{}", view.observed_generation, view.generation).into(),
            Cell::from(format!("{source}, {} ago", age(now.since(view.evidence.at)))),
            if view.adopted { "yes" } else { "-" }.into(),
            view.guid.to_string().into(),
        ]);
    }
    cells
}

fn health(view: &ObjectView) -> Option<&'static str> {
    view.health.map(|health| match health {
        HealthState::Starting => "starting",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    })
}

/// What a person should know of an object beside its phase.
pub(crate) fn note(view: &ObjectView, now: Timestamp) -> Option<String> {
    if let Some(operation) = &view.operation {
        let since = now.since(operation.since);
        if since >= STUCK_AFTER {
            return Some(format!("{} stuck for {}", operation.verb, age(since)));
        }
        if let Some(error) = &operation.last_error {
            return Some(format!(
                "{} try {}: {}",
                operation.verb,
                operation.retries + 1,
                short(error)
            ));
        }
    }
    for kind in ["BackOff", "Waiting"] {
        if let Some(condition) = view
            .conditions
            .iter()
            .find(|condition| condition.kind == kind && condition.status)
        {
            let text = if condition.message.is_empty() {
                &condition.reason
            } else {
                &condition.message
            };
            return Some(short(&relative(text, now)));
        }
    }
    match view.phase {
        Phase::Unknown => return Some(format!("for {}", age(now.since(view.since)))),
        Phase::Failed | Phase::Succeeded => {
            if let Some(exit) = &view.exit {
                return Some(short(&exit.to_string()));
            }
        }
        _ => {}
    }
    if view.health == Some(HealthState::Unhealthy) {
        return Some("unhealthy".into());
    }
    view.adopted.then(|| "adopted".into())
}

/// How an object's phase stands out.
pub(crate) fn phase_style(view: &ObjectView) -> Style {
    match view.phase {
        Phase::Failed | Phase::Unknown => Style::Bad,
        _ if view.health == Some(HealthState::Unhealthy) => Style::Bad,
        Phase::Running | Phase::Succeeded => Style::Good,
        Phase::Paused | Phase::Pending | Phase::Creating | Phase::Updating | Phase::Deleting => Style::Busy,
    }
}

/// The text with moments told as lengths of time from now: a person wants to know how long.
fn relative(text: &str, now: Timestamp) -> String {
    let words = text.split(' ').collect::<Vec<_>>();
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        let moment = (word.len() > 19 && word.contains('T')).then(|| word.trim_end_matches([',', ';', '.']));
        match moment.and_then(|text| text.parse::<Timestamp>().ok()) {
            Some(at) => {
                if out.last().is_some_and(|last| last == "at") {
                    out.pop();
                }
                out.push(match at > now {
                    true => format!("in {}", age(at.since(now) + Duration::from_millis(500))),
                    false => "now".into(),
                });
            }
            None => out.push(word.to_owned()),
        }
    }
    out.join(" ")
}

fn short(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// A length of time in its two greatest units.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use agent_api_model::{
        Condition, Evidence, ExitStatus, Guid, Kind, ObjectName, OpId, OperationView, ResourcesView, Verb,
    };
    use serde_json::json;

    use super::*;

    pub(in crate::output) const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

    pub(in crate::output) fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_micros(NOW.as_micros() - seconds * 1_000_000)
    }

    pub(in crate::output) fn view(name: &str, phase: Phase, born: i64) -> ObjectView {
        ObjectView {
            guid: Guid(Default::default()),
            name: ObjectName::new(name).unwrap(),
            kind: Kind::new("process").unwrap(),
            labels: Arc::default(),
            phase,
            since: ago(born),
            created: ago(born),
            generation: 1,
            observed_generation: 1,
            evidence: Evidence {
                source: EvidenceSource::Event,
                at: ago(born),
                revision: 1,
            },
            resources: ResourcesView::default(),
            conditions: vec![],
            details: json!({"pid": 4711}),
            restarts: 0,
            exit: None,
            health: None,
            operation: None,
            adopted: false,
        }
    }

    fn condition(kind: &str, message: &str) -> Condition {
        Condition {
            kind: kind.into(),
            status: true,
            reason: "Reason".into(),
            message: message.into(),
            since: ago(1),
        }
    }

    #[test]
    fn tables_say_what_a_person_should_know() {
        let operation = |seconds, retries, error: Option<&str>| {
            Some(OperationView {
                op_id: OpId(Default::default()),
                verb: Verb::Create,
                since: ago(seconds),
                retries,
                last_error: error.map(str::to_owned),
            })
        };
        let mut views = vec![
            view("web", Phase::Running, 75),
            view("adopted", Phase::Running, 4_000),
            view("crash-looper", Phase::Pending, 12),
            view("late", Phase::Pending, 3),
            view("stuck", Phase::Creating, 90),
            view("again", Phase::Creating, 2),
            view("held", Phase::Paused, 100_000),
            view("done", Phase::Succeeded, 5),
            view("broken", Phase::Failed, 5),
            view("lost", Phase::Unknown, 61),
            view("ill", Phase::Running, 30),
        ];
        views[1].adopted = true;
        views[2]
            .conditions
            .push(condition("BackOff", "restart 4 in 800 ms"));
        views[2].restarts = 3;
        views[3].conditions.push(condition("Waiting", "waits for web"));
        views[4].operation = operation(90, 0, None);
        views[5].operation = operation(2, 1, Some("no answer"));
        views[7].exit = Some(ExitStatus {
            code: Some(0),
            ..Default::default()
        });
        views[8].exit = Some(ExitStatus {
            signal: Some("SIGKILL".into()),
            reason: Some("oom-killed".into()),
            ..Default::default()
        });
        views[10].health = Some(HealthState::Unhealthy);
        insta::assert_snapshot!("get", object_table(&views, NOW, false, true).render(false));
        insta::assert_snapshot!("get-wide", object_table(&views, NOW, true, true).render(false));
        let coloured = object_table(&views[..1], NOW, false, true).render(true);
        assert!(coloured.contains("\x1b[32mRunning\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn hostile_text_cannot_steer_the_terminal() {
        let mut hostile = view("web", Phase::Pending, 1);
        hostile
            .conditions
            .push(condition("Waiting", "\x1b]0;owned\x07\nNAME"));
        let text = object_table([&hostile], NOW, false, true).render(false);
        assert!(!text.contains('\x1b') && text.lines().count() == 2, "{text:?}");
    }

    #[test]
    fn moments_are_told_from_now() {
        let text = format!("exited with code 3; restart 3 at {}", ago(-4));
        assert_eq!(relative(&text, NOW), "exited with code 3; restart 3 in 4s");
        assert_eq!(
            relative(&format!("restart 3 at {}", ago(1)), NOW),
            "restart 3 now"
        );
        assert_eq!(relative("waits for THAT", NOW), "waits for THAT");
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m1s"),
            (3_661, "1h1m"),
            (90_000, "1d1h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
