//! The agent's own metrics: the OpenTelemetry SDK with a reader that is asked, written as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};

/// The process's meter provider and what is needed to read it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    reader: SharedReader,
}

impl Metrics {
    /// A meter provider, set as the process's global one: libraries that use the API are heard from now on.
    #[must_use]
    pub fn install() -> Self {
        let metrics = Self::new();
        opentelemetry::global::set_meter_provider(metrics.provider.clone());
        metrics
    }

    fn new() -> Self {
        let reader = SharedReader(Arc::new(ManualReader::builder().build()));
        let provider = SdkMeterProvider::builder().with_reader(reader.clone()).build();
        Self { provider, reader }
    }

    /// All metrics in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut collected = ResourceMetrics::default();
        let mut text = String::new();
        match self.reader.collect(&mut collected) {
            Ok(()) => {}
            // The text format has comments: whoever scrapes sees why it is empty.
            Err(error) => {
                let _ = writeln!(text, "# cannot collect: {error}");
                return text;
            }
        }
        let mut families: BTreeMap<String, Vec<&Metric>> = BTreeMap::new();
        for metric in collected.scope_metrics().flat_map(|scope| scope.metrics()) {
            families.entry(name_of(metric)).or_default().push(metric);
        }
        for (name, metrics) in families {
            for (i, metric) in metrics.into_iter().enumerate() {
                write_metric(&mut text, &name, metric, i == 0);
            }
        }
        text
    }
}

#[derive(Clone, Debug)]
struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// The Prometheus name: what is not a letter, digit or `_` becomes `_`; unit and `total` are appended.
fn name_of(metric: &Metric) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c
                } else {
                    '_'
                }
            })
            .collect()
    };
    let mut name = clean(metric.name());
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    let unit = match metric.unit() {
        "" | "1" => String::new(),
        "s" => "seconds".into(),
        "ms" => "milliseconds".into(),
        "us" => "microseconds".into(),
        "By" => "bytes".into(),
        // Annotations such as `{request}` are no unit.
        unit if unit.starts_with('{') => String::new(),
        unit => clean(unit),
    };
    if !unit.is_empty() && !name.ends_with(&unit) {
        let _ = write!(name, "_{unit}");
    }
    if is_counter(metric) && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

fn is_counter(metric: &Metric) -> bool {
    match metric.data() {
        AggregatedMetrics::F64(MetricData::Sum(sum)) => sum.is_monotonic(),
        AggregatedMetrics::U64(MetricData::Sum(sum)) => sum.is_monotonic(),
        AggregatedMetrics::I64(MetricData::Sum(sum)) => sum.is_monotonic(),
        _ => false,
    }
}

fn write_metric(text: &mut String, name: &str, metric: &Metric, first: bool) {
    match metric.data() {
        AggregatedMetrics::F64(data) => write_data(text, name, metric.description(), data, first),
        AggregatedMetrics::U64(data) => write_data(text, name, metric.description(), data, first),
        AggregatedMetrics::I64(data) => write_data(text, name, metric.description(), data, first),
    }
}

fn write_data<T: Copy + std::fmt::Display>(
    text: &mut String,
    name: &str,
    description: &str,
    data: &MetricData<T>,
    first: bool,
) {
    let kind = match data {
        MetricData::Sum(sum) if sum.is_monotonic() => "counter",
        MetricData::Sum(_) | MetricData::Gauge(_) => "gauge",
        MetricData::Histogram(_) => "histogram",
        // No instrument of the agent asks for it, and the text format has no form for it.
        MetricData::ExponentialHistogram(_) => return,
    };
    // Writing to a string cannot fail.
    if first {
        if !description.is_empty() {
            let _ = writeln!(
                text,
                "# HELP {name} {}",
                description.replace('\\', "\\\\").replace('\n', "\\n")
            );
        }
        let _ = writeln!(text, "# TYPE {name} {kind}");
    }
    match data {
        MetricData::Gauge(gauge) => {
            for point in gauge.data_points() {
                let _ = writeln!(
                    text,
                    "{name}{} {}",
                    labels(point.attributes(), None),
                    point.value()
                );
            }
        }
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                let _ = writeln!(
                    text,
                    "{name}{} {}",
                    labels(point.attributes(), None),
                    point.value()
                );
            }
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let bounds = point
                    .bounds()
                    .map(|bound| bound.to_string())
                    .chain(["+Inf".to_owned()]);
                let mut count = 0;
                for (bound, bucket) in bounds.zip(point.bucket_counts()) {
                    count += bucket;
                    let _ = writeln!(
                        text,
                        "{name}_bucket{} {count}",
                        labels(point.attributes(), Some(&bound))
                    );
                }
                let plain = labels(point.attributes(), None);
                let _ = writeln!(
                    text,
                    "{name}_sum{plain} {}\n{name}_count{plain} {}",
                    point.sum(),
                    point.count()
                );
            }
        }
        MetricData::ExponentialHistogram(_) => {}
    }
}

fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>, bound: Option<&str>) -> String {
    let mut pairs: Vec<_> = attributes
        .map(|pair| {
            let key: String = pair
                .key
                .as_str()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let value = pair
                .value
                .to_string()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{key}=\"{value}\"")
        })
        .collect();
    pairs.sort();
    if let Some(bound) = bound {
        pairs.push(format!("le=\"{bound}\""));
    }
    if pairs.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::MeterProvider as _;

    #[test]
    fn writes_prometheus_text() {
        let metrics = Metrics::new();
        let meter = metrics.provider.meter("test");
        let requests = meter
            .u64_counter("agent.requests")
            .with_description("Requests taken.")
            .build();
        requests.add(
            3,
            &[
                KeyValue::new("verb", "create"),
                KeyValue::new("error.type", "a\"b"),
            ],
        );
        meter.i64_up_down_counter("agent.objects").build().add(-2, &[]);
        meter
            .f64_gauge("agent.room")
            .with_unit("1")
            .build()
            .record(0.5, &[]);
        let latency = meter
            .f64_histogram("agent.commit.duration")
            .with_unit("s")
            .with_boundaries(vec![0.001, 0.01])
            .build();
        latency.record(0.002, &[]);
        latency.record(5.0, &[]);
        insta::assert_snapshot!(metrics.render());
    }
}
