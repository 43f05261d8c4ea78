//! Bus Out: each message by the carrier of its topic, in order, and not forgotten before the server has it.

use std::sync::Arc;

use agent_api_bus_out::Message;
use agent_api_model::{Error, ErrorKind, Result};
use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::batch::{Batches, Place};
use crate::connection::Connection;
use crate::headers;
use crate::ingest::Ingest;
use crate::numbers::Numbers;
use crate::subject::{Lane, Layout};

/// Room for the headers of streams and batches within the server's largest message.
const ROOM: usize = 4 << 10;

/// A message ready for the wire.
pub(crate) struct Ready {
    pub(crate) subject: String,
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// Publishes for one agent.
pub(crate) struct Publisher {
    connection: Arc<Connection>,
    layout: Layout,
    inner: Mutex<Inner>,
}

struct Inner {
    numbers: Numbers,
    ingest: Ingest,
    closed: bool,
}

impl Publisher {
    pub(crate) fn new(connection: Arc<Connection>, layout: Layout) -> Self {
        Self {
            inner: Mutex::new(Inner {
                numbers: Numbers::new(),
                ingest: Ingest::new(Arc::clone(&connection)),
                closed: false,
            }),
            connection,
            layout,
        }
    }

    /// Publishes messages, in order. Returns when the streams have acknowledged what is theirs; of telemetry the last
    /// few hundred messages may be on their way still.
    ///
    /// Cancelled by drop: what was not acknowledged then may have been published; its ids and numbers stay the same.
    pub(crate) async fn publish(&self, messages: &[Message]) -> Result<()> {
        let largest = self.connection.client.max_payload();
        if let Some(message) = messages
            .iter()
            .find(|message| largest > 0 && size(message) + ROOM > largest)
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a message of {} bytes for {} is more than the server takes ({largest} bytes)",
                    size(message),
                    message.topic
                ),
            )
            .with_operation("bus.publish"));
        }
        let mut inner = self.inner.lock().await;
        if inner.closed {
            return Err(Error::new(ErrorKind::Unavailable, "the bus is closed").with_operation("bus.publish"));
        }
        self.connection.need_up("bus.publish")?;
        for message in messages {
            let numbers = inner.numbers.of(message);
            inner.numbers.unsure(message, numbers);
        }
        self.send(&mut inner, messages).await?;
        for message in messages {
            inner.numbers.done(message);
        }
        Ok(())
    }

    async fn send(&self, inner: &mut Inner, messages: &[Message]) -> Result<()> {
        let lanes: Vec<_> = messages
            .iter()
            .map(|message| self.layout.lane(&message.topic))
            .collect();
        let mut batches = Batches::new(&lanes);
        for (message, lane) in messages.iter().zip(&lanes) {
            let ready = self.ready(&mut inner.numbers, message);
            match lane {
                Lane::Durable(stream) => batches.send(&self.connection, *stream, ready).await?,
                Lane::Telemetry => inner.ingest.send(ready).await?,
                Lane::Core => {
                    let client = &self.connection.client;
                    let sent = client.publish_with_headers(ready.subject, ready.headers, ready.payload);
                    tokio::time::timeout(self.connection.config.ack_timeout, sent)
                        .await
                        .map_err(|_| self.connection.away("bus.publish"))?
                        .map_err(|error| refused(&error))?;
                }
            }
        }
        let failed = batches.acknowledged(&self.connection).await;
        for stream in failed {
            // One by one and in order, so that it is known which are stored; those that are already are not stored twice.
            let again = messages
                .iter()
                .zip(&lanes)
                .filter(|(_, lane)| **lane == Lane::Durable(stream));
            for (message, _) in again {
                let ready = self.ready(&mut inner.numbers, message);
                crate::batch::one(&self.connection, ready, Place::Alone).await?;
            }
        }
        Ok(())
    }

    fn ready(&self, numbers: &mut Numbers, message: &Message) -> Ready {
        let (number, count) = numbers.of(message);
        Ready {
            subject: self
                .layout
                .subject(&message.topic, message.envelope.subject.as_deref()),
            id: headers::encode(&message.envelope.id),
            headers: headers::of_message(message, number, count),
            payload: message.envelope.data.clone(),
        }
    }

    /// Publishes nothing more, and has what is on its way acknowledged.
    pub(crate) async fn close(&self) {
        let mut inner = self.inner.lock().await;
        if !inner.closed {
            inner.closed = true;
            inner.ingest.end().await;
        }
    }
}

pub(crate) fn refused(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the bus does not take a message: {error}"),
    )
    .with_operation("bus.publish")
}

fn size(message: &Message) -> usize {
    let envelope = &message.envelope;
    envelope.data.len() + envelope.id.len() + envelope.source.len() + envelope.event_type.len()
}
