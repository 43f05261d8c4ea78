//! One Ray head as the driver knows it: whether it answers, which session it is, its nodes.

mod facts;
mod listen;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

pub(crate) use facts::{Capacity, Outage};
pub(crate) use listen::listen;
pub(crate) use task::run;

use crate::config::ClusterConfig;
use crate::sdk::{Client, Node, Version};

/// One cluster's head. Shared by all kinds; its one task gives each kind a turn.
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) config: ClusterConfig,
    pub(crate) client: Client,
    /// Places for readers that follow a log.
    pub(crate) followers: Arc<Semaphore>,
    facts: Mutex<Facts>,
    used: AtomicBool,
    wake: Notify,
}

#[derive(Default)]
struct Facts {
    version: Option<Version>,
    outage: Option<Outage>,
    nodes: Option<(Instant, Arc<[Node]>)>,
    touched: Option<Instant>,
    told: Option<Instant>,
}

/// Something that a cluster told by itself. Anybody who reaches the listener may have sent it.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    /// Of what: the name of an actor, the id of a submission.
    pub name: String,
    /// What to say of it in the object's log, where it is worth a line.
    pub text: Option<String>,
    /// When it happened.
    pub at: Timestamp,
}

/// What a look at the head found.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    /// It answers, as before.
    Same,
    /// It answers, in a session that was not seen before: what was known of another one is gone.
    NewSession {
        /// The session before, where there was one.
        before: Option<String>,
    },
    /// It answers again after an outage, in the same session: its state is durable, or it only hung.
    Back,
    /// It does not answer.
    Away(Error),
}

impl Head {
    pub(crate) fn new(name: &str, config: &ClusterConfig) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            client: Client::new(name, config)?,
            followers: Arc::new(Semaphore::new(config.followers)),
            config: config.clone(),
            facts: Mutex::default(),
            used: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Asks the head who it is: the cheapest question, and it tells restarts.
    pub(crate) async fn look(&self) -> Look {
        self.used.store(true, Ordering::Relaxed);
        match self.client.version().await {
            Ok(version) => self.facts.lock().seen(version),
            Err(error) => {
                self.facts.lock().not_seen(&error);
                Look::Away(error)
            }
        }
    }

    /// The session, as last seen; asked for where none was seen yet.
    pub(crate) async fn version(&self) -> Result<Version> {
        if let Some(version) = self.known_version() {
            return Ok(version);
        }
        match self.look().await {
            Look::Away(error) => Err(error),
            _ => Ok(self.known_version().expect("a look that was answered sets it")),
        }
    }

    /// The session, as last seen.
    pub(crate) fn known_version(&self) -> Option<Version> {
        self.facts.lock().version.clone()
    }

    /// Since when it does not answer, and why; none while it does, or was never asked.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.facts.lock().outage.clone()
    }

    /// The nodes, no older than this.
    pub(crate) async fn nodes(&self, max_age: Duration) -> Result<Arc<[Node]>> {
        if let Some((at, nodes)) = &self.facts.lock().nodes
            && at.elapsed() <= max_age
        {
            return Ok(Arc::clone(nodes));
        }
        let nodes: Arc<[Node]> = self.client.nodes().await?.into();
        self.facts.lock().nodes = Some((Instant::now(), Arc::clone(&nodes)));
        Ok(nodes)
    }

    /// The nodes as last seen, however old.
    pub(crate) fn known_nodes(&self) -> Option<Arc<[Node]>> {
        self.facts
            .lock()
            .nodes
            .as_ref()
            .map(|(_, nodes)| Arc::clone(nodes))
    }

    /// The agent changed something: its effect is looked for soon.
    pub(crate) fn touch(&self) {
        self.used.store(true, Ordering::Relaxed);
        self.facts.lock().touched = Some(Instant::now());
        self.wake.notify_one();
    }

    /// How long ago the agent changed something.
    pub(crate) fn touched(&self) -> Option<Duration> {
        self.facts.lock().touched.map(|at| at.elapsed())
    }

    /// The head told of something by itself: its event export works.
    pub(crate) fn told(&self) {
        self.facts.lock().told = Some(Instant::now());
    }

    /// Whether the head tells of changes by itself, as far as is known.
    pub(crate) fn tells(&self) -> bool {
        self.facts.lock().told.is_some()
    }

    /// The task takes its next turn now.
    pub(crate) fn wake(&self) {
        self.used.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}
