//! Where a driver is built.

use std::io;
use std::path::{Path, PathBuf};

use agent_api_driver::Build;
use agent_api_driver::model::{AgentId, Guid};
use serde_json::Value;
use tempfile::TempDir;

/// An agent that does not exist anywhere else, and its state directory.
///
/// A driver built twice on one place is the same agent's driver after a restart.
#[derive(Debug)]
pub struct Place {
    agent: AgentId,
    dir: TempDir,
}

impl Place {
    /// A new agent with an empty directory, which is removed with this value.
    pub fn new() -> io::Result<Self> {
        let agent = AgentId::new(format!("conformance-{}", Guid::generate())).map_err(io::Error::other)?;
        Ok(Self {
            agent,
            dir: tempfile::Builder::new().prefix("agent-conformance-").tempdir()?,
        })
    }

    /// The agent's name.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// A directory that the subject may use as it likes: for control sockets, traces of processes and the like.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The driver's state directory, inside [`dir`](Self::dir). Not made yet: that is the driver's part.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What a driver is built from here, with this configuration.
    #[must_use]
    pub fn build(&self, config: Value) -> Build {
        Build {
            agent: self.agent.clone(),
            state_dir: self.state_dir(),
            config,
        }
    }
}
