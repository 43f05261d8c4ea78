//! The bounded queue behind a driver's one stream of events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use agent_api_driver::DriverEvent;
use futures_core::Stream;
use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct EventQueue {
    inner: Mutex<Inner>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<DriverEvent>,
    /// Events were dropped after the last one in the queue, and no gap says so yet.
    gap: bool,
    read: bool,
    closed: bool,
    waker: Option<Waker>,
}

impl EventQueue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            capacity: capacity.max(1),
        })
    }

    /// Adds an event, or notes a gap where there is no room. What comes while nobody reads is not kept.
    pub(crate) fn push(&self, event: DriverEvent) {
        let mut inner = self.inner.lock();
        if inner.closed || !inner.read {
            return;
        }
        // The gap itself takes room, so that it stands before what comes after it.
        let room = self.capacity - inner.events.len().min(self.capacity);
        if room < 1 + usize::from(inner.gap) {
            inner.gap = true;
        } else {
            if std::mem::take(&mut inner.gap) {
                inner.events.push_back(DriverEvent::Gap(None));
            }
            inner.events.push_back(event);
        }
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    /// Whether pushing has any effect: spares the building of events.
    pub(crate) fn is_read(&self) -> bool {
        self.inner.lock().read
    }

    /// What is in it still comes, then the stream ends.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn read(self: &Arc<Self>) -> EventReader {
        self.inner.lock().read = true;
        EventReader(self.clone())
    }
}

/// The reading end. Dropping it empties the queue.
pub(crate) struct EventReader(Arc<EventQueue>);

impl Stream for EventReader {
    type Item = DriverEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DriverEvent>> {
        let mut inner = self.0.inner.lock();
        if let Some(event) = inner.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if std::mem::take(&mut inner.gap) {
            return Poll::Ready(Some(DriverEvent::Gap(None)));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.read = false;
        inner.gap = false;
        inner.events = VecDeque::new();
        inner.waker = None;
    }
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::Guid;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn drain(reader: &mut EventReader) -> Vec<DriverEvent> {
        std::iter::from_fn(|| reader.next().now_or_never().flatten()).collect()
    }

    #[test]
    fn a_slow_reader_gets_one_gap_where_events_are_missing() {
        let queue = EventQueue::new(3);
        let mut reader = queue.read();
        let events: Vec<_> = (0..6).map(|_| DriverEvent::Gap(Some(Guid::generate()))).collect();
        for event in &events[..5] {
            queue.push(event.clone());
        }
        let mut expected = events[..3].to_vec();
        expected.push(DriverEvent::Gap(None));
        assert_eq!(drain(&mut reader), expected);
        queue.push(events[5].clone());
        assert_eq!(drain(&mut reader), events[5..]);
    }

    #[test]
    fn a_gap_comes_before_what_is_newer() {
        let queue = EventQueue::new(2);
        let mut reader = queue.read();
        let events: Vec<_> = (0..4).map(|_| DriverEvent::Gap(Some(Guid::generate()))).collect();
        for event in &events[..3] {
            queue.push(event.clone());
        }
        assert_eq!(reader.next().now_or_never().flatten(), Some(events[0].clone()));
        assert_eq!(reader.next().now_or_never().flatten(), Some(events[1].clone()));
        queue.push(events[3].clone());
        assert_eq!(drain(&mut reader), [DriverEvent::Gap(None), events[3].clone()]);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let queue = EventQueue::new(8);
        queue.push(DriverEvent::Gap(None));
        let mut reader = queue.read();
        assert_eq!(drain(&mut reader), []);
        queue.push(DriverEvent::Gap(None));
        drop(reader);
        let mut reader = queue.read();
        assert_eq!(drain(&mut reader), []);
        queue.close();
        assert_eq!(reader.next().now_or_never(), Some(None));
    }
}
