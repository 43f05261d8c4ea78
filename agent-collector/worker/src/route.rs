//! From a collection to the sink: to each lease what is of its objects.

use std::collections::HashMap;
use std::sync::Arc;

use agent_api_model::{Guid, LeaseId, LogRecord, TelemetryBatch};
use agent_api_reporter::ReportSink;

use crate::job::{Collected, Job};
use crate::plan::Held;

/// What became of the log lines of a collection.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    /// Bytes of lines that were there.
    pub(crate) log_bytes: usize,
    /// Whether the sink refused some.
    pub(crate) refused: bool,
    /// The cursors that moved and had lines, by lease.
    pub(crate) had_lines: Vec<(LeaseId, Guid)>,
}

/// Offers what a collection brought, and moves the cursors of lines that were taken.
pub(crate) fn route(
    job: &Job,
    collected: Collected,
    leases: &mut HashMap<LeaseId, Held>,
    sink: &dyn ReportSink,
) -> Routed {
    let Collected { batch, cursors } = collected;
    let mut routed = Routed {
        log_bytes: batch.logs.iter().map(|record| record.body.len() + 1).sum(),
        ..Routed::default()
    };
    for (lease, mut part) in by_lease(job, batch) {
        let Some(held) = leases.get_mut(&lease) else {
            continue;
        };
        let logs = std::mem::take(&mut part.logs);
        let objects = std::mem::take(&mut part.objects);
        if !part.is_empty() {
            part.objects.clone_from(&objects);
            sink.offer(&held.lease, part);
        }
        if !job.has_logs() {
            continue;
        }
        let lines = |guid: Guid, logs: &[LogRecord]| logs.iter().any(|record| record.guid == guid);
        // Cursors of objects without lines move in any case: there is nothing to lose.
        let moved: Vec<_> = cursors
            .iter()
            .filter(|(guid, _)| of_lease(job, lease, *guid))
            .map(|(guid, cursor)| (*guid, cursor, lines(*guid, &logs)))
            .collect();
        let taken = logs.is_empty()
            || sink.offer(
                &held.lease,
                TelemetryBatch {
                    logs,
                    objects,
                    ..TelemetryBatch::default()
                },
            );
        routed.refused |= !taken;
        for (guid, cursor, had_lines) in moved {
            if had_lines {
                routed.had_lines.push((lease, guid));
            }
            if (taken || !had_lines) && held.cursors.get(&guid).is_none_or(|known| **known != **cursor) {
                held.cursors.insert(guid, cursor.as_str().into());
            }
        }
    }
    routed
}

fn of_lease(job: &Job, lease: LeaseId, guid: Guid) -> bool {
    match job.layer.sole {
        Some(_) => true,
        None => job
            .layer
            .member(guid)
            .is_some_and(|member| job.layer.leases(member).contains(&lease)),
    }
}

/// Splits a batch by lease, and adds the views of the objects.
fn by_lease(job: &Job, mut batch: TelemetryBatch) -> Vec<(LeaseId, TelemetryBatch)> {
    let members = &job.layer.members[job.chunk.clone()];
    if let Some(lease) = job.layer.sole {
        batch.objects = members.iter().map(|member| member.view.clone()).collect();
        return vec![(lease, batch)];
    }
    let mut parts: HashMap<LeaseId, TelemetryBatch> = HashMap::new();
    for member in members {
        for lease in job.layer.leases(member) {
            let part = parts.entry(*lease).or_default();
            part.objects.push(Arc::clone(&member.view));
        }
    }
    // Each record goes to all leases of its object: moved to the last, copied to those before.
    macro_rules! hand_out {
        ($field:ident) => {
            for record in batch.$field {
                let Some(member) = job.layer.member(record.guid) else {
                    continue;
                };
                if let Some((last, others)) = job.layer.leases(member).split_last() {
                    for lease in others {
                        parts.entry(*lease).or_default().$field.push(record.clone());
                    }
                    parts.entry(*last).or_default().$field.push(record);
                }
            }
        };
    }
    hand_out!(metrics);
    hand_out!(logs);
    hand_out!(spans);
    for loss in batch.losses {
        let member = loss.guid.map(|guid| job.layer.member(guid));
        match member {
            Some(Some(member)) => {
                for lease in job.layer.leases(member) {
                    parts.entry(*lease).or_default().losses.push(loss.clone());
                }
            }
            Some(None) => {}
            None => parts.values_mut().for_each(|part| part.losses.push(loss.clone())),
        }
    }
    parts.into_iter().collect()
}
