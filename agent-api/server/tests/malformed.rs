//! What is wrong with a request is said in words, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod common;

use std::sync::Arc;

use agent_api_bus_in::{Access, Incoming, RequestHandler, Response};
use agent_api_model::{Reply, Verb};
use bytes::Bytes;
use common::{FakeAgent, answer, object, request, sentence, server};
use proptest::prelude::*;

#[tokio::test]
async fn errors_say_what_where_and_what_to_do() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    let deep = format!(
        r#"{{"kind":"process","name":"a","spec":{}{}}}"#,
        r#"{"a":"#.repeat(80),
        "1}".repeat(80)
    );
    let large = format!(
        r#"{{"method":"rollback","arguments":{{"a":"{}"}}}}"#,
        "x".repeat(70_000)
    );
    let mut lines = String::new();
    for (verb, object, body) in [
        ("creat", None, "{}"),
        ("kaboom", None, "{}"),
        ("", None, ""),
        ("create", None, ""),
        ("create", None, "{"),
        ("create", None, "[]"),
        ("create", None, "\u{1b}[31m"),
        ("create", None, r#"{"kind":"process"}"#),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","restrt":"always"}"#,
        ),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","restart":"sometimes"}"#,
        ),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","restart":{"backof":{}}}"#,
        ),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","resources":{"memory":"lots"}}"#,
        ),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","resources":{"cpus":2}}"#,
        ),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","depends_on":[{"name":"b"},{"name":7}]}"#,
        ),
        ("create", None, r#"{"kind":"process","name":"../../etc/passwd"}"#),
        ("create", None, r#"{"kind":"process","name":"Web One"}"#),
        (
            "create",
            None,
            r#"{"kind":"process","name":"a","labels":{"a b":"c"}}"#,
        ),
        ("create", None, r#"{"kind":"process","name":"a"} trailing"#),
        ("create", None, &deep),
        ("create", Some("web"), r#"{"kind":"process","name":"a"}"#),
        ("describe", None, ""),
        ("describe", Some("gone"), ""),
        ("describe", Some("a/b"), ""),
        ("describe", Some("web"), r#"{"verbose":true}"#),
        ("update", Some("web"), "{}"),
        ("update", Some("web"), r#"{"merge":7}"#),
        (
            "update",
            Some("web"),
            r#"{"replace":{"kind":"process","name":"web","labls":{}}}"#,
        ),
        ("delete", None, "{}"),
        ("delete", Some("web"), r#"{"selector":"app=web"}"#),
        ("delete", Some("web"), r#"{"grace":5}"#),
        ("delete", Some("web"), r#"{"grace":"5"}"#),
        ("delete", None, r#"{"selector":"a b"}"#),
        ("signal", Some("web"), "{}"),
        ("signal", Some("web"), r#"{"signal":"HUP; rm -rf /"}"#),
        ("scale", Some("web"), r#"{"replicas":-1}"#),
        ("resize", Some("web"), r#"{"resources":{}}"#),
        ("call", Some("web"), "{}"),
        ("call", None, r#"{"method":"rollback"}"#),
        ("call", Some("web"), r#"{"method":"Roll Back"}"#),
        ("call", Some("web"), r#"{"method":"_x"}"#),
        ("call", Some("web"), r#"{"method":"rollback","arguments":[1]}"#),
        ("call", Some("web"), r#"{"method":"rollback","argument":{}}"#),
        (
            "call",
            Some("web"),
            r#"{"method":"rollback","selector":"app=web"}"#,
        ),
        ("call", Some("web"), &large),
        ("exec", Some("web"), r#"{"command":[]}"#),
        (
            "exec",
            Some("web"),
            r#"{"command":["a"],"terminal":{"columns":0,"rows":24}}"#,
        ),
        (
            "exec",
            Some("web"),
            r#"{"command":["a"],"terminal":{"columns":80,"rows":100000}}"#,
        ),
        ("exec_input", None, "{}"),
        ("exec_input", None, r#"{"session":"a","input":{"type":"stdout"}}"#),
        (
            "exec_input",
            None,
            r#"{"session":"a","input":{"type":"resize","size":{"columns":80,"rows":0}}}"#,
        ),
        (
            "exec_input",
            Some("web"),
            r#"{"session":"a","input":{"type":"close"}}"#,
        ),
        (
            "exec_input",
            None,
            r#"{"session":"gone","input":{"type":"close"}}"#,
        ),
        ("logs", Some("web"), r#"{"streams":["stdou"]}"#),
        ("schema", None, r#"{"kind":"proces"}"#),
        ("monitor", None, r#"{"signals":["metric"]}"#),
        ("unmonitor", None, r#"{"lease":"x"}"#),
        ("plan", None, r#"{"aply":{}}"#),
        ("info", Some("web"), ""),
        ("metrics", None, ""),
    ] {
        let shown: String = body.chars().take(90).collect();
        let line = sentence(&server, request(verb, object, body)).await;
        lines.push_str(&format!(
            "{verb} {} {shown:?}\n    {line}\n",
            object.unwrap_or("-")
        ));
    }
    insta::assert_snapshot!(lines);
    assert_eq!(agent.taken(), ["schema"], "nothing else reached the agent");
}

#[tokio::test]
async fn heads_are_checked() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    let with = |change: fn(&mut Incoming)| {
        let mut incoming = request("pause", Some("web"), "");
        change(&mut incoming);
        incoming
    };
    let mut lines = String::new();
    for incoming in [
        with(|incoming| incoming.id = Some("two words".into())),
        with(|incoming| incoming.id = Some(String::new())),
        with(|incoming| incoming.idempotency_key = Some("x".repeat(200))),
        with(|incoming| incoming.deadline = Some("tomorrow".into())),
        with(|incoming| incoming.deadline = Some("2020-01-01T00:00:00Z".into())),
    ] {
        lines.push_str(&sentence(&server, incoming).await);
        lines.push('\n');
    }
    insta::assert_snapshot!(lines);
    assert!(agent.taken().is_empty());
    let late = with(|incoming| incoming.deadline = Some("2999-01-01T00:00:00Z".into()));
    assert_eq!(sentence(&server, late).await, "fine");
}

#[tokio::test]
async fn ten_megabytes_are_refused() {
    let agent = Arc::new(FakeAgent::default());
    let server = server(&agent);
    let body = format!(r#"{{"kind":"process","name":"{}"}}"#, "a".repeat(10 << 20));
    let line = sentence(&server, request("create", None, &body)).await;
    assert_eq!(line, "invalid: the body has 10485788 bytes; the limit is 1048576");
    assert!(agent.taken().is_empty());
}

fn any_request() -> impl Strategy<Value = Incoming> {
    let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str().to_owned()).collect();
    let verb = prop_oneof![9 => proptest::sample::select(verbs), 1 => ".*"];
    let words = proptest::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "null",
        "true",
        "1",
        "-1",
        "1e999",
        "\"a\"",
        "\"kind\"",
        "\"process\"",
        "\"name\"",
        "\"spec\"",
        "\"selector\"",
        "\"app=web\"",
        "\"merge\"",
        "\"replace\"",
        "\"grace\"",
        "\"5s\"",
        "\"restart\"",
        "\"health\"",
        "\"exec\"",
        "\"\\ud800\"",
        "\u{0}",
    ]);
    let text = proptest::collection::vec(words, 0..40).prop_map(|words| words.concat().into_bytes());
    let body = prop_oneof![text, proptest::collection::vec(any::<u8>(), 0..200)];
    let maybe = || proptest::option::of(prop_oneof!["[a-z]{1,5}", ".*"]);
    (verb, maybe(), maybe(), maybe(), body).prop_map(|(verb, object, id, deadline, payload)| Incoming {
        verb,
        object,
        id,
        deadline,
        caller: "uid:1".into(),
        access: Access::Full,
        payload: Bytes::from(payload),
        ..Incoming::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is asked: an answer that can be read, and no panic.
    #[test]
    fn anything_is_answered(incoming in any_request()) {
        let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
        let server = server(&agent);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            match server.handle(incoming).await {
                Response::One { body, error } => {
                    let reply: Reply = serde_json::from_slice(&body).unwrap();
                    assert_eq!(reply.error.map(|error| error.kind()), error);
                    assert_ne!(error, Some(agent_api_model::ErrorKind::Internal));
                }
                Response::Stream(_) | Response::Text { .. } => {}
            }
        });
    }
}

#[tokio::test]
async fn a_fault_of_the_agent_fails_one_request() {
    let agent = Arc::new(FakeAgent {
        panics: true,
        ..FakeAgent::with(vec![object("web", "web", &[])])
    });
    let server = server(&agent);
    let line = sentence(&server, request("pause", Some("web"), "")).await;
    assert!(line.starts_with("internal: a fault of the agent"), "{line}");
    assert_eq!(
        answer(&server, request("describe", Some("web"), "")).await.0,
        None
    );
    assert_eq!(server.state().requests, 0, "its place was given back");
}
