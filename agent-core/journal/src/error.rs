//! What can go wrong, and what it means for the record.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::lock::LockError;

/// Why a journal was not opened. Damage is never among the reasons.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("journal configuration: {fault}")]
    Config {
        /// What is wrong, naming the field.
        fault: String,
    },
    /// Another process has the journal, or the lock file cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory cannot be made or read.
    #[error("cannot use the journal directory {}: check that it exists and that this user may write to it", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file was written by a newer version. Nothing was changed.
    #[error(
        "{} has journal format {found}, this version knows up to {known}: run the newer version, or move the directory away",
        file.display()
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest format version known here.
        known: u32,
    },
    /// The writer thread could not be started.
    #[error("cannot start the journal's writer thread")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a record was not taken. It was not written, and is not replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Too much waits to be written; try again later.
    #[error("the journal's queue is full ({queued} of {limit} bytes wait to be written): try again later")]
    Busy {
        /// Bytes queued or being written.
        queued: usize,
        /// The bound for this class of records.
        limit: usize,
    },
    /// The disk is full; only `Reserved` records are taken until there is space.
    #[error("the disk of the journal is full: free some space, the journal goes on by itself")]
    StorageFull,
    /// The record is larger than `max_record_bytes`.
    #[error("a record of {len} bytes is larger than the limit of {max} bytes")]
    TooLarge {
        /// The record's size in bytes.
        len: usize,
        /// `max_record_bytes`.
        max: usize,
    },
    /// The journal was sealed or its writer ended.
    #[error("the journal is closed")]
    Closed,
}

/// How the wait for a record's durability ended, if not well.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Refused: the disk is full. The record was not written, and is not replayed.
    #[error("the disk of the journal is full, the record was not written: free some space and try again")]
    StorageFull,
    /// Refused: no segment could be opened. The record was not written, and is not replayed.
    #[error("the journal has no usable segment, the record was not written")]
    NotWritten {
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The write or the sync failed: **the outcome is not known.** The record counts as not durable and must not
    /// be acknowledged, yet its bytes may have reached the disk: a crash right now may replay it. As soon as any
    /// later append has succeeded, it is certain that this record is not replayed (the next segment says where
    /// this one ended).
    #[error("writing to the journal failed, it is not known whether the record is on disk")]
    OutcomeUnknown {
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The journal ended before the record was written.
    #[error("the journal closed before the record was written")]
    Closed,
}

impl JournalError {
    /// True if space on the disk (or quota) was what lacked.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        match self {
            Self::StorageFull => true,
            Self::NotWritten { source } | Self::OutcomeUnknown { source } => is_full(source),
            Self::Closed => false,
        }
    }

    /// True if the record is certainly not on disk; false if that is not known.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::StorageFull | Self::NotWritten { .. })
    }
}

/// Why a snapshot was not finished. The journal goes on as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file could not be written and synced; nothing was removed.
    #[error("cannot write the snapshot {}", file.display())]
    Write {
        /// The snapshot's file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A snapshot with this mark, or a later one, exists already.
    #[error(
        "the mark at segment {mark} is not newer than the latest snapshot, at segment {latest}: begin a new one"
    )]
    Stale {
        /// The mark's segment.
        mark: u64,
        /// The latest snapshot's segment.
        latest: u64,
    },
    /// One record is larger than a frame can say.
    #[error("a snapshot record of {len} bytes is too large")]
    TooLarge {
        /// The record's size in bytes.
        len: usize,
    },
}

/// Why an orderly stop was not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The disk did not answer in time. The writer is left to itself; what was not acknowledged may be lost.
    #[error("the journal's writer did not finish in time: the disk hangs")]
    Deadline,
    /// Everything acknowledged is on disk, only the end mark is not.
    #[error("the journal's end mark could not be written")]
    EndMark(#[source] JournalError),
}

/// True if the error means that there is no space, or no quota, left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
