//! The engine over a fake manager and fake drivers: lanes, caps, isolation, refusals, stop.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees only `#[test]` functions as tests, not what they use"
)]

mod fake_driver;
mod fake_parts;
mod world;

mod calls;
mod drivers;
mod isolation;
mod lanes;
mod requests;
mod stopping;
mod watching;
