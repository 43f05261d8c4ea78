//! Faults between a driver and who calls it: lost answers, hangs, panics, events that come twice or not at all.
//!
//! [`Chaos`] makes them. [`Persistent`] calls as the manager does: on an error that may pass, on a timeout and on a
//! panic again with the same `op_id`, and of events only what is newer than what it has seen.

mod dice;
mod driver;
mod events;
mod faults;
mod persistent;
mod persistent_extensions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api_driver::ObjectDriver;

pub use driver::Chaos;
pub use faults::Faults;

use dice::{mix, of_text};
use driver::Record;
use persistent::Persistent;

/// The variable that replaces the seed of the tests that [`conformance_with_chaos!`](crate::conformance_with_chaos)
/// makes.
const SEED_VARIABLE: &str = "AGENT_CHAOS_SEED";

/// The seed from the environment, or this one.
pub(crate) fn seed_or(default: u64) -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => match text.trim().parse() {
            Ok(seed) => seed,
            Err(error) => panic!("{SEED_VARIABLE}={text:?} is not a seed, a number of 64 bits: {error}"),
        },
        Err(_) => default,
    }
}

/// The chaos of one case.
#[derive(Debug)]
pub(crate) struct CaseChaos {
    seed: u64,
    own: u64,
    builds: AtomicU64,
    record: Record,
}

impl CaseChaos {
    pub(crate) fn new(seed: u64, group: &str, name: &str) -> Self {
        Self {
            seed,
            own: mix(seed ^ of_text(group) ^ of_text(name).rotate_left(1)),
            builds: AtomicU64::new(0),
            record: Record::default(),
        }
    }

    /// The driver behind faults and behind one that repeats its calls, as a case sees it.
    pub(crate) fn around(&self, driver: Arc<dyn ObjectDriver>, patience: Duration) -> Arc<dyn ObjectDriver> {
        let build = self.builds.fetch_add(1, Ordering::Relaxed);
        let chaos = Chaos::recorded(
            driver,
            mix(self.own ^ build),
            Faults::default(),
            self.record.clone(),
        );
        Arc::new(Persistent::new(Arc::new(chaos), patience))
    }

    /// What to say where the case failed.
    pub(crate) fn told(&self) -> String {
        format!(
            "under chaos with seed {seed} ({SEED_VARIABLE}={seed} brings it again), the last faults were {faults:?}",
            seed = self.seed,
            faults = self.record.last()
        )
    }
}
