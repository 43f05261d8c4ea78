//! One message of telemetry before it is encoded.

use std::borrow::Cow;
use std::mem::size_of;
use std::sync::Arc;

use agent_api_model::{LeaseId, LogRecord, MetricPoint, ObjectView, Signal, SpanRecord, Topic};

/// Records of one signal.
#[derive(Debug)]
pub(crate) enum Records {
    Metrics(Vec<MetricPoint>),
    Logs(Vec<LogRecord>),
    Traces(Vec<SpanRecord>),
}

impl Records {
    pub(crate) fn signal(&self) -> Signal {
        match self {
            Self::Metrics(_) => Signal::Metrics,
            Self::Logs(_) => Signal::Logs,
            Self::Traces(_) => Signal::Traces,
        }
    }

    /// How many points, lines or spans.
    pub(crate) fn len(&self) -> u64 {
        let len = match self {
            Self::Metrics(records) => records.len(),
            Self::Logs(records) => records.len(),
            Self::Traces(records) => records.len(),
        };
        len as u64
    }

    /// Splits into parts of about `limit` bytes, each with its size in memory.
    pub(crate) fn split(self, limit: usize) -> Vec<(usize, Self)> {
        match self {
            Self::Metrics(records) => split(records, limit, metric_bytes, Self::Metrics),
            Self::Logs(records) => split(records, limit, log_bytes, Self::Logs),
            Self::Traces(records) => split(records, limit, span_bytes, Self::Traces),
        }
    }
}

/// One message of telemetry that waits.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) lease: LeaseId,
    pub(crate) topic: Topic,
    pub(crate) json: bool,
    /// Its number among the messages of this lease and signal, from 1.
    pub(crate) sequence: u64,
    pub(crate) records: Records,
    pub(crate) objects: Arc<Vec<Arc<ObjectView>>>,
}

type Attributes = [(Cow<'static, str>, Cow<'static, str>)];

fn attribute_bytes(attributes: &Attributes) -> usize {
    let heap = |text: &Cow<'static, str>| match text {
        Cow::Borrowed(_) => 0,
        Cow::Owned(text) => text.len(),
    };
    attributes
        .iter()
        .map(|(key, value)| size_of::<(Cow<'_, str>, Cow<'_, str>)>() + heap(key) + heap(value))
        .sum()
}

fn metric_bytes(point: &MetricPoint) -> usize {
    size_of::<MetricPoint>() + attribute_bytes(&point.attributes)
}

fn log_bytes(record: &LogRecord) -> usize {
    size_of::<LogRecord>() + record.body.len() + attribute_bytes(&record.attributes)
}

fn span_bytes(span: &SpanRecord) -> usize {
    size_of::<SpanRecord>() + attribute_bytes(&span.attributes)
}

fn split<T>(
    records: Vec<T>,
    limit: usize,
    bytes_of: impl Fn(&T) -> usize,
    wrap: impl Fn(Vec<T>) -> Records,
) -> Vec<(usize, Records)> {
    let total: usize = records.iter().map(&bytes_of).sum();
    if records.is_empty() {
        return Vec::new();
    }
    if total <= limit {
        return vec![(total, wrap(records))];
    }
    let mut parts = Vec::with_capacity(total / limit.max(1) + 1);
    let (mut part, mut part_bytes) = (Vec::new(), 0);
    for record in records {
        let bytes = bytes_of(&record);
        if !part.is_empty() && part_bytes + bytes > limit {
            parts.push((part_bytes, wrap(std::mem::take(&mut part))));
            part_bytes = 0;
        }
        part_bytes += bytes;
        part.push(record);
    }
    parts.push((part_bytes, wrap(part)));
    parts
}

#[cfg(test)]
mod tests {
    use agent_api_model::{Guid, LogStream, Timestamp};

    use super::*;

    #[test]
    fn splits_by_size_in_order_and_loses_nothing() {
        let guid = Guid::generate();
        let records: Vec<_> = (0..100_u8)
            .map(|number| LogRecord {
                guid,
                at: Timestamp::EPOCH,
                stream: LogStream::Stdout,
                body: vec![number; 1_000].into(),
                attributes: Vec::new(),
            })
            .collect();
        let parts = Records::Logs(records.clone()).split(10_000);
        assert!(parts.len() > 10 && parts.iter().all(|(bytes, _)| *bytes <= 10_000));
        let joined: Vec<_> = parts
            .into_iter()
            .flat_map(|(_, part)| match part {
                Records::Logs(records) => records,
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(joined, records);
        assert!(Records::Logs(Vec::new()).split(10).is_empty());
    }
}
