//! A driver behind faults.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, DriverState, Error, ErrorKind, Guid, Kind, ObjectSpec, Plan, Result, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest, Deleted,
    DriverInfo, EventStream, Exec, ExecRequest, ExecStream, Handle, InputStream, KindSchema, LogReadRequest,
    LogStreamOut, Logs, Mark, ObjectDriver, Observed, PlanRequest, Probe, ProbeOutcome, ProbeRequest,
    Recovered, ShutdownMode, Target, async_trait,
};
use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use super::dice::Dice;
use super::events::EventFaults;
use super::faults::{Fate, Faults};

/// How a panic of ours begins, so that who catches it can tell it from one of the driver.
pub(super) const PANIC: &str = "chaos: ";

/// A driver behind faults: calls fail before or after they had their effect, hang or panic, and events come twice,
/// late or not at all.
///
/// The same seed brings the same faults: what becomes of a call depends on the seed, its method and how many calls
/// of that method were before it. Extensions have the faults too; a command that was started always answers, as its
/// input is gone with it. `validate` and `shutdown`, which have no error that would pass, are at most held up.
pub struct Chaos {
    inner: Arc<dyn ObjectDriver>,
    seed: u64,
    faults: Faults,
    calls: Mutex<BTreeMap<&'static str, Calls>>,
    record: Record,
}

/// Calls of one method.
#[derive(Debug, Default)]
struct Calls {
    count: u64,
    in_a_row: u32,
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("driver", &self.inner.info().name)
            .field("seed", &self.seed)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl Chaos {
    /// This driver behind such faults, drawn from this seed.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectDriver>, seed: u64, faults: Faults) -> Self {
        Self::recorded(inner, seed, faults, Record::default())
    }

    pub(super) fn recorded(inner: Arc<dyn ObjectDriver>, seed: u64, faults: Faults, record: Record) -> Self {
        Self {
            inner,
            seed,
            faults,
            calls: Mutex::default(),
            record,
        }
    }

    /// The last faults of calls, oldest first, for example `apply #3: AnswerLost`; at most 64.
    #[must_use]
    pub fn injected(&self) -> Vec<String> {
        self.record.last()
    }

    /// What becomes of the next call of this method, and how long it is held up first.
    fn draw(&self, call: &'static str) -> (Fate, Duration, Dice) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.entry(call).or_default();
        let n = calls.count;
        calls.count += 1;
        let mut dice = Dice::new(self.seed, call, n);
        let (mut fate, delay) = (self.faults.fate(&mut dice), self.faults.delay(&mut dice));
        if self.faults.in_a_row > 0 && calls.in_a_row >= self.faults.in_a_row {
            fate = Fate::Through;
        }
        if fate == Fate::Through {
            calls.in_a_row = 0;
        } else {
            calls.in_a_row += 1;
            self.record.note(format!("{call} #{n}: {fate:?}"));
        }
        (fate, delay, dice)
    }

    async fn through<T>(&self, call: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (fate, delay, _) = self.draw(call);
        suffer(call, fate, delay, work).await
    }
}

async fn suffer<T>(
    call: &'static str,
    fate: Fate,
    delay: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    if !delay.is_zero() {
        sleep(delay).await;
    }
    match fate {
        Fate::Through => work.await,
        Fate::Unavailable => Err(unavailable(call)),
        Fate::AnswerLost => {
            work.await?;
            Err(Error::new(ErrorKind::Timeout, "the answer was lost on its way")
                .with_operation(call)
                .with_hint("call again with the same op_id"))
        }
        Fate::Hang { after } => {
            if after {
                work.await?;
            }
            std::future::pending().await
        }
        Fate::Panic { after } => {
            if after {
                work.await?;
            }
            // Past the panic hook: it is no news.
            std::panic::resume_unwind(Box::new(format!("{PANIC}{call} panics")))
        }
    }
}

fn unavailable(call: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "the substrate cannot be reached now").with_operation(call)
}

#[async_trait]
impl ObjectDriver for Chaos {
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
        let (_, delay, _) = self.draw("validate");
        sleep(delay).await;
        self.inner.validate(spec).await
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.through("plan", self.inner.plan(request)).await
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.through("apply", self.inner.apply(request)).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.through("delete", self.inner.delete(request)).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.through("recover", self.inner.recover(targets)).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.through("discover", self.inner.discover()).await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        let observe = async {
            let mut found = Vec::new();
            self.inner.observe(targets, &mut found).await.map(|()| found)
        };
        out.extend(self.through("observe", observe).await?);
        Ok(())
    }

    fn events(&self) -> EventStream {
        let mut faults = EventFaults::new(self.seed, self.faults.clone());
        Box::pin(
            self.inner
                .events()
                .flat_map(move |event| stream::iter(faults.pass(event))),
        )
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        let collect = async {
            let (mut batch, mut next) = (TelemetryBatch::default(), Vec::new());
            self.inner.collect(request, &mut batch, &mut next).await?;
            Ok((batch, next))
        };
        let (batch, next) = self.through("collect", collect).await?;
        out.metrics.extend(batch.metrics);
        out.logs.extend(batch.logs);
        out.spans.extend(batch.spans);
        out.losses.extend(batch.losses);
        cursors.extend(next);
        Ok(())
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
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

/// What a driver without this extension answers.
pub(super) fn lacks(extension: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the driver has no extension {extension}"),
    )
}

#[async_trait]
impl Control for Chaos {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let control = self.inner.control().ok_or_else(|| lacks("control"))?;
        self.through("control", control.control(request)).await
    }
}

#[async_trait]
impl Logs for Chaos {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        let logs = self.inner.logs().ok_or_else(|| lacks("logs"))?;
        let (fate, delay, mut dice) = self.draw("logs");
        let stream = suffer("logs", fate, delay, logs.read(target, request)).await?;
        if !dice.happens(self.faults.log_break) {
            return Ok(stream);
        }
        let chunks = dice.below(4);
        self.record.note(format!("logs: breaks after {chunks} chunks"));
        let broken = stream::once(async { Err(unavailable("logs")) });
        Ok(Box::pin(stream.take(chunks).chain(broken)))
    }
}

#[async_trait]
impl Exec for Chaos {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        let exec = self.inner.exec().ok_or_else(|| lacks("exec"))?;
        let (fate, delay, _) = self.draw("exec");
        suffer("exec", fate.before(), delay, exec.exec(target, request, input)).await
    }
}

#[async_trait]
impl Probe for Chaos {
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        let probe = self.inner.probe().ok_or_else(|| lacks("probe"))?;
        self.through("probe", probe.probe(request)).await
    }
}

/// The last faults; outlives the driver, for who asks after its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<VecDeque<String>>>);

impl Record {
    const KEPT: usize = 64;

    fn note(&self, fault: String) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == Self::KEPT {
            last.pop_front();
        }
        last.push_back(fault);
    }

    pub(super) fn last(&self) -> Vec<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().cloned().collect()
    }
}
