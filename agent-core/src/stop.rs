//! The ordered stop.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api::driver::ShutdownMode;
use tokio::time::Instant;

use crate::engine::{Tasks, heart};
use crate::guard::guarded;
use crate::shared::Shared;

/// What becomes of the objects when the agent stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopMode {
    /// They go on, and are adopted at the next start.
    #[default]
    LeaveRunning,
    /// They are stopped, as many as the time allows.
    StopObjects,
}

/// How an agent stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Calls that were aborted because the time was over, a sentence each; the journal has their intents, and the next
    /// start finds out what became of them.
    pub aborted: Vec<String>,
    /// Operations that were accepted and not begun; the next start begins them.
    pub not_begun: usize,
    /// What did not end as it should, a sentence each.
    pub problems: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl StopReport {
    /// Whether everything ended as it should, within the deadline.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.aborted.is_empty() && self.problems.is_empty()
    }
}

/// At which part of the deadline a stage is over.
struct Plan {
    shards: f64,
    collector: f64,
    reports: f64,
    drivers: f64,
}

impl Plan {
    fn of(mode: StopMode) -> Self {
        match mode {
            StopMode::LeaveRunning => Self {
                shards: 0.5,
                collector: 0.6,
                reports: 0.75,
                drivers: 0.9,
            },
            StopMode::StopObjects => Self {
                shards: 0.25,
                collector: 0.3,
                reports: 0.4,
                drivers: 0.9,
            },
        }
    }
}

/// Intake closes → shards end, with what is in flight → collector → reports flushed → drivers → manager sealed. Each
/// stage has what the ones before left of the time, and gets at least a little.
pub(crate) async fn stop(
    shared: &Shared,
    mut tasks: Tasks,
    mode: StopMode,
    deadline: Duration,
) -> StopReport {
    let began = Instant::now();
    let plan = Plan::of(mode);
    let by = |part: f64| {
        let least = Instant::now() + Duration::from_millis(20).min(deadline);
        (began + deadline.mul_f64(part)).max(least)
    };
    let left = |until: Instant| until.saturating_duration_since(Instant::now());
    let mut report = StopReport::default();
    tracing::info!(?mode, "stopping");

    shared.draining.store(true, Ordering::Release);
    shared.stages.shards.cancel();
    let until = by(plan.shards);
    tokio::select! {
        () = wait_for_shards(shared) => {}
        () = tokio::time::sleep_until(until) => {}
        () = shared.stages.force.cancelled() => {}
    }
    shared.stages.shards_now.cancel();
    for (number, shard) in tasks.shards.iter_mut().enumerate() {
        match shard.join(Instant::now() + Duration::from_millis(500)).await {
            Some(end) => {
                report.aborted.extend(end.aborted);
                report.not_begun += end.not_begun;
                if end.left_behind {
                    report.problems.push(format!(
                        "shard {number}: a driver's call blocks its thread and was left behind"
                    ));
                }
            }
            None => report.problems.push(format!("shard {number} did not end")),
        }
    }
    shared.stages.tasks.cancel();
    shared.hub.close();
    for task in &mut tasks.others {
        if task
            .join(Instant::now() + Duration::from_millis(500))
            .await
            .is_none()
        {
            report.problems.push("a standing task did not end".into());
        }
    }

    let note = |report: &mut StopReport, part: &str, problem: Option<String>| {
        if let Some(problem) = problem {
            tracing::warn!(part, problem, "did not end as it should");
            report.problems.push(format!("{part}: {problem}"));
        }
    };
    let until = by(plan.collector);
    let ended = bounded(shared, until, shared.collector.shutdown(left(until))).await;
    note(&mut report, "collector", ended);

    // The last heartbeat says that the agent leaves.
    heart::report(shared, u64::MAX, &mut 0);
    let until = by(plan.reports);
    let ended = bounded(shared, until, shared.reporter.flush(left(until))).await;
    note(&mut report, "reports", ended);

    let until = by(plan.drivers);
    let shutdown = match mode {
        StopMode::LeaveRunning => ShutdownMode::LeaveRunning,
        StopMode::StopObjects => ShutdownMode::StopObjects,
    };
    let drivers = shared.drivers.values().map(|cell| async move {
        let ended = bounded(shared, until, cell.driver.shutdown(shutdown, left(until))).await;
        (format!("driver {}", cell.name), ended)
    });
    for (name, ended) in futures_util::future::join_all(drivers).await {
        note(&mut report, &name, ended);
    }

    let until = by(1.0);
    let ended = bounded(shared, until, shared.reporter.shutdown(left(until))).await;
    note(&mut report, "reporter", ended);
    // Never cut short by force: what was accepted is on disk already, and sealing it is a matter of milliseconds.
    let until = by(1.0);
    let ended = match guarded(left(until), shared.manager.seal(left(until))).await {
        Ok(sealed) => sealed.err().map(|error| error.to_string()),
        Err(failure) => Some(format!("{failure:?}")),
    };
    note(&mut report, "journal", ended);
    shared.lock.lock().take();
    shared.info_hooks.lock().clear();
    shared.drain_hook.lock().take();
    shared.reload_hook.lock().take();
    report.took = began.elapsed();
    report
}

/// Until no operation is in flight. Those that wait are not begun any more.
async fn wait_for_shards(shared: &Shared) {
    loop {
        let now = shared.clock.elapsed();
        if shared.doors.iter().all(|door| door.silent(now).is_none()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What went wrong with a stage; none where it ended well.
async fn bounded(
    shared: &Shared,
    until: Instant,
    stage: impl Future<Output = agent_api::model::Result<()>>,
) -> Option<String> {
    // A little later than it was told, so that it can end by itself and say what is left.
    let limit = until.saturating_duration_since(Instant::now()) + Duration::from_millis(20);
    tokio::select! {
        biased;
        ended = guarded(limit, stage) => match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(crate::guard::Failure::TimedOut(_)) => Some("did not end in time".into()),
            Err(crate::guard::Failure::Panicked(message)) => Some(format!("panicked: {message}")),
        },
        () = shared.stages.force.cancelled() => Some("was not waited for".into()),
    }
}
