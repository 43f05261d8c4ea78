//! A reader of a ring.

use std::pin::Pin;
use std::task::{Context, Poll};

use agent_api_bus_out::Delivery;
use agent_api_model::Result;
use futures_core::Stream;

use crate::TopicRing;

/// Reads a [`TopicRing`]: a stream of deliveries. Dropping it ends the subscription.
#[derive(Debug)]
pub struct TopicReader {
    ring: TopicRing,
    id: u64,
}

impl TopicReader {
    pub(crate) fn new(ring: TopicRing, id: u64) -> Self {
        Self { ring, id }
    }

    /// The next delivery; none when the ring is closed and read to its end.
    pub fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.ring.poll_reader(self.id, cx)
    }
}

impl Stream for TopicReader {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx).map(|delivery| delivery.map(Ok))
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.ring.leave(self.id);
    }
}
