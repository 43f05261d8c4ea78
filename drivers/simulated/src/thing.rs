//! One simulated object, as small as can be: there may be a hundred thousand.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Condition, Evidence, EvidenceSource, ExitStatus, Guid, OpId, Timestamp};
use agent_api_driver::{Handle, ObjectState, ObjectStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::behavior::Behavior;

/// The version of handles.
pub(crate) const HANDLE_VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    Paused,
    Exited,
}

/// Whose mark an object bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u16);

impl Owner {
    /// Nobody's: it was deleted with `orphan`.
    pub(crate) const NOBODY: Self = Self(u16::MAX);
}

#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) op_id: OpId,
    /// Of its chance.
    pub(crate) key: u64,
    pub(crate) behavior: Arc<Behavior>,
    pub(crate) revision: u64,
    /// Since when it is in its state, in microseconds since the Unix epoch on the substrate's clock.
    pub(crate) since: i64,
    /// How long this start ran before `since`, in microseconds.
    pub(crate) ran: u64,
    /// How long all earlier starts ran, in microseconds.
    pub(crate) earlier: u64,
    /// How many lines all earlier starts wrote.
    pub(crate) lines: u64,
    pub(crate) exit: Option<Box<ExitStatus>>,
    /// How often it was started.
    pub(crate) starts: u32,
    /// How many draws were made for it.
    pub(crate) draws: u32,
    /// Of its entry in the heap of what is due; an older entry is passed over.
    pub(crate) timer: u32,
    pub(crate) owner: Owner,
    pub(crate) state: State,
}

/// The `details` part of a view.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulatedDetails {
    /// How often it was started; not shown before the second time.
    pub starts: u32,
}

impl Thing {
    /// How long this start has run, in microseconds.
    pub(crate) fn ran(&self, now: i64) -> u64 {
        match self.state {
            State::Running => self
                .ran
                .saturating_add(u64::try_from(now.saturating_sub(self.since)).unwrap_or(0)),
            State::Paused | State::Exited => self.ran,
        }
    }

    /// How long all starts have run.
    pub(crate) fn ran_in_all(&self, now: i64) -> u64 {
        self.earlier.saturating_add(self.ran(now))
    }

    /// How many lines it has written in all.
    pub(crate) fn written(&self, now: i64) -> u64 {
        self.lines.saturating_add(self.behavior.lines(self.ran(now)))
    }

    /// When this start ends by itself, and whether by a crash; none where it does not, or is held still.
    pub(crate) fn end(&self) -> Option<(i64, bool)> {
        if self.state != State::Running {
            return None;
        }
        let (run, crash) = self.behavior.run(self.key, self.starts)?;
        let left = micros(run).saturating_sub(self.ran);
        Some((
            self.since.saturating_add(i64::try_from(left).unwrap_or(i64::MAX)),
            crash,
        ))
    }

    pub(crate) fn handle(&self, guid: Guid) -> Handle {
        // One small string: the manager keeps it for each object.
        Handle::new(HANDLE_VERSION, Value::String(format!("{guid}:{}", self.starts)))
    }

    /// The handle, where it is another than this one.
    pub(crate) fn handle_after(&self, guid: Guid, known: &Handle) -> Option<Handle> {
        let same = read_handle(known) == Some((guid, u64::from(self.starts)));
        (!same).then(|| self.handle(guid))
    }

    pub(crate) fn status(&self, source: EvidenceSource, now: i64) -> ObjectStatus {
        let state = match self.state {
            State::Running => ObjectState::Running,
            State::Paused => ObjectState::Paused,
            State::Exited => ObjectState::Exited,
        };
        let at = if source == EvidenceSource::Event {
            self.since
        } else {
            now
        };
        ObjectStatus {
            state,
            evidence: Evidence {
                source,
                at: Timestamp::from_micros(at),
                revision: self.revision,
            },
            exit: self.exit.as_deref().cloned(),
            // A JSON map is large beside the rest; most objects are started once.
            details: if self.starts > 1 {
                json!({"starts": self.starts})
            } else {
                Value::Null
            },
            limits: self.behavior.limits.clone(),
            conditions: self.conditions(),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        if self.behavior.spec.ignore_term != Some(true) {
            return Vec::new();
        }
        let mut condition = Condition::new(
            "IgnoresTermination",
            true,
            "Spec",
            "it ends only at the end of a delete's grace",
        );
        condition.since = Timestamp::from_micros(self.since);
        vec![condition]
    }
}

/// What a handle refers to, and which start of it; none where it cannot be read.
pub(crate) fn read_handle(handle: &Handle) -> Option<(Guid, u64)> {
    if handle.version != HANDLE_VERSION {
        return None;
    }
    let (guid, start) = handle.data.as_str()?.split_once(':')?;
    Some((guid.parse().ok()?, start.parse().ok()?))
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_fit_in_twenty_megabytes() {
        // A map doubles its room: 2^17 slots of key, value and one byte.
        let slot = size_of::<(Guid, Thing)>() + 1;
        assert!(slot * (1 << 17) <= 200 * 100_000, "{slot} bytes for each object");
    }

    #[test]
    fn handles_are_read_or_refused() {
        let guid = Guid::generate();
        let good = Handle::new(1, json!(format!("{guid}:1")));
        assert_eq!(read_handle(&good), Some((guid, 1)));
        for bad in [
            Handle::new(2, good.data.clone()),
            Handle::new(1, json!(null)),
            Handle::new(1, json!("x:1")),
            Handle::new(1, json!(guid)),
            Handle::new(1, json!({"guid": guid, "start": 1})),
        ] {
            assert_eq!(read_handle(&bad), None, "{bad:?}");
        }
    }
}
