//! The log that the tests run on.

use ironbus::{SqliteEventStore, SqliteOptions};

pub(crate) type Log = SqliteEventStore;

/// A new log, in a directory that vanishes with what is given back.
pub(crate) async fn log() -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = SqliteOptions::new(dir.path().join("ironbus.db"));
    let store = SqliteEventStore::open(options).await.expect("a new log");
    (dir, store)
}
