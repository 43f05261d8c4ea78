//! The engine: the loops that do the work.
//!
//! Standing tasks, O(shards + drivers) whatever the number of objects:
//!
//! | task | how many | owns |
//! | --- | --- | --- |
//! | shard | one per core | a partition of the manager, its inbox, its timer wheel, its operations in flight |
//! | driver events | one per driver | the driver's one stream of events |
//! | heartbeat | 1 | the heartbeat report, the refresh of the drivers' health |
//! | compactor | 1 | the manager's snapshots |
//!
//! Queues, all bounded: per shard the control lane, the ordinary lane and the sightings of the drivers' pumps
//! ([`door`]); its mail, where equal notes are one; per driver and shard the operations that wait for room, bounded by
//! the number of objects since each has one operation at a time.

pub(crate) mod audit;
pub(crate) mod cell;
pub(crate) mod door;
pub(crate) mod follow;
pub(crate) mod heart;
pub(crate) mod operations;
pub(crate) mod pump;
pub(crate) mod shard;
pub(crate) mod wheel;

use std::sync::Arc;

use agent_api::driver::EventStream;
use agent_api::manager::Partition;
use agent_api::model::ShardId;
use tokio::task::JoinHandle;

use crate::shared::Shared;
use door::Inbox;
use shard::{Shard, ShardEnd};

/// A task that ends with its owner.
pub(crate) struct Owned<T>(JoinHandle<T>);

impl<T> Owned<T> {
    pub(crate) fn new(handle: JoinHandle<T>) -> Self {
        Self(handle)
    }

    /// Waits for the task, at most until that moment; `None` where it did not end or panicked.
    pub(crate) async fn join(&mut self, until: tokio::time::Instant) -> Option<T> {
        tokio::time::timeout_at(until, &mut self.0).await.ok()?.ok()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The standing tasks of an agent. Dropped, they are aborted.
pub(crate) struct Tasks {
    pub(crate) shards: Vec<Owned<ShardEnd>>,
    pub(crate) others: Vec<Owned<()>>,
}

/// Starts the loops on the present runtime.
pub(crate) fn start(
    shared: &Arc<Shared>,
    partitions: Vec<Box<dyn Partition>>,
    inboxes: Vec<Inbox>,
    streams: Vec<Option<EventStream>>,
) -> Tasks {
    let shards = partitions
        .into_iter()
        .zip(inboxes)
        .enumerate()
        .map(|(number, (partition, inbox))| {
            let id = ShardId(u16::try_from(number).expect("at most 256 shards"));
            let shard = Shard::new(id, Arc::clone(shared), partition, inbox);
            Owned::new(tokio::spawn(shard.run()))
        })
        .collect();
    let mut others = Vec::new();
    for (cell, stream) in shared.drivers.values().zip(streams) {
        if let Some(stream) = stream {
            let pump = pump::run(Arc::clone(shared), Arc::clone(cell), stream);
            others.push(Owned::new(tokio::spawn(pump)));
        }
    }
    others.push(Owned::new(tokio::spawn(heart::beat(Arc::clone(shared)))));
    others.push(Owned::new(tokio::spawn(heart::compact(Arc::clone(shared)))));
    Tasks { shards, others }
}
