//! The engine over a fake manager and fake drivers: lanes, caps, isolation, refusals, stop.

mod fake_driver;
mod fake_parts;
mod world;

mod drivers;
mod isolation;
mod lanes;
mod requests;
mod stopping;
mod watching;
