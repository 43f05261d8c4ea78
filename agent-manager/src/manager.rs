//! The manager as the core sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{DriverSet, Handle, Observed};
use agent_api_manager::{ManagerApi, ManagerStats, Operation, Outcome, Partition, RecoveryReport};
use agent_api_model::{
    Accepted, Explanation, Guid, ListRequest, ObjectName, ObjectSpec, ObjectView, Phase, Plan, PlanRequest,
    RequestId, Result, ShardId, Target, Timestamp,
};
use agent_core_journal::{RealVfs, Vfs};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::breaker::Breaker;
use crate::config::ManagerConfig;
use crate::dependencies::Graph;
use crate::keys::Keys;
use crate::line::{Line, Tag};
use crate::partition::{Shard, shard_of};
use crate::replay::{Replay, snapshot};
use crate::shared::{Counters, Shared};
use crate::store::Store;
use crate::table::Table;

/// The manager. Share it in an [`Arc`]; what it does is in [`ManagerApi`] and [`Partition`].
pub struct Manager {
    shared: Arc<Shared>,
    compacting: tokio::sync::Mutex<()>,
}

impl Manager {
    /// Opens the journal, reads what is in it, and has all objects in memory: not yet compared with the substrates,
    /// which [`ManagerApi::recover`] does. Blocks for reading the journal; not for a runtime thread.
    ///
    /// Records that cannot be read are set aside and named in the notes of [`ManagerApi::recover`]; they are never a
    /// reason not to open.
    ///
    /// # Errors
    /// `Conflict` where another agent has the journal, `Denied`, `Unavailable` or `Invalid` where the directory or the
    /// configuration cannot be used, and where the journal is of a newer version.
    pub fn open(config: ManagerConfig, drivers: DriverSet) -> Result<Arc<Self>> {
        Self::open_on(Arc::new(RealVfs::new()), config, drivers)
    }

    /// [`open`](Self::open) on a given file system: for tests and simulations.
    pub fn open_on(vfs: Arc<dyn Vfs>, config: ManagerConfig, drivers: DriverSet) -> Result<Arc<Self>> {
        let mut replay = Replay::new(config.history);
        let store = Store::open(vfs, config.journal.clone(), |line| replay.take(line))?;
        let table = Table::default();
        let mut graph = Graph::default();
        let mut notes = Vec::new();
        // In the order of their ids, which is that of their creation: of two with one name the older stays.
        let mut images: Vec<_> = replay.images.into_iter().collect();
        images.sort_unstable_by_key(|(guid, _)| *guid);
        for (guid, image) in images {
            let object = Arc::new(image.into_object(guid));
            if !table.insert(&object) {
                notes.push(format!(
                    "two objects of the name {} in the journal; {guid} is left out",
                    object.name
                ));
                continue;
            }
            let (phase, text) = {
                let state = object.state.lock();
                // Most depend on nothing, which is seen without reading the whole spec.
                let depends = state.spec.contains("\"depends_on\"");
                (state.phase, depends.then(|| state.spec.clone()))
            };
            if let Some(text) = text
                && let Err(error) = graph.set(guid, &crate::record::parse(&text))
            {
                notes.push(format!("{}: its dependencies are left out: {error}", object.name));
            }
            object.publish_phase(phase);
        }
        let keys = Keys::new(config.keys, config.key_retention);
        let now = Timestamp::now();
        for (key, accepted, at) in replay.keys {
            if now.since(at) < config.key_retention {
                keys.keep(&key, &accepted, 0, at);
            }
        }
        let breakers: BTreeMap<_, _> = drivers
            .iter()
            .map(|(name, _)| {
                let breaker = Breaker::new(config.breaker_failures, config.breaker_open, config.breaker_cap);
                (name.clone(), breaker)
            })
            .collect();
        Ok(Arc::new(Self {
            shared: Arc::new(Shared {
                drivers,
                store,
                table,
                graph: Mutex::new(graph),
                keys: Arc::new(keys),
                breakers,
                answers: Mutex::default(),
                notes,
                counters: Counters::default(),
                phases: Arc::default(),
                config,
            }),
            compacting: tokio::sync::Mutex::new(()),
        }))
    }
}

#[async_trait]
impl ManagerApi for Manager {
    fn partition(&self, shard: ShardId) -> Box<dyn Partition> {
        Box::new(Shard::new(self.shared.clone(), shard))
    }

    fn shard_of(&self, guid: Guid) -> ShardId {
        shard_of(guid, self.shared.config.shards)
    }

    async fn run(&self, operation: Operation) -> Outcome {
        crate::run::run(&self.shared, operation).await
    }

    async fn recover(&self, deadline: Duration) -> RecoveryReport {
        crate::recovery::recover(&self.shared, deadline).await
    }

    fn resolve(&self, target: &Target) -> Option<Guid> {
        self.shared.table.resolve(target)
    }

    fn view(&self, guid: Guid) -> Option<Arc<ObjectView>> {
        let object = self.shared.table.get(guid)?;
        let state = object.state.lock();
        Some(crate::view::build(&object, &state))
    }

    fn known(&self, guid: Guid) -> Option<(Phase, u64)> {
        let object = self.shared.table.get(guid)?;
        let state = object.state.lock();
        Some((state.phase, state.evidence.revision))
    }

    fn shows(&self, observed: &Observed) -> bool {
        let Some(object) = self.shared.table.get(observed.guid) else {
            return true;
        };
        let state = object.state.lock();
        crate::observe::shows(&state, observed)
    }

    fn spec(&self, guid: Guid) -> Option<Arc<ObjectSpec>> {
        let text = self.shared.table.get(guid)?.state.lock().spec.clone();
        Some(crate::record::parse(&text))
    }

    fn handle(&self, guid: Guid) -> Option<Arc<Handle>> {
        self.shared.table.get(guid)?.state.lock().handle.clone()
    }

    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>> {
        self.shared.table.list(request)
    }

    fn explain(&self, guid: Guid) -> Option<Explanation> {
        let object = self.shared.table.get(guid)?;
        let waits = {
            let state = object.state.lock();
            state.waits_to_begin().then(|| state.spec.clone())
        };
        let waits_for = waits.map_or_else(Vec::new, |text| {
            let spec = crate::record::parse(&text);
            let unmet = self.shared.unmet(&spec.depends_on);
            unmet.into_iter().map(|(_, why)| why).collect()
        });
        let state = object.state.lock();
        Some(crate::view::explain(&object, &state, waits_for))
    }

    fn dependents(&self, name: &ObjectName) -> Vec<ObjectName> {
        let graph = self.shared.graph.lock();
        graph.dependents(name).into_iter().map(|(name, _)| name).collect()
    }

    fn replied(&self, key: &RequestId) -> Option<Accepted> {
        self.shared.keys.replied(key)
    }

    async fn plan(&self, request: &PlanRequest) -> Result<Plan> {
        crate::plan::plan(&self.shared, request).await
    }

    fn stats(&self) -> ManagerStats {
        let (journal, journal_queue) = self.shared.store.info();
        let mut counters = self.shared.counters.all();
        counters.push(("records_unwritten", self.shared.store.unwritten()));
        let open = self
            .shared
            .breakers
            .values()
            .filter(|breaker| breaker.is_open())
            .count();
        counters.push(("breakers_open", open as u64));
        ManagerStats {
            journal,
            journal_queue,
            objects: self.shared.phases.all(),
            counters,
        }
    }

    async fn compact(&self) -> Result<()> {
        let Ok(_one) = self.compacting.try_lock() else {
            return Ok(());
        };
        if !self.shared.store.wants_snapshot(self.shared.config.compact_bytes) {
            return Ok(());
        }
        let shared = self.shared.clone();
        self.shared.store.snapshot(move || gather(&shared)).await
    }

    async fn seal(&self, deadline: Duration) -> Result<()> {
        self.shared.store.seal(deadline).await
    }
}

/// All that a snapshot holds.
fn gather(shared: &Shared) -> Vec<Vec<u8>> {
    let mut records = Vec::with_capacity(shared.table.len());
    shared.table.walk(None, |object| {
        let state = object.state.lock();
        records.extend(snapshot(object, &state));
        true
    });
    for (key, accepted, at) in shared.keys.all(Timestamp::now()) {
        let mut line = Line::new(Tag::Key, accepted.guid, at);
        line.k = Some(key);
        line.o = Some(accepted.op_id);
        line.n = accepted.generation;
        line.nm = Some(accepted.name);
        records.push(line.write());
    }
    records
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager")
            .field("agent", &self.shared.config.agent)
            .field("objects", &self.shared.table.len())
            .finish_non_exhaustive()
    }
}
