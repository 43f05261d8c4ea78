//! What the collect worker is told.

use std::time::Duration;

/// What the collect worker is told.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// At most so many leases at a time; 16,384 by default (each object's own `monitor` part is one).
    pub max_leases: usize,
    /// At most so many `collect` calls in flight on one driver; 4 by default.
    pub max_in_flight: usize,
    /// At most so many objects in one `collect`, also where the driver would take more; 1,000 by default.
    pub batch_objects: usize,
    /// At most so many bytes of log lines in one `collect`; 1 MiB by default.
    pub log_bytes: usize,
    /// The deadline of a `collect` is the lease's interval, but at least this; 1 s by default.
    pub timeout_min: Duration,
    /// And at most this; 10 s by default.
    pub timeout_max: Duration,
    /// How long the last lines of an object that was removed are offered again where the sink refuses them; 10 s by
    /// default.
    pub last_lines: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            max_leases: 16_384,
            max_in_flight: 4,
            batch_objects: 1_000,
            log_bytes: 1 << 20,
            timeout_min: Duration::from_secs(1),
            timeout_max: Duration::from_secs(10),
            last_lines: Duration::from_secs(10),
        }
    }
}
