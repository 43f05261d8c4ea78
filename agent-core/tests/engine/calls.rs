//! What only some kinds have: methods, commands that one talks with, specs with secrets in them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change, ResultStream};
use agent_core::api::model::{
    ControlAction, ErrorKind, ExecFrame, ExecInput, ExecInputRequest, ExecRequest, TerminalSize, Verb,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::fake_driver::Knobs;
use crate::world::{World, spec, target, world};

const SIZE: TerminalSize = TerminalSize {
    columns: 80,
    rows: 24,
};

fn call(name: &str, method: &str, arguments: Value) -> Change {
    let action = ControlAction::Call {
        method: method.into(),
        arguments,
    };
    Change::Control(target(name), action)
}

fn interactive(command: &str) -> ExecRequest {
    ExecRequest {
        command: vec![command.into()],
        env: Default::default(),
        stdin: None,
        interactive: true,
        terminal: None,
        timeout: Duration::from_secs(60),
    }
}

fn input(session: &str, input: ExecInput) -> ExecInputRequest {
    ExecInputRequest {
        session: session.into(),
        input,
    }
}

fn typed(session: &str, base64: &str) -> ExecInputRequest {
    let data = base64.to_owned();
    input(session, ExecInput::Stdin { data })
}

async fn session(frames: &mut ResultStream<ExecFrame>) -> String {
    match frames.next().await {
        Some(Ok(ExecFrame::Session { session })) => session,
        other => panic!("{other:?}"),
    }
}

async fn said(frames: &mut ResultStream<ExecFrame>) -> String {
    match frames.next().await {
        Some(Ok(ExecFrame::Stdout { text })) => text,
        other => panic!("{other:?}"),
    }
}

fn sessions(world: &World) -> usize {
    world.agent.info().queues["exec.sessions"].length
}

#[tokio::test(start_paused = true)]
async fn methods_are_checked_before_they_are_accepted() {
    let (knobs, plain) = (Knobs::new("fake"), Knobs::new("plain"));
    let world = world(&[&knobs, &plain], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    world.create("plain", "b").await.unwrap();
    let mut refused = Vec::new();
    for change in [
        call("a", "rolback", Value::Null),
        call("a", "rollback", json!({"revision": "three"})),
        call("a", "rollback", json!({"revison": 3})),
        call("a", "rollback", json!([3])),
        call("b", "rollback", Value::Null),
        call("c", "rollback", Value::Null),
    ] {
        let error = world.submit(change).await.unwrap_err();
        refused.push(format!(
            "{} {} {}",
            error.kind(),
            error.path().unwrap_or("-"),
            error.hint().unwrap_or("-")
        ));
    }
    assert_eq!(
        refused,
        [
            "unsupported method did you mean rollback?",
            "invalid arguments.revision -",
            "invalid arguments.revison did you mean revision?",
            "invalid arguments -",
            "unsupported - -",
            "not_found - see `agent get`",
        ]
    );
    assert!(knobs.controlled.lock().is_empty());

    for arguments in [json!({"revision": 3}), Value::Null] {
        world.submit(call("a", "rollback", arguments)).await.unwrap();
    }
    world
        .until("both are done", |_| knobs.controlled.lock().len() == 2)
        .await;
    let done: Vec<_> = knobs
        .controlled
        .lock()
        .iter()
        .map(|action| serde_json::to_value(action).unwrap())
        .collect();
    assert_eq!(
        done,
        [
            json!({"verb": "call", "method": "rollback", "arguments": {"revision": 3}}),
            json!({"verb": "call", "method": "rollback", "arguments": {}}),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn methods_are_shown() {
    let (knobs, plain) = (Knobs::new("fake"), Knobs::new("plain"));
    let world = world(&[&knobs, &plain], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    world.create("plain", "b").await.unwrap();
    let described = world.agent.describe(&target("a")).unwrap();
    assert!(described.methods.contains(&Verb::Call));
    assert_eq!(
        described.calls["rollback"].summary,
        "goes back to an earlier revision"
    );
    assert!(described.calls["rollback"].arguments.is_null());
    let described = world.agent.describe(&target("b")).unwrap();
    assert!(!described.methods.contains(&Verb::Call) && described.calls.is_empty());
    let drivers = world.agent.drivers();
    let kind = &drivers
        .iter()
        .find(|driver| driver.name.as_str() == "fake")
        .unwrap()
        .kinds[0];
    assert_eq!(
        kind.calls["rollback"].arguments["properties"]["revision"]["type"],
        "integer"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_driver_calls_secret_is_not_shown() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut object = spec("fake", "a");
    object.spec = json!({"size": 3, "token": "canary"});
    world.submit(Change::Create(Box::new(object))).await.unwrap();
    let shown = || world.agent.describe(&target("a")).unwrap().spec;
    assert_eq!(shown().spec, json!({"size": 3, "token": "hidden"}));
    let kept = world.book.objects.lock().values().next().unwrap().spec.clone();
    assert_eq!(kept.spec["token"], "canary", "what is wanted stays as it is");
    knobs.panic_everywhere.store(true, Ordering::Relaxed);
    let text = serde_json::to_string(&*shown()).unwrap();
    assert!(
        text.contains("not shown") && !text.contains("canary"),
        "where the driver cannot say: {text}"
    );
    knobs.panic_everywhere.store(false, Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn one_talks_with_a_command_until_it_ends() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    let request = ExecRequest {
        stdin: Some("first".into()),
        terminal: Some(SIZE),
        ..interactive("copy")
    };
    let mut frames = world.agent.exec("uid:1", &target("a"), &request).await.unwrap();
    let session = session(&mut frames).await;
    assert_eq!(said(&mut frames).await, "first");
    let feed = async |request| world.agent.exec_input("uid:1", &request).await;
    // The two halves of one character come as one.
    feed(typed(&session, "ww==")).await.unwrap();
    feed(typed(&session, "pA==")).await.unwrap();
    assert_eq!(said(&mut frames).await, "ä");
    feed(typed(&session, "Yg==")).await.unwrap();
    feed(input(&session, ExecInput::Resize { size: SIZE }))
        .await
        .unwrap();
    assert_eq!(said(&mut frames).await, "b");
    assert_eq!(said(&mut frames).await, "80x24");

    let strange = world.agent.exec_input("uid:2", &typed(&session, "Yg==")).await;
    assert_eq!(strange.unwrap_err().kind(), ErrorKind::NotFound, "another caller");
    let broken = feed(typed(&session, "%")).await.unwrap_err();
    assert_eq!(
        (broken.kind(), broken.path()),
        (ErrorKind::Invalid, Some("input.data"))
    );

    feed(input(&session, ExecInput::Close {})).await.unwrap();
    assert!(matches!(frames.next().await, Some(Ok(ExecFrame::Exit { status })) if status.code == Some(0)));
    assert_eq!(sessions(&world), 0, "ended before the caller has let go");
    assert_eq!(
        feed(typed(&session, "Yg==")).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(frames.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_caller_and_at_its_timeout() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    let running = || knobs.commands.load(Ordering::Relaxed);
    let request = interactive("hang");

    let mut frames = world.agent.exec("uid:1", &target("a"), &request).await.unwrap();
    let gone = session(&mut frames).await;
    assert_eq!((running(), sessions(&world)), (1, 1));
    drop(frames);
    assert_eq!((running(), sessions(&world)), (0, 0));
    let error = world.agent.exec_input("uid:1", &typed(&gone, "Yg==")).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);

    let mut frames = world.agent.exec("uid:1", &target("a"), &request).await.unwrap();
    let hung = session(&mut frames).await;
    assert_ne!(hung, gone);
    let begun = tokio::time::Instant::now();
    let error = frames.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        begun.elapsed() >= request.timeout,
        "though the driver did not end it"
    );
    assert_eq!((running(), sessions(&world)), (0, 0));
    assert!(frames.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded_and_nothing_is_started_beyond() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    let exec = async |request: ExecRequest| world.agent.exec("uid:1", &target("a"), &request).await;
    let mut open = Vec::new();
    let error = loop {
        match exec(interactive("hang")).await {
            Ok(frames) => open.push(frames),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.object()), (ErrorKind::Busy, Some("a")));
    assert_eq!((open.len(), knobs.commands.load(Ordering::Relaxed)), (64, 64));
    let once = ExecRequest {
        interactive: false,
        ..interactive("copy")
    };
    let frames: Vec<_> = exec(once).await.unwrap().collect().await;
    assert!(
        matches!(frames[..], [Ok(ExecFrame::Exit { .. })]),
        "no session: {frames:?}"
    );
    open.pop();
    assert!(exec(interactive("hang")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_terminal_that_cannot_be_given_is_refused_first() {
    let plain = Knobs::new("plain");
    let world = world(&[&plain], |builder| builder).await;
    world.create("plain", "a").await.unwrap();
    let request = ExecRequest {
        terminal: Some(SIZE),
        ..interactive("copy")
    };
    let refused = world.agent.exec("uid:1", &target("a"), &request).await;
    let error = refused.err().unwrap();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Unsupported, Some("terminal"))
    );
    let refused = ExecRequest {
        timeout: Duration::from_secs(u64::MAX),
        ..interactive("copy")
    };
    let refused = world.agent.exec("uid:1", &target("a"), &refused).await;
    assert_eq!(refused.err().unwrap().path(), Some("timeout"));
    assert_eq!(plain.commands.load(Ordering::Relaxed), 0);
}
