//! The bus on real servers of the lab (`dev/lab/nats`): the suite of all buses, and what only a network can do.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod faults;
mod lab;
mod publishing;
mod queue;
mod requests;
mod secure;

use std::sync::Arc;

use agent_bus_memory::suite::Ends;

use crate::lab::{Lab, bus, caller};

/// With a reader of the agent's own, which ends with the bus.
async fn ends() -> Ends {
    let lab = Lab::up().await;
    let bus = Arc::new(bus(&lab));
    let caller = Arc::new(caller(&lab).await);
    Ends {
        bus_in: bus.clone(),
        bus_out: bus.clone(),
        caller,
        reader: bus,
        keep: Box::new(lab),
    }
}

agent_bus_memory::bus_suite!(async || ends().await);

/// The cases of readers with one that is not the agent: another connection.
mod outside {
    use super::*;

    async fn ends() -> Ends {
        let lab = Lab::up().await;
        let bus = Arc::new(bus(&lab));
        let caller = Arc::new(caller(&lab).await);
        Ends {
            bus_in: bus.clone(),
            bus_out: bus,
            caller: caller.clone(),
            reader: caller,
            keep: Box::new(lab),
        }
    }

    agent_bus_memory::bus_suite! { @cases async || ends().await;
        topics_arrive_in_order,
        a_reader_goes_on_where_it_was,
        a_slow_reader_misses_and_knows_how_many,
        what_is_no_pattern_is_refused,
    }
}
