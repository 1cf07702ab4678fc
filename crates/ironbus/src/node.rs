//! A node: opens a log, starts what belongs to it, and owns every task.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::bus::{BroadcastBus, EventBus};
use crate::publisher::publish_from;
use crate::store::{Durability, EventStore, OpenError, SqliteEventStore, SqliteOptions};
use crate::tail::{RingLimits, Tail};

/// How to open a [`Node`].
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The data directory; created if it doesn't exist. The log is its file `ironbus.db`.
    pub data: PathBuf,
    /// When an append counts as durable.
    pub durability: Durability,
    /// How much of the log's end is kept in memory for live readers.
    pub ring: RingLimits,
    /// How many events the in-process bus holds for its raw listeners.
    pub bus_capacity: usize,
}

impl NodeOptions {
    /// The name of the log's file in the data directory.
    pub const LOG_FILE: &str = "ironbus.db";

    /// The defaults for a data directory.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            durability: Durability::default(),
            ring: RingLimits::default(),
            bus_capacity: 1024,
        }
    }

    /// The log's file.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.data.join(Self::LOG_FILE)
    }
}

/// A store with its bus and the tasks between them. A handle: cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    store: SqliteEventStore,
    bus: Arc<dyn EventBus>,
    tasks: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Node {
    /// Opens the log of a data directory and starts its publisher.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    pub async fn open(options: NodeOptions) -> Result<Self, OpenError> {
        std::fs::create_dir_all(&options.data)
            .map_err(|source| OpenError::Io { path: options.data.clone(), source })?;
        let store = SqliteEventStore::open(SqliteOptions {
            durability: options.durability,
            ring: options.ring,
            ..SqliteOptions::new(options.log_path())
        })
        .await?;
        let bus: Arc<dyn EventBus> = Arc::new(BroadcastBus::new(options.bus_capacity));
        let head = store.tail().head();
        let publisher = publish_from(Arc::new(store.clone()), Arc::clone(&bus), head);
        let tasks = Mutex::new(vec![("publisher", tokio::spawn(publisher))]);
        Ok(Self(Arc::new(Inner { store, bus, tasks })))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn EventStore> {
        Arc::new(self.0.store.clone())
    }

    /// The log's file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        self.0.store.path()
    }

    /// The end of the log in memory, and how many subscriptions wait on it.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        self.0.store.tail()
    }

    /// The bus, for raw live subscriptions.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.0.bus
    }

    /// Commits what waits, ends every subscription and every task, and gives the log's file free.
    /// Gives back the names of the tasks that didn't end within `patience`; they are aborted.
    pub async fn shutdown(&self, patience: Duration) -> Vec<&'static str> {
        self.0.store.close().await;
        let deadline = tokio::time::Instant::now() + patience;
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        let mut unfinished = Vec::new();
        for (name, mut task) in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                unfinished.push(name);
            }
        }
        unfinished
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("store", &self.0.store).finish_non_exhaustive()
    }
}
