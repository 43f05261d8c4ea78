//! `validate`.

use std::time::Duration;

use agent_api_driver::model::{ErrorKind, Guid, OpId, Severity};

use super::schema::SAMPLES;
use crate::trial::{DeleteArgs, Trial, Verdict, ensure, offered};
use crate::{Refused, Sample};

fn refused(trial: &Trial<'_>) -> Verdict<Vec<Refused>> {
    let refused = trial.subject.refused_by_validate();
    offered(
        (!refused.is_empty()).then_some(refused),
        "spec that only validate refuses",
    )
}

pub(super) async fn changes_nothing(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let before = trial.observe(object.guid, &object.handle).await?;
    for sample in SAMPLES {
        let Ok(spec) = trial.changed(&object, sample) else {
            continue;
        };
        let first = trial.driver().validate(&spec).await;
        ensure!(
            first == trial.driver().validate(&spec).await,
            "two calls for {sample:?} differ"
        );
    }
    let after = trial.observe(object.guid, &object.handle).await?;
    ensure!(
        before.status.state == after.status.state,
        "{before:?} became {after:?}"
    );
    if trial.capabilities()?.discoverable {
        let found = trial.discover().await?;
        ensure!(found.len() == 1, "one object was made, found {found:?}");
    }
    Ok(())
}

pub(super) async fn accepts_the_samples(trial: &Trial<'_>) -> Verdict {
    for sample in SAMPLES {
        let Ok(spec) = trial.sample(sample) else { continue };
        let found = trial.driver().validate(&spec).await;
        ensure!(
            found.iter().all(|found| found.severity == Severity::Warning),
            "{sample:?}: {found:?}"
        );
    }
    Ok(())
}

pub(super) async fn refuses_with_paths_that_begin_with_spec_or_resources(trial: &Trial<'_>) -> Verdict {
    for Refused { spec, path } in refused(trial)? {
        let found = trial.driver().validate(&spec).await;
        ensure!(
            found
                .iter()
                .any(|found| found.severity == Severity::Error && found.path == path),
            "{}: expected an error at {path}, got {found:?}",
            spec.spec
        );
        for found in found {
            ensure!(
                found.path.starts_with("spec") || found.path.starts_with("resources"),
                "the path {:?} begins with neither `spec` nor `resources`",
                found.path
            );
            ensure!(!found.message.is_empty(), "no message at {}", found.path);
        }
    }
    Ok(())
}

pub(super) async fn a_spec_without_an_error_is_not_invalid_for_apply(trial: &Trial<'_>) -> Verdict {
    for sample in SAMPLES {
        // An infeasible one passes `validate`, and whether it can be made at all the contract does not say.
        if sample == Sample::ChangedInfeasibly {
            continue;
        }
        let Ok(spec) = trial.sample(sample) else { continue };
        let guid = Guid::generate();
        let answer = trial.apply(guid, OpId::generate(), &spec, None, false).await;
        match answer {
            Err(error) => {
                ensure!(
                    error.kind() != ErrorKind::Invalid,
                    "{sample:?}: validate found nothing, apply says {error:?}"
                );
            }
            Ok(applied) => {
                let args = DeleteArgs {
                    grace: Some(Duration::from_millis(100)),
                    ..DeleteArgs::default()
                };
                trial.delete_with(guid, Some(&applied.handle), args).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn what_it_refuses_apply_refuses_too(trial: &Trial<'_>) -> Verdict {
    for Refused { spec, path } in refused(trial)? {
        let spec = trial.named(spec);
        let guid = Guid::generate();
        let answer = trial.apply(guid, OpId::generate(), &spec, None, false).await;
        ensure!(
            answer.is_err(),
            "apply of a spec that validate refuses: {answer:?}"
        );
        let found = trial.found(guid).await?;
        ensure!(found.is_empty(), "{path}: something was made: {found:?}");
    }
    Ok(())
}
