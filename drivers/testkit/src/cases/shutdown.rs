//! `shutdown`.

use agent_api_driver::model::{Error, ErrorKind, Guid, OpId, TelemetryBatch};
use agent_api_driver::{
    ApplyRequest, CollectRequest, DeleteRequest, ObjectDriver, ObjectState, RecoveredState, ShutdownMode,
    Target,
};

use crate::trial::{Trial, Verdict, ensure, ensure_matches, needs};
use crate::{Place, Sample};

pub(super) async fn returns_by_the_deadline_with_its_tasks_joined(trial: &Trial<'_>) -> Verdict {
    // A second driver, so that the first one's tasks are in the count before and after.
    let place = Place::new().map_err(|error| crate::trial::Stop::Failed(format!("no directory: {error}")))?;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let driver = trial.subject.build(&place).await?;
    let events = driver.events();
    let stop = driver.shutdown(ShutdownMode::StopObjects, trial.patience());
    trial
        .in_time("shutdown", trial.patience() + trial.patience() / 2, stop)
        .await??;
    drop(events);
    trial
        .until("all tasks of the driver have ended", async || {
            let now = metrics.num_alive_tasks();
            Ok(if now <= before {
                Ok(())
            } else {
                Err(format!("{before} tasks before, {now} after"))
            })
        })
        .await
}

pub(super) async fn leave_running_leaves_objects_running(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.adoptable, "adopt objects after a restart")?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    let runs = trial.subject.runs(&trial.place, &object).await;
    trial.build_again().await?;
    ensure!(
        runs != Some(false),
        "the substrate says that it does not run any more"
    );
    let adopted = trial.adopt(&object).await?;
    trial.until_state(&adopted, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn stop_objects_stops_them(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial.shut_down(ShutdownMode::StopObjects).await?;
    let runs = trial.subject.runs(&trial.place, &object).await;
    trial.build_again().await?;
    ensure!(runs != Some(true), "the substrate says that it still runs");
    let recovered = trial.recover_one(&object).await?;
    ensure_matches!(
        recovered,
        RecoveredState::Exited(_) | RecoveredState::Lost(_),
        "recover after StopObjects"
    );
    Ok(())
}

pub(super) async fn later_calls_answer_unavailable(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let driver = trial.driver();
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    for (call, answer) in calls(&*driver, trial, &object).await {
        let refused = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Unavailable);
        ensure!(
            refused,
            "{call} after shutdown: expected Unavailable, got {answer:?}"
        );
    }
    Ok(())
}

/// Each call that reaches the substrate, by name.
async fn calls(
    driver: &dyn ObjectDriver,
    trial: &Trial<'_>,
    object: &crate::Made,
) -> Vec<(&'static str, Result<(), Error>)> {
    let deadline = trial.patience();
    let apply = ApplyRequest {
        guid: Guid::generate(),
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &object.spec,
        handle: None,
        deadline,
    };
    let delete = DeleteRequest {
        guid: object.guid,
        op_id: OpId::generate(),
        handle: Some(&object.handle),
        grace: None,
        orphan: false,
        deadline,
    };
    let collect = CollectRequest {
        targets: &[],
        signals: &[],
        max_log_bytes: 0,
        deadline,
    };
    let target = Target {
        guid: object.guid,
        handle: &object.handle,
    };
    let mut batch = TelemetryBatch::default();
    vec![
        ("apply", driver.apply(apply).await.map(drop)),
        ("delete", driver.delete(delete).await.map(drop)),
        ("discover", driver.discover().await.map(drop)),
        ("observe", driver.observe(&[target], &mut Vec::new()).await),
        ("recover", driver.recover(&[target]).await.map(drop)),
        (
            "collect",
            driver.collect(collect, &mut batch, &mut Vec::new()).await,
        ),
    ]
}

pub(super) async fn a_second_shutdown_is_success(trial: &Trial<'_>) -> Verdict {
    let driver = trial.driver();
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    for mode in [ShutdownMode::LeaveRunning, ShutdownMode::StopObjects] {
        trial
            .in_time(
                "a second shutdown",
                trial.patience(),
                driver.shutdown(mode, trial.patience()),
            )
            .await??;
    }
    Ok(())
}
