//! One or two threads of the driver for what blocks: starting programs, walking `/proc`, making cgroups.
//!
//! A start takes about 0.1 ms on the calling thread and would hold a runtime thread that long; `/proc` walks take longer.
//! The queue is bounded: who finds it full waits, under the deadline of the call.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// Memory a thread keeps between jobs.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The stack of a child before `execve`.
    pub stack: Vec<u8>,
}

/// The pool has been shut down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the process driver is shutting down")]
pub(crate) struct Closed;

/// The threads and their queue. Dropping it lets the queued jobs finish and joins the threads.
pub(crate) struct Pool {
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `threads` threads with a queue of `queue` jobs.
    pub(crate) fn start(threads: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>(queue.max(1));
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..threads.max(1))
            .map(|n| {
                let receiver = Arc::clone(&receiver);
                std::thread::Builder::new()
                    .name(format!("process-spawn-{n}"))
                    .spawn(move || {
                        let mut scratch = Scratch::default();
                        loop {
                            // One waits for the queue, the others for the lock.
                            let Some(job) = receiver.lock().blocking_recv() else {
                                break;
                            };
                            // A job's panic ends its caller's wait (the reply is dropped), not the thread.
                            let run = std::panic::AssertUnwindSafe(|| job(&mut scratch));
                            if std::panic::catch_unwind(run).is_err() {
                                tracing::error!("a job of the process driver panicked");
                            }
                        }
                    })
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            threads: Mutex::new(threads),
        })
    }

    /// Runs `work` on one of the threads. Dropped before it began, it is not run; dropped later, it runs to its end and its
    /// result is given to nobody, so work with effects records them itself.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Closed>
    where
        T: Send + 'static,
        F: FnOnce(&mut Scratch) -> T + Send + 'static,
    {
        let sender = self.sender.lock().clone().ok_or(Closed)?;
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move |scratch| {
            if !reply.is_closed() {
                // The caller may have gone meanwhile.
                let _gone = reply.send(work(scratch));
            }
        });
        sender.send(job).await.map_err(|_| Closed)?;
        result.await.map_err(|_| Closed)
    }

    /// Takes no more jobs, lets the queued ones finish, and joins the threads; blocks.
    pub(crate) fn close(&self) {
        drop(self.sender.lock().take());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the process driver panicked");
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_and_a_panic_does_not_end_the_pool() {
        let pool = Pool::start(1, 4).unwrap();
        assert_eq!(pool.run(|_| 7).await.unwrap(), 7);
        assert!(pool.run(|_| panic!("seeded")).await.is_err());
        assert_eq!(pool.run(|_| 8).await.unwrap(), 8);
        pool.close();
        assert!(pool.run(|_| 9).await.is_err());
    }
}
