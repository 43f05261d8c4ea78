//! The manager: lifecycle, object table, journal, driver calls, recovery, dependencies.

mod admit;
mod admit_change;
mod begin;
mod breaker;
mod change;
mod config;
mod dependencies;
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

pub use agent_core_journal::JournalConfig;
pub use change::apply_change;
pub use config::ManagerConfig;
pub use manager::Manager;
