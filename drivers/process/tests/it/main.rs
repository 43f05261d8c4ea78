//! The driver with real processes, through the contract only.
#![allow(clippy::unwrap_used)]

mod adoption;
mod context;
mod control;
mod fixture;
mod lifecycle;
mod logs;
mod probes;
mod terminal;
