//! Snapshots: written beside the log, complete or not there at all; the previous one is kept.

use std::io;

use crate::error::SnapshotError;
use crate::format::{DATA_START, FileKind, FrameKind, Header, put_frame, u64_at};
use crate::scan::{Scan, Step};
use crate::segment::{Maker, remove_quietly, segment_name, snapshot_name};
use crate::status::Status;
use crate::ticket::SnapshotMark;
use crate::vfs::{OpenMode, VfsFile, write_all};

/// Written at once when this much has gathered.
const CHUNK: usize = 1 << 20;

/// Writes a snapshot and removes what it makes obsolete.
pub(crate) fn finish<R: AsRef<[u8]>>(
    maker: &Maker,
    status: &Status,
    mark: SnapshotMark,
    records: impl IntoIterator<Item = R>,
) -> Result<(), SnapshotError> {
    let latest = status.catalog.lock().snapshots.last().copied();
    if let Some(latest) = latest
        && latest >= mark.segment
    {
        return Err(SnapshotError::Stale {
            mark: mark.segment,
            latest,
        });
    }
    let path = maker.path(&snapshot_name(mark.segment));
    let temp = path.with_extension("snap.tmp");
    let failed = |source| SnapshotError::Write {
        file: path.clone(),
        source,
    };
    remove_quietly(&*maker.vfs, &temp);
    let written = write_file(maker, &temp, mark, records);
    if let Err(error) = written {
        remove_quietly(&*maker.vfs, &temp);
        return Err(match error {
            WriteFault::Io(source) => failed(source),
            WriteFault::TooLarge(len) => SnapshotError::TooLarge { len },
        });
    }
    maker
        .vfs
        .rename(&temp, &path)
        .and_then(|()| maker.vfs.sync_dir(&maker.dir))
        .map_err(failed)?;
    status.catalog.lock().snapshots.insert(mark.segment);
    remove_obsolete(maker, status);
    Ok(())
}

/// Removes all but the two newest snapshots, and the segments that both of them cover. Only to be called when
/// the names of those two are on disk.
pub(crate) fn remove_obsolete(maker: &Maker, status: &Status) {
    let (snapshots, segments): (Vec<u64>, Vec<u64>) = {
        let catalog = status.catalog.lock();
        let Some(previous) = catalog.snapshots.iter().rev().nth(1).copied() else {
            return;
        };
        let segments = catalog.segments.range(..previous).map(|(id, _)| *id).collect();
        (catalog.snapshots.range(..previous).copied().collect(), segments)
    };
    // From the oldest on, so that what stays after a crash is one piece.
    let names = snapshots
        .iter()
        .map(|id| snapshot_name(*id))
        .chain(segments.iter().map(|id| segment_name(*id)));
    for name in names {
        match maker.vfs.remove(&maker.path(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                status.note("an obsolete file could not be removed", &error);
                return;
            }
            _ => {}
        }
    }
    let mut catalog = status.catalog.lock();
    catalog.snapshots.retain(|id| !snapshots.contains(id));
    catalog.segments.retain(|id, _| !segments.contains(id));
}

enum WriteFault {
    Io(io::Error),
    TooLarge(usize),
}

impl From<io::Error> for WriteFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn write_file<R: AsRef<[u8]>>(
    maker: &Maker,
    temp: &std::path::Path,
    mark: SnapshotMark,
    records: impl IntoIterator<Item = R>,
) -> Result<(), WriteFault> {
    let file: Box<dyn VfsFile> = maker.vfs.open(temp, OpenMode::CreateNew)?;
    let mut header = Header {
        kind: FileKind::Snapshot,
        id: mark.segment,
        first_lsn: mark.lsn,
        capacity: 0,
        salt: maker.vfs.salt(),
    };
    let (mut frames, mut at, mut count) = (Vec::new(), DATA_START, 0u64);
    for record in records {
        let record = record.as_ref();
        if u32::try_from(record.len()).is_err() {
            return Err(WriteFault::TooLarge(record.len()));
        }
        let offset = at + frames.len() as u64;
        put_frame(&mut frames, header.seed(), offset, FrameKind::Record, record);
        count += 1;
        if frames.len() >= CHUNK {
            write_all(&*file, &frames, at)?;
            at += frames.len() as u64;
            frames.clear();
        }
    }
    let offset = at + frames.len() as u64;
    put_frame(
        &mut frames,
        header.seed(),
        offset,
        FrameKind::End,
        &count.to_le_bytes(),
    );
    write_all(&*file, &frames, at)?;
    header.capacity = at + frames.len() as u64;
    write_all(&*file, &header.encode(), 0)?;
    file.sync_data()?;
    Ok(())
}

/// True if the file is a whole snapshot: all frames verify, and the last says how many there are.
pub(crate) fn is_whole(file: &[u8], header: &Header) -> bool {
    let mut scan = Scan::new(file, header.seed());
    let mut count = 0u64;
    loop {
        match scan.step() {
            Step::Record(_) => count += 1,
            Step::End(payload) => {
                return payload.len() == 8 && u64_at(payload, 0) == count && scan.offset() == file.len();
            }
            Step::Clean | Step::Damage(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame_len;

    #[test]
    fn whole_only_with_its_last_frame() {
        let header = Header {
            kind: FileKind::Snapshot,
            id: 3,
            first_lsn: 9,
            capacity: 0,
            salt: 1,
        };
        let mut file = header.encode();
        for record in [&b"a"[..], b"bb"] {
            let at = file.len() as u64;
            put_frame(&mut file, header.seed(), at, FrameKind::Record, record);
        }
        let records = file.len();
        let at = file.len() as u64;
        put_frame(&mut file, header.seed(), at, FrameKind::End, &2u64.to_le_bytes());
        assert_eq!(file.len() - records, frame_len(8));
        assert!(is_whole(&file, &header));
        for cut in DATA_START as usize..file.len() {
            assert!(!is_whole(&file[..cut], &header), "cut at {cut}");
        }
        file.push(0);
        assert!(!is_whole(&file, &header));
    }
}
