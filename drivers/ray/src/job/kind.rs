//! The contract's calls for jobs, handed to the parts that do them.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Diagnostic, FieldChange, Guid, ObjectSpec, Plan, PlanAction, TelemetryBatch};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, ControlRequest, DeleteRequest, Deleted, Handle,
    KindSchema, LogReadRequest, LogStreamOut, Mark, Observed, PlanRequest, Recovered, Result, Target,
    async_trait,
};

use super::JobKind;
use super::data::{JobHandle, TYPE};
use super::spec::JobSpec;
use crate::head::{Head, Hint, Look};
use crate::kind::KindDriver;

/// How old the list of nodes may be that a plan is made from.
const NODES_AGE: Duration = Duration::from_secs(30);
/// The name of the actor that looks after a submission.
const SUPERVISOR: &str = "_ray_internal_job_actor_";

impl JobKind {
    /// Why what a spec wants can never be given; none where it can, or where nobody knows.
    async fn why_infeasible(&self, object: &ObjectSpec, spec: &JobSpec) -> Option<(bool, String)> {
        let capacity = spec.capacity(&object.resources);
        let head = self.shared.head(spec.cluster.as_deref()).ok()?;
        if capacity.is_empty() {
            return None;
        }
        let nodes = head.nodes(NODES_AGE).await.ok()?;
        let why = capacity.why_infeasible(&nodes)?;
        Some((head.config.autoscaling, why))
    }
}

#[async_trait]
impl KindDriver for JobKind {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn schema(&self) -> &KindSchema {
        &self.schema
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn validate(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        let spec = match JobSpec::parse(object) {
            Ok(spec) => spec,
            Err(e) => return vec![Diagnostic::error(e.path().unwrap_or("spec"), e.message())],
        };
        let mut found = spec.check(object);
        if let Err(e) = self.shared.head(spec.cluster.as_deref()) {
            found.push(Diagnostic::error(e.path().unwrap_or("spec.cluster"), e.message()));
        } else if found.is_empty()
            && let Some((_, why)) = self.why_infeasible(object, &spec).await
        {
            found.push(Diagnostic::warning("resources", why));
        }
        found
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let next = JobSpec::parse(request.next)?;
        let infeasible = match self.why_infeasible(request.next, &next).await {
            Some((false, why)) => Some(why),
            _ => None,
        };
        let Some(before) = request.previous else {
            return Ok(match infeasible {
                Some(why) => Plan::new(PlanAction::Infeasible, Vec::new()).because(why),
                None => Plan::new(PlanAction::Create, Vec::new()),
            });
        };
        let previous = JobSpec::parse(before)?;
        let value = |spec: &JobSpec| serde_json::to_value(spec).unwrap_or_default();
        let limits = |object: &ObjectSpec| serde_json::to_value(&object.resources).unwrap_or_default();
        let mut changes = FieldChange::between("spec", &value(&previous), &value(&next));
        changes.extend(FieldChange::between(
            "resources",
            &limits(before),
            &limits(request.next),
        ));
        let adopted = previous.adopt.is_some() || next.adopt.is_some();
        Ok(if changes.is_empty() {
            Plan::new(PlanAction::NoOp, changes)
        } else if let Some(why) = infeasible {
            Plan::new(PlanAction::Infeasible, changes).because(why)
        } else if adopted {
            Plan::new(PlanAction::Infeasible, changes)
                .because("a job that was adopted is not changed; give its command to an object of its own")
        } else {
            Plan::new(PlanAction::Recreate, changes).because(
                "Ray changes nothing of a job once it is submitted; it is stopped and submitted anew",
            )
        })
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.apply(request).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.delete(request).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Vec<Recovered> {
        self.recover(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.discover().await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) {
        self.observe(targets, out).await;
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) {
        self.collect(request, out, cursors).await;
    }

    async fn stop_all(&self, deadline: Duration) {
        self.stop_all(deadline).await;
    }

    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.control(request).await
    }

    async fn read_logs(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        let handle = JobHandle::read(target.handle)?;
        self.read_logs(target.guid, handle, request)
    }

    async fn tick(&self, head: &Arc<Head>, look: &Look) -> Duration {
        self.turn(head, look).await
    }

    fn hint(&self, head: &Arc<Head>, hint: &Hint) {
        let id = hint.name.strip_prefix(SUPERVISOR).unwrap_or(&hint.name);
        if !self.due_now(id) {
            return;
        }
        let mut table = self.table.lock();
        if let Some(guid) = table.by_id(id)
            && let Some(entry) = table.get_mut(guid)
        {
            entry.hinted = true;
            if let Some(text) = &hint.text {
                entry.notes.push(hint.at, text.clone());
            }
        }
        drop(table);
        head.wake();
    }
}
