//! What a user sees on the real file system.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use agent_core_journal::{
    AppendError, Class, CommitMode, Journal, JournalConfig, Lsn, OpenError, RealVfs, Reason, Recovered,
    Replayed, SealError,
};
use common::LIMIT;

fn config(dir: &std::path::Path) -> JournalConfig {
    let mut config = JournalConfig::new(dir);
    config.segment_bytes = 256 << 10;
    config.reserve_bytes = 64 << 10;
    config.max_record_bytes = 32 << 10;
    config
}

fn open(config: JournalConfig) -> (Journal, Recovered) {
    Journal::open_collected(Arc::new(RealVfs::new()), config).unwrap()
}

fn append(journal: &Journal, record: &[u8]) -> Lsn {
    journal
        .append(record, Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap()
}

#[test]
fn a_note_goes_with_the_next_append_and_costs_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("journal"));
    config.note_delay = Duration::from_secs(3600);
    let (journal, _) = open(config.clone());
    let before = journal.stats().commits;
    for n in 0..10u8 {
        journal.note(&[b'n', n], Class::Normal).unwrap();
        append(&journal, &[b'a', n]);
    }
    assert_eq!(journal.stats().commits - before, 10);
    journal.note(b"last", Class::Normal).unwrap();
    journal.seal(LIMIT).unwrap();
    drop(journal);
    let (_journal, found) = open(config);
    let expected: Vec<Vec<u8>> = (0..10u8)
        .flat_map(|n| [vec![b'n', n], vec![b'a', n]])
        .chain([b"last".to_vec()])
        .collect();
    assert_eq!(found.records, expected);
}

#[test]
fn a_note_alone_is_written_after_its_delay() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(&dir.path().join("journal")));
    append(&journal, b"first");
    let before = journal.stats().records;
    journal.note(b"alone", Class::Normal).unwrap();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while journal.stats().records == before {
        assert!(tokio::time::Instant::now() < deadline, "the note was not written");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_appended_comes_back_in_order_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/journal");
    let mut expected = Vec::new();
    for round in 0..4usize {
        let (journal, found) = open(config(&path));
        assert_eq!(found.records, expected);
        assert!(found.report.is_clean(), "{:?}", found.report);
        assert_eq!(found.report.sealed, round % 2 == 1);
        let mut tickets = Vec::new();
        for n in 0..300usize {
            let record = common::record(round * 1000 + n, 9 + n * 13 % 2000);
            tickets.push(journal.append(&record, Class::Normal).unwrap());
            expected.push(record);
        }
        for (n, mut ticket) in tickets.into_iter().enumerate() {
            assert_eq!(
                ticket.wait(LIMIT).unwrap().unwrap(),
                Lsn((round * 300 + n) as u64)
            );
        }
        let stats = journal.stats();
        assert_eq!(
            (stats.records, stats.queue_bytes, stats.durable),
            (300, 0, Lsn((round as u64 + 1) * 300))
        );
        assert!(stats.segments > round, "{stats:?}");
        if round % 2 == 0 {
            journal.seal(LIMIT).unwrap();
            journal.seal(LIMIT).unwrap();
            assert_eq!(
                journal.append(b"late", Class::Reserved).err(),
                Some(AppendError::Closed)
            );
        }
    }
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o077,
            0,
            "{entry:?}"
        );
    }
}

#[test]
fn dropping_writes_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    let tickets: Vec<_> = (0..50)
        .map(|n| journal.append(&[n; 100], Class::Normal).unwrap())
        .collect();
    drop(tickets);
    drop(journal);
    let (_, found) = open(config(dir.path()));
    assert_eq!(found.records.len(), 50);
}

#[test]
fn limits_are_refusals_that_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    let error = journal
        .append(&vec![0; (32 << 10) + 1], Class::Normal)
        .unwrap_err();
    assert_eq!(
        error,
        AppendError::TooLarge {
            len: (32 << 10) + 1,
            max: 32 << 10
        }
    );
    append(&journal, &vec![1; 32 << 10]);
    append(&journal, b"");

    for spoil in [
        |config: &mut JournalConfig| config.segment_bytes = 4096,
        |config: &mut JournalConfig| config.reserve_bytes = 4096,
        |config: &mut JournalConfig| config.segment_bytes = 2 << 30,
        |config: &mut JournalConfig| config.queue_bytes = 1000,
        |config: &mut JournalConfig| config.max_record_bytes = usize::MAX,
        |config: &mut JournalConfig| config.heal_interval = Duration::ZERO,
    ] {
        let mut config = config(&dir.path().join("other"));
        spoil(&mut config);
        let error = Journal::open(config, |_| Ok(())).unwrap_err();
        assert!(matches!(error, OpenError::Config { .. }), "{error}");
    }
}

#[test]
fn a_full_queue_is_busy_and_then_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.mode = CommitMode::Inline; // nothing is written until somebody waits
    config.queue_bytes = 64 << 10;
    let (journal, _) = open(config);
    let mut tickets = Vec::new();
    let refused = loop {
        match journal.append(&[7; 1000], Class::Normal) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Busy { .. }), "{refused}");
    assert_eq!(tickets.len(), (64 << 10) / 1016);
    tickets.push(journal.append(&[8; 1000], Class::Reserved).unwrap());
    for mut ticket in tickets {
        ticket.wait(LIMIT).unwrap().unwrap();
    }
    assert_eq!(journal.stats().commits, 1, "all of it was one group");
    append(&journal, &[7; 1000]);
}

#[test]
fn a_second_opener_is_refused_until_the_first_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    let error = Journal::open(config(dir.path()), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::Lock(_)), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(journal);
    Journal::open(config(dir.path()), |_| Ok(())).unwrap();
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Journal::open(config(&dir.path().join("file")), |_| Ok(())).unwrap_err();
    assert!(
        matches!(&error, OpenError::Directory { dir, .. } if dir.ends_with("file")),
        "{error}"
    );
}

#[test]
fn a_record_that_nobody_can_read_is_set_aside_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    for record in [&b"good"[..], b"bad", b"fine"] {
        append(&journal, record);
    }
    drop(journal);
    let mut seen = Vec::new();
    let (_journal, report) = Journal::open(config(dir.path()), |replayed| {
        let Replayed::Record { bytes, lsn } = replayed else {
            panic!("no snapshot was made")
        };
        seen.push((lsn.0, bytes.to_vec()));
        if bytes == b"bad" {
            Err("not a record of mine".to_owned())
        } else {
            Ok(())
        }
    })
    .unwrap();
    assert_eq!(
        seen,
        [(0, b"good".to_vec()), (1, b"bad".to_vec()), (2, b"fine".to_vec())]
    );
    let [found] = &report.quarantined[..] else {
        panic!("{report:?}")
    };
    assert_eq!(found.reason, Reason::Refused("not a record of mine".to_owned()));
    let copy = dir.path().join("quarantine").join(found.copy.as_ref().unwrap());
    assert_eq!(std::fs::read(copy).unwrap(), b"bad");
}

#[tokio::test(start_paused = true)]
async fn tickets_are_futures_under_a_paused_clock() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    for n in 0..20u64 {
        assert_eq!(
            journal.append(b"x", Class::Normal).unwrap().await.unwrap(),
            Lsn(n)
        );
    }
    drop(journal);
    // With a deadline a paused clock runs ahead of a thread's disk, but not of the poll that writes.
    let mut config = config(dir.path());
    config.mode = CommitMode::Inline;
    let (journal, _) = open(config);
    for n in 20..40u64 {
        let ticket = journal.append(b"x", Class::Normal).unwrap();
        assert_eq!(
            tokio::time::timeout(Duration::from_nanos(1), ticket)
                .await
                .unwrap()
                .unwrap(),
            Lsn(n)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appenders_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    let journal = Arc::new(journal);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64usize {
        let journal = journal.clone();
        tasks.spawn(async move {
            let mut last = None;
            for n in 0..50usize {
                let record = common::record(task * 50 + n, 200);
                let lsn = journal.append(&record, Class::Normal).unwrap().await.unwrap();
                assert!(last < Some(lsn), "one after the other");
                last = Some(lsn);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let stats = journal.stats();
    assert_eq!(stats.records, 3200);
    assert!(stats.commits < 1600, "groups of {} on average", stats.group_mean);
    assert!(stats.group_max > 1);
    drop(journal);
    let (_, found) = open(config(dir.path()));
    let mut numbers: Vec<_> = found
        .records
        .iter()
        .map(|record| common::number(record))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..3200).collect::<Vec<_>>());
}

#[test]
fn the_next_segment_is_made_ahead_and_used_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(config(dir.path()));
    journal.seal(LIMIT).unwrap();
    for name in ["spare", "reserve"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    assert!(journal.stats().reserve_ready);
    drop(journal);
    let (journal, found) = open(config(dir.path()));
    assert!(found.report.sealed);
    assert_eq!(journal.stats().segments, 1, "a clean segment is written on");
}

#[test]
fn a_hanging_disk_hangs_nobody() {
    let fs = common::SimFs::new(1);
    let mut config = common::small(CommitMode::Thread);
    config.drop_wait = Duration::from_millis(20);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), config.clone()).unwrap();
    append(&journal, b"before");
    fs.gate().set(true);
    let mut ticket = journal.append(b"hangs", Class::Normal).unwrap();
    assert!(ticket.wait(Duration::from_millis(20)).is_none());
    while journal.append(&[1; 2000], Class::Normal).is_ok() {}
    let refused = journal.append(&[1; 2000], Class::Normal).unwrap_err();
    assert!(matches!(refused, AppendError::Busy { .. }), "{refused}");
    assert!(
        journal.append(b"stop", Class::Reserved).is_ok(),
        "there is room for what stops things"
    );
    assert!(matches!(
        journal.seal(Duration::from_millis(20)),
        Err(SealError::Deadline)
    ));
    drop(journal);
    // The writer may still write, so the directory is not free.
    let error = Journal::open_collected(Arc::new(fs.clone()), config.clone()).unwrap_err();
    assert!(matches!(error, OpenError::Lock(_)), "{error}");
    fs.gate().set(false);
    assert_eq!(ticket.wait(LIMIT).unwrap().unwrap(), Lsn(1));
    let mut tries = 0;
    let found = loop {
        match Journal::open_collected(Arc::new(fs.clone()), config.clone()) {
            Ok((_journal, found)) => break found,
            Err(error) => assert!(tries < 10_000 && matches!(error, OpenError::Lock(_)), "{error}"),
        }
        tries += 1;
        std::thread::park_timeout(Duration::from_millis(5));
    };
    assert!(found.report.sealed, "it ended in order after all");
    assert_eq!(found.records[1], b"hangs");
    assert_eq!(found.records.last().unwrap(), b"stop");
}
