//! The worker's handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Guid, Lease, LeaseId, QueueInfo, Result, TelemetryBatch};
use agent_reporter_rpc_client::{Message, Registration, RpcClient};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::WorkerConfig;
use crate::instruments::Instruments;
use crate::loops;
use crate::loss::LossReport;
use crate::registry::Change;
use crate::state::{STOPPED, Shared};

/// Numbers of the worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Standing tasks: 1, or 0 after the shutdown.
    pub tasks: usize,
    /// Messages written.
    pub published: u64,
    /// Messages and registry calls that failed and were given up or tried again.
    pub failed: u64,
    /// Batches of log lines refused for want of room; they stay at their source.
    pub refused: u64,
    /// Points, lines, spans and events lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Bytes that wait, and the room for them.
    pub queue: QueueInfo,
    /// Leases for which message numbers are kept.
    pub leases: usize,
}

/// The report worker: takes events and telemetry without waiting, and writes them from one task of its own.
pub struct ReportWorker {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl ReportWorker {
    /// Starts the worker's task on the present runtime.
    #[must_use]
    pub fn start(config: WorkerConfig, rpc: Arc<dyn RpcClient>) -> Self {
        let shared = Arc::new(Shared::new(config));
        Instruments::observe(Arc::downgrade(&shared));
        let task = tokio::spawn(loops::run(shared.clone(), rpc));
        Self {
            shared,
            task: Mutex::new(Some(task)),
        }
    }

    /// Takes an event for the lane ahead of telemetry. Never waits; where there is no room the oldest are dropped,
    /// counted and told on their topic.
    pub fn event(&self, message: Message) {
        self.shared.event(message);
    }

    /// Takes telemetry of a lease. Never waits; behaves as the reporter contract's `ReportSink::offer` says.
    pub fn offer(&self, lease: &Lease, batch: TelemetryBatch) -> bool {
        self.shared.offer(lease, batch)
    }

    /// Lets go what is kept for a lease: nothing more is offered for it.
    pub fn end(&self, lease: LeaseId) {
        self.shared.end(lease);
    }

    /// How much room for telemetry is left, 0 to 1.
    #[must_use]
    pub fn room(&self) -> f64 {
        let state = self.shared.state.lock();
        if state.closed {
            return 0.0;
        }
        let used = state.values.bytes() + state.logs.bytes();
        (1.0 - used as f64 / self.shared.config.telemetry_bytes.max(1) as f64).max(0.0)
    }

    /// Has an object registered. Never waits.
    pub fn register(&self, object: Registration) {
        self.shared.change_registry(Change::Register(object));
    }

    /// Has an object withdrawn. Never waits.
    pub fn withdraw(&self, guid: Guid) {
        self.shared.change_registry(Change::Withdraw(guid));
    }

    /// Waits until all that was taken before is written, and losses are told.
    ///
    /// # Errors
    ///
    /// `Timeout` with what is left; it stays and goes on being written. Cancelling it changes nothing.
    pub async fn flush(&self, deadline: Duration) -> Result<()> {
        let mark = self.shared.mark();
        let written = async {
            loop {
                let progress = self.shared.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                if self.shared.reached(&mark) {
                    return;
                }
                progress.await;
            }
        };
        tokio::time::timeout(deadline, written).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "{} bytes of reports were not written within {deadline:?}",
                    self.shared.queued_bytes()
                ),
            )
            .with_operation("flush")
        })
    }

    /// Takes nothing in any more, flushes, and ends the task. A second shutdown is success.
    ///
    /// # Errors
    ///
    /// `Timeout` where not all was written; what was not is counted as lost. The task is ended all the same.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        self.shared.state.lock().closed = true;
        let task = self.task.lock().take();
        let Some(mut task) = task else { return Ok(()) };
        let flushed = self.flush(deadline).await;
        self.shared.cancel.cancel();
        // The loops give way at each await; only an encode of one batch may be under way.
        let grace = end.max(Instant::now() + Duration::from_secs(1));
        if tokio::time::timeout_at(grace, &mut task).await.is_err() {
            task.abort();
        }
        self.count_rest();
        flushed
    }

    /// Numbers. No waiting.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        let shared = &self.shared;
        let tasks = usize::from(self.task.lock().as_ref().is_some_and(|task| !task.is_finished()));
        let state = shared.state.lock();
        let lost = state.losses.totals().clone();
        let mut leases: Vec<_> = state.sequences.keys().map(|(lease, _)| *lease).collect();
        leases.sort_unstable();
        leases.dedup();
        WorkerStats {
            tasks,
            published: shared.published.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            queue: QueueInfo {
                length: state.events.bytes() + state.values.bytes() + state.logs.bytes(),
                capacity: shared.config.event_bytes + shared.config.telemetry_bytes,
                dropped: lost.values().sum(),
            },
            lost,
            leases: leases.len(),
        }
    }

    /// Counts what is left after the end of the task as lost, also what was being written: nobody knows of it.
    fn count_rest(&self) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let mut topics = std::mem::take(&mut state.writing_events);
        topics.extend(state.events.drain().map(|message| message.topic));
        for topic in topics {
            shared.lose_event(&mut state, &topic, STOPPED);
        }
        for (topic, loss) in std::mem::take(&mut state.writing) {
            let reason = STOPPED.into();
            shared.lose(&mut state, &topic, LossReport { reason, ..loss });
        }
        let mut entries: Vec<_> = state.values.drain().collect();
        entries.extend(state.logs.drain());
        for entry in entries {
            shared.lose_entry(&mut state, &entry, STOPPED);
        }
    }
}

impl Drop for ReportWorker {
    fn drop(&mut self) {
        // Without a shutdown nothing is flushed, but no task is left behind.
        self.shared.cancel.cancel();
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}
