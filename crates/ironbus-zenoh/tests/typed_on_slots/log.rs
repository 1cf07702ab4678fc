//! The log that the tests run on.

use std::sync::Arc;

use ironbus_zenoh::storage::{ObjectLog, StorageOptions, ZenohStorageEventStore};

pub(crate) type Log = ZenohStorageEventStore;

/// A new log, in a directory that vanishes with what is given back.
pub(crate) async fn log() -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let slots = ObjectLog::open_folder(dir.path()).await.expect("a folder");
    let store = ZenohStorageEventStore::open(Arc::new(slots), StorageOptions::default()).await;
    (dir, store.expect("a new log"))
}
