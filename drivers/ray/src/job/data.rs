//! What the manager stores of a job (the handle), and what the driver keeps itself (the record).

use agent_api_driver::model::{Guid, LimitStatus, OpId, Timestamp};
use agent_api_driver::{Handle, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::StopSignal;
use crate::handle;
use crate::head::Capacity;
use crate::sdk::{JobInfo, JobStatus};

/// The last part of the kind.
pub(crate) const TYPE: &str = "job";
/// So many attempts before the present one are kept.
const PAST: usize = 10;

/// The handle of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobHandle {
    pub guid: Guid,
    pub cluster: String,
    /// The submission's id.
    pub id: String,
    /// Counts the submissions of this object, from 1.
    pub attempt: u32,
    /// The operation that submitted it.
    pub op_id: OpId,
    /// Where revisions go on from.
    pub revision: u64,
    /// The session in which it was submitted.
    pub session: String,
    pub submitted_at: Timestamp,
    /// Of the spec: the same spec makes the same job.
    pub digest: u64,
    #[serde(default)]
    pub stop_signal: StopSignal,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
    /// What it wants of one node, which Ray does not show.
    #[serde(default)]
    pub wanted: Capacity,
    /// Somebody else submitted it: it bears no mark.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// It was asked to end, which a job that is pending only does once it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
    /// The attempts before, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Attempt>,
}

/// One attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// The submission's id.
    pub submission_id: String,
    /// Ray's word for how it ended (`SUCCEEDED`, `FAILED`, `STOPPED`); none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The program's exit code; negative for a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Ray's word for what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The node it ran on, where its log still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// When it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

impl JobHandle {
    pub(crate) fn read(handle: &Handle) -> Result<Self> {
        handle::read(TYPE, handle)
    }

    pub(crate) fn write(&self) -> Handle {
        handle::write(TYPE, self)
    }

    /// The attempts before the next one: those before this one, and this one.
    pub(crate) fn past_with(&self, info: Option<&JobInfo>) -> Vec<Attempt> {
        let mut past = self.past.clone();
        past.push(Attempt {
            attempt: self.attempt,
            submission_id: self.id.clone(),
            status: info.and_then(|info| info.status.is_final().then(|| word(info.status).to_owned())),
            exit_code: info.and_then(|info| info.driver_exit_code),
            error_type: info.and_then(|info| info.error_type.clone()),
            node_id: info.and_then(|info| info.driver_node_id.clone()),
            submitted_at: Some(self.submitted_at),
            ended_at: info.and_then(|info| info.end_time).map(at),
        });
        let extra = past.len().saturating_sub(PAST);
        past.drain(..extra);
        past
    }
}

/// Ray's word for a status.
pub(crate) fn word(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Pending => "PENDING",
        JobStatus::Running => "RUNNING",
        JobStatus::Stopped => "STOPPED",
        JobStatus::Succeeded => "SUCCEEDED",
        JobStatus::Failed => "FAILED",
        JobStatus::Other => "UNKNOWN",
    }
}

/// Ray's milliseconds.
pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(millis.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

/// What the driver keeps of a job in its state directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    /// As it was, or would have been, returned.
    pub handle: JobHandle,
    pub state: RecordState,
    /// What the head said at its end, kept where the head no longer knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<JobInfo>,
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordState {
    /// It was, or is about to be, submitted.
    Submitted,
    /// It was deleted, and goes from the head; kept for a while so that its attempt's number is not used again.
    Deleted,
    /// The head does not know it any more either.
    Removed,
    /// It was left to itself.
    Orphaned,
}

/// The submission's id of an attempt.
pub(crate) fn submission_id(name: &str, guid: Guid, attempt: u32) -> String {
    format!("{name}-{guid}-{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::spec::is_id;

    fn handle() -> JobHandle {
        JobHandle {
            guid: Guid::generate(),
            cluster: "default".into(),
            id: "a".into(),
            attempt: 1,
            op_id: OpId::generate(),
            revision: 7,
            session: "s".into(),
            submitted_at: Timestamp::from_micros(5),
            digest: u64::MAX,
            stop_signal: StopSignal::Int,
            limits: Vec::new(),
            wanted: Capacity::default(),
            adopted: false,
            stop: true,
            past: Vec::new(),
        }
    }

    #[test]
    fn a_handle_is_read_as_it_was_written() {
        let handle = handle();
        assert_eq!(JobHandle::read(&handle.write()).unwrap(), handle);
    }

    #[test]
    fn ids_can_be_called_with() {
        let id = submission_id(&"n".repeat(63), Guid::generate(), u32::MAX);
        assert!(is_id(&id), "{id}");
        assert!(!is_id("a/b") && !is_id("") && !is_id("..") && is_id("raysubmit_x"));
    }

    #[test]
    fn past_attempts_are_bounded() {
        let mut handle = handle();
        for attempt in 1..=25 {
            handle.attempt = attempt;
            handle.past = handle.past_with(None);
        }
        assert_eq!(handle.past.len(), PAST);
        assert_eq!(handle.past.last().unwrap().attempt, 25);
    }
}
