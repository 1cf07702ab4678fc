//! An SQLite log in a directory of its own that vanishes with it.

use std::path::{Path, PathBuf};

use ironbus::store::sqlite::{OpenError, Verification, verify};
use ironbus::store::{SqliteEventStore, SqliteOptions};
use ironbus::tail::RingLimits;

/// A temporary directory with a log in it.
#[derive(Debug)]
pub struct TempStore {
    directory: tempfile::TempDir,
    options: SqliteOptions,
}

impl Default for TempStore {
    fn default() -> Self {
        Self::new()
    }
}

impl TempStore {
    /// A directory for a log that isn't created yet.
    ///
    /// # Panics
    ///
    /// If there is no place for temporary files.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary files can be made");
        let options = SqliteOptions::new(directory.path().join("ironbus.db"));
        Self { directory, options }
    }

    /// The same with a ring of at most so many events.
    #[must_use]
    pub fn with_ring(mut self, events: usize) -> Self {
        self.options.ring = RingLimits { events, ..RingLimits::default() };
        self
    }

    /// The log's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// A place for another file beside the log.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens the log, creating it the first time.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn try_open(&self) -> Result<SqliteEventStore, OpenError> {
        SqliteEventStore::open(self.options.clone()).await
    }

    /// Opens the log, creating it the first time.
    ///
    /// # Panics
    ///
    /// If it can't be opened.
    pub async fn open(&self) -> SqliteEventStore {
        self.try_open().await.expect("a log in a temporary directory can be opened")
    }

    /// Walks the log.
    ///
    /// # Panics
    ///
    /// If it can't be walked at all.
    #[must_use]
    pub fn verify(&self) -> Verification {
        verify(self.path(), |_, _| {}).expect("the log can be walked")
    }
}
