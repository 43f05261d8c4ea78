//! `discover`.

use std::collections::BTreeSet;

use crate::trial::{Trial, Verdict, ensure, needs};
use crate::{Place, Sample};

pub(super) async fn finds_what_apply_made(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.discoverable, "discover")?;
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        made.insert(trial.running(Sample::LongRunning).await?.guid);
    }
    let found: Vec<_> = trial.discover().await?;
    let guids: BTreeSet<_> = found.iter().map(|(mark, _)| mark.guid).collect();
    ensure!(
        guids == made && found.len() == made.len(),
        "made {made:?}, found {found:?}"
    );
    for (mark, handle) in found {
        ensure!(
            trial.driver().reads_handle(&handle),
            "the handle of {} cannot be read: {handle:?}",
            mark.guid
        );
        let observed = trial.observe(mark.guid, &handle).await?;
        let state = observed.status.state;
        ensure!(
            state == agent_api_driver::ObjectState::Running,
            "under its handle {} is {state:?}",
            mark.guid
        );
    }
    Ok(())
}

pub(super) async fn finds_what_another_run_of_the_agent_made(trial: &Trial<'_>) -> Verdict {
    let can = trial.capabilities()?;
    needs(
        can.discoverable && can.adoptable,
        "discover what another run made",
    )?;
    let object = trial.running(Sample::LongRunning).await?;
    trial.crash_driver().await?;
    let found = trial.discover().await?;
    ensure!(
        found.len() == 1 && found[0].0.guid == object.guid,
        "made {}, found {found:?}",
        object.guid
    );
    ensure!(
        found[0].0.op_id == object.op_id,
        "made by {}, found {found:?}",
        object.op_id
    );
    Ok(())
}

pub(super) async fn finds_not_what_was_deleted(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.discoverable, "discover")?;
    let kept = trial.running(Sample::LongRunning).await?;
    let gone = trial.running(Sample::LongRunning).await?;
    trial.delete(&gone).await?;
    let found = trial.discover().await?;
    ensure!(
        found.len() == 1 && found[0].0.guid == kept.guid,
        "kept {}, found {found:?}",
        kept.guid
    );
    Ok(())
}

pub(super) async fn finds_not_what_another_agent_made(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.discoverable, "discover")?;
    trial.running(Sample::LongRunning).await?;
    let place = Place::new().map_err(|error| crate::trial::Stop::Failed(format!("no directory: {error}")))?;
    let other = trial.subject.build(&place).await?;
    let found = other.discover().await;
    other
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, trial.patience())
        .await?;
    let found = found?;
    ensure!(found.is_empty(), "another agent finds {found:?}");
    Ok(())
}
