//! `recover`.

use std::collections::BTreeSet;

use agent_api_driver::model::Guid;
use agent_api_driver::{DriverEvent, Handle, ObjectState, RecoveredState, ShutdownMode, Target};
use futures_util::StreamExt;
use serde_json::json;

use crate::trial::{Stop, Trial, Verdict, ensure, ensure_matches, needs, offered};
use crate::{Made, Sample};

fn adoptable(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.adoptable, "adopt objects after a restart")
}

pub(super) async fn answers_each_target_once(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let mut objects = Vec::new();
    for _ in 0..4 {
        objects.push(trial.running(Sample::LongRunning).await?);
    }
    trial.delete(&objects[0]).await?;
    trial.restart_driver().await?;
    let never_made = Made {
        guid: Guid::generate(),
        handle: Handle::new(1, json!("nonsense")),
        ..objects[0].clone()
    };
    let targets: Vec<_> = objects.iter().chain([&never_made]).collect();
    let answers = trial
        .in_time("recover", trial.patience() * 2, trial.recover(&targets))
        .await??;
    let asked: BTreeSet<_> = targets.iter().map(|target| target.guid).collect();
    let answered: BTreeSet<_> = answers.iter().map(|answer| answer.guid).collect();
    ensure!(asked == answered, "asked for {asked:?}, got {answers:?}");
    let empty = trial.recover(&[]).await?;
    ensure!(empty.is_empty(), "answers to nothing: {empty:?}");
    Ok(())
}

async fn adopts(trial: &Trial<'_>, crash: bool) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    let identity = trial.identity(&object);
    if crash {
        trial.crash_driver().await?
    } else {
        trial.restart_driver().await?
    };
    let adopted = trial.adopt(&object).await?;
    let now = trial.identity(&adopted);
    ensure!(
        identity == now,
        "adopted is another thing: {identity} became {now}"
    );
    ensure_matches!(
        adopted.status.state,
        ObjectState::Running | ObjectState::Starting,
        "the status of what is adopted"
    );
    ensure!(
        trial.subject.runs(&trial.place, &adopted).await != Some(false),
        "the substrate says that it does not run"
    );
    Ok(())
}

pub(super) async fn adopts_after_a_restart_of_the_driver(trial: &Trial<'_>) -> Verdict {
    adopts(trial, false).await
}

pub(super) async fn adopts_after_a_crash_of_the_driver(trial: &Trial<'_>) -> Verdict {
    adopts(trial, true).await
}

pub(super) async fn what_is_adopted_is_observed_and_can_be_deleted(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.restart_driver().await?;
    let adopted = trial.adopt(&object).await?;
    trial.until_state(&adopted, ObjectState::Running).await?;
    trial.delete(&adopted).await?;
    trial.until_ended(&adopted).await?;
    Ok(())
}

pub(super) async fn what_is_adopted_is_reported_by_events(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.restart_driver().await?;
    let mut events = trial.events();
    let adopted = trial.adopt(&object).await?;
    offered(
        trial
            .subject
            .end_outside(&trial.place, &adopted)
            .await
            .then_some(()),
        "hook `end_outside`",
    )?;
    let end = async {
        while let Some(event) = events.next().await {
            match event {
                DriverEvent::Status(observed)
                    if observed.guid == object.guid
                        && matches!(observed.status.state, ObjectState::Exited | ObjectState::Gone) =>
                {
                    return Ok(());
                }
                DriverEvent::Gap(None) => return Ok(()),
                DriverEvent::Gap(Some(guid)) if guid == object.guid => return Ok(()),
                _ => {}
            }
        }
        Err(Stop::Failed("the stream of events ended".into()))
    };
    trial
        .in_time("waiting for the end of what is adopted", trial.patience(), end)
        .await?
}

pub(super) async fn a_revision_is_never_older_than_before(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    // Some changes, so that the revision has grown.
    let next = trial
        .sample(Sample::ChangedByRestart)
        .or_else(|_| trial.sample(Sample::LongRunning))?;
    let op_id = agent_api_driver::model::OpId::generate();
    let applied = trial
        .apply(object.guid, op_id, &next, Some(&object.handle), false)
        .await?;
    let object = trial.after(&object, applied);
    let seen = trial
        .until_state(&object, ObjectState::Running)
        .await?
        .status
        .evidence
        .revision;
    trial.restart_driver().await?;
    let adopted = trial.adopt(&object).await?;
    let now = adopted.status.evidence.revision;
    ensure!(
        now >= seen,
        "revision {seen} before the restart of the agent, {now} after it"
    );
    Ok(())
}

pub(super) async fn what_ended_meanwhile_is_exited(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    needs(trial.capabilities()?.ends, "let objects end by themselves")?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    let ended = trial.subject.end_outside(&trial.place, &object).await;
    trial.build_again().await?;
    offered(ended.then_some(()), "hook `end_outside`")?;
    let recovered = trial.recover_one(&object).await?;
    let RecoveredState::Exited(status) = recovered else {
        return Err(Stop::Failed(format!("expected Exited, got {recovered:?}")));
    };
    ensure!(
        status.state == ObjectState::Exited,
        "the status of what ended: {status:?}"
    );
    ensure!(
        status.exit.as_ref().is_none_or(|exit| !exit.is_success()),
        "a crash is reported as success: {status:?}"
    );
    Ok(())
}

pub(super) async fn what_vanished_meanwhile_is_not_adopted(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    let vanished = trial.subject.vanish(&trial.place, &object).await;
    trial.build_again().await?;
    offered(vanished.then_some(()), "hook `vanish`")?;
    match trial.recover_one(&object).await? {
        RecoveredState::Lost(why) => ensure!(!why.is_empty(), "lost without a reason"),
        RecoveredState::Exited(status) => {
            let known = status
                .exit
                .as_ref()
                .is_some_and(|exit| exit.code.is_some() || exit.signal.is_some());
            ensure!(!known, "nobody can know how it ended, and yet: {status:?}");
        }
        other => return Err(Stop::Failed(format!("expected Lost, got {other:?}"))),
    }
    Ok(())
}

pub(super) async fn something_foreign_is_foreign_and_not_touched(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    let handle = offered(
        trial.subject.foreign(&trial.place, &object).await,
        "hook `foreign`",
    )?;
    trial.restart_driver().await?;
    let recovered = trial
        .recover_one(&Made {
            handle: handle.clone(),
            ..object
        })
        .await?;
    ensure_matches!(
        recovered,
        RecoveredState::Foreign(_),
        "recover of something that is not ours"
    );
    ensure!(
        trial.subject.foreign_untouched(&trial.place, &handle).await,
        "it was touched"
    );
    Ok(())
}

pub(super) async fn the_handle_of_another_object_is_not_adopted(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.restart_driver().await?;
    let recovered = trial
        .recover_one(&Made {
            guid: Guid::generate(),
            ..object.clone()
        })
        .await?;
    ensure_matches!(
        recovered,
        RecoveredState::Foreign(_) | RecoveredState::Lost(_),
        "recover with the handle of another object"
    );
    let adopted = trial.adopt(&object).await?;
    trial.until_state(&adopted, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn an_unreadable_handle_is_lost_and_no_error_of_the_call(trial: &Trial<'_>) -> Verdict {
    adoptable(trial)?;
    let good = trial.running(Sample::LongRunning).await?;
    let driver = trial.restart_driver().await?;
    let version = driver.handle_version();
    let unreadable = [
        Handle::new(version, json!("not a handle")),
        Handle::new(version, json!(null)),
        Handle::new(version, json!({"unknown": [1, 2]})),
        Handle::new(version + 1, good.handle.data.clone()),
    ];
    let guids: Vec<_> = unreadable.iter().map(|_| Guid::generate()).collect();
    let mut targets: Vec<_> = unreadable
        .iter()
        .zip(&guids)
        .map(|(handle, guid)| Target { guid: *guid, handle })
        .collect();
    targets.push(Target {
        guid: good.guid,
        handle: &good.handle,
    });
    let answers = driver.recover(&targets).await?;
    ensure!(
        answers.len() == targets.len(),
        "{} targets, {} answers",
        targets.len(),
        answers.len()
    );
    for answer in answers {
        if answer.guid == good.guid {
            ensure_matches!(
                answer.state,
                RecoveredState::Adopted(..),
                "the readable one among unreadable ones"
            );
        } else {
            ensure_matches!(
                answer.state,
                RecoveredState::Lost(why) if !why.is_empty(),
                "recover with a handle that cannot be read"
            );
        }
    }
    Ok(())
}
