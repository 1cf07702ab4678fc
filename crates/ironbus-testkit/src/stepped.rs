//! A store in memory whose every step a test takes itself: commit, publish, and how often a read yields
//! before and after it looks. So the seams between replay and live are met on purpose, not by luck.
//!
//! It holds what a [`ModelLog`] holds, and runs the real tail and the real subscription over it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use ironbus::event::{Aggregate, Epoch, Position, Sequence, StoreId, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{
    AggregatePage, Append, AppendError, Appended, EpochStart, EventStore, Head, Lineage, Page, ReadError,
};
use ironbus::subscription::{Start, Subscription};
use ironbus::tail::{RingLimits, Tail};
use parking_lot::Mutex;

use crate::model::ModelLog;

/// The store. A handle: cheap to clone.
#[derive(Clone)]
pub struct SteppedStore(Arc<Inner>);

struct Inner {
    log: Mutex<ModelLog>,
    tail: Arc<Tail>,
    before: AtomicUsize,
    after: AtomicUsize,
    page: AtomicUsize,
}

impl SteppedStore {
    /// An empty log with a ring of so many events.
    #[must_use]
    pub fn new(ring: usize) -> Self {
        let limits = RingLimits { events: ring, bytes: usize::MAX };
        Self(Arc::new(Inner {
            log: Mutex::default(),
            tail: Arc::new(Tail::new(Epoch(1), Position::START, limits)),
            before: AtomicUsize::new(0),
            after: AtomicUsize::new(0),
            page: AtomicUsize::new(usize::MAX),
        }))
    }

    /// From now on a read yields so often before it looks, and so often before it gives what it saw, and
    /// a page holds at most so many events.
    pub fn slow_reads(&self, before: usize, after: usize, page: usize) {
        self.0.before.store(before, Ordering::Relaxed);
        self.0.after.store(after, Ordering::Relaxed);
        self.0.page.store(page.max(1), Ordering::Relaxed);
    }

    /// Commits an append to the log; the tail doesn't know of it yet.
    ///
    /// # Panics
    ///
    /// If the append is refused: tests of subscriptions append what can be appended.
    pub fn commit(&self, append: &Append) {
        self.0.log.lock().append(append).expect("the test appends what can be appended");
    }

    /// Publishes everything that was committed.
    ///
    /// # Panics
    ///
    /// If the tail finds a hole.
    pub fn publish(&self) {
        let head = self.0.tail.head();
        let log = self.0.log.lock();
        let from = usize::try_from(head.0).expect("a test's log is short");
        self.0.tail.publish(&log.events()[from..]).expect("it is published in order");
    }

    /// All that was committed.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<StoredEvent>> {
        self.0.log.lock().events().to_vec()
    }

    /// The tail.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }
}

/// Yields to whoever polls it, once, and asks to be polled again.
struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

async fn yields(times: usize) {
    for _ in 0..times {
        Yield(false).await;
    }
}

#[async_trait]
impl EventStore for SteppedStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let result = self.0.log.lock().append(&append);
        self.publish();
        match result {
            Ok(events) => {
                let head = events.iter().map(|event| event.position).max().unwrap_or_default();
                Ok(Appended { events, head })
            }
            Err(refusal) => Err(AppendError::Storage(format!("{refusal:?}").into())),
        }
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        let log = self.0.log.lock();
        let of = log.events().iter().filter(|event| event.aggregate == *aggregate);
        let events = of.filter(|event| event.sequence > after).take(limit).cloned().collect();
        Ok(AggregatePage { events, version: log.version(aggregate) })
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        yields(self.0.before.load(Ordering::Relaxed)).await;
        let page = {
            let log = self.0.log.lock();
            let head = Position(log.events().len() as u64);
            let limit = limit.min(self.0.page.load(Ordering::Relaxed));
            let later = log.events().iter().filter(|event| event.position > after);
            let events: Vec<_> = later.filter(|event| filter.matches(event)).take(limit).cloned().collect();
            let through = match events.last() {
                Some(last) if events.len() == limit => last.position,
                _ => head.max(after),
            };
            Page { events, through, head }
        };
        yields(self.0.after.load(Ordering::Relaxed)).await;
        Ok(page)
    }

    async fn head(&self) -> Result<Head, ReadError> {
        yields(self.0.before.load(Ordering::Relaxed)).await;
        let start = EpochStart { epoch: Epoch(1), after: Position::START };
        Ok(Head {
            store_id: StoreId(uuid::Uuid::nil()),
            lineage: Lineage::new(vec![start]).expect("one epoch ascends"),
            earliest: Position(1),
            position: Position(self.0.log.lock().events().len() as u64),
        })
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.0.tail), filter, start)
    }
}

impl std::fmt::Debug for SteppedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteppedStore").field("tail", &self.0.tail).finish_non_exhaustive()
    }
}
