//! The daemon process: configuration, logging, metrics, signals, and the assembly of an agent.
//!
//! The binary names the drivers and buses that were compiled in; this crate reads the configuration, takes the parts it
//! names, starts them in order, and ends them in order.

pub mod config;
pub mod document;
pub mod exit;
pub mod keys;
pub mod logging;
pub mod metrics;
pub mod paths;
