//! Log lines as OTLP.

use std::sync::Arc;

use agent_api_model::{AgentId, LogRecord, LogStream, ObjectView};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord as OtlpRecord, ResourceLogs, ScopeLogs};

use super::Groups;
use super::resource::{Views, attributes, scope, text};

pub(super) fn request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    records: Vec<LogRecord>,
) -> ExportLogsServiceRequest {
    let views = Views::new(agent, objects);
    let mut groups: Groups<Vec<OtlpRecord>> = Groups::new();
    for record in records {
        groups.of(record.guid).push(line(record));
    }
    let resource_logs = groups
        .groups
        .into_iter()
        .map(|(guid, log_records)| ResourceLogs {
            resource: Some(views.resource(guid)),
            scope_logs: vec![ScopeLogs {
                scope: scope(),
                log_records,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        })
        .collect();
    ExportLogsServiceRequest { resource_logs }
}

fn line(record: LogRecord) -> OtlpRecord {
    let stream = match record.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::System => "system",
    };
    let mut attributes = attributes(record.attributes);
    attributes.push(text("log.iostream", stream));
    // Lines may be any bytes; what is not UTF-8 goes as it is, and not replaced.
    let body = match std::str::from_utf8(&record.body) {
        Ok(line) => Value::StringValue(line.to_owned()),
        Err(_) => Value::BytesValue(record.body.to_vec()),
    };
    OtlpRecord {
        time_unix_nano: record.at.as_nanos(),
        observed_time_unix_nano: record.at.as_nanos(),
        body: Some(AnyValue { value: Some(body) }),
        attributes,
        ..OtlpRecord::default()
    }
}
