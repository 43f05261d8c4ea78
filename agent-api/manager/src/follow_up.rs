//! What the core does after a decision.

use std::time::Duration;

use agent_api_driver::Handle;
use agent_api_model::{Guid, LifecycleEvent, ObjectView, OpId};
use std::sync::Arc;

use crate::Operation;

/// What the core does after a decision, in the order given.
#[derive(Clone, Debug)]
pub enum FollowUp {
    /// Run this operation.
    Run(Box<Operation>),
    /// Cancel this operation if it has not ended: drop the call. Its outcome is no longer wanted.
    Cancel(OpId),
    /// Call [`Partition::wake`](crate::Partition::wake) later. Replaces an earlier wake of the same object and reason.
    Wake(Wake),
    /// Forget the wake of this object and reason.
    Unwake(Guid, WakeReason),
    /// Report this on Bus Out.
    Publish(Box<LifecycleEvent>),
    /// The view changed: tell the watchers.
    Changed(Arc<ObjectView>),
    /// The object runs and can be collected from; also after its handle changed.
    Collect {
        /// Its view.
        view: Arc<ObjectView>,
        /// Its reference.
        handle: Arc<Handle>,
    },
    /// The object no longer runs: stop collecting from it.
    StopCollecting(Guid),
    /// The object's methods can be called: register them with the rpc client.
    Register(Arc<ObjectView>),
    /// The object is being deleted: withdraw its methods and its GUID.
    Withdraw(Guid),
    /// Tell the shard of that object that something it waits for has changed:
    /// [`Partition::dependency_changed`](crate::Partition::dependency_changed).
    Notify(Guid),
    /// The object is gone: tell the watchers, forget everything about it.
    Gone(Arc<ObjectView>),
}

/// A wake-up to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Which object.
    pub guid: Guid,
    /// What for.
    pub reason: WakeReason,
    /// In how long.
    pub after: Duration,
}

/// What a wake-up is for. One of each per object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeReason {
    /// The back-off before a restart or before another try of an operation is over.
    Retry,
    /// The next health probe is due.
    Probe,
}
