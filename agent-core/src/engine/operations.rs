//! The operations of one shard: in flight, and waiting for room on their driver.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api::manager::{Lane, ManagerApi, Operation, Outcome, Performed};
use agent_api::model::{DriverName, OpId, ShardId, Timestamp};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::cell::{DriverCell, Permit};
use crate::guard::{Failure, guarded, panic_message};

/// A call in blocking code cannot be ended. So long after its deadline its object is told all the same.
const OVERDUE: Duration = Duration::from_millis(50);

/// What a call's task brings back.
pub(crate) type Returned = Result<(Id, Result<Outcome, Failure>), JoinError>;

/// The operations of one shard.
pub(crate) struct Operations {
    shard: ShardId,
    manager: Arc<dyn ManagerApi>,
    cells: BTreeMap<DriverName, Arc<DriverCell>>,
    tasks: JoinSet<Result<Outcome, Failure>>,
    in_flight: HashMap<OpId, InFlight>,
    by_task: HashMap<Id, OpId>,
    waiting: BTreeMap<DriverName, [VecDeque<Operation>; 2]>,
    /// Whether none is begun any more.
    stopping: bool,
}

struct InFlight {
    operation: Operation,
    task: AbortHandle,
    began: Instant,
    called: Timestamp,
}

/// An operation that has ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Why the call brought no answer.
    pub(crate) failure: Option<Failure>,
    pub(crate) took: Duration,
}

impl Operations {
    pub(crate) fn new(
        shard: ShardId,
        manager: Arc<dyn ManagerApi>,
        cells: BTreeMap<DriverName, Arc<DriverCell>>,
    ) -> Self {
        Self {
            shard,
            manager,
            cells,
            tasks: JoinSet::new(),
            in_flight: HashMap::new(),
            by_task: HashMap::new(),
            waiting: BTreeMap::new(),
            stopping: false,
        }
    }

    /// In flight and waiting.
    pub(crate) fn len(&self) -> usize {
        self.in_flight.len() + self.waiting()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
            .values()
            .flat_map(|lanes| lanes.iter().map(VecDeque::len))
            .sum()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Runs an operation as soon as its driver has room.
    pub(crate) fn begin(&mut self, operation: Operation) {
        let lanes = self.waiting.get(&operation.driver);
        let ahead = lanes.is_some_and(|lanes| lanes[..=lane(&operation)].iter().any(|lane| !lane.is_empty()));
        let driver = operation.driver.clone();
        self.waiting.entry(driver.clone()).or_default()[lane(&operation)].push_back(operation);
        // Where others wait before it, the gate will call; so it will where it is passed by.
        if !ahead {
            self.room(&driver);
        }
    }

    /// A driver may have room: begins what waits for it, the control lane first.
    pub(crate) fn room(&mut self, driver: &DriverName) {
        if self.stopping {
            return;
        }
        let cell = self.cells.get(driver).cloned();
        if let Some(mut lanes) = self.waiting.remove(driver) {
            for queue in &mut lanes {
                self.drain_queue(cell.as_ref(), queue);
            }
            if lanes.iter().any(|queue| !queue.is_empty()) {
                self.waiting.insert(driver.clone(), lanes);
            }
        }
        if let Some(cell) = cell {
            cell.pass_on();
        }
    }

    fn drain_queue(&mut self, cell: Option<&Arc<DriverCell>>, queue: &mut VecDeque<Operation>) {
        while let Some(operation) = queue.pop_front() {
            // A driver that is not there: the manager says so.
            let Some(cell) = cell else {
                self.spawn(operation, None);
                continue;
            };
            match cell.enter(&operation, self.shard) {
                Some(permit) => self.spawn(operation, Some(permit)),
                None => {
                    queue.push_front(operation);
                    return;
                }
            }
        }
    }

    fn spawn(&mut self, operation: Operation, permit: Option<Permit>) {
        let manager = Arc::clone(&self.manager);
        let (op_id, copy) = (operation.op_id, operation.clone());
        let task = self.tasks.spawn(async move {
            let limit = operation.deadline;
            let returned = guarded(limit, manager.run(operation)).await;
            // Held until the call has truly ended, whatever the shard has decided meanwhile.
            drop(permit);
            returned
        });
        self.by_task.insert(task.id(), op_id);
        let call = InFlight {
            operation: copy,
            task,
            began: Instant::now(),
            called: Timestamp::now(),
        };
        if let Some(earlier) = self.in_flight.insert(op_id, call) {
            self.by_task.remove(&earlier.task.id());
            earlier.task.abort();
        }
    }

    /// Ends an operation whose outcome is no longer wanted; `false` where it has ended already.
    pub(crate) fn cancel(&mut self, op_id: OpId) -> bool {
        if let Some(call) = self.in_flight.remove(&op_id) {
            self.by_task.remove(&call.task.id());
            call.task.abort();
            return true;
        }
        for queue in self.waiting.values_mut().flatten() {
            if let Some(at) = queue.iter().position(|operation| operation.op_id == op_id) {
                queue.remove(at);
                return true;
            }
        }
        false
    }

    /// Waits for the next call to return. Never where none is in flight.
    pub(crate) async fn next(&mut self) -> Returned {
        match self.tasks.join_next_with_id().await {
            Some(returned) => returned,
            None => std::future::pending().await,
        }
    }

    /// The next call that has returned.
    pub(crate) fn try_next(&mut self) -> Option<Returned> {
        self.tasks.try_join_next_with_id()
    }

    /// What became of an operation; `None` where its outcome is no longer wanted.
    pub(crate) fn ended(&mut self, returned: Returned) -> Option<Ended> {
        let (task, result) = match returned {
            Ok((task, result)) => (task, result),
            // A panic outside the call itself, in the drop of what it left.
            Err(error) if error.is_panic() => {
                let task = error.id();
                let message = panic_message(&*error.into_panic());
                (task, Err(Failure::Panicked(message)))
            }
            Err(error) => (error.id(), Err(Failure::Panicked("the call was aborted".into()))),
        };
        let op_id = self.by_task.remove(&task)?;
        let call = self.in_flight.remove(&op_id)?;
        Some(Self::close(call, result))
    }

    /// Calls that are past their deadline and still hold their thread.
    pub(crate) fn overdue(&mut self) -> Vec<Ended> {
        let late: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, call)| call.began.elapsed() > call.operation.deadline + OVERDUE)
            .map(|(op_id, _)| *op_id)
            .collect();
        let mut ended = Vec::new();
        for op_id in late {
            if let Some(call) = self.in_flight.remove(&op_id) {
                self.by_task.remove(&call.task.id());
                call.task.abort();
                let limit = call.operation.deadline;
                ended.push(Self::close(call, Err(Failure::TimedOut(limit))));
            }
        }
        ended
    }

    fn close(call: InFlight, result: Result<Outcome, Failure>) -> Ended {
        let took = call.began.elapsed();
        let (outcome, failure) = match result {
            Ok(outcome) => (outcome, None),
            Err(failure) => {
                let verb = call.operation.action.verb().as_str();
                let error = failure
                    .of_driver(&call.operation.driver, verb)
                    .with_object(&call.operation.name);
                let outcome = Outcome {
                    operation: call.operation,
                    result: Err(error),
                    performed: Some(Performed {
                        called: call.called,
                        returned: Timestamp::now(),
                    }),
                };
                (outcome, Some(failure))
            }
        };
        Ended {
            outcome,
            failure,
            took,
        }
    }

    /// Begins no more operations: those that wait are left to the next start.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// What is in flight, a sentence each.
    pub(crate) fn describe(&self) -> Vec<String> {
        self.in_flight
            .values()
            .map(|call| {
                format!(
                    "{} of {} on driver {} was in flight for {} ms",
                    call.operation.action.verb(),
                    call.operation.name,
                    call.operation.driver,
                    call.began.elapsed().as_millis()
                )
            })
            .collect()
    }

    /// Ends all calls; those in blocking code are waited for until then and left behind.
    pub(crate) async fn abort(&mut self, until: Instant) -> bool {
        tokio::time::timeout_at(until, self.tasks.shutdown())
            .await
            .is_ok()
    }
}

fn lane(operation: &Operation) -> usize {
    match operation.lane {
        Lane::Control => 0,
        Lane::Ordinary => 1,
    }
}
