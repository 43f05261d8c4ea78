//! What the agent says of its own state.

use std::time::Duration;

use agent_api::model::{AgentInfo, HealthReport};

use crate::shared::Shared;

/// A loop that has not turned for so long does not work.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// Whether the agent can work, and what is wrong.
pub(crate) fn report(shared: &Shared) -> HealthReport {
    let mut problems = silent(shared, SILENCE);
    let live = problems.is_empty();
    problems.extend(shared.registry.problems());
    for cell in shared.drivers.values() {
        problems.extend(cell.problems());
    }
    let manager = shared.manager.stats();
    if let Some((_, open)) = manager
        .counters
        .iter()
        .find(|(name, open)| *name == "breakers_open" && *open > 0)
    {
        problems.push(format!(
            "{open} drivers failed too often in a row and are left alone for a while (`agent drivers` shows them)"
        ));
    }
    let journal = manager.journal;
    if let Some(error) = journal.last_error {
        problems.push(format!("journal: {error}"));
    }
    for note in journal.quarantined {
        problems.push(format!("journal: set aside as damaged: {note}"));
    }
    problems.extend(
        shared
            .recovery
            .notes
            .iter()
            .map(|note| format!("recovery: {note}")),
    );
    let draining = shared.is_draining();
    HealthReport {
        ready: !draining && live,
        live,
        draining,
        problems,
    }
}

/// The loops that have not turned for so long, a sentence each.
pub(crate) fn silent(shared: &Shared, within: Duration) -> Vec<String> {
    let now = shared.clock.elapsed();
    shared
        .doors
        .iter()
        .enumerate()
        .filter_map(|(number, door)| match door.silent(now) {
            None if shared.stages.shards.is_cancelled() => None,
            None => Some(format!("shard {number} has ended")),
            Some(silent) if silent > within => Some(format!(
                "shard {number} has not turned for {} s",
                silent.as_secs()
            )),
            Some(_) => None,
        })
        .collect()
}

/// What the agent says of itself.
pub(crate) fn info(shared: &Shared, tasks: usize) -> AgentInfo {
    let manager = shared.manager.stats();
    let collector = shared.collector.stats();
    let reporter = shared.reporter.stats();
    let mut counters = shared.counters.read();
    counters.extend(
        manager
            .counters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    counters.insert("collections".into(), collector.collections);
    counters.insert("collections_skipped".into(), collector.skipped);
    counters.insert("messages_published".into(), reporter.published);
    counters.insert("messages_failed".into(), reporter.failed);
    counters.insert("leases".into(), (reporter.leases.max(collector.leases)) as u64);
    counters.insert("watchers".into(), shared.hub.len() as u64);
    for (reason, lost) in reporter.lost {
        counters.insert(format!("telemetry_lost.{reason}"), lost);
    }
    let mut queues = shared.queues();
    queues.insert("journal".into(), manager.journal_queue);
    queues.insert("collector".into(), collector.queue);
    queues.insert("reporter".into(), reporter.queue);
    let shards = shared.doors.len();
    let mut info = AgentInfo {
        agent: shared.agent.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: shared.clock.started,
        health: report(shared),
        tasks: [
            ("shard".to_owned(), shards),
            // Two of the others are the heartbeat and the compactor; the rest are one per driver.
            ("driver_events".to_owned(), tasks.saturating_sub(shards + 2)),
            ("heartbeat".to_owned(), 1),
            ("compactor".to_owned(), 1),
            ("collector".to_owned(), collector.tasks),
            ("reporter".to_owned(), reporter.tasks),
        ]
        .into(),
        objects: manager.objects.into_iter().collect(),
        drivers: drivers(shared),
        buses: Vec::new(),
        queues,
        journal: manager.journal,
        counters,
    };
    if info.journal.segments > 0 {
        // The thread that writes it.
        info.tasks.insert("journal".into(), 1);
    }
    let hooks: Vec<_> = shared.info_hooks.lock().clone();
    for hook in hooks {
        hook(&mut info);
    }
    info
}

/// The drivers with their health and load.
pub(crate) fn drivers(shared: &Shared) -> Vec<agent_api::model::DriverView> {
    shared.registry.views(|name| {
        let cell = shared.drivers.get(name)?;
        let load = cell.load();
        Some((cell.state(), load.in_flight, load.oldest.map(|call| call.age)))
    })
}
