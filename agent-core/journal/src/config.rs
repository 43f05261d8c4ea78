//! What a journal is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;
use crate::format::{DATA_START, FRAME_HEADER, MAX_SEGMENT_BYTES};

/// Who does the writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommitMode {
    /// One dedicated thread writes everything that is queued as one group. For production.
    #[default]
    Thread,
    /// Whoever waits for a [`Ticket`](crate::Ticket) writes what is queued, on its own thread. There is no other
    /// thread, so the order of all file operations is fixed and a paused tokio clock does not run ahead of the
    /// disk. For tests and simulations: the poll blocks.
    Inline,
}

/// How a journal is laid out and bounded. [`JournalConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// The journal's own directory; made with mode 0700 if absent. Nothing else may live in it.
    pub dir: PathBuf,
    /// Size of a segment in bytes, zero-filled ahead of use. Default 16 MiB, at most 1 GiB.
    pub segment_bytes: u64,
    /// Size in bytes of the reserve that [`Class::Reserved`](crate::Class::Reserved) records may use when the disk
    /// is full; 0 for none. Default 4 MiB.
    pub reserve_bytes: u64,
    /// The largest record, in bytes. Default 1 MiB.
    pub max_record_bytes: usize,
    /// Bound on the bytes queued or being written, frames included. `Normal` records beyond it are refused as
    /// busy; `Reserved` ones have a quarter more. Default 8 MiB.
    pub queue_bytes: usize,
    /// Bound in bytes on `quarantine/`; its oldest files are removed beyond it. Default 256 MiB.
    pub quarantine_bytes: u64,
    /// How long a record that nobody waits for ([`Journal::note`](crate::Journal::note)) may stay unwritten while nothing
    /// else is appended. Default 5 ms.
    pub note_delay: Duration,
    /// How often a journal without space, or without a usable segment, tries again. Default 250 ms.
    pub heal_interval: Duration,
    /// How long a drop without [`seal`](crate::Journal::seal) waits for the writer. Default 5 s.
    pub drop_wait: Duration,
    /// Who does the writing. Default: a thread.
    pub mode: CommitMode,
}

/// Size in bytes of the first segment of a new journal: small, so that a first start need not wait for the
/// zero-filling of a whole one.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

impl JournalConfig {
    /// The defaults, for a journal in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 16 << 20,
            reserve_bytes: 4 << 20,
            max_record_bytes: 1 << 20,
            queue_bytes: 8 << 20,
            quarantine_bytes: 256 << 20,
            note_delay: Duration::from_millis(5),
            heal_interval: Duration::from_millis(250),
            drop_wait: Duration::from_secs(5),
            mode: CommitMode::Thread,
        }
    }

    pub(crate) fn first_segment_bytes(&self) -> u64 {
        self.segment_bytes
            .min(FIRST_SEGMENT_BYTES.max(self.smallest_file()))
    }

    /// The smallest file that holds the largest record.
    fn smallest_file(&self) -> u64 {
        DATA_START + (FRAME_HEADER + self.max_record_bytes.next_multiple_of(8)) as u64
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let most_record = (MAX_SEGMENT_BYTES / 2) as usize;
        if self.max_record_bytes > most_record {
            let fault = format!("max_record_bytes must be at most {most_record}");
            return Err(OpenError::Config { fault });
        }
        let need = self.smallest_file();
        let fault = if !(need..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            format!("segment_bytes must be {need} (one record of max_record_bytes) to {MAX_SEGMENT_BYTES}")
        } else if self.reserve_bytes != 0 && !(need..=MAX_SEGMENT_BYTES).contains(&self.reserve_bytes) {
            format!(
                "reserve_bytes must be 0 or {need} (one record of max_record_bytes) to {MAX_SEGMENT_BYTES}"
            )
        } else if self.queue_bytes < self.max_record_bytes + 2 * FRAME_HEADER {
            "queue_bytes must hold one record of max_record_bytes".to_owned()
        } else if self.heal_interval.is_zero() {
            "heal_interval must not be zero".to_owned()
        } else {
            return Ok(());
        };
        Err(OpenError::Config { fault })
    }
}
