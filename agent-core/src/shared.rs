//! What all tasks of an agent share.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent_api::collector::CollectorApi;
use agent_api::manager::{ManagerApi, Now, RecoveryReport};
use agent_api::model::{
    AgentId, AgentInfo, DriverName, Error, ErrorKind, Guid, QueueInfo, Result, Target, Timestamp,
};
use agent_api::reporter::{ReporterApi, Topics};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Metrics};
use crate::engine::cell::DriverCell;
use crate::engine::door::{Door, millis};
use crate::lock::StateLock;
use crate::registry::Registry;
use crate::sessions::Sessions;
use crate::watch::Hub;

pub(crate) type DrainHook = Box<dyn Fn() + Send + Sync>;
pub(crate) type ReloadHook =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Vec<String>>> + Send>> + Send + Sync>;
pub(crate) type InfoHook = Box<dyn Fn(&mut AgentInfo) + Send + Sync>;

/// What all tasks of an agent share.
pub(crate) struct Shared {
    pub(crate) agent: AgentId,
    pub(crate) state_dir: PathBuf,
    /// Given back when the agent has stopped.
    pub(crate) lock: Mutex<Option<StateLock>>,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) drivers: BTreeMap<DriverName, Arc<DriverCell>>,
    pub(crate) manager: Arc<dyn ManagerApi>,
    pub(crate) reporter: Arc<dyn ReporterApi>,
    pub(crate) collector: Arc<dyn CollectorApi>,
    pub(crate) topics: Topics,
    pub(crate) doors: Arc<[Arc<Door>]>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) metrics: Metrics,
    pub(crate) recovery: RecoveryReport,
    pub(crate) operation_timeout: Duration,
    heartbeat_ms: AtomicU64,
    pub(crate) heartbeat_changed: Notify,
    /// No more changes are taken.
    pub(crate) draining: AtomicBool,
    /// A shard has nothing under way any more.
    pub(crate) idle: Notify,
    pub(crate) stages: Stages,
    pub(crate) drain_hook: Mutex<Option<Arc<DrainHook>>>,
    pub(crate) reload_hook: Mutex<Option<Arc<ReloadHook>>>,
    pub(crate) info_hooks: Mutex<Vec<Arc<InfoHook>>>,
}

/// The stages of the stop.
pub(crate) struct Stages {
    /// Shards begin no more operations and end when none is in flight.
    pub(crate) shards: CancellationToken,
    /// Shards end now.
    pub(crate) shards_now: CancellationToken,
    /// The pumps of the drivers' events and the other standing tasks end.
    pub(crate) tasks: CancellationToken,
    /// No stage waits any longer.
    pub(crate) force: CancellationToken,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            shards: CancellationToken::new(),
            shards_now: CancellationToken::new(),
            tasks: CancellationToken::new(),
            force: CancellationToken::new(),
        }
    }
}

/// Both clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
    pub(crate) started: Timestamp,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            base: Instant::now(),
            started: Timestamp::now(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.base.elapsed()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            elapsed: self.elapsed(),
            wall: Timestamp::now(),
        }
    }

    /// The moment `millis` after the start.
    pub(crate) fn at(&self, millis: u64) -> Instant {
        self.base + Duration::from_millis(millis)
    }
}

/// What only the builder knows when it makes [`Shared`].
pub(crate) struct Parts {
    pub(crate) agent: AgentId,
    pub(crate) state_dir: PathBuf,
    pub(crate) lock: StateLock,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) drivers: BTreeMap<DriverName, Arc<DriverCell>>,
    pub(crate) manager: Arc<dyn ManagerApi>,
    pub(crate) reporter: Arc<dyn ReporterApi>,
    pub(crate) collector: Arc<dyn CollectorApi>,
    pub(crate) topics: Topics,
    pub(crate) doors: Arc<[Arc<Door>]>,
    pub(crate) recovery: RecoveryReport,
    pub(crate) operation_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) drain_hook: Option<DrainHook>,
    pub(crate) reload_hook: Option<ReloadHook>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            agent: parts.agent,
            state_dir: parts.state_dir,
            lock: Mutex::new(Some(parts.lock)),
            clock: parts.clock,
            registry: parts.registry,
            drivers: parts.drivers,
            manager: parts.manager,
            reporter: parts.reporter,
            collector: parts.collector,
            topics: parts.topics,
            doors: parts.doors,
            hub: Arc::default(),
            sessions: Arc::default(),
            counters: Arc::default(),
            metrics: Metrics::new(),
            recovery: parts.recovery,
            operation_timeout: parts.operation_timeout,
            heartbeat_ms: AtomicU64::new(millis(parts.heartbeat)),
            heartbeat_changed: Notify::new(),
            draining: AtomicBool::new(false),
            idle: Notify::new(),
            stages: Stages::new(),
            drain_hook: Mutex::new(parts.drain_hook.map(Arc::new)),
            reload_hook: Mutex::new(parts.reload_hook.map(Arc::new)),
            info_hooks: Mutex::default(),
        }
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn set_heartbeat(&self, interval: Duration) {
        self.heartbeat_ms
            .store(millis(interval).max(1), Ordering::Relaxed);
        self.heartbeat_changed.notify_waiters();
        for door in self.doors.iter() {
            door.mail.heartbeat();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn door_of(&self, guid: Guid) -> &Arc<Door> {
        let shard = usize::from(self.manager.shard_of(guid).0);
        &self.doors[shard % self.doors.len()]
    }

    /// Requests that wait, and operations in flight and waiting, over all shards.
    pub(crate) fn under_way(&self) -> usize {
        self.doors
            .iter()
            .map(|door| {
                door.operations.load(Ordering::Acquire) + door.queue(true).length + door.queue(false).length
            })
            .sum()
    }

    pub(crate) fn resolve(&self, target: &Target) -> Result<Guid> {
        self.manager.resolve(target).ok_or_else(|| not_found(target))
    }

    /// The core's bounded queues.
    pub(crate) fn queues(&self) -> BTreeMap<String, QueueInfo> {
        let mut queues = BTreeMap::new();
        for (number, door) in self.doors.iter().enumerate() {
            queues.insert(format!("shard{number}.control"), door.queue(true));
            queues.insert(format!("shard{number}.ordinary"), door.queue(false));
            queues.insert(format!("shard{number}.events"), door.sighting_queue());
        }
        queues.insert("exec.sessions".into(), self.sessions.queue());
        queues
    }
}

pub(crate) fn not_found(target: &Target) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such object")
        .with_object(target)
        .with_hint("see `agent get`")
}
