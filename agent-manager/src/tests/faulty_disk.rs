//! A disk that fails when told to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use agent_core_journal::{DirEntry, LockError, OpenMode, RealVfs, Vfs, VfsFile};

/// How the disk is.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<AtomicU8>);

impl Disk {
    pub(super) fn works(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Writes fail.
    pub(super) fn breaks(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// No new file gets space.
    pub(super) fn is_full(&self) {
        self.0.store(2, Ordering::SeqCst);
    }

    fn write(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            1 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn space(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Faulty {
    inner: RealVfs,
    disk: Disk,
}

impl Faulty {
    pub(super) fn on(disk: &Disk) -> Arc<dyn Vfs> {
        Arc::new(Self {
            inner: RealVfs::new(),
            disk: disk.clone(),
        })
    }
}

struct File {
    inner: Box<dyn VfsFile>,
    disk: Disk,
}

impl Vfs for Faulty {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError> {
        self.inner.lock(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn VfsFile>> {
        if mode == OpenMode::CreateNew {
            self.disk.space()?;
        }
        Ok(Box::new(File {
            inner: self.inner.open(path, mode)?,
            disk: self.disk.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn salt(&self) -> u64 {
        self.inner.salt()
    }
}

impl VfsFile for File {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.write()?;
        self.inner.write_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.space()?;
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.write()?;
        self.inner.sync_data()
    }
}
