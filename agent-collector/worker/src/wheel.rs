//! The wheel: what is due when.

use std::collections::BTreeSet;

use agent_api_model::{DriverName, LeaseId};
use tokio::time::Instant;

use crate::plan::ClassKey;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A lease ends.
    LeaseEnds(LeaseId),
    /// A class collects.
    Tick(ClassKey),
    /// A class looks at the logs of a driver again before its next tick.
    Again(ClassKey, DriverName),
    /// Calls that waited for room in the sink may go.
    Launch,
}

/// What is due when. Whoever puts something in takes it out when it no longer holds.
#[derive(Debug, Default)]
pub(crate) struct Wheel(BTreeSet<(Instant, Due)>);

impl Wheel {
    pub(crate) fn add(&mut self, at: Instant, due: Due) {
        self.0.insert((at, due));
    }

    pub(crate) fn remove(&mut self, at: Instant, due: Due) {
        self.0.remove(&(at, due));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Due)> {
        (self.next()? <= now).then(|| self.0.pop_first()).flatten()
    }
}
