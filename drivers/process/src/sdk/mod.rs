//! The seam to the operating system: everything that touches processes, cgroups and log files, without a word of the contract.

pub(crate) mod cgroup;
mod clone3;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod logfile;
pub(crate) mod logread;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod procfs;
pub(crate) mod sample;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod sweep;
pub(crate) mod sys;
pub(crate) mod terminal;
pub(crate) mod users;
pub(crate) mod watch;
