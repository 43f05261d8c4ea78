//! Logs and exec: streams of a driver as streams of frames.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api::agent::ResultStream;
use agent_api::driver::{self, ExecInput, ExecOutput, Handle, LogReadRequest, ObjectDriver};
use agent_api::model::{
    DriverName, Error, ErrorKind, ExecFrame, ExecRequest, Guid, LogFrame, LogRequest, ObjectView, Result,
    Target, Verb,
};
use futures_util::{Stream, StreamExt, stream};

use crate::guard::{Failure, guarded, panic_message};
use crate::registry::KindEntry;
use crate::shared::{Shared, not_found};
use crate::submit::unsupported;

/// How long a driver may take to begin a stream.
const OPEN: Duration = Duration::from_secs(10);
/// The most that a command can be given to read.
const MAX_STDIN: usize = 1 << 20;

struct Found<'a> {
    guid: Guid,
    view: Arc<ObjectView>,
    handle: Arc<Handle>,
    entry: &'a KindEntry,
}

impl Found<'_> {
    fn driver(&self) -> &Arc<dyn ObjectDriver> {
        &self.entry.driver
    }

    fn target(&self) -> driver::Target<'_> {
        driver::Target {
            guid: self.guid,
            handle: &self.handle,
        }
    }
}

fn find<'a>(shared: &'a Shared, target: &Target) -> Result<Found<'a>> {
    let guid = shared.resolve(target)?;
    let view = shared.manager.view(guid).ok_or_else(|| not_found(target))?;
    let entry = shared.registry.kind(&view.kind)?;
    let handle = shared.manager.handle(guid).ok_or_else(|| {
        Error::new(
            ErrorKind::Conflict,
            format!("it is {} and has not been made yet", view.phase),
        )
        .with_object(&view.name)
    })?;
    Ok(Found {
        guid,
        view,
        handle,
        entry,
    })
}

/// An object's logs, as text with invalid UTF-8 replaced.
pub(crate) async fn logs(
    shared: &Shared,
    target: &Target,
    request: &LogRequest,
) -> Result<ResultStream<LogFrame>> {
    let found = find(shared, target)?;
    let logs = found
        .driver()
        .logs()
        .ok_or_else(|| unsupported(Verb::Logs, &found.view, found.entry))?;
    let read = LogReadRequest {
        cursor: request.cursor.clone(),
        tail: request.tail,
        follow: request.follow,
        streams: request.streams.clone(),
    };
    let chunks = open(&found, "logs", logs.read(found.target(), read)).await?;
    let name = found.entry.name.clone();
    Ok(guard_stream(name, "logs", chunks, |chunk| LogFrame {
        stream: chunk.stream,
        lines: chunk.lines.iter().map(|line| text(line)).collect(),
        cursor: chunk.cursor,
        lost_bytes: chunk.lost_bytes,
    }))
}

/// Runs a command in an object's context.
pub(crate) async fn exec(
    shared: &Shared,
    target: &Target,
    request: &ExecRequest,
) -> Result<ResultStream<ExecFrame>> {
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
    let found = find(shared, target)?;
    let exec = found
        .driver()
        .exec()
        .ok_or_else(|| unsupported(Verb::Exec, &found.view, found.entry))?;
    let run = driver::ExecRequest {
        command: request.command.clone(),
        env: request.env.clone(),
        timeout: request.timeout,
    };
    let stdin = request.stdin.clone();
    let input = stream::iter(stdin.map(|stdin| ExecInput::Stdin(stdin.into_bytes().into())));
    let output = open(&found, "exec", exec.exec(found.target(), run, Box::pin(input))).await?;
    let name = found.entry.name.clone();
    Ok(guard_stream(name, "exec", output, |output| match output {
        ExecOutput::Stdout(bytes) => ExecFrame::Stdout { text: text(&bytes) },
        ExecOutput::Stderr(bytes) => ExecFrame::Stderr { text: text(&bytes) },
        ExecOutput::Exit(status) => ExecFrame::Exit { status },
    }))
}

async fn open<T>(found: &Found<'_>, call: &str, opening: impl Future<Output = Result<T>>) -> Result<T> {
    guarded(OPEN, opening)
        .await
        .map_err(|failure| failure.of_driver(&found.entry.name, call))
        .and_then(|opened| opened)
        .map_err(|error| error.with_object(&found.view.name))
}

/// A stream that ends with an error where the driver's panics.
fn guard_stream<T, F>(
    driver: DriverName,
    call: &'static str,
    stream: impl Stream<Item = Result<T>> + Send + 'static,
    map: impl Fn(T) -> F + Send + 'static,
) -> ResultStream<F>
where
    T: Send + 'static,
    F: Send + 'static,
{
    Box::pin(
        AssertUnwindSafe(stream)
            .catch_unwind()
            .map(move |item| match item {
                Ok(item) => item.map(&map),
                Err(panic) => Err(Failure::Panicked(panic_message(&*panic)).of_driver(&driver, call)),
            }),
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
