//! Starting, ending, deleting; once per operation; whole trees.

use std::time::Duration;

use agent_api_driver::model::{ErrorKind, EvidenceSource, Guid, OpId};
use agent_api_driver::{DeleteRequest, ObjectState, Target};
use serde_json::{Value, json};

use crate::fixture::{Fixture, PATIENCE, is_alive, object, text_of, until, until_dead};

#[tokio::test]
async fn a_process_runs_and_its_end_is_an_event_with_its_code() {
    let mut f = Fixture::new().await;
    let object = f.sh("exit 7").await;
    f.wait_state(object.guid, ObjectState::Running).await;
    let status = f.wait_state(object.guid, ObjectState::Exited).await;
    assert_eq!(status.exit.unwrap().code, Some(7));
    assert_eq!(status.evidence.source, EvidenceSource::Event);
    assert_eq!(f.observe(&object).await.status.exit.unwrap().code, Some(7));
    f.delete(&object, Duration::ZERO).await;
    assert_eq!(f.observe(&object).await.status.state, ObjectState::Gone);
    f.finish().await;
}

#[tokio::test]
async fn a_signal_that_ended_it_is_named() {
    let mut f = Fixture::new().await;
    let object = f.sh("kill -SEGV $$").await;
    let status = f.wait_state(object.guid, ObjectState::Exited).await;
    assert_eq!(status.exit.unwrap().signal.as_deref(), Some("SIGSEGV"));
    f.finish().await;
}

#[tokio::test]
async fn one_operation_starts_one_process() {
    let f = Fixture::new().await;
    let guid = Guid::generate();
    let op = OpId::generate();
    let spec = object(json!({"command": ["/bin/sh", "-c", "echo born; exec sleep 1000"]}));
    let first = f.try_apply(guid, op, &spec, None, false).await.unwrap();
    let second = f.try_apply(guid, op, &spec, None, true).await.unwrap();
    assert_eq!(first.handle, second.handle);
    let (third, fourth) = tokio::join!(
        f.try_apply(guid, op, &spec, None, true),
        f.try_apply(guid, op, &spec, Some(&first.handle), false)
    );
    assert_eq!(third.unwrap().handle, fourth.unwrap().handle);
    let log = f
        .dir
        .path()
        .join("logs")
        .join(guid.to_string())
        .join("stdout.log");
    assert_eq!(text_of(log, |t| t.ends_with('\n')).await, "born\n");
    f.finish().await;
}

#[tokio::test]
async fn many_calls_of_one_new_operation_at_once_start_one_process() {
    let f = Fixture::with(json!({"spawn_threads": 2})).await;
    let guid = Guid::generate();
    let op = OpId::generate();
    let spec = object(json!({"command": ["sleep", "1000"]}));
    let calls = (0..8).map(|_| f.try_apply(guid, op, &spec, None, false));
    let handles: Vec<_> = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .map(|a| a.unwrap().handle)
        .collect();
    assert!(handles.windows(2).all(|pair| pair[0] == pair[1]));
    f.finish().await;
}

async fn tree_is_killed(f: Fixture) {
    // A child of a child that ignores the signal, and one that has left the session.
    let script = "trap '' TERM; \
        sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & \
        setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & \
        wait; wait; while :; do sleep 1000; done";
    let object = f.sh(script).await;
    let log = f.log(&object, "stdout.log");
    let text = text_of(log, |t| t.lines().count() == 2).await;
    let mut pids: Vec<i32> = text.lines().map(|l| l.parse().unwrap()).collect();
    pids.push(object.pid());
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let deleted = f.delete(&object, Duration::from_millis(100)).await;
    assert_eq!(deleted.exit.unwrap().signal.as_deref(), Some("SIGKILL"));
    assert_eq!(deleted.left, Vec::<String>::new());
    for pid in pids {
        until_dead(pid).await;
    }
    assert!(!f.dir.path().join("logs").join(object.guid.to_string()).exists());
    f.finish().await;
}

#[tokio::test]
async fn a_tree_that_ignores_the_signal_is_killed() {
    tree_is_killed(Fixture::new().await).await;
}

#[tokio::test]
async fn a_tree_that_ignores_the_signal_is_killed_without_cgroups() {
    tree_is_killed(Fixture::without_cgroups().await).await;
}

async fn leaves_nothing_behind(mut f: Fixture) {
    let object = f.sh("sleep 1000 & echo $!").await;
    let status = f.wait_state(object.guid, ObjectState::Exited).await;
    assert_eq!(status.exit.unwrap().code, Some(0));
    let text = text_of(f.log(&object, "stdout.log"), |t| t.ends_with('\n')).await;
    until_dead(text.trim().parse().unwrap()).await;
    f.finish().await;
}

#[tokio::test]
async fn what_the_first_process_leaves_behind_ends_with_it() {
    leaves_nothing_behind(Fixture::new().await).await;
}

#[tokio::test]
async fn what_the_first_process_leaves_behind_ends_with_it_without_cgroups() {
    leaves_nothing_behind(Fixture::without_cgroups().await).await;
}

#[tokio::test]
async fn the_stop_signal_of_the_spec_is_sent_first() {
    let f = Fixture::new().await;
    let script = "trap 'echo asked; exit 3' USR1; echo ready; while :; do sleep 0.01; done";
    let object = f
        .create(json!({"command": ["/bin/sh", "-c", script], "stop_signal": "USR1"}))
        .await;
    text_of(f.log(&object, "stdout.log"), |t| t.contains("ready")).await;
    let deleted = f.delete(&object, PATIENCE).await;
    assert_eq!(deleted.exit.unwrap().code, Some(3));
    f.finish().await;
}

#[tokio::test]
async fn deleting_what_is_not_there_is_success() {
    let f = Fixture::new().await;
    let object = f.sh("sleep 1000").await;
    f.delete(&object, Duration::ZERO).await;
    assert!(!is_alive(object.pid()));
    assert_eq!(f.delete(&object, Duration::ZERO).await.left, Vec::<String>::new());
    let request = DeleteRequest {
        guid: Guid::generate(),
        op_id: OpId::generate(),
        handle: None,
        grace: None,
        orphan: false,
        deadline: PATIENCE,
    };
    f.driver.delete(request).await.unwrap();
    f.finish().await;
}

#[tokio::test]
async fn a_process_that_was_let_go_goes_on_and_is_not_found_again() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let request = DeleteRequest {
        guid: object.guid,
        op_id: OpId::generate(),
        handle: Some(&object.handle),
        grace: None,
        orphan: true,
        deadline: PATIENCE,
    };
    f.driver.delete(request).await.unwrap();
    assert!(is_alive(object.pid()));
    assert!(f.driver.discover().await.unwrap().is_empty());
    assert_eq!(f.observe(&object).await.status.state, ObjectState::Gone);
    let f = f.restarted().await;
    assert!(f.driver.discover().await.unwrap().is_empty());
    assert!(is_alive(object.pid()));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(object.pid()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    f.finish().await;
}

#[tokio::test]
async fn a_thousand_are_started_and_stopped() {
    let f = Fixture::new().await;
    let made =
        futures_util::future::join_all((0..1_000).map(|_| f.create(json!({"command": ["sleep", "1000"]}))))
            .await;
    let targets: Vec<Target<'_>> = made.iter().map(crate::fixture::Object::target).collect();
    let mut out = Vec::new();
    f.driver.observe(&targets, &mut out).await.unwrap();
    assert_eq!(
        out.iter()
            .filter(|o| o.status.state == ObjectState::Running)
            .count(),
        1_000
    );
    let deleted = futures_util::future::join_all(made.iter().map(|o| f.delete(o, PATIENCE))).await;
    assert!(deleted.iter().all(|d| d.left.is_empty()));
    assert!(made.iter().all(|o| !is_alive(o.pid())));
    f.finish().await;
}

#[tokio::test]
async fn errors_of_a_start_are_precise_and_leave_nothing() {
    let f = Fixture::new().await;
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/no/such/interpreter\n").unwrap();
    let plain = plain.to_str().unwrap().to_owned();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap().to_owned();
    let cases: [(Value, ErrorKind, &str, &str); 8] = [
        (
            json!({"command": ["no-such-program"]}),
            ErrorKind::NotFound,
            "spec.command[0]",
            "command not found: \"no-such-program\" (looked in PATH /",
        ),
        (
            json!({"command": ["/no/such/program"]}),
            ErrorKind::NotFound,
            "spec.command[0]",
            "command not found: \"/no/such/program\"",
        ),
        (
            json!({"command": ["x"], "env": {"PATH": "/nowhere"}}),
            ErrorKind::NotFound,
            "spec.command[0]",
            "(looked in PATH /nowhere)",
        ),
        (
            json!({"command": [plain]}),
            ErrorKind::Denied,
            "spec.command[0]",
            "permission denied",
        ),
        (
            json!({"command": [script]}),
            ErrorKind::NotFound,
            "spec.command[0]",
            "interpreter",
        ),
        (
            json!({"command": ["true"], "cwd": "/no/such/dir"}),
            ErrorKind::NotFound,
            "spec.cwd",
            "/no/such/dir",
        ),
        (
            json!({"command": ["true"], "user": "no-such-user"}),
            ErrorKind::Invalid,
            "spec.user",
            "unknown user \"no-such-user\"",
        ),
        (
            json!({"command": ["true"], "stdin": {"file": "/no/such/file"}}),
            ErrorKind::NotFound,
            "spec.stdin",
            "/no/such/file",
        ),
    ];
    for (spec, kind, path, message) in cases {
        let error = f.create_spec(object(spec.clone())).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{spec}: {error:?}");
        assert_eq!(error.path(), Some(path), "{spec}: {error:?}");
        assert!(error.message().contains(message), "{spec}: {error:?}");
    }
    assert_eq!(std::fs::read_dir(f.dir.path().join("logs")).unwrap().count(), 0);
    assert!(f.driver.discover().await.unwrap().is_empty());
    f.finish().await;
}

#[tokio::test]
async fn what_validate_lets_pass_is_not_invalid() {
    let f = Fixture::new().await;
    for (spec, path) in [
        (json!({"command": []}), Some("spec.command")),
        (json!({"command": ["no-such-program"]}), Some("spec.command[0]")),
        (
            json!({"command": ["true"], "cwd": "/no/such/dir"}),
            Some("spec.cwd"),
        ),
        (json!({"command": ["true"], "shell": true}), Some("spec.shell")),
        (
            json!({"command": ["true"], "user": "no-such-user"}),
            Some("spec.user"),
        ),
        (json!({"command": ["true"], "nice": 5, "umask": "027"}), None),
    ] {
        let found = f.driver.validate(&object(spec.clone())).await;
        assert_eq!(found.first().map(|d| d.path.as_str()), path, "{spec}: {found:?}");
    }
    f.finish().await;
}

#[tokio::test]
async fn a_changed_spec_restarts_and_keeps_the_logs() {
    let mut f = Fixture::new().await;
    let mut object = f.sh("echo one; exec sleep 1000").await;
    text_of(f.log(&object, "stdout.log"), |t| t == "one\n").await;
    object.spec.spec["command"][2] = json!("echo two; exec sleep 1000");
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
    assert_eq!(applied.status.state, ObjectState::Running);
    assert_eq!(applied.status.details["restarts"], 1);
    assert_ne!(applied.handle, object.handle);
    until_dead(object.pid()).await;
    text_of(f.log(&object, "stdout.log"), |t| t == "one\ntwo\n").await;
    // The same again changes nothing.
    let again = f
        .try_apply(
            object.guid,
            OpId::generate(),
            &object.spec,
            Some(&applied.handle),
            false,
        )
        .await
        .unwrap();
    assert_eq!(again.handle.data["pid"], applied.handle.data["pid"]);
    // What has ended is started again.
    object.spec.spec["command"][2] = json!("exit 1");
    f.try_apply(
        object.guid,
        OpId::generate(),
        &object.spec,
        Some(&again.handle),
        false,
    )
    .await
    .unwrap();
    while f
        .wait_next_state(object.guid, ObjectState::Exited)
        .await
        .exit
        .unwrap()
        .code
        != Some(1)
    {}
    let op = OpId::generate();
    let third = f
        .try_apply(object.guid, op, &object.spec, Some(&again.handle), false)
        .await
        .unwrap();
    assert_eq!(third.status.details["restarts"], 3);
    f.finish().await;
}

#[tokio::test]
async fn later_calls_of_a_closed_driver_are_unavailable() {
    let f = Fixture::new().await;
    let running = f.sh("sleep 1000").await;
    f.driver
        .shutdown(agent_api_driver::ShutdownMode::StopObjects, PATIENCE)
        .await
        .unwrap();
    until("it was stopped", || (!is_alive(running.pid())).then_some(())).await;
    f.driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, PATIENCE)
        .await
        .unwrap();
    let error = f
        .create_spec(object(json!({"command": ["true"]})))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
