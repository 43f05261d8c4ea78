//! `delete`.

use std::time::Duration;

use agent_api_driver::model::{ErrorKind, Guid, OpId};
use agent_api_driver::{Handle, LogReadRequest, ObjectState, RecoveredState, Target};
use futures_util::StreamExt;
use serde_json::json;

use crate::trial::{
    DeleteArgs, Stop, Trial, Verdict, cancelled_after, ensure, ensure_matches, needs, offered,
};
use crate::{LogShape, Made, Rotation, Sample};

/// Checks past the driver and through it that nothing is there.
async fn is_gone(trial: &Trial<'_>, object: &Made) -> Verdict {
    let state = trial.state(object).await?;
    ensure_matches!(
        state,
        ObjectState::Gone | ObjectState::Exited,
        "observe after delete"
    );
    ensure!(
        trial.subject.runs(&trial.place, object).await != Some(true),
        "the substrate says that it still runs"
    );
    let found = trial.found(object.guid).await?;
    ensure!(found.is_empty(), "discover still finds {found:?}");
    Ok(())
}

pub(super) async fn removes_the_object(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let deleted = trial.delete(&object).await?;
    ensure!(deleted.left.is_empty(), "left: {:?}", deleted.left);
    is_gone(trial, &object).await
}

pub(super) async fn not_there_is_success(trial: &Trial<'_>) -> Verdict {
    let deleted = trial
        .delete_with(Guid::generate(), None, DeleteArgs::default())
        .await?;
    ensure!(
        deleted.left.is_empty() && deleted.exit.is_none(),
        "of an object that never was: {deleted:?}"
    );
    Ok(())
}

pub(super) async fn a_second_call_is_success(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let op_id = Some(OpId::generate());
    for _ in 0..2 {
        let args = DeleteArgs {
            op_id,
            ..DeleteArgs::default()
        };
        trial.delete_with(object.guid, Some(&object.handle), args).await?;
    }
    // And one of another operation.
    let deleted = trial.delete(&object).await?;
    ensure!(deleted.left.is_empty(), "left: {:?}", deleted.left);
    is_gone(trial, &object).await
}

pub(super) async fn without_a_handle_finds_what_an_unanswered_create_made(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial
        .delete_with(object.guid, None, DeleteArgs::default())
        .await?;
    is_gone(trial, &object).await
}

pub(super) async fn something_that_ended_is_removed_too(trial: &Trial<'_>) -> Verdict {
    let object = trial.ended(0).await?;
    let deleted = trial.delete(&object).await?;
    ensure!(deleted.left.is_empty(), "left: {:?}", deleted.left);
    is_gone(trial, &object).await
}

pub(super) async fn what_ends_when_asked_is_not_waited_for(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let args = DeleteArgs {
        grace: Some(trial.patience() * 10),
        deadline: Some(trial.patience() * 11),
        ..DeleteArgs::default()
    };
    let delete = trial.delete_with(object.guid, Some(&object.handle), args);
    trial
        .in_time("delete of what ends when asked", trial.patience(), delete)
        .await??;
    is_gone(trial, &object).await
}

pub(super) async fn what_does_not_end_when_asked_is_ended_after_grace(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::Stubborn).await?;
    let args = DeleteArgs {
        grace: Some(Duration::from_millis(50)),
        ..DeleteArgs::default()
    };
    let deleted = trial.delete_with(object.guid, Some(&object.handle), args).await?;
    ensure!(deleted.left.is_empty(), "left: {:?}", deleted.left);
    ensure!(
        deleted.exit.as_ref().is_none_or(|exit| !exit.is_success()),
        "ended by force with success: {deleted:?}"
    );
    is_gone(trial, &object).await
}

pub(super) async fn returns_by_the_deadline(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::Stubborn).await?;
    let args = DeleteArgs {
        grace: Some(Duration::from_secs(3_600)),
        deadline: Some(trial.patience() / 10),
        ..DeleteArgs::default()
    };
    let delete = trial.delete_with(object.guid, Some(&object.handle), args);
    match trial
        .in_time("delete with a short deadline", trial.patience(), delete)
        .await?
    {
        Ok(deleted) if deleted.left.is_empty() => is_gone(trial, &object).await,
        Ok(_) => Ok(()),
        Err(error) => {
            ensure!(
                error.kind() == ErrorKind::Timeout,
                "expected a Timeout, got {error:?}"
            );
            Ok(())
        }
    }
}

pub(super) async fn dropped_at_any_await_a_second_call_ends_it(trial: &Trial<'_>) -> Verdict {
    for polls in 1..=trial.subject.crash_steps() {
        let object = trial.running(Sample::LongRunning).await?;
        let op_id = Some(OpId::generate());
        let args = || DeleteArgs {
            op_id,
            ..DeleteArgs::default()
        };
        let first = trial.delete_with(object.guid, Some(&object.handle), args());
        let ended = cancelled_after(polls, first).await.transpose()?.is_some();
        let deleted = trial
            .delete_with(object.guid, Some(&object.handle), args())
            .await?;
        ensure!(
            deleted.left.is_empty(),
            "cancelled after {polls} polls, left: {:?}",
            deleted.left
        );
        is_gone(trial, &object).await?;
        if ended {
            break;
        }
    }
    Ok(())
}

pub(super) async fn orphaned_goes_on_and_is_no_longer_discovered(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.orphan, "leave an object running")?;
    let object = trial.running(Sample::LongRunning).await?;
    let args = DeleteArgs {
        orphan: true,
        ..DeleteArgs::default()
    };
    trial.delete_with(object.guid, Some(&object.handle), args).await?;
    let found = trial.found(object.guid).await?;
    let runs = trial.subject.runs(&trial.place, &object).await;
    trial.forget(object.guid);
    let removed = trial.subject.remove_orphan(&trial.place, &object).await;
    ensure!(found.is_empty(), "discover still finds {found:?}");
    ensure!(
        runs != Some(false),
        "the substrate says that it does not run any more"
    );
    offered(removed.then_some(()), "hook `remove_orphan`")
}

pub(super) async fn something_foreign_is_not_touched_and_that_is_success(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    let foreign = offered(
        trial.subject.foreign(&trial.place, &object).await,
        "hook `foreign`",
    )?;
    trial
        .delete_with(object.guid, Some(&foreign), DeleteArgs::default())
        .await?;
    ensure!(
        trial.subject.foreign_untouched(&trial.place, &foreign).await,
        "it was touched"
    );
    Ok(())
}

pub(super) async fn the_handle_of_another_object_is_not_followed(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    // Its mark is of another object than the one that is asked for.
    trial
        .delete_with(Guid::generate(), Some(&object.handle), DeleteArgs::default())
        .await?;
    trial.until_state(&object, ObjectState::Running).await?;
    ensure!(
        trial.subject.runs(&trial.place, &object).await != Some(false),
        "the substrate says that it does not run"
    );
    Ok(())
}

pub(super) async fn an_unreadable_handle_touches_nothing(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let version = trial.driver().handle_version();
    let unreadable = [
        Handle::new(version, json!("not a handle")),
        Handle::new(version + 1, object.handle.data.clone()),
    ];
    for handle in unreadable {
        // Success or an error: either way nothing of another object is touched.
        let answer = trial
            .delete_with(Guid::generate(), Some(&handle), DeleteArgs::default())
            .await;
        if let Err(error) = answer {
            ensure_matches!(
                error.kind(),
                ErrorKind::Invalid | ErrorKind::NotFound,
                "the error of delete"
            );
        }
    }
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn logs_are_removed_too(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.logs, "read logs")?;
    let shape = LogShape {
        lines: 20,
        line_bytes: 0,
        pace: Duration::ZERO,
        ends: true,
        terminated: true,
        rotation: Rotation::None,
    };
    let spec = offered(trial.subject.log_sample(&shape), "log sample")?;
    let object = trial.create(trial.named(spec)).await?;
    trial.until_state(&object, ObjectState::Exited).await?;
    trial.delete(&object).await?;
    let driver = trial.driver();
    let logs = driver
        .logs()
        .ok_or_else(|| Stop::Failed("capabilities name logs, there are none".into()))?;
    let target = Target {
        guid: object.guid,
        handle: &object.handle,
    };
    if let Ok(mut stream) = logs.read(target, LogReadRequest::default()).await
        && let Some(Ok(chunk)) = stream.next().await
    {
        let lines = chunk.lines.len();
        return Err(Stop::Failed(format!(
            "the logs of a deleted object still have {lines} lines"
        )));
    }
    if trial.capabilities()?.adoptable {
        let recovered = trial.recover_one(&object).await?;
        ensure_matches!(
            recovered,
            RecoveredState::Lost(_) | RecoveredState::Exited(_),
            "recover after delete"
        );
    }
    let left = trial.subject.leftovers(&trial.place).await;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
