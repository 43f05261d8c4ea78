//! Promise 20: journals of every released format open. `data/v1` was written by format version 1 and is never
//! written again; a change that needs another fixture is a new format version.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::path::Path;
use std::sync::Arc;

use agent_core_journal::{Class, CommitMode, Journal, RealVfs};
use common::{LIMIT, number, record, small};

#[test]
fn format_version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1");
    for entry in std::fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let mut config = small(CommitMode::Thread);
    config.dir = dir.path().to_owned();
    let (journal, found) = Journal::open_collected(Arc::new(RealVfs::new()), config.clone()).unwrap();
    assert!(found.report.is_clean(), "{:?}", found.report);
    assert!(found.report.sealed);
    assert!(found.report.foreign_files.is_empty());
    let numbers = |records: &[Vec<u8>]| records.iter().map(|bytes| number(bytes)).collect::<Vec<_>>();
    assert_eq!(
        numbers(found.snapshot.as_deref().unwrap()),
        (0..30).collect::<Vec<_>>()
    );
    assert_eq!(numbers(&found.records), (30..75).collect::<Vec<_>>());
    assert_eq!(journal.stats().durable.0, 75);
    journal
        .append(&record(75, 100), Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
    drop(journal);
    let (_journal, found) = Journal::open_collected(Arc::new(RealVfs::new()), config).unwrap();
    assert_eq!(numbers(&found.records), (30..76).collect::<Vec<_>>());
}
