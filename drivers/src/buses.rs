//! The buses.

use std::path::PathBuf;
use std::sync::Arc;

use agent_api_bus_in::BusIn;
use agent_api_bus_out::BusOut;
use agent_api_driver::model::{Diagnostic, Result};
use serde_json::Value;

/// The file in the state directory that holds the token of the loopback port, where the configuration names none.
pub const TOKEN_FILE: &str = "http-token";

/// A bus that was built and is not open yet.
#[derive(Clone)]
pub struct Bus {
    /// Where requests come from.
    pub bus_in: Arc<dyn BusIn>,
    /// Where reports go.
    pub bus_out: Arc<dyn BusOut>,
}

/// What a bus is built from.
#[derive(Clone, Debug)]
pub struct BusBuild {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// Its part of the configuration, checked by [`BusFactory::check`]; null where there is none.
    pub config: Value,
}

/// Builds a bus. A value, so that a configuration can be checked without building anything.
#[derive(Clone, Copy, Debug)]
pub struct BusFactory {
    /// The bus's name and the key of its configuration.
    pub name: &'static str,
    /// Whether it is there without an entry in the configuration.
    pub on_by_default: bool,
    /// The feature that would compile it in, where it is not.
    pub missing_feature: Option<&'static str>,
    /// The JSON Schema of its configuration.
    pub config_schema: fn() -> Value,
    /// What is wrong with a configuration, found offline.
    pub check: fn(&Value) -> Vec<Diagnostic>,
    /// Builds it. Opens nothing.
    pub build: fn(&BusBuild) -> Result<Bus>,
}

/// All buses by name: those that were compiled in, and stubs for the others.
#[must_use]
pub fn buses() -> Vec<BusFactory> {
    vec![
        #[cfg(feature = "bus-http")]
        crate::http::factory(),
        #[cfg(not(feature = "bus-http"))]
        missing("http", "bus-http"),
        #[cfg(feature = "bus-memory")]
        memory(),
        #[cfg(not(feature = "bus-memory"))]
        missing("memory", "bus-memory"),
    ]
}

#[cfg(feature = "bus-memory")]
fn memory() -> BusFactory {
    BusFactory {
        name: "memory",
        on_by_default: false,
        missing_feature: None,
        config_schema: || serde_json::json!({"type": "object", "additionalProperties": false}),
        check: |_| Vec::new(),
        build: |_| {
            let bus = Arc::new(agent_bus_memory::MemoryBus::default());
            Ok(Bus {
                bus_in: bus.clone(),
                bus_out: bus,
            })
        },
    }
}

#[cfg(not(all(feature = "bus-http", feature = "bus-memory")))]
fn missing(name: &'static str, feature: &'static str) -> BusFactory {
    BusFactory {
        name,
        on_by_default: false,
        missing_feature: Some(feature),
        config_schema: || serde_json::json!({"type": "object"}),
        check: |_| Vec::new(),
        build: |_| {
            Err(agent_api_driver::model::Error::new(
                agent_api_driver::model::ErrorKind::Unsupported,
                "this bus is not compiled in",
            ))
        },
    }
}
