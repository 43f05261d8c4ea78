//! Collecting telemetry.

use std::time::Duration;

use agent_api_model::{Guid, Signal};

use crate::Handle;

/// One object to collect from.
#[derive(Clone, Copy, Debug)]
pub struct CollectTarget<'a> {
    /// Which object.
    pub guid: Guid,
    /// Its reference.
    pub handle: &'a Handle,
    /// Where the last collection of logs ended; none where there was no collection before.
    pub log_cursor: Option<&'a str>,
    /// Where logs begin without a cursor: at the oldest line kept, or with what is written from now on.
    pub from_start: bool,
}

/// One collection over many objects.
#[derive(Clone, Copy, Debug)]
pub struct CollectRequest<'a> {
    /// The objects, at most [`Capabilities::batch_size`](crate::Capabilities::batch_size).
    pub targets: &'a [CollectTarget<'a>],
    /// What to collect.
    pub signals: &'a [Signal],
    /// At most so many bytes of log lines in all; what remains is there the next time.
    pub max_log_bytes: usize,
    /// What is left of the collection's time.
    pub deadline: Duration,
}
