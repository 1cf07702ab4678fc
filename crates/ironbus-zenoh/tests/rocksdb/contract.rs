//! The contract of event stores, over RocksDB.

use std::sync::Arc;

use async_trait::async_trait;
use ironbus::tail::RingLimits;
use ironbus_testkit::contract::{Opened, Subject};
use ironbus_zenoh::storage::{RocksLog, StorageOptions, ZenohStorageEventStore};

struct Rocks;

#[async_trait]
impl Subject for Rocks {
    async fn open(&self, ring: usize) -> Opened {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = Arc::new(RocksLog::open(folder.path()).await.expect("an empty folder can hold a log"));
        let ring = RingLimits { events: ring, ..RingLimits::default() };
        // A cache that holds nothing, so that what is read is read from the log.
        let options = StorageOptions { ring, cache_bytes: 0, snapshot_every: 3, ..StorageOptions::default() };
        let store = ZenohStorageEventStore::open(log, options).await.expect("an empty log can be begun");
        let closing = store.clone();
        let close = Box::pin(async move { closing.close().await });
        Opened { store: Arc::new(store), close, keep: Box::new(folder) }
    }
}

ironbus_testkit::contract_tests!(Rocks);
