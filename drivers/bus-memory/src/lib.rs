//! Bus driver inside one process: requests are answered on the caller's own task, topics are kept in a bounded ring.
//!
//! It is the reference for what a bus does: the `suite` (feature `suite`) is run against it and against every other
//! bus. [`TopicRing`] is the store of topics behind it, and behind `bus-http`: one ring per bus, bounded by bytes and
//! by messages, a cursor per reader, and no task.
//!
//! ```
//! use agent_api_bus_out::{BusOut, BusReader, StartAt};
//! use agent_bus_memory::MemoryBus;
//!
//! # async fn example() -> agent_api_model::Result<()> {
//! let bus = MemoryBus::default();
//! let reports = bus.subscribe("agent.out.>", StartAt::Now).await?;
//! # drop(reports);
//! # Ok(())
//! # }
//! ```

mod bus;
mod pattern;
mod reader;
mod ring;
#[cfg(feature = "suite")]
pub mod suite;

pub use bus::{MemoryBus, MemoryCaller, MemoryConfig};
pub use pattern::check_pattern;
pub use reader::TopicReader;
pub use ring::{RingConfig, RingState, TopicRing};
