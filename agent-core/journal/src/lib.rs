//! A segmented append log with group commit: opaque records go in, an acknowledged one is found again after any crash.
//!
//! The manager's journal and the telemetry spool are both such a log. It knows nothing of objects, and there is no
//! second file that must agree with it: what is valid is found by reading it.
//!
//! ```
//! use agent_core_journal::{Class, Journal, JournalConfig, Replayed};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("journal");
//! let (journal, report) = Journal::open(JournalConfig::new(&dir), |_| Ok(()))?; // blocks: not in async code
//! assert!(report.is_clean());
//! let lsn = journal.append(b"start web-1", Class::Normal)?.await?; // durable from here on
//!
//! // The log up to here is replaced by the state that it led to.
//! let mark = journal.begin_snapshot()?.await?;
//! journal.append(b"stop web-1", Class::Reserved)?.await?;
//! journal.finish_snapshot(mark, ["web-1 is started"])?; // blocks
//! journal.seal(std::time::Duration::from_secs(5))?; // blocks
//! # drop(journal);
//!
//! let mut seen = Vec::new();
//! Journal::open(JournalConfig::new(&dir), |replayed| {
//!     seen.push(match replayed {
//!         Replayed::Snapshot(bytes) => format!("state: {}", String::from_utf8_lossy(bytes)),
//!         Replayed::Record { lsn, bytes } => format!("{lsn}: {}", String::from_utf8_lossy(bytes)),
//!     });
//!     Ok(())
//! })?;
//! assert_eq!(seen, ["state: web-1 is started", "1: stop web-1"]);
//! # assert_eq!(lsn.0, 0);
//! # Ok(()) }) }
//! ```
//!
//! # Who runs what
//!
//! [`Journal::append`] copies the record into a bounded queue and returns a [`Ticket`]. One thread takes all that is
//! queued as a group: one write, one `fdatasync`, then it wakes the waiters of that group. While it syncs, the next
//! group gathers; nobody waits for a timer. A second thread lives only while it makes the next segment ahead of use.
//! Snapshots are written on their caller's thread and hold up no append. With [`CommitMode::Inline`] there is no
//! thread: whoever waits writes.
//!
//! # Format, version 1
//!
//! All numbers are little-endian.
//!
//! | file | what it is |
//! | --- | --- |
//! | `segment-<20 digits>.log` | a piece of the log; the highest number is the current one |
//! | `snapshot-<20 digits>.snap` | the state that all segments below that number led to |
//! | `spare`, `reserve` | zero-filled files that become segments; `*.tmp` are not finished, and are removed |
//! | `quarantine/` | copies of what was damaged, bounded, oldest removed first |
//! | `lock` | the lock (`flock`), with the holder's pid for people to read |
//!
//! Segments and snapshots begin with 4,096 bytes that hold the header twice, at 0 and at 2,048: `agentlog`, version
//! (u32), kind (u32: 1 segment, 2 snapshot), id, number of the first record, planned size, salt (u64 each), zeros, and
//! at 60 the CRC32C of the 60 bytes before. These first 64 bytes keep their place and checksum in all versions.
//! Then come frames, each at a multiple of 8: magic `A6 72 65 63`, length (u32), kind (u8: 1 record, 2 end), three
//! zeros, CRC32C (u32), payload, zeros up to the next 8. The checksum runs over salt, segment id, offset in the file,
//! length, kind and payload, so that a block that was written elsewhere, or in another file in the same place, never
//! verifies. An end frame marks an orderly stop; in a snapshot it is the last frame, and its payload the number of
//! records (u64). Segments are filled with zeros and synced before use, so a commit changes neither the size nor the
//! block map of its file; the end of the log is where only zeros follow.
//!
//! # What holds after a crash
//!
//! 1. **A record whose ticket resolved well is replayed**, after a kill or a power cut at any point, as long as the
//!    disk keeps what `fdatasync` promised. So is every record that an earlier open replayed: the current segment is
//!    synced before it is handed out.
//! 2. **After a failed write or sync the segment is closed for ever**; nothing is tried again on pages that the kernel
//!    may have dropped. The records of that group fail with [`JournalError::OutcomeUnknown`], and later appends go to a
//!    new segment. The failed bytes may be on disk: a crash at that moment may replay them. The closed segment is cut
//!    at its last durable byte, and the next segment's header says with which number it begins: what the old one holds
//!    from that number on is not replayed. So once a later append has succeeded, the failed ones are gone for certain.
//!    All other errors are refusals: the record is not on disk.
//! 3. **A segment gets no more records from the moment its successor may exist**, so that two of them never claim the
//!    same numbers.
//! 4. **Any bytes open.** In each segment replay stops at the first byte that is not a valid frame; the rest is copied
//!    to `quarantine/` and cut off, and the report says how many bytes that were, and how many records in them would
//!    still verify. They are not replayed. **Replay goes on with the next segment.** That leaves a hole in the middle,
//!    which the report counts exactly, as segments know the number of their first record
//!    ([`RecoveryReport::lost_records`]). It is the safer choice here: records are keyed by object and replaying them is
//!    idempotent, so a hole concerns the objects in it, and what their drivers find on recovery is held against it;
//!    dropping all later segments would lose acknowledged records of every object. A user for whom a hole is worse than a loss
//!    can stop at a jump of the [`Lsn`]s that [`Replayed::Record`] carries.
//! 5. **A snapshot is there as a whole or not at all** (temporary file, sync, rename, sync of the directory). The
//!    previous one is kept with the segments since, and serves when the newest does not verify. Segments are unlinked only
//!    when both snapshots that cover them are durable.
//! 6. **A full disk** refuses `Normal` records as [`AppendError::StorageFull`]; `Reserved` ones use what is left of the
//!    current segment and then the reserve, which was zero-filled beforehand (on file systems that write in place; one
//!    that copies on write gives no such guarantee). Space is looked for on a timer, and all goes on by itself; a reserve that was
//!    used is made anew before `Normal` records are taken again.
//! 7. **Refused opens** are those of a locked or unusable directory, and of a newer format, which is left untouched.
//!
//! What it does not protect from: a disk that lies about syncs, and damage to both copies of the newest segment's header
//! between a failed write and the next snapshot (then point 2 is back at "not known").

mod config;
mod error;
mod format;
mod journal;
mod lock;
mod quarantine;
mod queue;
mod recovery;
mod report;
mod scan;
mod segment;
mod shared;
mod snapshot;
mod status;
mod ticket;
mod vfs;
mod writer;

pub use config::{CommitMode, JournalConfig};
pub use error::{AppendError, JournalError, OpenError, SealError, SnapshotError};
pub use journal::{Journal, Recovered};
pub use lock::{LockError, StateLock};
pub use queue::Class;
pub use report::{Quarantined, Reason, RecoveryReport, Replayed, SnapshotInfo};
pub use status::Stats;
pub use ticket::{Lsn, MarkTicket, SnapshotMark, Ticket};
pub use vfs::{DirEntry, OpenMode, RealVfs, Vfs, VfsFile};
