//! Streams of results as messages of a bus.

use std::pin::Pin;
use std::task::{Context, Poll};

use agent_api_agent::ResultStream;
use agent_api_bus_in::{FrameStream, Response};
use agent_api_model::Error;
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;

use crate::limit::Place;

/// One JSON value a message. An error is the last one.
struct Frames<T> {
    results: Option<ResultStream<T>>,
    _place: Place,
}

/// The response that streams these results.
pub(crate) fn frames<T: Serialize + 'static>(results: ResultStream<T>, place: Place) -> Response {
    let frames: FrameStream = Box::pin(Frames {
        results: Some(results),
        _place: place,
    });
    Response::Stream(frames)
}

impl<T: Serialize> Stream for Frames<T> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(results) = &mut self.results else {
            return Poll::Ready(None);
        };
        let Poll::Ready(result) = results.as_mut().poll_next(cx) else {
            return Poll::Pending;
        };
        let written = match result {
            None => {
                self.results = None;
                return Poll::Ready(None);
            }
            Some(Ok(value)) => serde_json::to_vec(&value).map_err(|error| {
                Error::internal("a message of the stream cannot be written as JSON").with_source(error)
            }),
            Some(Err(error)) => Err(error),
        };
        Poll::Ready(Some(match written {
            Ok(bytes) => bytes.into(),
            Err(error) => {
                self.results = None;
                error.to_frame()
            }
        }))
    }
}
