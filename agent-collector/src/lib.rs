//! The collector: plans what is collected when.
//!
//! [`Collector`] implements the collector contract over a [collect worker](agent_collector_worker), which has the plan and
//! the wheel. The core tells it objects and leases and is not on the path of telemetry: the worker calls drivers and
//! hands what they bring straight to the report sink.

mod collector;

pub use agent_collector_worker::{DriverSet, Handle, WorkerConfig as CollectorConfig};
pub use collector::Collector;
