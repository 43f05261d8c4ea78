//! Methods that only objects of one kind have: `control` with a call.

use agent_api_driver::ControlRequest;
use agent_api_driver::ObjectState;
use agent_api_driver::model::{ControlAction, Error, ErrorKind, OpId};
use serde_json::{Value, json};

use crate::trial::{Trial, Verdict, ensure, ensure_matches, needs, offered};
use crate::{Made, Sample};

async fn call(
    trial: &Trial<'_>,
    object: &Made,
    method: &str,
    arguments: Value,
) -> Verdict<Result<(), Error>> {
    let driver = trial.driver();
    let control = offered(driver.control(), "control extension")?;
    let action = ControlAction::Call {
        method: method.into(),
        arguments,
    };
    let request = ControlRequest {
        guid: object.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &object.spec,
        handle: &object.handle,
        action: &action,
        deadline: trial.patience(),
    };
    Ok(control.control(request).await.map(drop))
}

pub(super) async fn one_that_is_not_named_is_unsupported(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    for method in ["no_driver_has_this_method", ""] {
        let answer = call(trial, &object, method, json!({})).await?;
        ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::Unsupported, "a method that is not named");
    }
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}

pub(super) async fn arguments_that_do_not_fit_are_invalid(trial: &Trial<'_>) -> Verdict {
    let methods = trial.capabilities()?.methods;
    needs(!methods.is_empty(), "call any method of its own")?;
    let (method, arguments) = offered(trial.subject.refused_call_sample(), "call that is refused")?;
    ensure!(
        methods.contains_key(&method),
        "the subject calls {method}, the capabilities name {:?}",
        methods.keys()
    );
    let object = trial.running(Sample::LongRunning).await?;
    let answer = call(trial, &object, &method, arguments.clone()).await?;
    let invalid = answer.as_ref().is_err_and(|error| {
        let path = error.path().unwrap_or_default();
        error.kind() == ErrorKind::Invalid && (path == "arguments" || path.starts_with("arguments."))
    });
    ensure!(
        invalid,
        "{method} with {arguments}: expected Invalid at `arguments`, got {answer:?}"
    );
    trial.until_state(&object, ObjectState::Running).await?;
    Ok(())
}
