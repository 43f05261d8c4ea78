//! The kind `ray/job`: programs that run on a cluster until they end.
//!
//! - `spec`, `quote`, `data`: what a person writes, the line the cluster's shell gets, and what is stored.
//! - `apply`, `stop`, `control`, `find`: the contract's calls. `tick` looks after what runs, `poll` says when,
//!   `clean` removes what nobody wants any more.
//! - `state`: from evidence to a status; `table`: what is known.
//! - `logs`, `source`, `cursor`, `collect`: logs and metrics. `activity`: what programs that use Ray do there.

mod activity;
mod apply;
mod clean;
mod collect;
mod control;
mod cursor;
mod data;
mod find;
mod kind;
mod logs;
mod poll;
mod quote;
mod source;
mod spec;
mod state;
mod stop;
mod table;
mod tick;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, EvidenceSource, Guid, OpId, ResourceField};
use agent_api_driver::{
    Capabilities, DriverEvent, FieldChangeMode, KindSchema, LimitCapability, ObjectStatus, Observed, Result,
    StatusSource,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use data::Attempt;
pub use spec::{JobSpec, RuntimeEnv, StopSignal};
pub use state::JobDetails;

use crate::head::Head;
use crate::sdk::JobInfo;
use crate::shared::Shared;
use clean::Unwanted;
use data::JobHandle;
use source::Sources;
use state::Sight;
use table::Table;
use tick::Turns;

/// Objects in one `observe` or `collect`.
const BATCH: usize = 500;
/// Operations at one time; those that wait for a job to end cost nothing.
const OPERATIONS: usize = 256;

/// The kind `ray/job`.
pub(crate) struct JobKind {
    /// For readers of logs, which outlive the call.
    this: Weak<Self>,
    shared: Arc<Shared>,
    schema: KindSchema,
    capabilities: Capabilities,
    table: Mutex<Table>,
    /// By cluster: when what was last asked.
    turns: Mutex<BTreeMap<String, Turns>>,
    /// Submissions that are to go from the head, by id.
    unwanted: Mutex<HashMap<String, Unwanted>>,
    /// Where logs were read to, so that what follows costs little.
    sources: Mutex<Sources>,
    /// Counts collections.
    rounds: AtomicUsize,
    /// Something about some object changed: readers of logs look again.
    changed: Arc<Notify>,
}

impl JobKind {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let pushes = shared.heads.values().any(|head| head.config.events.is_some());
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            schema: KindSchema {
                spec: schemars::schema_for!(JobSpec).to_value(),
                status: schemars::schema_for!(JobDetails).to_value(),
            },
            capabilities: capabilities(pushes),
            shared,
            table: Mutex::default(),
            turns: Mutex::default(),
            unwanted: Mutex::default(),
            sources: Mutex::default(),
            rounds: AtomicUsize::new(0),
            changed: Arc::default(),
        })
    }

    /// The head that a handle names.
    fn head_of(&self, handle: &JobHandle) -> Result<Arc<Head>> {
        self.shared.heads.get(&handle.cluster).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the Ray cluster {:?} is no longer in the driver's configuration",
                    handle.cluster
                ),
            )
        })
    }

    /// Takes what was seen, and says so where it is news. None where it is not the present attempt of the object.
    fn learn(&self, guid: Guid, id: &str, sight: &Sight<'_>, source: EvidenceSource) -> Option<ObjectStatus> {
        let mut table = self.table.lock();
        let (status, changed) = table.learn(guid, id, sight, source)?;
        if changed {
            // Within the lock, so that events come in the order of their revisions.
            self.shared.events.send(DriverEvent::Status(Observed {
                guid,
                handle: None,
                status: status.clone(),
            }));
            drop(table);
            self.changed.notify_waiters();
        }
        Some(status)
    }
}

/// Whether a job on the head is this object's.
fn is_ours(info: &JobInfo, handle: &JobHandle) -> bool {
    handle.adopted || marked(info, "agent_guid") == Some(handle.guid.to_string().as_str())
}

/// Whether a job on the head was made by this operation for this object.
fn made_by(info: &JobInfo, guid: Guid, op_id: OpId) -> bool {
    marked(info, "agent_guid") == Some(guid.to_string().as_str())
        && marked(info, "agent_op_id") == Some(op_id.to_string().as_str())
}

fn marked<'a>(info: &'a JobInfo, name: &str) -> Option<&'a str> {
    info.metadata.get(name).map(String::as_str)
}

fn capabilities(pushes: bool) -> Capabilities {
    let limit = |field| LimitCapability {
        field,
        enforcement: agent_api_driver::model::Enforcement::Advisory,
        by: spec::SET_ASIDE.to_owned(),
        live: false,
    };
    let recreate = |path: &str| (path.to_owned(), FieldChangeMode::Recreate);
    let mut can = Capabilities::default();
    can.restart = true;
    can.signal = true;
    can.logs = true;
    can.metrics = true;
    can.orphan = true;
    can.ends = true;
    can.adoptable = true;
    can.discoverable = true;
    can.status = if pushes {
        StatusSource::Event
    } else {
        StatusSource::Poll
    };
    can.batch_size = BATCH;
    can.max_in_flight = OPERATIONS;
    can.operation_timeout = Duration::from_secs(60);
    can.limits = vec![
        limit(ResourceField::Cpu),
        limit(ResourceField::Memory),
        limit(ResourceField::Gpu),
    ];
    // Ray takes all of it with the submission, and changes none of it later.
    can.fields = [
        "spec.cluster",
        "spec.command",
        "spec.adopt",
        "spec.runtime_env",
        "spec.custom_resources",
        "spec.label_selector",
        "spec.metadata",
        "spec.stop_signal",
        "spec.stop_grace",
        "resources.cpu",
        "resources.memory",
        "resources.gpu",
    ]
    .into_iter()
    .map(recreate)
    .collect();
    can
}
