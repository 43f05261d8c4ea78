//! The object driver contract: all that a third-party driver needs.
//!
//! A driver is code that manages objects of some kinds on one substrate. It implements [`ObjectDriver`] and
//! exports a [`DriverFactory`]; whoever composes the agent registers the factory. The conformance suite
//! `agent-driver-testkit` tests each line of the *Behavior* lists in these docs, chosen by
//! [`Capabilities`]; a third party runs the same suite.
//!
//! Rules for all methods:
//!
//! - Every call has a deadline: a [`Duration`](std::time::Duration) of what is left from the moment of the call.
//!   The caller stops waiting then; a driver that can do better returns before.
//! - Every call may be cancelled by drop at any await, and then has happened or has not; calling again with the same
//!   `op_id` brings it to its end.
//! - A driver never blocks a runtime thread, never reads a spec field as shell text, and makes no task, thread or
//!   helper process per object unless the substrate forces it; then [`Capabilities::task_per_object`] says so.
//! - A panic is caught by the caller and counts as [`ErrorKind::Internal`] of that call.
//!
//! The words (object, handle, evidence …) are those of [`agent_api_model`], re-exported as [`model`].

mod apply;
mod capabilities;
mod collect;
mod driver;
mod events;
mod extensions;
mod factory;
mod handle;
mod set;

pub use agent_api_model as model;
pub use agent_api_model::{Error, ErrorKind, Result, Retry};
pub use apply::{
    Applied, ApplyRequest, DeleteRequest, Deleted, PlanRequest, Recovered, RecoveredState, ShutdownMode,
};
pub use capabilities::{
    Capabilities, DriverInfo, FieldChangeMode, KindSchema, LimitCapability, Method, StatusSource,
};
pub use collect::{CollectRequest, CollectTarget};
pub use driver::ObjectDriver;
pub use events::{DriverEvent, EventStream, ObjectState, ObjectStatus, Observed};
pub use extensions::{
    Control, ControlRequest, Exec, ExecInput, ExecOutput, ExecRequest, ExecStream, InputStream, LogChunk,
    LogReadRequest, LogStreamOut, Logs, Probe, ProbeOutcome, ProbeRequest,
};
pub use factory::{Build, DriverFactory};
pub use handle::{Handle, Mark, Target};
pub use set::DriverSet;

/// Re-exported so that a driver crate needs no dependency of its own for it.
pub use async_trait::async_trait;
