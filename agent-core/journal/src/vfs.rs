//! The seam to the file system: what the journal needs of it, and the real one.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::lock::{LockError, StateLock};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, to be read only.
    Read,
    /// Existing, to be read and written.
    ReadWrite,
    /// New, mode 0600, to be read and written; an existing file is an error.
    CreateNew,
}

/// A regular file in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; entries whose name is not UTF-8 are left out.
    pub name: String,
    /// Size in bytes.
    pub len: u64,
}

/// What the journal needs of a file system. Tests put a simulated one in its place, which forgets what was not
/// synced and fails on demand.
pub trait Vfs: Send + Sync + fmt::Debug + 'static {
    /// Makes the directory with mode 0700, its parents too; an existing one is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of the directory, held until the guard is dropped.
    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError>;
    /// Lists the regular files.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn VfsFile>>;
    /// Renames within one directory, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// A number that differs each time, also over restarts.
    fn salt(&self) -> u64;
}

/// An open file of a [`Vfs`].
pub trait VfsFile: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads at an offset; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset; may write less than asked.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Asks for the blocks of the first `len` bytes, so that a full disk is noticed at once. Succeeds where the
    /// file system cannot do it.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the content and the size durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes all of `buf`, going on after short writes and interruptions.
pub(crate) fn write_all(file: &dyn VfsFile, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `len` bytes from the start; what was read until an error is returned with it.
pub(crate) fn read_up_to(file: &dyn VfsFile, len: u64) -> (Vec<u8>, Option<io::Error>) {
    const STEP: usize = 1 << 20;
    let (len, mut done) = (len as usize, 0);
    let mut buf = Vec::new();
    if buf.try_reserve_exact(len).is_err() {
        return (buf, Some(io::ErrorKind::OutOfMemory.into()));
    }
    buf.resize(len, 0u8);
    let mut fault = None;
    while done < len {
        let end = len.min(done + STEP);
        match file.read_at(&mut buf[done..end], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                fault = Some(error);
                break;
            }
        }
    }
    buf.truncate(done);
    (buf, fault)
}

/// The real file system.
#[derive(Debug, Default)]
pub struct RealVfs {
    /// Directories that were synced before: kept open, so that it also works when descriptors have run out.
    dirs: Mutex<Vec<(PathBuf, Arc<File>)>>,
}

impl RealVfs {
    /// The real file system.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn dir(&self, dir: &Path) -> io::Result<Arc<File>> {
        let mut dirs = self.dirs.lock();
        if let Some((_, file)) = dirs.iter().find(|(path, _)| path == dir) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(dir)?);
        dirs.push((dir.to_owned(), file.clone()));
        Ok(file)
    }
}

impl Vfs for RealVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError> {
        Ok(Box::new(StateLock::acquire(dir)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => entries.push(DirEntry {
                    name,
                    len: meta.len(),
                }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.dir(dir)?.sync_all()
    }

    fn salt(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    }
}

struct RealFile(File);

impl VfsFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
