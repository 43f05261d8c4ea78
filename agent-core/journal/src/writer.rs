//! The writer: a step function that commits one batch at a time. It has no thread and no clock of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crate::config::JournalConfig;
use crate::error::{JournalError, is_full};
use crate::format::{DATA_START, FrameKind, frame_len, put_frame};
use crate::queue::{Batch, Class, EntryKind};
use crate::segment::{Active, Maker, RESERVE, SPARE, Spare, remove_quietly, segment_name};
use crate::status::{SegmentInfo, Status};
use crate::ticket::{EntryResult, Place};
use crate::vfs::write_all;

/// What the helper thread made.
pub(crate) struct Prepared {
    reserve: Option<io::Result<Spare>>,
    spare: Option<io::Result<Spare>>,
}

/// What the helper thread shall make.
pub(crate) struct Job {
    maker: Maker,
    reserve: Option<u64>,
    spare: Option<u64>,
}

impl Job {
    /// The reserve first: without it nothing can be stopped when the disk is full.
    pub(crate) fn run(self) -> Prepared {
        let reserve = self.reserve.map(|len| self.maker.make_spare(RESERVE, len));
        let spare = match &reserve {
            Some(Err(error)) => self.spare.map(|_| Err(io::Error::from(error.kind()))),
            _ => self.spare.map(|len| self.maker.make_spare(SPARE, len)),
        };
        Prepared { reserve, spare }
    }
}

pub(crate) struct Writer {
    pub(crate) config: Arc<JournalConfig>,
    pub(crate) maker: Maker,
    pub(crate) status: Arc<Status>,
    pub(crate) active: Option<Active>,
    pub(crate) spare: Option<Spare>,
    pub(crate) reserve: Option<Spare>,
    pub(crate) helper: Option<JoinHandle<Prepared>>,
    pub(crate) next_id: u64,
    /// Number of the next record; all before it are durable.
    pub(crate) next_lsn: u64,
    /// Frames of the current segment that are not written yet, and the entries they belong to.
    pub(crate) frames: Vec<u8>,
    pub(crate) pending: Vec<usize>,
}

const KEEP_BYTES: usize = 256 << 10;

impl Writer {
    /// Commits a batch: one write and one sync per segment that it touches.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Vec<EntryResult> {
        let mut results: Vec<EntryResult> = Vec::with_capacity(batch.entries.len());
        results.resize_with(batch.entries.len(), || Err(JournalError::Closed));
        let mut at = 0;
        for (index, entry) in batch.entries.iter().enumerate() {
            let payload = &batch.bytes[at..at + entry.len];
            at += entry.len;
            match entry.kind {
                EntryKind::Record(class) => match self.make_room(frame_len(entry.len), class, &mut results) {
                    Ok(()) => self.put(index, payload),
                    Err(error) => results[index] = Err(error),
                },
                EntryKind::Mark => {
                    self.flush(&mut results);
                    results[index] = self.mark();
                }
            }
        }
        self.flush(&mut results);
        self.frames.clear();
        self.frames.shrink_to(KEEP_BYTES);
        let refused = results
            .iter()
            .filter(|result| matches!(result, Err(JournalError::StorageFull)))
            .count();
        if refused > 0 {
            self.status.counters.lock().refused_full += refused as u64;
        }
        results
    }

    fn put(&mut self, index: usize, payload: &[u8]) {
        let Some(active) = &self.active else { return };
        let offset = active.offset + self.frames.len() as u64;
        put_frame(&mut self.frames, active.seed, offset, FrameKind::Record, payload);
        self.pending.push(index);
    }

    /// Sees to it that the current segment holds another `len` bytes.
    fn make_room(
        &mut self,
        len: usize,
        class: Class,
        results: &mut [EntryResult],
    ) -> Result<(), JournalError> {
        if class == Class::Normal && self.status.is_full() {
            return Err(JournalError::StorageFull);
        }
        if self.fits(len) {
            return Ok(());
        }
        self.flush(results);
        self.rotate(class)?;
        if self.fits(len) {
            Ok(())
        } else {
            Err(JournalError::StorageFull)
        }
    }

    fn fits(&self, len: usize) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.offset + (self.frames.len() + len) as u64 <= active.capacity)
    }

    /// Writes and syncs the pending frames. After an error the segment is closed for ever: the pages may be
    /// gone although a second sync would succeed.
    fn flush(&mut self, results: &mut [EntryResult]) {
        if self.pending.is_empty() {
            return;
        }
        let count = self.pending.len() as u64;
        let frames = std::mem::take(&mut self.frames);
        match self.write_synced(&frames) {
            Ok(segment) => {
                for (lsn, index) in (self.next_lsn..).zip(self.pending.drain(..)) {
                    results[index] = Ok(Place { segment, lsn });
                }
                self.next_lsn += count;
                let mut counters = self.status.counters.lock();
                counters.records += count;
                counters.commits += 1;
                counters.group_max = counters.group_max.max(count);
                counters.durable = self.next_lsn;
            }
            Err(source) => {
                for index in self.pending.drain(..) {
                    results[index] = Err(JournalError::OutcomeUnknown {
                        source: source.clone(),
                    });
                }
                self.status.counters.lock().failed += count;
            }
        }
        self.frames = frames;
        self.frames.clear();
    }

    /// Writes at the end of the current segment, and syncs.
    fn write_synced(&mut self, frames: &[u8]) -> Result<u64, Arc<io::Error>> {
        let Some(active) = &mut self.active else {
            return Err(Arc::new(io::ErrorKind::NotFound.into()));
        };
        match write_all(&*active.file, frames, active.offset).and_then(|()| active.file.sync_data()) {
            Ok(()) => {
                active.offset += frames.len() as u64;
                let (id, bytes) = (active.id, active.offset - DATA_START);
                self.status
                    .catalog
                    .lock()
                    .segments
                    .insert(id, SegmentInfo { bytes });
                Ok(id)
            }
            Err(error) => {
                self.status
                    .note("a write to the current segment failed, it is closed", &error);
                self.abandon();
                Err(Arc::new(error))
            }
        }
    }

    /// Closes the current segment after an error, and tries to cut off what is not known to be durable. The
    /// next segment's header says the same, should that fail.
    fn abandon(&mut self) {
        let Some(active) = self.active.take() else { return };
        if active.offset == DATA_START {
            self.status.catalog.lock().segments.remove(&active.id);
            remove_quietly(&*self.maker.vfs, &self.maker.path(&segment_name(active.id)));
        } else if let Err(error) = active
            .file
            .set_len(active.offset)
            .and_then(|()| active.file.sync_data())
        {
            self.status.note("the failed segment could not be cut", &error);
        }
        self.status.ailing.store(true, Ordering::Release);
    }

    /// Begins a new segment, so that a snapshot covers whole segments.
    fn mark(&mut self) -> EntryResult {
        if self
            .active
            .as_ref()
            .is_none_or(|active| active.offset > DATA_START)
        {
            self.rotate(Class::Normal)?;
        }
        match &self.active {
            Some(active) => Ok(Place {
                segment: active.id,
                lsn: self.next_lsn,
            }),
            None => Err(JournalError::Closed),
        }
    }

    /// Makes a new segment the current one. Without space the old one stays, for `Reserved` records.
    fn rotate(&mut self, class: Class) -> Result<(), JournalError> {
        let spare = match self.take_spare() {
            Ok(spare) => spare,
            Err(error) => {
                self.status.note("no new segment could be made", &error);
                self.status.ailing.store(true, Ordering::Release);
                if !is_full(&error) {
                    return Err(JournalError::NotWritten {
                        source: Arc::new(error),
                    });
                }
                self.status.full.store(true, Ordering::Release);
                let reserve = if class == Class::Reserved {
                    self.reserve.take()
                } else {
                    None
                };
                self.status
                    .reserve_ready
                    .store(self.reserve.is_some(), Ordering::Release);
                reserve.ok_or(JournalError::StorageFull)?
            }
        };
        self.activate(spare)
            .map_err(|source| JournalError::NotWritten { source })
    }

    pub(crate) fn activate(&mut self, spare: Spare) -> Result<(), Arc<io::Error>> {
        // From here on a successor may exist that says where the old segment ends, so the old one gets no
        // more records, even if this fails.
        let old = self.active.take();
        let id = self.next_id;
        self.next_id += 1;
        match self.maker.activate(spare, id, self.next_lsn) {
            Ok(active) => {
                self.status
                    .catalog
                    .lock()
                    .segments
                    .insert(id, SegmentInfo { bytes: 0 });
                self.active = Some(active);
                if let Some(old) = old {
                    // Gives the unused rest back; nothing depends on it.
                    if let Err(error) = old.file.set_len(old.offset) {
                        self.status.note("a full segment could not be cut", &error);
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.status.note("a new segment could not be opened", &error);
                self.status.ailing.store(true, Ordering::Release);
                Err(Arc::new(error))
            }
        }
    }

    fn take_spare(&mut self) -> io::Result<Spare> {
        self.reap();
        match self.spare.take() {
            Some(spare) => Ok(spare),
            None => self.maker.make_spare(SPARE, self.config.segment_bytes),
        }
    }

    /// Takes what the helper made; waits for it if it still works.
    pub(crate) fn reap(&mut self) {
        let Some(helper) = self.helper.take() else { return };
        match helper.join() {
            Ok(prepared) => self.accept(prepared),
            Err(_) => tracing::error!("journal: the helper that makes segments panicked"),
        }
    }

    pub(crate) fn accept(&mut self, prepared: Prepared) {
        match prepared.reserve {
            Some(Ok(reserve)) => self.reserve = Some(reserve),
            Some(Err(error)) => {
                self.status.note("the reserve could not be made", &error);
                self.status.ailing.store(true, Ordering::Release);
                if is_full(&error) {
                    // Without a reserve nothing could be stopped any more once this segment is full.
                    self.status.full.store(true, Ordering::Release);
                }
            }
            None => {}
        }
        self.status
            .reserve_ready
            .store(self.reserve.is_some(), Ordering::Release);
        match prepared.spare {
            Some(Ok(spare)) => self.spare = Some(spare),
            Some(Err(error)) => {
                self.status.note("the next segment could not be made", &error);
                self.status.ailing.store(true, Ordering::Release);
            }
            None => {}
        }
    }

    /// What lacks and could be made beside the commits. Nothing after a failure: then `heal` does it.
    pub(crate) fn job(&mut self) -> Option<Job> {
        if self.helper.is_some() || self.status.ailing.load(Ordering::Acquire) {
            return None;
        }
        self.lacking()
    }

    fn lacking(&self) -> Option<Job> {
        let reserve =
            (self.reserve.is_none() && self.config.reserve_bytes > 0).then_some(self.config.reserve_bytes);
        let spare = self.spare.is_none().then_some(self.config.segment_bytes);
        (reserve.is_some() || spare.is_some()).then(|| Job {
            maker: self.maker.clone(),
            reserve,
            spare,
        })
    }

    /// Tries to make whatever lacks; afterwards `ailing` and `full` say whether anything still does.
    pub(crate) fn heal(&mut self) {
        self.reap();
        self.status.ailing.store(false, Ordering::Release);
        if let Some(job) = self.lacking() {
            self.accept(job.run());
        }
        if self.status.ailing.load(Ordering::Acquire) {
            return;
        }
        let unfit = self.active.as_ref().is_none_or(|active| active.reserve);
        if unfit
            && let Some(spare) = self.spare.take()
            && self.activate(spare).is_err()
        {
            return;
        }
        if self.status.full.swap(false, Ordering::AcqRel) {
            tracing::info!("journal: there is space again");
        }
    }

    /// Marks the end of an orderly stop.
    pub(crate) fn write_end(&mut self) -> Result<(), JournalError> {
        if !self.fits(frame_len(0)) {
            self.rotate(Class::Reserved)?;
        }
        let Some(active) = &self.active else {
            return Err(JournalError::Closed);
        };
        let mut frame = Vec::new();
        put_frame(&mut frame, active.seed, active.offset, FrameKind::End, &[]);
        self.write_synced(&frame)
            .map_err(|source| JournalError::OutcomeUnknown { source })?;
        Ok(())
    }
}
