//! Telemetry as lines: what `monitor` reads from its topic, OTLP as JSON.

use std::collections::BTreeMap;

use serde_json::Value;

/// The lines of one report: a line for each object's metrics, for each log line and for each span.
pub(crate) fn telemetry_lines(report: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for resource in items(report, "resourceMetrics") {
        let mut metrics = BTreeMap::new();
        for metric in items(resource, "scopeMetrics").flat_map(|scope| items(scope, "metrics")) {
            collect(metric, &mut metrics);
        }
        let values: Vec<_> = metrics
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        lines.push(format!("{}  {}", object(resource), values.join("  ")));
    }
    for resource in items(report, "resourceLogs") {
        for record in items(resource, "scopeLogs").flat_map(|scope| items(scope, "logRecords")) {
            let stream = attributes(record)
                .get("log.iostream")
                .cloned()
                .unwrap_or_else(|| "log".into());
            let body = record
                .pointer("/body/stringValue")
                .and_then(Value::as_str)
                .unwrap_or("(bytes)");
            lines.push(format!("{}  {stream}: {body}", object(resource)));
        }
    }
    for resource in items(report, "resourceSpans") {
        for span in items(resource, "scopeSpans").flat_map(|scope| items(scope, "spans")) {
            let name = span.get("name").and_then(Value::as_str).unwrap_or("?");
            let nanos = |key| number(span.get(key)?);
            let took = nanos("endTimeUnixNano")
                .zip(nanos("startTimeUnixNano"))
                .map_or_else(String::new, |(end, start)| {
                    format!(" {:.3} ms", (end - start) / 1e6)
                });
            lines.push(format!("{}  span {name}{took}", object(resource)));
        }
    }
    lines
        .into_iter()
        .map(|line| crate::failure::printable(&line).replace('\n', " "))
        .collect()
}

/// The values of a metric, by its short name and its attributes.
fn collect(metric: &Value, into: &mut BTreeMap<String, String>) {
    let name = metric.get("name").and_then(Value::as_str).unwrap_or("?");
    let unit = metric.get("unit").and_then(Value::as_str).unwrap_or("");
    let name = name.strip_prefix("process.").unwrap_or(name);
    let points = ["sum", "gauge"]
        .into_iter()
        .filter_map(|kind| metric.get(kind))
        .flat_map(|data| items(data, "dataPoints"));
    for point in points {
        let attributes: Vec<_> = attributes(point).into_values().collect();
        let name = if attributes.is_empty() {
            name.to_owned()
        } else {
            format!("{name}[{}]", attributes.join(","))
        };
        let value = point
            .get("asInt")
            .or_else(|| point.get("asDouble"))
            .and_then(number);
        into.insert(
            name,
            value.map_or_else(|| "?".into(), |value| quantity(value, unit)),
        );
    }
}

/// A number with its unit, short enough for a line.
fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "By" => {
            let scales = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1_024.0)];
            match scales.iter().find(|(_, scale)| value >= *scale) {
                Some((word, scale)) => format!("{:.1}{word}", value / scale),
                None => format!("{value}B"),
            }
        }
        "s" => format!("{value:.2}s"),
        _ if value.fract() == 0.0 => format!("{value}"),
        _ => format!("{value:.3}"),
    }
}

fn object(resource: &Value) -> String {
    let attributes = resource.get("resource").map(attributes).unwrap_or_default();
    ["service.name", "service.instance.id"]
        .into_iter()
        .find_map(|key| attributes.get(key).cloned())
        .unwrap_or_else(|| "?".into())
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    items(value, "attributes")
        .filter_map(|pair| {
            let key = pair.get("key")?.as_str()?;
            let value = pair.get("value")?.as_object()?.values().next()?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((key.to_owned(), text))
        })
        .collect()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// A number; OTLP writes 64-bit ones as text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_become_lines() {
        let resource = json!({"attributes": [
            {"key": "service.name", "value": {"stringValue": "web"}},
            {"key": "service.instance.id", "value": {"stringValue": "0190"}},
        ]});
        let point = |key: &str, value: Value| json!({"gauge": {"dataPoints": [{key: value}]}});
        let named = |name: &str, unit: &str, mut data: Value| {
            data["name"] = name.into();
            data["unit"] = unit.into();
            data
        };
        let report = json!({
            "resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [
                named("process.cpu.time", "s", json!({"sum": {"dataPoints": [
                    {"asDouble": 1.234, "attributes": [{"key": "cpu.mode", "value": {"stringValue": "user"}}]},
                    {"asDouble": 0.5, "attributes": [{"key": "cpu.mode", "value": {"stringValue": "system"}}]},
                ]}})),
                named("process.memory.usage", "By", point("asInt", json!("12582912"))),
                named("process.thread.count", "{thread}", point("asInt", json!(4))),
            ]}]}],
            "resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [
                {"body": {"stringValue": "hello \u{1b}[2J"}, "attributes": [{"key": "log.iostream", "value": {"stringValue": "stdout"}}]},
            ]}]}],
            "resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [
                {"name": "GET /", "startTimeUnixNano": "1000000", "endTimeUnixNano": "3500000"},
            ]}]}],
        });
        insta::assert_snapshot!(telemetry_lines(&report).join("\n"));
        assert!(telemetry_lines(&json!({"odd": 1})).is_empty());
    }
}
