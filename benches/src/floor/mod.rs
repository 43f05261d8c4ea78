//! Floors: bare programs that do only what cannot be avoided, measured in the same run as the agent.

mod commit;
mod echo;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod spawn;

pub use commit::commits;
pub use echo::{Echo, echoes};
#[cfg(feature = "kubernetes")]
pub use kubernetes::{Bare, Seen, config_map};
pub use spawn::Kids;
