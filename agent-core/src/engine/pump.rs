//! From a driver's stream of events to the shards that own its objects.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use agent_api::driver::{DriverEvent, EventStream};
use futures_util::{FutureExt, StreamExt};

use super::cell::DriverCell;
use super::door::Sighting;
use crate::counters::count;
use crate::guard::{guarded_now, panic_message};
use crate::shared::Shared;

/// Takes a driver's stream of events; `None` where it panics instead of giving one.
pub(crate) fn open(cell: &Arc<DriverCell>) -> Option<EventStream> {
    guarded_now(|| cell.driver.events())
        .map_err(|failure| {
            cell.set_deaf(failure.of_driver(&cell.name, "its stream of events").to_string());
        })
        .ok()
}

/// Hands events to the shards until the agent ends. A stream that ends or panics before is not opened again, by its
/// contract: the heartbeat is the source from then on, and the driver's health says so.
pub(crate) async fn run(shared: Arc<Shared>, cell: Arc<DriverCell>, mut stream: EventStream) {
    loop {
        let next = tokio::select! {
            biased;
            () = shared.stages.tasks.cancelled() => return,
            next = AssertUnwindSafe(stream.next()).catch_unwind() => next,
        };
        let event = match next {
            Ok(Some(event)) => event,
            Ok(None) => {
                cell.set_deaf("its stream of events ended; the heartbeat finds what changes".into());
                break;
            }
            Err(panic) => {
                let message = panic_message(&*panic);
                cell.set_deaf(format!(
                    "its stream of events panicked ({message}); the heartbeat finds what changes"
                ));
                break;
            }
        };
        tokio::select! {
            biased;
            () = shared.stages.tasks.cancelled() => return,
            () = hand_over(&shared, &cell, event) => {}
        }
    }
    // What was lost between the last event and now.
    tokio::select! {
        biased;
        () = shared.stages.tasks.cancelled() => {}
        () = recheck_all(&shared, &cell) => {}
    }
}

async fn hand_over(shared: &Shared, cell: &DriverCell, event: DriverEvent) {
    match event {
        DriverEvent::Status(observed) => {
            count(&shared.counters.driver_events);
            let door = shared.door_of(observed.guid);
            // Waits where the shard is behind: then the driver's own bounded queue fills and it reports a gap. An
            // error means that the shard has ended, and the agent with it.
            let _ = door.sightings.send(Sighting::Seen(observed)).await;
        }
        DriverEvent::Gap(Some(guid)) => {
            count(&shared.counters.driver_gaps);
            let _ = shared.door_of(guid).sightings.send(Sighting::Recheck(guid)).await;
        }
        DriverEvent::Gap(None) => {
            count(&shared.counters.driver_gaps);
            recheck_all(shared, cell).await;
        }
        DriverEvent::Health(state) => {
            if cell.set_state(state) {
                recheck_all(shared, cell).await;
            }
        }
    }
}

/// Has every shard ask the driver for all its objects.
pub(crate) async fn recheck_all(shared: &Shared, cell: &DriverCell) {
    for door in shared.doors.iter() {
        let _ = door.sightings.send(Sighting::RecheckAll(cell.name.clone())).await;
    }
}
