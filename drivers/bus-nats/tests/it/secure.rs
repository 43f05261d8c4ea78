//! TLS, nkeys, JWTs and the permissions of the lab.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn, Response};
use agent_api_bus_out::{BusOut, BusReader, StartAt};
use agent_api_model::ErrorKind;
use agent_bus_memory::suite::TestHandler;
use agent_bus_nats::{
    CallTarget, ConnectConfig, Credentials, Layout, Link, NatsBus, NatsCaller, NatsConfig, SetupConfig, setup,
};
use futures_util::StreamExt;

use crate::lab::{Lab, Notes, PATIENCE, agent, answered, message, request, until};

fn tls(lab: &Lab, name: &str) -> ConnectConfig {
    let mut config = lab.connect(name);
    config.tls.required = true;
    config.tls.ca = Some(lab.path("NATS_CA"));
    config
}

fn operator(lab: &Lab, dir: &tempfile::TempDir) -> ConnectConfig {
    let file = dir.path().join("password");
    std::fs::write(&file, lab.env("NATS_OPERATOR_PASSWORD")).unwrap();
    let mut config = tls(lab, "operator");
    config.credentials = Credentials::Password {
        user: "operator".into(),
        file,
    };
    config
}

fn nkey(lab: &Lab, id: &str) -> ConnectConfig {
    let mut config = tls(lab, id);
    config.inbox = format!("_INBOX_{id}");
    config.credentials = Credentials::Nkey {
        file: lab.path(&format!("NATS_{}_SEED_FILE", id.to_uppercase())),
    };
    config
}

/// With the documented permissions all works: requests, long answers, the queue, reports; and what an agent may not do
/// is refused and loud.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_works_with_its_own_permissions_and_no_more() {
    let lab = Lab::bare(&["--secure"]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = SetupConfig::new(Layout::default(), vec![agent("a1"), agent("a2")]);
    config.apply = true;
    setup(operator(&lab, &dir), &config).await.unwrap();

    let bus = NatsBus::new(NatsConfig::new(nkey(&lab, "a1"), agent("a1")));
    let handler = Arc::new(TestHandler::default());
    bus.open(handler.clone()).await.unwrap();
    let target = CallTarget::Agent(agent("a1"));
    let caller = NatsCaller::connect(operator(&lab, &dir), Layout::default(), target)
        .await
        .unwrap();
    assert_eq!(answered(&caller, request("echo", "r")).await, "");
    let mut large = request("large", "l");
    large.payload = "8000000".into();
    // More pieces than the hundred that a reply may have, because each credit allows a hundred more.
    assert_eq!(answered(&caller, large).await.len(), 8_000_002);
    let mut ticks = match caller.call(request("tick", "t"), PATIENCE).await {
        Ok(Response::Stream(frames)) => frames,
        _ => panic!("a stream was expected"),
    };
    for n in 0..300 {
        let frame = tokio::time::timeout(PATIENCE, ticks.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame, format!("{{\"n\":{n}}}"), "{:?}", bus.state());
    }
    drop(ticks);
    let mut queued = request("delete", "q");
    queued.object = Some("web".into());
    caller.send(queued, PATIENCE).await.unwrap();
    until("the queue works", || bus.state().queued == 1).await;
    bus.publish(&[
        message("agent.out.a1.status", "s1", Some("web")),
        message("agent.out.a1.status", "s2", Some("web")),
        message("agent.out.a1.log", "l1", None),
        message("agent.out.a1.heartbeat", "h1", None),
    ])
    .await
    .unwrap();
    assert_eq!(bus.state().denied, 0, "{:?}", bus.state());

    let stolen = message("agent.out.a2.heartbeat", "x", None);
    bus.publish(&[stolen]).await.unwrap();
    until("the violation is counted", || bus.state().denied == 1).await;
    let told = bus.state().last_error.unwrap();
    assert!(told.contains("agent.out.a2.heartbeat"), "{told}");
    assert_eq!(bus.state().link, Link::Up, "and all else goes on");
    assert_eq!(answered(&caller, request("echo", "after")).await, "");
    bus.close(PATIENCE).await.unwrap();
}

/// An observer reads what is kept and what is new, and may not ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_reads_and_does_nothing_else() {
    let lab = Lab::bare(&["--secure"]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = SetupConfig::new(Layout::default(), vec![agent("a1")]);
    config.apply = true;
    setup(operator(&lab, &dir), &config).await.unwrap();
    let bus = NatsBus::new(NatsConfig::new(nkey(&lab, "a1"), agent("a1")));
    bus.open(Arc::new(TestHandler::default())).await.unwrap();
    let kept = message("agent.out.a1.status", "s1", Some("web"));
    bus.publish(std::slice::from_ref(&kept)).await.unwrap();

    let file = dir.path().join("observer");
    std::fs::write(&file, lab.env("NATS_OBSERVER_PASSWORD")).unwrap();
    let mut observer = tls(&lab, "observer");
    observer.inbox = "_INBOX_observer".into();
    observer.credentials = Credentials::Password {
        user: "observer".into(),
        file,
    };
    let target = CallTarget::Agent(agent("a1"));
    let observer = NatsCaller::connect(observer, Layout::default(), target)
        .await
        .unwrap();
    let mut read = observer.subscribe("agent.out.>", StartAt::Kept).await.unwrap();
    let heartbeat = message("agent.out.a1.heartbeat", "h1", None);
    bus.publish(std::slice::from_ref(&heartbeat)).await.unwrap();
    for wanted in [kept, heartbeat] {
        let got = tokio::time::timeout(PATIENCE, read.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(got.message, wanted);
    }
    assert_eq!(observer.state().denied, 0, "{:?}", observer.state());
    let asked = observer
        .call(request("echo", "x"), Duration::from_millis(500))
        .await;
    assert_eq!(asked.err().unwrap().kind(), ErrorKind::Timeout);
    until("the observer is told why", || observer.state().denied >= 1).await;
    bus.close(PATIENCE).await.unwrap();
}

/// Wrong credentials, a wrong authority and a stranger's account are told at once, without a secret in the words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_come_in_is_told() {
    let lab = Lab::bare(&["--secure"]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong");
    std::fs::write(&file, "not-the-password").unwrap();
    let mut wrong = operator(&lab, &dir);
    wrong.credentials = Credentials::Password {
        user: "operator".into(),
        file,
    };
    let connect = async |config: ConnectConfig| {
        NatsCaller::connect(config, Layout::default(), CallTarget::Agent(agent("a1"))).await
    };
    let error = connect(wrong).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!format!("{error:?}").contains("not-the-password"), "{error:?}");
    let mut missing = operator(&lab, &dir);
    missing.credentials = Credentials::Nkey {
        file: dir.path().join("nowhere"),
    };
    let error = connect(missing).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("nowhere"), "{error}");

    let mut untrusted = operator(&lab, &dir);
    untrusted.tls.ca = None;
    let untrusted = connect(untrusted).await.unwrap();
    assert_ne!(untrusted.state().link, Link::Up, "the server is not believed");
    untrusted.close().await;

    let password = dir.path().join("stranger");
    std::fs::write(&password, lab.env("NATS_STRANGER_PASSWORD")).unwrap();
    let mut stranger = tls(&lab, "stranger");
    stranger.credentials = Credentials::Password {
        user: "stranger".into(),
        file: password,
    };
    let bus = NatsBus::new(NatsConfig::new(nkey(&lab, "a1"), agent("a1")));
    bus.open(Arc::new(Notes::default())).await.unwrap();
    let stranger = connect(stranger).await.unwrap();
    let answer = stranger.call(request("describe", "s"), PATIENCE).await;
    assert_eq!(
        answer.err().unwrap().kind(),
        ErrorKind::Unavailable,
        "another account sees nobody"
    );
    bus.close(PATIENCE).await.unwrap();
}

/// A token that nobody renews: its end is told before it comes, and when it has come there is no hot loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_told_and_makes_no_hot_loop() {
    let lab = Lab::with_env(&["--jwt"], &[("AGENT_LAB_NATS_JWT_TTL", "20")]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a1.creds");
    std::fs::copy(lab.path("NATS_A1_CREDS"), &file).unwrap();
    let mut config = tls(&lab, "a1");
    config.inbox = "_INBOX_a1".into();
    config.credentials = Credentials::Creds { file };
    let mut config = NatsConfig::new(config, agent("a1"));
    config.queue = false;
    let bus = NatsBus::new(config);
    bus.open(Arc::new(Notes::default())).await.unwrap();
    assert_eq!(bus.state().link, Link::Up, "{:?}", bus.state());
    // An agent may not read what agents publish: the subscription is silent, and the bus is not.
    let reader = bus.subscribe("agent.out.a2.heartbeat", StartAt::Now).await;
    until("the violation is told", || bus.state().denied >= 1).await;
    drop(reader);
    until("the end of the token is told", || {
        bus.state()
            .last_error
            .is_some_and(|error| error.contains("expire"))
    })
    .await;
    until("the server refuses the old token", || bus.state().unauthorised).await;
    assert!(bus.state().connects <= 6, "no hot loop: {:?}", bus.state());
    bus.close(PATIENCE).await.unwrap();
}
