//! What is to be registered and withdrawn.

use std::collections::VecDeque;

use agent_api_model::Guid;
use agent_reporter_rpc_client::Registration;

/// One change of the registry.
#[derive(Debug)]
pub(crate) enum Change {
    Register(Registration),
    Withdraw(Guid),
}

/// Changes that go out in one call.
#[derive(Debug)]
pub(crate) enum Step {
    Register(Vec<Registration>),
    Withdraw(Vec<Guid>),
}

impl Step {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Register(objects) => objects.len(),
            Self::Withdraw(guids) => guids.len(),
        }
    }
}

/// Takes the next run of changes of one sort: order is kept, and a burst becomes few calls.
pub(crate) fn next_step(changes: &mut VecDeque<Change>, most: usize) -> Option<Step> {
    let mut step = match changes.pop_front()? {
        Change::Register(object) => Step::Register(vec![object]),
        Change::Withdraw(guid) => Step::Withdraw(vec![guid]),
    };
    while step.len() < most {
        match (&mut step, changes.pop_front()) {
            (Step::Register(objects), Some(Change::Register(object))) => objects.push(object),
            (Step::Withdraw(guids), Some(Change::Withdraw(guid))) => guids.push(guid),
            (_, Some(other)) => {
                changes.push_front(other);
                break;
            }
            (_, None) => break,
        }
    }
    Some(step)
}
