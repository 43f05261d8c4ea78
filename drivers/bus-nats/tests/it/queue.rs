//! The work queue: the agent may be away, and the caller may leave.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api_bus_in::BusIn;
use agent_api_bus_out::{BusReader, StartAt};
use agent_api_model::ErrorKind;
use agent_bus_nats::{Change, Layout, Link, SetupConfig, setup};
use futures_util::StreamExt;

use crate::lab::{Lab, Notes, PATIENCE, agent, bus, caller, request, until};

/// Commands sent while the agent was away are done when it is back: each once, in order, and the answers are stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_wait_for_an_agent_that_is_away() {
    let lab = Lab::up().await;
    let caller = caller(&lab).await;
    for n in 0..20 {
        let mut command = request(if n % 2 == 0 { "create" } else { "delete" }, &format!("c{n:02}"));
        command.object = Some(format!("o{}", n % 3));
        let queued = caller.send(command.clone(), PATIENCE).await.unwrap();
        assert!(!queued.repeated);
        let again = caller.send(command, PATIENCE).await.unwrap();
        assert_eq!((again.repeated, again.sequence), (true, queued.sequence));
    }
    let notes = Arc::new(Notes::default());
    // Not now, says the agent at first: the command stays, and those after it for the same object wait for it.
    notes.refusals.store(2, Ordering::SeqCst);
    let bus = bus(&lab);
    bus.open(notes.clone()).await.unwrap();
    until("all commands were answered", || bus.state().queued == 20).await;
    let ids = notes.ids();
    for object in 0..3 {
        let wanted: Vec<_> = (0..20)
            .filter(|n| n % 3 == object)
            .map(|n| format!("c{n:02}"))
            .collect();
        let name = format!("o{object}");
        let got: Vec<_> = notes
            .seen
            .lock()
            .iter()
            .filter(|incoming| incoming.object.as_deref() == Some(&name))
            .filter_map(|incoming| incoming.id.clone())
            .collect();
        assert_eq!(got, wanted, "each once and in order");
    }
    assert_eq!(ids.len(), 20);
    let mut answers = caller
        .subscribe("agent.out.a1.result.>", StartAt::Kept)
        .await
        .unwrap();
    let mut stored = Vec::new();
    for _ in 0..20 {
        let answer = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let envelope = answer.message.envelope;
        assert_eq!(envelope.event_type, "agent.request.answered");
        stored.push(envelope.id);
    }
    stored.sort();
    let wanted: Vec<_> = (0..20).map(|n| format!("c{n:02}:answer")).collect();
    assert_eq!(stored, wanted);
    bus.close(PATIENCE).await.unwrap();
    assert_eq!(bus.state().link, Link::Closed);

    // The next run has nothing left to do.
    let notes = Arc::new(Notes::default());
    let next = crate::lab::bus(&lab);
    next.open(notes.clone()).await.unwrap();
    caller.send(request("update", "c99"), PATIENCE).await.unwrap();
    until("the new command was answered", || next.state().queued == 1).await;
    assert_eq!(notes.ids(), ["c99"]);
    next.close(PATIENCE).await.unwrap();
}

/// Only commands may wait, and a queue that nobody made is said to be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_wait_and_what_is_missing_is_told() {
    let lab = Lab::bare(&[]).await;
    let caller = caller(&lab).await;
    let error = caller.send(request("describe", "d"), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = caller
        .send(request("delete", "d"), Duration::from_millis(600))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.to_string().contains("same id, d"), "{error}");
    let bus = bus(&lab);
    let notes = Arc::new(Notes::default());
    bus.open(notes.clone()).await.unwrap();
    until("the queue is known to be missing", || {
        bus.state().queue == Some(false)
    })
    .await;
    assert!(bus.state().last_error.unwrap().contains("AGENT_IN"));
    lab.set_up().await;
    caller.send(request("delete", "d"), PATIENCE).await.unwrap();
    until("the command is done once there is a queue", || {
        bus.state().queued == 1
    })
    .await;
    assert_eq!(notes.ids(), ["d"]);
    bus.close(PATIENCE).await.unwrap();
}

/// The setup tells what is missing, makes it, finds nothing the second time, and sees a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setup_makes_what_is_missing_and_tells_the_difference() {
    let lab = Lab::bare(&[]).await;
    let mut config = SetupConfig::new(Layout::default(), vec![agent("a1"), agent("a2")]);
    let run = async |config: &SetupConfig| setup(lab.connect("setup"), config).await.unwrap();
    let told = run(&config).await;
    assert_eq!(told.len(), 8, "{told:?}");
    assert!(told.iter().all(|difference| difference.change == Change::Missing));
    config.apply = true;
    let made = run(&config).await;
    assert!(made.iter().all(|difference| difference.change == Change::Made));
    assert_eq!(made.len(), 8);
    assert_eq!(run(&config).await, []);
    config.apply = false;
    config.event_bytes /= 2;
    let differs = run(&config).await;
    assert_eq!(differs.len(), 1);
    let shown = differs[0].to_string();
    assert_eq!(
        shown,
        "stream AGENT_EVENTS: differs\n  max_bytes: 536870912 -> 268435456"
    );
    config.apply = true;
    assert_eq!(run(&config).await[0].change, Change::Changed);
    assert_eq!(run(&config).await, []);
}
