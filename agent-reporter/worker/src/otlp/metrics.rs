//! Metrics as OTLP.

use std::sync::Arc;

use agent_api_model::{AgentId, MetricKind, MetricPoint, MetricValue, ObjectView};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point::Value,
};

use super::Groups;
use super::resource::{Views, attributes, scope};

pub(super) fn request(
    agent: &AgentId,
    objects: &[Arc<ObjectView>],
    points: Vec<MetricPoint>,
) -> ExportMetricsServiceRequest {
    let views = Views::new(agent, objects);
    let mut groups: Groups<Vec<Metric>> = Groups::new();
    for point in points {
        let start = views.view(point.guid).map_or(0, |view| view.created.as_nanos());
        add(groups.of(point.guid), point, start);
    }
    let resource_metrics = groups
        .groups
        .into_iter()
        .map(|(guid, metrics)| ResourceMetrics {
            resource: Some(views.resource(guid)),
            scope_metrics: vec![ScopeMetrics {
                scope: scope(),
                metrics,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        })
        .collect();
    ExportMetricsServiceRequest { resource_metrics }
}

/// Adds a point to the metric of its name, or begins one.
fn add(metrics: &mut Vec<Metric>, point: MetricPoint, start: u64) {
    let counter = point.kind == MetricKind::Counter;
    let data_point = NumberDataPoint {
        attributes: attributes(point.attributes),
        start_time_unix_nano: if counter { start } else { 0 },
        time_unix_nano: point.at.as_nanos(),
        value: Some(value(point.value)),
        ..NumberDataPoint::default()
    };
    let same = |metric: &&mut Metric| {
        metric.name == point.name
            && metric.unit == point.unit
            && matches!(metric.data, Some(Data::Sum(_))) == counter
    };
    let points = match metrics.iter_mut().rev().find(same) {
        Some(metric) => match &mut metric.data {
            Some(Data::Sum(sum)) => &mut sum.data_points,
            Some(Data::Gauge(gauge)) => &mut gauge.data_points,
            _ => return,
        },
        None => {
            let data_points = vec![data_point];
            let data = match point.kind {
                MetricKind::Counter => Data::Sum(Sum {
                    data_points,
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                    is_monotonic: true,
                }),
                MetricKind::Gauge => Data::Gauge(Gauge { data_points }),
            };
            metrics.push(Metric {
                name: point.name.into_owned(),
                unit: point.unit.into_owned(),
                data: Some(data),
                ..Metric::default()
            });
            return;
        }
    };
    points.push(data_point);
}

fn value(value: MetricValue) -> Value {
    match value {
        // OTLP's whole numbers are signed; what does not fit goes as a fraction rather than wrapped round.
        MetricValue::Int(number) => {
            i64::try_from(number).map_or(Value::AsDouble(number as f64), Value::AsInt)
        }
        MetricValue::Float(number) => Value::AsDouble(number),
    }
}
