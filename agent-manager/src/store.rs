//! The manager's side of the journal: positions to wait for, records, snapshots. The one file that knows its API.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Guid, JournalInfo, QueueInfo, Result, Retry, Timestamp};
use agent_core_journal::{
    AppendError, Class, Journal, JournalConfig, JournalError, Lsn, OpenError, Replayed, Ticket, Vfs,
};
use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;

use crate::line::{Line, Tag};

/// The name of the operation in errors of the journal; tells them from errors of drivers.
pub(crate) const OPERATION: &str = "journal";

/// So many records that only replies wait for are kept; many more than the journal's queue holds of them.
const MOST_REPLIES: usize = 65_536;

pub(crate) struct Store {
    journal: Arc<Journal>,
    queue_capacity: usize,
    /// The number of the next record.
    next: AtomicU64,
    /// Records that somebody may still wait for. Taken out by [`Store::release`].
    pending: Mutex<HashMap<u64, Shared<Ticket>>>,
    /// Positions that only a reply waits for, oldest first.
    replies: Mutex<VecDeque<u64>>,
    /// Records that could not be queued and whose loss is safe: their operation is in doubt after a crash, and resumed.
    unwritten: AtomicU64,
    replayed: u64,
    quarantined: Vec<String>,
    /// Bytes of the last snapshot.
    snapshot: AtomicU64,
}

impl Store {
    /// Opens the journal and hands each record that can be read to `visitor`. Blocks.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        config: JournalConfig,
        mut visitor: impl FnMut(Line<'_>) -> Result<(), String>,
    ) -> Result<Self> {
        let queue_capacity = config.queue_bytes;
        let mut last = 0;
        let (journal, report) = Journal::open_on(vfs, config, |replayed| {
            let (Replayed::Snapshot(bytes) | Replayed::Record { bytes, .. }) = replayed;
            let line = Line::read(bytes)?;
            last = last.max(line.q);
            visitor(line)
        })
        .map_err(open_error)?;
        let mut quarantined: Vec<String> = report
            .quarantined
            .iter()
            .map(|piece| {
                let copy = piece.copy.as_ref().map_or_else(
                    || "no copy could be made".into(),
                    |copy| format!("copy in quarantine/{copy}"),
                );
                format!(
                    "{} at byte {}: {}, {} bytes set aside, {copy}",
                    piece.file, piece.offset, piece.reason, piece.bytes_lost
                )
            })
            .collect();
        if report.lost_records > 0 {
            quarantined.push(format!(
                "{} records of the journal are missing",
                report.lost_records
            ));
        }
        Ok(Self {
            journal: Arc::new(journal),
            queue_capacity,
            next: AtomicU64::new(last + 1),
            pending: Mutex::default(),
            replies: Mutex::default(),
            unwritten: AtomicU64::new(0),
            replayed: report.records + report.snapshot.as_ref().map_or(0, |snapshot| snapshot.records),
            quarantined,
            snapshot: AtomicU64::new(report.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes)),
        })
    }

    /// Queues a record and gives its position, which must be [released](Self::release). Never waits.
    pub(crate) fn append(&self, line: &mut Line<'_>, class: Class) -> Result<u64> {
        line.q = self.next.fetch_add(1, Ordering::Relaxed);
        let ticket = self.journal.append(&line.write(), class).map_err(append_error)?;
        self.pending.lock().insert(line.q, ticket.shared());
        Ok(line.q)
    }

    /// As [`append`](Self::append), for a record that no operation stands for: it is released by itself some time
    /// after it is on disk.
    pub(crate) fn append_reply(&self, line: &mut Line<'_>, class: Class) -> Result<u64> {
        let position = self.append(line, class)?;
        let mut replies = self.replies.lock();
        replies.push_back(position);
        while replies.len() > MOST_REPLIES {
            let Some(oldest) = replies.pop_front() else { break };
            self.release(oldest);
        }
        Ok(position)
    }

    /// Queues a record that nobody waits for: if it is lost, what it says is found out anew after a restart.
    pub(crate) fn note(&self, line: &mut Line<'_>, class: Class) -> u64 {
        line.q = self.next.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.journal.note(&line.write(), class) {
            tracing::warn!(%error, object = %line.g, "a record was not written; its operation is in doubt after a crash");
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        line.q
    }

    /// Resolves when this position is on disk, or with the reason why it is not. A position that was released is no
    /// longer anybody's: waiting for it is an error.
    pub(crate) fn durable(&self, position: u64) -> impl Future<Output = Result<()>> + Send + 'static {
        let ticket = self.pending.lock().get(&position).cloned();
        async move {
            match ticket {
                Some(ticket) => ticket.await.map(|_: Lsn| ()).map_err(journal_error),
                None => Err(
                    Error::new(ErrorKind::Conflict, "the operation is no longer wanted")
                        .with_operation(OPERATION),
                ),
            }
        }
    }

    /// As [`durable`](Self::durable), for an answer that is given again: a position that is no longer kept is on disk.
    pub(crate) fn durable_again(&self, position: u64) -> impl Future<Output = Result<()>> + Send + 'static {
        let ticket = self.pending.lock().get(&position).cloned();
        async move {
            match ticket {
                Some(ticket) => ticket.await.map(|_: Lsn| ()).map_err(journal_error),
                None => Ok(()),
            }
        }
    }

    /// Nobody waits for this position any more.
    pub(crate) fn release(&self, position: u64) {
        if position != 0 {
            self.pending.lock().remove(&position);
        }
    }

    /// Whether the log has grown enough for a snapshot.
    pub(crate) fn wants_snapshot(&self, at_least: u64) -> bool {
        let live = self.snapshot.load(Ordering::Relaxed);
        self.journal.stats().bytes_since_snapshot > at_least.max(live.saturating_mul(4))
    }

    /// Writes a snapshot of what `collect` gathers. It may gather what is not on disk yet; if that turns out not to
    /// get there, the snapshot is not written, and the next one will be.
    pub(crate) async fn snapshot(
        &self,
        collect: impl FnOnce() -> Vec<Vec<u8>> + Send + 'static,
    ) -> Result<()> {
        let failed = |journal: &Journal| {
            let stats = journal.stats();
            stats.failed + stats.refused_full
        };
        let before = failed(&self.journal);
        let mark = self.journal.begin_snapshot().map_err(append_error)?;
        let mark = mark.await.map_err(journal_error)?;
        let records = tokio::task::spawn_blocking(collect)
            .await
            .map_err(|error| Error::internal("the state could not be gathered").with_source(error))?;
        // All that was gathered was queued before this record.
        let last = self
            .journal
            .append(
                &Line::new(Tag::Mark, nobody(), Timestamp::now()).write(),
                Class::Normal,
            )
            .map_err(append_error)?;
        last.await.map_err(journal_error)?;
        if failed(&self.journal) != before {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "records failed while the snapshot was made; it is made the next time",
            )
            .with_operation(OPERATION));
        }
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        let journal = self.journal.clone();
        tokio::task::spawn_blocking(move || journal.finish_snapshot(mark, records))
            .await
            .map_err(|error| Error::internal("the snapshot was not written").with_source(error))?
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, error.to_string())
                    .with_operation(OPERATION)
                    .with_source(error)
            })?;
        self.snapshot.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what is queued and the end mark, and closes.
    pub(crate) async fn seal(&self, deadline: Duration) -> Result<()> {
        let journal = self.journal.clone();
        let sealed = tokio::task::spawn_blocking(move || journal.seal(deadline));
        match tokio::time::timeout(deadline + Duration::from_millis(500), sealed).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Error::new(ErrorKind::Timeout, error.to_string())
                .with_operation(OPERATION)
                .with_source(error)),
            Ok(Err(error)) => Err(Error::internal("the journal was not sealed").with_source(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "the journal was not sealed in time; the disk hangs",
            )
            .with_operation(OPERATION)),
        }
    }

    pub(crate) fn quarantined(&self) -> &[String] {
        &self.quarantined
    }

    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }

    pub(crate) fn info(&self) -> (JournalInfo, QueueInfo) {
        let stats = self.journal.stats();
        let info = JournalInfo {
            segments: stats.segments,
            bytes: stats.bytes,
            records: stats.records,
            commits: stats.commits,
            replayed: self.replayed,
            quarantined: self.quarantined.clone(),
            last_error: stats.last_error.clone(),
        };
        let queue = QueueInfo {
            length: stats.queue_bytes,
            capacity: self.queue_capacity,
            dropped: stats.refused_full,
        };
        (info, queue)
    }
}

/// The object of records that are of none.
pub(crate) fn nobody() -> Guid {
    "00000000-0000-0000-0000-000000000000"
        .parse()
        .expect("the nil UUID is one")
}

fn open_error(error: OpenError) -> Error {
    let kind = match &error {
        OpenError::Config { .. } => ErrorKind::Invalid,
        OpenError::Lock(_) => ErrorKind::Conflict,
        OpenError::Directory { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            ErrorKind::Denied
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, error.to_string())
        .with_operation(OPERATION)
        .with_retry(Retry::Never)
        .with_source(error)
}

fn append_error(error: AppendError) -> Error {
    let kind = match &error {
        AppendError::Busy { .. } => ErrorKind::Busy,
        AppendError::StorageFull => ErrorKind::StorageFull,
        AppendError::TooLarge { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, error.to_string())
        .with_operation(OPERATION)
        .with_source(error)
}

fn journal_error(error: JournalError) -> Error {
    let kind = match &error {
        error if error.is_storage_full() => ErrorKind::StorageFull,
        JournalError::Closed => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, error.to_string())
        .with_operation(OPERATION)
        .with_source(error)
}
