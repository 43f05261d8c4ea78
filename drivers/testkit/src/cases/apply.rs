//! `apply`.

use std::time::Duration;

use agent_api_driver::model::{Guid, OpId};
use agent_api_driver::{Applied, ObjectState};
use futures_util::future::join_all;

use crate::trial::{Trial, Verdict, cancelled_after, ensure, ensure_matches, needs};
use crate::{Made, Sample};

/// Checks that two answers for one object stand for one real thing, and that there is only one.
async fn one_thing(trial: &Trial<'_>, first: &Made, second: Applied) -> Verdict {
    let second = Made {
        handle: second.handle,
        status: second.status,
        ..first.clone()
    };
    let (old, new) = (trial.identity(first), trial.identity(&second));
    ensure!(old == new, "the second call made another thing: {old} and {new}");
    let found = trial.found(first.guid).await?;
    ensure!(found.len() <= 1, "more than one thing: {found:?}");
    Ok(())
}

pub(super) async fn returns_when_the_handle_finds_the_real_thing(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    ensure_matches!(
        object.status.state,
        ObjectState::Starting | ObjectState::Running,
        "the status that apply returned"
    );
    let state = trial.state(&object).await?;
    ensure_matches!(
        state,
        ObjectState::Starting | ObjectState::Running,
        "observe right after apply"
    );
    Ok(())
}

pub(super) async fn the_object_runs_soon_after(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    ensure!(
        trial.subject.runs(&trial.place, &object).await != Some(false),
        "the substrate says that it does not run"
    );
    Ok(())
}

pub(super) async fn the_same_op_id_never_has_its_effect_twice(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    for maybe_applied in [false, true] {
        let again = trial
            .apply(
                object.guid,
                object.op_id,
                &object.spec,
                Some(&object.handle),
                maybe_applied,
            )
            .await?;
        one_thing(trial, &object, again).await?;
    }
    Ok(())
}

pub(super) async fn the_same_op_id_without_the_handle_finds_the_real_thing(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    let again = trial
        .apply(object.guid, object.op_id, &object.spec, None, true)
        .await?;
    one_thing(trial, &object, again).await
}

async fn maybe_applied_after(trial: &Trial<'_>, crash: bool) -> Verdict {
    needs(trial.capabilities()?.adoptable, "adopt objects after a restart")?;
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    if crash {
        trial.crash_driver().await?
    } else {
        trial.restart_driver().await?
    };
    let again = trial
        .apply(object.guid, object.op_id, &object.spec, None, true)
        .await?;
    one_thing(trial, &object, again).await
}

pub(super) async fn maybe_applied_holds_after_a_restart_of_the_driver(trial: &Trial<'_>) -> Verdict {
    maybe_applied_after(trial, false).await
}

pub(super) async fn maybe_applied_holds_after_a_crash_of_the_driver(trial: &Trial<'_>) -> Verdict {
    maybe_applied_after(trial, true).await
}

pub(super) async fn maybe_applied_creates_where_nothing_was_made(trial: &Trial<'_>) -> Verdict {
    let (guid, op_id, spec) = (
        Guid::generate(),
        OpId::generate(),
        trial.sample(Sample::LongRunning)?,
    );
    let Applied { handle, status, .. } = trial.apply(guid, op_id, &spec, None, true).await?;
    let object = Made {
        guid,
        op_id,
        spec,
        handle,
        status,
    };
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn an_update_with_the_same_op_id_restarts_once(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let next = trial.changed(&object, Sample::ChangedByRestart)?;
    let op_id = OpId::generate();
    let first = trial
        .apply(object.guid, op_id, &next, Some(&object.handle), false)
        .await?;
    let first = Made {
        op_id,
        spec: next,
        ..trial.after(&object, first)
    };
    // The answer of the first call may have been lost: the second comes with the handle from before it.
    let second = trial
        .apply(object.guid, op_id, &first.spec, Some(&object.handle), true)
        .await?;
    one_thing(trial, &first, second).await
}

pub(super) async fn what_it_makes_bears_the_mark(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    let found = trial.discover().await?;
    let (mark, _) = ensure_matches!(found.as_slice(), [_], "what discover finds after one apply")[0].clone();
    ensure!(
        mark.agent == *trial.place.agent(),
        "the mark is of agent {}, not {}",
        mark.agent,
        trial.place.agent()
    );
    ensure!(
        mark.guid == object.guid,
        "the mark is of {}, not {}",
        mark.guid,
        object.guid
    );
    ensure!(
        mark.op_id == object.op_id,
        "the mark is of operation {}, not {}",
        mark.op_id,
        object.op_id
    );
    Ok(())
}

pub(super) async fn what_ended_starts_again_with_a_new_handle(trial: &Trial<'_>) -> Verdict {
    let ended = trial.ended(0).await?;
    let mut spec = trial.sample(Sample::LongRunning)?;
    spec.name = ended.spec.name.clone();
    let op_id = OpId::generate();
    let applied = trial
        .apply(ended.guid, op_id, &spec, Some(&ended.handle), false)
        .await?;
    ensure!(
        applied.handle != ended.handle,
        "the handle is the old one: {:?}",
        applied.handle
    );
    let (old, new) = (ended.status.evidence.revision, applied.status.evidence.revision);
    ensure!(new > old, "the revision did not grow: {old}, then {new}");
    let object = Made {
        op_id,
        ..trial.after(&ended, applied)
    };
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn an_error_leaves_nothing_behind(trial: &Trial<'_>) -> Verdict {
    let (guid, spec) = (Guid::generate(), trial.sample(Sample::CannotBeMade)?);
    let answer = trial.apply(guid, OpId::generate(), &spec, None, false).await;
    ensure!(answer.is_err(), "apply of what cannot be made: {answer:?}");
    let found = trial.found(guid).await?;
    ensure!(found.is_empty(), "left behind: {found:?}");
    let left = trial.subject.leftovers(&trial.place).await;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

pub(super) async fn dropped_at_any_await_the_same_op_id_ends_it(trial: &Trial<'_>) -> Verdict {
    for polls in 1..=trial.subject.crash_steps() {
        let (guid, op_id, spec) = (
            Guid::generate(),
            OpId::generate(),
            trial.sample(Sample::LongRunning)?,
        );
        let first = cancelled_after(polls, trial.apply(guid, op_id, &spec, None, false)).await;
        let ended = first.is_some();
        let Applied { handle, status, .. } = trial.apply(guid, op_id, &spec, None, true).await?;
        let object = Made {
            guid,
            op_id,
            spec,
            handle,
            status,
        };
        trial.until_state(&object, ObjectState::Running).await?;
        let found = trial.found(guid).await?;
        ensure!(
            found.len() <= 1,
            "cancelled after {polls} polls: more than one thing: {found:?}"
        );
        if let Some(first) = first {
            one_thing(trial, &object, first?).await?;
        }
        trial.delete(&object).await?;
        if ended {
            break;
        }
    }
    Ok(())
}

pub(super) async fn many_objects_at_once_stay_apart(trial: &Trial<'_>) -> Verdict {
    let mut specs = Vec::new();
    for _ in 0..16 {
        specs.push(trial.sample(Sample::LongRunning)?);
    }
    let limit = trial.patience() * 4;
    let made = trial
        .in_time(
            "16 creates",
            limit,
            join_all(specs.into_iter().map(|spec| trial.create(spec))),
        )
        .await?;
    let made = made.into_iter().collect::<Verdict<Vec<_>>>()?;
    for (i, object) in made.iter().enumerate() {
        for other in &made[i + 1..] {
            ensure!(
                trial.identity(object) != trial.identity(other),
                "one thing for two objects: {object:?}, {other:?}"
            );
        }
    }
    let (gone, kept) = made.split_at(8);
    let args = || crate::trial::DeleteArgs {
        grace: Some(Duration::from_secs(1)),
        ..Default::default()
    };
    let deletes = gone
        .iter()
        .map(|object| trial.delete_with(object.guid, Some(&object.handle), args()));
    for deleted in trial.in_time("8 deletes", limit, join_all(deletes)).await? {
        deleted?;
    }
    for object in kept {
        trial.until_state(object, ObjectState::Running).await?;
    }
    for object in gone {
        trial.until_ended(object).await?;
    }
    Ok(())
}
