//! Changes of the real thing past the agent.

use agent_api_driver::model::{Condition, OpId};
use agent_api_driver::{DriverEvent, ObjectState, ObjectStatus};
use futures_util::{FutureExt, StreamExt};

use crate::Sample;
use crate::trial::{Trial, Verdict, ensure, needs, offered};

fn drifted(status: &ObjectStatus) -> bool {
    let holds = |condition: &Condition| condition.kind == Condition::DRIFTED && condition.status;
    status.conditions.iter().any(holds)
}

pub(super) async fn a_change_from_outside_is_shown_and_apply_takes_it_back(trial: &Trial<'_>) -> Verdict {
    let mut events = trial.events();
    let object = trial.running(Sample::LongRunning).await?;
    let status = trial.observe(object.guid, &object.handle).await?.status;
    ensure!(!drifted(&status), "drifted before anyone changed it: {status:?}");
    let changed = trial.subject.drift(&trial.place, &object).await;
    offered(changed.then_some(()), "hook `drift`")?;
    trial
        .until("an event or observe shows the condition Drifted", async || {
            while let Some(Some(event)) = events.next().now_or_never() {
                match event {
                    DriverEvent::Status(observed)
                        if observed.guid == object.guid && drifted(&observed.status) =>
                    {
                        return Ok(Ok(()));
                    }
                    _ => {}
                }
            }
            let observed = trial.observe(object.guid, &object.handle).await?;
            Ok(if drifted(&observed.status) {
                Ok(())
            } else {
                Err(format!("{observed:?}"))
            })
        })
        .await?;
    let again = trial.apply(
        object.guid,
        OpId::generate(),
        &object.spec,
        Some(&object.handle),
        false,
    );
    let repaired = trial.after(&object, again.await?);
    trial
        .until("observe shows it repaired", async || {
            let observed = trial.observe(repaired.guid, &repaired.handle).await?;
            let well = observed.status.state == ObjectState::Running && !drifted(&observed.status);
            Ok(if well {
                Ok(())
            } else {
                Err(format!("{observed:?}"))
            })
        })
        .await
}

pub(super) async fn what_vanished_is_made_anew_by_apply(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let vanished = trial.subject.vanish(&trial.place, &object).await;
    offered(vanished.then_some(()), "hook `vanish`")?;
    trial.until_ended(&object).await?;
    let again = trial.apply(
        object.guid,
        OpId::generate(),
        &object.spec,
        Some(&object.handle),
        false,
    );
    let anew = trial.after(&object, again.await?);
    trial.until_state(&anew, ObjectState::Running).await?;
    ensure!(
        trial.subject.runs(&trial.place, &anew).await != Some(false),
        "the substrate says that it does not run"
    );
    needs(trial.capabilities()?.discoverable, "discover")?;
    let found = trial.found(object.guid).await?;
    ensure!(found.len() == 1, "not exactly one thing: {found:?}");
    Ok(())
}
