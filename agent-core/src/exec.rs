//! Commands in an object's context: a driver's output as frames, a session for those that take more input.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use agent_api::agent::ResultStream;
use agent_api::driver::{self, ExecInput, ExecOutput, InputStream};
use agent_api::model::{
    Error, ErrorKind, ExecFrame, ExecRequest, ObjectName, Result, Target, Verb, format_duration,
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::sessions::Session;
use crate::shared::Shared;
use crate::stream::{find, guard_stream, open};
use crate::submit::unsupported;

/// The most that a command can be given to read at once, in bytes.
const MAX_STDIN: usize = 1 << 20;
/// The longest timeout: 30 days.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long after the timeout a driver may take to end a command.
const GRACE: Duration = Duration::from_secs(5);

/// Does what [`AgentApi::exec`](agent_api::agent::AgentApi::exec) promises.
pub(crate) async fn exec(
    shared: &Shared,
    caller: &str,
    target: &Target,
    request: &ExecRequest,
) -> Result<ResultStream<ExecFrame>> {
    check(request)?;
    let found = find(shared, target)?;
    let exec = found
        .driver()
        .exec()
        .ok_or_else(|| unsupported(Verb::Exec, &found.view, found.entry))?;
    if request.terminal.is_some() && !found.entry.capabilities.terminal {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "a command in an object of kind {} cannot be given a terminal",
                found.view.kind
            ),
        )
        .with_path("terminal")
        .with_object(&found.view.name)
        .with_hint("run it without a terminal"));
    }
    let run = driver::ExecRequest {
        command: request.command.clone(),
        env: request.env.clone(),
        timeout: request.timeout,
        terminal: request.terminal,
    };
    let at_once = request
        .stdin
        .clone()
        .map(|text| ExecInput::Stdin(text.into_bytes().into()));
    let at_once = stream::iter(at_once);
    let (session, input): (_, InputStream) = if request.interactive {
        let (session, receiver) = shared
            .sessions
            .open(caller)
            .map_err(|error| error.with_object(&found.view.name))?;
        let later = stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        (Some(session), Box::pin(at_once.chain(later)))
    } else {
        (None, Box::pin(at_once))
    };
    let until = Instant::now() + request.timeout + GRACE;
    let output = open(&found, "exec", exec.exec(found.target(), run, input)).await?;
    let first = session.as_ref().map(|session| ExecFrame::Session {
        session: session.id.clone(),
    });
    let frames = Frames {
        object: found.view.name.clone(),
        timeout: request.timeout,
        until,
        output: Some(guard_stream(found.entry.name.clone(), "exec", output, |item| {
            item
        })),
        stdout: Text::default(),
        stderr: Text::default(),
        ready: first.into_iter().map(Ok).collect(),
        session,
    };
    Ok(Box::pin(stream::unfold(frames, async |mut frames| {
        let frame = frames.next().await?;
        Some((frame, frames))
    })))
}

fn check(request: &ExecRequest) -> Result<()> {
    if request.command.is_empty() {
        return Err(Error::invalid("command", "must not be empty"));
    }
    if request
        .stdin
        .as_ref()
        .is_some_and(|stdin| stdin.len() > MAX_STDIN)
    {
        return Err(Error::invalid("stdin", "must not be longer than 1 MiB"));
    }
    if request.timeout.is_zero() {
        return Err(Error::invalid("timeout", "must be more than 0s"));
    }
    if request.timeout > MAX_TIMEOUT {
        return Err(Error::invalid("timeout", "must not be more than 720h"));
    }
    Ok(())
}

/// The frames of one command.
struct Frames {
    object: ObjectName,
    timeout: Duration,
    /// Where the driver does not end it, this does.
    until: Instant,
    output: Option<ResultStream<ExecOutput>>,
    stdout: Text,
    stderr: Text,
    ready: VecDeque<Result<ExecFrame>>,
    session: Option<Session>,
}

impl Frames {
    async fn next(&mut self) -> Option<Result<ExecFrame>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let output = self.output.as_mut()?;
            let item = timeout_at(self.until, output.next()).await;
            match item {
                Ok(Some(Ok(ExecOutput::Stdout(bytes)))) => {
                    let text = self.stdout.take(&bytes);
                    self.ready.extend(stdout(text));
                }
                Ok(Some(Ok(ExecOutput::Stderr(bytes)))) => {
                    let text = self.stderr.take(&bytes);
                    self.ready.extend(stderr(text));
                }
                Ok(Some(Ok(ExecOutput::Exit(status)))) => {
                    self.end();
                    self.ready.push_back(Ok(ExecFrame::Exit { status }));
                }
                Ok(None) => self.end(),
                Ok(Some(Err(error))) => {
                    self.end();
                    self.ready.push_back(Err(error));
                }
                Err(_) => {
                    self.end();
                    let error = Error::new(
                        ErrorKind::Timeout,
                        format!("the command did not end in {}", format_duration(self.timeout)),
                    );
                    self.ready
                        .push_back(Err(error.with_object(&self.object).with_operation("exec")));
                }
            }
        }
    }

    /// The command is let go, and nobody types into it any more; what is left of its output comes still.
    fn end(&mut self) {
        self.output = None;
        self.session = None;
        self.ready.extend(stdout(self.stdout.rest()));
        self.ready.extend(stderr(self.stderr.rest()));
    }
}

fn stdout(text: String) -> Option<Result<ExecFrame>> {
    (!text.is_empty()).then_some(Ok(ExecFrame::Stdout { text }))
}

fn stderr(text: String) -> Option<Result<ExecFrame>> {
    (!text.is_empty()).then_some(Ok(ExecFrame::Stderr { text }))
}

/// Bytes as text, invalid UTF-8 replaced; a character that lies in two pieces comes whole with the second.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn take(&mut self, piece: &[u8]) -> String {
        let all: Cow<'_, [u8]> = if self.0.is_empty() {
            piece.into()
        } else {
            [std::mem::take(&mut self.0).as_slice(), piece].concat().into()
        };
        let (whole, begun) = all.split_at(all.len() - begun(&all));
        self.0 = begun.to_vec();
        String::from_utf8_lossy(whole).into_owned()
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// How many bytes at the end begin a character that is not whole.
fn begun(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 0,
        };
        return if back + 1 < length { back + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_survive_being_cut() {
        let said = "aä€😀!".as_bytes();
        for cut in 0..=said.len() {
            let mut text = Text::default();
            let joined = text.take(&said[..cut]) + &text.take(&said[cut..]) + &text.rest();
            assert_eq!(joined, "aä€😀!", "cut at {cut}");
        }
        let mut text = Text::default();
        let bytewise: String = said.iter().map(|byte| text.take(&[*byte])).collect();
        assert_eq!(bytewise, "aä€😀!");
        assert_eq!(text.take(b"\xff\x80x"), "\u{fffd}\u{fffd}x");
        assert_eq!(text.take(b"a\xe2\x82") + &text.rest(), "a\u{fffd}");
        assert_eq!(text.rest(), "");
    }
}
