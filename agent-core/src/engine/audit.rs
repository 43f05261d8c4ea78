//! The audit behind the drivers' events: the heartbeat's walk over the objects, and what is asked after a gap.
//!
//! Per shard and driver at most one audit is under way. It asks the driver for many objects at once, compares off the
//! shard, and brings back only those that differ, so that a walk in which nothing changed costs the shard nothing.
//!
//! What differs is what a person would see: the state, the handle, the conditions, the details, the limits and the exit,
//! and a newer revision in any case. Not since when a condition holds, nor when something was seen or ended: a driver
//! that looks anew may not know it. The values are compared where they lie, so a walk over a hundred thousand objects
//! copies and writes out nothing.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api::driver::{Handle, ObjectState, Observed, Recovered, Target};
use agent_api::manager::Partition;
use agent_api::model::{DriverName, Guid, Phase};
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cell::DriverCell;
use crate::counters::{add, count};
use crate::guard::guarded;
use crate::shared::Shared;

type Chunk = Vec<(Guid, Arc<Handle>)>;

/// The audits of one shard.
#[derive(Default)]
pub(crate) struct Audits {
    tasks: JoinSet<Audited>,
    states: BTreeMap<DriverName, AuditState>,
}

#[derive(Default)]
struct AuditState {
    running: bool,
    /// Asked for meanwhile: all objects.
    all: bool,
    /// Asked for meanwhile: these.
    some: HashSet<Guid>,
}

/// What an audit found.
pub(crate) struct Audited {
    pub(crate) driver: DriverName,
    /// Objects whose status differs from what is known.
    pub(crate) seen: Vec<Observed>,
    /// Objects there was no evidence of, found again or not.
    pub(crate) recovered: Vec<Recovered>,
}

impl Audits {
    /// The heartbeat's walk: asks every driver for all its objects, except one that still answers the walk before.
    pub(crate) fn walk(&mut self, shared: &Arc<Shared>, partition: &dyn Partition) {
        for driver in shared.drivers.keys() {
            if self.states.get(driver).is_some_and(|state| state.running) {
                count(&shared.counters.heartbeat_skipped);
            } else {
                self.states.entry(driver.clone()).or_default().all = true;
                self.go_on(shared, partition, driver);
            }
        }
    }

    /// Asks a driver for all its objects, now or when the audit under way has ended.
    pub(crate) fn all(&mut self, shared: &Arc<Shared>, partition: &dyn Partition, driver: &DriverName) {
        self.states.entry(driver.clone()).or_default().all = true;
        self.go_on(shared, partition, driver);
    }

    /// Asks for one object, now or when the audit under way has ended.
    pub(crate) fn one(&mut self, shared: &Arc<Shared>, partition: &dyn Partition, guid: Guid) {
        let Some(view) = shared.manager.view(guid) else {
            return;
        };
        let Some((driver, _)) = shared.drivers.get_key_value(view.kind.driver()) else {
            return;
        };
        self.states.entry(driver.clone()).or_default().some.insert(guid);
        self.go_on(shared, partition, driver);
    }

    fn go_on(&mut self, shared: &Arc<Shared>, partition: &dyn Partition, driver: &DriverName) {
        let Some(cell) = shared.drivers.get(driver) else {
            return;
        };
        let state = self.states.entry(driver.clone()).or_default();
        if state.running {
            return;
        }
        let chunk = cell.chunk;
        let some = std::mem::take(&mut state.some);
        let chunks = if std::mem::take(&mut state.all) {
            partition.audit(driver, chunk)
        } else {
            let targets: Chunk = some
                .into_iter()
                .filter_map(|guid| Some((guid, shared.manager.handle(guid)?)))
                .collect();
            targets.chunks(chunk).map(<[_]>::to_vec).collect()
        };
        if chunks.iter().all(Vec::is_empty) {
            return;
        }
        state.running = true;
        let (shared, cell, name) = (Arc::clone(shared), Arc::clone(cell), driver.clone());
        self.tasks.spawn(async move {
            // What a driver's dropped call leaves may panic too; the driver is asked again all the same.
            AssertUnwindSafe(audit(shared, cell, chunks))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Audited {
                    driver: name,
                    seen: Vec::new(),
                    recovered: Vec::new(),
                })
        });
    }

    /// Waits for the next audit. Never where none is under way.
    pub(crate) async fn next(&mut self) -> Option<Audited> {
        match self.tasks.join_next().await {
            Some(ended) => ended.ok(),
            None => std::future::pending().await,
        }
    }

    /// An audit has ended: begins what was asked for meanwhile.
    pub(crate) fn ended(&mut self, shared: &Arc<Shared>, partition: &dyn Partition, driver: &DriverName) {
        let state = self.states.entry(driver.clone()).or_default();
        state.running = false;
        if state.all || !state.some.is_empty() {
            self.go_on(shared, partition, driver);
        }
    }

    /// Ends all audits, by that moment.
    pub(crate) async fn abort(&mut self, until: Instant) -> bool {
        tokio::time::timeout_at(until, self.tasks.shutdown())
            .await
            .is_ok()
    }
}

async fn audit(shared: Arc<Shared>, cell: Arc<DriverCell>, chunks: Vec<Chunk>) -> Audited {
    let mut audited = Audited {
        driver: cell.name.clone(),
        seen: Vec::new(),
        recovered: Vec::new(),
    };
    let limit = shared.operation_timeout;
    let mut failed = None;
    let mut out = Vec::new();
    for chunk in chunks {
        add(&shared.counters.heartbeat_observed, chunk.len());
        // Without evidence an object may not be the driver's yet, and `observe` would call it gone: it is recovered.
        let (mut lost, mut objects, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for object in &chunk {
            match shared.manager.known(object.0) {
                None => {}
                Some((Phase::Unknown, _)) => lost.push(object),
                Some(known) => {
                    objects.push(object);
                    before.push(known);
                }
            }
        }
        if !lost.is_empty() {
            match recover(&cell, &lost, limit).await {
                Ok(answers) => {
                    let asked: HashSet<Guid> = lost.iter().map(|(guid, _)| *guid).collect();
                    let ours = answers.into_iter().filter(|answer| asked.contains(&answer.guid));
                    audited.recovered.extend(ours);
                }
                Err(reason) => failed = Some(reason),
            }
        }
        if objects.is_empty() {
            continue;
        }
        out.clear();
        if let Err(reason) = observe(&cell, &objects, &mut out, limit).await {
            failed = Some(reason);
        }
        // Answers mostly come in the order of the questions; others are looked for, and garbage is not passed on.
        let mut asked: Option<HashSet<Guid>> = None;
        for (at, observed) in out.drain(..).enumerate() {
            let guid = observed.guid;
            let news = match objects.get(at).filter(|object| object.0 == guid) {
                Some(_) => differs(before[at], &observed) || !shared.manager.shows(&observed),
                None => asked
                    .get_or_insert_with(|| objects.iter().map(|(guid, _)| *guid).collect())
                    .contains(&guid),
            };
            // Looked at again: an event may have brought it meanwhile.
            let still = || {
                shared
                    .manager
                    .known(guid)
                    .is_some_and(|known| differs(known, &observed) || !shared.manager.shows(&observed))
            };
            if news && still() {
                audited.seen.push(observed);
            }
        }
    }
    if failed.is_some() {
        count(&shared.counters.heartbeat_failed);
    }
    cell.set_blind(failed);
    audited
}

async fn recover(
    cell: &DriverCell,
    objects: &[&(Guid, Arc<Handle>)],
    limit: Duration,
) -> Result<Vec<Recovered>, String> {
    let targets = targets(objects);
    match guarded(limit, cell.driver.recover(&targets)).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(format!("objects cannot be found again: {error}")),
        Err(failure) => Err(failure.of_driver(&cell.name, "recover").to_string()),
    }
}

async fn observe(
    cell: &DriverCell,
    objects: &[&(Guid, Arc<Handle>)],
    out: &mut Vec<Observed>,
    limit: Duration,
) -> Result<(), String> {
    let targets = targets(objects);
    match guarded(limit, cell.driver.observe(&targets, out)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("objects cannot be observed: {error}")),
        Err(failure) => Err(failure.of_driver(&cell.name, "observe").to_string()),
    }
}

fn targets<'a>(objects: &[&'a (Guid, Arc<Handle>)]) -> Vec<Target<'a>> {
    objects
        .iter()
        .map(|(guid, handle)| Target { guid: *guid, handle })
        .collect()
}

/// Whether a status is newer than what is known, or its state is not of the phase. Where in doubt yes: the partition
/// decides.
fn differs((phase, revision): (Phase, u64), observed: &Observed) -> bool {
    if observed.status.evidence.revision > revision {
        return true;
    }
    !match phase {
        Phase::Running | Phase::Updating => {
            matches!(
                observed.status.state,
                ObjectState::Running | ObjectState::Starting
            )
        }
        Phase::Paused => observed.status.state == ObjectState::Paused,
        Phase::Pending | Phase::Succeeded | Phase::Failed => {
            matches!(observed.status.state, ObjectState::Exited | ObjectState::Gone)
        }
        Phase::Creating => observed.status.state == ObjectState::Starting,
        Phase::Deleting => true,
        Phase::Unknown => observed.status.state == ObjectState::Unknown,
    }
}
