//! What these tests share.

use std::sync::Arc;
use std::time::Duration;

use ironbus::event::{Aggregate, NewEvent, Sequence};
use ironbus::store::{Append, Appended, EventStore, ExpectedVersion};
use ironbus_testkit::aggregate;
use ironbus_zenoh::storage::{MemoryLog, Pace, StorageOptions, ZenohStorageEventStore};

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
