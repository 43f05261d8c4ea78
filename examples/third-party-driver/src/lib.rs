//! An object driver as a third party writes it: the kind `file` is a file with a content.
//!
//! It depends on `agent-api-driver` alone, and passes the same conformance suite as the agent's own drivers
//! (`tests/conformance.rs`). See `docs/drivers.md` for the way from here to a driver of your own.

mod driver;
mod factory;
mod spec;

pub use driver::FileDriver;
pub use factory::FileFactory;
pub use spec::FileSpec;
