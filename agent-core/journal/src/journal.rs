//! The journal as its users see it.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{CommitMode, JournalConfig};
use crate::error::{AppendError, OpenError, SealError, SnapshotError};
use crate::queue::{Class, EntryKind};
use crate::recovery::recover;
use crate::report::{RecoveryReport, Replayed};
use crate::segment::Maker;
use crate::shared::Shared;
use crate::snapshot;
use crate::status::Stats;
use crate::ticket::{Drive, MarkTicket, SnapshotMark, Ticket};
use crate::vfs::{RealVfs, Vfs};

/// An open journal. Share it in an [`Arc`]; all methods take `&self`.
///
/// Dropping it without [`seal`](Self::seal) still writes what is queued, waiting at most
/// [`drop_wait`](JournalConfig::drop_wait) for it.
pub struct Journal {
    shared: Arc<Shared>,
    maker: Maker,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// One snapshot at a time.
    snapshots: Mutex<()>,
}

/// Everything that an open found, in memory. For tests and tools; [`Journal::open`] hands records over one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records of the snapshot, if there was one.
    pub snapshot: Option<Vec<Vec<u8>>>,
    /// Records of the log after it.
    pub records: Vec<Vec<u8>>,
    /// What was found.
    pub report: RecoveryReport,
}

impl Journal {
    /// Opens the journal in `config.dir` on the real file system, and hands its records to `visitor` in order: the
    /// newest intact snapshot, then what follows it. Blocks; not for a runtime thread.
    ///
    /// Damage is set aside and reported, never a reason not to open. If the visitor answers with an error, a copy
    /// of that one record goes to the quarantine under that reason, and replay goes on.
    ///
    /// # Errors
    /// Only if the configuration contradicts itself, another process has the journal, the directory cannot be made
    /// or read, a file is of a newer format (nothing is changed then), or no thread can be started.
    pub fn open(
        config: JournalConfig,
        visitor: impl FnMut(Replayed<'_>) -> Result<(), String>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_on(Arc::new(RealVfs::new()), config, visitor)
    }

    /// [`open`](Self::open) on a given file system.
    pub fn open_on(
        vfs: Arc<dyn Vfs>,
        config: JournalConfig,
        mut visitor: impl FnMut(Replayed<'_>) -> Result<(), String>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        config.check()?;
        let config = Arc::new(config);
        vfs.create_dir(&config.dir)
            .map_err(|source| OpenError::Directory {
                dir: config.dir.clone(),
                source,
            })?;
        let lock = vfs.lock(&config.dir)?;
        let maker = Maker {
            vfs,
            dir: config.dir.clone(),
        };
        let (writer, report) = recover(&config, maker.clone(), &mut visitor)?;
        let shared = Arc::new(Shared::new(config, writer, lock));
        let thread = match shared.config.mode {
            CommitMode::Inline => None,
            CommitMode::Thread => {
                let shared = shared.clone();
                let spawned = thread::Builder::new()
                    .name("journal".to_owned())
                    .spawn(move || shared.run());
                Some(spawned.map_err(|source| OpenError::Thread { source })?)
            }
        };
        let journal = Self {
            shared,
            maker,
            thread: Mutex::new(thread),
            snapshots: Mutex::new(()),
        };
        Ok((journal, report))
    }

    /// [`open_on`](Self::open_on), with everything gathered in memory.
    pub fn open_collected(vfs: Arc<dyn Vfs>, config: JournalConfig) -> Result<(Self, Recovered), OpenError> {
        let (mut in_snapshot, mut records) = (Vec::new(), Vec::new());
        let (journal, report) = Self::open_on(vfs, config, |replayed| {
            match replayed {
                Replayed::Snapshot(bytes) => in_snapshot.push(bytes.to_vec()),
                Replayed::Record { bytes, .. } => records.push(bytes.to_vec()),
            }
            Ok(())
        })?;
        let snapshot = report.snapshot.as_ref().map(|_| in_snapshot);
        Ok((
            journal,
            Recovered {
                snapshot,
                records,
                report,
            },
        ))
    }

    /// Queues a record and returns at once. Records are written in the order of the appends. The record is durable
    /// when the ticket has resolved well, not before.
    ///
    /// # Errors
    /// The record was not taken: too large, the queue or the disk full, the journal closed.
    pub fn append(&self, record: &[u8], class: Class) -> Result<Ticket, AppendError> {
        self.check(record, class)?;
        self.push(record, EntryKind::Record(class), true)
    }

    /// Queues a record that nobody waits for: it is on disk before anything appended later is, and with it, or after
    /// [`JournalConfig::note_delay`](crate::JournalConfig::note_delay) by itself. So it costs no sync of its own, and is lost
    /// where power or the process goes in between.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn note(&self, record: &[u8], class: Class) -> Result<(), AppendError> {
        self.check(record, class)?;
        self.push(record, EntryKind::Record(class), false).map(drop)
    }

    fn check(&self, record: &[u8], class: Class) -> Result<(), AppendError> {
        let max = self.shared.config.max_record_bytes;
        if record.len() > max {
            return Err(AppendError::TooLarge {
                len: record.len(),
                max,
            });
        }
        if class == Class::Normal && self.shared.status.is_full() {
            if self.shared.config.mode == CommitMode::Inline {
                self.shared.heal_inline();
            }
            if self.shared.status.is_full() {
                self.shared.status.counters.lock().refused_full += 1;
                return Err(AppendError::StorageFull);
            }
        }
        Ok(())
    }

    /// Asks for the point from which a snapshot will replace the log: the ticket resolves when everything appended
    /// before this call is durable and the journal has moved on to a new segment. Take the state that the snapshot
    /// shall hold after this call: it may include later records if replaying those again does no harm.
    ///
    /// # Errors
    /// As [`append`](Self::append); the ticket fails if no new segment can be made.
    pub fn begin_snapshot(&self) -> Result<MarkTicket, AppendError> {
        self.push(&[], EntryKind::Mark, true).map(MarkTicket)
    }

    /// Writes a snapshot; when this returns well it is durable, and what only the snapshot before the previous one
    /// needed is removed. Blocks for the writing, but holds up no append; not for a runtime thread.
    ///
    /// # Errors
    /// The snapshot does not count; the journal goes on as before.
    pub fn finish_snapshot<R: AsRef<[u8]>>(
        &self,
        mark: SnapshotMark,
        records: impl IntoIterator<Item = R>,
    ) -> Result<(), SnapshotError> {
        let _one = self.snapshots.lock();
        snapshot::finish(&self.maker, &self.shared.status, mark, records)
    }

    /// The orderly stop: no more appends, what is queued is written, the end is marked, the thread has ended.
    /// Blocks at most until the deadline; not for a runtime thread. Calling it again does nothing.
    ///
    /// # Errors
    /// The disk did not answer in time, or the end mark could not be written.
    pub fn seal(&self, deadline: Duration) -> Result<(), SealError> {
        self.stop(true, deadline)?;
        self.shared.end_result().map_err(SealError::EndMark)
    }

    /// Numbers for metrics and for people.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let queue_bytes = self.shared.queue.lock().charged;
        self.shared.status.stats(queue_bytes)
    }

    fn push(&self, record: &[u8], kind: EntryKind, urgent: bool) -> Result<Ticket, AppendError> {
        let mut queue = self.shared.queue.lock();
        let (group, index) = queue.push(record, kind, urgent, self.shared.config.queue_bytes)?;
        let wake = std::mem::take(&mut queue.sleeping);
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
        let driver = match self.shared.config.mode {
            CommitMode::Thread => None,
            CommitMode::Inline => {
                let driver: Arc<dyn Drive> = self.shared.clone();
                Some(Arc::downgrade(&driver))
            }
        };
        Ok(Ticket::new(group, index, driver))
    }

    fn stop(&self, with_end_mark: bool, deadline: Duration) -> Result<(), SealError> {
        self.shared.close(with_end_mark);
        let mut thread = self.thread.lock();
        let Some(handle) = thread.take() else {
            if self.shared.config.mode == CommitMode::Inline {
                self.shared.end_inline();
            }
            return Ok(());
        };
        if !self.shared.await_end(deadline) {
            *thread = Some(handle);
            return Err(SealError::Deadline);
        }
        if handle.join().is_err() {
            tracing::error!("the journal's writer panicked");
        }
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = self.stop(false, self.shared.config.drop_wait) {
            tracing::error!(%error, "the journal was dropped while its writer hangs");
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("dir", &self.maker.dir)
            .finish_non_exhaustive()
    }
}
