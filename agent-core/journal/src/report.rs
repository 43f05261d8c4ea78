//! What an open found.

use std::fmt;

use crate::ticket::Lsn;

/// What replay hands over, in order: first the records of the newest intact snapshot, then those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed<'a> {
    /// A record of the snapshot.
    Snapshot(&'a [u8]),
    /// A record of the log.
    Record {
        /// Its number.
        lsn: Lsn,
        /// Its bytes, as appended.
        bytes: &'a [u8],
    },
}

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The snapshot that replay began from.
    pub snapshot: Option<SnapshotInfo>,
    /// Segments replayed.
    pub segments: usize,
    /// Records of the log replayed.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// The last thing in the log is the mark of an orderly stop.
    pub sealed: bool,
    /// Records that are known to have been durable and are not there any more (the numbering has holes). They are
    /// reported at each open until a snapshot makes them obsolete.
    pub lost_records: u64,
    /// Records found whole but not replayed, because their writer was told that they had failed.
    pub discarded: u64,
    /// Damage, piece by piece.
    pub quarantined: Vec<Quarantined>,
    /// Files in the directory that are not the journal's; left alone.
    pub foreign_files: Vec<String>,
}

impl RecoveryReport {
    /// True if nothing was damaged or missing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.quarantined.is_empty() && self.lost_records == 0
    }
}

/// A snapshot that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its records.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// The first record of the log that it does not cover.
    pub lsn: Lsn,
}

/// A piece of damage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// The damaged file.
    pub file: String,
    /// Offset in bytes at which the damage begins; everything before it was kept.
    pub offset: u64,
    /// Bytes not read because of it.
    pub bytes_lost: u64,
    /// What is wrong.
    pub reason: Reason,
    /// Records that still verify behind the damage. They are in the copy, and are not replayed.
    pub later_valid_records: u64,
    /// The damage is at the end of the log, or where the next segment says that nothing more was acknowledged: most
    /// likely the rest of a write that failed, or was under way in a crash. False: acknowledged records are lost.
    pub maybe_unacknowledged: bool,
    /// Name of the copy in `quarantine/`; `None` if no copy could be made (then the damaged file was left as it
    /// is, and will be reported again).
    pub copy: Option<String>,
}

/// What is wrong with a piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The file's header is no header of this journal.
    Header,
    /// No frame begins where one should.
    NoFrame,
    /// A frame is longer than its file.
    Length,
    /// A frame does not verify.
    Checksum,
    /// A snapshot ends before its last record.
    Incomplete,
    /// The system could not read the file.
    Unreadable(String),
    /// The record is whole, but whoever replays it could not make use of it.
    Refused(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("damaged header"),
            Self::NoFrame => f.write_str("no record where one should begin"),
            Self::Length => f.write_str("record longer than its file"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Incomplete => f.write_str("incomplete snapshot"),
            Self::Unreadable(error) => write!(f, "unreadable: {error}"),
            Self::Refused(reason) => write!(f, "record refused: {reason}"),
        }
    }
}
