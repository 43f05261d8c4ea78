//! The audit log. Alone in its file: whether a line is written is remembered by the whole process, and other tests at the
//! same time would have it remembered as not.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod common;

use std::io::Write;
use std::sync::Arc;

use agent_api_bus_in::Access;
use common::{FakeAgent, answer, object, request, server};
use parking_lot::Mutex;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_change_is_in_the_audit_log_and_no_secret_is() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);

    let agent = Arc::new(FakeAgent::with(vec![
        object("web", "app", &[]),
        object("db", "app", &[]),
    ]));
    let server = server(&agent);
    let create = r#"{"kind":"process","name":"new","spec":{"command":["x"],"env":{"PASSWORD":"canary-1"}}}"#;
    for (verb, object, body) in [
        ("create", None, create),
        (
            "create",
            None,
            r#"{"kind":"process","name":"new","spec":["canary-2"]}"#,
        ),
        (
            "update",
            Some("web"),
            r#"{"merge":{"spec":{"env":{"TOKEN":"canary-3"}}}}"#,
        ),
        ("delete", None, r#"{"selector":"app=app"}"#),
        ("signal", Some("gone"), r#"{"signal":"HUP"}"#),
        (
            "exec",
            Some("web"),
            r#"{"command":["login","canary-4"],"stdin":"canary-5"}"#,
        ),
        (
            "call",
            Some("web"),
            r#"{"method":"rotate","arguments":{"key":"canary-6"}}"#,
        ),
        (
            "exec_input",
            None,
            r#"{"session":"canary-7","input":{"type":"stdin","data":"canary-8"}}"#,
        ),
        (
            "exec_input",
            None,
            r#"{"session":"gone","input":{"type":"stdin","data":"canary-9"}}"#,
        ),
        ("drain", None, ""),
        ("describe", Some("web"), ""),
        ("list", None, ""),
    ] {
        answer(&server, request(verb, object, body)).await;
    }
    let mut denied = request("delete", Some("web"), "");
    denied.access = Access::Read;
    denied.caller = "uid:7".into();
    answer(&server, denied).await;
    drop(guard);

    let log = String::from_utf8(captured.0.lock().clone()).unwrap();
    assert!(!log.contains("canary"), "{log}");
    insta::assert_snapshot!(log);
}
