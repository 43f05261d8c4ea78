//! Objects, drivers and the agent in full.

use std::fmt::Write as _;

use agent_api_model::{
    AgentInfo, Description, DriverState, DriverView, Enforcement, Explanation, ObjectView, Timestamp,
    Transition,
};
use serde_json::Value;

use super::objects::age;
use super::table::{Cell, Style, Table};
use super::yaml;

/// The text of `describe`.
pub(crate) fn describe(description: &Description, now: Timestamp) -> String {
    let view = &description.view;
    let mut text = head(view, now);
    if !description.methods.is_empty() {
        let methods: Vec<_> = description.methods.iter().map(|verb| verb.as_str()).collect();
        field(&mut text, "Methods", methods.join(", "));
    }
    list(
        &mut text,
        "Calls",
        description
            .calls
            .iter()
            .map(|(name, method)| (name.clone(), method.summary.clone())),
    );
    text += "Spec:\n";
    text += &indented(&yaml(&*description.spec));
    crate::failure::printable(&text)
}

fn head(view: &ObjectView, now: Timestamp) -> String {
    let mut text = String::new();
    field(&mut text, "Name", &view.name);
    field(&mut text, "Kind", &view.kind);
    field(&mut text, "GUID", view.guid);
    if !view.labels.is_empty() {
        let labels: Vec<_> = view
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        field(&mut text, "Labels", labels.join(", "));
    }
    field(
        &mut text,
        "Phase",
        format!("{}, for {}", view.phase, age(now.since(view.since))),
    );
    field(
        &mut text,
        "Evidence",
        format!(
            "{}, {} ago, revision {}",
            word(&view.evidence.source),
            age(now.since(view.evidence.at)),
            view.evidence.revision
        ),
    );
    field(
        &mut text,
        "Created",
        format!("{} ({} ago)", view.created, age(now.since(view.created))),
    );
    field(
        &mut text,
        "Generation",
        format!("{}, applied {}", view.generation, view.observed_generation),
    );
    field(&mut text, "Restarts", view.restarts);
    if let Some(exit) = &view.exit {
        let when = exit
            .at
            .map_or_else(String::new, |at| format!(", {} ago", age(now.since(at))));
        field(&mut text, "Last exit", format!("{exit}{when}"));
    }
    if let Some(health) = &view.health {
        field(&mut text, "Health", word(health));
    }
    if view.adopted {
        field(
            &mut text,
            "Adopted",
            "yes: it was found again after a restart of the agent",
        );
    }
    if let Some(operation) = &view.operation {
        let mut line = format!("{}, for {}", operation.verb, age(now.since(operation.since)));
        if operation.retries > 0 {
            let _ = write!(line, ", try {}", operation.retries + 1);
        }
        if let Some(error) = &operation.last_error {
            let _ = write!(line, "; last error: {error}");
        }
        field(&mut text, "Operation", line);
    }
    if !view.resources.limits.is_empty() {
        text += "Limits:\n";
        for limit in &view.resources.limits {
            let held = match limit.enforcement {
                Enforcement::Enforced => "enforced",
                Enforcement::Advisory => "advisory",
            };
            let by = if limit.by.is_empty() {
                String::new()
            } else {
                format!(" ({})", limit.by)
            };
            let _ = writeln!(text, "  {}: {} {held}{by}", limit.field, limit.value);
        }
    }
    if !view.conditions.is_empty() {
        text += "Conditions:\n";
        for condition in &view.conditions {
            let message = if condition.message.is_empty() {
                &condition.reason
            } else {
                &condition.message
            };
            let _ = writeln!(
                text,
                "  {}: {}, for {}: {message}",
                condition.kind,
                if condition.status { "yes" } else { "no" },
                age(now.since(condition.since)),
            );
        }
    }
    if !view.details.is_null() {
        text += "Details:\n";
        text += &indented(&yaml(&view.details));
    }
    text
}

/// The text of `explain`.
pub(crate) fn explain(explanation: &Explanation, now: Timestamp) -> String {
    let view = &explanation.view;
    let mut text = format!(
        "{} is {}, for {}; known by {}, {} ago.\n",
        view.name,
        view.phase,
        age(now.since(view.since)),
        word(&view.evidence.source),
        age(now.since(view.evidence.at)),
    );
    for reason in &explanation.waiting_for {
        let _ = writeln!(text, "It waits: {reason}.");
    }
    if !explanation.history.is_empty() {
        text += "\n";
        let mut table = Table::new(&["AGO", "FROM", "TO", "CAUSE"]);
        for Transition { at, from, to, cause } in &explanation.history {
            table.row(vec![
                age(now.since(*at)).into(),
                from.map_or("-".into(), |phase| phase.to_string()).into(),
                to.map_or("gone".into(), |phase| phase.to_string()).into(),
                cause.sentence().into(),
            ]);
        }
        text += &table.render(false);
    }
    crate::failure::printable(&text)
}

/// The table of `drivers`.
pub(crate) fn drivers(drivers: &[DriverView], wide: bool) -> Table {
    let mut table = Table::new(if wide {
        &["DRIVER", "VERSION", "STATE", "IN FLIGHT", "KINDS", "SUMMARY"]
    } else {
        &["DRIVER", "STATE", "KINDS", "VERBS"]
    });
    for driver in drivers {
        let state = driver_state(driver);
        let kinds: Vec<_> = driver.kinds.iter().map(|kind| kind.kind.as_str()).collect();
        if wide {
            table.row(vec![
                driver.name.to_string().into(),
                driver.version.clone().into(),
                state,
                driver.in_flight.to_string().into(),
                kinds.join(", ").into(),
                driver.summary.clone().into(),
            ]);
        } else {
            let mut verbs: Vec<_> = driver
                .kinds
                .iter()
                .flat_map(|kind| &kind.verbs)
                .map(|verb| verb.as_str())
                .collect();
            verbs.sort_unstable();
            verbs.dedup();
            table.row(vec![
                driver.name.to_string().into(),
                state,
                kinds.join(", ").into(),
                verbs.join(" ").into(),
            ]);
        }
    }
    table
}

/// The table of the methods that only objects of one kind have; none where no kind has any.
pub(crate) fn methods(drivers: &[DriverView]) -> Option<Table> {
    let mut table = Table::new(&["KIND", "METHOD", "SUMMARY"]);
    let mut any = false;
    for kind in drivers.iter().flat_map(|driver| &driver.kinds) {
        for (name, method) in &kind.calls {
            any = true;
            table.row(vec![
                kind.kind.to_string().into(),
                name.clone().into(),
                method.summary.clone().into(),
            ]);
        }
    }
    any.then_some(table)
}

fn driver_state(driver: &DriverView) -> Cell {
    if let Some(feature) = &driver.missing_feature {
        return Cell::styled(format!("not compiled in (feature `{feature}`)"), Style::Faint);
    }
    let stuck = driver
        .oldest_call_ms
        .filter(|ms| *ms >= 5_000)
        .map_or_else(String::new, |ms| {
            format!(", oldest call {} ago", age(std::time::Duration::from_millis(ms)))
        });
    match &driver.health {
        None => Cell::styled("off", Style::Faint),
        Some(DriverState::Healthy) if stuck.is_empty() => Cell::styled("healthy", Style::Good),
        Some(DriverState::Healthy) => Cell::styled(format!("healthy{stuck}"), Style::Busy),
        Some(DriverState::Degraded { reason }) => {
            Cell::styled(format!("degraded: {reason}{stuck}"), Style::Busy)
        }
        Some(DriverState::Unavailable { reason }) => {
            Cell::styled(format!("unavailable: {reason}{stuck}"), Style::Bad)
        }
    }
}

/// The text of `info`.
pub(crate) fn info(info: &AgentInfo, now: Timestamp) -> String {
    let mut text = String::new();
    field(&mut text, "Agent", &info.agent);
    field(&mut text, "Version", &info.version);
    field(&mut text, "Process", info.pid);
    field(
        &mut text,
        "Started",
        format!("{} ({} ago)", info.started, age(now.since(info.started))),
    );
    let health = &info.health;
    let state = match (health.draining, health.ready, health.live) {
        (true, ..) => "draining",
        (false, true, true) => "ready",
        (false, false, _) => "not ready",
        (false, true, false) => "stuck",
    };
    field(&mut text, "State", state);
    for problem in &health.problems {
        let _ = writeln!(text, "  ! {problem}");
    }
    list(
        &mut text,
        "Objects",
        info.objects
            .iter()
            .map(|(phase, count)| (phase.to_string(), count.to_string())),
    );
    list(
        &mut text,
        "Tasks",
        info.tasks
            .iter()
            .map(|(name, count)| (name.clone(), count.to_string())),
    );
    list(
        &mut text,
        "Buses",
        info.buses.iter().map(|bus| {
            let state = if bus.connected { "" } else { " (not connected)" };
            (bus.name.clone(), format!("{}{state}", bus.address))
        }),
    );
    list(
        &mut text,
        "Drivers",
        info.drivers
            .iter()
            .map(|driver| (driver.name.to_string(), driver_state(driver).text)),
    );
    list(
        &mut text,
        "Queues",
        info.queues.iter().map(|(name, queue)| {
            (
                name.clone(),
                format!(
                    "{} of {}, {} refused or lost",
                    queue.length, queue.capacity, queue.dropped
                ),
            )
        }),
    );
    let journal = &info.journal;
    let numbers = [
        ("segments", journal.segments as u64),
        ("bytes", journal.bytes),
        ("records", journal.records),
        ("commits", journal.commits),
        ("replayed", journal.replayed),
    ];
    list(
        &mut text,
        "Journal",
        numbers
            .into_iter()
            .map(|(name, number)| (name.to_owned(), number.to_string())),
    );
    for line in journal.quarantined.iter().chain(&journal.last_error) {
        let _ = writeln!(text, "  ! {line}");
    }
    list(
        &mut text,
        "Counters",
        info.counters
            .iter()
            .map(|(name, count)| (name.clone(), count.to_string())),
    );
    crate::failure::printable(&text)
}

fn list(text: &mut String, title: &str, entries: impl Iterator<Item = (String, String)>) {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}:");
    let width = entries
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, value) in entries {
        let _ = writeln!(text, "  {name:width$}  {value}");
    }
}

fn field(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{:<12}{value}", format!("{name}:"));
}

/// The lines of a text, two spaces in.
pub(crate) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// The word that the wire has for a value.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use agent_api_model::{
        Cause, Condition, ExitStatus, HealthState, KindView, LimitStatus, MethodView, ObjectSpec, Phase,
        RequestId, ResourceField, Verb,
    };
    use serde_json::json;

    use super::super::objects::tests::{NOW, ago, view};
    use super::*;

    fn calls() -> BTreeMap<String, MethodView> {
        let method = MethodView {
            summary: "goes back to an earlier revision".into(),
            arguments: json!({"type": "object"}),
        };
        [("rollback".to_owned(), method)].into()
    }

    #[test]
    fn describes_in_full() {
        let mut view = view("web", Phase::Running, 75);
        view.labels = Arc::new([("app".into(), "shop".into())].into());
        view.health = Some(HealthState::Healthy);
        view.restarts = 2;
        view.exit = Some(ExitStatus {
            code: Some(3),
            at: Some(ago(80)),
            ..Default::default()
        });
        view.adopted = true;
        view.resources.limits.push(LimitStatus {
            field: ResourceField::Memory,
            value: "256Mi".into(),
            enforcement: Enforcement::Advisory,
            by: "no cgroup here".into(),
        });
        view.conditions.push(Condition {
            kind: "Ready".into(),
            status: true,
            reason: "Probe".into(),
            message: String::new(),
            since: ago(70),
        });
        let spec: ObjectSpec = serde_json::from_value(json!({
            "kind": "process", "name": "web", "labels": {"app": "shop"}, "restart": "always",
            "spec": {"command": ["sleep", "1000"]},
        }))
        .unwrap();
        let description = Description {
            view: Arc::new(view),
            spec: Arc::new(spec),
            methods: vec![Verb::Pause, Verb::Resume, Verb::Call],
            calls: calls(),
        };
        insta::assert_snapshot!(describe(&description, NOW));
    }

    #[test]
    fn explains_the_chain_of_events() {
        let transition = |seconds, from, to, cause| Transition {
            at: ago(seconds),
            from,
            to,
            cause,
        };
        let explanation = Explanation {
            view: Arc::new(view("web", Phase::Pending, 2)),
            history: vec![
                transition(
                    75,
                    None,
                    Some(Phase::Pending),
                    Cause::Request {
                        verb: Verb::Create,
                        request_id: RequestId::new("r1").unwrap(),
                    },
                ),
                transition(
                    2,
                    Some(Phase::Running),
                    Some(Phase::Pending),
                    Cause::Exited {
                        source: agent_api_model::EvidenceSource::Event,
                        exit: ExitStatus {
                            code: Some(1),
                            ..Default::default()
                        },
                    },
                ),
            ],
            waiting_for: vec!["restart 1 in 800 ms".into()],
        };
        insta::assert_snapshot!(explain(&explanation, NOW));
    }

    #[test]
    fn lists_drivers() {
        let driver = |health, missing: Option<&str>, oldest| DriverView {
            name: agent_api_model::DriverName::new("process").unwrap(),
            version: "0.1.0".into(),
            summary: "Processes of this host.".into(),
            kinds: vec![],
            health,
            missing_feature: missing.map(str::to_owned),
            in_flight: 1,
            oldest_call_ms: oldest,
        };
        let list = [
            driver(Some(DriverState::Healthy), None, None),
            driver(Some(DriverState::Healthy), None, Some(75_000)),
            driver(
                Some(DriverState::Unavailable {
                    reason: "no answer".into(),
                }),
                None,
                None,
            ),
            driver(None, Some("ray"), None),
        ];
        insta::assert_snapshot!(drivers(&list, true).render(false));
        assert!(methods(&list).is_none());
    }

    #[test]
    fn lists_methods() {
        let kind = |name: &str, calls| KindView {
            kind: name.parse().unwrap(),
            verbs: vec![],
            calls,
            limits: vec![],
        };
        let driver = DriverView {
            name: agent_api_model::DriverName::new("kubernetes").unwrap(),
            version: "0.1.0".into(),
            summary: String::new(),
            kinds: vec![
                kind("kubernetes/manifest", BTreeMap::new()),
                kind("kubernetes/deployment", calls()),
            ],
            health: None,
            missing_feature: None,
            in_flight: 0,
            oldest_call_ms: None,
        };
        assert_eq!(
            methods(&[driver]).unwrap().render(false),
            "KIND                   METHOD    SUMMARY\n\
             kubernetes/deployment  rollback  goes back to an earlier revision\n"
        );
    }
}
