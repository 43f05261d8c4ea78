//! The report worker: a bounded batcher in front of the rpc client.
//!
//! [`ReportWorker`] owns **one task**, whatever the number of topics, leases and objects. Within it three loops run side
//! by side, so that a slow one holds none of the others up:
//!
//! - *events*: lifecycle events, heartbeats and loss reports, with room of their own ahead of all telemetry;
//! - *telemetry*: metrics and spans (the oldest are dropped where there is no room), and log lines (refused where there
//!   is no room, so that they stay at their source), encoded as OTLP here;
//! - *registry*: registering and withdrawing the methods of objects.
//!
//! Taking something in is a short lock and never waits. All room is counted in bytes, also of what is being written. A
//! publish that fails is tried again with back-off; what is given up or dropped is counted by lease, signal and reason
//! and told on the topic it is missing from, as a CloudEvent of type [`LOSS_EVENT`].

mod config;
mod deliver;
mod entry;
mod instruments;
mod lane;
mod loops;
mod loss;
pub mod otlp;
mod registry;
mod state;
mod worker;

pub use agent_reporter_rpc_client::{Message, Registration, RpcClient};
pub use config::{SignalTopics, WorkerConfig};
pub use loss::{LOSS_EVENT, LossReport};
pub use worker::{ReportWorker, WorkerStats};
