//! What a supervisor and a monitoring system see: readiness, watchdog, probes, metrics.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

use common::{PATIENCE, Place, until};
use rustix::process::Signal;

/// Asks the agent's socket for a page, as a monitoring system does.
fn page(place: &Place, path: &str) -> String {
    let mut stream = UnixStream::connect(place.state().join("agent.sock")).expect("the agent listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("the agent reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the agent answers");
    text
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let mut place = Place::new();
    let socket = place.dir.path().join("notify.sock");
    let manager = UnixDatagram::bind(&socket).expect("a socket in a new directory");
    manager.set_nonblocking(true).expect("a socket can be that");
    place.set("NOTIFY_SOCKET", &socket.display().to_string());
    place.set("WATCHDOG_USEC", "300000");
    place.start(&[]).await;
    let mut told = String::new();
    let mut hear = |word: &str| {
        let mut buffer = [0; 4096];
        while let Ok(length) = manager.recv(&mut buffer) {
            told.push_str(&String::from_utf8_lossy(&buffer[..length]));
            told.push('\n');
        }
        told.contains(word).then_some(())
    };
    until("it is ready", || hear("READY=1")).await;
    until("the watchdog is fed", || hear("WATCHDOG=1")).await;
    place.signal(Signal::HUP);
    until("the reload is told", || hear("RELOADING=1")).await;
    until("with its time", || hear("MONOTONIC_USEC=")).await;
    place.signal(Signal::TERM);
    until("the end is told", || hear("STOPPING=1")).await;
    assert_eq!(place.ended().await, Some(0));
}

#[tokio::test]
async fn probes_and_metrics_are_answered() {
    let place = Place::with_agent().await;
    let file = place.file("a.yaml", "kind: simulated\nname: a\n");
    place.agent(&["apply", "-f", &file]).well();
    for path in ["/healthz", "/readyz"] {
        let answer = page(&place, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let metrics = page(&place, "/metrics");
    assert!(
        metrics.starts_with("HTTP/1.1 200") && metrics.contains("# TYPE agent_"),
        "{metrics}"
    );
    let (_, body) = metrics.split_once("\r\n\r\n").expect("head and body");
    let samples = body.lines().filter(|line| line.starts_with("agent_"));
    for sample in samples {
        let value = sample.rsplit(' ').next().expect("a sample has a value");
        assert!(value.parse::<f64>().is_ok(), "{sample}");
    }
}

#[tokio::test]
async fn monitor_shows_metrics_and_ends_its_lease() {
    let place = Place::with_agent().await;
    let file = place.file(
        "a.yaml",
        "kind: process\nname: a\nspec: {command: [sleep, '600']}\n",
    );
    place.agent(&["apply", "-f", &file]).well();
    let told = place
        .agent(&["monitor", "a", "--interval", "50ms", "--count", "3"])
        .well()
        .out;
    assert_eq!(
        told.lines().filter(|line| line.contains("memory.usage=")).count(),
        3,
        "{told}"
    );
    let json = place
        .agent(&["monitor", "a", "--interval", "50ms", "--count", "1", "-o", "json"])
        .well();
    assert!(json.out.contains("resourceMetrics"), "{json:?}");
    let nobody = place.agent(&["monitor", "nobody"]);
    assert_eq!(nobody.code, Some(7), "{nobody:?}");
}
