//! The driver call: the only I/O of the manager besides its journal.

use agent_api_driver::{ApplyRequest, ControlRequest, DeleteRequest, ObjectDriver, ProbeRequest, Target};
use agent_api_manager::{Action, Effect, Operation, Outcome, Performed};
use agent_api_model::{Error, ErrorKind, PlanAction, Result, Timestamp};
use tokio::time::Instant;

use crate::breaker::Watched;
use crate::shared::Shared;
use crate::store;

/// Makes one driver call, after the operation's record is on disk.
pub(crate) async fn run(shared: &Shared, operation: Operation) -> Outcome {
    if operation.after != 0
        && let Err(error) = shared.store.durable(operation.after).await
    {
        let error = error
            .with_object(&operation.name)
            .with_operation(store::OPERATION);
        return Outcome {
            operation,
            result: Err(error),
            performed: None,
        };
    }
    let nothing = match &operation.action {
        Action::Update(PlanAction::NoOp) => Some(Effect::Nothing),
        // It was never begun, so there is nothing to remove.
        Action::Delete { .. } if operation.handle.is_none() && !operation.maybe_applied => {
            Some(Effect::Deleted(agent_api_driver::Deleted::default()))
        }
        _ => None,
    };
    if let Some(effect) = nothing {
        return Outcome {
            operation,
            result: Ok(effect),
            performed: None,
        };
    }
    let Some(driver) = shared.drivers.get(operation.driver.as_str()) else {
        let error = shared
            .unknown_kind(&operation.spec.kind)
            .with_object(&operation.name);
        return Outcome {
            operation,
            result: Err(error),
            performed: None,
        };
    };
    // Probes ask the object, not the substrate: they say nothing of the driver.
    let watched = match shared.breakers.get(&operation.driver) {
        Some(breaker) if !matches!(operation.action, Action::Probe(_)) => match breaker.pass() {
            Ok(pass) => Some(Watched::new(pass, operation.deadline)),
            Err(error) => {
                let error = error.with_object(&operation.name);
                return Outcome {
                    operation,
                    result: Err(error),
                    performed: None,
                };
            }
        },
        _ => None,
    };
    let called = Timestamp::now();
    let result = call(&**driver, &operation)
        .await
        .and_then(|effect| crate::wanted::check(effect, &operation));
    let returned = Timestamp::now();
    if let Some(watched) = watched {
        watched.returned(matches!(&result, Err(error)
            if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)));
    }
    let result = result.map_err(|error| {
        let error = if error.object().is_none() {
            error.with_object(&operation.name)
        } else {
            error
        };
        if error.operation().is_empty() || error.operation() == store::OPERATION {
            error.with_operation(operation.action.verb().as_str())
        } else {
            error
        }
    });
    Outcome {
        operation,
        result,
        performed: Some(Performed { called, returned }),
    }
}

async fn call(driver: &dyn ObjectDriver, operation: &Operation) -> Result<Effect> {
    let handle = operation.handle.as_deref();
    let started = Instant::now();
    let left = || operation.deadline.saturating_sub(started.elapsed());
    let apply = |handle| ApplyRequest {
        guid: operation.guid,
        generation: operation.generation,
        op_id: operation.op_id,
        maybe_applied: operation.maybe_applied,
        spec: &operation.spec,
        handle,
        deadline: left(),
    };
    match &operation.action {
        Action::Start | Action::Update(_) => driver.apply(apply(handle)).await.map(Effect::Applied),
        Action::Control(action) => {
            let control = driver.control().ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("the driver {} has no control verbs", operation.driver),
                )
            })?;
            let handle = handle.ok_or_else(|| no_handle(operation))?;
            control
                .control(ControlRequest {
                    guid: operation.guid,
                    generation: operation.generation,
                    op_id: operation.op_id,
                    maybe_applied: operation.maybe_applied,
                    spec: &operation.spec,
                    handle,
                    action,
                    deadline: left(),
                })
                .await
                .map(Effect::Applied)
        }
        Action::Replace => {
            // Tried again, the delete finds nothing under the old handle, and the apply what it made before.
            if handle.is_some() || operation.maybe_applied {
                driver
                    .delete(DeleteRequest {
                        guid: operation.guid,
                        op_id: operation.op_id,
                        handle,
                        grace: None,
                        orphan: false,
                        deadline: left(),
                    })
                    .await?;
            }
            driver.apply(apply(None)).await.map(Effect::Applied)
        }
        Action::Delete { grace, orphan } => driver
            .delete(DeleteRequest {
                guid: operation.guid,
                op_id: operation.op_id,
                handle,
                grace: *grace,
                orphan: *orphan,
                deadline: left(),
            })
            .await
            .map(Effect::Deleted),
        Action::Probe(check) => {
            let probe = driver.probe().ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("the driver {} cannot make health probes", operation.driver),
                )
            })?;
            let handle = handle.ok_or_else(|| no_handle(operation))?;
            probe
                .probe(ProbeRequest {
                    target: Target {
                        guid: operation.guid,
                        handle,
                    },
                    action: &check.probe,
                    timeout: check.timeout,
                })
                .await
                .map(Effect::Probed)
        }
    }
}

fn no_handle(operation: &Operation) -> Error {
    Error::new(ErrorKind::Conflict, "there is nothing to act on yet").with_object(&operation.name)
}
