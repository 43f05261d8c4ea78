//! Format version 1: headers and frames as bytes.

/// Every file begins with this.
const MAGIC: [u8; 8] = *b"agentlog";
/// The format written here, and the newest one read.
pub(crate) const VERSION: u32 = 1;
/// Where the header lies: twice, in two sectors, so that one bad sector does not cost the segment.
const HEADER_AT: [usize; 2] = [0, 2048];
const HEADER_BYTES: usize = 64;
/// Frames begin here.
pub(crate) const DATA_START: u64 = 4096;
/// Bytes before a frame's payload.
pub(crate) const FRAME_HEADER: usize = 16;
/// Upper bound on a segment, and so on the memory that reading one takes.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Ids and record numbers beyond this are taken for damage, so that counting on never overflows.
pub(crate) const MAX_NUMBER: u64 = 1 << 62;

const FRAME_MAGIC: u32 = 0x6365_72A6;
const KIND_RECORD: u8 = 1;
const KIND_END: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    /// The segment's id; for a snapshot, the first segment it does not cover.
    pub(crate) id: u64,
    /// The number of the first record in the segment; for a snapshot, of the first it does not cover.
    pub(crate) first_lsn: u64,
    /// Size in bytes of the whole file as it was planned.
    pub(crate) capacity: u64,
    /// Differs for each file ever made, so that blocks of one never verify in another.
    pub(crate) salt: u64,
}

/// What a file's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderRead {
    Ok(Header),
    Newer(u32),
    Damaged,
    /// Nothing but zeros: a file that never came into use.
    Blank,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Record,
    /// The mark of an orderly stop, or the last frame of a snapshot.
    End,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut head = [0u8; HEADER_BYTES];
        head[0..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let kind: u32 = match self.kind {
            FileKind::Segment => 1,
            FileKind::Snapshot => 2,
        };
        head[12..16].copy_from_slice(&kind.to_le_bytes());
        head[16..24].copy_from_slice(&self.id.to_le_bytes());
        head[24..32].copy_from_slice(&self.first_lsn.to_le_bytes());
        head[32..40].copy_from_slice(&self.capacity.to_le_bytes());
        head[40..48].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&head[..60]);
        head[60..64].copy_from_slice(&crc.to_le_bytes());
        let mut block = vec![0u8; DATA_START as usize];
        for at in HEADER_AT {
            block[at..at + HEADER_BYTES].copy_from_slice(&head);
        }
        block
    }

    /// Reads the first `DATA_START` bytes (or what there is of them).
    pub(crate) fn decode(block: &[u8]) -> HeaderRead {
        let mut read = HeaderRead::Damaged;
        for at in HEADER_AT {
            let Some(head) = block.get(at..at + HEADER_BYTES) else {
                continue;
            };
            match decode_one(head) {
                HeaderRead::Damaged | HeaderRead::Blank => {}
                sound => {
                    read = sound;
                    break;
                }
            }
        }
        if read == HeaderRead::Damaged && is_zero(block) {
            HeaderRead::Blank
        } else {
            read
        }
    }

    /// What every checksum of this file starts from.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.salt.to_le_bytes()), &self.id.to_le_bytes())
    }
}

fn decode_one(head: &[u8]) -> HeaderRead {
    if head[0..8] != MAGIC || u32_at(head, 60) != crc32c::crc32c(&head[..60]) {
        return HeaderRead::Damaged;
    }
    let version = u32_at(head, 8);
    if version > VERSION {
        return HeaderRead::Newer(version);
    }
    let kind = match u32_at(head, 12) {
        1 => FileKind::Segment,
        2 => FileKind::Snapshot,
        _ => return HeaderRead::Damaged,
    };
    let header = Header {
        kind,
        id: u64_at(head, 16),
        first_lsn: u64_at(head, 24),
        capacity: u64_at(head, 32),
        salt: u64_at(head, 40),
    };
    if version == 0 || header.id > MAX_NUMBER || header.first_lsn > MAX_NUMBER {
        return HeaderRead::Damaged;
    }
    HeaderRead::Ok(header)
}

/// Bytes that a record of `len` bytes takes in a file.
pub(crate) fn frame_len(len: usize) -> usize {
    FRAME_HEADER + len.next_multiple_of(8)
}

/// Appends the frame of `payload`, which will lie at `offset` of its file.
pub(crate) fn put_frame(out: &mut Vec<u8>, seed: u32, offset: u64, kind: FrameKind, payload: &[u8]) {
    let mut head = [0u8; FRAME_HEADER];
    head[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[8] = match kind {
        FrameKind::Record => KIND_RECORD,
        FrameKind::End => KIND_END,
    };
    let crc = frame_crc(seed, offset, &head, payload);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.resize(out.len() + payload.len().next_multiple_of(8) - payload.len(), 0);
}

fn frame_crc(seed: u32, offset: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut place = [0u8; 16];
    place[..8].copy_from_slice(&offset.to_le_bytes());
    place[8..].copy_from_slice(&head[4..12]);
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &place), payload)
}

/// Why the bytes at an offset are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameFault {
    Magic,
    Length,
    Checksum,
}

/// The frame at `offset` of a whole file `file`, with its payload.
pub(crate) fn read_frame(file: &[u8], seed: u32, offset: usize) -> Result<(FrameKind, &[u8]), FrameFault> {
    let rest = file.get(offset..).unwrap_or_default();
    let Some(head) = rest.get(..FRAME_HEADER) else {
        return Err(FrameFault::Length);
    };
    if u32_at(head, 0) != FRAME_MAGIC {
        return Err(FrameFault::Magic);
    }
    let len = u32_at(head, 4) as usize;
    let Some(payload) = rest[FRAME_HEADER..].get(..len) else {
        return Err(FrameFault::Length);
    };
    if u32_at(head, 12) != frame_crc(seed, offset as u64, head, payload) {
        return Err(FrameFault::Checksum);
    }
    match head[8] {
        KIND_RECORD => Ok((FrameKind::Record, payload)),
        KIND_END => Ok((FrameKind::End, payload)),
        _ => Err(FrameFault::Checksum),
    }
}

/// True if every byte is zero; compares blocks, which is quick in unoptimised builds too.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| chunk == &ZEROS[..chunk.len()])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0u8; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: FileKind::Segment,
        id: 7,
        first_lsn: 11,
        capacity: 1 << 20,
        salt: 0xfeed,
    };

    #[test]
    fn a_header_survives_the_loss_of_either_copy() {
        let block = HEADER.encode();
        assert_eq!(Header::decode(&block), HeaderRead::Ok(HEADER));
        for at in HEADER_AT {
            let mut hurt = block.clone();
            hurt[at..at + 512].fill(0xff);
            assert_eq!(Header::decode(&hurt), HeaderRead::Ok(HEADER));
        }
        assert_eq!(Header::decode(&[0; 4096]), HeaderRead::Blank);
        assert_eq!(Header::decode(&[7; 4096]), HeaderRead::Damaged);
        assert_eq!(Header::decode(&block[..10]), HeaderRead::Damaged);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut head = HEADER.encode()[..HEADER_BYTES].to_vec();
        head[8] = 2;
        assert_eq!(
            decode_one(&head),
            HeaderRead::Damaged,
            "a flipped bit is not a newer version"
        );
        let crc = crc32c::crc32c(&head[..60]);
        head[60..64].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_one(&head), HeaderRead::Newer(2));
    }

    #[test]
    fn a_frame_verifies_only_in_its_place() {
        let mut file = vec![0u8; 64];
        put_frame(&mut file, HEADER.seed(), 64, FrameKind::Record, b"hello");
        assert_eq!(
            read_frame(&file, HEADER.seed(), 64),
            Ok((FrameKind::Record, &b"hello"[..]))
        );
        let other = Header { id: 8, ..HEADER };
        assert_eq!(read_frame(&file, other.seed(), 64), Err(FrameFault::Checksum));
        let salted = Header { salt: 1, ..HEADER };
        assert_eq!(read_frame(&file, salted.seed(), 64), Err(FrameFault::Checksum));
        file.drain(..8);
        assert_eq!(read_frame(&file, HEADER.seed(), 56), Err(FrameFault::Checksum));
        assert_eq!(file.len(), 56 + frame_len(5));
    }
}
