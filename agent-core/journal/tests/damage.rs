//! Promise 5: any journal opens. Whatever the bytes, what lies before the damage is kept, the rest is set aside and
//! reported, and the journal goes on.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use agent_core_journal::{Class, CommitMode, Journal, OpenError, Reason, Recovered};
use common::{LIMIT, Rng, SimFs, dir, number, record, small};
use proptest::prelude::*;

const HEADER: usize = 4096;

fn open(fs: &SimFs) -> (Journal, Recovered) {
    Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap()
}

fn append(journal: &Journal, from: usize, to: usize, len: impl Fn(usize) -> usize) {
    let tickets: Vec<_> = (from..to)
        .map(|n| journal.append(&record(n, len(n)), Class::Normal).unwrap())
        .collect();
    for mut ticket in tickets {
        ticket.wait(LIMIT).unwrap().unwrap();
    }
}

fn path(name: &str) -> PathBuf {
    dir().join(name)
}

fn segments(fs: &SimFs) -> Vec<String> {
    fs.names()
        .into_iter()
        .filter(|name| name.starts_with("segment-") && name.ends_with(".log"))
        .collect()
}

/// One segment of 24 records; its bytes, and where each record ends.
fn one_segment() -> (String, Vec<u8>, Vec<usize>) {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 24, |n| 9 + n * 7 % 90);
    drop(journal);
    let [name] = &segments(&fs)[..] else {
        panic!("one segment: {:?}", fs.names())
    };
    let mut ends = vec![HEADER];
    for n in 0..24usize {
        ends.push(ends[n] + 16 + (9 + n * 7 % 90usize).next_multiple_of(8));
    }
    (name.clone(), fs.content(&path(name)), ends)
}

/// Opens a directory with this one segment; asserts the prefix property, that the report adds up, that the journal
/// goes on, and that it opens again without new damage. What was found.
fn open_hurt(name: &str, bytes: &[u8]) -> Recovered {
    let fs = SimFs::new(2);
    fs.put(&path(name), bytes);
    let (journal, found) = open(&fs);
    let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "a prefix");
    for damage in &found.report.quarantined {
        let copy = damage.copy.as_ref().expect("there is room for a copy");
        let copy = fs.content(&path("quarantine").join(copy));
        if damage.offset > 0 {
            let at = damage.offset as usize;
            assert_eq!(
                copy,
                bytes[at..at + damage.bytes_lost as usize],
                "the copy is what was there"
            );
            assert!(
                bytes[at + copy.len()..].iter().all(|byte| *byte == 0),
                "nothing else was cut off"
            );
        } else {
            assert_eq!(copy, bytes);
        }
    }
    append(&journal, numbers.len(), numbers.len() + 3, |_| 50);
    drop(journal);
    let (_journal, again) = open(&fs.power_cut(7));
    assert_eq!(again.records.len(), numbers.len() + 3);
    assert!(
        again.report.quarantined.is_empty(),
        "told once: {:?}",
        again.report
    );
    found
}

#[test]
fn cut_at_every_byte() {
    let (name, bytes, ends) = one_segment();
    let used = *ends.last().unwrap();
    for cut in 0..=used {
        // A frame's padding means nothing: the record is whole without it.
        let whole = (0..24).filter(|n| ends[*n] + 16 + 9 + n * 7 % 90 <= cut).count();
        // As a shorter file, and as zeros to the old end.
        let short = open_hurt(&name, &bytes[..cut]);
        assert_eq!(short.records.len(), whole, "cut at {cut}");
        if cut >= HEADER {
            let mut zeros = bytes[..cut].to_vec();
            zeros.resize(bytes.len(), 0);
            let found = open_hurt(&name, &zeros);
            // The last bytes of a frame may be zeros of themselves.
            assert!(found.records.len() >= whole, "zeros from {cut}");
            let clean = cut <= ends[whole] || zeros == bytes || found.records.len() > whole;
            assert_eq!(
                found.report.is_clean(),
                clean,
                "zeros from {cut}: {:?}",
                found.report
            );
        }
    }
}

#[test]
fn every_bit_of_the_last_three_records_and_of_the_header() {
    let (name, bytes, ends) = one_segment();
    let used = *ends.last().unwrap();
    let third = ends[ends.len() - 4];
    for at in (0..64).chain(third..used) {
        for bit in 0..8 {
            let mut hurt = bytes.clone();
            hurt[at] ^= 1 << bit;
            let found = open_hurt(&name, &hurt);
            if at < HEADER {
                assert_eq!(found.records.len(), 24, "the header's second copy serves");
                assert!(found.report.is_clean());
                continue;
            }
            let frame = ends.iter().filter(|end| **end <= at).count() - 1;
            let padding = at >= ends[frame] + 16 + 9 + frame * 7 % 90;
            if padding {
                assert_eq!(found.records.len(), 24, "padding means nothing");
            } else {
                assert_eq!(
                    found.records.len(),
                    frame,
                    "byte {at} bit {bit}: stops at the damaged record"
                );
                let [damage] = &found.report.quarantined[..] else {
                    panic!("{:?}", found.report)
                };
                assert_eq!(damage.offset, ends[frame] as u64);
                assert_eq!(damage.later_valid_records, 23 - frame as u64);
                assert!(damage.maybe_unacknowledged);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Splice {
    Zeros {
        at: usize,
        len: usize,
    },
    Noise {
        at: usize,
        len: usize,
        seed: u64,
    },
    /// Blocks of the same segment in another place.
    Own {
        from: usize,
        to: usize,
        len: usize,
    },
    /// Blocks of another segment, of the same id, in the same place.
    Other {
        at: usize,
        len: usize,
    },
    Cut {
        at: usize,
    },
    Insert {
        at: usize,
        len: usize,
    },
}

fn splice() -> impl Strategy<Value = Splice> {
    let at = 0..HEADER + 2200usize;
    let len = prop_oneof![1..64usize, Just(512), Just(1024), 1..3000usize];
    prop_oneof![
        (at.clone(), len.clone()).prop_map(|(at, len)| Splice::Zeros { at, len }),
        (at.clone(), len.clone(), any::<u64>()).prop_map(|(at, len, seed)| Splice::Noise { at, len, seed }),
        (at.clone(), at.clone(), len.clone()).prop_map(|(from, to, len)| Splice::Own { from, to, len }),
        (at.clone(), len.clone()).prop_map(|(at, len)| Splice::Other { at, len }),
        at.clone().prop_map(|at| Splice::Cut { at }),
        (at, len).prop_map(|(at, len)| Splice::Insert { at, len }),
    ]
}

fn apply(bytes: &mut Vec<u8>, other: &[u8], splice: &Splice) {
    let end = bytes.len();
    let span = |at: usize, len: usize| at.min(end)..(at + len).min(end);
    match *splice {
        Splice::Zeros { at, len } => bytes[span(at, len)].fill(0),
        Splice::Noise { at, len, seed } => {
            let mut rng = Rng(seed);
            bytes[span(at, len)].fill_with(|| rng.next() as u8);
        }
        Splice::Own { from, to, len } => {
            let from = span(from, len);
            let len = from.len().min(end - to.min(end));
            bytes.copy_within(from.start..from.start + len, to.min(end));
        }
        Splice::Other { at, len } => {
            let span = span(at, len);
            bytes[span.clone()].copy_from_slice(&other[span]);
        }
        Splice::Cut { at } => bytes.truncate(at),
        Splice::Insert { at, len } => {
            let at = at.min(end);
            let piece = vec![0xa6; len];
            bytes.splice(at..at, piece);
        }
    }
}

/// A segment of the same id and the same layout, with records of its own.
fn other_segment() -> Vec<u8> {
    let fs = SimFs::new(77);
    let (journal, _) = open(&fs);
    append(&journal, 0, 24, |n| 9 + n * 7 % 90);
    drop(journal);
    fs.content(&path(&segments(&fs)[0]))
}

#[test]
fn blocks_of_another_file_in_the_same_place_do_not_verify() {
    let (name, bytes, ends) = one_segment();
    let other = other_segment();
    assert_ne!(
        bytes, other,
        "the checksums differ although ids, places and records are the same"
    );
    for frame in 0..24 {
        let mut hurt = bytes.clone();
        hurt[ends[frame]..ends[frame + 1]].copy_from_slice(&other[ends[frame]..ends[frame + 1]]);
        assert_eq!(open_hurt(&name, &hurt).records.len(), frame);
    }
}

#[test]
fn own_blocks_in_another_place_do_not_verify() {
    // Records of one size: each frame would fit where another lies.
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 20, |_| 40);
    drop(journal);
    let name = segments(&fs)[0].clone();
    let bytes = fs.content(&path(&name));
    for (from, to) in [(0, 20), (3, 7), (7, 3), (18, 19)] {
        let (from, to) = (HEADER + from * 56, HEADER + to * 56);
        let mut hurt = bytes.clone();
        hurt.copy_within(from..from + 56, to);
        let found = open_hurt(&name, &hurt);
        assert_eq!(found.records.len(), (to - HEADER) / 56);
        assert_eq!(found.report.quarantined[0].reason, Reason::Checksum);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(11), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spliced_segments_open(splices in prop::collection::vec(splice(), 1..4)) {
        thread_local! {
            static BASE: ((String, Vec<u8>, Vec<usize>), Vec<u8>) = (one_segment(), other_segment());
        }
        BASE.with(|((name, bytes, _), other)| {
            let mut hurt = bytes.clone();
            for splice in &splices {
                apply(&mut hurt, other, splice);
            }
            open_hurt(name, &hurt);
        });
    }

    #[test]
    fn any_bytes_open(seed in any::<u64>(), len in 0..20_000usize, zeros in any::<bool>()) {
        let mut rng = Rng(seed);
        let bytes: Vec<u8> = (0..len).map(|_| if zeros && rng.chance(95) { 0 } else { rng.next() as u8 }).collect();
        let fs = SimFs::new(seed);
        for name in [
            "segment-00000000000000000003.log", "segment-18446744073709551615.log", "segment-18446744073709551614.log",
            "snapshot-00000000000000000002.snap", "snapshot-18446744073709551615.snap", "spare", "reserve",
            "spare.tmp", "reserve.tmp", "snapshot-00000000000000000001.snap.tmp", "lost+found", "segment-x.log",
        ] {
            if rng.chance(60) {
                fs.put(&path(name), &bytes);
            }
        }
        let (journal, found) = open(&fs);
        prop_assert!(found.records.is_empty() && found.snapshot.is_none());
        append(&journal, 0, 5, |_| 100);
        drop(journal);
        let (_journal, found) = open(&fs);
        prop_assert_eq!(found.records.len(), 5);
        prop_assert!(found.report.is_clean(), "{:?}", found.report);
    }
}

/// Damage in one segment costs the rest of that segment, and no other.
#[test]
fn damage_in_an_early_segment_leaves_the_later_ones() {
    let fs = SimFs::new(4);
    let (journal, _) = open(&fs);
    append(&journal, 0, 60, |_| 500);
    drop(journal);
    let names = segments(&fs);
    assert!(names.len() >= 4, "{names:?}");
    let mut bytes = fs.content(&path(&names[1]));
    bytes[HEADER + 520 * 3 + 30] ^= 0x10; // the fourth record of the second segment
    fs.put(&path(&names[1]), &bytes);
    let (journal, found) = open(&fs);
    let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
    let first = (12 * 1024 - HEADER) / 520;
    let expected: Vec<_> = (0..first + 3).chain(first * 2..60).collect();
    assert_eq!(numbers, expected);
    assert_eq!(
        found.report.lost_records,
        first as u64 - 3,
        "the numbering tells how many are missing"
    );
    let [damage] = &found.report.quarantined[..] else {
        panic!("{:?}", found.report)
    };
    assert!(!damage.maybe_unacknowledged);
    assert_eq!(damage.later_valid_records, first as u64 - 4);
    // Goes on, and numbers are not used twice.
    append(&journal, 60, 61, |_| 10);
    assert_eq!(journal.stats().durable.0, 61);
}

#[test]
fn a_missing_segment_is_counted() {
    let fs = SimFs::new(4);
    let (journal, _) = open(&fs);
    append(&journal, 0, 60, |_| 500);
    drop(journal);
    let names = segments(&fs);
    agent_core_journal::Vfs::remove(&fs, &path(&names[1])).unwrap();
    let (_journal, found) = open(&fs);
    let first = (12 * 1024 - HEADER) / 520;
    assert_eq!(found.report.lost_records, first as u64);
    assert_eq!(found.records.len(), 60 - first);
}

#[test]
fn a_segment_without_a_header_is_moved_away() {
    let (name, mut bytes, _) = one_segment();
    bytes[..HEADER].fill(0xee);
    let found = open_hurt(&name, &bytes);
    assert_eq!(found.report.quarantined[0].reason, Reason::Header);
    assert!(found.records.is_empty());
}

#[test]
fn the_quarantine_is_bounded() {
    let (name, bytes, ends) = one_segment();
    let fs = SimFs::new(2);
    for round in 0..6u8 {
        let mut hurt = bytes.clone();
        hurt[ends[1]..].fill(round + 1); // about 8 KiB
        fs.put(&path(&name), &hurt);
        let mut config = small(CommitMode::Inline);
        config.quarantine_bytes = 20 << 10;
        let (_journal, found) = Journal::open_collected(Arc::new(fs.clone()), config).unwrap();
        assert_eq!(number(&found.records[0]), 0);
        let copy = found.report.quarantined[0].copy.clone().unwrap();
        assert_eq!(fs.content(&path("quarantine").join(copy))[0], round + 1);
    }
    let kept = fs
        .names()
        .iter()
        .filter(|name| name.starts_with("000000"))
        .count();
    assert_eq!(kept, 2);
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let (name, mut bytes, _) = one_segment();
    for at in [0, 2048] {
        bytes[at + 8] = 2;
        let crc = crc32c::crc32c(&bytes[at..at + 60]);
        bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
    }
    let fs = SimFs::new(3);
    fs.put(&path(&name), &bytes);
    fs.put(
        &path("segment-00000000000000000000.log"),
        b"damaged too, yet left alone",
    );
    fs.put(&path("spare.tmp"), b"left alone");
    fs.put(&path("reserve.tmp"), b"left alone");
    let ops = fs.ops();
    let error = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::NewerFormat {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(fs.ops(), ops, "{:?}", fs.trace());
    assert_eq!(fs.content(&path(&name)), bytes);
}

#[test]
fn what_cannot_be_read_is_left_alone_for_another_day() {
    let fs = SimFs::new(4);
    let (journal, _) = open(&fs);
    append(&journal, 0, 60, |_| 500);
    drop(journal);
    let names = segments(&fs);
    let per_segment = (12 * 1024 - HEADER) / 520;
    // In turn: a part of an early segment, all of it, and a part of the last one.
    for (index, from) in [
        (1, HEADER + 520 * 2 + 10),
        (1, 0),
        (names.len() - 1, HEADER + 520 + 10),
    ] {
        let fs = fs.power_cut(1);
        let file = path(&names[index]);
        let before = fs.content(&file);
        fs.set_unreadable(&file, Some(from));
        let (journal, found) = open(&fs);
        let [damage] = &found.report.quarantined[..] else {
            panic!("{:?}", found.report)
        };
        assert!(matches!(&damage.reason, Reason::Unreadable(_)), "{damage:?}");
        assert_eq!(damage.copy, None);
        assert_eq!(fs.content(&file), before, "not touched");
        let kept = from.saturating_sub(HEADER) / 520;
        let expected: Vec<_> = if index == 1 {
            (0..per_segment + kept).chain(per_segment * 2..60).collect()
        } else {
            (0..per_segment * index + kept).collect()
        };
        let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
        assert_eq!(numbers, expected);
        append(&journal, 60, 62, |_| 100);
        drop(journal);
        // Readable again. What later records were written without is not brought back.
        fs.set_unreadable(&file, None);
        let (_journal, found) = open(&fs);
        let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
        let back: Vec<_> = if index == 1 {
            (0..62).collect()
        } else {
            expected.into_iter().chain(60..62).collect()
        };
        assert_eq!(numbers, back);
        assert_eq!(found.report.discarded as usize, 62 - back.len());
        assert!(found.report.is_clean(), "{:?}", found.report);
    }
}

/// An unreadable segment may be readable another day, and then says where the one before it ends.
#[test]
fn nothing_is_written_before_an_unreadable_segment() {
    for seed in 0..20 {
        let fs = SimFs::new(4);
        let (journal, _) = open(&fs);
        append(&journal, 0, 3, |_| 100);
        journal.begin_snapshot().unwrap().wait(LIMIT).unwrap().unwrap();
        append(&journal, 3, 6, |_| 100);
        let fs = fs.power_cut(seed);
        drop(journal);
        let last = path(segments(&fs).last().unwrap());
        fs.set_unreadable(&last, Some(0));
        let (journal, found) = open(&fs);
        assert_eq!(found.records.len(), 3);
        append(&journal, 6, 8, |_| 100);
        drop(journal);
        fs.set_unreadable(&last, None);
        let (_journal, found) = open(&fs);
        let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
        assert_eq!(numbers, [0, 1, 2, 6, 7], "seed {seed}");
    }
}
