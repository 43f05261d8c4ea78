//! Making segments: zero-filled files that wait as spares, and the step by which a spare becomes the current one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::{DATA_START, FileKind, Header};
use crate::vfs::{OpenMode, Vfs, VfsFile, write_all};

/// The zero-filled file that becomes the next segment.
pub(crate) const SPARE: &str = "spare";
/// The zero-filled file that becomes the next segment when the disk is full.
pub(crate) const RESERVE: &str = "reserve";
pub(crate) const QUARANTINE: &str = "quarantine";

pub(crate) fn segment_name(id: u64) -> String {
    format!("segment-{id:020}.log")
}

pub(crate) fn snapshot_name(covers: u64) -> String {
    format!("snapshot-{covers:020}.snap")
}

/// The number in a name that [`segment_name`] or [`snapshot_name`] made.
pub(crate) fn number_in(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A zero-filled, synced file.
pub(crate) struct Spare {
    pub(crate) file: Box<dyn VfsFile>,
    pub(crate) name: &'static str,
    pub(crate) len: u64,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub(crate) file: Box<dyn VfsFile>,
    pub(crate) id: u64,
    pub(crate) seed: u32,
    /// Where the next frame goes. All before it is durable.
    pub(crate) offset: u64,
    pub(crate) capacity: u64,
    /// Made of the reserve.
    pub(crate) reserve: bool,
}

/// The directory that segments are made in.
#[derive(Clone)]
pub(crate) struct Maker {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
}

impl Maker {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes `name`, a file of `len` zeros on disk. Its size and blocks do not change any more when it is
    /// written to, so a commit need not wait for the file system's own journal.
    pub(crate) fn make_spare(&self, name: &'static str, len: u64) -> io::Result<Spare> {
        let temp = self.path(&format!("{name}.tmp"));
        match self.vfs.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.vfs.open(&temp, OpenMode::CreateNew)?;
        match fill(&*file, len).and_then(|()| self.vfs.rename(&temp, &self.path(name))) {
            Ok(()) => Ok(Spare { file, name, len }),
            Err(error) => {
                remove_quietly(&*self.vfs, &temp);
                Err(error)
            }
        }
    }

    /// Takes over a spare that an earlier run left, if it is whole (it has its name only when it is).
    pub(crate) fn adopt_spare(&self, name: &'static str, found: Option<u64>, len: u64) -> Option<Spare> {
        let path = self.path(name);
        if found == Some(len) {
            match self.vfs.open(&path, OpenMode::ReadWrite) {
                Ok(file) => return Some(Spare { file, name, len }),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot open the spare segment"),
            }
        }
        if found.is_some() {
            remove_quietly(&*self.vfs, &path);
        }
        None
    }

    /// Makes a spare the segment `id`. Its name is durable before anything is acknowledged from it, and a file
    /// with a segment's name always has a synced header.
    pub(crate) fn activate(&self, spare: Spare, id: u64, first_lsn: u64) -> io::Result<Active> {
        let Spare { file, name, len } = spare;
        let header = Header {
            kind: FileKind::Segment,
            id,
            first_lsn,
            capacity: len,
            salt: self.vfs.salt(),
        };
        let (from, to) = (self.path(name), self.path(&segment_name(id)));
        let made = write_all(&*file, &header.encode(), 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.vfs.rename(&from, &to))
            .and_then(|()| self.vfs.sync_dir(&self.dir));
        if let Err(error) = made {
            remove_quietly(&*self.vfs, &from);
            remove_quietly(&*self.vfs, &to);
            return Err(error);
        }
        Ok(Active {
            file,
            id,
            seed: header.seed(),
            offset: DATA_START,
            capacity: len,
            reserve: name == RESERVE,
        })
    }
}

fn fill(file: &dyn VfsFile, len: u64) -> io::Result<()> {
    /// Synced piece by piece, so that the commits that go on meanwhile wait for little.
    const STEP: u64 = 1 << 20;
    file.allocate(len)?;
    let zeros = vec![0u8; STEP.min(len) as usize];
    let mut at = 0;
    while at < len {
        let step = STEP.min(len - at);
        write_all(file, &zeros[..step as usize], at)?;
        file.sync_data()?;
        at += step;
    }
    Ok(())
}

/// For files that mean nothing if they stay.
pub(crate) fn remove_quietly(vfs: &dyn Vfs, path: &Path) {
    match vfs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "cannot remove a left-over file");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(segment_name(7), "segment-00000000000000000007.log");
        assert_eq!(
            number_in(&segment_name(u64::MAX), "segment-", ".log"),
            Some(u64::MAX)
        );
        assert_eq!(number_in(&snapshot_name(3), "snapshot-", ".snap"), Some(3));
        for odd in [
            "segment-7.log",
            "segment-0000000000000000000x.log",
            "segment-99999999999999999999.log",
            "a",
        ] {
            assert_eq!(number_in(odd, "segment-", ".log"), None, "{odd}");
        }
    }
}
