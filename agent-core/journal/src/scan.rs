//! Walking over the frames of a file that was read into memory. Pure: any bytes will do.

use crate::format::{DATA_START, FRAME_HEADER, FrameFault, FrameKind, is_zero, read_frame};

/// One step of a walk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Record(&'a [u8]),
    End(&'a [u8]),
    /// Nothing but zeros from here on, or the end of the file.
    Clean,
    Damage(FrameFault),
}

/// A walk from the first frame to the end of valid data.
pub(crate) struct Scan<'a> {
    file: &'a [u8],
    seed: u32,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(file: &'a [u8], seed: u32) -> Self {
        Self {
            file,
            seed,
            at: DATA_START as usize,
        }
    }

    /// Offset of the next frame; after `Clean` or `Damage`, the end of valid data.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn step(&mut self) -> Step<'a> {
        match read_frame(self.file, self.seed, self.at) {
            Ok((kind, payload)) => {
                self.at += FRAME_HEADER + payload.len().next_multiple_of(8);
                match kind {
                    FrameKind::Record => Step::Record(payload),
                    FrameKind::End => Step::End(payload),
                }
            }
            Err(fault) => {
                if is_zero(self.file.get(self.at..).unwrap_or_default()) {
                    Step::Clean
                } else {
                    Step::Damage(fault)
                }
            }
        }
    }

    /// After damage: how many bytes follow up to the last that is not zero, and how many records among them
    /// verify. Only for the report. The work is bounded by a few times the length of the file.
    pub(crate) fn survey(&self) -> (usize, u64) {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let lost = rest
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let (mut at, mut found, mut budget) = (self.at + 8, 0, 4 * self.file.len());
        while at + FRAME_HEADER <= self.at + lost && budget > 0 {
            match read_frame(self.file, self.seed, at) {
                Ok((kind, payload)) => {
                    found += u64::from(kind == FrameKind::Record);
                    at += FRAME_HEADER + payload.len().next_multiple_of(8);
                }
                Err(fault) => {
                    if fault == FrameFault::Checksum {
                        let len = crate::format::u32_at(self.file, at + 4) as usize;
                        budget = budget.saturating_sub(len);
                    }
                    at += 8;
                }
            }
        }
        (lost, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::put_frame;

    fn file(records: &[&[u8]]) -> Vec<u8> {
        let mut file = vec![0; DATA_START as usize];
        for record in records {
            let at = file.len() as u64;
            put_frame(&mut file, 5, at, FrameKind::Record, record);
        }
        file
    }

    #[test]
    fn walks_to_the_zeros() {
        let mut bytes = file(&[b"a", b"", b"ccccccccc"]);
        let end = bytes.len();
        bytes.resize(end + 1000, 0);
        let mut scan = Scan::new(&bytes, 5);
        assert_eq!(scan.step(), Step::Record(b"a"));
        assert_eq!(scan.step(), Step::Record(b""));
        assert_eq!(scan.step(), Step::Record(b"ccccccccc"));
        assert_eq!(scan.step(), Step::Clean);
        assert_eq!(scan.offset(), end);
    }

    #[test]
    fn counts_what_follows_the_damage() {
        let mut bytes = file(&[b"one", b"two", b"three", b"four"]);
        let second = DATA_START as usize + 24;
        bytes[second + FRAME_HEADER] ^= 1;
        bytes.resize(bytes.len() + 512, 0);
        let mut scan = Scan::new(&bytes, 5);
        assert_eq!(scan.step(), Step::Record(b"one"));
        assert_eq!(scan.step(), Step::Damage(FrameFault::Checksum));
        let (lost, later) = scan.survey();
        assert_eq!((lost, later), (24 + 24 + 20, 2));
    }

    #[test]
    fn a_hole_of_zeros_is_damage_if_something_follows() {
        let mut bytes = file(&[b"one", b"two", b"three"]);
        let second = DATA_START as usize + 24;
        bytes[second..second + 24].fill(0);
        let mut scan = Scan::new(&bytes, 5);
        assert_eq!(scan.step(), Step::Record(b"one"));
        assert_eq!(scan.step(), Step::Damage(FrameFault::Magic));
        assert_eq!(scan.survey().1, 1);
    }

    #[test]
    fn bytes_made_to_look_like_frames_do_not_hang_the_survey() {
        let mut bytes = vec![0; DATA_START as usize];
        let mut frame = Vec::new();
        put_frame(&mut frame, 1, 0, FrameKind::Record, &[]);
        for _ in 0..20_000 {
            bytes.extend_from_slice(&frame[..4]);
            bytes.extend_from_slice(&150_000u32.to_le_bytes());
            bytes.extend_from_slice(&frame[8..]);
        }
        let mut scan = Scan::new(&bytes, 5);
        assert_eq!(scan.step(), Step::Damage(FrameFault::Checksum));
        assert_eq!(scan.survey().1, 0);
    }
}
