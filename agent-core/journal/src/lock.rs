//! One agent per state directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The exclusive right to a directory, held until dropped (or until the process ends, however it ends).
///
/// It is a `flock` on `lock` in the directory, with the holder's pid written in it. The file stays behind: it is
/// the kernel's lock that counts, never the file or the pid in it.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
    path: PathBuf,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is in use by another agent ({}): stop that one, or give this one a directory of its own",
        dir.display(),
        pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The holder's pid as it wrote it, if it can be read.
        pid: Option<u32>,
    },
    /// The directory or the lock file cannot be made or opened.
    #[error("cannot lock {}: check that the directory exists and that this user may write to it", path.display())]
    Io {
        /// The directory or the lock file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl StateLock {
    /// Locks `dir`, which is made with mode 0700 if absent. Never waits.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fail(dir))?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail(&path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Whatever is in the file only helps the message.
                let pid = Read::by_ref(&mut file)
                    .take(32)
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    pid,
                });
            }
            Err(errno) => return Err(fail(&path)(errno.into())),
        }
        // The pid is for people only: a full disk must not keep the agent from starting.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write the pid into the lock file");
        }
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_holder_is_told_who_has_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let lock = StateLock::acquire(&dir).unwrap();
        assert_eq!(
            std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            std::fs::metadata(lock.path()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = StateLock::acquire(&dir).unwrap_err();
        assert!(
            matches!(error, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        StateLock::acquire(&dir).unwrap();
    }

    #[test]
    fn rubbish_in_the_lock_file_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), [0xff; 4096]).unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(lock.path()).unwrap(),
            format!("{}\n", std::process::id())
        );
        std::fs::write(lock.path(), [0xff; 64]).unwrap();
        let error = StateLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: None, .. }), "{error}");
    }

    #[test]
    fn a_path_that_is_no_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = StateLock::acquire(&file).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
