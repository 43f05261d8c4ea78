//! The worker's handle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api_driver::{DriverSet, Handle};
use agent_api_model::{Error, ErrorKind, Guid, Lease, LeaseId, ObjectView, QueueInfo, Result};
use agent_api_reporter::ReportSink;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::inbox::Inbox;
use crate::instruments::Instruments;
use crate::runner::Runner;

/// Numbers of the worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Standing tasks: 1, or 0 after the shutdown. Driver calls in flight come on top.
    pub tasks: usize,
    /// Objects known.
    pub objects: usize,
    /// Leases in force.
    pub leases: usize,
    /// Collections made.
    pub collections: u64,
    /// Collections that failed or were skipped.
    pub skipped: u64,
    /// Changes that wait for the worker; one for each object and lease at most.
    pub queue: QueueInfo,
}

/// The collect worker: see the [crate].
pub struct CollectWorker {
    inbox: Arc<Inbox>,
    instruments: Arc<Instruments>,
    max_leases: usize,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl CollectWorker {
    /// Starts the worker's task on the present runtime.
    #[must_use]
    pub fn start(config: WorkerConfig, drivers: DriverSet, sink: Arc<dyn ReportSink>) -> Self {
        let inbox = Arc::new(Inbox::default());
        let instruments = Arc::new(Instruments::new());
        let stop = CancellationToken::new();
        let max_leases = config.max_leases;
        let runner = Runner::new(
            config,
            drivers,
            sink,
            inbox.clone(),
            instruments.clone(),
            stop.clone(),
        );
        Self {
            inbox,
            instruments,
            max_leases,
            stop,
            task: Mutex::new(Some(tokio::spawn(runner.run()))),
        }
    }

    /// Adds an object or replaces its view and handle. Never waits.
    pub fn add(&self, view: &Arc<ObjectView>, handle: &Arc<Handle>) {
        self.inbox.add(view, handle);
    }

    /// Takes an object out; its last lines are still collected. Never waits.
    pub fn remove(&self, guid: Guid) {
        self.inbox.remove(guid);
    }

    /// Begins with a lease, or renews it. Never waits.
    ///
    /// # Errors
    ///
    /// `Busy` where there are too many, `Unavailable` after the shutdown.
    pub fn begin(&self, lease: Lease) -> Result<()> {
        self.inbox.start(lease, self.max_leases)
    }

    /// Ends a lease; `false` where it is not known. Never waits.
    pub fn end(&self, id: LeaseId) -> bool {
        self.inbox.stop(id)
    }

    /// Changes the interval of a lease; `false` where it is not known. Never waits.
    pub fn retune(&self, id: LeaseId, interval: Duration) -> bool {
        self.inbox.retune(id, interval)
    }

    /// Numbers. No waiting.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        let (leases, waiting) = self.inbox.numbers();
        let (collections, skipped) = self.instruments.numbers();
        let objects = self.instruments.objects.load(Ordering::Relaxed);
        WorkerStats {
            tasks: usize::from(self.task.lock().as_ref().is_some_and(|task| !task.is_finished())),
            objects,
            leases,
            collections,
            skipped,
            queue: QueueInfo {
                length: waiting,
                capacity: objects.max(waiting) + self.max_leases,
                dropped: 0,
            },
        }
    }

    /// Ends the worker: calls in flight are finished, or dropped at the deadline. A second shutdown is success.
    ///
    /// # Errors
    ///
    /// `Timeout` where calls in flight had to be dropped.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.inbox.close();
        self.stop.cancel();
        let task = self.task.lock().take();
        let Some(mut task) = task else { return Ok(()) };
        if tokio::time::timeout(deadline, &mut task).await.is_ok() {
            return Ok(());
        }
        // The calls in flight are owned by the task, and end with it.
        task.abort();
        Err(Error::new(
            ErrorKind::Timeout,
            format!("collections in flight were dropped after {deadline:?}"),
        )
        .with_operation("collector.shutdown"))
    }
}

impl Drop for CollectWorker {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}
