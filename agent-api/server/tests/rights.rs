//! Verbs × access.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod common;

use std::sync::Arc;

use agent_api_bus_in::Access;
use agent_api_model::{ErrorKind, Verb};
use agent_api_server::access_needed;
use common::{FakeAgent, answer, object, request, server};

/// A body that each verb takes.
fn asked(verb: Verb) -> (Option<&'static str>, &'static str) {
    match verb {
        Verb::Create => (None, r#"{"kind":"process","name":"new"}"#),
        Verb::Update => (Some("web"), r#"{"merge":{"labels":{"a":"b"}}}"#),
        Verb::Signal => (Some("web"), r#"{"signal":"HUP"}"#),
        Verb::Scale => (Some("web"), r#"{"replicas":2}"#),
        Verb::Resize => (Some("web"), r#"{"resources":{"cpu":"500m"}}"#),
        Verb::Call => (Some("web"), r#"{"method":"rollback"}"#),
        Verb::ExecInput => (None, r#"{"session":"a","input":{"type":"close"}}"#),
        Verb::Exec => (Some("web"), r#"{"command":["true"]}"#),
        Verb::Plan => (None, r#"{"delete":{"object":"web"}}"#),
        Verb::Unmonitor => (None, r#"{"lease":"00000000-0000-0000-0000-000000000000"}"#),
        Verb::Schema => (None, r#"{"kind":"process"}"#),
        Verb::Delete
        | Verb::Pause
        | Verb::Resume
        | Verb::Restart
        | Verb::Describe
        | Verb::Explain
        | Verb::Logs => (Some("web"), ""),
        _ => (None, ""),
    }
}

#[tokio::test]
async fn each_verb_needs_what_it_does() {
    let agent = Arc::new(FakeAgent::with(vec![object("web", "web", &[])]));
    let server = server(&agent);
    let mut table = String::new();
    for verb in Verb::ALL {
        let mut row = format!("{verb:<10}");
        for access in [Access::None, Access::Read, Access::Full] {
            let (object, body) = asked(*verb);
            let mut incoming = request(verb.as_str(), object, body);
            incoming.access = access;
            let (error, _) = answer(&server, incoming).await;
            let done = agent.taken();
            let may = match error {
                None => "yes",
                Some(ErrorKind::Denied) => "no",
                Some(other) => panic!("{verb} with {access:?}: {other}"),
            };
            assert_eq!(
                may == "yes",
                access >= access_needed(*verb),
                "{verb} with {access:?}"
            );
            if may == "no" {
                assert!(
                    done.is_empty(),
                    "{verb} was refused and reached the agent: {done:?}"
                );
            }
            row.push_str(&format!(" {may:<4}"));
        }
        table.push_str(row.trim_end());
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

#[tokio::test]
async fn probes_need_a_right_too() {
    let agent = Arc::new(FakeAgent::default());
    let server = server(&agent);
    for verb in ["live", "ready", "metrics"] {
        let mut incoming = request(verb, None, "");
        incoming.access = Access::None;
        assert_eq!(
            answer(&server, incoming).await.0,
            Some(ErrorKind::Denied),
            "{verb}"
        );
        let mut incoming = request(verb, None, "");
        incoming.access = Access::Read;
        assert_ne!(
            answer(&server, incoming).await.0,
            Some(ErrorKind::Denied),
            "{verb}"
        );
    }
}
