//! Snapshots: they replace the log, the previous one is kept, and no crash on the way loses anything.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::sync::Arc;

use agent_core_journal::{Class, CommitMode, Journal, Reason, Recovered, SnapshotError, SnapshotMark};
use common::{Fault, LIMIT, SimFs, dir, number, record, small};

fn open(fs: &SimFs) -> (Journal, Recovered) {
    Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap()
}

fn append(journal: &Journal, from: usize, to: usize) {
    for n in from..to {
        journal
            .append(&record(n, 300), Class::Normal)
            .unwrap()
            .wait(LIMIT)
            .unwrap()
            .unwrap();
    }
}

fn mark(journal: &Journal) -> SnapshotMark {
    journal.begin_snapshot().unwrap().wait(LIMIT).unwrap().unwrap()
}

/// The state after `to` records.
fn state(to: usize) -> Vec<Vec<u8>> {
    (0..to).map(|n| record(n, 30)).collect()
}

fn numbers(found: &Recovered) -> (Option<Vec<usize>>, Vec<usize>) {
    let read = |records: &Vec<Vec<u8>>| records.iter().map(|bytes| number(bytes)).collect::<Vec<_>>();
    (found.snapshot.as_ref().map(read), read(&found.records))
}

fn files(fs: &SimFs, prefix: &str) -> Vec<String> {
    fs.names()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .collect()
}

#[test]
fn a_snapshot_replaces_what_came_before_its_mark() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 100);
    let at = mark(&journal);
    assert_eq!(at.lsn().0, 100);
    append(&journal, 100, 110); // while the snapshot is made
    journal.finish_snapshot(at, state(100)).unwrap();
    append(&journal, 110, 115);
    assert!(
        journal.stats().bytes_since_snapshot < journal.stats().bytes / 4,
        "{:?}",
        journal.stats()
    );
    drop(journal);
    let (journal, found) = open(&fs);
    assert_eq!(numbers(&found), (Some((0..100).collect()), (100..115).collect()));
    assert!(found.report.is_clean(), "{:?}", found.report);
    let info = found.report.snapshot.unwrap();
    assert_eq!((info.records, info.lsn.0), (100, 100));

    // The second one lets go of what only the time before the first needed.
    let before = files(&fs, "segment-").len();
    let at = mark(&journal);
    journal.finish_snapshot(at, state(115)).unwrap();
    assert_eq!(files(&fs, "snapshot-").len(), 2);
    assert!(files(&fs, "segment-").len() < before - 2);
    assert_eq!(journal.stats().segments, files(&fs, "segment-").len());
    let at = mark(&journal);
    journal.finish_snapshot(at, state(115)).unwrap_err();
    append(&journal, 115, 116);
    let at = mark(&journal);
    journal.finish_snapshot(at, state(116)).unwrap();
    assert_eq!(files(&fs, "snapshot-").len(), 2);
    assert_eq!(files(&fs, "segment-").len(), 2);
    drop(journal);
    let (_, found) = open(&fs);
    assert_eq!(numbers(&found), (Some((0..116).collect()), vec![]));
    assert!(found.report.is_clean(), "{:?}", found.report);
}

#[test]
fn an_old_mark_is_refused() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 3);
    let old = mark(&journal);
    append(&journal, 3, 6);
    let new = mark(&journal);
    journal.finish_snapshot(new, state(6)).unwrap();
    let error = journal.finish_snapshot(old, state(3)).unwrap_err();
    assert!(matches!(error, SnapshotError::Stale { .. }), "{error}");
    drop(journal);
    assert_eq!(numbers(&open(&fs).1), (Some((0..6).collect()), vec![]));
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_previous_one_and_its_tail() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 50);
    let at = mark(&journal);
    journal.finish_snapshot(at, state(50)).unwrap();
    append(&journal, 50, 90);
    let at = mark(&journal);
    journal.finish_snapshot(at, state(90)).unwrap();
    append(&journal, 90, 95);
    drop(journal);
    let newest = dir().join(files(&fs, "snapshot-").last().unwrap());
    let sound = fs.content(&newest);
    for (at, mask) in [
        (0, 0xff),
        (4096, 1),
        (4096 + 20, 0x80),
        (sound.len() - 9, 1),
        (sound.len() - 1, 1),
    ] {
        let fs = fs.power_cut(1);
        let mut bytes = sound.clone();
        bytes[at] ^= mask;
        if at == 0 {
            bytes[2048] ^= mask;
        }
        fs.put(&newest, &bytes);
        let (journal, found) = open(&fs);
        assert_eq!(
            numbers(&found),
            (Some((0..50).collect()), (50..95).collect()),
            "byte {at}"
        );
        assert_eq!(found.report.lost_records, 0);
        let [damage] = &found.report.quarantined[..] else {
            panic!("{:?}", found.report)
        };
        assert!(matches!(damage.reason, Reason::Incomplete | Reason::Header));
        assert_eq!(
            fs.content(&dir().join("quarantine").join(damage.copy.as_ref().unwrap())),
            bytes
        );
        // And the next snapshot keeps the sound one as its previous.
        append(&journal, 95, 96);
        let at = mark(&journal);
        journal.finish_snapshot(at, state(96)).unwrap();
        drop(journal);
        let (_, found) = open(&fs);
        assert_eq!(numbers(&found), (Some((0..96).collect()), vec![]));
        assert!(found.report.is_clean());
    }
    // Both damaged: what is left is replayed, and what is missing is counted.
    let fs = fs.power_cut(1);
    for name in files(&fs, "snapshot-") {
        let mut bytes = fs.content(&dir().join(&name));
        bytes[4100] ^= 1;
        fs.put(&dir().join(&name), &bytes);
    }
    let (_, found) = open(&fs);
    assert_eq!(found.report.quarantined.len(), 2);
    let (snapshot, records) = numbers(&found);
    assert_eq!((snapshot, records.last()), (None, Some(&94)));
    assert_eq!(found.report.lost_records as usize, 95 - records.len());
}

/// Power off, or an error, at each step of the second snapshot.
#[test]
fn a_crash_at_each_step_of_a_snapshot() {
    let prepare = |seed: u64| {
        let fs = SimFs::new(seed);
        let (journal, _) = open(&fs);
        append(&journal, 0, 40);
        let at = mark(&journal);
        journal.finish_snapshot(at, state(40)).unwrap();
        append(&journal, 40, 70);
        (fs, journal)
    };
    let act = |journal: &Journal| -> Result<(), ()> {
        let at = journal
            .begin_snapshot()
            .map_err(drop)?
            .wait(LIMIT)
            .unwrap()
            .map_err(drop)?;
        journal.finish_snapshot(at, state(70)).map_err(drop)
    };
    let (fs, journal) = prepare(5);
    let first = fs.ops();
    act(&journal).unwrap();
    let last = fs.ops();
    assert!(last - first > 10, "{:?}", &fs.trace()[first..]);
    for fault in [Fault::PowerCut, Fault::Eio, Fault::Enospc] {
        for op in first..last {
            for seed in 0..8 {
                let (fs, journal) = prepare(5);
                fs.fail(op, fault);
                let done = act(&journal);
                let mut all = 70;
                if fault != Fault::PowerCut {
                    append(&journal, 70, 72);
                    all = 72;
                }
                drop(journal);
                let fs = fs.power_cut(seed);
                let (_journal, found) = open(&fs);
                let (snapshot, records) = numbers(&found);
                let from = snapshot.expect("one of the two is whole").len();
                assert!(from == 40 || from == 70, "op {op} {fault:?}: {from}");
                assert!(
                    from == 70 || done.is_err(),
                    "op {op} {fault:?}: a finished snapshot is gone"
                );
                assert_eq!(
                    records,
                    (from..all).collect::<Vec<_>>(),
                    "op {op} {fault:?} seed {seed}"
                );
                assert!(found.report.is_clean(), "op {op} {fault:?}: {:?}", found.report);
                assert!(
                    files(&fs, "snapshot-").iter().all(|name| name.ends_with(".snap")),
                    "{:?}",
                    fs.names()
                );
            }
        }
    }
}

#[test]
fn numbers_go_on_after_the_snapshot_when_all_segments_are_gone() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    append(&journal, 0, 60);
    let at = mark(&journal);
    journal.finish_snapshot(at, state(60)).unwrap();
    drop(journal);
    for name in files(&fs, "segment-") {
        agent_core_journal::Vfs::remove(&fs, &dir().join(name)).unwrap();
    }
    let (journal, _) = open(&fs);
    append(&journal, 60, 63);
    drop(journal);
    let (_journal, found) = open(&fs);
    assert_eq!(numbers(&found), (Some((0..60).collect()), vec![60, 61, 62]));
}

/// A successor that failed to open may come back after a power cut, and says where the old segment ends.
#[test]
fn a_segment_gets_no_more_records_once_its_successor_may_exist() {
    let (journal_ops, trace) = {
        let fs = SimFs::new(5);
        let (journal, _) = open(&fs);
        append(&journal, 0, 3);
        let first = fs.ops();
        mark(&journal);
        (first..fs.ops(), fs.trace())
    };
    assert!(
        trace[journal_ops.clone()]
            .iter()
            .any(|line| line.contains("sync_dir")),
        "{trace:?}"
    );
    for op in journal_ops {
        for seed in 0..40 {
            let fs = SimFs::new(5);
            let (journal, _) = open(&fs);
            append(&journal, 0, 3);
            fs.fail(op, Fault::Eio);
            let _ = journal.begin_snapshot().unwrap().wait(LIMIT).unwrap();
            append(&journal, 3, 5);
            let fs = fs.power_cut(seed); // with the journal still open
            drop(journal);
            let (_journal, found) = open(&fs);
            assert_eq!(numbers(&found), (None, (0..5).collect()), "op {op}, seed {seed}");
        }
    }
}
