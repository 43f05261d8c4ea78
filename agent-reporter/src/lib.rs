//! The reporter: topics, leases, routes.
//!
//! [`Reporter`] implements the reporter contract over a [report worker](agent_reporter_worker): it grants monitor leases,
//! writes lifecycle events and heartbeats as CloudEvents, and hands out the sink that collect workers offer telemetry
//! to. It has one task, the worker's; leases need none, they end by the runtime's clock when they are next looked at.
//!
//! Names and labels in telemetry come from the views that the collector puts into each batch, so the reporter keeps
//! nothing for an idle object but its methods in the rpc client's table.

mod config;
mod events;
mod leases;
mod reporter;

pub use agent_reporter_rpc_client::{BusOut, BusRpcClient, Message, Registration, RpcClient, RpcConfig};
pub use agent_reporter_worker::{LOSS_EVENT, LossReport, SignalTopics, WorkerConfig, otlp};
pub use config::ReporterConfig;
pub use events::{HEARTBEAT_EVENT, LIFECYCLE_EVENT_PREFIX};
pub use reporter::Reporter;
