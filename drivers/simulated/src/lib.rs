//! The simulated object driver: objects that cost a map entry each, on a substrate that can be as slow, flaky or
//! wrong as a spec asks for. For demos, load, benches, and tests of what stands above a driver.
//!
//! An object of kind `simulated` needs no spec at all. With one it takes its time, fails, hangs, panics, ends or
//! crashes by itself, writes log lines, has metrics and health, loses events or answers nonsense; see
//! [`SimulatedSpec`]. Chance is decided by the seed of the [configuration](SimulatedConfig) and the objects' names,
//! so that the same specs do the same in each run.
//!
//! The driver has one task, whatever the number of objects: it sleeps until something is due. Latencies pass in the
//! caller's own call. All time is the runtime's, so that tests may pause it.
//!
//! Objects live in a [`Substrate`]: in a file of the state directory, so that they go on while the agent is away and
//! are adopted when it is back, or in memory for tests and embedders
//! ([`SimulatedFactory::with_substrate`]).

mod batch;
mod behavior;
mod config;
mod control;
mod distribution;
mod draw;
mod driver;
mod exec;
mod factory;
mod logs;
mod probe;
mod queue;
mod signals;
mod spec;
mod store;
mod substrate;
mod thing;
mod world;

pub use config::SimulatedConfig;
pub use distribution::{Distribution, Exponential, Normal, Span, Uniform};
pub use factory::{SimulatedFactory, factory};
pub use spec::{
    Crash, EventFaults, Failure, FailureSpec, Garbage, LogSpec, Odds, Operation, Rate, SimulatedSpec,
};
pub use substrate::Substrate;
pub use thing::SimulatedDetails;
