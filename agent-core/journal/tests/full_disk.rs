//! Promise 8: a full disk refuses what can wait, takes what cannot, and heals by itself.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::sync::Arc;

use agent_core_journal::{AppendError, Class, CommitMode, Journal, JournalError};
use common::{LIMIT, SimFs, number, record, small};

/// Appends until the journal is full; how many records it took, and who said no.
fn fill(journal: &Journal, from: usize, class: Class) -> (usize, bool) {
    for n in from.. {
        match journal.append(&record(n, 400), class) {
            Err(AppendError::StorageFull) => return (n, false),
            Err(error) => panic!("{error}"),
            Ok(mut ticket) => match ticket.wait(LIMIT).unwrap() {
                Ok(_) => {}
                Err(JournalError::StorageFull) => return (n, true),
                Err(error) => panic!("{error}"),
            },
        }
    }
    unreachable!("a disk is finite")
}

#[test]
fn stop_and_delete_work_on_a_full_disk_and_all_works_when_there_is_space() {
    let fs = SimFs::new(1);
    fs.set_space(60 << 10);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    let (normal, _) = fill(&journal, 0, Class::Normal);
    assert!(normal > 50, "{normal}");
    assert!(journal.stats().storage_full && journal.stats().reserve_ready);
    assert_eq!(
        journal.append(b"x", Class::Normal).err(),
        Some(AppendError::StorageFull)
    );
    let (reserved, _) = fill(&journal, normal, Class::Reserved);
    assert!(
        (reserved - normal) * 416 > 3000,
        "{} reserved records",
        reserved - normal
    );
    assert!(journal.stats().refused_full >= 3);

    fs.set_space(120 << 10);
    for n in reserved..reserved + 20 {
        journal
            .append(&record(n, 400), Class::Normal)
            .unwrap()
            .wait(LIMIT)
            .unwrap()
            .unwrap();
    }
    let stats = journal.stats();
    assert!(!stats.storage_full && stats.reserve_ready, "{stats:?}");
    drop(journal);
    let (_journal, found) =
        Journal::open_collected(Arc::new(fs.power_cut(1)), small(CommitMode::Inline)).unwrap();
    let numbers: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
    assert_eq!(numbers, (0..reserved + 20).collect::<Vec<_>>());
    assert!(found.report.is_clean(), "{:?}", found.report);
}

#[test]
fn the_writer_thread_heals_without_being_asked() {
    let fs = SimFs::new(2);
    fs.set_space(60 << 10);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Thread)).unwrap();
    let (normal, _) = fill(&journal, 0, Class::Normal);
    let (reserved, _) = fill(&journal, normal, Class::Reserved);
    assert!(reserved > normal);
    fs.set_space(usize::MAX);
    let (done, waited) = std::sync::mpsc::channel::<()>();
    let mut polls = 0;
    while journal.stats().storage_full {
        // Nobody sends: this is a wait, with an end.
        assert!(waited.recv_timeout(std::time::Duration::from_millis(10)).is_err());
        polls += 1;
        assert!(polls < 3000, "{:?}", journal.stats());
    }
    drop(done);
    journal
        .append(&record(reserved, 400), Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
    drop(journal);
    let (_journal, found) =
        Journal::open_collected(Arc::new(fs.power_cut(1)), small(CommitMode::Inline)).unwrap();
    assert_eq!(found.records.len(), reserved + 1);
}

#[test]
fn opens_on_a_disk_without_any_space() {
    let fs = SimFs::new(3);
    fs.set_space(0);
    for mode in [CommitMode::Inline, CommitMode::Thread] {
        let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(mode)).unwrap();
        assert_eq!(
            journal.append(b"x", Class::Normal).err(),
            Some(AppendError::StorageFull)
        );
        let mut ticket = journal.append(b"x", Class::Reserved).unwrap();
        let error = ticket.wait(LIMIT).unwrap().unwrap_err();
        assert!(error.is_storage_full() && error.is_refusal(), "{error}");
    }
    // The reserve of an earlier run serves at once.
    let fs = SimFs::new(4);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    let (n, ()) = (10, fs.set_space(40 << 10));
    let _ = fill(&journal, n, Class::Normal);
    drop(journal);
    fs.set_space(fs.used());
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    journal
        .append(&record(0, 2000), Class::Reserved)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
}
