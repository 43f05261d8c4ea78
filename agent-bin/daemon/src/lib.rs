//! The daemon process: configuration, logging, metrics, signals, and the assembly of an agent.
//!
//! The binary names the drivers and buses that were compiled in; this crate reads the configuration, takes the parts it
//! names, starts them in order ([`start`]), and ends them in order ([`Daemon::run`]).

mod assemble;
mod bus;
pub mod config;
mod daemon;
pub mod document;
pub mod exit;
pub mod keys;
pub mod logging;
pub mod metrics;
pub mod paths;
mod reload;
mod systemd;

pub use assemble::{Setup, StartError, known, start, state_dir};
pub use bus::{BuildBus, Bus, BusBuild, BusFactory};
pub use daemon::Daemon;
