//! The driver's one stream of events: a bounded queue that says when it lost some.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agent_api_driver::{DriverEvent, EventStream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// How many events wait for a slow reader before a `Gap` stands for the rest.
const QUEUE: usize = 4096;

/// Both ends of the queue.
pub(crate) struct Events {
    sender: Mutex<Option<mpsc::Sender<DriverEvent>>>,
    receiver: Mutex<Option<mpsc::Receiver<DriverEvent>>>,
    lost: Arc<AtomicBool>,
    count_lost: AtomicU64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self::with_queue(QUEUE)
    }

    fn with_queue(queue: usize) -> Self {
        let (sender, receiver) = mpsc::channel(queue);
        Self {
            sender: Mutex::new(Some(sender)),
            receiver: Mutex::new(Some(receiver)),
            lost: Arc::default(),
            count_lost: AtomicU64::new(0),
        }
    }

    /// Sends an event, or notes that one was lost. Never waits.
    pub(crate) fn send(&self, event: DriverEvent) {
        if let Some(sender) = &*self.sender.lock()
            && let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event)
        {
            self.count_lost.fetch_add(1, Ordering::Relaxed);
            self.lost.store(true, Ordering::Release);
        }
    }

    /// The stream; the second caller gets one that has ended.
    pub(crate) fn stream(&self) -> EventStream {
        let Some(receiver) = self.receiver.lock().take() else {
            return Box::pin(futures_util::stream::empty());
        };
        let lost = Arc::clone(&self.lost);
        Box::pin(futures_util::stream::unfold(
            (receiver, lost),
            |(mut receiver, lost)| async move {
                // Set only while the queue is full, so it is seen at the latest before the queue has been read empty.
                if lost.swap(false, Ordering::AcqRel) {
                    return Some((DriverEvent::Gap(None), (receiver, lost)));
                }
                let event = receiver.recv().await?;
                Some((event, (receiver, lost)))
            },
        ))
    }

    /// Ends the stream after what is in the queue.
    pub(crate) fn close(&self) {
        if self.sender.lock().take().is_some() {
            let lost = self.count_lost.load(Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "events of the Ray driver were lost to a slow reader");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::Guid;
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_slow_reader_gets_a_gap() {
        let events = Events::with_queue(2);
        let guids: Vec<_> = (0..4).map(|_| Guid::generate()).collect();
        for guid in &guids {
            events.send(DriverEvent::Gap(Some(*guid)));
        }
        let mut stream = events.stream();
        assert_eq!(stream.next().await, Some(DriverEvent::Gap(None)));
        assert_eq!(stream.next().await, Some(DriverEvent::Gap(Some(guids[0]))));
        events.close();
        assert_eq!(stream.next().await, Some(DriverEvent::Gap(Some(guids[1]))));
        assert_eq!(stream.next().await, None);
        assert_eq!(events.stream().next().await, None);
    }
}
