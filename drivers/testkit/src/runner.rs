//! Runs cases.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use crate::Subject;
use crate::cases::CASES;
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
            outcome: run_case(subject, case).await,
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
    let case = CASES
        .iter()
        .find(|case| (case.info.group, case.info.name) == (group, name))
        .expect("tests and cases are made from one table");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime of two threads can be made");
    match runtime.block_on(run_case(&subject, case)) {
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

async fn run_case(subject: &dyn Subject, case: &Case) -> Outcome {
    let limit = subject.patience() * PATIENCES_PER_CASE;
    let trial = match guarded("building the driver", limit, Trial::new(subject)).await {
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
