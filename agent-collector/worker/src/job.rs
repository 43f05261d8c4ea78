//! One driver call.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{CollectRequest, CollectTarget, ObjectDriver};
use agent_api_model::{DriverName, Error, ErrorKind, Guid, Result, Signal, TelemetryBatch};
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::layer::Layer;
use crate::plan::ClassKey;

/// Why a collection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The interval is over.
    Tick,
    /// A lease or an object is new.
    Fresh,
    /// There were more lines than one call brings, or the sink had no room.
    Again,
    /// An object was taken out.
    LastLines,
}

/// One driver call for a chunk of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) class: ClassKey,
    pub(crate) driver: DriverName,
    pub(crate) purpose: Purpose,
    pub(crate) layer: Arc<Layer>,
    pub(crate) chunk: Range<usize>,
    pub(crate) signals: Arc<[Signal]>,
    /// Where in the chunk to begin, so that nobody is always last.
    pub(crate) first: usize,
    pub(crate) log_bytes: usize,
    pub(crate) deadline: Duration,
    /// May wait until then for room in the sink.
    pub(crate) patience: Instant,
}

/// What a call brought.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) batch: TelemetryBatch,
    pub(crate) cursors: Vec<(Guid, String)>,
}

impl Job {
    pub(crate) fn has_logs(&self) -> bool {
        self.signals.contains(&Signal::Logs)
    }

    /// Makes the call, by its deadline. A driver that panics has failed.
    pub(crate) async fn run(
        &self,
        driver: Arc<dyn ObjectDriver>,
        cursors: Vec<Option<Arc<str>>>,
    ) -> Result<Collected> {
        let members = &self.layer.members[self.chunk.clone()];
        let mut targets: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(place, member)| CollectTarget {
                guid: member.guid,
                handle: &member.handle,
                log_cursor: cursors.get(place).and_then(|cursor| cursor.as_deref()),
                from_start: member.from_start,
            })
            .collect();
        targets.rotate_left(self.first % members.len().max(1));
        let request = CollectRequest {
            targets: &targets,
            signals: &self.signals,
            max_log_bytes: self.log_bytes,
            deadline: self.deadline,
        };
        let mut collected = Collected::default();
        let call = driver.collect(request, &mut collected.batch, &mut collected.cursors);
        let outcome = tokio::time::timeout(self.deadline, AssertUnwindSafe(call).catch_unwind()).await;
        match outcome {
            Ok(Ok(Ok(()))) => Ok(collected),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(Error::internal("the driver panicked in collect")),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("the driver did not answer collect within {:?}", self.deadline),
            )),
        }
    }
}
