//! The manager: lifecycle, object table, journal, driver calls, recovery, dependencies.
//!
//! [`Manager`] implements [`ManagerApi`](agent_api_manager::ManagerApi) and hands out the
//! [`Partition`](agent_api_manager::Partition)s. It has no task, no thread of its own besides the journal's, no timer and
//! no queue: the agent core owns those and calls it. All decisions are plain code without I/O.
//!
//! How it hangs together, from the outside in:
//!
//! - `admit`, `admit_change`, `removal` let commands in; `settle`, `observe`, `health` take what became of them and what
//!   the drivers see; `begin` begins what comes next for an object, one operation at a time; `recovery` and `replay`
//!   bring it all back after a restart. Each decision is a `Turn` under the object's own lock, which readers hold only
//!   for as long as it takes to build a view.
//! - `drift` repairs what somebody else changed; `wanted` keeps the specs that driver calls make.
//! - `lifecycle` is the pure transition function, and a snapshot test shows its table.
//! - `run` makes the driver call; `breaker` spares a driver that keeps failing; `store` is all that knows the journal.
//!
//! # What is promised, and how far
//!
//! - **Accepted is on disk.** Request id, key, intent and operation id are one record; the driver is called after it is
//!   durable. Where it cannot be written the reply is an error and the change is taken back: a create is removed again,
//!   a spec is as before. Deletes, pauses, resumes and signals may use the journal's reserve, so that a full disk lets
//!   objects be stopped.
//! - **One effect per request.** A retry has the same `op_id`, after a timeout, a panic and a crash with `maybe_applied`.
//!   Starts, updates and deletes are tried until they end; control verbs [a few times](ManagerConfig::control_tries). A
//!   start whose effect nobody can tell ends in `Unknown`; the next start removes what it may have left first.
//! - **Ends are on disk before they are acted on**, in one record with the restart that follows. An object of a
//!   kind that ends by itself and is gone without anybody having seen it end, or that recovery finds lost or foreign, has
//!   ended with an unknown exit, which a restart policy counts as a failure. A back-off under way is not waited out again after a restart of the agent.
//! - **Drift is repaired** where a driver tells of it and the policy says so: by an apply of the present spec, recorded
//!   first, under a back-off of its own. What never ends by itself and is gone was taken away, and is made anew.
//! - **A spec that a call returns** is a new generation, unless a later change waits: that one counts.
//! - **A failed update** leaves the wanted spec and its generation as they are asked for; the observed generation stays
//!   behind and the condition `UpdateFailed` says why. An update of an object that has ended starts it again, unless only
//!   the manager's own fields (labels, dependencies, restart, health, monitor) change.
//! - **The same idempotency key gets the same reply**, also after a restart, for the newest
//!   [`ManagerConfig::keys`] keys of the last [`ManagerConfig::key_retention`].
//! - **Dependencies** hold back the first start only. A delete with `cascade` deletes dependents on other shards by
//!   itself, once it is on disk, and waits for them in `Deleting`.
//! - **Damaged records** are set aside by the journal and named in the notes of recovery; each object stands alone.

mod admit;
mod admit_change;
mod begin;
mod breaker;
mod change;
mod config;
mod dependencies;
mod drift;
mod health;
mod history;
mod keys;
mod lifecycle;
mod line;
mod manager;
mod observe;
mod partition;
mod plan;
mod record;
mod recovery;
mod removal;
mod replay;
mod run;
mod settle;
mod shared;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod turn;
mod view;
mod wanted;

pub use agent_core_journal::JournalConfig;
pub use change::apply_change;
pub use config::ManagerConfig;
pub use manager::Manager;
