//! Promises 6 and 7: nothing acknowledged is lost by a power cut, and no error is taken for success. Everything
//! runs on the simulated file system; a failing seed is printed and is the whole run.
#![allow(missing_docs, clippy::unwrap_used)] // a test says what failed by failing

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_core_journal::{Class, CommitMode, Journal, JournalError, Recovered, Ticket};
use common::{Fault, LIMIT, Rng, SimFs, number, record, small};

/// What the journal has been told, and what it has answered.
#[derive(Default)]
struct Model {
    next: usize,
    /// Must be there after any crash: acknowledged, or replayed by an open that came to its end.
    durable: BTreeSet<usize>,
    /// Must not be there.
    refused: BTreeSet<usize>,
    /// May be there or not.
    unknown: BTreeSet<usize>,
}

impl Model {
    fn settle(&mut self, tickets: Vec<(usize, Ticket)>) {
        let mut results: Vec<_> = Vec::new();
        for (number, mut ticket) in tickets {
            results.push((number, ticket.wait(LIMIT).expect("a ticket hangs")));
        }
        for (number, result) in &results {
            match result {
                Ok(_) => {
                    // A success settles all earlier failures: they are not replayed any more.
                    let earlier: Vec<_> = self.unknown.range(..number).copied().collect();
                    for earlier in earlier {
                        self.unknown.remove(&earlier);
                        self.refused.insert(earlier);
                    }
                    self.durable.insert(*number);
                }
                Err(error) if error.is_refusal() => drop(self.refused.insert(*number)),
                Err(_) => drop(self.unknown.insert(*number)),
            }
        }
    }

    /// Holds what was replayed against what was promised.
    fn check(&mut self, found: &Recovered) {
        let in_snapshot: Vec<_> = found
            .snapshot
            .iter()
            .flatten()
            .map(|bytes| number(bytes))
            .collect();
        let records: Vec<_> = found.records.iter().map(|bytes| number(bytes)).collect();
        assert!(
            records.is_sorted_by(|a, b| a < b),
            "order of the log: {records:?}"
        );
        let all: BTreeSet<_> = in_snapshot.iter().chain(&records).copied().collect();
        let lost: Vec<_> = self.durable.difference(&all).collect();
        assert!(
            lost.is_empty(),
            "acknowledged and lost: {lost:?} ({:?})",
            found.report
        );
        let ghosts: Vec<_> = self.refused.intersection(&all).collect();
        assert!(
            ghosts.is_empty(),
            "refused and replayed: {ghosts:?} ({:?})",
            found.report
        );
        assert_eq!(found.report.lost_records, 0, "{:?}", found.report);
        for damage in &found.report.quarantined {
            assert!(
                damage.maybe_unacknowledged,
                "a crash alone damages nothing but the tail: {damage:?}"
            );
        }
        // Who has been told of these records may act on them.
        self.durable.extend(&all);
        self.unknown = self.unknown.difference(&all).copied().collect();
    }
}

/// One life of the journal: appends, snapshots, until the script or the disk ends.
fn live(journal: &Journal, fs: &SimFs, model: &mut Model, rng: &mut Rng, actions: usize) {
    for _ in 0..actions {
        if fs.is_dead() {
            return;
        }
        let mut tickets = Vec::new();
        for _ in 0..=rng.below(6) {
            let number = model.next;
            model.next += 1;
            let class = if rng.chance(20) {
                Class::Reserved
            } else {
                Class::Normal
            };
            match journal.append(&record(number, 9 + rng.below(900)), class) {
                Ok(ticket) => tickets.push((number, ticket)),
                Err(_) => drop(model.refused.insert(number)),
            }
        }
        model.settle(tickets);
        if rng.chance(6) {
            let Ok(mut mark) = journal.begin_snapshot() else {
                continue;
            };
            let state: Vec<_> = model.durable.iter().map(|n| record(*n, 40)).collect();
            if let Some(Ok(mark)) = mark.wait(LIMIT) {
                drop(journal.finish_snapshot(mark, state));
            }
        }
    }
}

fn run(seed: u64, mode: CommitMode, with_errors: bool) {
    let mut rng = Rng(seed);
    let mut fs = SimFs::new(rng.next());
    let mut model = Model::default();
    let lives = 2 + rng.below(3);
    for life in 0..lives {
        // Somewhere in this life, recovery included, the power goes. Or the agent is just killed.
        let span = if rng.chance(30) { 30 } else { 300 };
        let cut = rng.below(span);
        if rng.chance(85) {
            fs.fail(cut, Fault::PowerCut);
        }
        let opened = Journal::open_collected(Arc::new(fs.clone()), small(mode));
        match opened {
            Err(error) => assert!(fs.is_dead(), "refuses to open: {error}"),
            Ok((journal, found)) => {
                if !fs.is_dead() {
                    model.check(&found);
                }
                if with_errors {
                    for _ in 0..rng.below(4) {
                        let fault = [Fault::Eio, Fault::Enospc, Fault::Short][rng.below(3)];
                        fs.fail(fs.ops() + rng.below(200), fault);
                    }
                }
                let actions = rng.below(if life + 1 == lives { 20 } else { 80 });
                live(&journal, &fs, &mut model, &mut rng, actions);
                if rng.chance(20) {
                    drop(journal.seal(LIMIT));
                }
            }
        }
        let after = rng.next();
        if fs.is_dead() || rng.chance(50) {
            fs = fs.power_cut(after);
        } else {
            fs.clear_faults();
        }
    }
    let (_journal, found) = Journal::open_collected(Arc::new(fs), small(mode)).unwrap();
    model.check(&found);
}

fn seeds(from: u64, count: u64, run: impl Fn(u64)) {
    for seed in from..from + count {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = outcome {
            eprintln!("failing seed: {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    seeds(0, 3000, |seed| run(seed, CommitMode::Inline, false));
}

#[test]
fn power_cuts_and_io_errors_lose_nothing_acknowledged() {
    seeds(100_000, 3000, |seed| run(seed, CommitMode::Inline, true));
}

#[test]
fn power_cuts_under_the_writer_thread_lose_nothing_acknowledged() {
    seeds(200_000, 300, |seed| run(seed, CommitMode::Thread, seed % 2 == 0));
}

/// A script of 200 records, the same each time; what was acknowledged, and how many operations it took.
fn script(fs: &SimFs, at: Option<(usize, Fault)>) -> (Model, Vec<Result<(), JournalError>>, usize) {
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    if let Some((op, fault)) = at {
        fs.fail(op, fault);
    }
    let mut model = Model::default();
    let mut results = Vec::new();
    for group in 0..50 {
        let mut tickets = Vec::new();
        for n in group * 4..group * 4 + 4 {
            match journal.append(&record(n, 9 + n * 37 % 400), Class::Normal) {
                Ok(ticket) => tickets.push((n, ticket)),
                Err(_) => drop(model.refused.insert(n)),
            }
        }
        let mut group = Vec::new();
        for (n, mut ticket) in tickets {
            let result = ticket.wait(LIMIT).unwrap();
            results.push(result.clone().map(drop));
            group.push((n, ticket));
        }
        model.settle(group);
    }
    let ops = fs.ops();
    let healed = journal.append(&record(200, 50), Class::Normal).unwrap();
    model.settle(vec![(200, healed)]);
    assert!(model.durable.contains(&200), "{at:?}: it has not healed");
    (model, results, ops)
}

#[test]
fn each_operation_failed_in_turn_costs_one_group_and_no_promise() {
    let fs = SimFs::new(1);
    let first = {
        drop(Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap());
        fs.ops()
    };
    let fs = SimFs::new(1);
    let (_, _, last) = script(&fs, None);
    assert!(last > first + 120, "the script writes: {first}..{last}");
    let mut failures = 0;
    for fault in [Fault::Eio, Fault::Enospc, Fault::Short] {
        for op in first..last {
            let fs = SimFs::new(op as u64);
            let (mut model, results, _) = script(&fs, Some((op, fault)));
            let failed = results.iter().filter(|result| result.is_err()).count();
            failures += failed;
            assert!(
                failed + model.refused.len() <= 8,
                "op {op} {fault:?} fails {failed}, later appends go on"
            );
            assert!(
                fault != Fault::Short || failed == 0,
                "a short write is gone on with"
            );
            assert!(
                model.durable.len() >= 193,
                "op {op} {fault:?}: {} durable",
                model.durable.len()
            );
            // Killed, and after a power cut: the same promises.
            for fs in [fs.power_cut(op as u64), fs] {
                fs.clear_faults();
                let (_journal, found) =
                    Journal::open_collected(Arc::new(fs), small(CommitMode::Inline)).unwrap();
                model.check(&found);
            }
        }
    }
    assert!(failures > 200, "the faults were felt: {failures}");
}

#[test]
fn after_a_failed_sync_the_segment_is_never_written_again() {
    let fs = SimFs::new(9);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    journal
        .append(b"first", Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
    fs.fail(fs.ops() + 1, Fault::Eio); // the write goes well, the sync does not
    let at = fs.ops();
    let error = journal
        .append(b"second", Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, JournalError::OutcomeUnknown { .. }) && !error.is_refusal(),
        "{error}"
    );
    let trace = fs.trace();
    let failed = trace[at..]
        .iter()
        .find(|line| line.contains("sync "))
        .unwrap()
        .clone();
    let after = trace.len();
    journal
        .append(b"third", Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
    let trace = fs.trace();
    let old_name = failed.split(" sync ").nth(1).unwrap();
    assert!(old_name.starts_with("file "), "{old_name}");
    let writes = |line: &&String| line.contains(&format!(" write {old_name} "));
    assert_eq!(
        trace[after..].iter().filter(writes).count(),
        0,
        "{:?}",
        &trace[after..]
    );
    let stats = journal.stats();
    assert_eq!((stats.failed, stats.records), (1, 2));
    assert!(stats.last_error.is_some());
    drop(journal);
    let (_journal, found) =
        Journal::open_collected(Arc::new(fs.power_cut(3)), small(CommitMode::Inline)).unwrap();
    assert_eq!(found.records, [b"first".to_vec(), b"third".to_vec()]);
}

#[test]
fn a_commit_alone_is_one_write_and_one_sync() {
    let fs = SimFs::new(9);
    let (journal, _) = Journal::open_collected(Arc::new(fs.clone()), small(CommitMode::Inline)).unwrap();
    journal
        .append(b"warm", Class::Normal)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
        .unwrap();
    let (ops, syncs) = (fs.ops(), fs.syncs());
    for _ in 0..10 {
        journal
            .append(b"x", Class::Normal)
            .unwrap()
            .wait(LIMIT)
            .unwrap()
            .unwrap();
    }
    assert_eq!((fs.ops() - ops, fs.syncs() - syncs), (20, 10));
}
