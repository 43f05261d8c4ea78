//! What is refused, what is let in, and what the reply says.

use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{
    Change as SpecChange, ControlAction, ErrorKind, MonitorRequest, MonitorSpec, Phase, RequestMeta,
    Resources, Signal, Timestamp, UpdateRequest, Verb,
};
use serde_json::json;

use crate::fake_driver::Knobs;
use crate::world::{spec, target, world};

#[tokio::test(start_paused = true)]
async fn what_is_past_its_deadline_is_not_done() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut meta = RequestMeta::local("test");
    meta.deadline = Some(Timestamp::from_micros(Timestamp::now().as_micros() - 1));
    let create = Change::Create(Box::new(spec("fake", "a")));
    let error = world.agent.submit(meta, create.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Expired);
    assert!(world.book.objects.lock().is_empty());
    assert_eq!(world.counter("requests_expired"), 1);
    let mut meta = RequestMeta::local("test");
    meta.deadline = Some(Timestamp::now().plus(Duration::from_secs(60)));
    let (accepted, stages) = world.agent.submit(meta, create).await.unwrap();
    assert_eq!((accepted.name.as_str(), accepted.generation), ("a", 1));
    assert!(stages.validated_us.unwrap() <= stages.durable_us.unwrap());
}

#[tokio::test(start_paused = true)]
async fn specs_are_checked_before_anything_is_done() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut wrong_type = spec("fake", "a");
    wrong_type.spec = json!({"size": "big"});
    let mut unknown = spec("fake", "a");
    unknown.spec = json!({"siez": 1});
    let mut refused = spec("fake", "a");
    refused.resources.replicas = Some(0);
    let mut label = spec("fake", "a");
    label.labels.insert("a b".into(), String::new());
    let mut topic = spec("fake", "a");
    topic.monitor = Some(MonitorSpec {
        signals: vec![Signal::Metrics],
        interval: Duration::from_secs(1),
        topic: Some("not a topic".into()),
    });
    let mut said = Vec::new();
    for object in [wrong_type, unknown, refused, label, topic] {
        let error = world.submit(Change::Create(Box::new(object))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.object(), Some("a"));
        said.push(error.path().unwrap().to_owned());
    }
    assert_eq!(
        said,
        [
            "spec.size",
            "spec.siez",
            "resources.replicas",
            "labels[\"a b\"]",
            "monitor.topic"
        ]
    );
    assert!(
        world
            .book
            .log
            .lock()
            .iter()
            .all(|line| !line.starts_with("admit"))
    );
}

#[tokio::test(start_paused = true)]
async fn updates_are_planned_and_bound_to_a_generation() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    let update = |size: i64, expected_generation| {
        let mut next = spec("fake", "a");
        next.spec = json!({"size": size});
        let request = UpdateRequest {
            change: SpecChange::Replace(Box::new(next)),
            expected_generation,
        };
        Change::Update(target("a"), request)
    };
    assert_eq!(world.submit(update(3, None)).await.unwrap().generation, 2);
    let error = world.submit(update(4, Some(1))).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Conflict, Some("expected_generation"))
    );
    assert_eq!(world.submit(update(4, Some(2))).await.unwrap().generation, 3);
    let error = world.submit(update(-1, None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "infeasible");
    assert_eq!(
        world.agent.describe(&target("a")).unwrap().spec.spec,
        json!({"size": 4})
    );
    // Many at once: each is planned against the generation it changes.
    let results = futures_util::future::join_all((0..4).map(|i| world.submit(update(i, None)))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(world.book.view("a").unwrap().generation, 7);
    let missing = world.submit(Change::Update(
        target("b"),
        UpdateRequest {
            change: SpecChange::Replace(Box::new(spec("fake", "b"))),
            expected_generation: None,
        },
    ));
    assert_eq!(missing.await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn verbs_that_a_kind_cannot_are_refused_with_those_it_can() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    let control = |action| world.submit(Change::Control(target("a"), action));
    let error = control(ControlAction::Pause {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("signal, resize"), "{error}");
    let nothing = ControlAction::Resize {
        resources: Resources::default(),
    };
    let error = control(nothing).await.unwrap_err();
    assert_eq!(error.path(), Some("resources"));
    let refused = ControlAction::Resize {
        resources: Resources {
            replicas: Some(0),
            ..Resources::default()
        },
    };
    assert_eq!(
        control(refused).await.unwrap_err().path(),
        Some("resources.replicas")
    );
    let methods = world.agent.describe(&target("a")).unwrap().methods;
    assert!(methods.contains(&Verb::Signal) && !methods.contains(&Verb::Pause));
    let error = world
        .agent
        .logs(&target("a"), &Default::default())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn an_object_brings_its_own_leases_and_takes_them_along() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut object = spec("fake", "a");
    object.monitor = Some(MonitorSpec {
        signals: vec![Signal::Metrics, Signal::Logs],
        interval: Duration::from_secs(1),
        topic: None,
    });
    let guid = world.submit(Change::Create(Box::new(object))).await.unwrap().guid;
    world
        .until("two leases", |w| w.collector.leases.lock().len() == 2)
        .await;
    let topics: Vec<_> = world
        .collector
        .leases
        .lock()
        .values()
        .map(|lease| {
            assert_eq!((lease.guid, lease.expires), (Some(guid), None));
            lease.topic.clone()
        })
        .collect();
    for topic in ["agent.out.test.metric", "agent.out.test.log"] {
        assert!(topics.iter().any(|has| has == topic), "{topics:?}");
    }
    world.signal("a").await.unwrap();
    world
        .until("the signal is done", |w| {
            w.book.log.lock().iter().any(|line| line == "settle signal a ok")
        })
        .await;
    assert_eq!(world.collector.leases.lock().len(), 2, "kept over a new handle");
    world.delete("a").await.unwrap();
    world
        .until("they went with it", |w| {
            w.collector.leases.lock().is_empty() && w.collector.objects.lock().is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bus_nothing_can_be_monitored() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let error = world.agent.monitor(&MonitorRequest::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(world.collector.leases.lock().is_empty());
    world.create("fake", "a").await.unwrap();
    world
        .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    world
        .until("heartbeats are counted", |w| {
            w.counter("telemetry_lost.no_bus_reports") >= 1
        })
        .await;
}
