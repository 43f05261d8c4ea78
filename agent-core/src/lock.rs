//! One agent per state directory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use agent_api::model::{Error, ErrorKind, Result};

/// The hold on a state directory. Given back by drop, and by the kernel where the process dies.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the directory where it is not there, for its owner alone, and takes hold of it.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        let shown = directory.display();
        let refused = |what: &str, error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
                _ => ErrorKind::Unavailable,
            };
            Error::new(
                kind,
                format!("the state directory {shown} cannot be {what}: {error}"),
            )
            .with_path("state_dir")
            .with_operation("start")
            .with_hint("choose another with --state-dir, or change its rights")
            .with_source(error)
        };
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .recursive(true)
            .create(directory)
            .map_err(|error| refused("made", error))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("agent.lock"))
            .map_err(|error| refused("written to", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut holder);
                return Err(Error::new(
                    ErrorKind::Conflict,
                    match holder.trim() {
                        "" => format!("another agent uses the state directory {shown}"),
                        pid => format!("another agent (process {pid}) uses the state directory {shown}"),
                    },
                )
                .with_path("state_dir")
                .with_operation("start")
                .with_hint("stop it, or choose another directory with --state-dir"));
            }
            Err(TryLockError::Error(error)) => return Err(refused("locked", error)),
        }
        // Only for the message above; the lock itself is the kernel's.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/b");
        let held = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.message().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(held);
        assert!(StateLock::take(&state).is_ok());
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = StateLock::take(&file).unwrap_err();
        assert!(
            error.message().contains("cannot be made") && error.path() == Some("state_dir"),
            "{error}"
        );
    }
}
