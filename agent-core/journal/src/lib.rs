//! A segmented append log with group commit.

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
