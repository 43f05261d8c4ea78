//! Pause, resume, signal, restart, resize; limits; samples.

use std::time::Duration;

use agent_api_driver::model::{
    ByteQuantity, ControlAction, Cpu, Enforcement, ErrorKind, MetricValue, OpId, Resources, Signal,
    TelemetryBatch,
};
use agent_api_driver::{CollectRequest, CollectTarget, ControlRequest, ObjectState};
use serde_json::json;

use crate::fixture::{Fixture, Object, PATIENCE, object, text_of, until, until_dead};

fn ticks(object: &Object) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", object.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn pauses(mut f: Fixture) {
    let object = f.sh("while :; do :; done").await;
    until("it works", || (ticks(&object) > 0).then_some(())).await;
    for _ in 0..2 {
        let applied = f.control(&object, ControlAction::Pause {}).await.unwrap();
        assert_eq!(applied.status.state, ObjectState::Paused);
    }
    f.wait_state(object.guid, ObjectState::Paused).await;
    let held = ticks(&object);
    assert_eq!(f.observe(&object).await.status.state, ObjectState::Paused);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ticks(&object), held, "it stands still");
    for _ in 0..2 {
        let applied = f.control(&object, ControlAction::Resume {}).await.unwrap();
        assert_eq!(applied.status.state, ObjectState::Running);
    }
    until("it works again", || (ticks(&object) > held).then_some(())).await;
    // What is paused can be deleted, and gets its signal.
    f.control(&object, ControlAction::Pause {}).await.unwrap();
    let deleted = f.delete(&object, PATIENCE).await;
    assert_eq!(deleted.exit.unwrap().signal.as_deref(), Some("SIGTERM"));
    f.finish().await;
}

#[tokio::test]
async fn what_is_paused_stands_still() {
    pauses(Fixture::new().await).await;
}

#[tokio::test]
async fn what_is_paused_stands_still_without_cgroups() {
    pauses(Fixture::without_cgroups().await).await;
}

#[tokio::test]
async fn a_paused_process_is_adopted_as_paused() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    f.control(&object, ControlAction::Pause {}).await.unwrap();
    let f = f.restarted().await;
    f.driver.recover(&[object.target()]).await.unwrap();
    assert_eq!(f.observe(&object).await.status.state, ObjectState::Paused);
    let applied = f.control(&object, ControlAction::Resume {}).await.unwrap();
    assert_eq!(applied.status.state, ObjectState::Running);
    f.finish().await;
}

#[tokio::test]
async fn signals_by_name_and_number() {
    let mut f = Fixture::new().await;
    let object = f
        .sh("trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done")
        .await;
    text_of(f.log(&object, "stdout.log"), |t| t.contains("ready")).await;
    let send = |signal: &str| ControlAction::Signal {
        signal: signal.to_owned(),
    };
    for (n, signal) in ["SIGUSR1", "USR1", "10"].into_iter().enumerate() {
        f.control(&object, send(signal)).await.unwrap();
        text_of(f.log(&object, "stdout.log"), |t| {
            t.matches("usr1").count() == n + 1
        })
        .await;
    }
    f.control(&object, send("0")).await.unwrap();
    let error = f.control(&object, send("NOPE")).await.unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some("signal")));
    f.control(&object, send("KILL")).await.unwrap();
    f.wait_state(object.guid, ObjectState::Exited).await;
    assert_eq!(
        f.control(&object, send("TERM")).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    let scale = f
        .control(&object, ControlAction::Scale { replicas: 2 })
        .await
        .unwrap_err();
    assert_eq!(scale.kind(), ErrorKind::Unsupported);
    f.finish().await;
}

#[tokio::test]
async fn a_restart_happens_once_for_one_operation() {
    let f = Fixture::new().await;
    let object = f.sh("echo born; exec sleep 1000").await;
    text_of(f.log(&object, "stdout.log"), |t| t == "born\n").await;
    let action = ControlAction::Restart {
        grace: Some(Duration::ZERO),
    };
    let op_id = OpId::generate();
    let request = || ControlRequest {
        guid: object.guid,
        generation: 1,
        op_id,
        maybe_applied: false,
        spec: &object.spec,
        handle: &object.handle,
        action: &action,
        deadline: PATIENCE,
    };
    let control = f.driver.control().unwrap();
    let first = control.control(request()).await.unwrap();
    assert_eq!(first.status.state, ObjectState::Running);
    assert_ne!(first.handle, object.handle);
    let second = control
        .control(ControlRequest {
            maybe_applied: true,
            ..request()
        })
        .await
        .unwrap();
    assert_eq!(first.handle.data["pid"], second.handle.data["pid"]);
    until_dead(object.pid()).await;
    assert_eq!(
        text_of(f.log(&object, "stdout.log"), |t| t.lines().count() == 2).await,
        "born\nborn\n"
    );
    // Also by a driver that was built anew.
    let f = f.restarted().await;
    let third = f
        .driver
        .control()
        .unwrap()
        .control(ControlRequest {
            maybe_applied: true,
            ..request()
        })
        .await
        .unwrap();
    assert_eq!(first.handle.data["start_ticks"], third.handle.data["start_ticks"]);
    f.finish().await;
}

#[tokio::test]
async fn limits_are_enforced_or_said_to_be_advisory() {
    for f in [Fixture::new().await, Fixture::without_cgroups().await] {
        let kind = f.driver.info().kinds[0].clone();
        let can = f.driver.capabilities(&kind).unwrap().limits.clone();
        let mut spec =
            object(json!({"command": ["/bin/sh", "-c", "cat /proc/self/cgroup; exec sleep 1000"]}));
        spec.resources = Resources {
            cpu: Some(Cpu::from_millis(500)),
            memory: Some(ByteQuantity::new(64 << 20)),
            pids: Some(50),
            ..Resources::default()
        };
        let object = f.create_spec(spec).await.unwrap();
        let status = f.observe(&object).await.status;
        assert_eq!(status.limits.len(), 3);
        for limit in &status.limits {
            let said = can.iter().find(|c| c.field == limit.field).unwrap();
            assert_eq!(limit.enforcement, said.enforcement, "{limit:?}");
            assert!(!limit.by.is_empty(), "{limit:?}");
        }
        let enforced = status
            .limits
            .iter()
            .filter(|l| l.enforcement == Enforcement::Enforced)
            .count();
        if enforced > 0 {
            let text = text_of(f.log(&object, "stdout.log"), |t| {
                t.contains(&object.guid.to_string())
            })
            .await;
            assert!(text.matches(&object.guid.to_string()).count() >= 1, "{text}");
        }
        let change = Resources {
            pids: Some(60),
            cpu: Some(Cpu::from_millis(250)),
            ..Resources::default()
        };
        let applied = f
            .control(&object, ControlAction::Resize { resources: change })
            .await
            .unwrap();
        let values: Vec<&str> = applied.status.limits.iter().map(|l| l.value.as_str()).collect();
        assert_eq!(values, ["250m", "64Mi", "60"]);
        assert_eq!(applied.handle.data["pid"], object.handle.data["pid"]);
        let dirs = applied.handle.data["cgroups"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for dir in &dirs {
            let dir = std::path::Path::new(dir.as_str().unwrap());
            let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
            assert!(members.contains(&object.pid().to_string()), "{dir:?}");
            if let Ok(max) = std::fs::read_to_string(dir.join("pids.max")) {
                assert!(["60", "max"].contains(&max.trim()), "{max}");
            }
        }
        f.delete(&object, Duration::ZERO).await;
        assert!(
            dirs.iter()
                .all(|dir| !std::path::Path::new(dir.as_str().unwrap()).exists())
        );
        f.finish().await;
    }
}

#[tokio::test]
async fn a_running_object_gets_a_limit_it_did_not_have() {
    let f = Fixture::new().await;
    let object = f.sh("sleep 1000 & exec sleep 1000").await;
    let change = Resources {
        pids: Some(5),
        ..Resources::default()
    };
    let applied = f
        .control(&object, ControlAction::Resize { resources: change })
        .await
        .unwrap();
    let limit = &applied.status.limits[0];
    if limit.enforcement == Enforcement::Enforced {
        let dirs = applied.handle.data["cgroups"].as_array().unwrap().clone();
        let with_pids: Vec<_> = dirs
            .iter()
            .map(|d| std::path::PathBuf::from(d.as_str().unwrap()))
            .filter(|d| std::fs::read_to_string(d.join("pids.max")).is_ok_and(|t| t.trim() == "5"))
            .collect();
        assert_eq!(with_pids.len(), 1, "{dirs:?}");
        let members = std::fs::read_to_string(with_pids[0].join("cgroup.procs")).unwrap();
        assert!(members.lines().any(|l| l == object.pid().to_string()));
    } else {
        assert!(!limit.by.is_empty());
    }
    f.delete(&object, Duration::ZERO).await;
    f.finish().await;
}

#[tokio::test]
async fn an_apply_that_changes_limits_only_keeps_the_process() {
    let f = Fixture::new().await;
    let mut object = f.sh("exec sleep 1000").await;
    object.spec.resources.memory = Some(ByteQuantity::new(128 << 20));
    object.spec.spec["stop_signal"] = json!("INT");
    let applied = f
        .try_apply(
            object.guid,
            OpId::generate(),
            &object.spec,
            Some(&object.handle),
            false,
        )
        .await
        .unwrap();
    assert_eq!(applied.handle.data["pid"], object.handle.data["pid"]);
    assert_eq!(applied.status.limits.len(), 1);
    let deleted = f.delete(&object, PATIENCE).await;
    assert_eq!(deleted.exit.unwrap().signal.as_deref(), Some("SIGINT"));
    f.finish().await;
}

async fn collect(f: &Fixture, object: &Object) -> TelemetryBatch {
    let targets = [CollectTarget {
        guid: object.guid,
        handle: &object.handle,
        log_cursor: None,
        from_start: false,
    }];
    let request = CollectRequest {
        targets: &targets,
        signals: &[Signal::Metrics],
        max_log_bytes: 0,
        deadline: PATIENCE,
    };
    let mut batch = TelemetryBatch::default();
    f.driver
        .collect(request, &mut batch, &mut Vec::new())
        .await
        .unwrap();
    batch
}

fn value(batch: &TelemetryBatch, name: &str) -> f64 {
    match batch
        .metrics
        .iter()
        .find(|m| m.name == name)
        .unwrap_or_else(|| panic!("no {name}"))
        .value
    {
        MetricValue::Int(n) => n as f64,
        MetricValue::Float(n) => n,
    }
}

#[tokio::test]
async fn samples_grow_also_over_a_restart() {
    let f = Fixture::new().await;
    let object = f.sh("while :; do :; done").await;
    let mut last = 0.0;
    while last < 0.05 {
        let batch = collect(&f, &object).await;
        assert!(value(&batch, "process.cpu.time") >= last);
        last = value(&batch, "process.cpu.time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let batch = collect(&f, &object).await;
    assert!(value(&batch, "process.memory.usage") > 10_000.0);
    assert!(value(&batch, "process.thread.count") >= 1.0);
    last = value(&batch, "process.cpu.time");
    let restart = ControlAction::Restart {
        grace: Some(Duration::ZERO),
    };
    let handle = f.control(&object, restart).await.unwrap().handle;
    let object = Object { handle, ..object };
    let used = until("the second run works", || {
        Some(ticks(&object)).filter(|ticks| *ticks > 2)
    })
    .await;
    let batch = collect(&f, &object).await;
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    assert!(value(&batch, "process.cpu.time") > last + (used as f64 - 1.0) / hertz);
    assert_eq!(value(&batch, "agent.object.restarts") as u64, 1);
    f.delete(&object, Duration::ZERO).await;
    assert!(collect(&f, &object).await.is_empty());
    f.finish().await;
}
