//! The watches of one cluster: which there are, what they brought, and who waits for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agent_api_driver::model::{DriverState, Evidence, EvidenceSource, Guid};
use agent_api_driver::{ObjectState, ObjectStatus};
use kube::core::DynamicObject;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::key::WatchKey;
use super::record::next_revision;
use super::state::{From, State};
use super::stream::{self, Signals};
use super::thing::Place;
use crate::events::Events;
use crate::handle::HandleData;
use crate::sdk::Cluster;

/// The watches of one cluster.
pub(crate) struct ClusterWatch {
    pub(crate) cluster: Arc<Cluster>,
    pub(super) closing: CancellationToken,
    pub(super) health_news: Arc<Notify>,
    tasks: TaskTracker,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    running: HashMap<WatchKey, Running>,
}

struct Running {
    users: usize,
    signals: Arc<Signals>,
}

impl ClusterWatch {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        events: Arc<Events>,
        tasks: TaskTracker,
        closing: CancellationToken,
        health_news: Arc<Notify>,
    ) -> Arc<Self> {
        let single = !cluster.config.namespaces.is_empty();
        let state = State::new(cluster.agent.clone(), cluster.manager(), single, events);
        Arc::new(Self {
            cluster,
            closing,
            health_news,
            tasks,
            inner: Mutex::new(Inner {
                state,
                running: HashMap::new(),
            }),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.cluster.name
    }

    /// Reads what is known, briefly.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.inner.lock().state)
    }

    /// Changes what is known, briefly.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.inner.lock().state)
    }

    pub(super) fn track(
        self: &Arc<Self>,
        guid: Guid,
        data: HandleData,
        objects: Vec<DynamicObject>,
        tell: bool,
    ) {
        let mut inner = self.inner.lock();
        let before = inner
            .state
            .records
            .get(&guid)
            .map(|record| record.keys.clone())
            .unwrap_or_default();
        let again = inner.state.track(guid, data);
        for object in objects {
            let key = inner.state.key_of(guid, &object);
            if let Some(key) = key {
                let touched = inner.state.put(&key, object, From::Answer);
                // What others share with it.
                inner
                    .state
                    .settle_all(touched.into_iter().filter(|other| *other != guid).collect());
            }
        }
        inner.state.settle(guid, tell);
        let keys = inner
            .state
            .records
            .get(&guid)
            .map(|record| record.keys.clone())
            .unwrap_or_default();
        for key in keys.iter().filter(|key| !before.contains(key)) {
            self.want(&mut inner, key);
        }
        for key in before.iter().filter(|key| !keys.contains(key)) {
            Self::unwant(&mut inner, key);
        }
        for key in again {
            if let Some(running) = inner.running.get(&key) {
                running.signals.list.notify_one();
            }
        }
    }

    pub(super) fn forget(&self, guid: Guid) -> bool {
        let mut inner = self.inner.lock();
        let known = inner.state.records.contains_key(&guid);
        for key in inner.state.forget(guid) {
            Self::unwant(&mut inner, &key);
        }
        known
    }

    fn want(self: &Arc<Self>, inner: &mut Inner, key: &WatchKey) {
        if let Some(running) = inner.running.get_mut(key) {
            running.users += 1;
            running.signals.wanted.send_replace(true);
            return;
        }
        let signals = Signals::new();
        inner.running.insert(
            key.clone(),
            Running {
                users: 1,
                signals: Arc::clone(&signals),
            },
        );
        self.tasks
            .spawn(stream::run(Arc::clone(self), key.clone(), signals));
    }

    fn unwant(inner: &mut Inner, key: &WatchKey) {
        if let Some(running) = inner.running.get_mut(key) {
            running.users -= 1;
            if running.users == 0 {
                running.signals.wanted.send_replace(false);
            }
        }
    }

    /// Takes a watch out that nobody wants; false where somebody does again.
    pub(super) fn retire(&self, key: &WatchKey) -> bool {
        let mut inner = self.inner.lock();
        if inner.running.get(key).is_some_and(|running| running.users > 0) {
            return false;
        }
        inner.running.remove(key);
        inner.state.close_shelf(key);
        drop(inner);
        self.health_news.notify_one();
        true
    }

    /// How many watches there are.
    #[cfg(test)]
    pub(crate) fn watches(&self) -> usize {
        self.inner.lock().running.len()
    }

    /// Opens all streams again: some may be dead without saying so.
    pub(super) fn reopen(&self) {
        for running in self.inner.lock().running.values() {
            running.signals.reopen.notify_waiters();
        }
    }

    // ----- what the watches bring -----

    pub(super) fn put(&self, key: &WatchKey, object: DynamicObject) {
        self.change(|state| {
            let touched = state.put(key, object, From::Watch);
            state.settle_all(touched);
        });
    }

    pub(super) fn remove(&self, key: &WatchKey, place: &Place, revision: u64, from: From) {
        self.change(|state| {
            let touched = state.remove(key, place, revision, from);
            state.settle_all(touched);
        });
    }

    pub(super) fn replace(&self, key: &WatchKey, objects: Vec<DynamicObject>, revision: u64, gap: bool) {
        self.change(|state| {
            let (touched, put_back) = state.replace(key, objects, revision);
            state.settle_all(touched);
            if gap || put_back {
                state.events.gap();
            }
        });
    }

    /// The resource is not served any more: nothing of it is there.
    pub(super) fn all_gone(&self, key: &WatchKey) {
        self.change(|state| {
            let touched = state.clear(key);
            state.settle_all(touched);
        });
    }

    /// What is wrong with a watch; none where it works.
    pub(super) fn trouble(&self, key: &WatchKey, what: Option<String>) {
        let changed = self.change(|state| match what {
            Some(what) => state.troubles.insert(key.clone(), what.clone()).as_ref() != Some(&what),
            None => state.troubles.remove(key).is_some(),
        });
        if changed {
            self.health_news.notify_one();
        }
    }

    /// How the cluster and its watches are.
    pub(super) fn health(&self) -> DriverState {
        let cluster = self.cluster.health();
        if cluster != DriverState::Healthy {
            return cluster;
        }
        let troubles: BTreeMap<WatchKey, String> = self.read(|state| state.troubles.clone());
        let mut sentences: Vec<String> = troubles.into_values().collect();
        sentences.sort_unstable();
        sentences.dedup();
        if sentences.is_empty() {
            return DriverState::Healthy;
        }
        DriverState::Degraded {
            reason: format!("cluster {}: {}", self.name(), sentences.join("; ")),
        }
    }

    // ----- what others ask -----

    /// The status of an object after a call of ours: what is known of it now.
    pub(super) fn status_after(&self, guid: Guid) -> ObjectStatus {
        let known = self.read(|state| state.records.get(&guid).and_then(|record| record.last.clone()));
        let mut status = known.unwrap_or_else(|| {
            let evidence = Evidence::now(EvidenceSource::Poll, next_revision(0));
            ObjectStatus::new(ObjectState::Starting, evidence)
        });
        status.evidence.source = EvidenceSource::Poll;
        status
    }

    /// An operation of ours begins to change an object, or has ended.
    pub(super) fn changing(&self, guid: Guid, begins: bool) {
        self.change(|state| {
            let Some(record) = state.records.get_mut(&guid) else {
                return;
            };
            if begins {
                record.changing += 1;
                return;
            }
            record.changing = record.changing.saturating_sub(1);
            state.settle(guid, true);
        });
    }
}
