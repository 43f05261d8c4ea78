//! What the driver knows of its objects. Every access is short; nothing waits while it is locked.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use agent_api_driver::model::{
    Condition, Evidence, EvidenceSource, ExitStatus, Guid, LimitStatus, OpId, Timestamp,
};
use agent_api_driver::{Applied, ObjectState, ObjectStatus, Observed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::handle::HandleData;
use crate::sdk::cgroup::Group;
use crate::sdk::exit::ExitKind;

/// What a view shows of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessDetails {
    /// The process id of the first process; of the last run once that has ended.
    pub pid: i32,
    /// When that was started.
    pub started_at: Timestamp,
    /// How often it was started again.
    pub restarts: u64,
    /// Its control groups, where it has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
}

/// One object.
pub(crate) struct Entry {
    pub data: HandleData,
    /// While the process is not known to have ended.
    pub pidfd: Option<Arc<OwnedFd>>,
    pub key: u64,
    pub paused: bool,
    pub exit: Option<ExitStatus>,
    pub group: Group,
    pub limits: Vec<LimitStatus>,
    pub conditions: Vec<Condition>,
    /// The last operation that had its effect.
    pub last_op: OpId,
    pub evidence: Evidence,
    /// Told when the process has ended.
    pub waiters: Vec<oneshot::Sender<()>>,
    pub logs: LogCheck,
}

/// When the log files are looked at again: at every tick while they grow, up to every eighth while they do not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogCheck {
    pub size: u64,
    pub pause: u8,
    pub left: u8,
    /// Looked at since the end.
    pub settled: bool,
}

impl Entry {
    pub(crate) fn new(
        data: HandleData,
        pidfd: Option<Arc<OwnedFd>>,
        key: u64,
        source: EvidenceSource,
    ) -> Self {
        Self {
            last_op: data.op_id,
            evidence: Evidence::now(source, data.revision),
            data,
            pidfd,
            key,
            paused: false,
            exit: None,
            group: Group::default(),
            limits: Vec::new(),
            conditions: Vec::new(),
            waiters: Vec::new(),
            logs: LogCheck::default(),
        }
    }

    pub(crate) fn state(&self) -> ObjectState {
        match (&self.pidfd, self.paused) {
            (None, _) => ObjectState::Exited,
            (Some(_), true) => ObjectState::Paused,
            (Some(_), false) => ObjectState::Running,
        }
    }

    /// Notes a change: a new revision and its evidence.
    pub(crate) fn changed(&mut self, source: EvidenceSource) {
        self.data.revision = next_revision(self.data.revision);
        self.evidence = Evidence::now(source, self.data.revision);
    }

    pub(crate) fn status(&self) -> ObjectStatus {
        ObjectStatus {
            state: self.state(),
            evidence: self.evidence.clone(),
            exit: self.exit.clone(),
            details: details(&self.data),
            limits: self.limits.clone(),
            conditions: self.conditions.clone(),
        }
    }

    pub(crate) fn applied(&self) -> Applied {
        Applied::new(self.data.write(), self.status())
    }

    pub(crate) fn observed(&self, guid: Guid) -> Observed {
        Observed {
            guid,
            handle: None,
            status: self.status(),
        }
    }
}

/// The details of a view.
pub(crate) fn details(data: &HandleData) -> serde_json::Value {
    serde_json::to_value(ProcessDetails {
        pid: data.identity.pid,
        started_at: data.started_at,
        restarts: data.restarts,
        cgroups: data.cgroups.clone(),
    })
    .unwrap_or_default()
}

/// A revision after this one that is, wall clock permitting, also after those that a crash made us forget.
pub(crate) fn next_revision(revision: u64) -> u64 {
    u64::try_from(Timestamp::now().as_micros())
        .unwrap_or(0)
        .max(revision.saturating_add(1))
}

/// How a process ended, in the words of the contract.
pub(crate) fn exit_status(kind: ExitKind, reason: Option<&str>) -> ExitStatus {
    let reason = reason.map(str::to_owned);
    match kind {
        ExitKind::Code(code) => ExitStatus {
            reason,
            ..ExitStatus::with_code(code)
        },
        ExitKind::Signal(signal) => ExitStatus {
            reason,
            ..ExitStatus::with_signal(crate::sdk::signal::name(signal))
        },
        ExitKind::Unknown => ExitStatus {
            reason,
            ..ExitStatus::default()
        },
    }
}

/// A command run by `exec` or a probe.
pub(crate) struct Command {
    pub pidfd: Arc<OwnedFd>,
    pub done: Option<oneshot::Sender<ExitKind>>,
}

/// Whose end a watched descriptor tells.
pub(crate) enum Watched {
    Object(Guid),
    Command(Command),
}

/// All objects, and all that is watched.
#[derive(Default)]
pub(crate) struct Table {
    pub objects: HashMap<Guid, Box<Entry>>,
    pub watched: HashMap<u64, Watched>,
    next_key: u64,
}

impl Table {
    pub(crate) fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// The object a key stands for, unless it was started again since.
    pub(crate) fn by_key(&mut self, key: u64) -> Option<(Guid, &mut Entry)> {
        let Some(Watched::Object(guid)) = self.watched.get(&key) else {
            return None;
        };
        let guid = *guid;
        let entry = self.objects.get_mut(&guid).filter(|entry| entry.key == key)?;
        Some((guid, &mut **entry))
    }
}
