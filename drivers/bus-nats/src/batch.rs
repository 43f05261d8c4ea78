//! What streams acknowledge: alone, or as one atomic batch, so that their order is kept whatever fails.

use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use tokio::time::{Instant, sleep};

use crate::connection::Connection;
use crate::publish::{Ready, refused};
use crate::subject::{Lane, StreamName};

/// The largest batch; the server takes a thousand.
const LARGEST: usize = 500;
/// For so long a missing stream is not believed: that is what the election of its leader looks like.
const BELIEVE: Duration = Duration::from_secs(1);
/// The wait between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By itself.
    Alone,
    /// In a batch.
    In {
        /// The batch.
        batch: String,
        /// Its number in it, from 1.
        number: usize,
        /// It is the last.
        last: bool,
    },
}

/// The batches of one publish: for each stream its messages, told off before the first is sent.
pub(crate) struct Batches {
    streams: Vec<Batch>,
}

struct Batch {
    stream: StreamName,
    left: usize,
    id: String,
    number: usize,
    acks: Vec<PublishAckFuture>,
    failed: bool,
}

impl Batches {
    /// Batches for messages of these lanes.
    pub(crate) fn new(lanes: &[Lane]) -> Self {
        let mut streams: Vec<Batch> = Vec::new();
        for lane in lanes {
            let Lane::Durable(stream) = lane else { continue };
            match streams.iter_mut().find(|batch| batch.stream == *stream) {
                Some(batch) => batch.left += 1,
                None => streams.push(Batch {
                    stream: *stream,
                    left: 1,
                    id: String::new(),
                    number: 0,
                    acks: Vec::new(),
                    failed: false,
                }),
            }
        }
        Self { streams }
    }

    /// Sends the next message of a stream.
    pub(crate) async fn send(
        &mut self,
        connection: &Connection,
        stream: StreamName,
        ready: Ready,
    ) -> Result<()> {
        let Some(batch) = self.streams.iter_mut().find(|batch| batch.stream == stream) else {
            return Err(Error::internal("a message of a stream that was not counted"));
        };
        if batch.failed {
            return Ok(());
        }
        match batch.place() {
            Place::In {
                number, last: false, ..
            } if number > 1 => {
                let headers = with_place(ready.headers, &ready.id, &batch.of(number, false));
                let sent = connection
                    .client
                    .publish_with_headers(ready.subject, headers, ready.payload);
                match tokio::time::timeout(connection.config.ack_timeout, sent).await {
                    Ok(Ok(())) => {}
                    _ => batch.failed = true,
                }
            }
            place => {
                let first = matches!(place, Place::In { last: false, .. });
                let message = PublishMessage::build()
                    .headers(with_place(ready.headers, &ready.id, &place))
                    .payload(ready.payload);
                match connection.js.send_publish(ready.subject, message).await {
                    // The answer to the first says only whether the batch was begun, as does that to the last.
                    Ok(ack) if first => drop(ack),
                    Ok(ack) => batch.acks.push(ack),
                    Err(_) => batch.failed = true,
                }
            }
        }
        Ok(())
    }

    /// Waits for the acknowledgements; names the streams of which some messages may not be stored.
    pub(crate) async fn acknowledged(self, connection: &Connection) -> Vec<StreamName> {
        let mut failed = Vec::new();
        for batch in self.streams {
            let mut lost = batch.failed;
            let mut stored = 0;
            for ack in batch.acks {
                match ack.await {
                    Ok(_) => stored += 1,
                    Err(error) => {
                        tracing::debug!(%error, "a batch was not stored; its messages go one by one");
                        lost = true;
                    }
                }
            }
            connection.health.note(|state| state.stored += stored);
            if lost {
                failed.push(batch.stream);
            }
        }
        failed
    }
}

impl Batch {
    /// The place of the next message.
    fn place(&mut self) -> Place {
        if self.number == 0 && self.left == 1 {
            self.left = 0;
            return Place::Alone;
        }
        if self.number == 0 {
            self.id = format!("{:032x}", rand::random::<u128>());
        }
        self.number += 1;
        self.left -= 1;
        let number = self.number;
        let last = self.left == 0 || number == LARGEST;
        let place = self.of(number, last);
        if last {
            self.number = 0;
        }
        place
    }

    fn of(&self, number: usize, last: bool) -> Place {
        Place::In {
            batch: self.id.clone(),
            number,
            last,
        }
    }
}

fn with_place(mut headers: async_nats::HeaderMap, id: &str, place: &Place) -> async_nats::HeaderMap {
    headers.insert("Nats-Msg-Id", id);
    if let Place::In { batch, number, last } = place {
        headers.insert("Nats-Batch-Id", batch.as_str());
        headers.insert("Nats-Batch-Sequence", number.to_string());
        if *last {
            headers.insert("Nats-Batch-Commit", "1");
        }
    }
    headers
}

/// Publishes one message and waits until it is stored.
pub(crate) async fn one(connection: &Connection, ready: Ready, place: Place) -> Result<()> {
    let headers = with_place(ready.headers, &ready.id, &place);
    let started = Instant::now();
    loop {
        let message = PublishMessage::build()
            .headers(headers.clone())
            .payload(ready.payload.clone());
        let sent = async {
            connection
                .js
                .send_publish(ready.subject.clone(), message)
                .await?
                .await
        };
        let error = match sent.await {
            Ok(_) => {
                connection.health.note(|state| state.stored += 1);
                return Ok(());
            }
            Err(error) => error,
        };
        match error.kind() {
            PublishErrorKind::StreamNotFound if started.elapsed() < BELIEVE => sleep(PAUSE).await,
            PublishErrorKind::StreamNotFound => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("no stream takes {}", ready.subject),
                )
                .with_operation("bus.publish")
                .with_hint("the streams of the bus are made once, by its setup"));
            }
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                return Err(connection.away("bus.publish"));
            }
            _ => return Err(refused(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_its_batch_and_the_last_commits() {
        let events = Lane::Durable(StreamName::Events);
        let result = Lane::Durable(StreamName::Result);
        let mut batches = Batches::new(&[events, Lane::Core, events, result, events]);
        assert_eq!(batches.streams.len(), 2);
        let batch = &mut batches.streams[0];
        let places: Vec<_> = (0..3)
            .map(|_| match batch.place() {
                Place::In { number, last, .. } => (number, last),
                Place::Alone => (0, true),
            })
            .collect();
        assert_eq!(places, [(1, false), (2, false), (3, true)]);
        assert_eq!(batches.streams[1].place(), Place::Alone);

        let mut many = Batches::new(&vec![events; LARGEST + 1]);
        let batch = &mut many.streams[0];
        for _ in 1..LARGEST {
            assert!(matches!(batch.place(), Place::In { last: false, .. }));
        }
        assert!(matches!(batch.place(), Place::In { last: true, .. }));
        assert_eq!(batch.place(), Place::Alone);
    }
}
