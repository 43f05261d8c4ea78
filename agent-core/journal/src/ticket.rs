//! Waiting for a record to be durable. All records of one commit share one group, so that a commit wakes exactly
//! those who wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::JournalError;

/// The number of a record: the first of a journal is 0, each durable record has one more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record came to lie; for a snapshot mark, where the next one will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) lsn: u64,
}

pub(crate) type EntryResult = Result<Place, JournalError>;

/// The records that are committed together.
#[derive(Default)]
pub(crate) struct Group {
    inner: Mutex<GroupInner>,
}

#[derive(Default)]
struct GroupInner {
    outcome: Option<Box<[EntryResult]>>,
    waiters: Vec<Waker>,
}

impl Group {
    /// Wakes all waiters; the first outcome stays.
    pub(crate) fn resolve(&self, outcome: Vec<EntryResult>) {
        let waiters = {
            let mut inner = self.inner.lock();
            if inner.outcome.is_some() {
                return;
            }
            inner.outcome = Some(outcome.into_boxed_slice());
            std::mem::take(&mut inner.waiters)
        };
        for waiter in waiters {
            waiter.wake();
        }
    }
}

/// Does the writing when nobody else does (`CommitMode::Inline`).
pub(crate) trait Drive: Send + Sync {
    fn drive(&self);
}

/// A future that resolves when the record is on disk, with its number.
///
/// Dropping it cancels nothing: the record is written all the same. It may be awaited on any runtime, or waited
/// for on a plain thread with [`wait`](Self::wait).
#[must_use = "a record may be acknowledged only after its ticket has resolved"]
pub struct Ticket {
    group: Arc<Group>,
    index: usize,
    slot: Option<usize>,
    driver: Option<Weak<dyn Drive>>,
}

impl Ticket {
    pub(crate) fn new(group: Arc<Group>, index: usize, driver: Option<Weak<dyn Drive>>) -> Self {
        Self {
            group,
            index,
            slot: None,
            driver,
        }
    }

    /// Blocks this thread until the record is on disk; `None` when that takes longer than `limit`, after which
    /// one may wait again. Not for async code.
    pub fn wait(&mut self, limit: Duration) -> Option<Result<Lsn, JournalError>> {
        self.wait_place(limit)
            .map(|result| result.map(|place| Lsn(place.lsn)))
    }

    pub(crate) fn wait_place(&mut self, limit: Duration) -> Option<EntryResult> {
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(signal.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = self.poll_place(&mut cx) {
                return Some(result);
            }
            let mut woken = signal.woken.lock();
            if !*woken && signal.condvar.wait_for(&mut woken, limit).timed_out() {
                return None;
            }
            *woken = false;
        }
    }

    pub(crate) fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<EntryResult> {
        if let Some(driver) = self.driver.take().and_then(|driver| driver.upgrade()) {
            driver.drive();
        }
        let mut inner = self.group.inner.lock();
        if let Some(outcome) = &inner.outcome {
            // A group that ended without a word for this record did so because the writer is gone.
            return Poll::Ready(
                outcome
                    .get(self.index)
                    .cloned()
                    .unwrap_or(Err(JournalError::Closed)),
            );
        }
        match self.slot {
            Some(slot) => inner.waiters[slot].clone_from(cx.waker()),
            None => {
                self.slot = Some(inner.waiters.len());
                inner.waiters.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Future for Ticket {
    type Output = Result<Lsn, JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_place(cx)
            .map(|result| result.map(|place| Lsn(place.lsn)))
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// A snapshot mark in the making: a future that resolves when the journal has moved on to a new segment.
#[must_use = "a snapshot needs its mark"]
#[derive(Debug)]
pub struct MarkTicket(pub(crate) Ticket);

/// What a snapshot covers: exactly the records appended before the mark was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    pub(crate) segment: u64,
    pub(crate) lsn: u64,
}

impl SnapshotMark {
    /// The first record that the snapshot does not cover.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }
}

impl From<Place> for SnapshotMark {
    fn from(place: Place) -> Self {
        Self {
            segment: place.segment,
            lsn: place.lsn,
        }
    }
}

impl MarkTicket {
    /// As [`Ticket::wait`].
    pub fn wait(&mut self, limit: Duration) -> Option<Result<SnapshotMark, JournalError>> {
        self.0
            .wait_place(limit)
            .map(|result| result.map(SnapshotMark::from))
    }
}

impl Future for MarkTicket {
    type Output = Result<SnapshotMark, JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_place(cx).map(|result| result.map(SnapshotMark::from))
    }
}

/// Wakes a plain thread.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.condvar.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolved_group_answers_each_of_its_tickets() {
        let group = Arc::new(Group::default());
        let mut first = Ticket::new(group.clone(), 0, None);
        let mut second = Ticket::new(group.clone(), 1, None);
        let mut beyond = Ticket::new(group.clone(), 2, None);
        assert!(first.wait(Duration::from_millis(1)).is_none());
        group.resolve(vec![
            Ok(Place { segment: 1, lsn: 41 }),
            Err(JournalError::StorageFull),
        ]);
        let limit = Duration::from_secs(30);
        assert_eq!(first.wait(limit).unwrap().unwrap(), Lsn(41));
        assert!(second.wait(limit).unwrap().unwrap_err().is_storage_full());
        assert!(matches!(beyond.wait(limit), Some(Err(JournalError::Closed))));
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let group = Arc::new(Group::default());
        let mut ticket = Ticket::new(group.clone(), 0, None);
        let waiter = std::thread::spawn(move || ticket.wait(Duration::from_secs(30)));
        group.resolve(vec![Ok(Place { segment: 1, lsn: 3 })]);
        assert_eq!(waiter.join().unwrap().unwrap().unwrap(), Lsn(3));
    }
}
