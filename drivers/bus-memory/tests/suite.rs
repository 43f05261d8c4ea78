//! The bus suite over the memory bus.

use std::sync::Arc;

use agent_bus_memory::MemoryBus;
use agent_bus_memory::suite::Ends;

agent_bus_memory::bus_suite!(async || {
    let bus = Arc::new(MemoryBus::default());
    Ends {
        bus_in: bus.clone(),
        bus_out: bus.clone(),
        caller: bus.clone(),
        reader: bus,
        keep: Box::new(()),
    }
});
