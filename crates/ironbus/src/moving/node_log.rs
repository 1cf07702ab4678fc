//! The log that a node has, whichever is in force: it may be exchanged while everything runs.
//!
//! Invariant: an append is under way in one log at a time. Whoever exchanges it has the gate for itself: appends that
//! were let in are done by then, and those that come wait at the gate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::LogPlace;
use crate::event::{Aggregate, Position, Sequence};
use crate::key::EventFilter;
use crate::store::{
    AggregatePage, Append, AppendError, Appended, EventStore, Head, Journal, JournalError, JournalPage,
    JournalStep, Log, NewStep, Page, ReadError,
};
use crate::subscription::{Start, Subscription};
use crate::tail::Tail;

/// How long an append, or a question for the head, waits while the log is exchanged.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log that a node has. A handle: cheap to clone.
#[derive(Clone)]
pub struct NodeLog(Arc<Inner>);

struct Inner {
    current: RwLock<Current>,
    gate: tokio::sync::RwLock<()>,
    tail: Arc<Tail>,
    /// Why no append is accepted any more, once another store node has a later epoch of the log.
    superseded: RwLock<Option<String>>,
}

#[derive(Clone)]
struct Current {
    log: Arc<dyn Log>,
    place: LogPlace,
    /// How often it was exchanged.
    changes: u64,
}

impl NodeLog {
    /// A node's log, which feeds `tail`.
    pub(crate) fn new(log: Arc<dyn Log>, place: LogPlace, tail: Arc<Tail>) -> Self {
        let current = RwLock::new(Current { log, place, changes: 0 });
        Self(Arc::new(Inner {
            current,
            gate: tokio::sync::RwLock::default(),
            tail,
            superseded: RwLock::default(),
        }))
    }

    /// The log in force.
    #[must_use]
    pub fn current(&self) -> Arc<dyn Log> {
        Arc::clone(&self.0.current.read().log)
    }

    /// The address of the log in force.
    #[must_use]
    pub fn place(&self) -> LogPlace {
        self.0.current.read().place.clone()
    }

    /// Its file or directory, where it has one.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.current().path().map(PathBuf::from)
    }

    /// The end of the log in memory.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }

    /// Accepts no append any more, because another store node has the log in a later epoch; `reason` says
    /// which and what to do. `None` takes it back.
    pub fn supersede(&self, reason: Option<String>) {
        *self.0.superseded.write() = reason;
    }

    /// Why no append is accepted any more, if that is so.
    #[must_use]
    pub fn superseded(&self) -> Option<String> {
        self.0.superseded.read().clone()
    }

    /// Nobody appends while this is held.
    pub(super) async fn close_gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().await
    }

    /// Another log takes over. The one before is given back; it is still open, for those who read it just now.
    pub(super) fn exchange(&self, log: Arc<dyn Log>, place: LogPlace) -> Arc<dyn Log> {
        let mut current = self.0.current.write();
        let changes = current.changes + 1;
        std::mem::replace(&mut *current, Current { log, place, changes }).log
    }

    /// Commits what waits, and gives the log free. The tail stays open, for subscriptions to end at it.
    pub async fn close(&self) {
        self.current().close().await;
    }

    async fn pass(&self) -> Option<RwLockReadGuard<'_, ()>> {
        tokio::time::timeout(PATIENCE, self.0.gate.read()).await.ok()
    }

    /// Reads; where the log was exchanged and closed meanwhile, anew.
    async fn reading<T, F: Future<Output = Result<T, ReadError>>>(
        &self,
        read: impl Fn(Arc<dyn Log>) -> F,
    ) -> Result<T, ReadError> {
        loop {
            let Current { log, changes, .. } = self.0.current.read().clone();
            match read(log).await {
                Err(ReadError::Closed) if self.0.current.read().changes != changes => {}
                other => return other,
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tail.close();
    }
}

/// What is said to those who waited in vain.
fn going_over() -> String {
    format!("it is going over to another place, and {PATIENCE:?} weren't enough; try again")
}

#[async_trait]
impl EventStore for NodeLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        if let Some(reason) = self.superseded() {
            append.check()?;
            return Err(AppendError::Superseded { reason });
        }
        let Some(_pass) = self.pass().await else {
            return Err(AppendError::Unavailable { reason: going_over() });
        };
        self.current().append(append).await
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        self.reading(|log| async move { log.load(aggregate, after, limit).await }).await
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        self.reading(|log| async move { EventStore::read(&*log, after, filter, limit).await }).await
    }

    /// Waits while the log is exchanged, so that no epoch is seen by one and not by another.
    async fn head(&self) -> Result<Head, ReadError> {
        let Some(_pass) = self.pass().await else {
            return Err(ReadError::Unavailable { reason: going_over() });
        };
        self.reading(|log| async move { log.head().await }).await
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.0.tail), filter, start)
    }
}

#[async_trait]
impl Journal for NodeLog {
    async fn journal(&self, last: usize) -> Result<JournalPage, ReadError> {
        self.reading(|log| async move { log.journal(last).await }).await
    }

    async fn record(&self, step: NewStep) -> Result<JournalStep, JournalError> {
        step.check()?;
        if let Some(reason) = self.superseded() {
            return Err(JournalError::Superseded { reason });
        }
        let Some(_pass) = self.pass().await else {
            return Err(JournalError::Storage(going_over().into()));
        };
        self.current().record(step).await
    }
}

impl std::fmt::Debug for NodeLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeLog").field("place", &self.place()).field("head", &self.0.tail.head()).finish()
    }
}
