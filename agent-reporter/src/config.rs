//! What the reporter is told.

use std::collections::BTreeMap;

use agent_api_model::{AgentId, Kind, Verb};
use agent_api_reporter::Topics;
use agent_reporter_worker::{SignalTopics, WorkerConfig};

/// What the reporter is told.
#[derive(Clone, Debug)]
pub struct ReporterConfig {
    /// Whose reports they are.
    pub agent: AgentId,
    /// The first word of the agent's topics, `agent` by default: one word of letters, digits, `_` and `-`.
    pub root: String,
    /// The verbs that objects of each kind answer to beside those that every object does.
    pub methods: BTreeMap<Kind, Vec<Verb>>,
    /// At most so many leases at a time; 4,096 by default.
    pub max_leases: usize,
    /// Room, sizes and repeats of the report worker.
    pub worker: WorkerConfig,
}

impl ReporterConfig {
    /// The defaults for this agent under this root.
    #[must_use]
    pub fn new(agent: AgentId, root: &str) -> Self {
        let topics = Topics::new(root, &agent);
        let signal_topics = SignalTopics {
            metrics: topics.metric(),
            logs: topics.log(),
            traces: topics.trace(),
        };
        Self {
            worker: WorkerConfig::new(agent.clone(), signal_topics),
            agent,
            root: root.into(),
            methods: BTreeMap::new(),
            max_leases: 4_096,
        }
    }
}
