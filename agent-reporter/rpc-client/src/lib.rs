//! The rpc client: guid, register, withdraw, publish, call.
//!
//! [`RpcClient`] is what the reporter and its worker see of Bus Out. [`BusRpcClient`] does it over any [`BusOut`]:
//! identities are made here without a round trip, the methods of objects stand in a table of this process, and where
//! the bus has a registry they are told to it too, by the calls `<root>.ctl.register` and `<root>.ctl.deregister`. A bus
//! that has none answers `Unsupported` once and is not asked again.
//!
//! It has no tasks; every call to the bus has a deadline.

mod bus;
mod client;

pub use agent_api_bus_out::{BusOut, Message};
pub use bus::{BusRpcClient, RpcConfig};
pub use client::{Registration, RpcClient};
