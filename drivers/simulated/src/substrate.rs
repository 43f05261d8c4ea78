//! The simulated substrate: where the objects live.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use agent_api_driver::model::{DriverState, ExitStatus, Guid, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::behavior::Behavior;
use crate::store::Store;
use crate::thing::State;
use crate::world::World;

/// Behaviours kept for sharing before those that nothing uses any more are let go.
const MAX_BEHAVIORS: usize = 4_096;
/// The most that ends in one go under the lock.
const SLICE: usize = 2_048;

/// The simulated substrate. Cheap to clone; all clones are the same substrate.
///
/// One made with [`open`](Self::open) keeps its objects in a file, so that they outlive the agent. One made with
/// [`in_memory`](Self::in_memory) lives as long as this value: several drivers, one after the other or at once, find
/// the same objects in it. Its clock goes with the runtime's, paused or not.
#[derive(Clone, Debug)]
pub struct Substrate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Mutex<World>,
    behaviors: Mutex<HashMap<String, Arc<Behavior>>>,
    commands: Mutex<Commands>,
    rearmed: Notify,
    began: (Instant, i64),
}

#[derive(Debug, Default)]
struct Commands {
    next: u64,
    running: HashMap<u64, Vec<String>>,
}

impl Substrate {
    fn new(world: World) -> Self {
        Self(Arc::new(Inner {
            world: Mutex::new(world),
            behaviors: Mutex::default(),
            commands: Mutex::default(),
            rearmed: Notify::new(),
            began: (Instant::now(), Timestamp::now().as_micros()),
        }))
    }

    /// An empty substrate that lives as long as this value.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(World::default())
    }

    /// The substrate kept in this directory; made when needed. Blocks while it reads the file.
    ///
    /// Where the directory cannot be used the substrate is in memory only, and drivers on it are
    /// [`Degraded`](DriverState::Degraded) with the reason.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        Self::new(match Store::open(dir) {
            Ok((store, loaded)) => {
                if loaded.damaged > 0 {
                    tracing::warn!(dir = %dir.display(), damaged = loaded.damaged, "simulated records were not read");
                }
                World::restored(store, loaded)
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "simulated objects are in memory only");
                World::unsaved(format!(
                    "the state directory cannot be used ({error}): objects end with the agent"
                ))
            }
        })
    }

    /// How many objects exist, whoever made them, also those that have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.world.lock().len()
    }

    /// Whether no object exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this object exists and has not ended.
    #[must_use]
    pub fn runs(&self, guid: Guid) -> bool {
        self.with(|world, now| {
            world
                .get(guid, now)
                .is_some_and(|thing| thing.state != State::Exited)
        })
    }

    /// Ends an object past its driver, as a crash of it would. Whether there was one that ran.
    pub fn end(&self, guid: Guid, exit: ExitStatus) -> bool {
        self.with(|world, now| {
            let runs = world
                .get(guid, now)
                .is_some_and(|thing| thing.state != State::Exited);
            world.end(guid, exit, now);
            runs
        })
    }

    /// Takes an object away past its driver, without a trace. Whether there was one.
    pub fn vanish(&self, guid: Guid) -> bool {
        self.with(|world, now| {
            let there = world.get(guid, now).is_some();
            world.remove(guid);
            there
        })
    }

    /// The commands that run in objects at this moment.
    #[must_use]
    pub fn commands(&self) -> Vec<Vec<String>> {
        self.0.commands.lock().running.values().cloned().collect()
    }

    /// Notes a command as running until the guard is dropped.
    pub(crate) fn command(&self, command: Vec<String>) -> CommandGuard {
        let mut commands = self.0.commands.lock();
        let id = commands.next;
        commands.next += 1;
        commands.running.insert(id, command);
        CommandGuard {
            substrate: self.clone(),
            id,
        }
    }

    pub(crate) fn health(&self) -> DriverState {
        self.0.world.lock().health()
    }

    /// Microseconds since the Unix epoch when the substrate began, and then as the runtime's clock goes.
    pub(crate) fn now(&self) -> i64 {
        let (began, at) = self.0.began;
        at.saturating_add(i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Works on the world, and brings what changed to the file.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World, i64) -> T) -> T {
        let mut world = self.0.world.lock();
        // Under the lock, so that time does not go back from one change to the next.
        let now = self.now();
        let value = work(&mut world, now);
        world.flush();
        let rearmed = world.take_rearmed();
        drop(world);
        if rearmed {
            self.0.rearmed.notify_one();
        }
        value
    }

    /// The one of this text that is shared, or this one from now on.
    pub(crate) fn shared(&self, behavior: Behavior) -> Arc<Behavior> {
        let mut behaviors = self.0.behaviors.lock();
        if let Some(known) = behaviors.get(&behavior.text) {
            return known.clone();
        }
        if behaviors.len() >= MAX_BEHAVIORS {
            behaviors.retain(|_, known| Arc::strong_count(known) > 1);
        }
        if behaviors.len() >= MAX_BEHAVIORS {
            // All different and all used: sharing is of no use.
            return Arc::new(behavior);
        }
        let behavior = Arc::new(behavior);
        behaviors.insert(behavior.text.clone(), behavior.clone());
        behavior
    }

    /// Ends what is due when it is due, until stopped: the one task of a driver, whatever the number of objects.
    pub(crate) async fn pump(self, stop: CancellationToken) {
        loop {
            let (more, next, now) =
                self.with(|world, now| (world.advance(now, SLICE), world.next_due(), now));
            if more {
                tokio::task::yield_now().await;
                if !stop.is_cancelled() {
                    continue;
                }
            }
            let wait =
                next.map(|at| Duration::from_micros(u64::try_from(at.saturating_sub(now)).unwrap_or(0)));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.0.rearmed.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
        // Another driver on the same substrate may wait for what this one was woken for.
        self.0.rearmed.notify_one();
    }
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct CommandGuard {
    substrate: Substrate,
    id: u64,
}

impl Drop for CommandGuard {
    fn drop(&mut self) {
        self.substrate.0.commands.lock().running.remove(&self.id);
    }
}
