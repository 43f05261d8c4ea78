//! The channel protocol of exec over a WebSocket: `v5.channel.k8s.io`, and `v4.channel.k8s.io` of servers before 1.30.
//!
//! Each message is binary; its first byte names the channel.

use agent_api_driver::model::{Error, ErrorKind, ExitStatus, TerminalSize};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the channel in the second byte has ended.
const CLOSE: u8 = 255;

/// What comes from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Stdout(Bytes),
    Stderr(Bytes),
    /// How it ended; what went wrong where it never ran.
    Status(Status),
    /// Nothing of interest: the empty message of each channel at the start, and channels that only we write to.
    Nothing,
}

/// The end of a command as the status channel tells it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It ran and ended.
    Exit(i32),
    /// It did not run, or its end is not known.
    Failed(String),
}

pub(super) fn parse(message: &Bytes) -> Incoming {
    match message.first() {
        Some(_) if message.len() == 1 => Incoming::Nothing,
        Some(&STDOUT) => Incoming::Stdout(message.slice(1..)),
        Some(&STDERR) => Incoming::Stderr(message.slice(1..)),
        Some(&STATUS) => Incoming::Status(status(&message[1..])),
        _ => Incoming::Nothing,
    }
}

#[derive(Deserialize)]
struct StatusObject {
    status: Option<String>,
    #[serde(default)]
    message: String,
    reason: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

fn status(json: &[u8]) -> Status {
    let object: StatusObject = match serde_json::from_slice(json) {
        Ok(object) => object,
        Err(e) => return Status::Failed(format!("the server's status cannot be read: {e}")),
    };
    if object.status.as_deref() == Some("Success") {
        return Status::Exit(0);
    }
    let code = (object.reason.as_deref() == Some("NonZeroExitCode"))
        .then(|| {
            let causes = object.details.as_ref().map_or(&[][..], |d| &d.causes);
            causes
                .iter()
                .find(|c| c.reason == "ExitCode")?
                .message
                .parse()
                .ok()
        })
        .flatten();
    code.map_or(Status::Failed(object.message), Status::Exit)
}

/// The end as the contract has it. Kubernetes does not tell a signal from a code: 137 stands for both.
pub(super) fn exit_status(code: i32) -> ExitStatus {
    ExitStatus::with_code(code)
}

/// Why a program was not started.
pub(super) fn not_started(message: &str) -> Error {
    let missing = message.contains("executable file not found")
        || message.contains("no such file or directory")
        || message.contains("not a directory");
    let denied = message.contains("permission denied");
    let error = match (missing, denied) {
        (true, _) => Error::new(ErrorKind::NotFound, "there is no such program in the container"),
        (_, true) => Error::new(ErrorKind::Denied, "the program in the container may not be run"),
        _ => {
            return Error::new(ErrorKind::Unavailable, "the command could not be run")
                .with_context("server", message);
        }
    };
    error.with_path("command").with_context("server", message)
}

/// Whether it was the program of this name that is not there.
pub(super) fn is_missing(message: &str, program: &str) -> bool {
    let missing =
        message.contains("executable file not found") || message.contains("no such file or directory");
    missing && message.contains(&format!("\"{program}\""))
}

fn message(channel: u8, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(content.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(content);
    bytes.freeze()
}

pub(super) fn stdin(content: &[u8]) -> Bytes {
    message(STDIN, content)
}

/// v5: standard input has ended.
pub(super) fn close_stdin() -> Bytes {
    message(CLOSE, &[STDIN])
}

pub(super) fn resize(size: TerminalSize) -> Bytes {
    message(
        RESIZE,
        json!({"Width": size.columns, "Height": size.rows})
            .to_string()
            .as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(channel: u8, text: &str) -> Bytes {
        message(channel, text.as_bytes())
    }

    #[test]
    fn messages_of_the_server() {
        // As a 1.20 server sends them.
        let failure = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let missing = r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: failed to exec in container: failed to start exec \"63dc\": OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH: unknown","reason":"InternalError","details":{"causes":[{"message":"x"}]},"code":500}"#;
        assert_eq!(parse(&bytes(1, "")), Incoming::Nothing);
        assert_eq!(parse(&Bytes::new()), Incoming::Nothing);
        assert_eq!(parse(&bytes(1, "a")), Incoming::Stdout("a".into()));
        assert_eq!(parse(&bytes(2, "b")), Incoming::Stderr("b".into()));
        assert_eq!(parse(&bytes(0, "b")), Incoming::Nothing);
        assert_eq!(
            parse(&bytes(3, r#"{"metadata":{},"status":"Success"}"#)),
            Incoming::Status(Status::Exit(0))
        );
        assert_eq!(parse(&bytes(3, failure)), Incoming::Status(Status::Exit(3)));
        let Incoming::Status(Status::Failed(message)) = parse(&bytes(3, missing)) else {
            panic!("a command that is not there has no exit code");
        };
        assert!(
            is_missing(&message, "nosuch") && !is_missing(&message, "sh"),
            "{message}"
        );
        let error = not_started(&message);
        assert_eq!(
            (error.kind(), error.path()),
            (ErrorKind::NotFound, Some("command"))
        );
        assert!(matches!(
            parse(&bytes(3, "nonsense")),
            Incoming::Status(Status::Failed(_))
        ));
    }

    #[test]
    fn messages_to_the_server() {
        assert_eq!(&stdin(b"x")[..], b"\0x");
        assert_eq!(&close_stdin()[..], b"\xff\0");
        let size = resize(TerminalSize {
            columns: 80,
            rows: 24,
        });
        assert_eq!(&size[..], b"\x04{\"Height\":24,\"Width\":80}");
    }
}
