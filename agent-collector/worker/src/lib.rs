//! The collect worker: one wheel, batches by driver.
//!
//! [`CollectWorker`] owns **one task**, whatever the number of objects and leases, and beside it only the driver calls in
//! flight (a capped number for each driver). Without a lease nothing wakes it.
//!
//! - Leases of one interval and one set of signals are a *class*: one entry of the wheel. When it falls due, one
//!   [`collect`](agent_api_driver::ObjectDriver::collect) per driver and chunk covers all objects of all its leases.
//! - Each class and driver has one round at a time. A round that has not ended when the next is due means that the next
//!   is skipped, and counted. So a driver that hangs delays nothing but itself.
//! - What a collection brings goes straight to the [`ReportSink`](agent_api_reporter::ReportSink). A log cursor, one for
//!   each lease and object, moves only when the sink took the lines; where it refuses, the lines stay at their source,
//!   and less is read until there is room again.
//! - Objects and leases are told through an inbox that coalesces by identity: a short lock, and never longer than there
//!   are objects.

mod config;
mod inbox;
mod instruments;
mod job;
mod layer;
mod plan;
mod route;
mod runner;
mod wheel;
mod worker;

pub use agent_api_driver::{DriverSet, Handle};
pub use config::WorkerConfig;
pub use worker::{CollectWorker, WorkerStats};
