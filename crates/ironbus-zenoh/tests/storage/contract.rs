//! The contract of event stores, over each kind of commit log.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use ironbus::tail::RingLimits;
use ironbus_testkit::contract::{Opened, Subject};
use ironbus_zenoh::storage::{CommitLog, MemoryLog, ObjectLog, StorageOptions, ZenohStorageEventStore};

async fn opened(log: Arc<dyn CommitLog>, ring: usize, keep: Box<dyn Any + Send>) -> Opened {
    let ring = RingLimits { events: ring, ..RingLimits::default() };
    // A cache that holds nothing, so that what is read is read from the log.
    let options = StorageOptions { ring, cache_bytes: 0, snapshot_every: 3, ..StorageOptions::default() };
    let store = ZenohStorageEventStore::open(log, options).await.expect("an empty log can be begun");
    let closing = store.clone();
    Opened { store: Arc::new(store), close: Box::pin(async move { closing.close().await }), keep }
}

struct Memory;

#[async_trait]
impl Subject for Memory {
    async fn open(&self, ring: usize) -> Opened {
        opened(Arc::new(MemoryLog::default()), ring, Box::new(())).await
    }
}

struct Folder;

#[async_trait]
impl Subject for Folder {
    async fn open(&self, ring: usize) -> Opened {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = ObjectLog::open_folder(folder.path()).await.expect("a folder can hold a log");
        opened(Arc::new(log), ring, Box::new(folder)).await
    }
}

mod memory {
    use super::*;
    ironbus_testkit::contract_tests!(Memory);
}

mod folder {
    use super::*;
    ironbus_testkit::contract_tests!(Folder);
}
