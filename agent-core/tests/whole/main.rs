//! The agent with its own manager, collector and reporter, over simulated objects and a bus in memory.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees only `#[test]` functions as tests, not what they use"
)]

mod life;
mod reports;
mod restart;
mod world;
