//! A crash of the agent between any two steps of a call.
//!
//! The call is dropped after some of its polls or a part of its time, the driver is ended as a crash does and built anew, and then the call
//! is made again with the same `op_id`, with `maybe_applied`, and with the handle as it was known before.

use std::fmt;
use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, Guid, OpId, Verb};
use agent_api_driver::{Applied, ControlRequest, ObjectState};
use tokio::time::{Instant, timeout};

use crate::trial::{DeleteArgs, Stop, Trial, Verdict, cancelled_after, counted, ensure, needs};
use crate::{Made, Sample};

fn survives(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.adoptable, "adopt objects after a restart")
}

/// Where a call is dropped.
#[derive(Clone, Copy)]
enum Cut {
    Polls(usize),
    After(Duration),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Polls(polls) => write!(f, "dropped after {polls} polls, and a crash"),
            Self::After(time) => write!(f, "dropped after {time:?}, and a crash"),
        }
    }
}

impl Cut {
    /// The value, where it is there before the cut.
    async fn call<T>(self, future: impl Future<Output = T>) -> Option<T> {
        match self {
            Self::Polls(polls) => cancelled_after(polls, future).await,
            Self::After(time) => timeout(time, future).await.ok(),
        }
    }
}

/// How long a whole call takes.
#[derive(Clone, Copy)]
struct Whole {
    polls: usize,
    time: Duration,
}

async fn measured<T>(future: impl Future<Output = T>) -> (T, Whole) {
    let began = Instant::now();
    let (value, polls) = counted(future).await;
    let time = began.elapsed();
    (value, Whole { polls, time })
}

/// Where the calls are dropped: after each of its polls, where there are too many at some, spread evenly, with the
/// first and the last; and where there are few, as threads or others do the work, also after parts of its time.
fn cuts(trial: &Trial<'_>, whole: Whole) -> Vec<Cut> {
    let most = trial.subject.crash_steps().max(2) - 1;
    let parts = whole.polls.clamp(1, most);
    let polls = (0..=parts).map(|part| Cut::Polls(part * whole.polls / parts));
    // Timers do not know less than a millisecond.
    let mut millis = u32::try_from(whole.time.as_millis()).unwrap_or(u32::MAX);
    if trial.repeats_calls() {
        // Under chaos the time is that of its hangs.
        millis = 0;
    }
    let times = u32::try_from(most - parts).unwrap_or(u32::MAX).min(millis);
    polls
        .chain((1..=times).map(|part| Cut::After(whole.time * part / times)))
        .collect()
}

/// The answer, or a failure that names the step.
fn at<T>(cut: Cut, call: &str, answer: Result<T, Error>) -> Verdict<T> {
    answer.map_err(|error| Stop::Failed(format!("{cut}: {call} again answers {error:?}")))
}

/// Checks that there is one real thing and that it runs, deletes it, and checks that nothing is left.
async fn runs_once(trial: &Trial<'_>, cut: Cut, object: &Made) -> Verdict {
    trial.until_state(object, ObjectState::Running).await?;
    ensure!(
        trial.subject.runs(&trial.place, object).await != Some(false),
        "{cut}: the substrate says that it does not run"
    );
    if trial.capabilities()?.discoverable {
        let found = trial.found(object.guid).await?;
        ensure!(found.len() == 1, "{cut}: not exactly one thing: {found:?}");
    }
    at(cut, "delete", trial.delete(object).await)?;
    nothing_is_left(trial, cut, object).await
}

async fn nothing_is_left(trial: &Trial<'_>, cut: Cut, object: &Made) -> Verdict {
    let found = trial.found(object.guid).await?;
    ensure!(found.is_empty(), "{cut}: left after delete: {found:?}");
    trial
        .until("nothing is left over after delete", async || {
            let left = trial.subject.leftovers(&trial.place).await;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{cut}: {left:?}"))
            })
        })
        .await
}

pub(super) async fn in_a_create_the_same_op_id_ends_it(trial: &Trial<'_>) -> Verdict {
    survives(trial)?;
    let spec = trial.sample(Sample::LongRunning)?;
    let whole = trial.apply(Guid::generate(), OpId::generate(), &spec, None, false);
    let (answer, whole) = measured(whole).await;
    answer?;
    trial.clear().await?;
    for cut in cuts(trial, whole) {
        let (guid, op_id) = (Guid::generate(), OpId::generate());
        let spec = trial.sample(Sample::LongRunning)?;
        cut.call(trial.apply(guid, op_id, &spec, None, false)).await;
        trial.crash_driver().await?;
        let Applied { handle, status, .. } =
            at(cut, "apply", trial.apply(guid, op_id, &spec, None, true).await)?;
        let object = Made {
            guid,
            op_id,
            spec,
            handle,
            status,
        };
        runs_once(trial, cut, &object).await?;
    }
    Ok(())
}

/// Whether a change leaves the same real thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Same,
    Another,
}

async fn in_a_change(trial: &Trial<'_>, sample: Sample, becomes: Becomes) -> Verdict {
    survives(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    let next = trial.changed(&object, sample)?;
    let whole = trial.apply(object.guid, OpId::generate(), &next, Some(&object.handle), false);
    let (answer, whole) = measured(whole).await;
    answer?;
    trial.clear().await?;
    for cut in cuts(trial, whole) {
        let object = trial.running(Sample::LongRunning).await?;
        let next = trial.changed(&object, sample)?;
        let op_id = OpId::generate();
        let call = |again| trial.apply(object.guid, op_id, &next, Some(&object.handle), again);
        let first = cut.call(call(false)).await;
        trial.crash_driver().await?;
        let after = trial.after(&object, at(cut, "apply", call(true).await)?);
        let same = trial.identity(&after) == trial.identity(&object);
        ensure!(
            same == (becomes == Becomes::Same),
            "{cut}: {:?} became {:?}",
            object.handle,
            after.handle
        );
        if let Some(Ok(first)) = first {
            let first = trial.subject.identity(&first.handle, &first.status);
            ensure!(
                first == trial.identity(&after),
                "the second call with the same op_id made another thing: {first} and {:?}",
                after.handle
            );
        }
        runs_once(trial, cut, &after).await?;
    }
    Ok(())
}

pub(super) async fn in_a_change_in_place_the_same_op_id_ends_it(trial: &Trial<'_>) -> Verdict {
    in_a_change(trial, Sample::ChangedInPlace, Becomes::Same).await
}

pub(super) async fn in_a_change_by_restart_the_same_op_id_ends_it(trial: &Trial<'_>) -> Verdict {
    in_a_change(trial, Sample::ChangedByRestart, Becomes::Another).await
}

async fn restart(trial: &Trial<'_>, object: &Made, op_id: OpId, again: bool) -> Result<Applied, Error> {
    let driver = trial.driver();
    let control = driver
        .control()
        .ok_or_else(|| Error::internal("there is no control extension"))?;
    let action = ControlAction::Restart { grace: None };
    let request = ControlRequest {
        guid: object.guid,
        generation: 1,
        op_id,
        maybe_applied: again,
        spec: &object.spec,
        handle: &object.handle,
        action: &action,
        deadline: trial.patience(),
    };
    control.control(request).await
}

pub(super) async fn in_a_restart_the_same_op_id_ends_it(trial: &Trial<'_>) -> Verdict {
    survives(trial)?;
    trial.verb(Verb::Restart)?;
    let object = trial.running(Sample::LongRunning).await?;
    let (answer, whole) = measured(restart(trial, &object, OpId::generate(), false)).await;
    trial.after(&object, answer?);
    trial.clear().await?;
    for cut in cuts(trial, whole) {
        let object = trial.running(Sample::LongRunning).await?;
        let op_id = OpId::generate();
        let first = cut.call(restart(trial, &object, op_id, false)).await;
        trial.crash_driver().await?;
        let second = restart(trial, &object, op_id, true).await;
        let after = trial.after(&object, at(cut, "restart", second)?);
        ensure!(
            trial.identity(&after) != trial.identity(&object),
            "{cut}: a restart left the same thing: {:?}",
            after.handle
        );
        if let Some(Ok(first)) = first {
            let first = trial.subject.identity(&first.handle, &first.status);
            ensure!(
                first == trial.identity(&after),
                "the same op_id restarted twice: {first} and {:?}",
                after.handle
            );
        }
        runs_once(trial, cut, &after).await?;
    }
    Ok(())
}

pub(super) async fn in_a_delete_a_second_call_ends_it(trial: &Trial<'_>) -> Verdict {
    survives(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    let (answer, whole) = measured(trial.delete(&object)).await;
    answer?;
    for cut in cuts(trial, whole) {
        let object = trial.running(Sample::LongRunning).await?;
        let op_id = Some(OpId::generate());
        let call = || {
            let args = DeleteArgs {
                op_id,
                ..DeleteArgs::default()
            };
            trial.delete_with(object.guid, Some(&object.handle), args)
        };
        cut.call(call()).await;
        trial.crash_driver().await?;
        let deleted = at(cut, "delete", call().await)?;
        ensure!(deleted.left.is_empty(), "{cut}, left: {:?}", deleted.left);
        ensure!(
            trial.subject.runs(&trial.place, &object).await != Some(true),
            "{cut}: the substrate says that it still runs"
        );
        nothing_is_left(trial, cut, &object).await?;
    }
    Ok(())
}
