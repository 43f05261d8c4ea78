//! What is on a topic is OTLP that any OpenTelemetry consumer reads.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::time::Duration;

use agent_api_model::{MetricKind, MetricValue, Signal, SpanRecord, TelemetryBatch, Timestamp};
use agent_api_reporter::ReporterApi;
use common::{config, line, object, point, reporter, request};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use prost::Message as _;

const SECOND: Duration = Duration::from_secs(1);

fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes
        .iter()
        .map(
            |attribute| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
                Value::StringValue(text) => (attribute.key.clone(), text.clone()),
                other => panic!("{other:?}"),
            },
        )
        .collect()
}

#[tokio::test(start_paused = true)]
async fn metrics_decode_to_what_was_read() {
    let (reporter, bus) = reporter(config());
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    let (web, db) = (object("web"), object("db"));
    let mut read = point(web.guid, MetricValue::Int(7));
    (read.name, read.unit) = ("disk.io".into(), "By".into());
    read.attributes = vec![("disk.io.direction".into(), "read".into())];
    let mut write = read.clone();
    write.value = MetricValue::Int(u64::MAX);
    write.attributes = vec![("disk.io.direction".into(), "write".into())];
    let mut memory = point(db.guid, MetricValue::Int(4_096));
    (memory.name, memory.unit, memory.kind) = ("process.memory.usage".into(), "By".into(), MetricKind::Gauge);
    let batch = TelemetryBatch {
        metrics: vec![
            read,
            memory,
            point(web.guid, MetricValue::Float(1.5)),
            write,
            point(web.guid, MetricValue::Float(f64::NAN)),
        ],
        objects: vec![web.clone(), db.clone()],
        ..TelemetryBatch::default()
    };
    assert!(reporter.sink().offer(&lease, batch));
    reporter.flush(SECOND).await.unwrap();

    let messages = bus.of_type("agent.telemetry.metrics");
    assert_eq!(messages.len(), 1);
    let envelope = &messages[0].envelope;
    assert_eq!(messages[0].topic.as_str(), lease.topic);
    assert_eq!(envelope.source, "/agents/a1");
    assert_eq!(envelope.subject.as_deref(), Some(lease.id.to_string().as_str()));
    assert_eq!(envelope.content_type, "application/x-protobuf");
    let request = ExportMetricsServiceRequest::decode(&envelope.data[..]).unwrap();
    let [of_web, of_db] = &request.resource_metrics[..] else {
        panic!("{request:?}")
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        texts(&of_web.resource.as_ref().unwrap().attributes),
        [
            pair("service.instance.id", &web.guid.to_string()),
            pair("agent.id", "a1"),
            pair("service.name", "web"),
            pair("agent.object.kind", "process"),
            pair("agent.object.label.app", "web"),
        ]
    );
    let metrics = &of_web.scope_metrics[0].metrics;
    assert_eq!(of_web.scope_metrics[0].scope.as_ref().unwrap().name, "agent");
    let names: Vec<_> = metrics
        .iter()
        .map(|m| (m.name.as_str(), m.unit.as_str()))
        .collect();
    assert_eq!(names, [("disk.io", "By"), ("process.cpu.time", "s")]);
    let Some(Data::Sum(io)) = &metrics[0].data else {
        panic!()
    };
    assert!(io.is_monotonic && io.aggregation_temporality == 2);
    assert_eq!(io.data_points.len(), 2);
    assert_eq!(io.data_points[0].value, Some(number_data_point::Value::AsInt(7)));
    assert_eq!(
        io.data_points[1].value,
        Some(number_data_point::Value::AsDouble(u64::MAX as f64))
    );
    assert_eq!(
        texts(&io.data_points[1].attributes),
        [pair("disk.io.direction", "write")]
    );
    assert_eq!(io.data_points[0].start_time_unix_nano, 1_000_000_000);
    assert_eq!(io.data_points[0].time_unix_nano, 2_000_000_000);
    let Some(Data::Gauge(memory)) = &of_db.scope_metrics[0].metrics[0].data else {
        panic!()
    };
    assert_eq!(
        memory.data_points[0].value,
        Some(number_data_point::Value::AsInt(4_096))
    );
    let losses = bus.losses();
    assert_eq!((losses.len(), losses[0].1.count), (1, 1));
    assert_eq!(losses[0].1.reason, "not a finite number");
}

#[tokio::test(start_paused = true)]
async fn logs_and_spans_decode_to_what_was_read() {
    let (reporter, bus) = reporter(config());
    let signals = [Signal::Logs, Signal::Traces];
    let lease = reporter.subscribe(&request(&signals), None).unwrap();
    let web = object("web");
    let span = SpanRecord {
        guid: web.guid,
        trace_id: [1; 16],
        span_id: [2; 8],
        parent_id: [0; 8],
        name: "GET /".into(),
        start: Timestamp::from_micros(1),
        end: Timestamp::from_micros(2),
        attributes: vec![("http.request.method".into(), "GET".into())],
    };
    let batch = TelemetryBatch {
        logs: vec![line(web.guid, "hellö"), line(web.guid, vec![0xff, 0, 0xfe])],
        spans: vec![span],
        objects: vec![web.clone()],
        ..TelemetryBatch::default()
    };
    assert!(reporter.sink().offer(&lease, batch));
    reporter.flush(SECOND).await.unwrap();

    let logs = &bus.of_type("agent.telemetry.logs")[0];
    assert_eq!(logs.envelope.subject.as_deref(), Some("web"));
    let request = ExportLogsServiceRequest::decode(&logs.envelope.data[..]).unwrap();
    let records = &request.resource_logs[0].scope_logs[0].log_records;
    let body = |place: usize| records[place].body.as_ref().unwrap().value.clone().unwrap();
    assert_eq!(body(0), Value::StringValue("hellö".into()));
    assert_eq!(body(1), Value::BytesValue(vec![0xff, 0, 0xfe]));
    assert_eq!(records[0].time_unix_nano, 2_000_000_000);
    assert_eq!(
        texts(&records[0].attributes),
        [("log.iostream".to_owned(), "stderr".to_owned())]
    );

    let traces = &bus.of_type("agent.telemetry.traces")[0];
    let request = ExportTraceServiceRequest::decode(&traces.envelope.data[..]).unwrap();
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(
        (span.trace_id.as_slice(), span.span_id.as_slice()),
        (&[1; 16][..], &[2; 8][..])
    );
    assert!(span.parent_span_id.is_empty());
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano),
        (1_000, 2_000)
    );
}

#[tokio::test(start_paused = true)]
async fn json_is_the_otlp_json_mapping() {
    let (reporter, bus) = reporter(config());
    let mut wanted = request(&[Signal::Metrics, Signal::Logs, Signal::Traces]);
    wanted.json = true;
    let lease = reporter.subscribe(&wanted, None).unwrap();
    let web = object("web");
    let batch = TelemetryBatch {
        metrics: vec![
            point(web.guid, MetricValue::Int(7)),
            point(web.guid, MetricValue::Float(0.5)),
        ],
        logs: vec![line(web.guid, "hello"), line(web.guid, vec![0xff])],
        spans: vec![SpanRecord {
            guid: web.guid,
            trace_id: [0xab; 16],
            span_id: [0xcd; 8],
            parent_id: [0xef; 8],
            name: "GET /".into(),
            start: Timestamp::from_micros(1),
            end: Timestamp::from_micros(2),
            attributes: Vec::new(),
        }],
        objects: vec![web.clone()],
        ..TelemetryBatch::default()
    };
    assert!(reporter.sink().offer(&lease, batch));
    reporter.flush(SECOND).await.unwrap();
    let mut all = Vec::new();
    for signal in ["metrics", "logs", "traces"] {
        let message = &bus.of_type(&format!("agent.telemetry.{signal}"))[0];
        assert_eq!(message.envelope.content_type, "application/json");
        let text = String::from_utf8(message.envelope.data.to_vec()).unwrap();
        let text = text
            .replace(&web.guid.to_string(), "GUID")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION");
        all.push(serde_json::from_str::<serde_json::Value>(&text).unwrap());
    }
    insta::assert_json_snapshot!(all);
}

#[tokio::test(start_paused = true)]
async fn large_batches_become_several_messages_in_order() {
    let mut config = config();
    config.worker.message_bytes = 10_000;
    let (reporter, bus) = reporter(config);
    let lease = reporter.subscribe(&request(&[Signal::Logs]), None).unwrap();
    let web = object("web");
    let lines: Vec<_> = (0..500).map(|n| format!("{n} {}", "x".repeat(90))).collect();
    let batch = TelemetryBatch {
        logs: lines.iter().map(|body| line(web.guid, body.clone())).collect(),
        objects: vec![web],
        ..TelemetryBatch::default()
    };
    assert!(reporter.sink().offer(&lease, batch));
    reporter.flush(SECOND).await.unwrap();
    let messages = bus.of_type("agent.telemetry.logs");
    assert!(messages.len() > 5 && messages.iter().all(|m| m.envelope.data.len() < 12_000));
    common::assert_complete(&bus, &lease, Signal::Logs, messages.len() as u64);
    let read: Vec<_> = messages
        .iter()
        .flat_map(|message| {
            let request = ExportLogsServiceRequest::decode(&message.envelope.data[..]).unwrap();
            request.resource_logs[0].scope_logs[0].log_records.clone()
        })
        .map(|record| match record.body.unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(read, lines);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_a_topic_goes_to_the_agents_own() {
    let (reporter, bus) = reporter(config());
    let mut lease = reporter
        .subscribe(&request(&[Signal::Metrics, Signal::Logs]), None)
        .unwrap();
    lease.topic = String::new();
    let web = object("web");
    assert!(reporter.sink().offer(&lease, common::metrics(&web, 1)));
    assert!(reporter.sink().offer(&lease, common::logs(&web, "x")));
    reporter.flush(SECOND).await.unwrap();
    let mut topics: Vec<_> = bus.published.lock().iter().map(|m| m.topic.to_string()).collect();
    topics.sort();
    assert_eq!(topics, ["agent.out.a1.log", "agent.out.a1.metric"]);
}
