//! What the partitions and the readers share. Nothing in it is held for longer than microseconds, and never across
//! an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use agent_api_driver::{DriverSet, RecoveredState};
use agent_api_model::{
    Dependency, DependencyCondition, DriverName, Error, ErrorKind, Guid, Kind, ObjectName, Phase, Result,
};
use parking_lot::Mutex;

use crate::breaker::Breaker;
use crate::config::ManagerConfig;
use crate::dependencies::Graph;
use crate::keys::Keys;
use crate::record::Facts;
use crate::store::Store;
use crate::table::Table;

pub(crate) struct Shared {
    pub(crate) config: ManagerConfig,
    pub(crate) drivers: DriverSet,
    pub(crate) store: Store,
    pub(crate) table: Table,
    pub(crate) graph: Mutex<Graph>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) breakers: BTreeMap<DriverName, Breaker>,
    /// The drivers' answers, until the partitions take them.
    pub(crate) answers: Mutex<HashMap<Guid, Answer>>,
    /// What was found wrong while replaying.
    pub(crate) notes: Vec<String>,
    pub(crate) counters: Counters,
    pub(crate) phases: Arc<Phases>,
}

/// How many objects of all shards are in each phase.
#[derive(Default)]
pub(crate) struct Phases([AtomicUsize; Phase::ALL.len()]);

impl Phases {
    pub(crate) fn add(&self, phase: Phase) {
        self.0[phase as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, phase: Phase) {
        self.0[phase as usize].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn all(&self) -> Vec<(Phase, usize)> {
        Phase::ALL
            .into_iter()
            .filter_map(|phase| {
                let count = self.0[phase as usize].load(Ordering::Relaxed);
                (count > 0).then_some((phase, count))
            })
            .collect()
    }
}

/// What is known of an object after the drivers were asked.
pub(crate) enum Answer {
    Found(RecoveredState),
    /// The driver did not answer: why.
    Silent(String),
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the start.
        #[derive(Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: AtomicU64),* }

        impl Counters {
            pub(crate) fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    commands_accepted,
    commands_repeated,
    commands_refused,
    /// Starts by a restart policy.
    restarts,
    /// Operations tried again.
    retries,
    operations_failed,
    /// Acceptances whose record did not get to the disk.
    rolled_back,
    /// Statuses that were older than what was known.
    stale_statuses,
    exits,
    /// How often a driver said anew that somebody else changed or took away a thing.
    drifts,
    /// Things brought back to their spec.
    repairs,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn facts(&self, name: &ObjectName) -> Option<Facts> {
        self.table.named(name).map(|object| object.facts())
    }

    /// What of these is not so, a sentence each.
    pub(crate) fn unmet(&self, dependencies: &[Dependency]) -> Vec<(ObjectName, String)> {
        dependencies
            .iter()
            .filter_map(|needed| {
                let name = &needed.name;
                let why = match (self.facts(name), needed.condition) {
                    (None, _) => format!("{name} to be created"),
                    (Some(facts), _) if facts.has(Facts::DELETING) => {
                        format!("{name}, which is being deleted")
                    }
                    (Some(facts), DependencyCondition::Running) if !facts.has(Facts::READY) => {
                        format!("{name} to run")
                    }
                    (Some(facts), DependencyCondition::Succeeded) if !facts.has(Facts::SUCCEEDED) => {
                        format!("{name} to succeed")
                    }
                    _ => return None,
                };
                Some((name.clone(), why))
            })
            .collect()
    }

    /// Why there is no driver for a kind.
    pub(crate) fn unknown_kind(&self, kind: &Kind) -> Error {
        let mut known: Vec<_> = self
            .drivers
            .iter()
            .flat_map(|(_, driver)| driver.info().kinds.iter().map(ToString::to_string))
            .collect();
        known.sort();
        Error::new(
            ErrorKind::Unsupported,
            if known.is_empty() {
                format!("no driver manages the kind {kind}: this agent has no drivers")
            } else {
                format!(
                    "no driver manages the kind {kind}; known kinds are {}",
                    known.join(", ")
                )
            },
        )
        .with_path("kind")
    }

    /// What can be done with objects of a kind.
    pub(crate) fn capabilities(&self, kind: &Kind) -> Result<&agent_api_driver::Capabilities> {
        self.drivers
            .for_kind(kind)
            .and_then(|driver| driver.capabilities(kind))
            .ok_or_else(|| self.unknown_kind(kind))
    }
}
