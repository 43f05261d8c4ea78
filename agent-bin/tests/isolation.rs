//! A driver that hangs: only its own objects feel it, and the agent ends in time. Many objects: no more tasks.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]

mod common;

use common::{Place, until};
use rustix::process::Signal;

#[tokio::test]
async fn a_hung_driver_is_told_and_holds_up_nobody() {
    let mut place = Place::new();
    place.start(&["--stop-deadline", "2s"]).await;
    let hanging: String = (0..100)
        .map(|i| {
            format!("---\nkind: simulated\nname: hung-{i}\nlabels: {{app: hung}}\nspec: {{hang: [create]}}\n")
        })
        .collect();
    let file = place.file("hung.yaml", &hanging);
    place.agent(&["apply", "-f", &file, "--no-wait"]).well();

    let file = place.file(
        "fine.yaml",
        "kind: process\nname: fine\nspec: {command: [sleep, '600']}\n",
    );
    place.agent(&["apply", "-f", &file]).well();
    place.agent(&["pause", "fine"]).well();
    place.until_phase("fine", "Paused").await;
    place.agent(&["delete", "fine"]).well();

    until("get says what is stuck", || {
        let table = place.agent(&["get", "hung-0"]).well().out;
        table.contains("stuck for").then_some(())
    })
    .await;
    let waited = place.agent(&[
        "apply",
        "-f",
        &place.file(
            "one.yaml",
            "kind: simulated\nname: hung-x\nspec: {hang: [create]}\n",
        ),
        "--timeout",
        "200ms",
    ]);
    assert_eq!(waited.code, Some(8), "{waited:?}");
    assert!(waited.err.contains("hung-x: still"), "{waited:?}");

    let began = tokio::time::Instant::now();
    place.signal(Signal::TERM);
    let code = place.ended().await;
    assert_eq!(
        code,
        Some(1),
        "calls were cut off, and that is said: {}",
        place.log()
    );
    assert!(began.elapsed().as_secs() < 20, "took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_second_signal_forces() {
    let mut place = Place::new();
    place.start(&["--stop-deadline", "1h"]).await;
    let file = place.file(
        "hung.yaml",
        "kind: simulated\nname: hung\nspec: {hang: [create]}\n",
    );
    place.agent(&["apply", "-f", &file, "--no-wait"]).well();
    until("the call is under way", || {
        (place.phase("hung") == "Creating").then_some(())
    })
    .await;
    place.signal(Signal::TERM);
    until("it is stopping", || {
        place.log().contains("\"reason\":\"SIGTERM\"").then_some(())
    })
    .await;
    place.signal(Signal::TERM);
    assert_eq!(place.ended().await, Some(1), "{}", place.log());
}

#[tokio::test]
async fn ten_thousand_objects_need_no_more_tasks_than_ten() {
    let place = Place::with_agent().await;
    let objects = |from: usize, to: usize| -> String {
        (from..to)
            .map(|i| format!("---\nkind: simulated\nname: s-{i}\nlabels: {{app: load}}\n"))
            .collect()
    };
    let tasks = || place.agent(&["info", "-o", "json"]).well().json()["tasks"].clone();
    let running = |wanted: usize| {
        let views = place
            .agent(&["get", "--phase", "running", "-o", "name"])
            .well()
            .out;
        (views.lines().count() == wanted).then_some(())
    };
    let few = place.file("few.yaml", &objects(0, 10));
    place.agent(&["apply", "-f", &few, "--no-wait"]).well();
    until("ten run", || running(10)).await;
    let before = tasks();
    let many = place.file("many.yaml", &objects(10, 10_000));
    place.agent(&["apply", "-f", &many, "--no-wait"]).well();
    until("all run", || running(10_000)).await;
    assert_eq!(tasks(), before);
    let deleted = place.agent(&["delete", "-l", "app=load", "--timeout", "60s"]);
    assert_eq!(
        deleted.code,
        Some(0),
        "{}",
        deleted.err.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    );
    assert_eq!(tasks(), before);
}
