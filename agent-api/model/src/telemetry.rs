//! Metrics, logs and traces as drivers hand them over.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Guid, LeaseId, LogStream, ObjectView, Selector, Timestamp};

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Numbers over time.
    Metrics,
    /// Lines of text.
    Logs,
    /// Spans.
    Traces,
}

impl Signal {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Metrics, Self::Logs, Self::Traces]
            .into_iter()
            .find(|signal| signal.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a signal; use metrics, logs or traces"))
    }
}

/// How a metric's values relate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A value of the moment.
    Gauge,
    /// A sum since the object's start that only grows.
    Counter,
}

/// The value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MetricValue {
    /// A whole number.
    Int(u64),
    /// A fraction.
    Float(f64),
}

/// One value of one metric of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// Whose.
    pub guid: Guid,
    /// Its name by the OpenTelemetry semantic conventions where there is one, for example `process.cpu.time`.
    pub name: Cow<'static, str>,
    /// Its unit in UCUM, for example `s` or `By`.
    pub unit: Cow<'static, str>,
    /// How its values relate over time.
    pub kind: MetricKind,
    /// The value.
    pub value: MetricValue,
    /// When it was read.
    pub at: Timestamp,
    /// Attributes that tell apart several values of one metric, for example `disk.io.direction=read`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// One log line of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Whose.
    pub guid: Guid,
    /// When it was read; drivers that know when it was written say that.
    pub at: Timestamp,
    /// Which stream.
    pub stream: LogStream,
    /// The line without its end, any bytes.
    pub body: Bytes,
    /// Attributes, for example the pod's name.
    pub attributes: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// One span of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    /// Whose.
    pub guid: Guid,
    /// The trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its id.
    pub span_id: [u8; 8],
    /// Its parent's id, zero where it has none.
    pub parent_id: [u8; 8],
    /// Its name.
    pub name: Cow<'static, str>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Attributes.
    pub attributes: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// Telemetry that is known to be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// Whose; none where it was not of one object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<Guid>,
    /// Of what kind.
    pub signal: Signal,
    /// How many points, lines or spans; bytes of logs where lines cannot be counted.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// What one collection brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryBatch {
    /// Metrics.
    pub metrics: Vec<MetricPoint>,
    /// Log lines.
    pub logs: Vec<LogRecord>,
    /// Spans.
    pub spans: Vec<SpanRecord>,
    /// What was lost on the way so far.
    pub losses: Vec<Loss>,
    /// The views of the objects that the records name, where the collector has them: a driver leaves it empty, the
    /// collector fills it in, the reporter takes names and labels from it.
    pub objects: Vec<Arc<ObjectView>>,
}

impl TelemetryBatch {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty() && self.logs.is_empty() && self.spans.is_empty() && self.losses.is_empty()
    }

    /// How many points, lines and spans there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.metrics.len() + self.logs.len() + self.spans.len()
    }

    /// Empties it and keeps the room, for the next collection.
    pub fn clear(&mut self) {
        self.metrics.clear();
        self.logs.clear();
        self.spans.clear();
        self.losses.clear();
        self.objects.clear();
    }
}

/// A monitor lease: which telemetry of which objects goes to which topic, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// Its identity, for renewal and for `unmonitor`.
    pub id: LeaseId,
    /// One object; none for all that the selector chooses, also those created later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<Guid>,
    /// Which objects, where no single one is named.
    #[serde(default, skip_serializing_if = "Selector::is_everything")]
    pub selector: Selector,
    /// What is reported.
    pub signals: Vec<Signal>,
    /// How often metrics are read and logs are looked at.
    #[serde(with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Where to; where it is empty, to the agent's own topic of each signal.
    pub topic: String,
    /// How telemetry is written on the topic: OTLP as JSON where true, as protobuf where false.
    #[serde(default)]
    pub json: bool,
    /// When it ends unless renewed; none for the leases of an object's own `monitor` part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// How long each renewal lasts.
    #[serde(
        default,
        with = "crate::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub ttl: Option<Duration>,
}
