//! Reading the configuration again while the agent runs.

use std::sync::OnceLock;

use agent_api_model::{Error, ErrorKind, Result};
use agent_core::Agent;
use parking_lot::Mutex;

use crate::config::{Config, Known, Sources, check, differences, load};
use crate::logging::{LogHandle, check_filter};

/// What a reload needs.
pub(crate) struct Reloader {
    sources: Sources,
    current: Mutex<Config>,
    log: Option<LogHandle>,
    agent: OnceLock<Agent>,
    known: Box<dyn Fn() -> Vec<Known<'static>> + Send + Sync>,
}

impl Reloader {
    pub(crate) fn new(
        sources: Sources,
        current: Config,
        log: Option<LogHandle>,
        known: impl Fn() -> Vec<Known<'static>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            sources,
            current: Mutex::new(current),
            log,
            agent: OnceLock::new(),
            known: Box::new(known),
        }
    }

    /// The agent whose settings are changed, once there is one.
    pub(crate) fn attach(&self, agent: Agent) {
        // A second agent would be a fault of the assembly; the first stays.
        let _ = self.agent.set(agent);
    }

    /// The configuration in force.
    pub(crate) fn current(&self) -> Config {
        self.current.lock().clone()
    }

    /// Reads the sources again and applies what differs. A configuration that is wrong changes nothing.
    pub(crate) fn reload(&self) -> Result<Vec<String>> {
        let wrong = |message: String| {
            Error::new(ErrorKind::Invalid, message)
                .with_operation("reload")
                .with_hint("nothing was changed; `agent check FILE` tells the same offline")
        };
        let joined = |errors: Vec<_>| {
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<String>>()
                .join("; ")
        };
        let loaded = load(&self.sources).map_err(|errors| wrong(joined(errors)))?;
        let (errors, _) = check(&loaded, &(self.known)());
        if !errors.is_empty() {
            return Err(wrong(joined(errors)));
        }
        check_filter(&loaded.config.log.filter).map_err(|message| wrong(format!("log.filter: {message}")))?;
        let mut current = self.current.lock();
        let changes = differences(&current, &loaded.config);
        for change in changes.iter().filter(|change| change.live) {
            match change.change.path.as_str() {
                "log.filter" => {
                    if let Some(log) = &self.log {
                        log.set_filter(&loaded.config.log.filter).map_err(wrong)?;
                    }
                }
                "core.heartbeat" => {
                    if let Some(agent) = self.agent.get() {
                        agent.set_heartbeat_interval(loaded.config.core.heartbeat);
                    }
                }
                // The deadline and the objects' fate are looked up when the agent stops.
                _ => {}
            }
        }
        *current = loaded.config;
        Ok(changes.iter().map(crate::config::Difference::sentence).collect())
    }
}
