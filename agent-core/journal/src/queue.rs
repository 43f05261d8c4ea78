//! What waits to be written: bounded, in the order of the appends.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::AppendError;
use crate::format::frame_len;
use crate::ticket::Group;

/// What a record may use when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Refused when the disk is full.
    #[default]
    Normal,
    /// May use the preallocated reserve when the disk is full, and a quarter more of the queue: for the records
    /// without which nothing can be stopped or deleted.
    Reserved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Record(Class),
    Mark,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) len: usize,
}

/// Everything that was queued when the writer came by.
#[derive(Default)]
pub(crate) struct Batch {
    /// The payloads, one after the other.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) group: Arc<Group>,
}

impl Batch {
    /// Size in the queue's account.
    pub(crate) fn charge(&self) -> usize {
        self.entries.iter().map(|entry| frame_len(entry.len)).sum()
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    next: Batch,
    /// Bytes queued or being written, frames included.
    pub(crate) charged: usize,
    /// Somebody waits for what is queued.
    pub(crate) urgent: bool,
    /// When what is queued is written although nobody waits for it.
    pub(crate) due: Option<Instant>,
    pub(crate) closing: bool,
    /// The writer waits for work and must be woken.
    pub(crate) sleeping: bool,
    /// The helper thread has ended: its result wants to be taken.
    pub(crate) nudged: bool,
    /// The writer has ended.
    pub(crate) finished: bool,
}

/// Buffers larger than this are given back after use.
const KEEP_BYTES: usize = 256 << 10;
const KEEP_ENTRIES: usize = 4096;

impl Queue {
    /// Adds an entry; the group and the index in it.
    pub(crate) fn push(
        &mut self,
        record: &[u8],
        kind: EntryKind,
        urgent: bool,
        limit: usize,
    ) -> Result<(Arc<Group>, usize), AppendError> {
        if self.closing || self.finished {
            return Err(AppendError::Closed);
        }
        let limit = if kind == EntryKind::Record(Class::Normal) {
            limit
        } else {
            limit + limit / 4
        };
        let charge = frame_len(record.len());
        if self.charged + charge > limit {
            return Err(AppendError::Busy {
                queued: self.charged,
                limit,
            });
        }
        self.charged += charge;
        self.urgent |= urgent;
        self.next.bytes.extend_from_slice(record);
        self.next.entries.push(Entry {
            kind,
            len: record.len(),
        });
        Ok((self.next.group.clone(), self.next.entries.len() - 1))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next.entries.is_empty()
    }

    /// Takes all that is queued, and puts a used batch's buffers in its place.
    pub(crate) fn take(&mut self, used: Batch) -> Batch {
        let Batch {
            mut bytes,
            mut entries,
            ..
        } = used;
        bytes.clear();
        bytes.shrink_to(KEEP_BYTES);
        entries.clear();
        entries.shrink_to(KEEP_ENTRIES);
        self.urgent = false;
        self.due = None;
        std::mem::replace(
            &mut self.next,
            Batch {
                bytes,
                entries,
                group: Arc::default(),
            },
        )
    }

    /// The writer is gone: nothing is taken any more, and who waits is told.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        self.next.group.resolve(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_with_room_for_the_reserved() {
        let mut queue = Queue::default();
        let record = [0u8; 84]; // 104 bytes with its frame
        for _ in 0..9 {
            queue
                .push(&record, EntryKind::Record(Class::Normal), true, 1000)
                .unwrap();
        }
        let refused = queue.push(&record, EntryKind::Record(Class::Normal), true, 1000);
        assert_eq!(
            refused.err(),
            Some(AppendError::Busy {
                queued: 936,
                limit: 1000
            })
        );
        queue
            .push(&record, EntryKind::Record(Class::Reserved), true, 1000)
            .unwrap();
        queue
            .push(&record, EntryKind::Record(Class::Reserved), true, 1000)
            .unwrap();
        queue
            .push(&record, EntryKind::Record(Class::Reserved), true, 1000)
            .unwrap();
        let refused = queue.push(&record, EntryKind::Record(Class::Reserved), true, 1000);
        assert_eq!(
            refused.err(),
            Some(AppendError::Busy {
                queued: 1248,
                limit: 1250
            })
        );
        let batch = queue.take(Batch::default());
        assert_eq!(batch.charge(), 1248);
        assert!(queue.is_empty());
        queue.finish();
        assert_eq!(
            queue.push(b"", EntryKind::Mark, true, 1000).err(),
            Some(AppendError::Closed)
        );
    }
}
