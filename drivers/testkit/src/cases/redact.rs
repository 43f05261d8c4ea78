//! Secrets: what the driver shows of them.

use std::fmt::Debug;

use agent_api_driver::model::{ControlAction, ObjectSpec, OpId};
use agent_api_driver::{ControlRequest, ObjectState, PlanRequest};
use serde_json::Value;

use crate::Sample;
use crate::trial::{Stop, Trial, Verdict, ensure, offered};

fn secret(trial: &Trial<'_>) -> Verdict<(ObjectSpec, Vec<String>)> {
    let (spec, secrets) = offered(trial.subject.secret_spec(), "spec with secrets")?;
    let text = json(&spec)?;
    for secret in &secrets {
        ensure!(
            !secret.is_empty() && text.contains(secret.as_str()),
            "the subject's spec does not have the secret {secret:?}: {text}"
        );
    }
    ensure!(!secrets.is_empty(), "the subject names no secret of its spec");
    Ok((trial.named(spec), secrets))
}

fn json(spec: &ObjectSpec) -> Verdict<String> {
    serde_json::to_string(spec).map_err(|error| Stop::Failed(format!("the spec has no JSON: {error}")))
}

pub(super) async fn takes_the_secrets_out_and_leaves_all_else(trial: &Trial<'_>) -> Verdict {
    let (spec, secrets) = secret(trial)?;
    let driver = trial.driver();
    let mut redacted = spec.clone();
    driver.redact(&mut redacted);
    let text = json(&redacted)?;
    for secret in &secrets {
        ensure!(!text.contains(secret.as_str()), "{secret:?} is still in {text}");
    }
    let mut again = redacted.clone();
    driver.redact(&mut again);
    ensure!(again == redacted, "a second time changes it: {again:?}");
    // Around the driver's own part nothing is secret.
    let around = |spec: &ObjectSpec| ObjectSpec {
        spec: Value::Null,
        ..spec.clone()
    };
    ensure!(
        around(&redacted) == around(&spec),
        "more than the spec's own part changed: {redacted:?}"
    );
    let plain = trial.sample(Sample::LongRunning)?;
    let mut same = plain.clone();
    driver.redact(&mut same);
    ensure!(
        same == plain,
        "there is no secret in {plain:?}, it became {same:?}"
    );
    Ok(())
}

/// What the driver said, by who it was.
#[derive(Default)]
struct Said(Vec<(&'static str, String)>);

impl Said {
    fn note(&mut self, what: &'static str, said: &impl Debug) {
        self.0.push((what, format!("{said:?}")));
    }
}

pub(super) async fn no_secret_is_in_what_the_driver_says(trial: &Trial<'_>) -> Verdict {
    let (spec, secrets) = secret(trial)?;
    let driver = trial.driver();
    let mut said = Said::default();
    said.note("validate", &driver.validate(&spec).await);
    let object = trial.create(spec).await?;
    said.note("the handle", &object.handle);
    said.note("the status of apply", &object.status);
    let observed = trial.until_state(&object, ObjectState::Running).await?;
    said.note("observe", &observed);
    let plain = trial.changed(&object, Sample::LongRunning)?;
    for (previous, next) in [
        (None, &object.spec),
        (Some(&object.spec), &plain),
        (Some(&plain), &object.spec),
    ] {
        let request = PlanRequest {
            guid: object.guid,
            previous,
            next,
            handle: previous.map(|_| &object.handle),
        };
        said.note("plan", &driver.plan(request).await);
    }
    said.note("discover", &driver.discover().await);
    if trial.capabilities()?.adoptable {
        said.note("recover", &trial.recover(&[&object]).await?);
    }
    // Errors too: of a spec that cannot be read, of a verb that cannot be, and of what is gone.
    let mut wrong = object.spec.clone();
    match &mut wrong.spec {
        Value::Object(fields) => {
            fields.insert("no_driver_has_this_field".into(), Value::Bool(true));
        }
        part => *part = Value::Bool(true),
    }
    said.note("validate of a wrong spec", &driver.validate(&wrong).await);
    let handle = Some(&object.handle);
    let answer = trial.apply(object.guid, OpId::generate(), &wrong, handle, false);
    said.note("apply of a wrong spec", &answer.await);
    if let Some(control) = driver.control() {
        let action = ControlAction::Signal {
            signal: "SIGNOTHING".into(),
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
        said.note("control", &control.control(request).await);
    }
    said.note("delete", &trial.delete(&object).await);
    said.note(
        "observe after delete",
        &trial.observe(object.guid, &object.handle).await?,
    );
    for (what, text) in said.0 {
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "{secret:?} is in {what}: {text}");
        }
    }
    Ok(())
}
