//! How an append waits for the writer's answer, and a read for its page.
//!
//! To wake a sleeping thread takes about 17 µs, which is a fifth of a sync of a quick disk. So one that is alone,
//! on a log whose answers came quickly of late, looks for its answer for as long as that takes, and lets other tasks of
//! its thread run between looks. Where several wait, or the disk is slow, it sleeps at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// For how long an answer is looked for; a log that took longer last time isn't looked at.
const LOOK: Duration = Duration::from_micros(250);

#[derive(Default)]
pub(super) struct Waiting {
    /// How many wait.
    waiting: AtomicUsize,
    /// How long the last one that was alone took, in nanoseconds.
    last: AtomicU64,
}

/// One that waits, until it is dropped.
pub(super) struct Waiter<'a> {
    all: &'a Waiting,
    began: Instant,
}

impl Waiting {
    /// Begins to wait; before what is asked is handed over.
    pub(super) fn begin(&self) -> Waiter<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiter { all: self, began: Instant::now() }
    }
}

impl Waiter<'_> {
    fn is_alone(&self) -> bool {
        self.all.waiting.load(Ordering::Relaxed) == 1
    }

    /// The answer; `None` if there will be none.
    pub(super) async fn answer<T>(self, mut answer: oneshot::Receiver<T>) -> Option<T> {
        let look = LOOK.as_nanos() as u64;
        while self.all.last.load(Ordering::Relaxed) < look && self.is_alone() && self.began.elapsed() < LOOK {
            match answer.try_recv() {
                Ok(answer) => {
                    self.took();
                    return Some(answer);
                }
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) => tokio::task::yield_now().await,
            }
        }
        let answer = answer.await.ok()?;
        self.took();
        Some(answer)
    }

    fn took(&self) {
        if self.is_alone() {
            let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.all.last.store(took, Ordering::Relaxed);
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.all.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
