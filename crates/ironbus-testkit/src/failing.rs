//! A [`SteppedStore`] that can't be read, or turns out to be another log, when a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use ironbus::event::{Aggregate, Cursor, Epoch, Position, Sequence};
use ironbus::key::EventFilter;
use ironbus::store::{
    AggregatePage, Append, AppendError, Appended, EpochStart, EventStore, Head, Lineage, Page, ReadError,
};
use ironbus::subscription::{Start, Subscription};

use crate::stepped::SteppedStore;

/// The store. A handle: cheap to clone.
#[derive(Clone, Debug)]
pub struct FailingStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: SteppedStore,
    unreadable: AtomicBool,
    headless: AtomicBool,
    epoch: AtomicU64,
    /// The epoch that live subscriptions know of.
    told: AtomicU64,
}

impl FailingStore {
    /// A store without faults so far.
    #[must_use]
    pub fn new(store: SteppedStore) -> Self {
        let (epoch, told) = (AtomicU64::new(1), AtomicU64::new(1));
        let (unreadable, headless) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { store, unreadable, headless, epoch, told }))
    }

    /// The store beneath.
    #[must_use]
    pub fn stepped(&self) -> &SteppedStore {
        &self.0.store
    }

    /// Whether reads of events fail from now on.
    pub fn unreadable(&self, unreadable: bool) {
        self.0.unreadable.store(unreadable, Ordering::SeqCst);
    }

    /// Whether reads of the head fail from now on.
    pub fn headless(&self, headless: bool) {
        self.0.headless.store(headless, Ordering::SeqCst);
    }

    /// The epoch that the log is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.0.epoch.load(Ordering::SeqCst))
    }

    /// The log is another from now on, of the next epoch. The next live subscription is told so.
    pub fn begin_epoch(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

fn check(fails: &AtomicBool) -> Result<(), ReadError> {
    if fails.load(Ordering::SeqCst) { Err(ReadError::Storage("the test says so".into())) } else { Ok(()) }
}

#[async_trait]
impl EventStore for FailingStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.0.store.append(append).await
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        check(&self.0.unreadable)?;
        self.0.store.load(aggregate, after, limit).await
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        check(&self.0.unreadable)?;
        self.0.store.read(after, filter, limit).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        check(&self.0.headless)?;
        let start = EpochStart { epoch: self.epoch(), after: Position::START };
        let lineage = Lineage::new(vec![start]).expect("one epoch ascends");
        Ok(Head { lineage, ..self.0.store.head().await? })
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        let tail = Arc::clone(self.0.store.tail());
        let told = self.0.told.swap(self.epoch().0, Ordering::SeqCst);
        let start = if start == Start::Live && told != self.epoch().0 {
            Start::Resume(Cursor { epoch: Epoch(told), position: tail.head() })
        } else {
            start
        };
        Subscription::new(Arc::new(self.clone()), tail, filter, start)
    }
}
