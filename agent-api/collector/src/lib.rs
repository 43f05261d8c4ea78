//! The collector contract: which objects there are, which leases there are, and so what is collected when.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Handle;
use agent_api_model::{Guid, Lease, LeaseId, ObjectView, QueueInfo, Result};
use async_trait::async_trait;

/// Plans what is collected when, and has the collect workers do it. One collection covers many objects.
///
/// No method waits for a driver or for the bus: they change the plan and return.
#[async_trait]
pub trait CollectorApi: Send + Sync + 'static {
    /// Adds an object that runs, or replaces its view and handle.
    ///
    /// # Behavior
    ///
    /// - Leases whose selector chooses it begin to cover it; log cursors are kept over a replaced handle.
    fn add(&self, view: &Arc<ObjectView>, handle: &Arc<Handle>);

    /// Takes an object out. One that is not there is no error.
    ///
    /// # Behavior
    ///
    /// - What its logs hold at that moment is still collected once, where a lease covers them.
    fn remove(&self, guid: Guid);

    /// Begins with a lease.
    ///
    /// # Behavior
    ///
    /// - The first collection comes at once, then one in each interval; an interval that was missed is skipped, never
    ///   made up for in a burst.
    /// - Ends by itself at [`Lease::expires`], unless renewed by the same lease with a later time.
    /// - More leases than the limit: `Busy`.
    fn start(&self, lease: Lease) -> Result<()>;

    /// Ends a lease; `false` where it is not known.
    fn stop(&self, id: LeaseId) -> bool;

    /// Changes the interval of a lease; `false` where it is not known.
    fn retune(&self, id: LeaseId, interval: Duration) -> bool;

    /// Numbers for `info`. No waiting.
    fn stats(&self) -> CollectorStats;

    /// Ends the workers: a collection in flight is finished, or dropped at the deadline.
    async fn shutdown(&self, deadline: Duration) -> Result<()>;
}

/// Numbers for `info`.
#[derive(Clone, Debug, Default)]
pub struct CollectorStats {
    /// Standing tasks.
    pub tasks: usize,
    /// Objects known.
    pub objects: usize,
    /// Leases in force.
    pub leases: usize,
    /// Collections made.
    pub collections: u64,
    /// Collections that failed or were skipped because the one before had not ended.
    pub skipped: u64,
    /// Changes of the plan that wait for the worker.
    pub queue: QueueInfo,
}
