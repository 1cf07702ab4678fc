//! What these tests share.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ironbus::event::{Aggregate, NewEvent, Sequence};
use ironbus::store::{Append, Appended, EventStore, ExpectedVersion};
use ironbus_testkit::aggregate;
use ironbus_zenoh::storage::memory::Asked;
use ironbus_zenoh::storage::{
    CommitLog, Committed, LogError, MemoryLog, Pace, Slot, StorageOptions, ZenohStorageEventStore,
};

/// A node that looks for what others have committed only when it must.
pub(crate) fn dozing() -> StorageOptions {
    let pace = Pace { least: Duration::from_secs(3600), most: Duration::from_secs(3600) };
    StorageOptions { pace, cache_bytes: 0, patience: Duration::from_millis(200), ..StorageOptions::default() }
}

pub(crate) async fn node(log: &Arc<MemoryLog>) -> ZenohStorageEventStore {
    node_with(log, dozing()).await
}

pub(crate) async fn node_with(log: &Arc<MemoryLog>, options: StorageOptions) -> ZenohStorageEventStore {
    ZenohStorageEventStore::open(Arc::clone(log) as _, options).await.expect("the log is sound")
}

pub(crate) fn todo() -> Aggregate {
    aggregate("Todo", "1")
}

pub(crate) fn any(events: impl IntoIterator<Item = NewEvent>) -> Append {
    Append::to(todo(), ExpectedVersion::Any, events.into_iter().collect())
}

pub(crate) fn exact(version: u64, event: NewEvent) -> Append {
    Append::to(todo(), ExpectedVersion::Exact(Sequence(version)), vec![event])
}

pub(crate) async fn ok(store: &ZenohStorageEventStore, append: Append) -> Appended {
    store.append(append).await.expect("nothing is in the way")
}

/// A log in memory as one node sees it, for which something happens ahead of everything that it asks.
pub(crate) struct Intercepted {
    log: Arc<MemoryLog>,
    ahead: Box<dyn Fn(Asked) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Intercepted {
    pub(crate) fn new<F: Future<Output = ()> + Send + 'static>(
        log: &Arc<MemoryLog>,
        ahead: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { log: Arc::clone(log), ahead: Box::new(move |asked| Box::pin(ahead(asked))) })
    }
}

#[async_trait]
impl CommitLog for Intercepted {
    async fn commit(&self, slot: Slot, batch: Bytes) -> Committed {
        (self.ahead)(Asked::Put(slot)).await;
        self.log.commit(slot, batch).await
    }

    async fn read(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        (self.ahead)(Asked::Read(slot)).await;
        self.log.read(slot).await
    }

    async fn beyond(&self, slot: Slot) -> Result<Option<Slot>, LogError> {
        self.log.beyond(slot).await
    }

    async fn snapshots(&self) -> Result<Vec<Slot>, LogError> {
        self.log.snapshots().await
    }

    async fn snapshot(&self, before: Slot) -> Result<Option<Bytes>, LogError> {
        (self.ahead)(Asked::Snapshot(before)).await;
        self.log.snapshot(before).await
    }

    async fn keep_snapshot(&self, before: Slot, snapshot: Bytes) -> Result<(), LogError> {
        self.log.keep_snapshot(before, snapshot).await
    }
}

impl std::fmt::Debug for Intercepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Intercepted").field(&self.log).finish()
    }
}

/// A node over any kind of log.
pub(crate) async fn node_over(log: Arc<dyn CommitLog>, options: StorageOptions) -> ZenohStorageEventStore {
    ZenohStorageEventStore::open(log, options).await.expect("the log is sound")
}
