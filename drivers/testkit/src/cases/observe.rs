//! `observe`.

use std::collections::BTreeSet;

use agent_api_driver::model::{Evidence, EvidenceSource, Guid, ResourceField};
use agent_api_driver::{Handle, ObjectState, ObjectStatus, Observed, Target};
use serde_json::json;

use crate::Sample;
use crate::trial::{Trial, Verdict, ensure, ensure_matches, needs, offered};

pub(super) async fn adds_one_entry_for_each_target(trial: &Trial<'_>) -> Verdict {
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(trial.running(Sample::LongRunning).await?);
    }
    trial.delete(&made[1]).await?;
    let targets: Vec<_> = made
        .iter()
        .map(|object| Target {
            guid: object.guid,
            handle: &object.handle,
        })
        .collect();
    // What is there already stays.
    let status = ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0));
    let mut out = vec![Observed {
        guid: Guid::generate(),
        handle: None,
        status,
    }];
    trial.driver().observe(&targets, &mut out).await?;
    ensure!(
        out.len() == 1 + targets.len(),
        "{} targets added {} entries",
        targets.len(),
        out.len() - 1
    );
    let asked: BTreeSet<_> = targets.iter().map(|target| target.guid).collect();
    let answered: BTreeSet<_> = out[1..].iter().map(|observed| observed.guid).collect();
    ensure!(asked == answered, "asked for {asked:?}, got {out:?}");
    out.clear();
    trial.driver().observe(&[], &mut out).await?;
    ensure!(out.is_empty(), "answers to nothing: {out:?}");
    Ok(())
}

pub(super) async fn asks_the_substrate(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    offered(
        trial
            .subject
            .end_outside(&trial.place, &object)
            .await
            .then_some(()),
        "hook `end_outside`",
    )?;
    trial.until_ended(&object).await?;
    Ok(())
}

pub(super) async fn what_is_not_there_is_gone(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    let state = trial.state(&object).await?;
    ensure_matches!(
        state,
        ObjectState::Gone | ObjectState::Exited,
        "observe of what was deleted"
    );
    Ok(())
}

pub(super) async fn what_ended_shows_its_exit_code(trial: &Trial<'_>) -> Verdict {
    for code in [0, 3] {
        let object = trial.ended(code).await?;
        let status = trial.observe(object.guid, &object.handle).await?.status;
        ensure!(
            status.exit.as_ref().and_then(|exit| exit.code) == Some(code),
            "ended with {code}: {status:?}"
        );
        ensure!(
            status.evidence.source != EvidenceSource::Inferred,
            "an exit code that is inferred: {status:?}"
        );
    }
    Ok(())
}

pub(super) async fn an_unreadable_handle_is_no_error_of_the_call(trial: &Trial<'_>) -> Verdict {
    let good = trial.running(Sample::LongRunning).await?;
    let version = trial.driver().handle_version();
    let bad = [
        Handle::new(version, json!("not a handle")),
        Handle::new(version + 1, good.handle.data.clone()),
    ];
    let mut targets: Vec<_> = bad
        .iter()
        .map(|handle| Target {
            guid: Guid::generate(),
            handle,
        })
        .collect();
    targets.push(Target {
        guid: good.guid,
        handle: &good.handle,
    });
    let mut out = Vec::new();
    trial.driver().observe(&targets, &mut out).await?;
    ensure!(
        out.len() == targets.len(),
        "{} targets, {} entries",
        targets.len(),
        out.len()
    );
    for observed in out {
        let state = observed.status.state;
        if observed.guid == good.guid {
            ensure!(
                state == ObjectState::Running,
                "the readable one among unreadable ones is {state:?}"
            );
        } else {
            ensure_matches!(
                state,
                ObjectState::Unknown | ObjectState::Gone,
                "observe of an unreadable handle"
            );
        }
    }
    Ok(())
}

pub(super) async fn shows_each_limit_that_is_set(trial: &Trial<'_>) -> Verdict {
    let resources = offered(trial.subject.resize_sample(), "resize sample")?;
    needs(!trial.capabilities()?.limits.is_empty(), "limit anything")?;
    let mut spec = trial.sample(Sample::LongRunning)?;
    spec.resources = resources.clone();
    let object = trial.create(spec).await?;
    let status = trial.until_state(&object, ObjectState::Running).await?.status;
    let set = [
        (ResourceField::Cpu, resources.cpu.is_some()),
        (ResourceField::Memory, resources.memory.is_some()),
        (ResourceField::Pids, resources.pids.is_some()),
        (ResourceField::Io, resources.io.is_some()),
        (ResourceField::Gpu, resources.gpu.is_some()),
        (ResourceField::Replicas, resources.replicas.is_some()),
        (ResourceField::Priority, resources.priority.is_some()),
    ];
    for (field, set) in set {
        let shown = status.limits.iter().filter(|limit| limit.field == field).count();
        // `io` has a read and a write limit.
        let fits = if set {
            shown == 1 || (field == ResourceField::Io && shown > 0)
        } else {
            shown == 0
        };
        ensure!(
            fits,
            "{field} is {}set, and {shown} entries show it: {:?}",
            if set { "" } else { "not " },
            status.limits
        );
    }
    Ok(())
}
