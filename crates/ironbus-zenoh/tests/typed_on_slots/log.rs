//! The log that the tests run on: slots in a folder, or where `IRONBUS_TEST_LOG` says `rocksdb:…`, in RocksDB.

use std::path::Path;
use std::sync::Arc;

use ironbus_zenoh::storage::{CommitLog, ObjectLog, StorageOptions, ZenohStorageEventStore};

pub(crate) type Log = ZenohStorageEventStore;

/// A new log, in a directory that vanishes with what is given back.
pub(crate) async fn log() -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let slots = slots(dir.path()).await;
    let store = ZenohStorageEventStore::open(slots, StorageOptions::default()).await;
    (dir, store.expect("a new log"))
}

async fn slots(folder: &Path) -> Arc<dyn CommitLog> {
    match std::env::var("IRONBUS_TEST_LOG") {
        #[cfg(feature = "rocksdb")]
        Ok(place) if place.starts_with("rocksdb:") => Arc::new(
            ironbus_zenoh::storage::RocksLog::open(folder.join("rocks")).await.expect("an empty folder"),
        ),
        Ok(place) if !place.starts_with("folder:") => panic!("this build has no log like {place}"),
        _ => Arc::new(ObjectLog::open_folder(folder).await.expect("a folder")),
    }
}
