//! `probe`.

use std::time::Duration;

use agent_api_driver::model::{Error, ProbeAction};
use agent_api_driver::{ProbeOutcome, ProbeRequest, Target};

use crate::trial::{Stop, Trial, Verdict, ensure, ensure_matches, needs, offered};
use crate::{Made, ProbeSample};

async fn object(trial: &Trial<'_>, sample: ProbeSample) -> Verdict<(Made, ProbeAction)> {
    needs(trial.capabilities()?.probe, "probe")?;
    let (spec, action) = offered(
        trial.subject.probe_sample(sample),
        &format!("probe sample {sample:?}"),
    )?;
    let object = trial.create(trial.named(spec)).await?;
    trial
        .until_state(&object, agent_api_driver::ObjectState::Running)
        .await?;
    Ok((object, action))
}

async fn probe(
    trial: &Trial<'_>,
    object: &Made,
    action: &ProbeAction,
    timeout: Duration,
) -> Verdict<Result<ProbeOutcome, Error>> {
    let driver = trial.driver();
    let probe = driver
        .probe()
        .ok_or_else(|| Stop::Failed("capabilities name probe, there is none".into()))?;
    let target = Target {
        guid: object.guid,
        handle: &object.handle,
    };
    Ok(probe
        .probe(ProbeRequest {
            target,
            action,
            timeout,
        })
        .await)
}

pub(super) async fn a_healthy_object_is_healthy(trial: &Trial<'_>) -> Verdict {
    let (object, action) = object(trial, ProbeSample::Healthy).await?;
    // It may need a moment after its start before it answers.
    trial
        .until("the probe finds it healthy", async || {
            Ok(match probe(trial, &object, &action, trial.patience()).await?? {
                ProbeOutcome::Healthy => Ok(()),
                ProbeOutcome::Unhealthy(why) => Err(why),
            })
        })
        .await
}

pub(super) async fn an_unhealthy_object_is_no_error(trial: &Trial<'_>) -> Verdict {
    let (object, action) = object(trial, ProbeSample::Unhealthy).await?;
    let outcome = probe(trial, &object, &action, trial.patience()).await??;
    ensure_matches!(&outcome, ProbeOutcome::Unhealthy(why) if !why.is_empty(), "the probe of what is not well");
    Ok(())
}

pub(super) async fn no_answer_in_time_is_unhealthy(trial: &Trial<'_>) -> Verdict {
    let (object, action) = object(trial, ProbeSample::Hangs).await?;
    let call = probe(trial, &object, &action, trial.patience() / 50);
    let outcome = trial
        .in_time("a probe with a short timeout", trial.patience(), call)
        .await???;
    ensure_matches!(&outcome, ProbeOutcome::Unhealthy(why) if !why.is_empty(), "the probe of what does not answer");
    Ok(())
}

pub(super) async fn what_is_gone_is_never_healthy(trial: &Trial<'_>) -> Verdict {
    let (object, action) = object(trial, ProbeSample::Healthy).await?;
    trial.delete(&object).await?;
    let outcome = probe(trial, &object, &action, trial.patience() / 10).await?;
    ensure!(outcome != Ok(ProbeOutcome::Healthy), "what is gone is healthy");
    Ok(())
}
