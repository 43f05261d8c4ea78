//! Opening a directory: whatever the bytes in it, it opens, and says what it could not keep.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::config::JournalConfig;
use crate::error::{OpenError, is_full};
use crate::format::{
    DATA_START, FileKind, FrameFault, Header, HeaderRead, MAX_NUMBER, MAX_SEGMENT_BYTES, VERSION,
};
use crate::quarantine::Quarantine;
use crate::report::{Quarantined, Reason, RecoveryReport, Replayed, SnapshotInfo};
use crate::scan::{Scan, Step};
use crate::segment::{Active, Maker, RESERVE, SPARE, number_in, remove_quietly, segment_name, snapshot_name};
use crate::snapshot;
use crate::status::{SegmentInfo, Status};
use crate::ticket::Lsn;
use crate::vfs::{OpenMode, VfsFile, read_up_to};
use crate::writer::Writer;

/// Takes each record; an error puts a copy of the record into the quarantine, and replay goes on.
pub(crate) type Visitor<'v> = &'v mut dyn FnMut(Replayed<'_>) -> Result<(), String>;

/// A file whose name is the journal's.
struct Found {
    len: u64,
    header: Result<Header, Bad>,
}

enum Bad {
    /// Never came into use.
    Blank,
    Damaged,
    Unreadable(io::Error),
}

/// What the directory holds, as far as names and headers say.
#[derive(Default)]
struct Listing {
    segments: BTreeMap<u64, Found>,
    snapshots: BTreeMap<u64, Found>,
    spare: Option<u64>,
    reserve: Option<u64>,
    temporary: Vec<String>,
}

struct Recovery<'a> {
    config: &'a JournalConfig,
    maker: &'a Maker,
    status: &'a Status,
    quarantine: Quarantine<'a>,
    visitor: Visitor<'a>,
    report: RecoveryReport,
    /// Number of the next record.
    lsn: u64,
    /// The last segment, if it can be written on.
    last: Option<Active>,
}

/// Reads the directory, which is locked, and hands its records to the visitor.
pub(crate) fn recover(
    config: &Arc<JournalConfig>,
    maker: Maker,
    visitor: Visitor<'_>,
) -> Result<(Writer, RecoveryReport), OpenError> {
    let status = Arc::new(Status::default());
    let mut report = RecoveryReport::default();
    let listing = list(&maker, &mut report)?;
    // From here on the directory is known to be ours, and may be changed.
    for name in &listing.temporary {
        remove_quietly(&*maker.vfs, &maker.path(name));
    }
    let numbers = listing.segments.keys().chain(listing.snapshots.keys());
    let next_id = numbers
        .filter(|id| **id <= MAX_NUMBER)
        .max()
        .map_or(1, |id| id + 1);
    let (spare, reserve) = (listing.spare, listing.reserve);
    let mut recovery = Recovery {
        config,
        maker: &maker,
        status: &status,
        quarantine: Quarantine::new(&maker, config.quarantine_bytes),
        visitor,
        report,
        lsn: 0,
        last: None,
    };
    let from = recovery.replay_snapshot(listing.snapshots);
    recovery.replay_segments(listing.segments, from);
    let Recovery {
        report, lsn, last, ..
    } = recovery;

    status.counters.lock().quarantined = report.quarantined.len();
    status.counters.lock().durable = lsn;
    let spare = maker.adopt_spare(SPARE, spare, config.segment_bytes);
    let reserve = match config.reserve_bytes {
        0 => None,
        len => maker.adopt_spare(RESERVE, reserve, len),
    };
    status
        .reserve_ready
        .store(reserve.is_some(), std::sync::atomic::Ordering::Release);
    let mut writer = Writer {
        config: config.clone(),
        maker,
        status,
        active: last,
        spare,
        reserve,
        helper: None,
        next_id,
        next_lsn: lsn,
        frames: Vec::new(),
        pending: Vec::new(),
    };
    writer.begin();
    Ok((writer, report))
}

impl Writer {
    /// Gives a journal without a usable segment its first one. If that fails, the journal opens all the same.
    fn begin(&mut self) {
        if self.active.is_some() {
            return;
        }
        let spare = match self.spare.take() {
            Some(spare) => Ok(spare),
            None => self.maker.make_spare(SPARE, self.config.first_segment_bytes()),
        };
        match spare {
            // A failure is noted, and mended later.
            Ok(spare) => drop(self.activate(spare)),
            Err(error) => {
                self.status.note("no segment could be made", &error);
                self.status
                    .ailing
                    .store(true, std::sync::atomic::Ordering::Release);
                self.status
                    .full
                    .store(is_full(&error), std::sync::atomic::Ordering::Release);
            }
        }
    }
}

fn list(maker: &Maker, report: &mut RecoveryReport) -> Result<Listing, OpenError> {
    let entries = maker
        .vfs
        .list(&maker.dir)
        .map_err(|source| OpenError::Directory {
            dir: maker.dir.clone(),
            source,
        })?;
    let mut listing = Listing::default();
    for entry in entries {
        let name = entry.name.as_str();
        if let Some(id) = number_in(name, "segment-", ".log") {
            let header = read_header(maker, name, FileKind::Segment, id)?;
            listing.segments.insert(
                id,
                Found {
                    len: entry.len,
                    header,
                },
            );
        } else if let Some(id) = number_in(name, "snapshot-", ".snap") {
            let header = read_header(maker, name, FileKind::Snapshot, id)?;
            listing.snapshots.insert(
                id,
                Found {
                    len: entry.len,
                    header,
                },
            );
        } else if name == SPARE {
            listing.spare = Some(entry.len);
        } else if name == RESERVE {
            listing.reserve = Some(entry.len);
        } else if is_temporary(name) {
            listing.temporary.push(entry.name);
        } else if name != "lock" {
            report.foreign_files.push(entry.name);
        }
    }
    report.foreign_files.sort();
    Ok(listing)
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|stem| {
        stem == SPARE || stem == RESERVE || number_in(stem, "snapshot-", ".snap").is_some()
    })
}

fn read_header(maker: &Maker, name: &str, kind: FileKind, id: u64) -> Result<Result<Header, Bad>, OpenError> {
    let path = maker.path(name);
    let file = match maker.vfs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) => return Ok(Err(Bad::Unreadable(error))),
    };
    let (block, fault) = read_up_to(&*file, DATA_START);
    Ok(match Header::decode(&block) {
        HeaderRead::Ok(header) if header.kind == kind && header.id == id => Ok(header),
        HeaderRead::Newer(found) => {
            return Err(OpenError::NewerFormat {
                file: path,
                found,
                known: VERSION,
            });
        }
        HeaderRead::Ok(_) | HeaderRead::Damaged => Err(fault.map_or(Bad::Damaged, Bad::Unreadable)),
        HeaderRead::Blank => Err(fault.map_or(Bad::Blank, Bad::Unreadable)),
    })
}

impl Recovery<'_> {
    /// Replays the newest whole snapshot; the first segment to replay after it.
    fn replay_snapshot(&mut self, snapshots: BTreeMap<u64, Found>) -> u64 {
        let mut chosen = None;
        for (covers, found) in snapshots.into_iter().rev() {
            let name = snapshot_name(covers);
            let header = match found.header {
                Ok(header) => header,
                Err(bad) => {
                    self.set_aside(&name, found.len, bad);
                    continue;
                }
            };
            if chosen.is_some() {
                // The fallback for another day. Older ones go with the next snapshot.
                self.status.catalog.lock().snapshots.insert(covers);
                continue;
            }
            let (file, fault) = self.read(&name, found.len);
            if let Some(error) = fault {
                self.set_aside(&name, found.len, Bad::Unreadable(error));
            } else if header.capacity != found.len || !snapshot::is_whole(&file, &header) {
                self.move_away(&name, found.len, Reason::Incomplete);
            } else {
                self.replay_whole(&file, &header);
                self.status.catalog.lock().snapshots.insert(covers);
                chosen = Some(covers);
            }
        }
        chosen.unwrap_or(0)
    }

    fn replay_whole(&mut self, file: &[u8], header: &Header) {
        let mut info = SnapshotInfo {
            records: 0,
            bytes: 0,
            lsn: Lsn(header.first_lsn),
        };
        let mut scan = Scan::new(file, header.seed());
        loop {
            let at = scan.offset() as u64;
            let Step::Record(bytes) = scan.step() else { break };
            info.records += 1;
            info.bytes += bytes.len() as u64;
            self.visit(&snapshot_name(header.id), at, Replayed::Snapshot(bytes), bytes);
        }
        self.lsn = header.first_lsn;
        self.report.snapshot = Some(info);
    }

    fn replay_segments(&mut self, segments: BTreeMap<u64, Found>, from: u64) {
        let newest = segments.keys().last().copied();
        let mut sound = Vec::new();
        for (id, found) in segments {
            match found.header {
                Ok(header) => sound.push((id, found.len, header)),
                Err(bad) => self.set_aside(&segment_name(id), found.len, bad),
            }
        }
        for (index, (id, len, header)) in sound.iter().enumerate() {
            if *id < from {
                let bytes = len.saturating_sub(DATA_START);
                self.status
                    .catalog
                    .lock()
                    .segments
                    .insert(*id, SegmentInfo { bytes });
                continue;
            }
            // Where the next segment says that this one ends: what lies beyond was never acknowledged.
            let next = sound.get(index + 1).map(|(_, _, next)| next.first_lsn);
            // Never written on if a later one exists, even an unreadable one: that might be readable another
            // day, and says where this one ends.
            let is_last = newest == Some(*id);
            self.replay_segment(
                *id,
                *len,
                header,
                next.filter(|end| *end >= header.first_lsn),
                is_last,
            );
        }
    }

    fn replay_segment(&mut self, id: u64, len: u64, header: &Header, end: Option<u64>, is_last: bool) {
        let name = segment_name(id);
        let handle = if is_last { self.open_last(&name) } else { None };
        let (file, fault) = self.read(&name, len.min(header.capacity).min(MAX_SEGMENT_BYTES));
        self.report.sealed = false;
        self.report.lost_records += header.first_lsn.saturating_sub(self.lsn);
        self.lsn = header.first_lsn;
        self.report.segments += 1;
        let mut scan = Scan::new(&file, header.seed());
        let damage = loop {
            let at = scan.offset() as u64;
            match scan.step() {
                Step::Record(bytes) => {
                    self.report.sealed = false;
                    if end.is_some_and(|end| self.lsn >= end) {
                        self.report.discarded += 1;
                        continue;
                    }
                    let record = Replayed::Record {
                        lsn: Lsn(self.lsn),
                        bytes,
                    };
                    self.visit(&name, at, record, bytes);
                    self.report.records += 1;
                    self.report.bytes += bytes.len() as u64;
                    self.lsn += 1;
                }
                Step::End(_) => self.report.sealed = true,
                Step::Clean => break None,
                Step::Damage(fault) => break Some(fault),
            }
        };
        let offset = scan.offset() as u64;
        let bytes = offset - DATA_START.min(offset);
        self.status
            .catalog
            .lock()
            .segments
            .insert(id, SegmentInfo { bytes });
        if let Some(error) = fault {
            // It may be readable another day: left as it is.
            self.report.sealed = false;
            self.push(Quarantined {
                file: name,
                offset,
                bytes_lost: len.saturating_sub(offset),
                reason: Reason::Unreadable(error.to_string()),
                later_valid_records: 0,
                maybe_unacknowledged: false,
                copy: None,
            });
        } else if let Some(fault) = damage {
            // If the next segment begins where this one was left, what failed here was never acknowledged.
            let unacknowledged = is_last || end == Some(self.lsn);
            self.cut(&name, &file, &scan, fault, unacknowledged);
        } else if let Some(handle) = handle
            && len == header.capacity
            && offset + DATA_START <= header.capacity
        {
            self.last = Some(Active {
                file: handle,
                id,
                seed: header.seed(),
                offset,
                capacity: header.capacity,
                reserve: header.capacity == self.config.reserve_bytes
                    && header.capacity != self.config.segment_bytes,
            });
        }
    }

    /// The last segment may hold records that were written but not synced when the agent was killed. They are
    /// about to be acted upon, so they are made durable first.
    fn open_last(&mut self, name: &str) -> Option<Box<dyn VfsFile>> {
        let opened = self.maker.vfs.open(&self.maker.path(name), OpenMode::ReadWrite);
        match opened.and_then(|file| file.sync_data().map(|()| file)) {
            Ok(file) => Some(file),
            Err(error) => {
                self.status
                    .note("the last segment could not be synced, it is closed", &error);
                None
            }
        }
    }

    /// Copies the damaged rest of a segment into the quarantine, then cuts it off.
    fn cut(
        &mut self,
        name: &str,
        file: &[u8],
        scan: &Scan<'_>,
        fault: FrameFault,
        maybe_unacknowledged: bool,
    ) {
        let at = scan.offset();
        let (lost, later_valid_records) = scan.survey();
        let copy = self
            .quarantine
            .copy(&format!("{name}-{at}"), &file[at..at + lost]);
        if copy.is_some() {
            let opened = self.maker.vfs.open(&self.maker.path(name), OpenMode::ReadWrite);
            let cut = opened.and_then(|file| file.set_len(at as u64).and_then(|()| file.sync_data()));
            if let Err(error) = cut {
                self.status.note("a damaged segment could not be cut", &error);
            }
        }
        self.push(Quarantined {
            file: name.to_owned(),
            offset: at as u64,
            bytes_lost: lost as u64,
            reason: match fault {
                FrameFault::Magic => Reason::NoFrame,
                FrameFault::Length => Reason::Length,
                FrameFault::Checksum => Reason::Checksum,
            },
            later_valid_records,
            maybe_unacknowledged,
            copy,
        });
        self.report.sealed = false;
    }

    /// A file whose header is of no use.
    fn set_aside(&mut self, name: &str, len: u64, bad: Bad) {
        match bad {
            Bad::Blank if len <= DATA_START => remove_quietly(&*self.maker.vfs, &self.maker.path(name)),
            Bad::Blank | Bad::Damaged => self.move_away(name, len, Reason::Header),
            Bad::Unreadable(error) => self.push(Quarantined {
                file: name.to_owned(),
                offset: 0,
                bytes_lost: len,
                reason: Reason::Unreadable(error.to_string()),
                later_valid_records: 0,
                maybe_unacknowledged: false,
                copy: None,
            }),
        }
    }

    fn move_away(&mut self, name: &str, len: u64, reason: Reason) {
        let copy = self.quarantine.take(name, len);
        self.push(Quarantined {
            file: name.to_owned(),
            offset: 0,
            bytes_lost: len,
            reason,
            later_valid_records: 0,
            maybe_unacknowledged: false,
            copy,
        });
    }

    fn visit(&mut self, file: &str, offset: u64, record: Replayed<'_>, bytes: &[u8]) {
        if let Err(reason) = (self.visitor)(record) {
            let copy = self.quarantine.copy(&format!("{file}-{offset}-record"), bytes);
            self.push(Quarantined {
                file: file.to_owned(),
                offset,
                bytes_lost: bytes.len() as u64,
                reason: Reason::Refused(reason),
                later_valid_records: 0,
                maybe_unacknowledged: false,
                copy,
            });
        }
    }

    fn push(&mut self, found: Quarantined) {
        tracing::warn!(
            file = found.file,
            offset = found.offset,
            bytes_lost = found.bytes_lost,
            reason = %found.reason,
            later_valid_records = found.later_valid_records,
            maybe_unacknowledged = found.maybe_unacknowledged,
            "journal: damage set aside"
        );
        self.report.quarantined.push(found);
    }

    fn read(&self, name: &str, len: u64) -> (Vec<u8>, Option<io::Error>) {
        match self.maker.vfs.open(&self.maker.path(name), OpenMode::Read) {
            Ok(file) => read_up_to(&*file, len),
            Err(error) => (Vec::new(), Some(error)),
        }
    }
}
