//! A file system that forgets what was not synced, and fails on demand.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)] // each test uses a part of it

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core_journal::{CommitMode, DirEntry, JournalConfig, LockError, OpenMode, Vfs, VfsFile};
use parking_lot::{Condvar, Mutex};

pub const LIMIT: Duration = Duration::from_secs(60);
const SECTOR: usize = 512;

/// A small generator, so that a seed is a whole run.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

type Sector = [u8; SECTOR];

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What is on the platter.
    durable: Vec<u8>,
    /// What readers see.
    current: Vec<u8>,
    /// Each state a sector went through since the last sync.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Each length since the last sync.
    lengths: Vec<usize>,
}

fn sector_of(bytes: &[u8], index: usize) -> Sector {
    let mut sector = [0; SECTOR];
    if let Some(rest) = bytes.get(index * SECTOR..) {
        let n = rest.len().min(SECTOR);
        sector[..n].copy_from_slice(&rest[..n]);
    }
    sector
}

impl Inode {
    fn touch(&mut self, from: usize, to: usize) {
        for index in from / SECTOR..to.div_ceil(SECTOR) {
            let sector = sector_of(&self.current, index);
            self.dirty.entry(index).or_default().push(sector);
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.current.len() < at + bytes.len() {
            self.current.resize(at + bytes.len(), 0);
            self.lengths.push(self.current.len());
        }
        self.current[at..at + bytes.len()].copy_from_slice(bytes);
        self.touch(at, at + bytes.len());
    }

    fn set_len(&mut self, len: usize) {
        let old = self.current.len();
        self.current.resize(len, 0);
        self.lengths.push(len);
        // The cut-off part of the last sector reads as zeros, should the file grow again.
        let (from, to) = (old.min(len), old.max(len));
        self.touch(from, to);
    }

    /// What a power cut leaves: of each sector some state since the last sync, and of the length too.
    fn after_cut(&self, rng: &mut Rng) -> Vec<u8> {
        let keep = [0, 10, 50, 90, 100][rng.below(5)];
        let len = if !self.lengths.is_empty() && rng.chance(keep) {
            self.lengths[rng.below(self.lengths.len())]
        } else {
            self.durable.len()
        };
        let mut left = self.durable.clone();
        left.resize(len, 0);
        for (index, versions) in &self.dirty {
            if rng.chance(keep) {
                let sector = versions[rng.below(versions.len())];
                let at = index * SECTOR;
                if at < len {
                    let n = SECTOR.min(len - at);
                    left[at..at + n].copy_from_slice(&sector[..n]);
                }
            }
        }
        left
    }

    fn synced(&mut self) {
        self.durable.clone_from(&self.current);
        self.dirty.clear();
        self.lengths.clear();
    }

    /// As Linux does it: the pages are clean afterwards, whether they reached the disk or not.
    fn sync_failed(&mut self, rng: &mut Rng) {
        self.durable = self.after_cut(rng);
        self.dirty.clear();
        self.lengths.clear();
    }
}

#[derive(Debug, Clone)]
enum NameOp {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }
    fn dir(&self) -> &Path {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path) => path.parent().unwrap(),
        }
    }
}

/// What the k-th operation does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Eio,
    Enospc,
    /// A write stops half way; the next goes on.
    Short,
    /// The power goes: this operation may have happened in part, and none after it.
    PowerCut,
}

#[derive(Debug)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_ops: Vec<NameOp>,
    rng: Rng,
    ops: usize,
    faults: BTreeMap<usize, Fault>,
    /// All writes and syncs fail from here on.
    dead: bool,
    /// Bytes that fit on the disk.
    space: usize,
    locked: bool,
    trace: Vec<String>,
    salt: u64,
    syncs: usize,
    /// Files that cannot be read from an offset on.
    unreadable: BTreeMap<usize, usize>,
}

#[derive(Debug, Clone)]
pub struct SimFs(Arc<Mutex<Disk>>, Arc<Gate>);

/// A disk that does not answer: syncs wait while it is shut.
#[derive(Debug, Default)]
pub struct Gate {
    shut: Mutex<bool>,
    condvar: Condvar,
}

impl Gate {
    fn pass(&self) {
        self.condvar.wait_while(&mut self.shut.lock(), |shut| *shut);
    }
    pub fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.condvar.notify_all();
    }
}

struct LockGuard(Arc<Mutex<Disk>>);

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

impl SimFs {
    pub fn new(seed: u64) -> Self {
        Self::with(BTreeMap::new(), Vec::new(), seed, usize::MAX)
    }

    fn with(names: BTreeMap<PathBuf, usize>, inodes: Vec<Inode>, seed: u64, space: usize) -> Self {
        Self(
            Arc::new(Mutex::new(Disk {
                inodes,
                durable_names: names.clone(),
                names,
                name_ops: Vec::new(),
                rng: Rng(seed),
                ops: 0,
                faults: BTreeMap::new(),
                dead: false,
                space,
                locked: false,
                trace: Vec::new(),
                salt: seed,
                syncs: 0,
                unreadable: BTreeMap::new(),
            })),
            Arc::default(),
        )
    }

    /// The disk as it is found after the power came back.
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let disk = self.0.lock();
        let mut names = disk.durable_names.clone();
        // Half the time the file system keeps the order of names, half the time it does not.
        let ordered = rng.chance(50);
        let keep = rng.below(disk.name_ops.len() + 1);
        for (index, op) in disk.name_ops.iter().enumerate() {
            if if ordered { index < keep } else { rng.chance(50) } {
                op.apply(&mut names);
            }
        }
        let inodes = disk
            .inodes
            .iter()
            .map(|inode| {
                let left = inode.after_cut(&mut rng);
                Inode {
                    current: left.clone(),
                    durable: left,
                    ..Inode::default()
                }
            })
            .collect();
        let seed = rng.next();
        Self::with(names, inodes, seed, disk.space)
    }

    pub fn gate(&self) -> &Gate {
        &self.1
    }
    pub fn fail(&self, op: usize, fault: Fault) {
        self.0.lock().faults.insert(op, fault);
    }
    pub fn clear_faults(&self) {
        let mut disk = self.0.lock();
        disk.faults.clear();
    }
    pub fn ops(&self) -> usize {
        self.0.lock().ops
    }
    pub fn syncs(&self) -> usize {
        self.0.lock().syncs
    }
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }
    pub fn set_space(&self, bytes: usize) {
        self.0.lock().space = bytes;
    }
    pub fn used(&self) -> usize {
        self.0.lock().used()
    }
    pub fn trace(&self) -> Vec<String> {
        self.0.lock().trace.clone()
    }
    pub fn names(&self) -> Vec<String> {
        let disk = self.0.lock();
        disk.names
            .keys()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }
    pub fn set_unreadable(&self, path: &Path, from: Option<usize>) {
        let mut disk = self.0.lock();
        let inode = disk.names[path];
        match from {
            Some(from) => drop(disk.unreadable.insert(inode, from)),
            None => drop(disk.unreadable.remove(&inode)),
        }
    }
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let disk = self.0.lock();
        disk.inodes[disk.names[path]].current.clone()
    }
    /// Puts a file there, durably.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.0.lock();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode {
            durable: bytes.to_vec(),
            current: bytes.to_vec(),
            ..Inode::default()
        });
        disk.names.insert(path.to_owned(), inode);
        disk.durable_names.insert(path.to_owned(), inode);
    }
}

impl Disk {
    fn used(&self) -> usize {
        self.names
            .values()
            .map(|inode| self.inodes[*inode].current.len())
            .sum()
    }

    /// Counts the operation, and says how it shall fail.
    fn op(&mut self, what: &str) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(5));
        }
        let index = self.ops;
        self.ops += 1;
        if self.trace.len() < 5000 {
            self.trace.push(format!("{index} {what}"));
        }
        let fault = self.faults.get(&index).copied();
        if fault == Some(Fault::PowerCut) {
            self.dead = true;
        }
        Ok(fault)
    }

    fn names_op(&mut self, what: &str, op: NameOp) -> io::Result<()> {
        match self.op(what)? {
            Some(Fault::Eio) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Enospc) => Err(io::Error::from_raw_os_error(28)),
            fault => {
                op.apply(&mut self.names);
                self.name_ops.push(op);
                if fault == Some(Fault::PowerCut) {
                    Err(io::Error::from_raw_os_error(5))
                } else {
                    Ok(())
                }
            }
        }
    }

    fn room(&self, inode: usize, end: usize) -> bool {
        let grow = end.saturating_sub(self.inodes[inode].current.len());
        grow == 0 || self.used() + grow <= self.space
    }
}

impl Vfs for SimFs {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError> {
        let mut disk = self.0.lock();
        if disk.locked {
            return Err(LockError::Held {
                dir: dir.to_owned(),
                pid: None,
            });
        }
        disk.locked = true;
        Ok(Box::new(LockGuard(self.0.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.0.lock();
        let inside = disk.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside
            .map(|(path, inode)| DirEntry {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                len: disk.inodes[*inode].current.len() as u64,
            })
            .collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.0.lock();
        let inode = match (disk.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, OpenMode::CreateNew) => {
                let inode = disk.inodes.len();
                disk.inodes.push(Inode::default());
                disk.names_op(
                    &format!("create {}", path.display()),
                    NameOp::Link(path.to_owned(), inode),
                )?;
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(SimFile {
            disk: self.0.clone(),
            inode,
            name: format!("file {inode}"),
            gate: self.1.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let what = format!("rename {} {}", from.display(), to.display());
        disk.names_op(&what, NameOp::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.names_op(
            &format!("remove {}", path.display()),
            NameOp::Unlink(path.to_owned()),
        )
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        match disk.op(&format!("sync_dir {}", dir.display()))? {
            None | Some(Fault::Short) => {
                let ops = std::mem::take(&mut disk.name_ops);
                for op in ops {
                    if op.dir() == dir {
                        op.apply(&mut disk.durable_names);
                    } else {
                        disk.name_ops.push(op);
                    }
                }
                Ok(())
            }
            Some(Fault::Enospc) => Err(io::Error::from_raw_os_error(28)),
            Some(_) => Err(io::Error::from_raw_os_error(5)),
        }
    }

    fn salt(&self) -> u64 {
        let mut disk = self.0.lock();
        disk.salt = disk.salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        disk.salt
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: usize,
    name: String,
    gate: Arc<Gate>,
}

impl VfsFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].current.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.lock();
        let rest = disk.inodes[self.inode]
            .current
            .get(offset as usize..)
            .unwrap_or_default();
        let mut n = rest.len().min(buf.len());
        if let Some(bad) = disk.unreadable.get(&self.inode) {
            n = n.min(bad.saturating_sub(offset as usize));
            if n == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
        }
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let fault = disk.op(&format!("write {} {offset}+{}", self.name, buf.len()))?;
        let at = offset as usize;
        if !disk.room(self.inode, at + buf.len()) {
            return Err(io::Error::from_raw_os_error(28));
        }
        let part = match fault {
            None => buf.len(),
            Some(Fault::Short) => buf.len().div_ceil(2),
            Some(_) => disk.rng.below(buf.len() + 1),
        };
        disk.inodes[self.inode].write(at, &buf[..part]);
        match fault {
            Some(Fault::Eio | Fault::PowerCut) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Enospc) => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(part),
        }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if !disk.room(self.inode, len as usize) {
            return Err(io::Error::from_raw_os_error(28));
        }
        match disk.op(&format!("allocate {} {len}", self.name))? {
            Some(Fault::Eio | Fault::PowerCut) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Enospc) => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        match disk.op(&format!("set_len {} {len}", self.name))? {
            Some(Fault::Eio) => return Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Enospc) => return Err(io::Error::from_raw_os_error(28)),
            _ => disk.inodes[self.inode].set_len(len as usize),
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        let mut disk = self.disk.lock();
        let fault = disk.op(&format!("sync {}", self.name))?;
        let mut rng = Rng(disk.rng.next());
        disk.syncs += 1;
        let inode = &mut disk.inodes[self.inode];
        match fault {
            None | Some(Fault::Short) => {
                inode.synced();
                Ok(())
            }
            Some(Fault::PowerCut) => Err(io::Error::from_raw_os_error(5)),
            Some(fault) => {
                inode.sync_failed(&mut rng);
                Err(io::Error::from_raw_os_error(if fault == Fault::Eio {
                    5
                } else {
                    28
                }))
            }
        }
    }
}

pub fn dir() -> PathBuf {
    PathBuf::from("/sim/journal")
}

/// Small files, so that a short script rotates often.
pub fn small(mode: CommitMode) -> JournalConfig {
    let mut config = JournalConfig::new(dir());
    config.segment_bytes = 12 << 10;
    config.reserve_bytes = 8 << 10;
    config.max_record_bytes = 2 << 10;
    config.queue_bytes = 64 << 10;
    config.heal_interval = Duration::from_millis(5);
    config.mode = mode;
    config
}

/// A record that says which one it is.
pub fn record(number: usize, len: usize) -> Vec<u8> {
    let mut record = format!("{number:08}.").into_bytes();
    let mut rng = Rng(number as u64);
    while record.len() < len {
        record.push(rng.next() as u8);
    }
    record
}

pub fn number(record: &[u8]) -> usize {
    let text = std::str::from_utf8(&record[..8]).unwrap();
    assert_eq!(record[8], b'.');
    let number = text.parse().unwrap();
    assert_eq!(
        record,
        self::record(number, record.len()),
        "a record came back changed"
    );
    number
}
