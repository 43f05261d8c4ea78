//! The agent core's face.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api::agent::{AgentApi, Change, ResultStream};
use agent_api::model::{
    Accepted, AgentInfo, Description, DriverView, Error, ErrorKind, ExecFrame, ExecInputRequest, ExecRequest,
    Explanation, HealthReport, Kind, Lease, LeaseId, ListRequest, LogFrame, LogRequest, MonitorRequest,
    ObjectView, Plan, PlanRequest, RequestMeta, Result, StageTimes, Target, WatchEvent, WatchRequest,
};
use async_trait::async_trait;
use tokio::time::Instant;

use crate::registry::{calls, methods, not_shown};
use crate::shared::not_found;
use crate::{Agent, exec, health, stream, submit};

/// How long a plan may take.
const PLAN: Duration = Duration::from_secs(10);

#[async_trait]
impl AgentApi for Agent {
    async fn submit(&self, meta: RequestMeta, change: Change) -> Result<(Accepted, StageTimes)> {
        submit::submit(self.shared(), meta, change).await
    }

    fn describe(&self, target: &Target) -> Result<Description> {
        let shared = self.shared();
        let guid = shared.resolve(target)?;
        let missing = || not_found(target);
        let view = shared.manager.view(guid).ok_or_else(missing)?;
        let spec = shared.manager.spec(guid).ok_or_else(missing)?;
        let (spec, methods, calls) = match shared.registry.kind(&view.kind) {
            Ok(entry) => (
                entry.shown(&spec),
                methods(&entry.capabilities),
                calls(&entry.capabilities, false),
            ),
            Err(error) => (not_shown(&spec, error.message()), Vec::new(), BTreeMap::new()),
        };
        Ok(Description {
            view,
            spec: Arc::new(spec),
            methods,
            calls,
        })
    }

    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>> {
        self.shared().manager.list(request)
    }

    fn explain(&self, target: &Target) -> Result<Explanation> {
        let shared = self.shared();
        let guid = shared.resolve(target)?;
        shared.manager.explain(guid).ok_or_else(|| not_found(target))
    }

    fn watch(&self, request: &WatchRequest) -> Result<ResultStream<WatchEvent>> {
        let shared = self.shared();
        let object = request
            .object
            .as_ref()
            .map(|target| shared.resolve(target))
            .transpose()?;
        Ok(Box::pin(shared.hub.watch(
            object,
            request.selector.clone(),
            Arc::clone(&shared.manager),
            Arc::clone(&shared.counters),
        )))
    }

    async fn plan(&self, request: &PlanRequest) -> Result<Plan> {
        let shared = self.shared();
        if let PlanRequest::Apply(spec) = request {
            let entry = shared
                .registry
                .kind(&spec.kind)
                .map_err(|error| error.with_object(&spec.name))?;
            entry.check(spec)?;
        }
        tokio::time::timeout(PLAN, shared.manager.plan(request))
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    "the driver did not say in time what it would do",
                )
                .with_operation("plan"))
            })
    }

    async fn monitor(&self, request: &MonitorRequest) -> Result<Lease> {
        let shared = self.shared();
        if shared.is_draining() {
            return Err(crate::engine::door::leaving());
        }
        let guid = match (&request.renew, &request.object) {
            (None, Some(target)) => Some(shared.resolve(target)?),
            _ => None,
        };
        let lease = shared.reporter.subscribe(request, guid)?;
        if let Err(error) = shared.collector.start(lease.clone()) {
            if request.renew.is_none() {
                shared.reporter.unsubscribe(lease.id);
            }
            return Err(error);
        }
        Ok(lease)
    }

    async fn unmonitor(&self, id: LeaseId) -> Result<()> {
        let shared = self.shared();
        let collected = shared.collector.stop(id);
        let reported = shared.reporter.unsubscribe(id);
        if collected || reported {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no lease {id}; it may have ended"),
        ))
    }

    async fn logs(&self, target: &Target, request: &LogRequest) -> Result<ResultStream<LogFrame>> {
        stream::logs(self.shared(), target, request).await
    }

    async fn exec(
        &self,
        caller: &str,
        target: &Target,
        request: &ExecRequest,
    ) -> Result<ResultStream<ExecFrame>> {
        exec::exec(self.shared(), caller, target, request).await
    }

    async fn exec_input(&self, caller: &str, request: &ExecInputRequest) -> Result<()> {
        self.shared().sessions.feed(caller, request).await
    }

    fn info(&self) -> AgentInfo {
        health::info(self.shared(), self.tasks())
    }

    fn drivers(&self) -> Vec<DriverView> {
        health::drivers(self.shared())
    }

    fn schema(&self, kind: &Kind) -> Result<serde_json::Value> {
        Ok(self.shared().registry.kind(kind)?.object_schema().clone())
    }

    fn health(&self) -> HealthReport {
        health::report(self.shared())
    }

    async fn drain(&self, deadline: Duration) -> Result<()> {
        let shared = self.shared();
        shared.draining.store(true, Ordering::Release);
        tracing::info!("draining: no more changes are taken");
        let until = Instant::now() + deadline;
        loop {
            let idle = shared.idle.notified();
            let mut idle = std::pin::pin!(idle);
            idle.as_mut().enable();
            let left = shared.under_way();
            if left == 0 {
                break;
            }
            // A shard tells when it has nothing under way; so that none is missed it is also looked at now and then.
            let look = (Instant::now() + Duration::from_millis(100)).min(until);
            let _ = tokio::time::timeout_at(look, idle).await;
            if Instant::now() >= until {
                tracing::warn!(
                    operations = left,
                    "the drain's deadline passed with operations under way"
                );
                break;
            }
        }
        let hook = shared.drain_hook.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    async fn reload(&self) -> Result<Vec<String>> {
        let hook = self.shared().reload_hook.lock().clone();
        match hook {
            Some(hook) => hook().await,
            None => Err(Error::new(
                ErrorKind::Unsupported,
                "this agent is embedded in a program that gave it no configuration to read again",
            )
            .with_operation("reload")),
        }
    }
}
