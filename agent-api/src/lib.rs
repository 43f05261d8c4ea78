//! The contracts of the agent in one place: re-exports, no logic.
//!
//! A driver author needs [`driver`] alone and can depend on `agent-api-driver`; an embedding program takes
//! `agent-core`, which re-exports this facade.

pub use agent_api_agent as agent;
pub use agent_api_bus_in as bus_in;
pub use agent_api_bus_out as bus_out;
pub use agent_api_collector as collector;
pub use agent_api_driver as driver;
pub use agent_api_manager as manager;
pub use agent_api_model as model;
pub use agent_api_reporter as reporter;
