//! Commands in an object's context, and probes.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{ErrorKind, ExitStatus, ProbeAction};
use agent_api_driver::{ExecInput, ExecOutput, ExecRequest, InputStream, ProbeOutcome, ProbeRequest};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Fixture, Object, PATIENCE, is_alive, text_of, until_dead};

fn request(command: &[&str], timeout: Duration) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        env: BTreeMap::from([("B".into(), "2".into())]),
        timeout,
        terminal: None,
    }
}

fn no_input() -> InputStream {
    Box::pin(futures_util::stream::empty())
}

async fn run(
    f: &Fixture,
    object: &Object,
    command: &[&str],
    input: InputStream,
) -> (String, String, ExitStatus) {
    let mut stream = f
        .driver
        .exec()
        .unwrap()
        .exec(object.target(), request(command, PATIENCE), input)
        .await
        .unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match stream.next().await.expect("an exit comes last").unwrap() {
            ExecOutput::Stdout(piece) => out.extend_from_slice(&piece),
            ExecOutput::Stderr(piece) => err.extend_from_slice(&piece),
            ExecOutput::Exit(exit) => {
                assert!(stream.next().await.is_none());
                return (
                    String::from_utf8(out).unwrap(),
                    String::from_utf8(err).unwrap(),
                    exit,
                );
            }
        }
    }
}

#[tokio::test]
async fn a_command_runs_in_the_objects_context() {
    let f = Fixture::new().await;
    let object = f
        .create(json!({"command": ["sleep", "1000"], "env": {"A": "1", "B": "1"}, "cwd": "/usr"}))
        .await;
    let (out, err, exit) = run(
        &f,
        &object,
        &[
            "/bin/sh",
            "-c",
            "echo $A$B; pwd; echo $AGENT_GUID; echo e >&2; exit 3",
        ],
        no_input(),
    )
    .await;
    assert_eq!(out, format!("12\n/usr\n{}\n", object.guid));
    assert_eq!((err.as_str(), exit.code), ("e\n", Some(3)));
    // A command is not the object.
    let found = f.driver.discover().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.data["pid"], object.handle.data["pid"]);
    f.finish().await;
}

#[tokio::test]
async fn much_input_comes_back() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let piece = Bytes::from(vec![b'x'; 100_000]);
    let input = futures_util::stream::iter((0..20).map(move |_| ExecInput::Stdin(piece.clone())));
    let (out, _, exit) = run(&f, &object, &["cat"], Box::pin(input)).await;
    assert_eq!((out.len(), exit.code), (2_000_000, Some(0)));
    f.finish().await;
}

#[tokio::test]
async fn a_command_is_killed_with_what_it_started_by_timeout_and_by_drop() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    for by_timeout in [true, false] {
        let limit = if by_timeout {
            Duration::from_secs(1)
        } else {
            PATIENCE
        };
        let command = ["/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $! $$; wait"];
        let mut stream = f
            .driver
            .exec()
            .unwrap()
            .exec(object.target(), request(&command, limit), no_input())
            .await
            .unwrap();
        let Some(Ok(ExecOutput::Stdout(line))) = stream.next().await else {
            panic!("no output")
        };
        let pids: Vec<i32> = std::str::from_utf8(&line)
            .unwrap()
            .split_whitespace()
            .map(|p| p.parse().unwrap())
            .collect();
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        if by_timeout {
            let error = stream.next().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(stream.next().await.is_none());
        }
        drop(stream);
        for pid in pids {
            until_dead(pid).await;
        }
    }
    assert!(is_alive(object.pid()));
    f.finish().await;
}

#[tokio::test]
async fn errors_come_before_the_stream() {
    let mut f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let exec = f.driver.exec().unwrap();
    let missing = exec
        .exec(
            object.target(),
            request(&["no-such-program"], PATIENCE),
            no_input(),
        )
        .await;
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    let empty = exec
        .exec(object.target(), request(&[], PATIENCE), no_input())
        .await;
    assert_eq!(empty.err().unwrap().kind(), ErrorKind::Invalid);
    let ended = f.sh("exit 0").await;
    f.wait_state(ended.guid, agent_api_driver::ObjectState::Exited)
        .await;
    let conflict = f
        .driver
        .exec()
        .unwrap()
        .exec(ended.target(), request(&["true"], PATIENCE), no_input())
        .await;
    assert_eq!(conflict.err().unwrap().kind(), ErrorKind::Conflict);
    f.finish().await;
}

#[tokio::test]
async fn commands_are_bounded() {
    let f = Fixture::with(json!({"exec_sessions": 1})).await;
    let object = f.sh("exec sleep 1000").await;
    let exec = f.driver.exec().unwrap();
    let first = exec
        .exec(object.target(), request(&["sleep", "1000"], PATIENCE), no_input())
        .await
        .unwrap();
    let second = exec
        .exec(object.target(), request(&["true"], PATIENCE), no_input())
        .await;
    assert_eq!(second.err().unwrap().kind(), ErrorKind::Busy);
    drop(first);
    assert_eq!(run(&f, &object, &["true"], no_input()).await.2.code, Some(0));
    f.finish().await;
}

async fn probe(f: &Fixture, object: &Object, action: ProbeAction) -> ProbeOutcome {
    let request = ProbeRequest {
        target: object.target(),
        action: &action,
        timeout: Duration::from_secs(5),
    };
    f.driver.probe().unwrap().probe(request).await.unwrap()
}

fn why(outcome: ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Unhealthy(why) => why,
        ProbeOutcome::Healthy => "healthy".to_owned(),
    }
}

#[tokio::test]
async fn probes_by_command() {
    let f = Fixture::new().await;
    let object = f
        .create(json!({"command": ["sleep", "1000"], "env": {"OK": "1"}}))
        .await;
    let exec = |script: &str| ProbeAction::Exec(vec!["/bin/sh".into(), "-c".into(), script.into()]);
    assert_eq!(
        probe(&f, &object, exec("test $OK = 1")).await,
        ProbeOutcome::Healthy
    );
    assert_eq!(
        why(probe(&f, &object, exec("exit 4")).await),
        "the command exited with code 4"
    );
    assert!(
        why(probe(&f, &object, ProbeAction::Exec(vec!["no-such-program".into()])).await)
            .contains("command not found")
    );
    let dir = f.dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", dir.display());
    let slow = ProbeAction::Exec(vec!["/bin/sh".into(), "-c".into(), script]);
    let request = ProbeRequest {
        target: object.target(),
        action: &slow,
        timeout: Duration::from_millis(1_500),
    };
    let outcome = f.driver.probe().unwrap().probe(request).await.unwrap();
    assert!(why(outcome).contains("did not end within"));
    until_dead(text_of(dir, |t| t.ends_with('\n')).await.trim().parse().unwrap()).await;
    f.finish().await;
}

#[tokio::test]
async fn probes_by_connection_and_by_http() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(
        probe(&f, &object, ProbeAction::Tcp(address.clone())).await,
        ProbeOutcome::Healthy
    );
    drop(listener.accept().await.unwrap());
    for (answer, healthy) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 500 Oh\r\n\r\n", false),
        ("SSH-2.0\r\n", false),
        ("", false),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let count = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..count]).into_owned()
        };
        let (outcome, head) = tokio::join!(
            probe(
                &f,
                &object,
                ProbeAction::Http(format!("http://{address}/health?x"))
            ),
            serve
        );
        assert_eq!(
            outcome == ProbeOutcome::Healthy,
            healthy,
            "{answer:?}: {outcome:?}"
        );
        assert!(
            head.starts_with(&format!("GET /health?x HTTP/1.1\r\nHost: {address}\r\n")),
            "{head}"
        );
    }
    drop(listener);
    // A process that another test is starting has a copy of the socket for a moment.
    while probe(&f, &object, ProbeAction::Tcp(address.clone())).await == ProbeOutcome::Healthy {}
    assert!(why(probe(&f, &object, ProbeAction::Tcp(address)).await).contains("cannot connect"));
    // One that accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let action = ProbeAction::Http(format!("http://{}/", silent.local_addr().unwrap()));
    let request = ProbeRequest {
        target: object.target(),
        action: &action,
        timeout: Duration::from_millis(50),
    };
    assert!(why(f.driver.probe().unwrap().probe(request).await.unwrap()).contains("no answer"));
    f.finish().await;
}
