//! What the callers and the writer thread share, and the thread's loop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::config::JournalConfig;
use crate::error::JournalError;
use crate::queue::{Batch, Queue};
use crate::status::Status;
use crate::ticket::{Drive, Group};
use crate::writer::Writer;

pub(crate) struct Shared {
    pub(crate) config: Arc<JournalConfig>,
    pub(crate) status: Arc<Status>,
    pub(crate) queue: Mutex<Queue>,
    /// The writer waits here for work.
    pub(crate) work: Condvar,
    /// Who stops the journal waits here for the writer's end.
    done: Condvar,
    /// Locked by whoever commits, and by nobody else for long.
    pub(crate) writer: Mutex<Writer>,
    /// Whether to write an end mark, and what came of it.
    end_mark: Mutex<Option<Result<(), JournalError>>>,
    /// Held as long as anything might still write.
    _lock: Box<dyn Send + Sync>,
}

enum Work {
    Commit,
    Reap,
    Heal,
    Close,
}

impl Shared {
    pub(crate) fn new(config: Arc<JournalConfig>, writer: Writer, lock: Box<dyn Send + Sync>) -> Self {
        Self {
            status: writer.status.clone(),
            config,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            writer: Mutex::new(writer),
            end_mark: Mutex::new(None),
            _lock: lock,
        }
    }

    /// Commits what is queued; the batch that comes back has buffers to reuse.
    fn commit_once(&self, used: Batch) -> Batch {
        let batch = self.queue.lock().take(used);
        // Should the commit panic, its waiters are told that the journal is closed.
        let pending = Pending(batch.group.clone());
        let results = self.writer.lock().commit(&batch);
        self.queue.lock().charged -= batch.charge();
        pending.0.resolve(results);
        batch
    }

    /// The writer thread's whole life.
    pub(crate) fn run(self: &Arc<Self>) {
        let _finish = Finish(self);
        let mut used = Batch::default();
        let mut heal_at = None;
        self.start_helper();
        loop {
            match self.next_work(&mut heal_at) {
                Work::Commit => used = self.commit_once(used),
                Work::Reap => self.writer.lock().reap(),
                Work::Heal => self.writer.lock().heal(),
                Work::Close => break,
            }
            self.start_helper();
        }
        self.end();
    }

    fn next_work(&self, heal_at: &mut Option<Instant>) -> Work {
        let mut queue = self.queue.lock();
        loop {
            if queue.nudged {
                queue.nudged = false;
                return Work::Reap;
            }
            let mut wait = None;
            if self.status.ailing.load(Ordering::Acquire) && !queue.closing {
                let now = Instant::now();
                let at = *heal_at.get_or_insert(now + self.config.heal_interval);
                if at <= now {
                    *heal_at = None;
                    return Work::Heal;
                }
                wait = Some(at - now);
            } else {
                *heal_at = None;
            }
            if !queue.is_empty() {
                if queue.urgent || queue.closing {
                    return Work::Commit;
                }
                let now = Instant::now();
                let at = *queue.due.get_or_insert(now + self.config.note_delay);
                if at <= now {
                    return Work::Commit;
                }
                wait = Some(wait.map_or(at - now, |wait: Duration| wait.min(at - now)));
            } else if queue.closing {
                return Work::Close;
            }
            queue.sleeping = true;
            match wait {
                Some(wait) => {
                    self.work.wait_for(&mut queue, wait);
                }
                None => self.work.wait(&mut queue),
            }
            queue.sleeping = false;
        }
    }

    /// Lets a short-lived thread make the next segment, so that no commit waits for its zeros.
    fn start_helper(self: &Arc<Self>) {
        let mut writer = self.writer.lock();
        let Some(job) = writer.job() else { return };
        let shared = self.clone();
        let spawned = thread::Builder::new()
            .name("journal-spare".to_owned())
            .spawn(move || {
                let _nudge = Nudge(&shared);
                job.run()
            });
        match spawned {
            Ok(helper) => writer.helper = Some(helper),
            Err(error) => {
                self.status.note("the helper thread could not be started", &error);
                self.status.ailing.store(true, Ordering::Release);
            }
        }
    }

    fn end(&self) {
        let mut writer = self.writer.lock();
        writer.reap();
        let mut end_mark = self.end_mark.lock();
        if end_mark.is_some() {
            *end_mark = Some(writer.write_end());
        }
    }

    /// Tries at once what the thread would try on its timer. For `CommitMode::Inline`.
    pub(crate) fn heal_inline(&self) {
        if self.status.ailing.load(Ordering::Acquire) {
            self.writer.lock().heal();
        }
    }

    /// No more appends; the writer commits what is queued and ends.
    pub(crate) fn close(&self, with_end_mark: bool) {
        let mut queue = self.queue.lock();
        if with_end_mark && !queue.closing {
            *self.end_mark.lock() = Some(Ok(()));
        }
        queue.closing = true;
        drop(queue);
        self.work.notify_one();
    }

    /// Waits for the writer's end; false if it did not come in time.
    pub(crate) fn await_end(&self, limit: Duration) -> bool {
        let mut queue = self.queue.lock();
        !self
            .done
            .wait_while_for(&mut queue, |queue| !queue.finished, limit)
            .timed_out()
            || queue.finished
    }

    /// What became of the end mark.
    pub(crate) fn end_result(&self) -> Result<(), JournalError> {
        self.end_mark.lock().clone().unwrap_or(Ok(()))
    }

    /// The same end without a thread.
    pub(crate) fn end_inline(&self) {
        self.drive();
        let finished = self.queue.lock().finished;
        if !finished {
            self.end();
            self.queue.lock().finish();
        }
    }
}

impl Drive for Shared {
    fn drive(&self) {
        let mut used = Batch::default();
        while !self.queue.lock().is_empty() {
            self.heal_inline();
            used = self.commit_once(used);
            let mut writer = self.writer.lock();
            if let Some(job) = writer.job() {
                let prepared = job.run();
                writer.accept(prepared);
            }
        }
    }
}

struct Pending(Arc<Group>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.resolve(Vec::new());
    }
}

/// Tells everybody that the writer is gone, however it went.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().finish();
        self.0.done.notify_all();
    }
}

struct Nudge<'a>(&'a Shared);

impl Drop for Nudge<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().nudged = true;
        self.0.work.notify_one();
    }
}
