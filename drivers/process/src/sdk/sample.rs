//! Samples of many objects in one pass, with the files kept open.
//!
//! Opening, reading and closing `stat` and `io` costs three times what reading them costs, so both stay open, two descriptors
//! per object within a budget; objects beyond the budget open and close. One buffer serves all. An object is its whole tree:
//! where a cgroup holds the tree the members are taken from it (one more read), and what members beside the first use is added;
//! without one, the first process and the children it waited for count.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};

use super::procfs::{self, number, parse_stat};

/// What an object uses at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Processor time so far, in nanoseconds.
    pub cpu_nanos: u64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Bytes read from and written to storage so far; `None` where we may not know.
    pub io: Option<(u64, u64)>,
    pub threads: u64,
    pub processes: u64,
    /// Open descriptors of the first process; `None` where we may not know.
    pub fds: Option<u64>,
}

/// How many descriptors may be kept open for sampling, over all objects.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(descriptors: usize) -> Self {
        Self {
            left: AtomicUsize::new(descriptors),
        }
    }

    fn take(&self, count: usize) -> bool {
        self.left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(count)
            })
            .is_ok()
    }

    fn give(&self, count: usize) {
        self.left.fetch_add(count, Ordering::AcqRel);
    }

    /// Descriptors that may still be opened.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }
}

/// The open files of one object.
#[derive(Debug)]
pub(crate) struct Kept {
    files: Vec<OwnedFd>,
    /// Which of them are there: stat is always first.
    has_io: bool,
    has_procs: bool,
    taken: usize,
    budget: std::sync::Arc<Budget>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give(self.taken);
    }
}

const FILES: usize = 3;

fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

impl Kept {
    /// Opens the files; `taken` descriptors count against the budget until it is dropped.
    fn open(
        pid: i32,
        procs: Option<&Path>,
        taken: usize,
        budget: &std::sync::Arc<Budget>,
    ) -> io::Result<Self> {
        let mut kept = Self {
            files: Vec::with_capacity(FILES),
            has_io: false,
            has_procs: false,
            taken,
            budget: std::sync::Arc::clone(budget),
        };
        kept.files.push(open(&format!("/proc/{pid}/stat"))?);
        if let Ok(io) = open(&format!("/proc/{pid}/io")) {
            kept.files.push(io);
            kept.has_io = true;
        }
        if let Some(fd) = procs.and_then(|path| open(path.to_str()?).ok()) {
            kept.files.push(fd);
            kept.has_procs = true;
        }
        Ok(kept)
    }
}

/// Takes samples; holds the shared buffer and the constants of the system.
pub(crate) struct Sampler {
    buffer: Vec<u8>,
    nanos_per_tick: u64,
    page: u64,
    budget: std::sync::Arc<Budget>,
}

impl Sampler {
    pub(crate) fn new(budget: std::sync::Arc<Budget>) -> Self {
        Self {
            buffer: vec![0; 16 * 1024],
            nanos_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            page: rustix::param::page_size() as u64,
            budget,
        }
    }

    /// Samples one object. `start_ticks` guards against a pid that was used again; files kept open belong to the process they
    /// were opened for whatever becomes of its pid. `Ok(None)` where the process is gone.
    pub(crate) fn sample(
        &mut self,
        pid: i32,
        start_ticks: u64,
        procs: Option<&Path>,
        kept: &mut Option<Kept>,
    ) -> io::Result<Option<Sample>> {
        let mut transient = None;
        if kept.is_none() {
            let within = self.budget.take(FILES);
            let opened = match Kept::open(pid, procs, if within { FILES } else { 0 }, &self.budget) {
                Ok(opened) => opened,
                Err(e) if gone(&e) => return Ok(None),
                Err(e) => return Err(e),
            };
            if within {
                *kept = Some(opened);
            } else {
                transient = Some(opened);
            }
        }
        let Some(files) = kept.as_ref().or(transient.as_ref()) else {
            return Ok(None);
        };
        let result = self.read(pid, start_ticks, files);
        if !matches!(result, Ok(Some(_))) {
            *kept = None;
        }
        result
    }

    fn read(&mut self, pid: i32, start_ticks: u64, files: &Kept) -> io::Result<Option<Sample>> {
        let Some(stat) = self.pread(&files.files[0])?.and_then(parse_stat) else {
            return Ok(None);
        };
        if stat.start_ticks != start_ticks || stat.is_dead() {
            return Ok(None);
        }
        let mut ticks = stat.cpu_ticks;
        let mut pages = stat.rss_pages;
        let mut sample = Sample {
            threads: stat.threads,
            processes: 1,
            ..Sample::default()
        };
        if files.has_io {
            sample.io = self.pread(&files.files[1])?.and_then(parse_io);
        }
        if let (true, Some(procs)) = (files.has_procs, files.files.last()) {
            let members: Vec<i32> = self
                .pread(procs)?
                .map(|text| {
                    text.split(|b| *b == b'\n')
                        .filter_map(|l| i32::try_from(number(l)?).ok())
                        .collect()
                })
                .unwrap_or_default();
            for member in members.into_iter().filter(|m| *m != pid && *m > 0) {
                let Ok(stat) = procfs::stat(member) else { continue };
                ticks += stat.cpu_ticks;
                pages += stat.rss_pages;
                sample.threads += stat.threads;
                sample.processes += 1;
                let text = procfs::read_into(&format!("/proc/{member}/io"), &mut self.buffer);
                if let (Some(sum), Some(more)) = (&mut sample.io, text.ok().and_then(parse_io)) {
                    sum.0 += more.0;
                    sum.1 += more.1;
                }
                self.buffer.resize(16 * 1024, 0);
            }
        }
        sample.cpu_nanos = ticks.saturating_mul(self.nanos_per_tick);
        sample.memory_bytes = pages.saturating_mul(self.page);
        sample.fds = count_fds(pid);
        Ok(Some(sample))
    }

    fn pread(&mut self, file: &OwnedFd) -> io::Result<Option<&[u8]>> {
        match rustix::io::pread(file, &mut self.buffer[..], 0) {
            Ok(count) => Ok(Some(&self.buffer[..count])),
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::ACCESS | rustix::io::Errno::NODEV) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The kernel gives the number of descriptors as the size of the directory since 6.2; before, it is 0 and not known.
fn count_fds(pid: i32) -> Option<u64> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/fd")).ok()?;
    u64::try_from(stat.st_size).ok().filter(|count| *count > 0)
}

fn parse_io(text: &[u8]) -> Option<(u64, u64)> {
    let value = |key: &[u8]| {
        text.split(|b| *b == b'\n')
            .find_map(|line| number(line.strip_prefix(key)?))
    };
    Some((value(b"read_bytes: ")?, value(b"write_bytes: ")?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn own_process_is_sampled_with_kept_files_and_without() {
        let pid = std::process::id() as i32;
        let start = procfs::stat(pid).unwrap().start_ticks;
        for descriptors in [FILES, 0] {
            let budget = Arc::new(Budget::new(descriptors));
            let mut sampler = Sampler::new(Arc::clone(&budget));
            let mut kept = None;
            let sample = sampler.sample(pid, start, None, &mut kept).unwrap().unwrap();
            assert!(sample.memory_bytes > 100_000 && sample.threads > 0 && sample.processes == 1);
            assert_eq!(kept.is_some(), descriptors > 0);
            assert_eq!(budget.left(), 0);
            drop(kept);
            assert_eq!(budget.left(), descriptors);
        }
    }

    #[test]
    fn another_start_time_is_no_sample() {
        let pid = std::process::id() as i32;
        let mut sampler = Sampler::new(Arc::new(Budget::new(10)));
        let mut kept = None;
        assert_eq!(sampler.sample(pid, 1, None, &mut kept).unwrap(), None);
        assert!(kept.is_none());
    }

    #[test]
    fn io_is_parsed() {
        let text = b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 0\n";
        assert_eq!(parse_io(text), Some((5, 6)));
        assert_eq!(parse_io(b""), None);
    }
}
