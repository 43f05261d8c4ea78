//! The parts this program is composed of: the drivers and buses of the bundle.

use std::sync::Arc;

use agent_bin_daemon::{Bus, BusFactory};

/// The buses, as the daemon opens them.
pub(crate) fn buses() -> Vec<BusFactory> {
    agent_drivers::buses()
        .into_iter()
        .map(|factory| BusFactory {
            name: factory.name,
            on_by_default: factory.on_by_default,
            missing_feature: factory.missing_feature,
            config_schema: (factory.config_schema)(),
            check: factory.check,
            build: Arc::new(move |build| {
                let bus = (factory.build)(&agent_drivers::BusBuild {
                    state_dir: build.state_dir.clone(),
                    config: build.config.clone(),
                })?;
                Ok(Bus {
                    bus_in: bus.bus_in,
                    bus_out: Some(bus.bus_out),
                })
            }),
        })
        .collect()
}
