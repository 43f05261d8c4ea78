//! The manager contract: admit, run, settle, view.
//!
//! The manager knows what is wanted of each object and what is so; it decides what to do next, and does none of
//! it by itself. The agent core owns the loops, the timers and the operations in flight:
//!
//! - A [`Partition`] is the single writer of a part of the objects. It is owned by one shard of the core, is never
//!   shared, does no I/O and never waits: every method decides, writes its records to the journal's queue and returns
//!   [`FollowUp`]s for the core to perform.
//! - [`ManagerApi::run`] makes one driver call: the only I/O.
//! - [`ManagerApi::view`] and its sisters read without waiting for anybody.
//!
//! So the whole lifecycle can be tested as a loop, without a runtime.

mod command;
mod follow_up;
mod manager;
mod operation;

pub use command::{Admission, Command, CommandBody, Commit};
pub use follow_up::{FollowUp, Wake, WakeReason};
pub use manager::{ManagerApi, ManagerStats, Now, Partition, RecoveryReport};
pub use operation::{Action, Effect, Lane, Operation, Outcome, Performed};
