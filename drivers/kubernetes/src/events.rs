//! The driver's one stream of events: a bounded queue that says when it lost some.

use std::collections::VecDeque;
use std::sync::Arc;

use agent_api_driver::model::DriverState;
use agent_api_driver::{DriverEvent, EventStream, Observed};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Both ends of the queue.
pub(crate) struct Events {
    queue: Mutex<Queue>,
    news: Notify,
    capacity: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<DriverEvent>,
    /// Some were lost since the last event was taken: said before all that waits.
    gap: bool,
    /// What was said of the health last.
    health: Option<DriverState>,
    lost: u64,
    taken: bool,
    closed: bool,
}

impl Events {
    /// A queue for so many events.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            news: Notify::new(),
            capacity,
        })
    }

    /// The status of an object. Never waits.
    pub(crate) fn status(&self, observed: Observed) {
        self.push(DriverEvent::Status(observed));
    }

    /// Changes may have been missed. Several in a row are one.
    pub(crate) fn gap(&self) {
        self.queue.lock().gap = true;
        self.news.notify_one();
    }

    /// How the driver is: said only when that changed.
    pub(crate) fn health(&self, state: DriverState) {
        let mut queue = self.queue.lock();
        if queue.health.as_ref() == Some(&state) {
            return;
        }
        queue.health = Some(state.clone());
        // Of what waits to be said of the health only the last counts: it is never lost, and never fills the queue.
        queue
            .waiting
            .retain(|event| !matches!(event, DriverEvent::Health(_)));
        queue.waiting.push_back(DriverEvent::Health(state));
        drop(queue);
        self.news.notify_one();
    }

    /// Ends the stream after what is in the queue.
    pub(crate) fn close(&self) {
        let lost = {
            let mut queue = self.queue.lock();
            let first = !std::mem::replace(&mut queue.closed, true);
            if first { queue.lost } else { 0 }
        };
        if lost > 0 {
            tracing::warn!(lost, "events of the kubernetes driver were lost to a slow reader");
        }
        self.news.notify_one();
    }

    /// The stream; the second caller gets one that has ended.
    pub(crate) fn stream(self: &Arc<Self>) -> EventStream {
        if std::mem::replace(&mut self.queue.lock().taken, true) {
            return Box::pin(futures_util::stream::empty());
        }
        let events = Arc::clone(self);
        Box::pin(futures_util::stream::unfold(events, |events| async move {
            let next = events.next().await?;
            Some((next, events))
        }))
    }

    async fn next(&self) -> Option<DriverEvent> {
        loop {
            {
                let mut queue = self.queue.lock();
                if std::mem::take(&mut queue.gap) {
                    return Some(DriverEvent::Gap(None));
                }
                if let Some(event) = queue.waiting.pop_front() {
                    return Some(event);
                }
                if queue.closed {
                    return None;
                }
            }
            // A permit is kept where news came since the queue was looked at.
            self.news.notified().await;
        }
    }

    fn push(&self, event: DriverEvent) {
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        if queue.waiting.len() >= self.capacity {
            queue.gap = true;
            queue.lost += 1;
            return;
        }
        queue.waiting.push_back(event);
        drop(queue);
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{Evidence, EvidenceSource, Guid};
    use agent_api_driver::{ObjectState, ObjectStatus};
    use futures_util::StreamExt;

    use super::*;

    fn observed(revision: u64) -> Observed {
        Observed {
            guid: Guid::generate(),
            handle: None,
            status: ObjectStatus::new(
                ObjectState::Running,
                Evidence::now(EvidenceSource::Event, revision),
            ),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_a_gap_before_what_is_left() {
        let events = Events::new(2);
        let all: Vec<Observed> = (0..4).map(observed).collect();
        for one in &all {
            events.status(one.clone());
        }
        let mut stream = events.stream();
        assert_eq!(stream.next().await, Some(DriverEvent::Gap(None)));
        assert_eq!(stream.next().await, Some(DriverEvent::Status(all[0].clone())));
        assert_eq!(stream.next().await, Some(DriverEvent::Status(all[1].clone())));
        assert_eq!(events.queue.lock().lost, 2);
        events.close();
        assert_eq!(stream.next().await, None);
        assert_eq!(events.stream().next().await, None, "the stream is given once");
    }

    #[tokio::test]
    async fn gaps_and_health_coalesce_and_are_never_lost() {
        let events = Events::new(1);
        events.status(observed(1));
        events.gap();
        events.gap();
        let down = DriverState::Unavailable {
            reason: "down".to_owned(),
        };
        events.health(DriverState::Healthy);
        events.health(down.clone());
        events.health(down.clone());
        let mut stream = events.stream();
        assert_eq!(stream.next().await, Some(DriverEvent::Gap(None)));
        assert!(matches!(stream.next().await, Some(DriverEvent::Status(_))));
        assert_eq!(stream.next().await, Some(DriverEvent::Health(down.clone())));
        events.health(down);
        events.close();
        assert_eq!(stream.next().await, None, "what was said is not said again");
    }

    #[tokio::test]
    async fn wakes_a_reader_that_waits() {
        let events = Events::new(8);
        let mut stream = events.stream();
        let reader = tokio::spawn(async move { stream.next().await });
        tokio::task::yield_now().await;
        events.gap();
        assert_eq!(reader.await.unwrap(), Some(DriverEvent::Gap(None)));
    }
}
