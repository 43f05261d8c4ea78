//! `plan`, and that `apply` does what it says.

use agent_api_driver::model::{ErrorKind, ObjectSpec, OpId, Plan, PlanAction};
use agent_api_driver::{FieldChangeMode, ObjectState, PlanRequest};

use super::schema::SAMPLES;
use crate::trial::{Trial, Verdict, ensure, ensure_matches};
use crate::{Made, Sample};

async fn plan(trial: &Trial<'_>, object: &Made, next: &ObjectSpec) -> Verdict<Plan> {
    let request = PlanRequest {
        guid: object.guid,
        previous: Some(&object.spec),
        next,
        handle: Some(&object.handle),
    };
    Ok(trial.driver().plan(request).await?)
}

/// Plans the change, checks that the plan says `action`, applies it, and returns the object before and after.
async fn apply(trial: &Trial<'_>, sample: Sample, action: PlanAction) -> Verdict<(Made, Made, Plan)> {
    let object = trial.running(Sample::LongRunning).await?;
    let next = trial.changed(&object, sample)?;
    let plan = plan(trial, &object, &next).await?;
    ensure!(
        plan.action == action,
        "{sample:?}: expected {action:?}, the plan is {plan:?}"
    );
    ensure!(
        !plan.changes.is_empty(),
        "{sample:?}: the plan names no change: {plan:?}"
    );
    let applied = trial
        .apply(object.guid, OpId::generate(), &next, Some(&object.handle), false)
        .await?;
    let mut after = trial.after(&object, applied);
    after.status = trial.until_state(&after, ObjectState::Running).await?.status;
    after.spec = next;
    Ok((object, after, plan))
}

pub(super) async fn changes_nothing(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let before = trial.observe(object.guid, &object.handle).await?;
    for sample in SAMPLES {
        let Ok(next) = trial.changed(&object, sample) else {
            continue;
        };
        let first = plan(trial, &object, &next).await?;
        let second = plan(trial, &object, &next).await?;
        ensure!(
            first == second,
            "two plans for {sample:?} differ: {first:?} and {second:?}"
        );
    }
    let after = trial.observe(object.guid, &object.handle).await?;
    ensure!(
        after.status.state == ObjectState::Running,
        "{before:?} became {after:?}"
    );
    ensure!(
        after.handle == before.handle,
        "the handle changed: {before:?} and {after:?}"
    );
    if trial.capabilities()?.discoverable {
        let found = trial.discover().await?;
        ensure!(found.len() == 1, "one object was made, found {found:?}");
    }
    Ok(())
}

pub(super) async fn the_same_spec_twice_is_no_op(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let plan = plan(trial, &object, &object.spec).await?;
    ensure!(
        plan.action == PlanAction::NoOp && plan.changes.is_empty(),
        "{plan:?}"
    );
    Ok(())
}

pub(super) async fn no_previous_spec_is_create(trial: &Trial<'_>) -> Verdict {
    let spec = trial.sample(Sample::LongRunning)?;
    let guid = agent_api_driver::model::Guid::generate();
    let plan = trial
        .driver()
        .plan(PlanRequest {
            guid,
            previous: None,
            next: &spec,
            handle: None,
        })
        .await?;
    ensure!(plan.action == PlanAction::Create, "{plan:?}");
    let found = trial.found(guid).await?;
    ensure!(found.is_empty(), "a plan made something: {found:?}");
    Ok(())
}

pub(super) async fn no_op_is_what_apply_does(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let identity = trial.identity(&object);
    let applied = trial
        .apply(
            object.guid,
            OpId::generate(),
            &object.spec,
            Some(&object.handle),
            false,
        )
        .await?;
    let after = trial.after(&object, applied);
    ensure!(
        trial.identity(&after) == identity,
        "the same spec made another thing: {identity} became {after:?}"
    );
    trial.until_state(&after, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn in_place_is_what_apply_does(trial: &Trial<'_>) -> Verdict {
    let (before, after, plan) = apply(trial, Sample::ChangedInPlace, PlanAction::InPlace).await?;
    let (old, new) = (trial.identity(&before), trial.identity(&after));
    ensure!(
        old == new,
        "a change in place made another thing: {old} became {new}"
    );
    let fields = trial.capabilities()?.fields;
    for change in plan.changes {
        let mode = fields
            .iter()
            .find(|(path, _)| change.path == **path || change.path.starts_with(&format!("{path}.")));
        if let Some((path, mode)) = mode {
            ensure!(
                *mode == FieldChangeMode::Live,
                "the plan changes {path} in place, the capabilities say {mode:?}"
            );
        }
    }
    Ok(())
}

pub(super) async fn restart_is_what_apply_does(trial: &Trial<'_>) -> Verdict {
    let (before, after, _) = apply(trial, Sample::ChangedByRestart, PlanAction::Restart).await?;
    let (old, new) = (trial.identity(&before), trial.identity(&after));
    ensure!(old != new, "a restart left the same thing: {old}");
    Ok(())
}

pub(super) async fn recreate_is_what_apply_does(trial: &Trial<'_>) -> Verdict {
    let (before, after, _) = apply(trial, Sample::ChangedByRecreate, PlanAction::Recreate).await?;
    let (old, new) = (trial.identity(&before), trial.identity(&after));
    ensure!(old != new, "a recreate left the same thing: {old}");
    Ok(())
}

pub(super) async fn infeasible_is_refused_by_apply_and_changes_nothing(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let next = trial.changed(&object, Sample::ChangedInfeasibly)?;
    let plan = plan(trial, &object, &next).await?;
    ensure!(plan.action == PlanAction::Infeasible, "{plan:?}");
    ensure!(!plan.reason.is_empty(), "infeasible without a reason: {plan:?}");
    let answer = trial
        .apply(object.guid, OpId::generate(), &next, Some(&object.handle), false)
        .await;
    ensure_matches!(
        &answer,
        Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Unsupported),
        "apply of what cannot be"
    );
    let observed = trial.observe(object.guid, &object.handle).await?;
    ensure!(
        observed.status.state == ObjectState::Running,
        "the object is {observed:?}"
    );
    Ok(())
}
