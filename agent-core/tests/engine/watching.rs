//! Watching without a gap.

use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{ErrorKind, Phase, WatchEvent, WatchRequest};
use futures_util::{FutureExt, StreamExt};

use crate::fake_driver::Knobs;
use crate::world::{spec, target, world};

fn told(event: WatchEvent) -> String {
    match event {
        WatchEvent::Changed(view) => format!("{} {}", view.name, view.phase),
        WatchEvent::Deleted { name, .. } => format!("{name} deleted"),
        WatchEvent::Synced => "synced".into(),
        WatchEvent::Gap { missed } => format!("gap {missed}"),
    }
}

#[tokio::test(start_paused = true)]
async fn first_what_is_then_what_changes() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    world
        .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    let mut watch = world
        .agent
        .watch(&WatchRequest::default())
        .unwrap()
        .map(|event| told(event.unwrap()));
    assert_eq!(watch.next().await.unwrap(), "a Running");
    assert_eq!(watch.next().await.unwrap(), "synced");
    assert!(watch.next().now_or_never().is_none(), "nothing changed");
    world.create("fake", "b").await.unwrap();
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("b Running") {
        seen.push(watch.next().await.unwrap());
    }
    world.delete("b").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), "b deleted");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_newest_view_of_each() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut watch = world
        .agent
        .watch(&WatchRequest::default())
        .unwrap()
        .map(|event| told(event.unwrap()));
    for i in 0..3 {
        world.create("fake", &format!("o{i}")).await.unwrap();
    }
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == 3)
        .await;
    for _ in 0..100 {
        world.signal("o1").await.unwrap();
    }
    world.create("fake", "short").await.unwrap();
    world
        .until("it runs", |w| w.book.phase("short") == Some(Phase::Running))
        .await;
    world.delete("short").await.unwrap();
    world
        .until("it is gone", |w| w.book.phase("short").is_none())
        .await;
    world
        .until("all signals are done", |w| {
            w.agent.info().drivers[0].in_flight == 0
        })
        .await;
    let mut seen = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        seen.push(event);
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "o0 Running",
            "o1 Running",
            "o2 Running",
            "short deleted",
            "synced"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_watch_of_one_object_ends_with_it() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let missing = WatchRequest {
        object: Some(target("a")),
        ..WatchRequest::default()
    };
    let error = world.agent.watch(&missing).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for name in ["a", "b"] {
        world.create("fake", name).await.unwrap();
    }
    let watch = world.agent.watch(&missing).unwrap();
    world
        .until("both run", |w| w.book.in_phase(Phase::Running) == 2)
        .await;
    world.delete("a").await.unwrap();
    let seen: Vec<_> = tokio::time::timeout(Duration::from_secs(10), watch.collect::<Vec<_>>())
        .await
        .unwrap()
        .into_iter()
        .map(|event| told(event.unwrap()))
        .collect();
    assert_eq!(seen.last().map(String::as_str), Some("a deleted"));
    assert!(seen.iter().all(|event| !event.starts_with('b')), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_selector_chooses() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let request = WatchRequest {
        selector: "app=web".parse().unwrap(),
        ..WatchRequest::default()
    };
    let mut watch = world
        .agent
        .watch(&request)
        .unwrap()
        .map(|event| told(event.unwrap()));
    assert_eq!(watch.next().await.unwrap(), "synced");
    world.create("fake", "other").await.unwrap();
    let mut web = spec("fake", "web");
    web.labels.insert("app".into(), "web".into());
    world.submit(Change::Create(Box::new(web))).await.unwrap();
    assert!(watch.next().await.unwrap().starts_with("web "));
    assert_eq!(world.counter("watchers"), 1);
    drop(watch);
    assert_eq!(world.counter("watchers"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_costs_a_bounded_number_of_notes() {
    const MANY: usize = 70_000;
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| {
        builder.heartbeat_interval(Duration::from_secs(3_600))
    })
    .await;
    let mut watch = world
        .agent
        .watch(&WatchRequest::default())
        .unwrap()
        .map(|event| told(event.unwrap()));
    assert_eq!(watch.next().await.unwrap(), "synced");
    for i in 0..MANY {
        world.create("fake", &format!("o{i}")).await.unwrap();
    }
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == MANY)
        .await;
    let first = watch.next().await.unwrap();
    let missed: usize = first.strip_prefix("gap ").unwrap().parse().unwrap();
    assert!(missed > 65_536, "{missed}");
    let again: Vec<_> = watch.by_ref().take(MANY + 1).collect().await;
    assert_eq!(again.last().map(String::as_str), Some("synced"));
    assert!(again[..MANY].iter().all(|event| event.ends_with("Running")));
    assert_eq!(world.counter("watch_gaps"), 1);
}
