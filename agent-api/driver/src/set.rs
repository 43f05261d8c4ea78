//! The drivers of an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_model::{DriverName, Kind};

use crate::ObjectDriver;

/// The drivers of an agent by name. Read-only once the agent is built; cheap to clone.
#[derive(Clone, Default)]
pub struct DriverSet(Arc<BTreeMap<DriverName, Arc<dyn ObjectDriver>>>);

impl DriverSet {
    /// A set of these drivers; of two with one name the later stays.
    #[must_use]
    pub fn new(drivers: impl IntoIterator<Item = Arc<dyn ObjectDriver>>) -> Self {
        Self(Arc::new(
            drivers
                .into_iter()
                .map(|driver| (driver.info().name.clone(), driver))
                .collect(),
        ))
    }

    /// The driver of a kind.
    #[must_use]
    pub fn for_kind(&self, kind: &Kind) -> Option<&Arc<dyn ObjectDriver>> {
        self.0.get(kind.driver())
    }

    /// The driver of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn ObjectDriver>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&DriverName, &Arc<dyn ObjectDriver>)> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for DriverSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
