//! What a request would do, without doing it.

use std::sync::Arc;

use agent_api_driver::PlanRequest as DriverPlan;
use agent_api_model::{
    Change, Error, ErrorKind, FieldChange, Guid, ObjectSpec, Plan, PlanAction, PlanRequest, Result, Severity,
    Target,
};
use serde_json::Value;

use crate::change::apply_change;
use crate::record::{Facts, Object};
use crate::shared::Shared;

pub(crate) async fn plan(shared: &Shared, request: &PlanRequest) -> Result<Plan> {
    match request {
        PlanRequest::Apply(spec) => {
            spec.check()?;
            match shared.table.named(&spec.name) {
                None => create(shared, spec).await,
                Some(object) => {
                    let current = object.state.lock().parse();
                    let next = apply_change(&current, &Change::Replace(spec.clone()))?;
                    update(shared, &object, &current, &next).await
                }
            }
        }
        PlanRequest::Update { object, change } => {
            let object = find(shared, object)?;
            let current = object.state.lock().parse();
            let next = apply_change(&current, change)?;
            update(shared, &object, &current, &next).await
        }
        PlanRequest::Delete { object, cascade } => delete(shared, &*find(shared, object)?, *cascade),
    }
}

fn find(shared: &Shared, target: &Target) -> Result<Arc<Object>> {
    shared
        .table
        .resolve(target)
        .and_then(|guid| shared.table.get(guid))
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no object {target}")))
}

async fn create(shared: &Shared, spec: &ObjectSpec) -> Result<Plan> {
    let mut plan = ask(shared, Guid::generate(), None, spec, None).await?;
    plan.changes = changes(shared, None, spec)?;
    if let Some((_, why)) = shared.unmet(&spec.depends_on).first() {
        plan.reason = join(plan.reason, &format!("waits for {why}"));
    }
    Ok(plan)
}

async fn update(shared: &Shared, object: &Object, current: &ObjectSpec, next: &ObjectSpec) -> Result<Plan> {
    let changes = changes(shared, Some(current), next)?;
    let handle = object.state.lock().handle.clone();
    let mut plan = ask(shared, object.guid, Some(current), next, handle.as_deref()).await?;
    if plan.action == PlanAction::NoOp && !changes.is_empty() {
        plan.action = PlanAction::InPlace;
        plan.reason = join(
            plan.reason,
            "only what the agent itself keeps changes; the object is not touched",
        );
    }
    if changes.is_empty() {
        plan.action = PlanAction::NoOp;
        plan.changes.clear();
        return Ok(plan);
    }
    let on_substrate = std::mem::replace(&mut plan.changes, changes);
    plan.changes.extend(
        on_substrate
            .into_iter()
            .filter(|change| !is_of_spec(&change.path)),
    );
    Ok(plan)
}

/// Whether a driver's change is one of the spec itself, which the manager has found already. Others are of what the spec
/// becomes, for example `Deployment/web.spec.replicas`.
fn is_of_spec(path: &str) -> bool {
    let root = path.split(['.', '[']).next().unwrap_or_default();
    matches!(root, "spec" | "resources")
}

fn delete(shared: &Shared, object: &Object, cascade: bool) -> Result<Plan> {
    let graph = shared.graph.lock();
    let dependents: Vec<_> = graph
        .dependents(&object.name)
        .into_iter()
        .filter(|(name, _)| {
            shared
                .facts(name)
                .is_some_and(|facts| !facts.has(Facts::DELETING))
        })
        .map(|(name, _)| name.to_string())
        .collect();
    let plan = Plan::new(PlanAction::Delete, Vec::new());
    Ok(match (dependents.is_empty(), cascade) {
        (true, _) => plan,
        (false, true) => plan.because(format!("deleted first: {}", dependents.join(", "))),
        (false, false) => Plan::new(PlanAction::Infeasible, Vec::new()).because(format!(
            "these depend on it: {}; delete them first, or all with cascade",
            dependents.join(", ")
        )),
    })
}

async fn ask(
    shared: &Shared,
    guid: Guid,
    previous: Option<&ObjectSpec>,
    next: &ObjectSpec,
    handle: Option<&agent_api_driver::Handle>,
) -> Result<Plan> {
    let driver = shared
        .drivers
        .for_kind(&next.kind)
        .filter(|driver| driver.capabilities(&next.kind).is_some())
        .ok_or_else(|| shared.unknown_kind(&next.kind).with_object(&next.name))?;
    let asked = async {
        let diagnostics = driver.validate(next).await;
        if diagnostics.iter().any(|found| found.severity == Severity::Error) {
            let mut plan =
                Plan::new(PlanAction::Infeasible, Vec::new()).because("the driver refuses the spec");
            plan.diagnostics = diagnostics;
            return Ok(plan);
        }
        let mut plan = driver
            .plan(DriverPlan {
                guid,
                previous,
                next,
                handle,
            })
            .await?;
        if plan.diagnostics.is_empty() {
            plan.diagnostics = diagnostics;
        }
        Ok(plan)
    };
    tokio::time::timeout(shared.config.operation_timeout, asked)
        .await
        .map_err(|_| {
            Error::new(ErrorKind::Timeout, "the driver did not answer in time")
                .with_operation("plan")
                .with_object(&next.name)
        })?
        .map_err(|error: Error| error.with_object(&next.name))
}

/// What changes, field by field, without what the driver calls secret.
fn changes(shared: &Shared, current: Option<&ObjectSpec>, next: &ObjectSpec) -> Result<Vec<FieldChange>> {
    let driver = shared
        .drivers
        .for_kind(&next.kind)
        .ok_or_else(|| shared.unknown_kind(&next.kind).with_object(&next.name))?;
    let both = |spec: &ObjectSpec| {
        let mut shown = spec.clone();
        driver.redact(&mut shown);
        Ok::<_, Error>((value(spec)?, value(&shown)?))
    };
    let from = current.map(both).transpose()?.unwrap_or_default();
    let to = both(next)?;
    Ok(FieldChange::between_shown("", (&from.0, &from.1), (&to.0, &to.1)))
}

fn value(spec: &ObjectSpec) -> Result<Value> {
    serde_json::to_value(spec)
        .map_err(|error| Error::internal("the spec cannot be written").with_source(error))
}

fn join(one: String, other: &str) -> String {
    if one.is_empty() {
        other.into()
    } else {
        format!("{one}; {other}")
    }
}
