//! The files an object writes its output to, and their rotation without anybody in between.
//!
//! stdout and stderr of an object are `<logs>/<guid>/stdout.log` and `stderr.log`, opened for appending and handed to it as
//! its descriptors 1 and 2. It keeps writing whatever becomes of the agent; there is no pipe that could fill or break, no task
//! and no helper.
//!
//! Rotation must not take a file away from under its writer. So the file keeps growing *logically* while its oldest part is
//! freed: `fallocate(PUNCH_HOLE)` on whole multiples of `max_size`, such that between `keep` and `keep + 1` of them remain.
//! An offset never moves, so a cursor is an offset, and it survives rotation and restarts of the agent as it is. What a
//! reader did not read before it was freed is a gap of known size, counted in its answer. Disk use stays below
//! `max_size × (keep + 1)` and what is written between two checks.
//!
//! The logical size is bounded by the file system (16 TiB on ext4 with 4 KiB blocks, 8 EiB on xfs and btrfs). When an object
//! is started again and its file is over `fresh_over`, the file becomes `stdout.log.1` and a new one begins. Each file has its
//! own incarnation (inode and birth time), which is part of the cursor.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};
use serde::{Deserialize, Serialize};

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes of one segment, rounded up to 64 KiB.
    pub max_size: u64,
    /// Whole segments kept beside the one being written.
    pub keep: u32,
    /// Logical size above which a restarted object gets a fresh file.
    pub fresh_over: u64,
}

/// Segments are multiples of this, so that holes fall on block boundaries of every file system.
const GRAIN: u64 = 64 * 1024;

impl Rotation {
    fn segment(&self) -> u64 {
        self.max_size.max(1).div_ceil(GRAIN).saturating_mul(GRAIN)
    }

    /// Bytes before this offset are not kept, for a file of this logical size.
    pub(crate) fn base(&self, size: u64) -> u64 {
        let segment = self.segment();
        (size / segment)
            .saturating_sub(u64::from(self.keep))
            .saturating_mul(segment)
    }
}

/// What a check of a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Checked {
    /// The logical size.
    pub size: u64,
    /// Bytes on disk before the check.
    pub on_disk: u64,
    /// Whether the oldest part was freed.
    pub freed: bool,
}

/// The log files of one object.
#[derive(Debug, Clone)]
pub(crate) struct LogFiles {
    dir: PathBuf,
}

impl LogFiles {
    pub(crate) fn new(logs: &Path, guid: &str) -> Self {
        Self { dir: logs.join(guid) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that is being written.
    pub(crate) fn current(&self, stream: Stream) -> PathBuf {
        self.dir.join(match stream {
            Stream::Stdout => "stdout.log",
            Stream::Stderr => "stderr.log",
        })
    }

    /// The file that was written before the current one was begun.
    pub(crate) fn previous(&self, stream: Stream) -> PathBuf {
        self.dir.join(match stream {
            Stream::Stdout => "stdout.log.1",
            Stream::Stderr => "stderr.log.1",
        })
    }

    /// Makes the directory, owner-only.
    pub(crate) fn create_dir(&self) -> io::Result<()> {
        match rustix::fs::mkdir(&self.dir, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(io::Error::new(
                io::Error::from(e).kind(),
                format!("cannot make {}: {e}", self.dir.display()),
            )),
        }
    }

    /// Opens a stream for the object that is about to be started. Only while no process of the object runs.
    pub(crate) fn open(&self, stream: Stream, rotation: &Rotation) -> io::Result<OwnedFd> {
        let path = self.current(stream);
        if rustix::fs::stat(&path).is_ok_and(|stat| stat.st_size as u64 > rotation.fresh_over) {
            std::fs::rename(&path, self.previous(stream))?;
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("cannot open {}: {e}", path.display()),
            )
        })
    }

    /// Frees what is not kept. Costs one `stat` where there is nothing to free.
    ///
    /// `Unsupported` where the file system cannot free a part of a file: the file grows, and the caller says so.
    pub(crate) fn check(&self, stream: Stream, rotation: &Rotation) -> io::Result<Checked> {
        let path = self.current(stream);
        let stat = match rustix::fs::stat(&path) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(Checked::default()),
            Err(e) => return Err(e.into()),
        };
        let size = stat.st_size as u64;
        let mut checked = Checked {
            size,
            on_disk: (stat.st_blocks as u64).saturating_mul(512),
            freed: false,
        };
        let base = rotation.base(size);
        // What is on disk beyond the part that is kept, with room for the file system's own blocks.
        if base == 0 || checked.on_disk <= (size - base).saturating_add(GRAIN) {
            return Ok(checked);
        }
        let file = rustix::fs::open(
            &path,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&file, mode, 0, base) {
            Ok(()) => checked.freed = true,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(e) => return Err(e.into()),
        }
        Ok(checked)
    }

    /// Removes all files of the object.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Which file it is: the same path may be another file later.
pub(crate) fn incarnation(file: &OwnedFd) -> io::Result<u64> {
    Ok(mix(&rustix::fs::statx(
        file,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::INO | StatxFlags::BTIME,
    )?))
}

/// Which file is at the path, and its size.
pub(crate) fn look(path: &Path) -> io::Result<(u64, u64)> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::SIZE;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    Ok((mix(&stat), stat.stx_size))
}

fn mix(stat: &rustix::fs::Statx) -> u64 {
    let born = (stat.stx_btime.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(u64::from(stat.stx_btime.tv_nsec));
    // Mixed, so that neither can be mistaken for an offset (the finalizer of splitmix64).
    let mut mixed = stat.stx_ino ^ born.rotate_left(20);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation = Rotation {
        max_size: 128 * 1024,
        keep: 2,
        fresh_over: 1 << 40,
    };

    #[test]
    fn between_keep_and_one_more_segments_remain() {
        let segment = ROTATION.segment();
        for size in [0, 1, segment, 3 * segment - 1] {
            assert!(size - ROTATION.base(size) <= 3 * segment, "{size}");
        }
        assert_eq!(ROTATION.base(2 * segment), 0);
        assert_eq!(ROTATION.base(3 * segment), segment);
        assert_eq!(ROTATION.base(10 * segment + 5), 8 * segment);
        assert_eq!(
            Rotation {
                max_size: 0,
                keep: 0,
                fresh_over: 0
            }
            .base(GRAIN + 1),
            GRAIN
        );
    }

    #[test]
    fn the_oldest_part_is_freed_and_the_size_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = LogFiles::new(dir.path(), "g");
        files.create_dir().unwrap();
        let fd = files.open(Stream::Stdout, &ROTATION).unwrap();
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..20 {
            assert_eq!(rustix::io::write(&fd, &block).unwrap(), block.len());
        }
        rustix::fs::fsync(&fd).unwrap();
        let size = 20 * block.len() as u64;
        let checked = match files.check(Stream::Stdout, &ROTATION) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return, // This file system cannot; the caller says so.
            other => other.unwrap(),
        };
        assert_eq!((checked.size, checked.freed), (size, true));
        let after = files.check(Stream::Stdout, &ROTATION).unwrap();
        assert_eq!((after.size, after.freed), (size, false));
        assert!(after.on_disk <= 3 * ROTATION.segment() + GRAIN, "{after:?}");
    }

    #[test]
    fn a_restarted_object_gets_a_fresh_file_when_the_old_one_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let files = LogFiles::new(dir.path(), "g");
        files.create_dir().unwrap();
        let rotation = Rotation {
            fresh_over: 3,
            ..ROTATION
        };
        let first = files.open(Stream::Stderr, &rotation).unwrap();
        rustix::io::write(&first, b"1234").unwrap();
        let second = files.open(Stream::Stderr, &rotation).unwrap();
        assert_ne!(incarnation(&first).unwrap(), incarnation(&second).unwrap());
        assert_eq!(std::fs::read(files.previous(Stream::Stderr)).unwrap(), b"1234");
        files.remove().unwrap();
        files.remove().unwrap();
    }
}
