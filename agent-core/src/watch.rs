//! Watching: the views that match, then what changes.
//!
//! A watcher has no task and no queue of views: the shards note in it which objects changed, and its reader takes the
//! newest view of each when it comes. So a reader that is slow sees fewer steps, never old ones, and costs at most
//! [`MAX_NOTES`] notes; beyond them it is told of the gap and begins anew.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use agent_api::manager::ManagerApi;
use agent_api::model::{Guid, ListRequest, ObjectName, ObjectView, Result, Selector, WatchEvent};
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};

use crate::counters::{Counters, count};

/// At most so many objects are noted for one watcher.
const MAX_NOTES: usize = 65_536;

/// All watchers of the agent.
#[derive(Default)]
pub(crate) struct Hub {
    watchers: RwLock<Vec<Arc<Watcher>>>,
    /// How many there are, read without the lock on every change.
    count: AtomicUsize,
    closed: AtomicBool,
}

struct Watcher {
    /// One object, or all that the selector chooses.
    object: Option<Guid>,
    selector: Selector,
    notes: Mutex<Notes>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Notes {
    order: VecDeque<Guid>,
    noted: HashMap<Guid, Note>,
    /// Changes that found no room.
    missed: u64,
    closed: bool,
}

enum Note {
    Changed,
    Gone(ObjectName),
}

impl Hub {
    /// An object's view has changed.
    pub(crate) fn changed(&self, view: &ObjectView) {
        self.note(view, || Note::Changed);
    }

    /// An object is gone.
    pub(crate) fn gone(&self, view: &ObjectView) {
        self.note(view, || Note::Gone(view.name.clone()));
    }

    fn note(&self, view: &ObjectView, note: impl Fn() -> Note) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        for watcher in self.watchers.read().iter() {
            let chosen = match watcher.object {
                Some(guid) => guid == view.guid,
                None => watcher.selector.matches(&view.labels, &view.kind),
            };
            if chosen {
                watcher.note(view.guid, note());
            }
        }
    }

    /// Ends all watches, now and later.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for watcher in self.watchers.read().iter() {
            watcher.notes.lock().closed = true;
            watcher.waker.wake();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Begins to watch. What changes from this moment on is not missed.
    pub(crate) fn watch(
        self: &Arc<Self>,
        object: Option<Guid>,
        selector: Selector,
        manager: Arc<dyn ManagerApi>,
        counters: Arc<Counters>,
    ) -> WatchStream {
        let watcher = Arc::new(Watcher {
            object,
            selector,
            notes: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        {
            let mut watchers = self.watchers.write();
            watchers.push(Arc::clone(&watcher));
            self.count.store(watchers.len(), Ordering::Release);
        }
        if self.closed.load(Ordering::Acquire) {
            watcher.notes.lock().closed = true;
        }
        let mut stream = WatchStream {
            hub: Arc::clone(self),
            watcher,
            manager,
            counters,
            initial: Vec::new(),
            stage: Stage::Initial,
        };
        stream.begin();
        stream
    }
}

impl Watcher {
    fn note(&self, guid: Guid, note: Note) {
        {
            let mut notes = self.notes.lock();
            if notes.missed > 0 {
                notes.missed += 1;
            } else if let Some(earlier) = notes.noted.get_mut(&guid) {
                *earlier = note;
            } else if notes.order.len() < MAX_NOTES {
                notes.noted.insert(guid, note);
                notes.order.push_back(guid);
            } else {
                notes.missed = notes.order.len() as u64 + 1;
                notes.order = VecDeque::new();
                notes.noted = HashMap::new();
            }
        }
        self.waker.wake();
    }
}

enum Stage {
    Initial,
    Changes,
    Ended,
}

enum Next {
    Event(WatchEvent),
    Nothing,
    End,
}

/// What a watcher reads.
pub(crate) struct WatchStream {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
    manager: Arc<dyn ManagerApi>,
    counters: Arc<Counters>,
    /// Views that are still to be sent, the last first.
    initial: Vec<Arc<ObjectView>>,
    stage: Stage,
}

impl WatchStream {
    /// Takes the views as they are now.
    fn begin(&mut self) {
        self.initial = match self.watcher.object {
            Some(guid) => self.manager.view(guid).into_iter().collect(),
            None => self.manager.list(&ListRequest {
                selector: self.watcher.selector.clone(),
                ..ListRequest::default()
            }),
        };
        self.initial.reverse();
        self.stage = Stage::Initial;
    }

    fn next(&mut self) -> Next {
        match self.stage {
            Stage::Ended => return Next::End,
            Stage::Initial => {
                let event = match self.initial.pop() {
                    Some(view) => WatchEvent::Changed(view),
                    None => {
                        self.initial = Vec::new();
                        self.stage = Stage::Changes;
                        WatchEvent::Synced
                    }
                };
                return Next::Event(event);
            }
            Stage::Changes => {}
        }
        loop {
            let (guid, note) = {
                let mut notes = self.watcher.notes.lock();
                if notes.missed > 0 {
                    let missed = std::mem::take(&mut notes.missed);
                    drop(notes);
                    count(&self.counters.watch_gaps);
                    self.begin();
                    return Next::Event(WatchEvent::Gap { missed });
                }
                let Some(guid) = notes.order.pop_front() else {
                    return if notes.closed { Next::End } else { Next::Nothing };
                };
                let Some(note) = notes.noted.remove(&guid) else {
                    continue;
                };
                (guid, note)
            };
            match note {
                Note::Gone(name) => {
                    if self.watcher.object.is_some() {
                        self.stage = Stage::Ended;
                    }
                    return Next::Event(WatchEvent::Deleted { guid, name });
                }
                // The newest view, not the one that was noted; where it is gone meanwhile, that is noted too.
                Note::Changed => {
                    if let Some(view) = self.manager.view(guid) {
                        return Next::Event(WatchEvent::Changed(view));
                    }
                }
            }
        }
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match self.next() {
            Next::Nothing => {
                self.watcher.waker.register(context.waker());
                self.next()
            }
            next => next,
        };
        match next {
            Next::Event(event) => Poll::Ready(Some(Ok(event))),
            Next::Nothing => Poll::Pending,
            Next::End => Poll::Ready(None),
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers.write();
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.hub.count.store(watchers.len(), Ordering::Release);
    }
}
