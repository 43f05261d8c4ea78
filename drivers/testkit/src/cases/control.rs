//! `control`.

use agent_api_driver::model::{ControlAction, Error, ErrorKind, OpId, ResourceField, Resources, Verb};
use agent_api_driver::{Applied, ControlRequest, ObjectState};

use crate::trial::{Stop, Trial, Verdict, ensure, ensure_matches, needs, offered};
use crate::{Made, Sample};

async fn control_as(
    trial: &Trial<'_>,
    object: &Made,
    action: &ControlAction,
    op_id: OpId,
) -> Verdict<Result<Applied, Error>> {
    let driver = trial.driver();
    let control = offered(driver.control(), "control extension")?;
    let mut spec = object.spec.clone();
    match action {
        ControlAction::Resize { resources } => spec.resources = resources.clone(),
        ControlAction::Scale { replicas } => spec.resources.replicas = Some(*replicas),
        _ => {}
    }
    let request = ControlRequest {
        guid: object.guid,
        generation: 2,
        op_id,
        maybe_applied: false,
        spec: &spec,
        handle: &object.handle,
        action,
        deadline: trial.patience(),
    };
    Ok(control.control(request).await)
}

async fn control(
    trial: &Trial<'_>,
    object: &Made,
    action: &ControlAction,
) -> Verdict<Result<Applied, Error>> {
    control_as(trial, object, action, OpId::generate()).await
}

fn restart() -> ControlAction {
    ControlAction::Restart {
        grace: Some(std::time::Duration::from_millis(200)),
    }
}

fn signal(name: &str) -> ControlAction {
    ControlAction::Signal { signal: name.into() }
}

/// Each action with whether the driver says it can do it.
fn actions(trial: &Trial<'_>) -> Verdict<Vec<(bool, ControlAction)>> {
    let can = trial.capabilities()?;
    Ok(vec![
        (can.pause, ControlAction::Pause {}),
        (can.pause, ControlAction::Resume {}),
        (can.restart, restart()),
        (can.signal, signal("0")),
        (can.scale, ControlAction::Scale { replicas: 1 }),
        (
            can.resize,
            ControlAction::Resize {
                resources: Resources::default(),
            },
        ),
    ])
}

pub(super) async fn what_capabilities_do_not_name_is_unsupported(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let missing: Vec<_> = actions(trial)?.into_iter().filter(|(can, _)| !can).collect();
    if missing.is_empty() {
        return Err(Stop::NotApplicable("the driver can do every verb".into()));
    }
    for (_, action) in missing {
        let answer = control(trial, &object, &action).await?;
        ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::Unsupported, "a verb that it cannot do");
    }
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn pause_holds_and_resume_lets_go(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Pause)?;
    let object = trial.running(Sample::LongRunning).await?;
    let identity = trial.identity(&object);
    let paused = trial.after(&object, control(trial, &object, &ControlAction::Pause {}).await??);
    ensure!(
        paused.status.state == ObjectState::Paused,
        "the status that pause returned: {:?}",
        paused.status
    );
    trial.until_state(&paused, ObjectState::Paused).await?;
    let resumed = trial.after(
        &paused,
        control(trial, &paused, &ControlAction::Resume {}).await??,
    );
    ensure!(
        resumed.status.state == ObjectState::Running,
        "the status that resume returned: {:?}",
        resumed.status
    );
    trial.until_state(&resumed, ObjectState::Running).await?;
    ensure!(
        trial.identity(&resumed) == identity,
        "pause and resume made another thing: {identity} and {resumed:?}"
    );
    let revisions = [&object, &paused, &resumed].map(|object| object.status.evidence.revision);
    ensure!(
        revisions.is_sorted_by(|a, b| a < b),
        "the revisions do not grow: {revisions:?}"
    );
    Ok(())
}

pub(super) async fn pausing_what_is_paused_and_resuming_what_runs_change_nothing(
    trial: &Trial<'_>,
) -> Verdict {
    trial.verb(Verb::Pause)?;
    let object = trial.running(Sample::LongRunning).await?;
    control(trial, &object, &ControlAction::Resume {}).await??;
    trial.until_state(&object, ObjectState::Running).await?;
    for _ in 0..2 {
        let paused = control(trial, &object, &ControlAction::Pause {}).await??;
        ensure!(paused.status.state == ObjectState::Paused, "{:?}", paused.status);
    }
    trial.until_state(&object, ObjectState::Paused).await?;
    // Something that is paused can be deleted as it is: the clean-up does it.
    Ok(())
}

pub(super) async fn an_object_that_has_ended_is_a_conflict(trial: &Trial<'_>) -> Verdict {
    let object = trial.ended(0).await?;
    let mut tried = 0;
    for (can, action) in actions(trial)? {
        if !can || action.verb() == Verb::Restart {
            continue;
        }
        tried += 1;
        let answer = control(trial, &object, &action).await?;
        let conflict = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Conflict);
        ensure!(
            conflict,
            "{} of what has ended: expected Conflict, got {answer:?}",
            action.verb()
        );
    }
    needs(tried > 0, "do any verb but restart")
}

pub(super) async fn restart_starts_what_has_ended(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Restart)?;
    let object = trial.running(Sample::LongRunning).await?;
    offered(
        trial
            .subject
            .end_outside(&trial.place, &object)
            .await
            .then_some(()),
        "hook `end_outside`",
    )?;
    trial.until_ended(&object).await?;
    let restarted = trial.after(&object, control(trial, &object, &restart()).await??);
    ensure!(
        restarted.handle != object.handle,
        "the handle is the old one: {:?}",
        restarted.handle
    );
    trial.until_state(&restarted, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn restart_returns_a_running_object_with_a_new_handle(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Restart)?;
    let object = trial.running(Sample::LongRunning).await?;
    let identity = trial.identity(&object);
    let restarted = trial.after(&object, control(trial, &object, &restart()).await??);
    ensure!(
        restarted.handle != object.handle,
        "the handle is the old one: {:?}",
        restarted.handle
    );
    ensure!(
        trial.identity(&restarted) != identity,
        "a restart left the same thing: {identity}"
    );
    ensure_matches!(
        restarted.status.state,
        ObjectState::Running | ObjectState::Starting,
        "the status after restart"
    );
    let (old, new) = (
        object.status.evidence.revision,
        restarted.status.evidence.revision,
    );
    ensure!(new > old, "the revision did not grow: {old}, then {new}");
    trial.until_state(&restarted, ObjectState::Running).await?;
    let found = trial.found(object.guid).await?;
    ensure!(found.len() <= 1, "the old thing is still there: {found:?}");
    Ok(())
}

pub(super) async fn the_same_op_id_restarts_once(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Restart)?;
    let object = trial.running(Sample::LongRunning).await?;
    let op_id = OpId::generate();
    let first = trial.after(&object, control_as(trial, &object, &restart(), op_id).await??);
    trial.until_state(&first, ObjectState::Running).await?;
    // Once as a lost answer leaves it, with the old handle, and once with the new one.
    for handle in [&object.handle, &first.handle] {
        let repeated = Made {
            handle: handle.clone(),
            ..object.clone()
        };
        let second = trial.after(&object, control_as(trial, &repeated, &restart(), op_id).await??);
        let (one, two) = (trial.identity(&first), trial.identity(&second));
        ensure!(one == two, "the same op_id restarted twice: {one}, then {two}");
    }
    Ok(())
}

pub(super) async fn a_signal_that_is_not_known_is_invalid(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Signal)?;
    let object = trial.running(Sample::LongRunning).await?;
    for name in [
        "",
        "SIGNOTHING",
        "-1",
        "4711",
        "SIGSIGHUP",
        "TERM; true",
        "sig term",
    ] {
        let answer = control(trial, &object, &signal(name)).await?;
        let invalid = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Invalid && error.path() == Some("signal"));
        ensure!(
            invalid,
            "signal {name:?}: expected Invalid at `signal`, got {answer:?}"
        );
    }
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn signals_are_known_by_number_and_with_and_without_sig(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Signal)?;
    let object = trial.running(Sample::LongRunning).await?;
    for name in ["0", "18", "CONT", "SIGCONT"] {
        let answer = control(trial, &object, &signal(name)).await?;
        ensure!(answer.is_ok(), "signal {name:?}: {answer:?}");
    }
    trial.until_state(&object, ObjectState::Running).await?;
    if !trial.capabilities()?.ends {
        // Where nothing ends, what a signal ends is made anew.
        return Ok(());
    }
    match control(trial, &object, &signal("SIGKILL")).await? {
        // A signal has no memory: repeated after a lost answer it finds what it ended itself.
        Err(error) if trial.repeats_calls() && error.kind() == ErrorKind::Conflict => {}
        answer => drop(answer?),
    }
    trial.until_ended(&object).await?;
    Ok(())
}

pub(super) async fn resize_returns_the_limits_in_force(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Resize)?;
    let resources = offered(trial.subject.resize_sample(), "resize sample")?;
    let object = trial.running(Sample::LongRunning).await?;
    let identity = trial.identity(&object);
    let action = ControlAction::Resize {
        resources: resources.clone(),
    };
    let resized = trial.after(&object, control(trial, &object, &action).await??);
    ensure!(
        !resized.status.limits.is_empty(),
        "no limits in {:?}",
        resized.status
    );
    for limit in &resized.status.limits {
        let wanted = match limit.field {
            ResourceField::Cpu => resources.cpu.map(|cpu| cpu.to_string()),
            ResourceField::Memory => resources.memory.map(|memory| memory.to_string()),
            ResourceField::Pids => resources.pids.map(|pids| pids.to_string()),
            _ => continue,
        };
        ensure!(
            wanted.as_ref() == Some(&limit.value),
            "{}: wanted {wanted:?}, in force {limit:?}",
            limit.field
        );
    }
    ensure!(
        trial.identity(&resized) == identity,
        "a resize made another thing: {identity} and {resized:?}"
    );
    let observed = trial.until_state(&resized, ObjectState::Running).await?;
    ensure!(
        observed.status.limits == resized.status.limits,
        "observe shows other limits: {observed:?}"
    );
    Ok(())
}

pub(super) async fn a_refused_resize_changes_nothing(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Resize)?;
    let resources = offered(
        trial.subject.refused_resize_sample(),
        "resize sample that is refused",
    )?;
    let object = trial.running(Sample::LongRunning).await?;
    let before = trial.observe(object.guid, &object.handle).await?.status.limits;
    let answer = control(trial, &object, &ControlAction::Resize { resources }).await?;
    ensure_matches!(
        &answer,
        Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Conflict),
        "a resize that cannot be"
    );
    let after = trial
        .until_state(&object, ObjectState::Running)
        .await?
        .status
        .limits;
    ensure!(before == after, "the limits were {before:?} and are {after:?}");
    Ok(())
}

pub(super) async fn scale_changes_the_number_of_copies(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Scale)?;
    let object = trial.running(Sample::LongRunning).await?;
    for replicas in [3, 1] {
        let applied = control(trial, &object, &ControlAction::Scale { replicas }).await??;
        let shown = applied
            .status
            .limits
            .iter()
            .find(|limit| limit.field == ResourceField::Replicas);
        let value = shown.map(|limit| limit.value.clone());
        ensure!(
            value == Some(replicas.to_string()),
            "scaled to {replicas}, in force {value:?}"
        );
    }
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn what_is_gone_is_not_found(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    let mut tried = 0;
    for (can, action) in actions(trial)? {
        if !can {
            continue;
        }
        tried += 1;
        let answer = control(trial, &object, &action).await?;
        let missing = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound);
        ensure!(
            missing,
            "{} of what is gone: expected NotFound, got {answer:?}",
            action.verb()
        );
    }
    needs(tried > 0, "do any verb")?;
    let found = trial.found(object.guid).await?;
    ensure!(found.is_empty(), "a verb made something: {found:?}");
    Ok(())
}

pub(super) async fn something_foreign_is_not_found_and_not_touched(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    let handle = offered(
        trial.subject.foreign(&trial.place, &object).await,
        "hook `foreign`",
    )?;
    let foreign = Made {
        handle: handle.clone(),
        ..object
    };
    for (can, action) in actions(trial)? {
        if !can {
            continue;
        }
        let answer = control(trial, &foreign, &action).await?;
        let missing = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound);
        ensure!(
            missing,
            "{} of something foreign: expected NotFound, got {answer:?}",
            action.verb()
        );
    }
    ensure!(
        trial.subject.foreign_untouched(&trial.place, &handle).await,
        "it was touched"
    );
    Ok(())
}
