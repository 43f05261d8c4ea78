//! Calls as the manager makes them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, DriverState, Error, ErrorKind, Guid, Kind, ObjectSpec, Plan, Result, Retry, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, DeleteRequest, Deleted, DriverEvent,
    DriverInfo, EventStream, Exec, Handle, KindSchema, Logs, Mark, ObjectDriver, Observed, PlanRequest,
    Probe, Recovered, ShutdownMode, Target, async_trait,
};
use futures_util::{FutureExt, StreamExt, future};
use tokio::time::{Instant, sleep, timeout};

use super::driver::PANIC;

/// A driver whose calls are repeated as the manager repeats them: on an error that may pass, a timeout and a panic
/// again with the same `op_id` and `maybe_applied`, until the deadline of the call; after the shutdown no more. Its
/// events are those that are newer than what came before of their object.
#[derive(Clone)]
pub(super) struct Persistent {
    pub(super) inner: Arc<dyn ObjectDriver>,
    pub(super) patience: Duration,
    closed: Arc<AtomicBool>,
}

impl Persistent {
    pub(super) fn new(inner: Arc<dyn ObjectDriver>, patience: Duration) -> Self {
        Self {
            inner,
            patience,
            closed: Arc::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The tries of one call that has so much time.
    pub(super) fn tries(&self, limit: Duration) -> Tries<'_> {
        Tries {
            driver: self,
            began: Instant::now(),
            limit,
            count: 0,
        }
    }
}

/// The tries of one call.
pub(super) struct Tries<'a> {
    driver: &'a Persistent,
    began: Instant,
    limit: Duration,
    count: u32,
}

impl Tries<'_> {
    /// Whether there was a try before: it may have had its effect.
    pub(super) fn repeats(&self) -> bool {
        self.count > 0
    }

    /// The deadline of the next try: a part of the patience, so that one that hangs leaves time for others.
    pub(super) fn deadline(&self) -> Duration {
        let left = self.limit.saturating_sub(self.began.elapsed());
        left.min(self.driver.patience / 4)
    }

    /// One try; none where there is to be another.
    pub(super) async fn once<T>(&mut self, call: impl Future<Output = Result<T>>) -> Option<Result<T>> {
        // A driver that keeps to its deadline answers before.
        let deadline = self.deadline() + self.driver.patience / 20;
        let result = match timeout(deadline, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => match panic.downcast_ref::<String>() {
                Some(text) if text.starts_with(PANIC) => {
                    Err(Error::internal(text.clone()).with_retry(Retry::Later))
                }
                _ => resume_unwind(panic),
            },
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "the driver did not answer by the deadline",
            )),
        };
        let passes = result.as_ref().is_err_and(|error| error.retry() == Retry::Later);
        if passes && !self.driver.is_closed() && self.began.elapsed() < self.limit {
            self.count += 1;
            sleep(Duration::from_millis(u64::from(self.count.min(50)))).await;
            return None;
        }
        Some(result)
    }
}

#[async_trait]
impl ObjectDriver for Persistent {
    fn info(&self) -> &DriverInfo {
        self.inner.info()
    }

    fn schema(&self, kind: &Kind) -> Option<&KindSchema> {
        self.inner.schema(kind)
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        self.inner.capabilities(kind)
    }

    fn health(&self) -> DriverState {
        self.inner.health()
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        self.inner.validate(spec).await
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let mut tries = self.tries(self.patience);
        loop {
            if let Some(result) = tries.once(self.inner.plan(request)).await {
                return result;
            }
        }
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let mut tries = self.tries(request.deadline);
        loop {
            let call = self.inner.apply(ApplyRequest {
                maybe_applied: request.maybe_applied || tries.repeats(),
                deadline: tries.deadline(),
                ..request.clone()
            });
            if let Some(result) = tries.once(call).await {
                return result;
            }
        }
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        let mut tries = self.tries(request.deadline);
        loop {
            let call = self.inner.delete(DeleteRequest {
                deadline: tries.deadline(),
                ..request.clone()
            });
            if let Some(result) = tries.once(call).await {
                return result;
            }
        }
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        let mut tries = self.tries(self.patience);
        loop {
            if let Some(result) = tries.once(self.inner.recover(targets)).await {
                return result;
            }
        }
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        let mut tries = self.tries(self.patience);
        loop {
            if let Some(result) = tries.once(self.inner.discover()).await {
                return result;
            }
        }
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        let before = out.len();
        let mut tries = self.tries(self.patience);
        loop {
            out.truncate(before);
            if let Some(result) = tries.once(self.inner.observe(targets, out)).await {
                return result;
            }
        }
    }

    fn events(&self) -> EventStream {
        let mut newest = BTreeMap::<Guid, u64>::new();
        let mut newer = move |event: &DriverEvent| {
            let DriverEvent::Status(observed) = event else {
                return true;
            };
            let revision = observed.status.evidence.revision;
            let known = newest.get(&observed.guid).copied();
            if known.is_none_or(|known| revision > known) {
                newest.insert(observed.guid, revision);
                return true;
            }
            false
        };
        Box::pin(
            self.inner
                .events()
                .filter(move |event| future::ready(newer(event))),
        )
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        let mut tries = self.tries(request.deadline);
        loop {
            let request = CollectRequest {
                deadline: tries.deadline(),
                ..request
            };
            // A driver that fails adds nothing, so that there is nothing to take back.
            if let Some(result) = tries.once(self.inner.collect(request, out, cursors)).await {
                return result;
            }
        }
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        self.inner.shutdown(mode, deadline).await
    }

    fn redact(&self, spec: &mut ObjectSpec) {
        self.inner.redact(spec);
    }

    fn control(&self) -> Option<&dyn Control> {
        self.inner.control().map(|_| self as &dyn Control)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.inner.logs().map(|_| self as &dyn Logs)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        self.inner.exec().map(|_| self as &dyn Exec)
    }

    fn probe(&self) -> Option<&dyn Probe> {
        self.inner.probe().map(|_| self as &dyn Probe)
    }

    fn handle_version(&self) -> u32 {
        self.inner.handle_version()
    }

    fn reads_handle(&self, handle: &Handle) -> bool {
        self.inner.reads_handle(handle)
    }
}
