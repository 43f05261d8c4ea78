//! Runs cases.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use crate::Subject;
use crate::cases::CASES;
use crate::chaos::{self, CaseChaos};
use crate::report::{Outcome, Report, Row};
use crate::trial::{Stop, Trial, Verdict};

/// How often a subject's patience a whole case may take, and its clean-up.
const PATIENCES_PER_CASE: u32 = 12;

/// A case as the suite knows it.
pub(crate) struct Case {
    pub(crate) info: CaseInfo,
    pub(crate) run: for<'a> fn(&'a Trial<'a>) -> LocalBoxFuture<'a, Verdict>,
}

/// What a case tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseInfo {
    /// The method or capability it belongs to.
    pub group: &'static str,
    /// Its name, unique in its group.
    pub name: &'static str,
    /// The line of the contract.
    pub behavior: &'static str,
}

/// All cases, in the order of the contract.
pub fn cases() -> impl Iterator<Item = CaseInfo> {
    CASES.iter().map(|case| case.info)
}

/// Runs all cases one after the other, on the runtime of the caller, which has time and I/O enabled. The future is not
/// `Send`: block on it, or await it in a local task.
///
/// A driver that panics or hangs fails the case and not the run. Dropping the future ends the run; what the case at
/// hand made stays then.
pub async fn run(subject: &dyn Subject) -> Report {
    run_all(subject, None).await
}

/// Runs all cases as [`run`] does, with faults between the case and the driver ([`Chaos`](crate::Chaos)), drawn from
/// this seed, and calls that are repeated as the manager repeats them. The cases expect the same; those that ask for
/// something that chaos itself breaks do not apply.
pub async fn run_with_chaos(subject: &dyn Subject, seed: u64) -> Report {
    run_all(subject, Some(seed)).await
}

async fn run_all(subject: &dyn Subject, seed: Option<u64>) -> Report {
    let mut report = Report::default();
    for case in CASES {
        let CaseInfo {
            group,
            name,
            behavior,
        } = case.info;
        report.rows.push(Row {
            group,
            name,
            behavior,
            outcome: run_case(subject, case, seed).await,
        });
    }
    report
}

/// Runs one case on a runtime of its own: the body of the tests that [`conformance!`](crate::conformance) makes.
///
/// # Panics
///
/// Where the case fails, which is how a test says so.
pub fn run_test<S: Subject>(subject: S, group: &str, name: &str) {
    test(&subject, group, name, None);
}

/// Runs one case under chaos as [`run_test`] does: the body of the tests that
/// [`conformance_with_chaos!`](crate::conformance_with_chaos) makes. The environment variable `AGENT_CHAOS_SEED`
/// replaces the seed.
///
/// # Panics
///
/// Where the case fails, which is how a test says so, with the seed.
pub fn run_test_with_chaos<S: Subject>(subject: S, group: &str, name: &str, seed: u64) {
    test(&subject, group, name, Some(chaos::seed_or(seed)));
}

fn test(subject: &dyn Subject, group: &str, name: &str, seed: Option<u64>) {
    let case = CASES
        .iter()
        .find(|case| (case.info.group, case.info.name) == (group, name))
        .expect("tests and cases are made from one table");
    let _turn = Turn::take(subject.concurrency());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime of two threads can be made");
    match runtime.block_on(run_case(subject, case, seed)) {
        Outcome::Passed => {}
        Outcome::Failed(why) => panic!(
            "{group}::{name}: {why}\nThe contract says: {}",
            case.info.behavior
        ),
        Outcome::NotApplicable(why) => {
            // Past the capture of the test harness: a case that was not run must not look like one that passed.
            let _ = writeln!(
                std::io::stderr(),
                "conformance: {group}::{name} does not apply: {why}"
            );
        }
    }
}

/// Cases of this process that run now.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The turn of one case: at most as many at once as its subject allows.
struct Turn;

impl Turn {
    fn take(at_once: usize) -> Self {
        let (running, ended) = &RUNNING;
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        // No deadline of its own: each case that runs has one.
        let mut running = ended
            .wait_while(running, |running| *running >= at_once.max(1))
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (running, ended) = &RUNNING;
        *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ended.notify_all();
    }
}

async fn run_case(subject: &dyn Subject, case: &Case, seed: Option<u64>) -> Outcome {
    let name = format!("{}::{}", case.info.group, case.info.name);
    if let Some(why) = subject.left_out(&name) {
        return Outcome::NotApplicable(format!("the subject leaves it out: {why}"));
    }
    let chaos = seed.map(|seed| CaseChaos::new(seed, case.info.group, case.info.name));
    let outcome = run_once(subject, case, chaos.as_ref()).await;
    match (outcome, chaos) {
        (Outcome::Failed(why), Some(chaos)) => Outcome::Failed(format!("{why}; {}", chaos.told())),
        (outcome, _) => outcome,
    }
}

/// How long a whole case may take, and its clean-up: one that goes through the steps of a call has more.
fn limit(subject: &dyn Subject, case: &Case) -> Duration {
    let steps = match (case.info.group, case.info.name) {
        ("crash", _) => subject.crash_steps(),
        (_, name) if name.starts_with("dropped_at_any_await") => subject.crash_steps(),
        _ => 0,
    };
    let patiences = PATIENCES_PER_CASE.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
    subject.patience().saturating_mul(patiences)
}

async fn run_once(subject: &dyn Subject, case: &Case, chaos: Option<&CaseChaos>) -> Outcome {
    let limit = limit(subject, case);
    let trial = match guarded("building the driver", limit, Trial::new(subject, chaos)).await {
        Ok(trial) => trial,
        Err(stop) => return outcome(Err(stop)),
    };
    let verdict = guarded("the case", limit, (case.run)(&trial)).await;
    let cleaned = guarded("the clean-up", limit, trial.clean_up()).await;
    match (verdict, cleaned) {
        (Ok(()), Err(Stop::Failed(why))) => Outcome::Failed(format!("in the clean-up after the case: {why}")),
        (Err(Stop::Failed(why)), Err(Stop::Failed(also))) => {
            Outcome::Failed(format!("{why}; and in the clean-up after it: {also}"))
        }
        (verdict, _) => outcome(verdict),
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Ok(()) => Outcome::Passed,
        Err(Stop::Failed(why)) => Outcome::Failed(why),
        Err(Stop::NotApplicable(why)) => Outcome::NotApplicable(why),
    }
}

/// Makes a panic and a hang failures.
async fn guarded<T>(what: &str, limit: Duration, work: impl Future<Output = Verdict<T>>) -> Verdict<T> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_string())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".into());
            Err(Stop::Failed(format!("{what} panicked: {text}")))
        }
        Err(_) => Err(Stop::Failed(format!("{what} did not end within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own_and_a_line_of_the_contract() {
        let mut names = BTreeSet::new();
        for case in cases() {
            assert!(names.insert((case.group, case.name)), "{case:?} is there twice");
            assert!(case.behavior.ends_with('.'), "{case:?}");
        }
        assert!(names.len() > 100, "{}", names.len());
    }

    #[test]
    fn no_more_cases_run_at_once_than_the_subject_allows() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = Turn::take(2);
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    for _ in 0..100 {
                        std::thread::yield_now();
                    }
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        assert!((1..=2).contains(&most.load(SeqCst)), "{most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn panics_and_hangs_are_failures() {
        let panics = guarded("the case", Duration::from_secs(1), async { panic!("oh") }).await;
        assert!(matches!(outcome(panics), Outcome::Failed(why) if why == "the case panicked: oh"));
        let hangs = guarded(
            "the case",
            Duration::from_secs(1),
            std::future::pending::<Verdict>(),
        )
        .await;
        assert!(matches!(outcome(hangs), Outcome::Failed(why) if why.contains("did not end within 1s")));
    }
}
