//! How the driver knows what happens in its clusters: watches, and what they brought.
//!
//! One watch (and one task) per resource and cluster, whatever the number of objects. What it shows is kept, pruned, on a
//! shelf; each change works out the status of the objects it touches, and what is new is told at once.

mod cluster;
mod key;
mod record;
mod settle;
mod shelf;
mod state;
mod stream;
mod thing;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::ObjectStatus;
use agent_api_driver::model::{DriverState, Error, Guid, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;
use crate::handle::HandleData;
use crate::sdk::Cluster;
pub(crate) use cluster::ClusterWatch;
pub(crate) use key::{WatchKey, has_pods};
pub(crate) use record::{EventsSince, next_revision};
pub(crate) use state::{From, State};
pub(crate) use stream::typed;
pub(crate) use thing::{Place, parse_revision};

/// So many Kubernetes Events of unknown things are kept for a while, per cluster.
const UNMATCHED: usize = 512;

/// The watches of all clusters.
pub(crate) struct Watches {
    pub(crate) clusters: BTreeMap<String, Arc<ClusterWatch>>,
    events: Arc<Events>,
}

/// While it lives an operation of ours changes the object: what is seen of that is no drift, and no end.
pub(crate) struct Changing {
    cluster: Option<Arc<ClusterWatch>>,
    guid: Guid,
}

impl Drop for Changing {
    fn drop(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.changing(self.guid, false);
        }
    }
}

impl Watches {
    /// The watches of these clusters: none before an object is tracked. Its tasks end with `closing`.
    pub(crate) fn new(
        clusters: &BTreeMap<String, Arc<Cluster>>,
        events: &Arc<Events>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Arc<Self> {
        let news = Arc::new(Notify::new());
        let watches = Arc::new(Self {
            clusters: clusters
                .iter()
                .map(|(name, cluster)| {
                    let watch = ClusterWatch::new(
                        Arc::clone(cluster),
                        Arc::clone(events),
                        tasks.clone(),
                        closing.clone(),
                        Arc::clone(&news),
                    );
                    (name.clone(), watch)
                })
                .collect(),
            events: Arc::clone(events),
        });
        for cluster in watches.clusters.values() {
            tasks.spawn(tell_reachable(
                Arc::clone(cluster),
                Arc::clone(&news),
                closing.clone(),
            ));
        }
        tasks.spawn(tell_health(Arc::clone(&watches), news, closing.clone()));
        watches
    }

    fn cluster(&self, data: &HandleData) -> Option<&Arc<ClusterWatch>> {
        self.clusters.get(&data.cluster)
    }

    fn holder(&self, guid: Guid) -> Option<&Arc<ClusterWatch>> {
        self.clusters
            .values()
            .find(|cluster| cluster.read(|state| state.records.contains_key(&guid)))
    }

    /// Tracks an object from now on, or takes its newer handle. What is found is told as an event.
    pub(crate) fn track(&self, guid: Guid, data: &HandleData) {
        self.track_as(guid, data, &[]);
    }

    /// The same, with its things as a list or read just now has shown them.
    pub(crate) fn track_as(&self, guid: Guid, data: &HandleData, live: &[DynamicObject]) {
        if let Some(cluster) = self.cluster(data) {
            cluster.track(guid, data.clone(), live.to_vec(), true);
        }
    }

    /// Takes in the server's answers to a call of ours, tracks the object by its new handle, and returns its status.
    /// What watches bring later never goes back before these answers.
    pub(crate) fn applied(
        &self,
        guid: Guid,
        data: &HandleData,
        live: &[DynamicObject],
    ) -> Result<ObjectStatus> {
        let cluster = self.cluster(data).ok_or_else(|| {
            Error::internal(format!("the handle is of the unknown cluster {:?}", data.cluster))
        })?;
        cluster.track(guid, data.clone(), live.to_vec(), false);
        Ok(cluster.status_after(guid))
    }

    /// Forgets an object. Watches that nobody else needs end after a while.
    pub(crate) fn forget(&self, guid: Guid) {
        for cluster in self.clusters.values() {
            if cluster.forget(guid) {
                return;
            }
        }
    }

    /// Whether an object is tracked.
    pub(crate) fn tracks(&self, guid: Guid) -> bool {
        self.holder(guid).is_some()
    }

    /// An operation of ours begins to change an object.
    pub(crate) fn changing(&self, guid: Guid) -> Changing {
        let cluster = self.holder(guid).cloned();
        if let Some(cluster) = &cluster {
            cluster.changing(guid, true);
        }
        Changing { cluster, guid }
    }

    /// The last status of an object; none while not all of it is known.
    pub(crate) fn status(&self, guid: Guid) -> Option<ObjectStatus> {
        let cluster = self.holder(guid)?;
        cluster.read(|state| state.records.get(&guid)?.last.clone())
    }

    /// The pods of an object, by name: without annotations, and of their specs only containers, node and restart
    /// policy.
    pub(crate) fn pods(&self, guid: Guid) -> Vec<Arc<Pod>> {
        self.holder(guid)
            .map(|cluster| cluster.read(|state| state.pods(guid)))
            .unwrap_or_default()
    }

    /// The Kubernetes Events about an object that came after a cursor: the `resourceVersion` of the last one seen.
    pub(crate) fn events_since(&self, guid: Guid, cursor: u64) -> EventsSince {
        let since = |cluster: &Arc<ClusterWatch>| {
            cluster.read(|state| Some(state.records.get(&guid)?.events.since(cursor)))
        };
        self.holder(guid).and_then(since).unwrap_or_default()
    }

    /// How many watches there are, over all clusters.
    #[cfg(test)]
    pub(crate) fn watches(&self) -> usize {
        self.clusters.values().map(|cluster| cluster.watches()).sum()
    }

    /// How the clusters and their watches are. Unavailable where no cluster can be reached.
    pub(crate) fn health(&self) -> DriverState {
        let states: Vec<DriverState> = self.clusters.values().map(|cluster| cluster.health()).collect();
        let reasons: Vec<String> = states
            .iter()
            .filter_map(|state| match state {
                DriverState::Healthy => None,
                DriverState::Degraded { reason } | DriverState::Unavailable { reason } => {
                    Some(reason.clone())
                }
            })
            .collect();
        let reason = reasons.join("; ");
        if reason.is_empty() {
            DriverState::Healthy
        } else if states
            .iter()
            .all(|state| matches!(state, DriverState::Unavailable { .. }))
        {
            DriverState::Unavailable { reason }
        } else {
            DriverState::Degraded { reason }
        }
    }
}

/// Tells how the driver is when that changes.
async fn tell_health(watches: Arc<Watches>, news: Arc<Notify>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = news.notified() => {}
        }
        watches.events.health(watches.health());
    }
}

/// Notices when a cluster can be reached and when it cannot.
async fn tell_reachable(cluster: Arc<ClusterWatch>, news: Arc<Notify>, closing: CancellationToken) {
    let mut states = cluster.cluster.health_changes();
    let mut away = false;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
        let is_away = matches!(*states.borrow_and_update(), DriverState::Unavailable { .. });
        if std::mem::replace(&mut away, is_away) && !is_away {
            // Streams of before may be dead without saying so, and those that wait need not.
            cluster.reopen();
        }
        news.notify_one();
    }
}
