//! From evidence to a status: pure, so that every order of answers and silences can be tested.

use agent_api_driver::model::{Condition, Evidence, EvidenceSource, ExitStatus, Timestamp};
use agent_api_driver::{ObjectState, ObjectStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::data::{Attempt, JobHandle, at, word};
use crate::error::clip;
use crate::revision;
use crate::sdk::{Activity, JobInfo, JobStatus};

/// The longest message that is shown.
const MAX_MESSAGE: usize = 4_096;
/// The condition that says whether there is evidence.
pub(crate) const REACHABLE: &str = "Reachable";
/// The condition that says whether any node can give what it wants.
pub(crate) const SCHEDULABLE: &str = "Schedulable";
/// The condition that says that a stop waits until it can take.
pub(crate) const STOPPING: &str = "Stopping";

/// The detail that says what a job does on the cluster.
pub(super) const ACTIVITY: &str = "activity";

/// What is known of a job, beside its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetails {
    /// The cluster it is on.
    pub cluster: String,
    /// The id of its submission.
    pub submission_id: String,
    /// Counts the submissions of this object, from 1.
    pub attempt: u32,
    /// The session of the cluster in which it was submitted.
    pub session: String,
    /// Ray's word for its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What Ray says of it; for a failed one with the last lines of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Ray's word for what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The program's exit code; negative for a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Ray's own id, where the program uses Ray.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ray_job_id: Option<String>,
    /// The node it runs, or ran, on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// What it does on the cluster, where it uses Ray and runs; as of the last look, which is made for a few jobs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The attempts before this one, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Attempt>,
}

/// What there is to go by.
#[derive(Clone, Debug)]
pub(crate) enum Sight<'a> {
    /// The head's answer.
    Job(&'a JobInfo),
    /// The head answers, and knows no such job. The session it is in.
    Absent { session: &'a str },
    /// The head says that it runs, on a node that is dead.
    NodeDead(&'a JobInfo),
    /// There is no answer.
    Nothing { since: Timestamp, reason: &'a str },
}

/// The state, how it ended, and the reason where there is none.
struct Found {
    state: ObjectState,
    exit: Option<ExitStatus>,
    unknown: Option<(&'static str, String)>,
}

/// The status after `before`, and whether it is another one. What has ended stays as it is.
pub(crate) fn reduce(
    before: &ObjectStatus,
    handle: &JobHandle,
    known: Option<&JobInfo>,
    sight: &Sight<'_>,
    source: EvidenceSource,
    extra: Vec<Condition>,
) -> (ObjectStatus, bool) {
    if is_over(before.state) {
        return (before.clone(), false);
    }
    let found = find(handle, sight);
    let info = match sight {
        Sight::Job(info) | Sight::NodeDead(info) => Some(*info),
        Sight::Absent { .. } | Sight::Nothing { .. } => known,
    };
    let mut conditions = extra;
    if let Some((reason, message)) = &found.unknown {
        conditions.push(Condition::new(REACHABLE, false, reason, message.clone()));
    }
    for condition in &mut conditions {
        // A fact that holds on keeps its time and its words.
        if let Some(same) = before.conditions.iter().find(|c| {
            (&c.kind, c.status, &c.reason) == (&condition.kind, condition.status, &condition.reason)
        }) {
            condition.clone_from(same);
        }
    }
    let mut details = details(handle, info);
    if found.state == ObjectState::Running
        && let Some(activity) = before.details.get(ACTIVITY)
    {
        // It is looked at apart, and is no news.
        details[ACTIVITY] = activity.clone();
    }
    let status = ObjectStatus {
        state: found.state,
        exit: found.exit,
        details,
        limits: handle.limits.clone(),
        conditions,
        evidence: before.evidence.clone(),
    };
    let changed = status.state != before.state
        || status.exit != before.exit
        || status.details != before.details
        || status.conditions != before.conditions;
    if !changed {
        return (status, false);
    }
    let source = match sight {
        Sight::Nothing { .. } | Sight::NodeDead(_) => EvidenceSource::Inferred,
        _ => source,
    };
    let ended = status.exit.as_ref().and_then(|exit| exit.at);
    let evidence = Evidence {
        source,
        at: ended.unwrap_or_else(Timestamp::now),
        revision: revision::after(before.evidence.revision),
    };
    (ObjectStatus { evidence, ..status }, true)
}

/// Whether a state never changes again by itself.
pub(crate) fn is_over(state: ObjectState) -> bool {
    matches!(state, ObjectState::Exited | ObjectState::Gone)
}

fn find(handle: &JobHandle, sight: &Sight<'_>) -> Found {
    let state = |state| Found {
        state,
        exit: None,
        unknown: None,
    };
    let unknown = |reason: &'static str, message: String| Found {
        state: ObjectState::Unknown,
        exit: None,
        unknown: Some((reason, message)),
    };
    match sight {
        Sight::Job(info) => match info.status {
            JobStatus::Pending => state(ObjectState::Starting),
            JobStatus::Running => state(ObjectState::Running),
            JobStatus::Other => unknown(
                "UnknownStatus",
                "the cluster names a status that this driver does not know".to_owned(),
            ),
            JobStatus::Succeeded | JobStatus::Failed | JobStatus::Stopped => Found {
                exit: Some(exit(info, handle)),
                ..state(ObjectState::Exited)
            },
        },
        Sight::NodeDead(info) => unknown(
            "NodeDead",
            format!(
                "its node {} is dead, and Ray has not said yet what became of it",
                info.driver_node_id.as_deref().unwrap_or("?")
            ),
        ),
        Sight::Absent { session } => {
            let reason = if *session == handle.session {
                "the head knows no job of this id any more: somebody deleted its record".to_owned()
            } else {
                format!(
                    "the head was started anew without its state: session {} with all its jobs is gone",
                    handle.session
                )
            };
            Found {
                exit: Some(ExitStatus {
                    reason: Some(reason),
                    ..ExitStatus::default()
                }),
                ..state(ObjectState::Gone)
            }
        }
        Sight::Nothing { since, reason } => unknown("NoAnswer", format!("no answer since {since}: {reason}")),
    }
}

/// How it ended.
pub(crate) fn exit(info: &JobInfo, handle: &JobHandle) -> ExitStatus {
    let ended = info.end_time.map_or_else(Timestamp::now, at);
    let first_line = || {
        let text = info.message.as_deref().unwrap_or_default();
        clip(text.lines().next().unwrap_or_default(), 300).to_owned()
    };
    match (info.status, info.driver_exit_code) {
        (JobStatus::Succeeded, code) => ExitStatus {
            code: Some(code.unwrap_or(0)),
            at: Some(ended),
            ..ExitStatus::default()
        },
        (JobStatus::Stopped, _) => ExitStatus {
            signal: Some(handle.stop_signal.name().to_owned()),
            reason: Some("stopped".to_owned()),
            at: Some(ended),
            ..ExitStatus::default()
        },
        (_, Some(code)) if code < 0 => ExitStatus {
            signal: Some(signal_name(-code)),
            reason: info.error_type.clone(),
            at: Some(ended),
            ..ExitStatus::default()
        },
        (_, Some(code)) => ExitStatus {
            code: Some(code),
            reason: info
                .error_type
                .clone()
                .filter(|e| e != "JOB_ENTRYPOINT_COMMAND_ERROR"),
            at: Some(ended),
            ..ExitStatus::default()
        },
        (_, None) => ExitStatus {
            reason: Some(match &info.error_type {
                Some(kind) => format!("{kind}: {}", first_line()),
                None => first_line(),
            }),
            at: Some(ended),
            ..ExitStatus::default()
        },
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// The details of a status.
pub(crate) fn details(handle: &JobHandle, info: Option<&JobInfo>) -> serde_json::Value {
    let details = JobDetails {
        cluster: handle.cluster.clone(),
        submission_id: handle.id.clone(),
        attempt: handle.attempt,
        session: handle.session.clone(),
        status: info.map(|info| word(info.status).to_owned()),
        message: info.and_then(|info| {
            let text = info.message.as_deref()?;
            Some(clip(text, MAX_MESSAGE).to_owned())
        }),
        error_type: info.and_then(|info| info.error_type.clone()),
        exit_code: info.and_then(|info| info.driver_exit_code),
        ray_job_id: info.and_then(|info| info.job_id.clone()),
        node_id: info.and_then(|info| info.driver_node_id.clone()),
        activity: None,
        submitted_at: handle.submitted_at,
        ended_at: info.and_then(|info| info.end_time).map(at),
        past: handle.past.clone(),
    };
    serde_json::to_value(details).expect("details have only string keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{Guid, OpId};
    use serde_json::json;

    use super::*;
    use crate::job::spec::StopSignal;

    fn handle() -> JobHandle {
        JobHandle {
            guid: Guid::generate(),
            cluster: "c".into(),
            id: "a-1".into(),
            attempt: 1,
            op_id: OpId::generate(),
            revision: 1,
            session: "session_a".into(),
            submitted_at: Timestamp::from_micros(1),
            digest: 0,
            stop_signal: StopSignal::Term,
            limits: Vec::new(),
            wanted: crate::head::Capacity::default(),
            adopted: false,
            stop: false,
            past: Vec::new(),
        }
    }

    fn info(status: &str, more: serde_json::Value) -> JobInfo {
        let mut value = json!({"status": status, "submission_id": "a-1", "end_time": 2_000});
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn start() -> ObjectStatus {
        ObjectStatus::new(ObjectState::Starting, Evidence::now(EvidenceSource::Poll, 1))
    }

    fn step(before: &ObjectStatus, sight: &Sight<'_>) -> (ObjectStatus, bool) {
        reduce(before, &handle(), None, sight, EvidenceSource::Event, Vec::new())
    }

    #[test]
    fn what_it_does_is_shown_while_it_runs() {
        let (mut running, _) = step(&start(), &Sight::Job(&info("RUNNING", json!({}))));
        running.details[ACTIVITY] = json!({"actors": {"ALIVE": 1}});
        let (same, changed) = step(&running, &Sight::Job(&info("RUNNING", json!({}))));
        assert_eq!(same.details[ACTIVITY]["actors"]["ALIVE"], 1);
        assert_eq!(same.state, ObjectState::Running);
        assert!(!changed);
        let (ended, _) = step(&running, &Sight::Job(&info("SUCCEEDED", json!({}))));
        assert!(ended.details.get(ACTIVITY).is_none());
    }

    #[test]
    fn each_status_has_its_state_and_end() {
        let none = json!({});
        for (status, more, state, exit) in [
            ("PENDING", none.clone(), ObjectState::Starting, None),
            ("RUNNING", none.clone(), ObjectState::Running, None),
            (
                "SUCCEEDED",
                json!({"driver_exit_code": 0}),
                ObjectState::Exited,
                Some("exited with code 0"),
            ),
            (
                "STOPPED",
                none.clone(),
                ObjectState::Exited,
                Some("killed by SIGTERM (stopped)"),
            ),
            (
                "FAILED",
                json!({"driver_exit_code": 3, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}),
                ObjectState::Exited,
                Some("exited with code 3"),
            ),
            (
                "FAILED",
                json!({"driver_exit_code": -9, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}),
                ObjectState::Exited,
                Some("killed by SIGKILL (JOB_ENTRYPOINT_COMMAND_ERROR)"),
            ),
            (
                "FAILED",
                json!({"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "it died\nmore"}),
                ObjectState::Exited,
                Some("ended, exit code unknown (JOB_SUPERVISOR_ACTOR_DIED: it died)"),
            ),
            ("NEW_WORD", none, ObjectState::Unknown, None),
        ] {
            let info = info(status, more);
            let (after, _) = step(&start(), &Sight::Job(&info));
            assert_eq!(after.state, state, "{status}");
            assert_eq!(after.exit.map(|e| e.to_string()).as_deref(), exit, "{status}");
        }
    }

    #[test]
    fn revisions_are_for_changes_only_and_ends_stay() {
        let running = info("RUNNING", json!({}));
        let (first, changed) = step(&start(), &Sight::Job(&running));
        assert!(changed && first.evidence.revision > 1);
        // The handle of the test is made anew with each step: the same one has to be used to be the same.
        let handle = handle();
        let again = |before: &ObjectStatus, sight: &Sight<'_>| {
            reduce(before, &handle, None, sight, EvidenceSource::Poll, Vec::new())
        };
        let (one, _) = again(&first, &Sight::Job(&running));
        let (two, changed) = again(&one, &Sight::Job(&running));
        assert!(!changed);
        assert_eq!(two.evidence.revision, one.evidence.revision);
        let done = info("SUCCEEDED", json!({"driver_exit_code": 0}));
        let (ended, changed) = again(&two, &Sight::Job(&done));
        assert!(changed);
        assert_eq!(
            ended.evidence.at,
            Timestamp::from_micros(2_000_000),
            "when it ended"
        );
        for sight in [
            Sight::Job(&running),
            Sight::Absent { session: "session_b" },
            Sight::Nothing {
                since: Timestamp::EPOCH,
                reason: "x",
            },
        ] {
            assert_eq!(again(&ended, &sight), (ended.clone(), false));
        }
    }

    #[test]
    fn silence_is_unknown_since_then_and_never_an_end() {
        let nothing = |reason| Sight::Nothing {
            since: Timestamp::from_micros(9),
            reason,
        };
        let (away, changed) = step(&start(), &nothing("refused"));
        assert!(changed);
        assert_eq!((away.state, away.exit.clone()), (ObjectState::Unknown, None));
        assert_eq!(away.evidence.source, EvidenceSource::Inferred);
        let condition = away.conditions.iter().find(|c| c.kind == REACHABLE).unwrap();
        assert!(!condition.status && condition.message.contains("refused"));
        let running = info("RUNNING", json!({}));
        let (back, _) = step(&away, &Sight::Job(&running));
        assert_eq!((back.state, back.conditions.len()), (ObjectState::Running, 0));
        assert!(back.evidence.revision > away.evidence.revision);
    }

    #[test]
    fn a_dead_node_is_no_end_until_ray_says_so() {
        let running = info("RUNNING", json!({"driver_node_id": "n1"}));
        let (after, _) = step(&start(), &Sight::NodeDead(&running));
        assert_eq!(after.state, ObjectState::Unknown);
        assert!(after.conditions[0].message.contains("n1"));
    }

    #[test]
    fn absent_is_gone_with_the_reason() {
        let (same, _) = step(&start(), &Sight::Absent { session: "session_a" });
        assert_eq!(same.state, ObjectState::Gone);
        assert!(same.exit.unwrap().reason.unwrap().contains("deleted its record"));
        let (other, _) = step(&start(), &Sight::Absent { session: "session_b" });
        let reason = other.exit.unwrap().reason.unwrap();
        assert!(
            reason.contains("session_a") && reason.contains("anew"),
            "{reason}"
        );
    }

    #[test]
    fn a_condition_that_holds_on_keeps_its_time() {
        let pending = info("PENDING", json!({}));
        let short = || {
            vec![Condition::new(
                SCHEDULABLE,
                false,
                "Infeasible",
                "CPU 8 is wanted",
            )]
        };
        let handle = handle();
        let step = |before: &ObjectStatus| {
            reduce(
                before,
                &handle,
                None,
                &Sight::Job(&pending),
                EvidenceSource::Poll,
                short(),
            )
        };
        let (one, _) = step(&start());
        let (two, changed) = step(&one);
        assert!(!changed, "{one:?} {two:?}");
    }
}
