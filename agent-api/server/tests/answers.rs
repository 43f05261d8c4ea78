//! What is right with a request gets what it asked for.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{RequestHandler, Response};
use agent_api_model::{ErrorKind, Reply, ReplyBody};
use agent_api_server::{Server, ServerConfig};
use common::{FakeAgent, answer, object, request, server};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};

fn reply(value: &Value) -> Reply {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test]
async fn replies_bear_the_id_and_the_stage_times() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    let (error, value) = answer(&server, request("describe", Some("web"), "")).await;
    assert_eq!(error, None);
    let described = reply(&value);
    assert_eq!(described.id.unwrap().as_str(), "r-1");
    assert!(described.stages.validated_us.is_some());
    match described.ok {
        Some(ReplyBody::Description(description)) => assert_eq!(description.view.name.as_str(), "web"),
        other => panic!("{other:?}"),
    }
    let mut nameless = request("info", None, "");
    nameless.id = None;
    assert!(
        reply(&answer(&server, nameless).await.1).id.is_some(),
        "one is made"
    );
}

#[tokio::test]
async fn by_guid_or_by_name() {
    let web = object("web", "web", &[]);
    let guid = web.0.guid.to_string();
    let agent = Arc::new(FakeAgent::with(vec![web]));
    let server = server(&agent);
    assert_eq!(answer(&server, request("pause", Some(&guid), "")).await.0, None);
    assert_eq!(agent.taken(), ["pause web"]);
}

#[tokio::test]
async fn a_batch_is_taken_apart_in_the_order_of_dependence() {
    let agent = Arc::new(FakeAgent::with(vec![
        object("db", "shop", &[]),
        object("cache", "shop", &["db"]),
        object("web", "shop", &["cache", "db"]),
        object("other", "else", &["db"]),
    ]));
    let server = server(&agent);
    let (error, value) = answer(&server, request("delete", None, r#"{"selector":"app=shop"}"#)).await;
    assert_eq!(error, None);
    let deleted: Vec<_> = agent
        .taken()
        .into_iter()
        .filter(|asked| asked.starts_with("delete"))
        .collect();
    assert_eq!(deleted, ["delete web", "delete cache", "delete db"]);
    match reply(&value).ok {
        Some(ReplyBody::Batch(items)) => {
            let names: Vec<_> = items.iter().map(|item| item.name.as_str()).collect();
            assert_eq!(names, ["cache", "db", "web"]);
            assert!(
                items
                    .iter()
                    .all(|item| item.accepted.is_some() && item.error.is_none())
            );
        }
        other => panic!("{other:?}"),
    }
    let keys: std::collections::BTreeSet<_> = agent.keys.lock().drain(..).collect();
    assert_eq!(keys.len(), 3, "each object has a key of its own");
    answer(&server, request("delete", None, r#"{"selector":"app=shop"}"#)).await;
    let again: std::collections::BTreeSet<_> = agent.keys.lock().drain(..).collect();
    assert_eq!(keys, again, "and a repeat the same one");
}

#[tokio::test]
async fn a_method_is_called_with_its_arguments_on_one_or_many() {
    let agent = Arc::new(FakeAgent::with(vec![
        object("web", "shop", &[]),
        object("db", "shop", &[]),
        object("other", "else", &[]),
    ]));
    let server = server(&agent);
    let body = r#"{"method":"roll_back","arguments":{"revision":3}}"#;
    assert_eq!(answer(&server, request("call", Some("web"), body)).await.0, None);
    assert_eq!(agent.taken(), [r#"method roll_back {"revision":3}"#, "call web"]);
    let body = r#"{"method":"roll_back","selector":"app=shop"}"#;
    assert_eq!(answer(&server, request("call", None, body)).await.0, None);
    let called: Vec<_> = agent
        .taken()
        .into_iter()
        .filter(|asked| asked.starts_with("call"))
        .collect();
    assert_eq!(called.len(), 2, "{called:?}");
}

#[tokio::test]
async fn an_exec_and_its_input_bear_the_caller() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    let body = r#"{"command":["sh"],"interactive":true,"terminal":{"columns":80,"rows":24}}"#;
    assert_eq!(answer(&server, request("exec", Some("web"), body)).await.0, None);
    let body = r#"{"session":"a","input":{"type":"stdin","data":"aGkK"}}"#;
    let (error, value) = answer(&server, request("exec_input", None, body)).await;
    assert_eq!((error, reply(&value).ok), (None, Some(ReplyBody::Done)));
    assert_eq!(
        agent.taken(),
        [
            "exec by uid:1000",
            r#"exec_input Stdin { data: "aGkK" } by uid:1000"#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_asks_for_some_at_once() {
    let objects = (0..100).map(|n| object(&format!("o{n}"), "many", &[])).collect();
    let agent = Arc::new(FakeAgent {
        slow: Some(Duration::from_secs(1)),
        ..FakeAgent::with(objects)
    });
    let config = ServerConfig {
        batch_concurrency: 10,
        ..ServerConfig::default()
    };
    let server = Server::new(agent.clone(), config);
    let begun = tokio::time::Instant::now();
    answer(
        &server,
        request("restart", None, r#"{"selector":"app=many","grace":"1s"}"#),
    )
    .await;
    assert_eq!(agent.keys.lock().len(), 100);
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn streams_end_with_their_error() {
    let agent = Arc::new(FakeAgent::default());
    let server = server(&agent);
    let (_, frames) = answer(&server, request("watch", None, "")).await;
    let frames = frames.as_array().unwrap();
    assert_eq!(frames.len(), 2, "nothing follows the error");
    assert_eq!(frames[0], json!({"type": "synced"}));
    assert_eq!(frames[1]["error"]["code"], "unavailable");
}

#[tokio::test]
async fn streams_and_requests_have_places() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let config = ServerConfig {
        streams: 1,
        ..ServerConfig::default()
    };
    let server = Server::new(agent, config);
    let first = server.handle(request("logs", Some("web"), "")).await;
    let Response::Stream(mut frames) = first else {
        panic!("a stream was expected")
    };
    assert_eq!(server.state().streams, 1);
    let second = answer(&server, request("logs", Some("web"), "")).await;
    assert_eq!(second.0, Some(ErrorKind::Busy));
    assert!(frames.next().now_or_never().is_none());
    drop(frames);
    assert_eq!(server.state().streams, 0);
    let third = server.handle(request("logs", Some("web"), "")).await;
    assert!(matches!(third, Response::Stream(_)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back() {
    let agent = Arc::new(FakeAgent::default());
    let config = ServerConfig {
        rate: 5,
        ..ServerConfig::default()
    };
    let server = Server::new(agent, config);
    for _ in 0..5 {
        assert_eq!(answer(&server, request("info", None, "")).await.0, None);
    }
    let (error, value) = answer(&server, request("info", None, "")).await;
    assert_eq!(error, Some(ErrorKind::Busy));
    assert!(value["error"]["retry_after_ms"].is_u64());
    assert_eq!(
        answer(&server, request("health", None, "")).await.0,
        None,
        "health is always told"
    );
    let mut other = request("info", None, "");
    other.caller = "uid:2".into();
    assert_eq!(answer(&server, other).await.0, None);
    assert_eq!(server.state().busy, 1);
}

#[tokio::test]
async fn probes_say_whether_it_is_ready() {
    let agent = Arc::new(FakeAgent {
        not_ready: true,
        ..FakeAgent::default()
    });
    let config = ServerConfig {
        metrics: Some(Arc::new(|| "up 1\n".into())),
        ..ServerConfig::default()
    };
    let server = Server::new(agent, config);
    let (error, value) = answer(&server, request("ready", None, "")).await;
    assert_eq!(error, Some(ErrorKind::Unavailable));
    assert_eq!(
        value["error"]["message"],
        "the agent is not ready: recovery is under way"
    );
    assert_eq!(answer(&server, request("live", None, "")).await.0, None);
    assert_eq!(
        answer(&server, request("metrics", None, "")).await.1,
        json!("up 1\n")
    );
}

#[tokio::test]
async fn the_address_names_the_object_of_watch_and_monitor() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    assert_eq!(answer(&server, request("monitor", Some("web"), "")).await.0, None);
    let twice = answer(&server, request("monitor", Some("web"), r#"{"object":"db"}"#)).await;
    assert_eq!(twice.0, Some(ErrorKind::Invalid));
    let (_, reloaded) = answer(&server, request("reload", None, "")).await;
    assert_eq!(reloaded["ok"]["data"], json!(["log level: info to debug"]));
}
