//! The bookkeeping behind watches, without a cluster.

mod converges;
mod statuses;
mod streams;
