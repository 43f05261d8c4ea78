//! Typed client of the wire API, over any bus.
//!
//! [`Client`] has a method for each verb. What is safe to repeat is repeated with the same request id where the bus or
//! the agent says that it may work later, within the deadline, so that a create is one create however often it was
//! sent.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use agent_api_bus_in::BusCaller;
//! use agent_api_client::{Client, Until};
//! use agent_api_model::{ObjectSpec, Result, Target};
//!
//! async fn start(bus: Arc<dyn BusCaller>, spec: ObjectSpec) -> Result<()> {
//!     let client = Client::new(bus, None);
//!     let accepted = client.create(&spec).await?;
//!     let view = client
//!         .wait_for(&Target::Guid(accepted.guid), Until::Running, client.config().deadline)
//!         .await?;
//!     println!("{} is {}", accepted.name, view.map_or("gone", |view| view.phase.as_str()));
//!     Ok(())
//! }
//! ```

mod client;
mod events;
mod send;
mod streams;
mod wait;

pub use agent_api_bus_out::{Delivery, DeliveryStream, StartAt};
pub use client::{Applied, Client, ClientConfig, ResultStream};
pub use events::ObjectEvent;
pub use wait::Until;
