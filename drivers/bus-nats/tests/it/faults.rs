//! The server dies, hangs and comes back.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn};
use agent_api_bus_out::{BusOut, BusReader, StartAt};
use agent_api_model::ErrorKind;
use agent_bus_nats::Link;
use futures_util::StreamExt;

use crate::lab::{Lab, Notes, PATIENCE, answered, bus, caller, message, request, until};

/// A killed server is missed at once: callers and publishers are told, nothing waits in the dark, and when it is back
/// everything goes on; what could not be published then is published with the same ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_survived() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let notes = Arc::new(Notes::default());
    bus.open(notes.clone()).await.unwrap();
    let caller = caller(&lab).await;
    let mut live = caller
        .subscribe("agent.out.a1.status", StartAt::Now)
        .await
        .unwrap();
    answered(&caller, request("describe", "before")).await;
    let status = |n: usize| message("agent.out.a1.status", &format!("e{n}"), Some("web"));
    bus.publish(&[status(0)]).await.unwrap();
    bus.publish(&[message("agent.out.a1.log", "l0", None)])
        .await
        .unwrap();

    lab.run(&["kill-node", "1"]).await;
    until("both know", || {
        bus.state().link == Link::Down && caller.state().link == Link::Down
    })
    .await;
    let error = caller
        .call(request("create", "lost"), PATIENCE)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = bus.publish(&[status(1), status(2)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable());

    lab.run(&["start-node", "1"]).await;
    until("both are back", || {
        bus.state().link == Link::Up && caller.state().link == Link::Up
    })
    .await;
    answered(&caller, request("describe", "after")).await;
    assert_eq!(notes.ids(), ["before", "after"], "what failed was not sent later");
    let end = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = bus.publish(&[status(1), status(2)]).await {
        assert!(
            error.is_retryable() && tokio::time::Instant::now() < end,
            "{error:?}"
        );
    }
    bus.publish(&[message("agent.out.a1.log", "l1", None)])
        .await
        .unwrap();
    for n in 0..3 {
        let got = tokio::time::timeout(PATIENCE, live.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!((got.message.envelope.id, got.missed), (format!("e{n}"), 0));
    }
    caller.send(request("delete", "queued"), PATIENCE).await.unwrap();
    until("the queue is read again", || bus.state().queued == 1).await;
    bus.close(PATIENCE).await.unwrap();
    assert!(bus.state().connects >= 2);
    assert!(
        bus.state().lost <= 1,
        "no more than was not acknowledged when the server died"
    );
}

/// A server that hangs is noticed by pings, and a request that it swallowed is a timeout; when it goes on, the request
/// that came too late is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_noticed_and_late_requests_are_not_done() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let notes = Arc::new(Notes::default());
    bus.open(notes.clone()).await.unwrap();
    let caller = caller(&lab).await;
    answered(&caller, request("describe", "before")).await;
    lab.run(&["pause", "1"]).await;
    let error = caller
        .call(request("create", "swallowed"), Duration::from_millis(300))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    until("the silence is noticed", || bus.state().link == Link::Down).await;
    lab.run(&["resume", "1"]).await;
    until("both are back", || {
        bus.state().link == Link::Up && caller.state().link == Link::Up
    })
    .await;
    answered(&caller, request("describe", "after")).await;
    assert_eq!(notes.ids(), ["before", "after"]);
    bus.close(PATIENCE).await.unwrap();
}

/// An agent starts without a server, and serves as soon as there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_starts_before_its_server() {
    let lab = Lab::up().await;
    lab.run(&["stop-node", "1"]).await;
    let bus = bus(&lab);
    let notes = Arc::new(Notes::default());
    bus.open(notes.clone()).await.unwrap();
    assert_ne!(bus.state().link, Link::Up);
    lab.run(&["start-node", "1"]).await;
    until("the server is reached", || bus.state().link == Link::Up).await;
    let caller = caller(&lab).await;
    answered(&caller, request("describe", "first")).await;
    assert_eq!(notes.ids(), ["first"]);
    bus.close(PATIENCE).await.unwrap();
}

/// The leader of a stream dies while events are published: all are stored, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_costs_no_event_and_doubles_none() {
    let lab = Lab::cluster().await;
    let bus = bus(&lab);
    let caller = caller(&lab).await;
    const BATCHES: usize = 200;
    for n in 0..BATCHES {
        if n == BATCHES / 4 {
            // Of three servers one is the leader: after two deaths in turn it was hit, most likely.
            lab.run(&["kill-node", "1"]).await;
        }
        if n == BATCHES / 2 {
            lab.run(&["start-node", "1"]).await;
            lab.run(&["kill-node", "2"]).await;
        }
        let batch: Vec<_> = (0..5)
            .map(|m| message("agent.out.a1.status", &format!("{:05}", n * 5 + m), Some("web")))
            .collect();
        let end = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = bus.publish(&batch).await {
            assert!(
                error.is_retryable() && tokio::time::Instant::now() < end,
                "{error:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    lab.run(&["start-node", "2"]).await;
    until("the caller is connected", || caller.state().link == Link::Up).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut kept = loop {
        match caller.subscribe("agent.out.a1.status", StartAt::Kept).await {
            Ok(kept) => break kept,
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error:?}"),
        }
    };
    for n in 0..BATCHES * 5 {
        let got = tokio::time::timeout(PATIENCE, kept.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!((got.message.envelope.id, got.missed), (format!("{n:05}"), 0));
    }
    bus.close(PATIENCE).await.unwrap();
}
