//! A new driver on the state of an old one; a crash of a whole agent; strangers.

use std::process::{Command, Stdio};
use std::time::Duration;

use agent_api_driver::model::{AgentId, EvidenceSource, Guid, OpId};
use agent_api_driver::{Handle, ObjectState, RecoveredState, ShutdownMode, Target};
use serde_json::json;

use crate::fixture::{Fixture, PATIENCE, build, is_alive, object, text_of, until, until_dead};

async fn recovered(f: &Fixture, guid: Guid, handle: &Handle) -> RecoveredState {
    let mut all = f.driver.recover(&[Target { guid, handle }]).await.unwrap();
    assert_eq!(all.len(), 1);
    all.pop().unwrap().state
}

#[tokio::test]
async fn what_runs_is_adopted_and_its_end_is_told_with_its_code() {
    let f = Fixture::new().await;
    let stop = f.dir.path().join("stop");
    let object = f
        .create(json!({
            "command": ["/bin/sh", "-c", "while [ ! -e $STOP ]; do sleep 0.01; done; exit 5"],
            "env": {"STOP": stop.to_str().unwrap()},
        }))
        .await;
    let mut f = f.restarted().await;
    let RecoveredState::Adopted(status, handle) = recovered(&f, object.guid, &object.handle).await else {
        panic!("not adopted")
    };
    assert_eq!((status.state, handle), (ObjectState::Running, None));
    assert_eq!(status.details["pid"], object.handle.data["pid"]);
    assert!(status.evidence.revision > object.handle.data["revision"].as_u64().unwrap());
    // Once more is the same.
    assert!(matches!(
        recovered(&f, object.guid, &object.handle).await,
        RecoveredState::Adopted(_, None)
    ));
    std::fs::write(&stop, "").unwrap();
    let status = f.wait_state(object.guid, ObjectState::Exited).await;
    assert_eq!(status.exit.unwrap().code, Some(5));
    f.finish().await;
}

#[tokio::test]
async fn what_ended_meanwhile_is_said_to_have_ended_as_inferred() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    f.driver
        .shutdown(ShutdownMode::LeaveRunning, PATIENCE)
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(object.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    let f = f.restarted().await;
    let RecoveredState::Exited(status) = recovered(&f, object.guid, &object.handle).await else {
        panic!("not exited")
    };
    assert_eq!(status.evidence.source, EvidenceSource::Inferred);
    let exit = status.exit.unwrap();
    assert_eq!((exit.code, exit.signal), (None, None));
    assert!(exit.reason.unwrap().contains("away"));
    f.finish().await;
}

#[tokio::test]
async fn a_pid_that_is_anothers_now_is_never_touched() {
    let f = Fixture::new().await;
    let mut stranger = Command::new("sleep")
        .arg("1000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ticks = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(19)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    // Start times have the resolution of a tick; a pid is not used again within one.
    let mut object = f.sh("exec sleep 1000").await;
    while ticks(object.pid()) == ticks(i32::try_from(stranger.id()).unwrap()) {
        f.delete(&object, Duration::ZERO).await;
        object = f.sh("exec sleep 1000").await;
    }
    let own = object.pid();
    for (key, value) in [("pid", json!(stranger.id())), ("start_ticks", json!(1))] {
        // Either the pid is a stranger's, or the pid is right and the start time is not.
        let mut handle = object.handle.clone();
        handle.data[key] = value;
        let f2 = Fixture::with(json!({"cgroups": "off"})).await;
        let state = recovered(&f2, object.guid, &handle).await;
        assert!(matches!(state, RecoveredState::Foreign(_)), "{key}: {state:?}");
        object.handle = handle;
        f2.delete(&object, Duration::ZERO).await;
        let signal = agent_api_driver::model::ControlAction::Signal {
            signal: "KILL".into(),
        };
        let error = f2.control(&object, signal).await.unwrap_err();
        assert_eq!(error.kind(), agent_api_driver::ErrorKind::NotFound);
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
        assert!(is_alive(own), "a process that the handle does not name lives");
        object.handle.data["pid"] = json!(own);
        f2.finish().await;
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    f.finish().await;
}

#[tokio::test]
async fn the_mark_of_another_object_makes_a_stranger() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let other = Guid::generate();
    let f2 = Fixture::without_cgroups().await;
    assert!(matches!(
        recovered(&f2, other, &object.handle).await,
        RecoveredState::Foreign(_)
    ));
    f2.finish().await;
    assert!(is_alive(object.pid()));
    f.finish().await;
}

#[tokio::test]
async fn a_handle_that_cannot_be_read_is_lost_and_no_error_of_the_call() {
    let f = Fixture::new().await;
    for handle in [
        Handle::new(99, json!({})),
        Handle::new(1, json!({"pid": "x"})),
        Handle::new(1, json!(null)),
    ] {
        assert!(matches!(
            recovered(&f, Guid::generate(), &handle).await,
            RecoveredState::Lost(_)
        ));
    }
    f.finish().await;
}

#[tokio::test]
async fn another_boot_means_that_it_has_ended() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let mut handle = object.handle.clone();
    handle.data["boot_id"] = json!("another");
    let f2 = Fixture::without_cgroups().await;
    assert!(matches!(
        recovered(&f2, object.guid, &handle).await,
        RecoveredState::Exited(_)
    ));
    f2.finish().await;
    assert!(is_alive(object.pid()));
    f.finish().await;
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_found_by_operation() {
    let f = Fixture::new().await;
    let (guid, op) = (Guid::generate(), OpId::generate());
    let spec = object(json!({"command": ["/bin/sh", "-c", "echo born; exec sleep 1000"]}));
    let first = f.try_apply(guid, op, &spec, None, false).await.unwrap();
    let run = f.dir.path().join("logs").join(guid.to_string()).join("run.json");
    for record_is_there in [true, false] {
        // Without the record the crash came right after the spawn: the mark in the environment tells.
        if !record_is_there {
            std::fs::remove_file(&run).unwrap();
        }
        let f2 = f.beside().await;
        let found = f2.driver.discover().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.guid, found[0].0.op_id), (guid, op));
        let second = f2.try_apply(guid, op, &spec, None, true).await.unwrap();
        assert_eq!(second.handle.data["pid"], first.handle.data["pid"]);
        assert_eq!(
            second.handle.data["start_ticks"],
            first.handle.data["start_ticks"]
        );
        f2.driver
            .shutdown(ShutdownMode::LeaveRunning, PATIENCE)
            .await
            .unwrap();
    }
    let log = f
        .dir
        .path()
        .join("logs")
        .join(guid.to_string())
        .join("stdout.log");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "born\n");
    f.finish().await;
}

#[tokio::test]
async fn a_create_that_ran_to_its_end_before_the_crash_is_not_made_again() {
    let mut f = Fixture::new().await;
    let (guid, op) = (Guid::generate(), OpId::generate());
    let spec = object(json!({"command": ["/bin/sh", "-c", "echo born"]}));
    f.try_apply(guid, op, &spec, None, false).await.unwrap();
    f.wait_state(guid, ObjectState::Exited).await;
    let f = f.restarted().await;
    let again = f.try_apply(guid, op, &spec, None, true).await.unwrap();
    assert_eq!(again.status.state, ObjectState::Exited);
    let log = f
        .dir
        .path()
        .join("logs")
        .join(guid.to_string())
        .join("stdout.log");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "born\n");
    f.finish().await;
}

#[tokio::test]
async fn a_delete_without_a_handle_finds_the_process_by_its_mark() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let f = f.restarted().await;
    let request = agent_api_driver::DeleteRequest {
        guid: object.guid,
        op_id: OpId::generate(),
        handle: None,
        grace: Some(Duration::ZERO),
        orphan: false,
        deadline: PATIENCE,
    };
    f.driver.delete(request).await.unwrap();
    assert!(!is_alive(object.pid()));
    f.finish().await;
}

/// The body of the agent that the next test kills: a test of its own, which does nothing unless it is told where.
#[tokio::test]
async fn an_agent_that_is_killed() {
    let Ok(dir) = std::env::var("DOOMED_AGENT_DIR") else {
        return;
    };
    let agent = AgentId::new(std::env::var("DOOMED_AGENT_ID").unwrap()).unwrap();
    let driver = build(dir.as_ref(), &agent, &json!({})).await;
    let dir = std::path::PathBuf::from(dir);
    let stop = dir.join("stop");
    let mut lines = String::new();
    for n in 0..10 {
        let spec = object(json!({
            "command": ["/bin/sh", "-c", "while [ ! -e $STOP ]; do sleep 0.01; done; exit $CODE"],
            "env": {"STOP": stop.to_str().unwrap(), "CODE": (10 + n).to_string()},
        }));
        let guid = Guid::generate();
        let request = agent_api_driver::ApplyRequest {
            guid,
            generation: 1,
            op_id: OpId::generate(),
            maybe_applied: false,
            spec: &spec,
            handle: None,
            deadline: PATIENCE,
        };
        let applied = driver.apply(request).await.unwrap();
        lines.push_str(&serde_json::to_string(&(guid, applied.handle)).unwrap());
        lines.push('\n');
    }
    std::fs::write(dir.join("handles.tmp"), lines).unwrap();
    std::fs::rename(dir.join("handles.tmp"), dir.join("handles")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn after_a_kill_of_the_agent_all_are_adopted_and_their_codes_are_told() {
    let mut f = Fixture::new().await;
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adoption::an_agent_that_is_killed", "--nocapture"])
        .env("DOOMED_AGENT_DIR", f.dir.path())
        .env("DOOMED_AGENT_ID", f.agent.as_str())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text = text_of(f.dir.path().join("handles"), |t| t.lines().count() == 10).await;
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    let objects: Vec<(Guid, Handle)> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let pids: Vec<i32> = objects
        .iter()
        .map(|(_, h)| i32::try_from(h.data["pid"].as_i64().unwrap()).unwrap())
        .collect();
    let targets: Vec<_> = objects
        .iter()
        .map(|(guid, handle)| Target { guid: *guid, handle })
        .collect();
    let answers = f.driver.recover(&targets).await.unwrap();
    assert!(
        answers
            .iter()
            .all(|a| matches!(a.state, RecoveredState::Adopted(..))),
        "{answers:?}"
    );
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    std::fs::write(f.dir.path().join("stop"), "").unwrap();
    for (n, (guid, _)) in objects.iter().enumerate() {
        let exit = f.wait_state(*guid, ObjectState::Exited).await.exit.unwrap();
        // Kernels before 6.15 do not tell, and then that is what is said.
        let wanted = i32::try_from(10 + n).unwrap();
        assert!(
            exit.code == Some(wanted) || (exit.code.is_none() && exit.reason.is_some()),
            "{exit:?}"
        );
        if kernel_tells() {
            assert_eq!(exit.code, Some(wanted));
        }
    }
    for pid in pids {
        until_dead(pid).await;
    }
    until("nothing is left", || Some(())).await;
    f.finish().await;
}

fn kernel_tells() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}
