//! After a restart: the drivers are asked for the objects of the journal, and what was under way goes on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{Handle, Mark, ObjectDriver, ObjectState, Recovered, RecoveredState, Target};
use agent_api_manager::{FollowUp, Now, RecoveryReport};
use agent_api_model::{Cause, DriverName, ExitStatus, Guid, LifecycleKind, Phase, Result};
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::lifecycle::Trigger;
use crate::observe::{ended, gone, inferred, show};
use crate::partition::Shard;
use crate::record::What;
use crate::shared::{Answer, Shared};
use crate::turn::{Turn, driver_name};

/// So many leaks are named in the notes at most.
const LEAKS_NAMED: usize = 20;

type Targets = Vec<(Guid, Arc<Handle>)>;

struct Asked {
    driver: DriverName,
    targets: Arc<Targets>,
    answers: Result<Vec<Recovered>, String>,
    marks: Result<Vec<(Mark, Handle)>, String>,
}

/// Asks all drivers at the same time. One that fails, hangs or panics leaves its own objects without an answer.
pub(crate) async fn recover(shared: &Shared, deadline: Duration) -> RecoveryReport {
    let until = Instant::now() + deadline;
    let mut report = RecoveryReport {
        objects: shared.table.len(),
        notes: shared.store.quarantined().to_vec(),
        ..RecoveryReport::default()
    };
    report.notes.extend(shared.notes.iter().cloned());
    let mut by_driver: BTreeMap<DriverName, Targets> = shared
        .drivers
        .iter()
        .map(|(name, _)| (name.clone(), Vec::new()))
        .collect();
    shared.table.walk(None, |object| {
        let state = object.state.lock();
        if let (false, Some(handle)) = (state.phase.is_terminal(), &state.handle) {
            by_driver
                .entry(driver_name(object))
                .or_default()
                .push((object.guid, handle.clone()));
        }
        true
    });
    let mut silent: HashMap<DriverName, (Arc<Targets>, String)> = HashMap::new();
    let mut tasks = JoinSet::new();
    for (driver, targets) in by_driver {
        let targets = Arc::new(targets);
        match shared.drivers.get(driver.as_str()) {
            Some(found) => {
                let why = "it did not answer by the deadline".to_owned();
                silent.insert(driver.clone(), (targets.clone(), why));
                tasks.spawn(ask(driver, found.clone(), targets, until));
            }
            None => {
                silent.insert(driver, (targets, "this agent runs without it".to_owned()));
            }
        }
    }
    let mut answers: HashMap<Guid, Answer> = HashMap::new();
    // A driver may hang in blocking code, so its own timeout does not suffice.
    while let Ok(Some(joined)) = timeout_at(until + Duration::from_millis(100), tasks.join_next()).await {
        let Ok(asked) = joined else { continue };
        silent.remove(&asked.driver);
        take_marks(shared, &asked, &mut report);
        match asked.answers {
            Ok(found) => {
                let mut left: HashSet<Guid> = asked.targets.iter().map(|(guid, _)| *guid).collect();
                for answer in found {
                    // Of two answers for one object the first counts, and none for an object not asked about.
                    if left.remove(&answer.guid) {
                        tally(&mut report, &answer.state);
                        answers.insert(answer.guid, Answer::Found(answer.state));
                    }
                }
                if !left.is_empty() {
                    report.notes.push(format!(
                        "driver {}: no answer for {} of {} objects",
                        asked.driver,
                        left.len(),
                        asked.targets.len()
                    ));
                }
                report.unknown += left.len();
                for guid in left {
                    let why = format!("driver {} had no answer for it", asked.driver);
                    answers.insert(guid, Answer::Silent(why));
                }
            }
            Err(why) => {
                silent.insert(asked.driver, (asked.targets, why));
            }
        }
    }
    tasks.abort_all();
    for (driver, (targets, why)) in silent {
        report.unknown += targets.len();
        if targets.is_empty() {
            report.notes.push(format!("driver {driver}: {why}"));
        } else {
            report.notes.push(format!(
                "driver {driver}: {why}; its {} objects are Unknown",
                targets.len()
            ));
        }
        for (guid, _) in targets.iter() {
            answers.insert(*guid, Answer::Silent(format!("driver {driver}: {why}")));
        }
    }
    report.notes.sort();
    *shared.answers.lock() = answers;
    report
}

async fn ask(
    driver: DriverName,
    found: Arc<dyn ObjectDriver>,
    targets: Arc<Targets>,
    until: Instant,
) -> Asked {
    let answers = async {
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<Target<'_>> = targets
            .iter()
            .map(|(guid, handle)| Target { guid: *guid, handle })
            .collect();
        caught(timeout_at(until, AssertUnwindSafe(found.recover(&asked)).catch_unwind()).await)
    };
    let marks = async {
        let discovers = found
            .info()
            .kinds
            .iter()
            .any(|kind| found.capabilities(kind).is_some_and(|can| can.discoverable));
        if !discovers {
            return Ok(Vec::new());
        }
        caught(timeout_at(until, AssertUnwindSafe(found.discover()).catch_unwind()).await)
    };
    let (answers, marks) = futures_util::future::join(answers, marks).await;
    Asked {
        driver,
        targets: targets.clone(),
        answers,
        marks,
    }
}

type Caught<T> = Result<std::thread::Result<Result<T>>, tokio::time::error::Elapsed>;

fn caught<T>(result: Caught<T>) -> Result<T, String> {
    match result {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("it panicked".to_owned()),
        Err(_) => Err("it did not answer by the deadline".to_owned()),
    }
}

fn tally(report: &mut RecoveryReport, state: &RecoveredState) {
    match state {
        RecoveredState::Adopted(..) => report.adopted += 1,
        RecoveredState::Exited(_) => report.exited += 1,
        RecoveredState::Lost(_) => report.lost += 1,
        RecoveredState::Foreign(_) => report.foreign += 1,
    }
}

/// Reports what bears our mark and belongs to no object. Never touched: whoever looks decides.
fn take_marks(shared: &Shared, asked: &Asked, report: &mut RecoveryReport) {
    let marks = match &asked.marks {
        Ok(marks) => marks,
        Err(why) => {
            report.notes.push(format!(
                "driver {}: the search for leaks failed: {why}",
                asked.driver
            ));
            return;
        }
    };
    let leaks: Vec<_> = marks
        .iter()
        .filter(|(mark, _)| mark.agent == shared.config.agent && shared.table.get(mark.guid).is_none())
        .collect();
    for (mark, handle) in leaks.iter().take(LEAKS_NAMED) {
        report.notes.push(format!(
            "driver {}: something of ours runs that no object knows: guid {}, {}; it is left alone",
            asked.driver, mark.guid, handle.data
        ));
    }
    if leaks.len() > LEAKS_NAMED {
        let more = leaks.len() - LEAKS_NAMED;
        report.notes.push(format!(
            "driver {}: {more} more things of ours that no object knows",
            asked.driver
        ));
    }
}

/// Takes the answers for the objects of a shard, and goes on with what was under way.
pub(crate) fn recovered(shard: &mut Shard, now: Now) -> Vec<FollowUp> {
    let mine: Vec<Guid> = shard.objects.iter().map(|object| object.guid).collect();
    let mut answers: Vec<Option<Answer>> = {
        let mut all = shard.shared.answers.lock();
        mine.iter().map(|guid| all.remove(guid)).collect()
    };
    let mut out = Vec::with_capacity(mine.len() * 2);
    for (guid, answer) in mine.into_iter().zip(answers.drain(..)) {
        out.append(&mut shard.turn(guid, now, |turn| resume(turn, answer)));
    }
    out
}

fn resume(turn: &mut Turn<'_>, answer: Option<Answer>) {
    turn.changed = true;
    turn.state.running_since = turn.now.elapsed;
    // A start under way says more than an answer about what was before it.
    let starts = turn.state.busy.as_ref().is_some_and(|busy| {
        busy.queue
            .iter()
            .any(|intent| matches!(intent.what, What::Start { .. }))
    });
    match answer {
        _ if turn.state.phase == Phase::Deleting => {}
        Some(Answer::Found(found)) if !starts => take(turn, found),
        Some(Answer::Silent(why)) if !starts => {
            turn.go(Trigger::NoEvidence, Cause::Recovered { message: why });
        }
        _ => {}
    }
    if turn.state.handle.is_some() && turn.state.phase != Phase::Deleting {
        turn.register();
    }
    turn.advance();
}

/// A driver's later answer.
pub(crate) fn late(turn: &mut Turn<'_>, found: RecoveredState) {
    if turn.state.phase == Phase::Unknown && turn.state.flight().is_none() {
        take(turn, found);
        turn.advance();
    }
}

fn take(turn: &mut Turn<'_>, found: RecoveredState) {
    // Revisions are the driver's own, and it may count anew since it was built.
    turn.state.evidence.revision = 0;
    match found {
        RecoveredState::Adopted(status, handle) => {
            if let Some(handle) = handle {
                turn.state.handle = Some(handle.into());
            }
            if matches!(status.state, ObjectState::Exited | ObjectState::Gone) {
                show(
                    turn,
                    status,
                    Cause::Recovered {
                        message: String::new(),
                    },
                );
                return;
            }
            turn.state.adopted = true;
            let phase = turn.state.phase;
            let cause = Cause::Recovered {
                message: "found again after a restart of the agent".into(),
            };
            show(turn, status, cause.clone());
            if turn.state.phase == phase {
                turn.step(Some(phase), Some(phase), cause, LifecycleKind::Updated);
            }
            if matches!(turn.state.phase, Phase::Running | Phase::Paused | Phase::Unknown) {
                turn.collect();
                crate::health::begin(turn);
            }
        }
        RecoveredState::Exited(status) => {
            let exit = status.exit.clone().unwrap_or_default();
            turn.take_status(&status);
            ended(turn, exit, &status.evidence);
        }
        // It is not there, and nobody can say how it ended.
        RecoveredState::Lost(why) => {
            let evidence = inferred(turn);
            gone(turn, unknown(why), &evidence);
        }
        RecoveredState::Foreign(why) => {
            // Never touched again: the reference leads to somebody else's.
            turn.state.handle = None;
            let evidence = inferred(turn);
            ended(turn, unknown(why), &evidence);
        }
    }
}

fn unknown(why: String) -> ExitStatus {
    ExitStatus {
        reason: Some(why),
        ..ExitStatus::default()
    }
}
