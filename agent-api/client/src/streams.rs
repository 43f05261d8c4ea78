//! The methods with many answers.

use agent_api_bus_in::{FrameStream, Response};
use agent_api_model::{
    Error, ExecFrame, ExecRequest, LogFrame, LogRequest, Result, Target, Verb, WatchEvent, WatchRequest,
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::send::{Call, read_reply, unexpected};
use crate::{Client, ResultStream};

impl Client {
    /// The views, then what changes. Where it ends with `Unavailable`, begin anew: the views are sent again.
    pub async fn watch(&self, request: &WatchRequest) -> Result<ResultStream<WatchEvent>> {
        self.stream(Call::new(Verb::Watch).body(request)?).await
    }

    /// An object's logs. Where it ends with `Unavailable`, go on with the last frame's cursor.
    pub async fn logs(&self, target: &Target, request: &LogRequest) -> Result<ResultStream<LogFrame>> {
        self.stream(Call::new(Verb::Logs).object(target).body(request)?)
            .await
    }

    /// Runs a command in an object's context. Never repeated: it may have run.
    pub async fn exec(&self, target: &Target, request: &ExecRequest) -> Result<ResultStream<ExecFrame>> {
        self.stream(Call::new(Verb::Exec).object(target).body(request)?.once())
            .await
    }

    async fn stream<T: DeserializeOwned + Send + 'static>(&self, call: Call) -> Result<ResultStream<T>> {
        match self.send(&call).await? {
            Response::Stream(frames) => Ok(decode(frames)),
            Response::One { body, .. } => Err(match read_reply(&body) {
                Ok(other) => unexpected(call.verb, &other),
                Err(error) => error,
            }),
            Response::Text { .. } => Err(unexpected(call.verb, &"text")),
        }
    }
}

/// Frames as values. Ends after the first error.
fn decode<T: DeserializeOwned + Send + 'static>(frames: FrameStream) -> ResultStream<T> {
    Box::pin(futures_util::stream::unfold(Some(frames), async |frames| {
        let mut frames = frames?;
        loop {
            let frame = frames.next().await?;
            // An empty frame keeps the connection alive and says nothing.
            if frame.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value = read(&frame);
            let rest = value.is_ok().then_some(frames);
            return Some((value, rest));
        }
    }))
}

fn read<T: DeserializeOwned>(frame: &Bytes) -> Result<T> {
    if let Some(error) = Error::from_frame(frame) {
        return Err(error);
    }
    serde_json::from_slice(frame).map_err(|error| {
        Error::internal("a message of the stream is not one of an agent of this version").with_source(error)
    })
}
