//! The API server: decodes, validates and authorises requests from any bus, asks the agent, and replies.
//!
//! [`Server`] is the [`RequestHandler`](agent_api_bus_in::RequestHandler) of every bus. A request goes through it on
//! the task that received it: verb, names, limits and deadline are checked, the body is read strictly (an unknown field
//! is an error that names it and what may have been meant), the caller's access is compared with what the verb needs,
//! then the agent is asked. Reads wait for nobody. Each change leaves a line in the audit log (tracing target `audit`)
//! with caller, verb, object and result, never with a body.
//!
//! The server has no task and no queue of its own; what it bounds is in [`ServerConfig`].

mod audit;
mod batch;
mod body;
mod change;
mod config;
mod decode;
mod limit;
mod reply;
mod rights;
mod server;
mod stream;

pub use config::{MetricsText, ServerConfig, ServerState};
pub use decode::{Limits, decode};
pub use rights::access_needed;
pub use server::Server;
