//! The bounded store of topics.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use agent_api_bus_out::{Delivery, Message, StartAt};
use agent_api_model::{Error, ErrorKind, Result, Timestamp};
use parking_lot::Mutex;

use crate::{TopicReader, check_pattern};

/// What a message costs beside its text: the structs, the queue slot, the allocations.
const OVERHEAD: usize = 256;
/// So many messages a reader looks at under one lock, so that a rare pattern never holds a publisher up for long.
const SCAN: usize = 512;

/// The bounds of a [`TopicRing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes kept, all told; 8 MiB by default. The oldest messages make room.
    pub bytes: usize,
    /// Messages kept; 16,384 by default.
    pub messages: usize,
    /// Readers at once; 512 by default. More are answered `Busy`.
    pub readers: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            messages: 16_384,
            readers: 512,
        }
    }
}

/// How full a ring is, and what it lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// Messages kept now.
    pub messages: usize,
    /// Bytes kept now.
    pub bytes: usize,
    /// Readers now.
    pub readers: usize,
    /// Messages published since the start.
    pub published: u64,
    /// Deliveries that readers missed because they were slow, all readers together.
    pub missed: u64,
}

/// Topics in memory: a ring bounded by bytes and messages, read by cursors.
///
/// Publishing never waits: the oldest messages make room, and each reader that had not read one of its topics is told
/// how many it missed. There is no task; a reader's stream is woken where it waits. Sequences begin at the time of the
/// ring's making, so that they grow over restarts of the process and a reader may resume with an old one.
#[derive(Clone, Debug)]
pub struct TopicRing {
    config: Arc<RingConfig>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    kept: VecDeque<(usize, Message)>,
    bytes: usize,
    /// The sequence of the first message of this ring.
    base: u64,
    /// The sequence of the oldest message kept, or of the next one.
    first: u64,
    missed: u64,
    closed: bool,
    readers: HashMap<u64, ReaderState>,
    next_reader: u64,
}

#[derive(Debug)]
struct ReaderState {
    pattern: Arc<str>,
    /// The sequence of the next message to look at; never before `first`.
    cursor: u64,
    missed: u64,
    waker: Option<Waker>,
}

impl Default for TopicRing {
    fn default() -> Self {
        Self::new(RingConfig::default())
    }
}

impl TopicRing {
    /// An empty ring.
    #[must_use]
    pub fn new(config: RingConfig) -> Self {
        // 22 bits of messages for each millisecond of life: no ring is that fast, so the next one begins higher.
        let base = ((Timestamp::now().as_micros().max(0) as u64 / 1_000) << 22) + 1;
        Self {
            config: Arc::new(config),
            inner: Arc::new(Mutex::new(Inner {
                kept: VecDeque::new(),
                bytes: 0,
                base,
                first: base,
                missed: 0,
                closed: false,
                readers: HashMap::new(),
                next_reader: 0,
            })),
        }
    }

    /// Publishes messages, in order. Never waits.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the ring is closed; `Invalid` for a message that is larger than the whole ring, and then
    /// none is published.
    pub fn publish(&self, messages: &[Message]) -> Result<()> {
        for message in messages {
            if size(message) > self.config.bytes {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "a message of {} bytes for {} is more than the bus keeps ({} bytes)",
                        size(message),
                        message.topic,
                        self.config.bytes
                    ),
                )
                .with_operation("bus.publish"));
            }
        }
        let mut wake = Vec::new();
        {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(
                    Error::new(ErrorKind::Unavailable, "the bus is closed").with_operation("bus.publish")
                );
            }
            for message in messages {
                inner.push(message.clone(), &self.config);
                for reader in inner.readers.values_mut() {
                    if reader.waker.is_some() && message.topic.matches(&reader.pattern) {
                        wake.extend(reader.waker.take());
                    }
                }
            }
        }
        wake.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Reads the topics that a pattern covers.
    ///
    /// Where `from` names a message that is no longer kept, the first delivery counts as missed what was dropped after
    /// it, of whatever topic: nobody knows any more which topics those were.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is not a pattern, `Busy` with too many readers, `Unavailable` when the ring is closed.
    pub fn subscribe(&self, pattern: &str, from: &StartAt) -> Result<TopicReader> {
        check_pattern(pattern)?;
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(
                Error::new(ErrorKind::Unavailable, "the bus is closed").with_operation("bus.subscribe")
            );
        }
        if inner.readers.len() >= self.config.readers {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} readers are subscribed already, which is the limit",
                    self.config.readers
                ),
            )
            .with_operation("bus.subscribe"));
        }
        let next = inner.next();
        let (cursor, missed) = match *from {
            StartAt::Now => (next, 0),
            StartAt::Kept => (inner.first, 0),
            // Of an earlier ring, before a restart: what this one dropped was missed, and more nobody can count.
            StartAt::After(last) if last < inner.base => (inner.first, inner.first - inner.base),
            StartAt::After(last) if last >= next => (next, 0),
            StartAt::After(last) => ((last + 1).max(inner.first), inner.first.saturating_sub(last + 1)),
        };
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.missed += missed;
        inner.readers.insert(
            id,
            ReaderState {
                pattern: pattern.into(),
                cursor,
                missed,
                waker: None,
            },
        );
        drop(inner);
        Ok(TopicReader::new(self.clone(), id))
    }

    /// Takes no more messages. Readers read what is kept, and end.
    pub fn close(&self) {
        let wakers: Vec<_> = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner
                .readers
                .values_mut()
                .filter_map(|reader| reader.waker.take())
                .collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How full it is, and what was lost.
    #[must_use]
    pub fn state(&self) -> RingState {
        let inner = self.inner.lock();
        RingState {
            messages: inner.kept.len(),
            bytes: inner.bytes,
            readers: inner.readers.len(),
            published: inner.next() - inner.base,
            missed: inner.missed,
        }
    }

    /// The next delivery of a reader; `Pending` keeps its waker.
    pub(crate) fn poll_reader(&self, id: u64, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            let mut inner = self.inner.lock();
            match inner.step(id) {
                Step::Found(delivery) => return Poll::Ready(Some(delivery)),
                Step::More => {}
                Step::Ended => return Poll::Ready(None),
                Step::Nothing => {
                    if let Some(reader) = inner.readers.get_mut(&id) {
                        reader.waker = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        self.inner.lock().readers.remove(&id);
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "moved once, never kept; a box would be an allocation a message"
)]
enum Step {
    Found(Delivery),
    More,
    Nothing,
    Ended,
}

impl Inner {
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn push(&mut self, message: Message, config: &RingConfig) {
        let bytes = size(&message);
        while !self.kept.is_empty()
            && (self.kept.len() >= config.messages || self.bytes + bytes > config.bytes)
        {
            self.drop_oldest();
        }
        self.bytes += bytes;
        self.kept.push_back((bytes, message));
    }

    fn drop_oldest(&mut self) {
        let Some((bytes, message)) = self.kept.pop_front() else {
            return;
        };
        self.bytes -= bytes;
        self.first += 1;
        for reader in self.readers.values_mut() {
            if reader.cursor < self.first {
                reader.cursor = self.first;
                if message.topic.matches(&reader.pattern) {
                    reader.missed += 1;
                    self.missed += 1;
                }
            }
        }
    }

    fn step(&mut self, id: u64) -> Step {
        let next = self.next();
        let Some(reader) = self.readers.get_mut(&id) else {
            return Step::Ended;
        };
        let from = (reader.cursor - self.first) as usize;
        for (_, message) in self.kept.iter().skip(from).take(SCAN) {
            let sequence = reader.cursor;
            reader.cursor += 1;
            if message.topic.matches(&reader.pattern) {
                return Step::Found(Delivery {
                    sequence,
                    missed: std::mem::take(&mut reader.missed),
                    message: message.clone(),
                });
            }
        }
        match (reader.cursor < next, self.closed) {
            (true, _) => Step::More,
            (false, true) => Step::Ended,
            (false, false) => Step::Nothing,
        }
    }
}

fn size(message: &Message) -> usize {
    let envelope = &message.envelope;
    OVERHEAD
        + message.topic.as_str().len()
        + envelope.id.len()
        + envelope.source.len()
        + envelope.event_type.len()
        + envelope.subject.as_ref().map_or(0, String::len)
        + envelope.traceparent.as_ref().map_or(0, String::len)
        + envelope.data.len()
}
