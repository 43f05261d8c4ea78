//! The agent's own heartbeat, and the manager's snapshots.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api::model::Timestamp;
use agent_api::reporter::{Heartbeat, Report};

use super::pump;
use crate::counters::Counters;
use crate::health;
use crate::shared::Shared;

/// How often the manager is asked whether a snapshot is due.
const COMPACT_INTERVAL: Duration = Duration::from_secs(30);

/// Reports one heartbeat per interval until the agent ends, of constant size whatever the number of objects.
pub(crate) async fn beat(shared: Arc<Shared>) {
    let mut sequence = 0;
    let mut corrected = 0;
    loop {
        let interval = shared.heartbeat();
        tokio::select! {
            biased;
            () = shared.stages.tasks.cancelled() => return,
            () = shared.heartbeat_changed.notified() => continue,
            () = tokio::time::sleep(interval) => {}
        }
        for cell in shared.drivers.values() {
            if cell.refresh_state() {
                pump::recheck_all(&shared, cell).await;
            }
        }
        sequence += 1;
        report(&shared, sequence, &mut corrected);
    }
}

/// Reports a heartbeat with what was corrected since the one before.
pub(crate) fn report(shared: &Shared, sequence: u64, corrected: &mut u64) {
    let so_far = corrections(&shared.counters);
    let since = so_far.saturating_sub(*corrected);
    *corrected = so_far;
    shared.reporter.report(Report::Heartbeat(Box::new(Heartbeat {
        agent: shared.agent.clone(),
        at: Timestamp::now(),
        sequence,
        objects: shared.manager.stats().objects.into_iter().collect(),
        corrected: usize::try_from(since).unwrap_or(usize::MAX),
        drivers: shared
            .drivers
            .values()
            .map(|cell| (cell.name.clone(), cell.state()))
            .collect(),
        health: health::report(shared),
        interval_ms: u64::try_from(shared.heartbeat().as_millis()).unwrap_or(u64::MAX),
    })));
}

fn corrections(counters: &Counters) -> u64 {
    counters.heartbeat_corrected.load(Ordering::Relaxed)
}

/// Has the manager write its snapshots, away from the control path, until the agent ends.
pub(crate) async fn compact(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.stages.tasks.cancelled() => return,
            () = tokio::time::sleep(COMPACT_INTERVAL) => {}
        }
        tokio::select! {
            biased;
            () = shared.stages.tasks.cancelled() => return,
            compacted = shared.manager.compact() => {
                if let Err(error) = compacted {
                    tracing::warn!(%error, "no snapshot could be written; the journal grows until one can");
                }
            }
        }
    }
}
