//! A handler that answers by verb.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_bus_in::{Incoming, RequestHandler, Response};
use agent_api_model::{Error, ErrorKind, Reply, StageTimes};
use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// What a handler saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// The requests, in order.
    pub requests: Mutex<Vec<Incoming>>,
    /// Requests and streams that are under way.
    pub under_way: AtomicUsize,
}

/// Answers by verb: `echo`, `refuse`, `text`, `large`, `count` (a stream), `fail` (a stream that fails), `tick` and
/// `silence` (streams without end), `talk` (a stream of what later `say` requests bear, until an empty one), `slow` (answers after a while), `hang` (never).
#[derive(Debug, Default)]
pub struct TestHandler {
    /// What it saw.
    pub seen: Arc<Seen>,
    /// Where `say` goes: the stream of the last `talk`.
    talk: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
}

struct UnderWay(Arc<Seen>);

impl UnderWay {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TestHandler {
    /// How many requests and streams are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.seen.under_way.load(Ordering::SeqCst)
    }
}

/// A stream, and what it holds while somebody listens.
struct Held<S>(
    S,
    #[expect(dead_code, reason = "counts by being dropped")] UnderWay,
);

impl<S: Stream<Item = Bytes> + Unpin> Stream for Held<S> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}

fn number(n: usize) -> Bytes {
    format!("{{\"n\":{n}}}").into()
}

fn one(body: impl Into<Bytes>) -> Response {
    Response::One {
        error: None,
        body: body.into(),
    }
}

#[async_trait]
impl RequestHandler for TestHandler {
    async fn handle(&self, incoming: Incoming) -> Response {
        let under_way = UnderWay::new(&self.seen);
        self.seen.requests.lock().push(incoming.clone());
        let count = std::str::from_utf8(&incoming.payload)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        match incoming.verb.as_str() {
            "refuse" => {
                let error = Error::new(ErrorKind::Conflict, "not now").with_object("web");
                let reply = Reply {
                    id: None,
                    ok: None,
                    error: Some(error),
                    stages: StageTimes::default(),
                };
                Response::One {
                    error: Some(ErrorKind::Conflict),
                    body: serde_json::to_vec(&reply).expect("a reply is JSON").into(),
                }
            }
            "text" => Response::Text {
                content_type: "text/plain; version=0.0.4",
                body: Bytes::from_static(b"up 1\n"),
            },
            "large" => one(format!("{:?}", "x".repeat(count))),
            "count" => Response::Stream(Box::pin(Held(
                futures_util::stream::iter((0..count).map(number)),
                under_way,
            ))),
            "fail" => {
                let error = Error::new(ErrorKind::Lost, "it is gone").to_frame();
                let frames = (0..count).map(number).chain([error]);
                Response::Stream(Box::pin(Held(futures_util::stream::iter(frames), under_way)))
            }
            "tick" => {
                let ticks = futures_util::stream::unfold(0, async |n| {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Some((number(n), n + 1))
                });
                Response::Stream(Box::pin(Held(Box::pin(ticks), under_way)))
            }
            "silence" => {
                let first = futures_util::stream::iter([number(0)]);
                let rest = futures_util::stream::pending();
                Response::Stream(Box::pin(Held(first.chain(rest), under_way)))
            }
            "talk" => {
                let (sender, receiver) = mpsc::unbounded_channel();
                *self.talk.lock() = Some(sender);
                let said = futures_util::stream::unfold(receiver, async |mut receiver| {
                    let said = receiver.recv().await?;
                    Some((said, receiver))
                });
                let first = futures_util::stream::iter([number(0)]);
                Response::Stream(Box::pin(Held(first.chain(Box::pin(said)), under_way)))
            }
            "say" => {
                let mut talk = self.talk.lock();
                match talk.take_if(|_| incoming.payload.is_empty()) {
                    Some(_) => {}
                    None => {
                        let heard = talk.as_ref().map(|talk| talk.send(incoming.payload.clone()));
                        assert_eq!(heard, Some(Ok(())), "the stream listens");
                    }
                }
                one(incoming.payload)
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                one("\"late\"")
            }
            "hang" => std::future::pending().await,
            _ => one(incoming.payload),
        }
    }
}
