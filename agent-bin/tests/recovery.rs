//! The agent dies and comes back; signals and exit codes.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]

mod common;

use std::collections::BTreeMap;

use common::{Place, alive, until};
use rustix::process::Signal;

const OBJECTS: &str = "\
kind: process
name: ticker
restart: always
spec:
  command: [/bin/sh, -c, 'i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 0.02; done']
---
kind: process
name: sleeper
spec: {command: [sleep, '600']}
---
kind: process
name: held
spec: {command: [sleep, '600']}
";

fn pids(place: &Place) -> BTreeMap<String, i64> {
    ["ticker", "sleeper", "held"]
        .into_iter()
        .map(|name| (name.to_owned(), place.pid_of(name)))
        .collect()
}

#[tokio::test]
async fn a_crash_of_the_agent_is_not_felt() {
    let mut place = Place::with_agent().await;
    let file = place.file("objects.yaml", OBJECTS);
    place.agent(&["apply", "-f", &file]).well();
    place.agent(&["pause", "held"]).well();
    place.until_phase("held", "Paused").await;
    let before = pids(&place);

    place.crash().await;
    for (name, pid) in &before {
        assert!(alive(*pid), "{name} must not end with the agent");
    }
    let away = place.agent(&["get"]);
    assert_eq!(away.code, Some(6));
    assert!(away.err.contains("agent run"), "{away:?}");

    place.start(&[]).await;
    assert_eq!(pids(&place), before);
    let table = place.agent(&["get"]).well().out;
    assert_eq!(table.matches("(adopted)").count(), 3, "{table}");
    place.until_phase("held", "Paused").await;

    let logs = place.agent(&["logs", "ticker"]).well().out;
    let count = logs.lines().count();
    for (i, line) in logs.lines().enumerate() {
        assert_eq!(line, format!("tick {}", i + 1), "a hole in the log");
    }
    until("it writes on", || {
        (place.agent(&["logs", "ticker"]).well().out.lines().count() > count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_ended_meanwhile_is_known() {
    let mut place = Place::with_agent().await;
    let file = place.file("objects.yaml", OBJECTS);
    place.agent(&["apply", "-f", &file]).well();
    let before = pids(&place);
    place.crash().await;
    let sleeper = rustix::process::Pid::from_raw(i32::try_from(before["sleeper"]).unwrap()).unwrap();
    rustix::process::kill_process(sleeper, Signal::KILL).unwrap();
    place.start(&[]).await;
    let view = place.until_phase("sleeper", "Failed").await;
    assert!(view["exit"].is_object(), "{view}");
    assert_eq!(place.pid_of("ticker"), before["ticker"]);
}

#[tokio::test]
async fn a_second_agent_is_refused() {
    let place = Place::with_agent().await;
    let second = place.agent(&["run"]);
    assert_eq!(second.code, Some(4), "{second:?}");
    assert!(second.err.contains(&place.pid().to_string()), "{second:?}");
    assert!(
        second.err.contains("STATE") || second.err.contains(&place.state().display().to_string()),
        "{second:?}"
    );
    place.agent(&["health"]).well();
}

#[tokio::test]
async fn sigterm_leaves_objects_running_unless_asked() {
    let mut place = Place::with_agent().await;
    let file = place.file("objects.yaml", OBJECTS);
    place.agent(&["apply", "-f", &file]).well();
    let before = pids(&place);
    place.signal(Signal::TERM);
    assert_eq!(place.ended().await, Some(0), "{}", place.log());
    assert!(before.values().all(|pid| alive(*pid)));
    assert!(
        !place.state().join("agent.sock").exists(),
        "the socket goes with the agent"
    );

    place.start(&["--stop-objects"]).await;
    assert_eq!(pids(&place), before);
    place.signal(Signal::INT);
    assert_eq!(place.ended().await, Some(0), "{}", place.log());
    until("they have ended", || {
        (!before.values().any(|pid| alive(*pid))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let mut place = Place::new();
    let config = place.file("agent.toml", "[core]\nheartbeat = \"10s\"\n");
    place.start(&["--config", &config]).await;
    place.file("agent.toml", "[core]\nheartbeat = \"5s\"\n");
    place.signal(Signal::HUP);
    until("it is told", || {
        place.log().contains("core.heartbeat").then_some(())
    })
    .await;
    place.agent(&["health"]).well();
}
