//! Spans as OTLP.

use std::sync::Arc;

use agent_api_model::{AgentId, ObjectView, SpanRecord};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind};

use super::Groups;
use super::resource::{Views, attributes, scope};

pub(super) fn request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    spans: Vec<SpanRecord>,
) -> ExportTraceServiceRequest {
    let views = Views::new(agent, objects);
    let mut groups: Groups<Vec<Span>> = Groups::new();
    for span in spans {
        groups.of(span.guid).push(otlp(span));
    }
    let resource_spans = groups
        .groups
        .into_iter()
        .map(|(guid, spans)| ResourceSpans {
            resource: Some(views.resource(guid)),
            scope_spans: vec![ScopeSpans {
                scope: scope(),
                spans,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        })
        .collect();
    ExportTraceServiceRequest { resource_spans }
}

fn otlp(span: SpanRecord) -> Span {
    let no_parent = span.parent_id == [0; 8];
    Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: if no_parent {
            Vec::new()
        } else {
            span.parent_id.to_vec()
        },
        name: span.name.into_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: span.start.as_nanos(),
        end_time_unix_nano: span.end.as_nanos(),
        attributes: attributes(span.attributes),
        // Unset, but there: strict readers of JSON stumble over a null.
        status: Some(Status::default()),
        ..Span::default()
    }
}
