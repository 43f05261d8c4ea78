//! Lifecycle events and heartbeats as CloudEvents.

use agent_api_model::{Envelope, LifecycleEvent};
use agent_api_reporter::{Heartbeat, Report, Topics};
use agent_reporter_rpc_client::Message;

/// The beginning of the CloudEvents type of a lifecycle event; the kind follows, for example `phase_changed`.
pub const LIFECYCLE_EVENT_PREFIX: &str = "agent.object.";
/// The CloudEvents type of a heartbeat.
pub const HEARTBEAT_EVENT: &str = "agent.heartbeat";

/// The message of a report.
pub(crate) fn message(topics: &Topics, source: &str, report: &Report) -> Message {
    match report {
        Report::Lifecycle(event) => lifecycle(topics, source, event),
        Report::Heartbeat(heartbeat) => self::heartbeat(topics, source, heartbeat),
    }
}

/// The id is the object's GUID and the event's sequence: the same on every repeat, also after a restart.
fn lifecycle(topics: &Topics, source: &str, event: &LifecycleEvent) -> Message {
    Message {
        topic: topics.status(),
        envelope: Envelope {
            id: format!("{}-{}", event.guid, event.sequence),
            source: source.to_owned(),
            event_type: format!("{LIFECYCLE_EVENT_PREFIX}{}", event.kind.as_str()),
            subject: Some(event.name.to_string()),
            time: event.transition.at,
            content_type: Envelope::JSON,
            traceparent: None,
            data: serde_json::to_vec(event)
                .expect("a lifecycle event always serialises")
                .into(),
        },
    }
}

/// The sequence begins anew with each run of the agent, so the moment is part of the id.
fn heartbeat(topics: &Topics, source: &str, heartbeat: &Heartbeat) -> Message {
    Message {
        topic: topics.heartbeat(),
        envelope: Envelope {
            id: format!("heartbeat-{}-{}", heartbeat.at.as_micros(), heartbeat.sequence),
            source: source.to_owned(),
            event_type: HEARTBEAT_EVENT.into(),
            subject: None,
            time: heartbeat.at,
            content_type: Envelope::JSON,
            traceparent: None,
            data: serde_json::to_vec(heartbeat)
                .expect("a heartbeat always serialises")
                .into(),
        },
    }
}
