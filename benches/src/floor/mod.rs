//! Floors: bare programs that do only what cannot be avoided, measured in the same run as the agent.

mod commit;
mod echo;
mod spawn;

pub use commit::commits;
pub use echo::{Echo, echoes};
pub use spawn::Kids;
