//! What the streams still keep, in the order of its numbers.

use agent_api_bus_out::Delivery;
use agent_api_model::{Error, ErrorKind, Result};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures_util::StreamExt;
use time::OffsetDateTime;

use crate::backlog::{Counts, Seen};
use crate::connection::Connection;
use crate::headers;
use crate::numbers::time_of;
use crate::subject::{Layout, StreamName, overlap};

/// The clocks of agents and servers may differ by so much, in microseconds.
const SKEW: i64 = 60_000_000;

/// The streams a reader began with.
pub(crate) struct Replay {
    sources: Vec<Source>,
    layout: Layout,
    pattern: String,
    after: u64,
    counts: Counts,
    last: u64,
}

struct Source {
    name: String,
    messages: Option<Ordered>,
    head: Option<(Delivery, Option<(u64, u64)>)>,
}

impl Replay {
    /// Begins with what was published after this number.
    pub(crate) async fn begin(
        connection: &Connection,
        layout: &Layout,
        pattern: &str,
        after: u64,
    ) -> Result<Self> {
        let wanted = layout.subjects(pattern);
        let mut sources = Vec::new();
        for stream in [StreamName::Events, StreamName::Result, StreamName::Telemetry] {
            let held = layout.stream_subjects(stream);
            let filter: Vec<String> = wanted
                .iter()
                .filter(|subject| held.iter().any(|held| overlap(subject, held)))
                .cloned()
                .collect();
            if filter.is_empty() {
                continue;
            }
            let name = layout.stream(stream);
            if let Some(messages) = open(connection, &name, filter, after).await? {
                sources.push(Source {
                    name,
                    messages: Some(messages),
                    head: None,
                });
            }
        }
        Ok(Self {
            sources,
            layout: layout.clone(),
            pattern: pattern.into(),
            after,
            counts: Counts::default(),
            last: after,
        })
    }

    /// The next message; none when all that was kept at the beginning was read.
    pub(crate) async fn next(&mut self) -> Option<Result<Delivery>> {
        loop {
            for at in 0..self.sources.len() {
                if self.sources[at].head.is_none()
                    && let Err(error) = self.fill(at).await
                {
                    self.sources.clear();
                    return Some(Err(error));
                }
            }
            let first = self
                .sources
                .iter_mut()
                .filter(|source| source.head.is_some())
                .min_by_key(|source| source.head.as_ref().map(|(delivery, _)| delivery.sequence))?;
            let (mut delivery, numbers) = first.head.take()?;
            let Seen::New(missed) = self.counts.see(&delivery.message, numbers) else {
                continue;
            };
            delivery.missed = missed;
            self.last = self.last.max(delivery.sequence);
            return Some(Ok(delivery));
        }
    }

    /// Whether a message that was heard live was read here before.
    pub(crate) fn has(&self, delivery: &Delivery) -> bool {
        // By topic: each is in one stream, and the streams were opened one after the other.
        delivery.sequence <= self.after || self.counts.has(&delivery.message, delivery.sequence)
    }

    async fn fill(&mut self, at: usize) -> Result<()> {
        let source = &mut self.sources[at];
        while source.head.is_none() {
            let Some(messages) = &mut source.messages else {
                return Ok(());
            };
            let message = match messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(broken(&source.name, &error)),
                None => {
                    source.messages = None;
                    return Ok(());
                }
            };
            let left = message.info().map_or(0, |info| info.pending);
            if left == 0 {
                source.messages = None;
            }
            let Some(topic) = self
                .layout
                .topic(&message.subject)
                .filter(|topic| topic.matches(&self.pattern))
            else {
                continue;
            };
            let found = headers::message(topic, message.headers.as_ref(), message.payload.clone());
            let Some((message, numbers)) = found else { continue };
            let sequence = numbers.map_or(self.last + 1, |(number, _)| number);
            if sequence > self.after {
                source.head = Some((
                    Delivery {
                        sequence,
                        missed: 0,
                        message,
                    },
                    numbers,
                ));
            }
        }
        Ok(())
    }
}

/// A consumer of one stream; none where nothing is kept of these subjects.
async fn open(
    connection: &Connection,
    name: &str,
    filter: Vec<String>,
    after: u64,
) -> Result<Option<Ordered>> {
    let start = time_of(after).as_micros() - SKEW;
    let deliver_policy = match OffsetDateTime::from_unix_timestamp_nanos(i128::from(start) * 1_000) {
        Ok(start_time) if start > 0 => DeliverPolicy::ByStartTime { start_time },
        _ => DeliverPolicy::All,
    };
    let stream = connection
        .js
        .get_stream_no_info(name)
        .await
        .map_err(|error| broken(name, &error))?;
    let config = OrderedConfig {
        filter_subjects: filter,
        deliver_policy,
        ..OrderedConfig::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(|error| broken(name, &error))?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(None);
    }
    let messages = consumer.messages().await.map_err(|error| broken(name, &error))?;
    Ok(Some(messages))
}

fn broken(name: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cannot read the stream {name}: {error}"),
    )
    .with_operation("bus.subscribe")
    .with_hint("was it made by the bus setup, and do the permissions allow a consumer of it?")
}
