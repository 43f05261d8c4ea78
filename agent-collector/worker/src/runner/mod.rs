//! The worker's task: takes in what changed, begins rounds of calls, and takes what they bring.

mod intake;
mod outcome;
mod rounds;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use agent_api_driver::{DriverSet, ObjectDriver};
use agent_api_model::{DriverName, LeaseId, Result};
use agent_api_reporter::ReportSink;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::inbox::Inbox;
use crate::instruments::Instruments;
use crate::job::{Collected, Job};
use crate::plan::{ClassKey, Plan};
use crate::wheel::Wheel;

/// Less is never asked for: a line may be that long.
const LEAST_LOG_BYTES: usize = 64 << 10;

/// The calls of one driver.
struct Lane {
    driver: Arc<dyn ObjectDriver>,
    in_flight: usize,
    ready: VecDeque<Job>,
}

type Ended = (Job, Result<Collected>);

/// The worker's task.
pub(crate) struct Runner {
    config: WorkerConfig,
    sink: Arc<dyn ReportSink>,
    inbox: Arc<Inbox>,
    instruments: Arc<Instruments>,
    stop: CancellationToken,
    plan: Plan,
    wheel: Wheel,
    lanes: BTreeMap<DriverName, Lane>,
    jobs: JoinSet<Ended>,
    /// Leases that were ended and wait for last lines.
    ending: BTreeSet<LeaseId>,
    /// Whose a call is, should its task end without saying.
    running: HashMap<Id, (ClassKey, DriverName)>,
}

impl Runner {
    pub(crate) fn new(
        config: WorkerConfig,
        drivers: DriverSet,
        sink: Arc<dyn ReportSink>,
        inbox: Arc<Inbox>,
        instruments: Arc<Instruments>,
        stop: CancellationToken,
    ) -> Self {
        let lanes = drivers
            .iter()
            .map(|(name, driver)| {
                let lane = Lane {
                    driver: driver.clone(),
                    in_flight: 0,
                    ready: VecDeque::new(),
                };
                (name.clone(), lane)
            })
            .collect();
        Self {
            config,
            sink,
            inbox,
            instruments,
            stop,
            plan: Plan::new(drivers),
            wheel: Wheel::default(),
            lanes,
            jobs: JoinSet::new(),
            ending: BTreeSet::new(),
            running: HashMap::new(),
        }
    }

    /// Works until it is told to stop, then finishes the calls in flight. Dropping it drops them.
    pub(crate) async fn run(mut self) {
        loop {
            self.take_in();
            self.fire();
            self.end_those_without_last_lines();
            self.launch();
            let next = self.wheel.next();
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.inbox.changed() => {}
                Some(ended) = self.jobs.join_next_with_id(), if !self.jobs.is_empty() => self.ended(ended),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        for lane in self.lanes.values_mut() {
            lane.ready.clear();
        }
        while let Some(ended) = self.jobs.join_next_with_id().await {
            self.ended(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_api_model::{Lease, Selector, Signal, TelemetryBatch};

    use super::*;

    struct Sink;

    impl ReportSink for Sink {
        fn offer(&self, _: &Lease, _: TelemetryBatch) -> bool {
            true
        }

        fn room(&self) -> f64 {
            1.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lease_nothing_is_on_the_wheel() {
        let inbox = Arc::new(Inbox::default());
        let mut runner = Runner::new(
            WorkerConfig::default(),
            DriverSet::default(),
            Arc::new(Sink),
            inbox.clone(),
            Arc::new(Instruments::new()),
            CancellationToken::new(),
        );
        let lease = |ttl: Option<u64>| Lease {
            id: LeaseId::generate(),
            guid: None,
            selector: Selector::everything(),
            signals: vec![Signal::Logs],
            interval: Duration::from_secs(1),
            topic: String::new(),
            json: false,
            expires: None,
            ttl: ttl.map(Duration::from_secs),
        };
        let (stopped, retuned) = (lease(None), lease(Some(100)));
        inbox.start(stopped.clone(), 10).unwrap();
        inbox.start(retuned.clone(), 10).unwrap();
        inbox.start(lease(Some(2)), 10).unwrap();
        runner.take_in();
        assert_eq!((runner.plan.leases.len(), runner.plan.classes.len()), (3, 1));
        // Renewing and retuning leave no stale entries behind.
        inbox.start(retuned.clone(), 10).unwrap();
        runner.take_in();
        assert!(inbox.retune(retuned.id, Duration::from_secs(5)));
        runner.take_in();
        assert_eq!(runner.plan.classes.len(), 2);
        assert!(inbox.stop(stopped.id) && inbox.stop(retuned.id));
        runner.take_in();
        tokio::time::advance(Duration::from_secs(3)).await;
        runner.fire();
        assert!(runner.plan.leases.is_empty() && runner.plan.classes.is_empty());
        assert_eq!(runner.wheel.next(), None);
    }
}
