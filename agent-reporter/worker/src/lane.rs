//! A bounded first-in first-out lane, its room counted in bytes.

use std::collections::VecDeque;

/// Items that wait or are being written. What is being written still counts against the room.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    waiting: VecDeque<Item<T>>,
    waiting_bytes: usize,
    /// The number of the oldest item being written, and the bytes of all of them.
    in_flight: Option<(u64, usize)>,
    capacity: usize,
    next: u64,
}

#[derive(Debug)]
struct Item<T> {
    number: u64,
    bytes: usize,
    value: T,
}

impl<T> Lane<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: None,
            capacity,
            next: 0,
        }
    }

    /// Gives it more or less room; what is in it stays.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting_bytes + self.in_flight.map_or(0, |(_, bytes)| bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// The number the next item will get: all items taken in so far have smaller ones.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// The number of the oldest item that is not written yet.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.in_flight
            .map(|(number, _)| number)
            .or_else(|| self.waiting.front().map(|item| item.number))
    }

    /// Whether `bytes` fit. Something fits always where the lane is empty, so that nothing is too large for ever.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.is_empty() || self.bytes().saturating_add(bytes) <= self.capacity
    }

    /// Puts an item at the end, whether or not it fits.
    pub(crate) fn push(&mut self, bytes: usize, value: T) {
        self.waiting.push_back(Item {
            number: self.next,
            bytes,
            value,
        });
        self.waiting_bytes += bytes;
        self.next += 1;
    }

    /// Puts an item at the end and drops the oldest that wait until it fits; where even that makes no room it is
    /// dropped itself.
    pub(crate) fn push_dropping_oldest(&mut self, bytes: usize, value: T, mut dropped: impl FnMut(T)) {
        while !self.fits(bytes) {
            match self.waiting.pop_front() {
                Some(item) => {
                    self.waiting_bytes -= item.bytes;
                    dropped(item.value);
                }
                None => return dropped(value),
            }
        }
        self.push(bytes, value);
    }

    /// Takes the oldest items to be written: at least one where there is one, at most `items`, about `bytes`.
    pub(crate) fn take(&mut self, items: usize, bytes: usize) -> Vec<T> {
        debug_assert!(
            self.in_flight.is_none(),
            "what was taken before must be done first"
        );
        let mut taken = Vec::new();
        let mut taken_bytes = 0;
        while let Some(front) = self.waiting.front() {
            if !taken.is_empty() && (taken.len() >= items || taken_bytes + front.bytes > bytes) {
                break;
            }
            let Some(item) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_bytes -= item.bytes;
            taken_bytes += item.bytes;
            let first = self.in_flight.map_or(item.number, |(number, _)| number);
            self.in_flight = Some((first, taken_bytes));
            taken.push(item.value);
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 1_024 {
            self.waiting.shrink_to(64);
        }
        taken
    }

    /// What was taken is written, or given up.
    pub(crate) fn done(&mut self) {
        self.in_flight = None;
    }

    /// Empties what waits.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|item| item.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_oldest_that_wait_and_counts_what_is_in_flight() {
        let mut lane = Lane::new(10);
        let mut dropped = Vec::new();
        for value in 0..3 {
            lane.push_dropping_oldest(4, value, |value| dropped.push(value));
        }
        assert_eq!((dropped.as_slice(), lane.bytes()), ([0].as_slice(), 8));
        assert_eq!(lane.take(1, 100), [1]);
        assert_eq!((lane.bytes(), lane.oldest()), (8, Some(1)));
        lane.push_dropping_oldest(4, 3, |value| dropped.push(value));
        assert_eq!(dropped, [0, 2], "what is being written is never dropped");
        lane.push_dropping_oldest(9, 4, |value| dropped.push(value));
        assert_eq!(dropped, [0, 2, 3, 4], "no room beside what is being written");
        lane.done();
        assert!(lane.is_empty() && lane.bytes() == 0);
        lane.push_dropping_oldest(99, 5, |value| dropped.push(value));
        assert_eq!(lane.take(1, 1), [5], "an empty lane takes anything");
    }

    #[test]
    fn takes_by_count_and_bytes() {
        let mut lane = Lane::new(100);
        (0..10).for_each(|value| lane.push(10, value));
        assert_eq!(lane.take(3, 100), [0, 1, 2]);
        lane.done();
        assert_eq!(lane.take(100, 25), [3, 4]);
        assert_eq!(lane.oldest(), Some(3));
        lane.done();
        assert_eq!((lane.oldest(), lane.next_number()), (Some(5), 10));
        assert_eq!(lane.drain().count(), 5);
        assert_eq!(lane.bytes(), 0);
    }
}
