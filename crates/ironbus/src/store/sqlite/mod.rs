//! The event store on SQLite: one file, one writer thread, readers beside it.

mod follow;
mod hash;
mod reader;
mod schema;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

pub use verify::{Fault, Verification, verify};

use crate::event::{Aggregate, Position, Sequence, StoreId};
use crate::key::EventFilter;
use crate::store::{
    AggregatePage, Append, AppendError, Appended, EventStore, Head, Lineage, Page, ReadError,
};
use crate::subscription::{Start, Subscription};
use crate::tail::{RingLimits, Tail};
use reader::Readers;
use schema::{WriteLock, open_writer};
use writer::{Command, Writer};

/// How many appends may wait for the writer. When as many wait, a further append waits to be let in.
const WAITING_APPENDS: usize = 4096;

/// When an append counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After a sync of the disk (`synchronous=FULL`): an acknowledged append survives a power cut.
    #[default]
    Full,
    /// After a write (`synchronous=NORMAL`): an acknowledged append survives a crash of the process, but
    /// the last ones may be lost in a power cut.
    Normal,
}

/// How to open a [`SqliteEventStore`].
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file. Its directory must exist; the file is created if it doesn't.
    pub path: PathBuf,
    /// When an append counts as durable.
    pub durability: Durability,
    /// How much of the log's end is kept in memory for live readers.
    pub ring: RingLimits,
    /// How many connections read at the same time.
    pub readers: usize,
}

impl SqliteOptions {
    /// The defaults: full durability, four readers.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), durability: Durability::default(), ring: RingLimits::default(), readers: 4 }
    }
}

/// Why a file can't be opened as a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file isn't an ironbus log.
    #[error("{path} is not an ironbus log; name another file, or move this one away")]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later version of ironbus.
    #[error(
        "{path} has schema version {found}, but this build knows versions up to {known}; use a newer ironbus"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The greatest version known here.
        known: i64,
    },
    /// Another process writes the log.
    #[error("{path} is in use by {holder}; stop it first, or talk to its server instead (--url)")]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who uses it, as far as is known.
        holder: String,
    },
    /// The file is damaged.
    #[error("{path} is damaged: {reason}; run `ironbus verify` on a copy, and restore a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file can't be opened at all.
    #[error("{path} can't be opened (does its directory exist, and may you write there?): {source}")]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
}

/// The event store on SQLite. A handle: cheap to clone, the log closes with the last one.
#[derive(Clone)]
pub struct SqliteEventStore(Arc<Shared>);

struct Shared {
    path: PathBuf,
    store_id: StoreId,
    lineage: Lineage,
    tail: Arc<Tail>,
    readers: Arc<Readers>,
    /// `None` for a store that only reads.
    writer: Option<mpsc::Sender<Command>>,
}

impl SqliteEventStore {
    /// Opens the log for reading and writing; creates it if the file doesn't exist.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do. The file is not changed then.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        blocking(move || Self::open_blocking(&options)).await
    }

    fn open_blocking(options: &SqliteOptions) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let lock = WriteLock::take(&path)?;
        let (connection, state) = open_writer(&path, options.durability)?;
        let readers = Arc::new(Readers::open(path.clone(), options.readers.max(1))?);
        let tail = Arc::new(Tail::new(state.head, options.ring));
        let (commands, waiting) = mpsc::channel(WAITING_APPENDS);
        let shared = Shared {
            path: path.clone(),
            store_id: state.store_id,
            lineage: state.lineage.clone(),
            tail: Arc::clone(&tail),
            readers,
            writer: Some(commands),
        };
        let writer = Writer::new(path.clone(), connection, state, tail, lock);
        std::thread::Builder::new()
            .name("ironbus-writer".into())
            .spawn(move || writer.run(waiting))
            .map_err(|source| OpenError::Io { path, source })?;
        Ok(Self(Arc::new(shared)))
    }

    /// Opens the log for reading beside whatever process writes it. What that process commits is noticed
    /// within a twentieth of a second.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    pub async fn open_read_only(options: SqliteOptions) -> Result<Self, OpenError> {
        blocking(move || {
            if !options.path.exists() {
                let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log here");
                return Err(OpenError::Io { path: options.path, source });
            }
            let reader = reader::Reader::open(&options.path)?;
            let state = schema::read_state(&options.path, reader.connection())?;
            let tail = Arc::new(Tail::new(state.head, options.ring));
            follow::spawn(reader, &tail)
                .map_err(|source| OpenError::Io { path: options.path.clone(), source })?;
            Ok(Self(Arc::new(Shared {
                readers: Arc::new(Readers::open(options.path.clone(), options.readers.max(1))?),
                path: options.path,
                store_id: state.store_id,
                lineage: state.lineage,
                tail,
                writer: None,
            })))
        })
        .await
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The end of the log in memory.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }

    /// Commits what waits, refuses what comes after, folds the write-ahead log in, ends every
    /// subscription, and gives the file free. Returns when that is done.
    pub async fn close(&self) {
        if let Some(writer) = &self.0.writer {
            let (done, closed) = oneshot::channel();
            if writer.send(Command::Close(done)).await.is_ok() {
                // The writer drops the sender only when it has ended, which is what is waited for.
                let _ = closed.await;
            }
        }
        self.0.readers.close();
        self.0.tail.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tail.close();
    }
}

#[async_trait]
impl EventStore for SqliteEventStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let writer = self.0.writer.as_ref().ok_or(AppendError::ReadOnly)?;
        let (reply, answer) = oneshot::channel();
        writer.send(Command::Append(append, reply)).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }

    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError> {
        let aggregate = aggregate.clone();
        self.0.readers.with(move |reader| reader.load(&aggregate, after, limit)).await
    }

    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        let filter = filter.clone();
        self.0.readers.with(move |reader| reader.read(after, &filter, limit)).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        Ok(Head {
            store_id: self.0.store_id,
            lineage: self.0.lineage.clone(),
            earliest: Position(1),
            position: self.0.tail.head(),
        })
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.0.tail), filter, start)
    }
}

impl std::fmt::Debug for SqliteEventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteEventStore")
            .field("path", &self.0.path)
            .field("head", &self.0.tail.head())
            .finish_non_exhaustive()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
