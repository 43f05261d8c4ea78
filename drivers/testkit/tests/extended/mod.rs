//! The simulated driver with a method, terminals, secrets and drift, and a mistake.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{
    Condition, ControlAction, Diagnostic, DriverState, ErrorKind, ExitStatus, Guid, Kind, ObjectSpec, OpId,
    Plan, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest, Deleted,
    DriverInfo, Error, EventStream, Exec, ExecOutput, ExecRequest, ExecStream, Handle, InputStream,
    KindSchema, Logs, Mark, Method, ObjectDriver, Observed, PlanRequest, Probe, Recovered, Result,
    ShutdownMode, Target, async_trait,
};
use futures_util::stream;
use serde_json::{Value, json};

pub(crate) const METHOD: &str = "greet";
pub(crate) const SECRET: &str = "hunter2";

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    KeepsTheSecret,
    RedactsAll,
    ThePlanTells,
    HidesTheDrift,
    StaysDrifted,
    TakesAnyMethod,
    TakesAnyArguments,
    NamesNoSummary,
    ForgetsTheSize,
    RestartsTwice,
    ForgetsARestart,
    DeletesOnce,
}

pub(crate) struct Extended {
    inner: Arc<dyn ObjectDriver>,
    mistake: Mistake,
    capabilities: Capabilities,
    drifted: Arc<Mutex<Vec<Guid>>>,
}

impl Extended {
    pub(crate) fn new(
        inner: Arc<dyn ObjectDriver>,
        mistake: Mistake,
        drifted: Arc<Mutex<Vec<Guid>>>,
    ) -> Self {
        let mut capabilities = inner.capabilities(&inner.info().kinds[0]).unwrap().clone();
        capabilities.terminal = true;
        let summary = if mistake == Mistake::NamesNoSummary {
            ""
        } else {
            "Greets someone."
        };
        let method = Method {
            summary: summary.into(),
            arguments: json!({"type": "object", "properties": {"whom": {"type": "string"}}}),
        };
        capabilities.methods.insert(METHOD.into(), method);
        Self {
            inner,
            mistake,
            capabilities,
            drifted,
        }
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }
}

/// Replaces the secret in all texts.
fn without_secret(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace(SECRET, "redacted"),
        Value::Array(values) => values.iter_mut().for_each(without_secret),
        Value::Object(fields) => fields.values_mut().for_each(without_secret),
        _ => {}
    }
}

#[async_trait]
impl ObjectDriver for Extended {
    fn info(&self) -> &DriverInfo {
        self.inner.info()
    }

    fn schema(&self, kind: &Kind) -> Option<&KindSchema> {
        self.inner.schema(kind)
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        self.inner.capabilities(kind).map(|_| &self.capabilities)
    }

    fn health(&self) -> DriverState {
        self.inner.health()
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        self.inner.validate(spec).await
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let mut plan = self.inner.plan(request).await?;
        if !self.has(Mistake::ThePlanTells) {
            let mut shown = serde_json::to_value(&plan).unwrap();
            without_secret(&mut shown);
            plan = serde_json::from_value(shown).unwrap();
        }
        Ok(plan)
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let guid = request.guid;
        let applied = self.inner.apply(request).await?;
        if !self.has(Mistake::StaysDrifted) {
            self.drifted.lock().unwrap().retain(|drifted| *drifted != guid);
        }
        Ok(applied)
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        if self.has(Mistake::DeletesOnce) {
            let found = self.inner.discover().await?;
            if !found.iter().any(|(mark, _)| mark.guid == request.guid) {
                return Err(Error::new(ErrorKind::NotFound, "there is nothing to delete"));
            }
        }
        self.inner.delete(request).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.inner.recover(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.inner.discover().await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.inner.observe(targets, out).await?;
        let drifted = self.drifted.lock().unwrap();
        for observed in out.iter_mut().filter(|observed| drifted.contains(&observed.guid)) {
            if !self.has(Mistake::HidesTheDrift) {
                let condition = Condition::new(Condition::DRIFTED, true, "Changed", "someone changed it");
                observed.status.conditions.push(condition);
            }
        }
        Ok(())
    }

    fn events(&self) -> EventStream {
        self.inner.events()
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.inner.collect(request, out, cursors).await
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        self.inner.shutdown(mode, deadline).await
    }

    fn redact(&self, spec: &mut ObjectSpec) {
        match self.mistake {
            Mistake::KeepsTheSecret => {}
            Mistake::RedactsAll => spec.spec = json!("redacted"),
            _ => without_secret(&mut spec.spec),
        }
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.inner.logs()
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn probe(&self) -> Option<&dyn Probe> {
        self.inner.probe()
    }

    fn handle_version(&self) -> u32 {
        self.inner.handle_version()
    }

    fn reads_handle(&self, handle: &Handle) -> bool {
        self.inner.reads_handle(handle)
    }
}

#[async_trait]
impl Control for Extended {
    async fn control(&self, mut request: ControlRequest<'_>) -> Result<Applied> {
        let control = self.inner.control().unwrap();
        if let ControlAction::Call { method, arguments } = request.action {
            if method != METHOD && !self.has(Mistake::TakesAnyMethod) {
                return Err(Error::new(ErrorKind::Unsupported, "there is no such method"));
            }
            if !arguments["whom"].is_string() && method == METHOD && !self.has(Mistake::TakesAnyArguments) {
                return Err(Error::invalid("arguments.whom", "must be a text"));
            }
            let mut out = Vec::new();
            let target = Target {
                guid: request.guid,
                handle: request.handle,
            };
            self.inner.observe(&[target], &mut out).await?;
            return Ok(Applied::new(request.handle.clone(), out.remove(0).status));
        }
        if request.maybe_applied {
            match self.mistake {
                Mistake::RestartsTwice => request.op_id = OpId::generate(),
                Mistake::ForgetsARestart => {
                    let found = self.inner.discover().await?;
                    let (_, handle) = found
                        .into_iter()
                        .find(|(mark, _)| mark.guid == request.guid)
                        .unwrap();
                    let target = Target {
                        guid: request.guid,
                        handle: &handle,
                    };
                    let mut out = Vec::new();
                    self.inner.observe(&[target], &mut out).await?;
                    return Ok(Applied::new(handle, out.remove(0).status));
                }
                _ => {}
            }
        }
        control.control(request).await
    }
}

#[async_trait]
impl Exec for Extended {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        let Some(size) = request.terminal else {
            return self.inner.exec().unwrap().exec(target, request, input).await;
        };
        let columns = if self.has(Mistake::ForgetsTheSize) {
            80
        } else {
            size.columns
        };
        Ok(Box::pin(stream::iter([
            Ok(ExecOutput::Stdout(format!("{columns}\r\n").into_bytes().into())),
            Ok(ExecOutput::Exit(ExitStatus::with_code(0))),
        ])))
    }
}
