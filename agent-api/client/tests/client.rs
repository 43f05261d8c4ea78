//! The client against a bus whose other end is scripted.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn, Incoming, RequestHandler, Response};
use agent_api_bus_out::{BusOut, Message, StartAt};
use agent_api_client::{Client, ClientConfig, Until};
use agent_api_model::*;
use agent_bus_memory::MemoryBus;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Answers with what it was given, in order, and notes what it was asked.
#[derive(Default)]
struct Script {
    answers: Mutex<Vec<Answer>>,
    asked: Mutex<Vec<Incoming>>,
}

enum Answer {
    Reply(Result<ReplyBody>),
    Frames(Vec<Bytes>),
    /// Nobody answers.
    Silence,
}

#[async_trait]
impl RequestHandler for Script {
    async fn handle(&self, incoming: Incoming) -> Response {
        self.asked.lock().push(incoming);
        let answer = self.answers.lock().remove(0);
        match answer {
            Answer::Silence => std::future::pending().await,
            Answer::Frames(frames) => Response::Stream(Box::pin(futures_util::stream::iter(frames))),
            Answer::Reply(result) => {
                let kind = result.as_ref().err().map(Error::kind);
                let (ok, error) = match result {
                    Ok(body) => (Some(body), None),
                    Err(error) => (None, Some(error)),
                };
                let reply = Reply {
                    id: None,
                    ok,
                    error,
                    stages: StageTimes::default(),
                };
                Response::One {
                    error: kind,
                    body: serde_json::to_vec(&reply).unwrap().into(),
                }
            }
        }
    }
}

async fn scripted(answers: Vec<Answer>) -> (Client, Arc<Script>, Arc<MemoryBus>) {
    let bus = Arc::new(MemoryBus::default());
    let script = Arc::new(Script {
        answers: Mutex::new(answers),
        asked: Mutex::default(),
    });
    bus.open(script.clone()).await.unwrap();
    (Client::new(bus.clone(), Some(bus.clone())), script, bus)
}

fn accepted() -> Accepted {
    Accepted {
        guid: Guid::generate(),
        name: "web".parse().unwrap(),
        generation: 1,
        op_id: OpId::generate(),
        repeated: false,
    }
}

fn ok(body: ReplyBody) -> Answer {
    Answer::Reply(Ok(body))
}

fn refused(kind: ErrorKind) -> Answer {
    Answer::Reply(Err(Error::new(kind, "no")))
}

fn spec() -> ObjectSpec {
    ObjectSpec::new("process".parse().unwrap(), "web".parse().unwrap())
}

fn web() -> Target {
    "web".parse().unwrap()
}

fn changed(phase: &str, generation: u64) -> Bytes {
    let view = json!({
        "guid": "00000000-0000-0000-0000-000000000001", "name": "web", "kind": "process", "phase": phase,
        "since": "2026-01-01T00:00:00Z", "created": "2026-01-01T00:00:00Z",
        "generation": 2, "observed_generation": generation,
        "evidence": {"source": "event", "at": "2026-01-01T00:00:00Z", "revision": 1},
    });
    json!({"type": "changed", "data": view}).to_string().into()
}

#[tokio::test(start_paused = true)]
async fn what_may_work_later_is_sent_again_with_the_same_id() {
    let answer = accepted();
    let (client, script, _) = scripted(vec![
        refused(ErrorKind::Busy),
        refused(ErrorKind::Unavailable),
        Answer::Silence,
        ok(ReplyBody::Accepted(answer.clone())),
    ])
    .await;
    assert_eq!(client.create(&spec()).await.unwrap(), answer);
    let asked = script.asked.lock();
    assert_eq!(asked.len(), 4);
    assert!(asked[0].id.is_some() && asked[0].deadline.is_some());
    for request in asked.iter() {
        assert_eq!((&request.id, &request.payload), (&asked[0].id, &asked[0].payload));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_not_sent_again() {
    for kind in [
        ErrorKind::Invalid,
        ErrorKind::Conflict,
        ErrorKind::Denied,
        ErrorKind::Expired,
    ] {
        let (client, script, _) = scripted(vec![refused(kind)]).await;
        assert_eq!(client.create(&spec()).await.unwrap_err().kind(), kind);
        assert_eq!(script.asked.lock().len(), 1);
    }
    let (client, script, _) = scripted(vec![Answer::Silence]).await;
    let request = ExecRequest {
        command: vec!["true".into()],
        env: Default::default(),
        stdin: None,
        interactive: true,
        terminal: None,
        timeout: Duration::from_secs(1),
    };
    let error = client.exec(&web(), &request).await.err().unwrap();
    assert_eq!(
        (error.kind(), script.asked.lock().len()),
        (ErrorKind::Timeout, 1),
        "it may have run"
    );
    let input = ExecInputRequest {
        session: "a".into(),
        input: ExecInput::Close {},
    };
    let (client, script, _) = scripted(vec![Answer::Silence]).await;
    let error = client.exec_input(&input).await.err().unwrap();
    assert_eq!(
        (error.kind(), script.asked.lock().len()),
        (ErrorKind::Timeout, 1),
        "it may have been taken in"
    );
    let (client, script, _) = scripted(vec![refused(ErrorKind::Busy), ok(ReplyBody::Done)]).await;
    client.exec_input(&input).await.unwrap();
    assert_eq!(
        script.asked.lock().len(),
        2,
        "nothing was taken in the first time"
    );
}

#[tokio::test(start_paused = true)]
async fn repeats_end_at_the_deadline() {
    let answers = (0..200).map(|_| refused(ErrorKind::Busy)).collect();
    let (client, script, _) = scripted(answers).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(client.info().await.unwrap_err().kind(), ErrorKind::Busy);
    assert!(begun.elapsed() <= client.config().deadline);
    assert!(
        (10..100).contains(&script.asked.lock().len()),
        "with growing pauses"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_said_at_once_unless_one_waits() {
    struct Nobody(Mutex<usize>);
    #[async_trait]
    impl BusCaller for Nobody {
        async fn call(&self, _: Incoming, _: Duration) -> Result<Response> {
            *self.0.lock() += 1;
            Err(Error::new(ErrorKind::Unavailable, "no agent is running").with_retry(Retry::Never))
        }
    }
    let nobody = Arc::new(Nobody(Mutex::new(0)));
    let client = Client::new(nobody.clone(), None);
    assert!(client.info().await.is_err());
    assert_eq!(*nobody.0.lock(), 1);
    let client = client.with_config(ClientConfig {
        wait_for_agent: true,
        ..ClientConfig::default()
    });
    assert!(client.info().await.is_err());
    assert!(*nobody.0.lock() > 10);
    assert_eq!(
        client.events(StartAt::Now).await.err().unwrap().kind(),
        ErrorKind::Unsupported
    );
}

#[tokio::test]
async fn apply_creates_or_replaces() {
    let (client, script, _) = scripted(vec![
        refused(ErrorKind::AlreadyExists),
        ok(ReplyBody::Accepted(accepted())),
    ])
    .await;
    assert!(!client.apply(&spec()).await.unwrap().created);
    let asked = script.asked.lock();
    assert_eq!(
        (asked[1].verb.as_str(), asked[1].object.as_deref()),
        ("update", Some("web"))
    );
    let body: Value = serde_json::from_slice(&asked[1].payload).unwrap();
    assert_eq!(body, json!({"replace": {"kind": "process", "name": "web"}}));
}

#[tokio::test]
async fn control_verbs_have_the_bodies_of_the_wire() {
    let done = || ok(ReplyBody::Accepted(accepted()));
    let batch = || ok(ReplyBody::Batch(Vec::new()));
    let (client, script, _) = scripted(vec![done(), done(), batch(), batch()]).await;
    let signal = ControlAction::Signal { signal: "HUP".into() };
    let grace = ControlAction::Restart {
        grace: Some(Duration::from_secs(5)),
    };
    let selector: Selector = "app=web".parse().unwrap();
    client.control(&web(), &signal).await.unwrap();
    client.control(&web(), &ControlAction::Pause {}).await.unwrap();
    client.control_selected(&selector, &grace).await.unwrap();
    client
        .delete_selected(&selector, &DeleteRequest::default())
        .await
        .unwrap();
    let bodies: Vec<_> = script
        .asked
        .lock()
        .iter()
        .map(|asked| {
            (
                asked.verb.clone(),
                serde_json::from_slice::<Value>(&asked.payload).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        bodies,
        [
            ("signal".to_owned(), json!({"signal": "HUP"})),
            ("pause".to_owned(), json!({})),
            (
                "restart".to_owned(),
                json!({"grace": "5s", "selector": "app=web"})
            ),
            (
                "delete".to_owned(),
                json!({"orphan": false, "cascade": false, "selector": "app=web"})
            ),
        ]
    );
}

#[tokio::test]
async fn an_answer_to_something_else_is_an_error() {
    let (client, _, _) = scripted(vec![ok(ReplyBody::Done), Answer::Frames(Vec::new())]).await;
    assert_eq!(client.info().await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(client.info().await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test(start_paused = true)]
async fn waits_until_the_new_spec_runs() {
    let (client, _, _) = scripted(vec![
        Answer::Frames(vec![changed("Running", 1), changed("Updating", 1)]),
        // The agent went away, and is back.
        Answer::Frames(vec![Error::new(ErrorKind::Unavailable, "stopping").to_frame()]),
        Answer::Frames(vec!["\n".into(), changed("Running", 2)]),
    ])
    .await;
    let view = client
        .wait_for(&web(), Until::Running, Duration::from_secs(10))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((view.phase, view.observed_generation), (Phase::Running, 2));
}

#[tokio::test(start_paused = true)]
async fn waits_no_longer_than_it_makes_sense() {
    let failed = Answer::Frames(vec![changed("Failed", 2)]);
    let (client, _, _) = scripted(vec![failed]).await;
    let error = client
        .wait_for(&web(), Until::Running, Duration::from_secs(10))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().contains("Failed") && error.to_string().contains("agent explain web"),
        "{error}"
    );

    let pending: Vec<_> = (0..200)
        .map(|_| Answer::Frames(vec![changed("Pending", 0)]))
        .collect();
    let (client, _, _) = scripted(pending).await;
    let error = client
        .wait_for(&web(), Until::Running, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("it is Pending"), "{error}");
}

#[tokio::test]
async fn gone_is_gone() {
    let deleted = json!({"type": "deleted", "data": {"guid": Guid::generate(), "name": "web"}}).to_string();
    let (client, _, _) = scripted(vec![
        Answer::Frames(vec![changed("Deleting", 2), deleted.into()]),
        refused(ErrorKind::NotFound),
        refused(ErrorKind::NotFound),
    ])
    .await;
    let wait = async |until| client.wait_for(&web(), until, Duration::from_secs(10)).await;
    assert_eq!(wait(Until::Gone).await, Ok(None));
    assert_eq!(wait(Until::Gone).await, Ok(None));
    assert_eq!(
        wait(Until::Running).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn events_are_those_of_objects() {
    let (client, _, bus) = scripted(Vec::new()).await;
    let mut events = client.events(StartAt::Now).await.unwrap();
    let event = LifecycleEvent {
        kind: LifecycleKind::Created,
        guid: Guid::generate(),
        name: "web".parse().unwrap(),
        object_kind: "process".parse().unwrap(),
        generation: 1,
        transition: Transition {
            at: Timestamp::EPOCH,
            from: None,
            to: Some(Phase::Pending),
            cause: Cause::Dependency {
                name: "db".parse().unwrap(),
                met: None,
            },
        },
        sequence: 1,
    };
    let message = |topic: &str| Message {
        topic: Topic::new(topic).unwrap(),
        envelope: Envelope {
            id: "1".into(),
            source: "/agents/a1".into(),
            event_type: "agent.object.created".into(),
            subject: None,
            time: Timestamp::EPOCH,
            content_type: Envelope::JSON,
            traceparent: None,
            data: serde_json::to_vec(&event).unwrap().into(),
        },
    };
    let published = [message("agent.out.a1.heartbeat"), message("agent.out.a1.status")];
    BusOut::publish(&*bus, &published).await.unwrap();
    let got = events.next().await.unwrap().unwrap();
    assert_eq!((got.event, got.missed), (event, 0));
}
