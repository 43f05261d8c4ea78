//! Requests, as a client that is not ours sees them too.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn};
use agent_api_model::{ErrorKind, Kind, Timestamp};
use agent_bus_memory::suite::TestHandler;
use agent_bus_nats::{CallTarget, NatsBus, NatsConfig, Placement};
use futures_util::StreamExt;

use crate::lab::{Lab, Notes, PATIENCE, agent, answered, bus, caller, client, request};

/// A foreign client asks with a plain request and gets a plain reply; one that comes late is refused as expired, and
/// the handler never sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_request_is_refused_as_expired_and_a_plain_one_answered() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let notes = Arc::new(Notes::default());
    bus.open(notes.clone()).await.unwrap();
    let client = client(&lab).await;
    let plain = client.request("agent.in.a1.describe._", "".into()).await.unwrap();
    let headers = plain.headers.unwrap();
    assert_eq!(headers.get("agent-answer").unwrap().as_str(), "one");
    assert_eq!(headers.get("agent-last").unwrap().as_str(), "1");
    assert_eq!(notes.seen.lock().len(), 1);

    let mut late = async_nats::HeaderMap::new();
    let past = Timestamp::from_micros(Timestamp::now().as_micros() - 1_000_000);
    late.insert("agent-expires", past.to_string());
    late.insert("agent-request-id", "r-1");
    let refused = client
        .request_with_headers("agent.in.a1.create.process", late, "{}".into())
        .await
        .unwrap();
    assert_eq!(
        refused.headers.unwrap().get("agent-code").unwrap().as_str(),
        ErrorKind::Expired.as_str()
    );
    let reply: agent_api_model::Reply = serde_json::from_slice(&refused.payload).unwrap();
    assert_eq!(reply.id.unwrap().as_str(), "r-1");
    assert_eq!(notes.seen.lock().len(), 1, "it was not handled");
    bus.close(PATIENCE).await.unwrap();
    assert_eq!(bus.tasks(), 0, "all tasks are joined");
}

/// A request for any agent goes to one that takes the kind and has the labels; where none has them, the caller is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_any_agent_goes_to_one_that_fits() {
    let lab = Lab::up().await;
    let fitting = |id: &str, zone: &str| {
        let mut config = NatsConfig::new(lab.connect(id), agent(id));
        config.queue = false;
        config.placement = Some(Placement::new(
            vec![Kind::new("ray/job").unwrap()],
            [("zone".to_owned(), zone.to_owned())].into(),
        ));
        (NatsBus::new(config), Arc::new(Notes::default()))
    };
    let (west, west_notes) = fitting("a1", "west");
    let (east, east_notes) = fitting("a2", "east");
    west.open(west_notes.clone()).await.unwrap();
    east.open(east_notes.clone()).await.unwrap();
    let caller = caller(&lab).await;
    let create = |id: &str| {
        let mut create = request("create", id);
        create.payload = r#"{"kind":"ray/job","name":"j"}"#.into();
        create
    };
    let zone = |zone: &str| CallTarget::Any([("zone".to_owned(), zone.to_owned())].into());
    for n in 0..10 {
        answered(&caller.to(zone("east")), create(&format!("e{n}"))).await;
    }
    assert_eq!(east_notes.seen.lock().len(), 10);
    assert!(west_notes.seen.lock().is_empty());
    for n in 0..20 {
        answered(&caller.to(CallTarget::Any([].into())), create(&format!("any{n}"))).await;
    }
    assert_eq!(east_notes.seen.lock().len() + west_notes.seen.lock().len(), 30);
    for target in [zone("north"), CallTarget::Any([].into())] {
        let mut asked = create("none");
        if target == CallTarget::Any([].into()) {
            asked.payload = r#"{"kind":"process"}"#.into();
        }
        let error = caller.to(target).call(asked, PATIENCE).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    west.close(PATIENCE).await.unwrap();
    east.close(PATIENCE).await.unwrap();
}

/// A stream whose caller dies without a word is let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_caller_died_is_let_go() {
    let lab = Lab::up().await;
    let mut config = NatsConfig::new(lab.connect("agent a1"), agent("a1"));
    config.limits.keep_alive = Duration::from_millis(200);
    let bus = NatsBus::new(config);
    let handler = Arc::new(TestHandler::default());
    bus.open(handler.clone()).await.unwrap();
    // A foreign client that never gives credit.
    let client = client(&lab).await;
    let inbox = client.new_inbox();
    let mut pieces = client.subscribe(inbox.clone()).await.unwrap();
    client
        .publish_with_reply("agent.in.a1.tick._", inbox, "".into())
        .await
        .unwrap();
    assert!(pieces.next().await.is_some());
    crate::lab::until("the stream is dropped", || handler.under_way() == 0).await;
    bus.close(PATIENCE).await.unwrap();
}

/// Agents are found by the services protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_discovered() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    bus.open(Arc::new(Notes::default())).await.unwrap();
    let client = client(&lab).await;
    let pong = client.request("$SRV.PING.agent", "".into()).await.unwrap();
    let pong: serde_json::Value = serde_json::from_slice(&pong.payload).unwrap();
    assert_eq!(pong["metadata"]["agent"], "a1");
    assert_eq!(pong["type"], "io.nats.micro.v1.ping_response");
    bus.close(PATIENCE).await.unwrap();
    let gone = client.request("$SRV.PING.agent", "".into()).await;
    assert!(gone.is_err(), "a closed bus is not discovered");
}
