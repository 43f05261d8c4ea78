//! The agent core: builder, registry, shards, in-flight operations, ordered stop.
//!
//! An embedding program composes an [`Agent`] and talks to it through [`AgentApi`](api::agent::AgentApi):
//!
//! ```
//! # #[cfg(not(all(feature = "manager", feature = "collector", feature = "reporter")))]
//! # fn main() {}
//! # #[cfg(all(feature = "manager", feature = "collector", feature = "reporter"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use agent_core::api::agent::{AgentApi, Change};
//! use agent_core::api::model::{ObjectSpec, RequestMeta};
//! use agent_core::{Agent, StopMode};
//! # let state = tempfile::tempdir()?;
//! # let state_dir = state.path();
//!
//! let agent = Agent::builder()
//!     .state_dir(state_dir)
//!     .driver(agent_driver_simulated::factory(), serde_json::Value::Null)
//!     .build()
//!     .await?;
//!
//! let object: ObjectSpec = serde_json::from_str(r#"{"kind": "simulated", "name": "web"}"#)?;
//! let (accepted, _) = agent
//!     .submit(RequestMeta::local("example"), Change::Create(Box::new(object)))
//!     .await?;
//! assert_eq!(accepted.name.as_str(), "web");
//!
//! let report = agent.stop(StopMode::StopObjects, std::time::Duration::from_secs(5)).await;
//! assert!(report.is_clean(), "{report:?}");
//! # Ok(())
//! # }
//! ```
//!
//! The core owns the loops and the time; it decides nothing about objects. The manager decides
//! ([`ManagerApi`](api::manager::ManagerApi)), the drivers do, the collector and the reporter tell. Manager, collector and
//! reporter are default features; an embedding program may bring its own implementations of their contracts instead.
//! Libraries never own the runtime: the agent lives on the one that built it. The tasks and queues there are stand at the
//! top of `engine/mod.rs`; their number does not grow with the objects.

mod agent;
mod api_impl;
mod builder;
mod counters;
pub(crate) mod engine;
mod exec;
mod guard;
mod health;
mod lock;
mod quiet;
mod registry;
mod sessions;
mod setup;
mod shared;
mod stop;
mod stream;
mod submit;
mod validate;
mod watch;

/// The contracts, so that an embedding program needs no dependency of its own for them.
pub use agent_api as api;

pub use agent::Agent;
pub use builder::AgentBuilder;
pub use setup::Setup;
pub use stop::{StopMode, StopReport};
