//! Load shapes: what is done to the agent, beside the floor of the same work.

mod agent;
mod bulk;
mod ends;
mod idle;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod single;

pub use agent::{Agent, object};
pub use bulk::{created_and_stopped, list};
pub use ends::{exit_to_event, killed_to_running};
pub use idle::idle_objects;
#[cfg(feature = "kubernetes")]
pub use kubernetes::{kubernetes_bulk, kubernetes_change, kubernetes_create, kubernetes_ready};
pub use single::{create_accepted, create_running, describe};

use std::path::PathBuf;

/// What every load shape needs.
pub struct Bench {
    /// The agent's binary.
    pub agent: PathBuf,
    /// The kid's binary.
    pub kid: PathBuf,
    /// A directory of its own, on the disk where state would be.
    pub dir: PathBuf,
    /// Fewer samples.
    pub quick: bool,
}

impl Bench {
    /// So many in a full run, a tenth in a quick one.
    pub fn samples(&self, full: usize) -> usize {
        if self.quick { (full / 10).max(20) } else { full }
    }

    /// A fresh directory in [`Bench::dir`].
    pub fn fresh(&self, name: &str) -> std::io::Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}
