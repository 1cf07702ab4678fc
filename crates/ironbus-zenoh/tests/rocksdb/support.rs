//! What these tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::NewEvent;
use ironbus::store::{Append, Appended, EventStore, ExpectedVersion};
use ironbus_testkit::aggregate;
use ironbus_zenoh::storage::{CommitLog, RocksLog, Slot, StorageOptions, ZenohStorageEventStore};

/// A cache that holds nothing, so that what is read is read from the log.
pub(crate) fn uncached() -> StorageOptions {
    StorageOptions { cache_bytes: 0, snapshot_every: 8, ..StorageOptions::default() }
}

pub(crate) async fn open(folder: &Path) -> Arc<RocksLog> {
    Arc::new(RocksLog::open(folder).await.expect("the log is sound"))
}

pub(crate) async fn node(log: &Arc<RocksLog>) -> ZenohStorageEventStore {
    ZenohStorageEventStore::open(log.clone(), uncached()).await.expect("the log is sound")
}

pub(crate) fn any(events: impl IntoIterator<Item = NewEvent>) -> Append {
    Append::to(aggregate("Todo", "1"), ExpectedVersion::Any, events.into_iter().collect())
}

pub(crate) async fn ok(store: &ZenohStorageEventStore, append: Append) -> Appended {
    store.append(append).await.expect("nothing is in the way")
}

/// What every slot of a log holds.
pub(crate) async fn slots(log: &RocksLog) -> Vec<Bytes> {
    let mut slots = Vec::new();
    while let Some(batch) = log.read(Slot(slots.len() as u64)).await.expect("the log is sound") {
        slots.push(batch);
    }
    slots
}

/// All files of a folder and of those in it, by their places in it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("it is in it").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A copy of a folder, as it is now.
pub(crate) fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for file in files(folder) {
        let to = copy.path().join(&file);
        std::fs::create_dir_all(to.parent().expect("it is in the copy")).expect("it can be made");
        std::fs::copy(folder.join(&file), to).expect("it can be copied");
    }
    copy
}

/// The contents of what a log consists of: RocksDB's own notes and locks aside.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let notes = |file: &PathBuf| {
        let name = file.file_name().expect("it has one").to_string_lossy().to_lowercase();
        name.starts_with("log") || name == "lock"
    };
    let files = files(folder).into_iter().filter(|file| !notes(file));
    files.map(|file| (file.clone(), std::fs::read(folder.join(file)).expect("it can be read"))).collect()
}

/// RocksDB's log of writes that is written now.
pub(crate) fn log_of_writes(folder: &Path) -> PathBuf {
    let files = files(folder).into_iter();
    let last = files.filter(|file| file.extension().is_some_and(|extension| extension == "log")).max();
    folder.join(last.expect("there is one"))
}
