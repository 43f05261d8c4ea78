//! OTLP: metrics, logs and spans as the export requests of the OpenTelemetry protocol, protobuf or JSON.
//!
//! One resource for each object: `service.name` is its name, `service.instance.id` its GUID, `agent.id` the agent's
//! name, `agent.object.kind` its kind, and `agent.object.label.<key>` its labels.

mod logs;
mod metrics;
mod resource;
mod traces;

use std::sync::Arc;

use agent_api_model::{AgentId, LogRecord, MetricPoint, ObjectView, SpanRecord};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use serde::Serialize;

use crate::entry::Records;

/// Metrics as one export request.
#[must_use]
pub fn metrics_request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    points: Vec<MetricPoint>,
) -> ExportMetricsServiceRequest {
    metrics::request(agent, objects, points)
}

/// Log lines as one export request.
#[must_use]
pub fn logs_request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    records: Vec<LogRecord>,
) -> ExportLogsServiceRequest {
    logs::request(agent, objects, records)
}

/// Spans as one export request.
#[must_use]
pub fn traces_request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    spans: Vec<SpanRecord>,
) -> ExportTraceServiceRequest {
    traces::request(agent, objects, spans)
}

/// The bytes of an export request, protobuf or JSON.
pub(crate) fn encode(agent: &AgentId, objects: &[Arc<ObjectView>], records: Records, json: bool) -> Vec<u8> {
    match records {
        Records::Metrics(points) => bytes(&metrics_request(agent, objects, points), json),
        Records::Logs(records) => bytes(&logs_request(agent, objects, records), json),
        Records::Traces(spans) => bytes(&traces_request(agent, objects, spans), json),
    }
}

fn bytes(request: &(impl prost::Message + Serialize), json: bool) -> Vec<u8> {
    if json {
        serde_json::to_vec(request).expect("strings, numbers and lists always serialise")
    } else {
        request.encode_to_vec()
    }
}

/// Groups records by object, in the order in which each object first comes.
struct Groups<T> {
    groups: Vec<(agent_api_model::Guid, T)>,
    index: std::collections::HashMap<agent_api_model::Guid, usize>,
}

impl<T: Default> Groups<T> {
    fn new() -> Self {
        Self {
            groups: Vec::new(),
            index: std::collections::HashMap::new(),
        }
    }

    fn of(&mut self, guid: agent_api_model::Guid) -> &mut T {
        // Drivers hand over one object after the other, so the last group is nearly always the one.
        let last = self.groups.len().wrapping_sub(1);
        let at = if self.groups.last().is_some_and(|(known, _)| *known == guid) {
            last
        } else {
            *self.index.entry(guid).or_insert_with(|| {
                self.groups.push((guid, T::default()));
                self.groups.len() - 1
            })
        };
        &mut self.groups[at].1
    }
}
