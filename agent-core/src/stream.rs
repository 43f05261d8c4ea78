//! Streams of a driver as streams of frames: what logs and exec have in common, and logs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api::agent::ResultStream;
use agent_api::driver::{self, Handle, LogReadRequest, ObjectDriver};
use agent_api::model::{
    DriverName, Error, ErrorKind, Guid, LogFrame, LogRequest, ObjectView, Result, Target, Verb,
};
use futures_util::{Stream, StreamExt};

use crate::guard::{Failure, guarded, panic_message};
use crate::registry::KindEntry;
use crate::shared::{Shared, not_found};
use crate::submit::unsupported;

/// How long a driver may take to begin a stream.
const OPEN: Duration = Duration::from_secs(10);

/// An object that has a real thing.
pub(crate) struct Found<'a> {
    guid: Guid,
    pub(crate) view: Arc<ObjectView>,
    handle: Arc<Handle>,
    pub(crate) entry: &'a KindEntry,
}

impl Found<'_> {
    pub(crate) fn driver(&self) -> &Arc<dyn ObjectDriver> {
        &self.entry.driver
    }

    pub(crate) fn target(&self) -> driver::Target<'_> {
        driver::Target {
            guid: self.guid,
            handle: &self.handle,
        }
    }
}

pub(crate) fn find<'a>(shared: &'a Shared, target: &Target) -> Result<Found<'a>> {
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

/// Waits until a driver's stream has begun.
pub(crate) async fn open<T>(
    found: &Found<'_>,
    call: &str,
    opening: impl Future<Output = Result<T>>,
) -> Result<T> {
    guarded(OPEN, opening)
        .await
        .map_err(|failure| failure.of_driver(&found.entry.name, call))
        .and_then(|opened| opened)
        .map_err(|error| error.with_object(&found.view.name))
}

/// A stream that ends with an error where the driver's panics.
pub(crate) fn guard_stream<T, F>(
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
