//! What the worker is to learn: bounded by coalescing, and never waited for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Handle;
use agent_api_model::{Error, ErrorKind, Guid, Lease, LeaseId, ObjectView, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So many changes of objects may wait while there is no lease; then the worker is woken to take them in.
const LAZY: usize = 4_096;

/// What changed of one object since the worker last looked.
#[derive(Debug, Default)]
pub(crate) struct ObjectChange {
    /// Its view and handle, where they are new.
    pub(crate) latest: Option<(Arc<ObjectView>, Arc<Handle>)>,
    /// Whether it was taken out after that.
    pub(crate) removed: bool,
}

/// What changed of one lease since the worker last looked.
#[derive(Debug)]
pub(crate) enum LeaseChange {
    /// Begin or renew; it ends at that moment.
    Start(Box<Lease>, Option<Instant>),
    Retune(Duration),
    Stop,
}

#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) objects: HashMap<Guid, ObjectChange>,
    pub(crate) leases: HashMap<LeaseId, LeaseChange>,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    /// The leases in force, as the callers see them.
    leases: HashSet<LeaseId>,
    closed: bool,
}

/// The inbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Notify,
}

impl Inbox {
    pub(crate) fn add(&self, view: &Arc<ObjectView>, handle: &Arc<Handle>) {
        self.object(view.guid, |change| {
            change.latest = Some((view.clone(), handle.clone()));
            change.removed = false;
        });
    }

    pub(crate) fn remove(&self, guid: Guid) {
        self.object(guid, |change| change.removed = true);
    }

    fn object(&self, guid: Guid, change: impl FnOnce(&mut ObjectChange)) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        change(state.changes.objects.entry(guid).or_default());
        let idle = state.leases.is_empty() && state.changes.leases.is_empty();
        let wake = !idle || state.changes.objects.len() >= LAZY;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    pub(crate) fn start(&self, lease: Lease, max: usize) -> Result<()> {
        let ends = end(&lease);
        let mut state = self.state.lock();
        if state.closed {
            return Err(
                Error::new(ErrorKind::Unavailable, "the collector is stopping").with_operation("monitor")
            );
        }
        if !state.leases.contains(&lease.id) && state.leases.len() >= max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{max} leases are in force, and no more are collected for"),
            )
            .with_operation("monitor")
            .with_hint("end one with `unmonitor`, or wait for one to expire"));
        }
        state.leases.insert(lease.id);
        state
            .changes
            .leases
            .insert(lease.id, LeaseChange::Start(Box::new(lease), ends));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn stop(&self, id: LeaseId) -> bool {
        let mut state = self.state.lock();
        let known = state.leases.remove(&id);
        if known {
            state.changes.leases.insert(id, LeaseChange::Stop);
        }
        drop(state);
        if known {
            self.wake.notify_one();
        }
        known
    }

    pub(crate) fn retune(&self, id: LeaseId, interval: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.leases.contains(&id) {
            return false;
        }
        match state.changes.leases.get_mut(&id) {
            Some(LeaseChange::Start(lease, _)) => lease.interval = interval,
            _ => {
                state.changes.leases.insert(id, LeaseChange::Retune(interval));
            }
        }
        drop(state);
        self.wake.notify_one();
        true
    }

    /// A lease has come to its end, unless it is being renewed. Returns whether it has.
    pub(crate) fn ended(&self, id: LeaseId) -> bool {
        let mut state = self.state.lock();
        if matches!(state.changes.leases.get(&id), Some(LeaseChange::Start(..))) {
            return false;
        }
        state.leases.remove(&id);
        state.changes.leases.remove(&id);
        true
    }

    /// Takes what changed.
    pub(crate) fn take(&self) -> Changes {
        std::mem::take(&mut self.state.lock().changes)
    }

    /// Waits until something changed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Takes nothing in any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Leases in force, and changes that wait.
    pub(crate) fn numbers(&self) -> (usize, usize) {
        let state = self.state.lock();
        (
            state.leases.len(),
            state.changes.objects.len() + state.changes.leases.len(),
        )
    }
}

/// When a lease ends, on the runtime's clock. The wall clock is asked only where there is nothing else.
fn end(lease: &Lease) -> Option<Instant> {
    let left = lease.ttl.or_else(|| {
        lease
            .expires
            .map(|at| at.since(agent_api_model::Timestamp::now()))
    });
    left.map(|left| Instant::now() + left)
}
