//! What is known about the journal while it runs: shared by the writer, the snapshots and the callers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::ticket::Lsn;

/// Numbers of a running journal.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Segments on disk, the current one included.
    pub segments: usize,
    /// Bytes of records and frames in those segments.
    pub bytes: u64,
    /// Bytes of records and frames written since the latest snapshot's mark (since the first record without one).
    pub bytes_since_snapshot: u64,
    /// Records made durable since the journal was opened.
    pub records: u64,
    /// Commits, each one write and one fdatasync, since then.
    pub commits: u64,
    /// The most records in one commit.
    pub group_max: u64,
    /// Records per commit on average.
    pub group_mean: f64,
    /// All records with a number below this are durable.
    pub durable: Lsn,
    /// Bytes queued or being written.
    pub queue_bytes: usize,
    /// Records refused because the disk is full, since the journal was opened.
    pub refused_full: u64,
    /// Records whose write or sync failed.
    pub failed: u64,
    /// `Normal` records are refused until there is space again.
    pub storage_full: bool,
    /// The reserve for `Reserved` records is there.
    pub reserve_ready: bool,
    /// Damaged pieces that were found when the journal was opened.
    pub quarantined: usize,
    /// The latest failed file operation, in words.
    pub last_error: Option<String>,
}

/// A segment on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentInfo {
    /// Bytes of frames.
    pub(crate) bytes: u64,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) segments: BTreeMap<u64, SegmentInfo>,
    /// Valid snapshots by the first segment they do not cover.
    pub(crate) snapshots: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) full: AtomicBool,
    pub(crate) reserve_ready: AtomicBool,
    /// Something lacks (space, the current segment, the next one): try again on a timer.
    pub(crate) ailing: AtomicBool,
    pub(crate) catalog: Mutex<Catalog>,
    pub(crate) counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: u64,
    pub(crate) commits: u64,
    pub(crate) group_max: u64,
    pub(crate) durable: u64,
    pub(crate) refused_full: u64,
    pub(crate) failed: u64,
    pub(crate) quarantined: usize,
    pub(crate) last_error: Option<String>,
}

impl Status {
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Notes a failed file operation.
    pub(crate) fn note(&self, what: &str, error: &std::io::Error) {
        let text = format!("{what}: {error}");
        let mut counters = self.counters.lock();
        if counters.last_error.as_deref() != Some(&text) {
            tracing::warn!(error = %error, "journal: {what}");
            counters.last_error = Some(text);
        }
    }

    pub(crate) fn stats(&self, queue_bytes: usize) -> Stats {
        let (segments, bytes, bytes_since_snapshot) = {
            let catalog = self.catalog.lock();
            let covers = catalog.snapshots.last().copied().unwrap_or(0);
            let bytes = catalog.segments.values().map(|segment| segment.bytes).sum();
            let since = catalog
                .segments
                .range(covers..)
                .map(|(_, segment)| segment.bytes)
                .sum();
            (catalog.segments.len(), bytes, since)
        };
        let counters = self.counters.lock();
        Stats {
            segments,
            bytes,
            bytes_since_snapshot,
            records: counters.records,
            commits: counters.commits,
            group_max: counters.group_max,
            group_mean: if counters.commits == 0 {
                0.0
            } else {
                counters.records as f64 / counters.commits as f64
            },
            durable: Lsn(counters.durable),
            queue_bytes,
            refused_full: counters.refused_full,
            failed: counters.failed,
            storage_full: self.is_full(),
            reserve_ready: self.reserve_ready.load(Ordering::Acquire),
            quarantined: counters.quarantined,
            last_error: counters.last_error.clone(),
        }
    }
}
