//! The agent with its own manager, collector and reporter, over simulated objects and a bus in memory.

mod life;
mod reports;
mod restart;
mod world;
