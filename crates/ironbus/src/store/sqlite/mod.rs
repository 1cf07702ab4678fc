//! The event store on SQLite: one file, one writer thread, readers beside it.

pub(crate) mod carried;
mod checkpoint;
mod copy;
mod copying;
mod follow;
mod journal;
mod reader;
mod readers;
mod reserve;
mod schema;
mod source;
mod unsynced;
mod verify;
mod waiting;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

pub use copy::{Copied, CopyError, RESTORED, back_up, back_up_log, restore, restored_epoch};
pub use copying::copy_of;
pub use verify::{Fault, Verification, verify};

use crate::event::{Aggregate, Epoch, Position, Sequence, StoreId};
use crate::key::EventFilter;
use crate::store::{
    AggregatePage, Append, AppendError, Appended, Carrying, ChainHash, EventStore, Head, Lineage, Log,
    LogEnd, Page, Phase, ReadError,
};
use crate::subscription::{Start, Subscription};
use crate::tail::{RingLimits, Tail};
use carried::Carried;
use checkpoint::Checkpoints;
use reader::Reader;
use readers::Readers;
use reserve::Reserve;
use schema::open_writer;
use waiting::Waiting;
use writer::{Command, Mark, Writer};

/// How many appends may wait for the writer. When as many wait, a further append waits to be let in.
const WAITING_APPENDS: usize = 4096;

/// When an append counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After a sync of the disk (`synchronous=FULL`): an acknowledged append survives a power cut.
    #[default]
    Full,
    /// After a write (`synchronous=NORMAL`): an acknowledged append survives a crash of the process, but
    /// the last ones may be lost in a power cut. The log then goes on in a new epoch, so that whoever has
    /// read what was lost is told to begin anew. Where the system doesn't tell one start of the machine from
    /// another (all but Linux), it does so after every crash.
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
    /// The tail that the log feeds; one of its own where none is given. A given one stays open when the log closes.
    pub tail: Option<Arc<Tail>>,
}

impl SqliteOptions {
    /// The defaults: full durability, four readers.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (durability, ring) = (Durability::default(), RingLimits::default());
        Self { path: path.into(), durability, ring, readers: 4, tail: None }
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
    /// There is no space left to open the file, nor any that was kept for it.
    #[error("no space left to open {path}: free 1 MiB on its disk, then try again")]
    StorageFull {
        /// The file.
        path: PathBuf,
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
    /// A log that isn't in a SQLite file can't be opened.
    #[error("the log at {place} can't be opened: {source}")]
    Elsewhere {
        /// Its address.
        place: String,
        /// Why, and what to do.
        source: Box<dyn std::error::Error + Send + Sync>,
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
    lineage: RwLock<Lineage>,
    tail: Arc<Tail>,
    owns_tail: bool,
    readers: Arc<Readers>,
    carried: Arc<Carried>,
    /// How far it was carried to other nodes when it was opened; `None` in a phase that doesn't carry.
    carried_before: Option<Position>,
    epoch_began: RwLock<Option<String>>,
    /// `None` for a store that only reads.
    writer: Option<mpsc::Sender<Command>>,
    waiting: Waiting,
    /// Why no append is accepted any more, once another store node has superseded this one.
    superseded: RwLock<Option<String>>,
}

/// Begins a new epoch of the log at `path` after its last event, and gives it back once that is on the disk:
/// the promotion of a copy to be the log. No process may have it open for writing.
///
/// # Errors
///
/// [`OpenError`] with what to do. At most an epoch that a power cut made necessary has begun then.
pub fn raise_epoch(path: &Path) -> Result<Epoch, OpenError> {
    let boot = unsynced::this_boot();
    // Other nodes act on an epoch, so not even a power cut may take it back.
    let (connection, state, _lock) = open_writer(path, Durability::Full, boot.as_deref())?;
    schema::synced(&connection, |connection| {
        connection.execute("UPDATE log SET sealed = NULL", [])?;
        schema::insert_epoch(connection, &state, "an operator promoted this log")
    })
    .map_err(|error| schema::refused(path, error))
}

impl SqliteEventStore {
    /// Opens the log for reading and writing; creates it if the file doesn't exist.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do. At most an epoch that a power cut made necessary has begun then.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        blocking(move || Self::open_blocking(&options, unsynced::this_boot().as_deref())).await
    }

    fn open_blocking(options: &SqliteOptions, boot: Option<&str>) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let (mut connection, state, lock) = open_writer(&path, options.durability, boot)?;
        let checkpoints = Checkpoints::start(&path, &mut connection)?;
        let reserve = Reserve::of(&path);
        reserve.fill();
        let readers = Arc::new(Readers::open(path.clone(), options.readers.max(1))?);
        let (epoch, head) = (state.lineage.epoch(), state.head);
        let tail = options.tail.clone().unwrap_or_else(|| Arc::new(Tail::new(epoch, head, options.ring)));
        tail.adopt(epoch, head);
        let owns_tail = options.tail.is_none();
        let (commands, waiting) = mpsc::channel(WAITING_APPENDS);
        let carried = Arc::<Carried>::default();
        let shared = Shared {
            path: path.clone(),
            store_id: state.store_id,
            lineage: RwLock::new(state.lineage.clone()),
            tail: Arc::clone(&tail),
            owns_tail,
            readers,
            carried: Arc::clone(&carried),
            carried_before: (state.phase != Phase::Broadcast).then_some(state.carried),
            epoch_began: RwLock::new(state.epoch_began.clone()),
            writer: Some(commands),
            waiting: Waiting::default(),
            superseded: RwLock::default(),
        };
        let feeds = (tail, owns_tail);
        let writer =
            Writer::new(path.clone(), (connection, checkpoints), state, feeds, carried, reserve, lock);
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
            let state = schema::read_state(&options.path, &schema::open_reader(&options.path)?)?;
            let tail = Arc::new(Tail::new(state.lineage.epoch(), state.head, options.ring));
            follow::spawn(Reader::open(&options.path)?, &tail)
                .map_err(|source| OpenError::Io { path: options.path.clone(), source })?;
            Ok(Self(Arc::new(Shared {
                readers: Arc::new(Readers::open(options.path.clone(), options.readers.max(1))?),
                path: options.path,
                store_id: state.store_id,
                lineage: RwLock::new(state.lineage),
                tail,
                owns_tail: true,
                carried: Arc::default(),
                carried_before: None,
                epoch_began: RwLock::new(state.epoch_began),
                writer: None,
                waiting: Waiting::default(),
                superseded: RwLock::default(),
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

    /// Why the epoch in force began, for people; `None` for the first one, and for those of an older ironbus.
    #[must_use]
    pub fn epoch_began(&self) -> Option<String> {
        self.0.epoch_began.read().clone()
    }

    /// Keeps how far the log was carried, although nothing is committed.
    fn keep_carried(&self) {
        if let Some(writer) = &self.0.writer {
            // When the queue is full, the commits that it holds keep it too.
            let _ = writer.try_send(Command::KeepCarried);
        }
    }

    async fn mark(&self, mark: Mark) -> Result<LogEnd, AppendError> {
        let writer = self.0.writer.as_ref().ok_or(AppendError::ReadOnly)?;
        let (reply, answer) = oneshot::channel();
        writer.send(Command::Mark(mark, reply)).await.map_err(|_| AppendError::Closed)?;
        // The writer ended before it answered: the mark may be in the file.
        answer.await.map_err(|_| AppendError::Unknown("the writer ended before it answered".into()))?
    }

    /// Accepts no append any more, because another store node has the log in a later epoch; `reason` says
    /// which and what to do. `None` takes it back.
    pub fn supersede(&self, reason: Option<String>) {
        *self.0.superseded.write() = reason;
    }

    /// Why no append is accepted any more, if that is so.
    #[must_use]
    pub fn superseded(&self) -> Option<String> {
        self.0.superseded.read().clone()
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
        if self.0.owns_tail {
            self.0.tail.close();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.owns_tail {
            self.tail.close();
        }
    }
}

#[async_trait]
impl EventStore for SqliteEventStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let writer = self.0.writer.as_ref().ok_or(AppendError::ReadOnly)?;
        if let Some(reason) = self.superseded() {
            return Err(AppendError::Superseded { reason });
        }
        let waiter = self.0.waiting.begin();
        let (reply, answer) = oneshot::channel();
        writer.send(Command::Append(append, reply)).await.map_err(|_| AppendError::Closed)?;
        waiter.answer(answer).await.ok_or(AppendError::Closed)?
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
        // The file's, not the tail's: a commit is in the file first, and whoever has read it there may
        // resume after it.
        let position = self.0.readers.with(|reader| reader.head()).await?;
        Ok(Head {
            store_id: self.0.store_id,
            lineage: self.0.lineage.read().clone(),
            earliest: Position(1),
            position,
        })
    }

    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription {
        Subscription::new(Arc::new(self.clone()), Arc::clone(&self.0.tail), filter, start)
    }
}

#[async_trait]
impl Log for SqliteEventStore {
    fn tail(&self) -> &Arc<Tail> {
        self.tail()
    }

    fn place(&self) -> String {
        self.0.path.display().to_string()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.0.path)
    }

    fn epoch_began(&self) -> Option<String> {
        self.epoch_began()
    }

    fn carrying(&self) -> Option<Carrying> {
        let log = self.clone();
        let keep = Arc::new(move || log.keep_carried());
        Some(Carrying { carried: Arc::clone(&self.0.carried), before: self.0.carried_before, keep })
    }

    async fn seal(&self, why: &str) -> Result<LogEnd, AppendError> {
        self.mark(Mark::Seal(why.to_owned())).await
    }

    async fn begin_epoch(&self, why: &str) -> Result<LogEnd, AppendError> {
        let end = self.mark(Mark::BeginEpoch(why.to_owned())).await?;
        let lineage = self.0.readers.with(|reader| schema::read_lineage(reader.connection())).await;
        let lineage = lineage.map_err(|error| AppendError::Unknown(error.into()))?;
        if let Some(lineage) = lineage {
            *self.0.lineage.write() = lineage;
        }
        *self.0.epoch_began.write() = Some(why.to_owned());
        Ok(end)
    }

    async fn is_sealed(&self) -> Result<bool, ReadError> {
        self.0
            .readers
            .with(|reader| {
                reader.connection().query_row("SELECT sealed IS NOT NULL FROM log", [], |row| row.get(0))
            })
            .await
    }

    async fn chain_at(&self, position: Position) -> Result<Option<ChainHash>, ReadError> {
        self.0.readers.with(move |reader| copy::hash_at(reader.connection(), position)).await
    }

    async fn close(&self) {
        self.close().await;
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
