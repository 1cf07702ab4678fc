//! What a copy is made of: a log's file, beside whoever writes it, or a log of another kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::runtime::Handle;

use super::copy::{CopyError, hash_at};
use super::journal;
use super::reader::{aggregate_of, event_at_row};
use super::schema::{LogState, fold_in_at_close, open_reader, read_state, refused};
use crate::event::{Position, StoreId, StoredEvent};
use crate::key::EventFilter;
use crate::store::{ChainHash, EventStore, Head, JournalStep, Lineage, Log, ReadError};

/// How many events are copied in one transaction.
pub(super) const PAGE: usize = 4096;

/// What a log is just now.
pub(super) struct Now {
    pub(super) store_id: StoreId,
    pub(super) lineage: Lineage,
    pub(super) head: Position,
}

/// An event, and the hash of the log up to it where that is known without computing it.
pub(super) type Hashed = (Arc<StoredEvent>, Option<ChainHash>);

/// A log that is copied page by page; blocks.
pub(super) trait Source {
    /// Where it is.
    fn path(&self) -> &Path;

    fn now(&self) -> Result<Now, CopyError>;

    /// The events after a position, at most [`PAGE`]. The hash of the last one is known.
    fn page(&self, after: Position) -> Result<Vec<Hashed>, CopyError>;

    fn hash_at(&self, position: Position) -> Result<Option<ChainHash>, CopyError>;

    /// The steps of the migration, as of now.
    fn steps(&self) -> Result<Vec<JournalStep>, CopyError>;
}

/// A log's file.
pub(super) struct FileSource {
    path: PathBuf,
    connection: Connection,
}

impl FileSource {
    pub(super) fn open(path: &Path) -> Result<Self, CopyError> {
        if !path.exists() {
            return Err(CopyError::NoSource { path: path.to_owned() });
        }
        let connection = open_reader(path)?;
        fold_in_at_close(&connection, true).map_err(|error| refused(path, error))?;
        let source = Self { path: path.to_owned(), connection };
        source.now()?;
        Ok(source)
    }

    fn select(&self, after: Position) -> rusqlite::Result<Vec<Hashed>> {
        let mut select = self.connection.prepare_cached(
            "SELECT position, aggregate, sequence, session_id, event_id, event_type, schema_version,
                    recorded_at, metadata, payload, chain
             FROM event WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?;
        let rows = select.query_and_then((after.0, PAGE), |row| {
            let aggregate = aggregate_of(&self.connection, row.get(1)?)?;
            Ok((Arc::new(event_at_row(row, aggregate)?), Some(row.get(10)?)))
        })?;
        rows.collect()
    }
}

impl Source for FileSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn now(&self) -> Result<Now, CopyError> {
        let LogState { store_id, lineage, head, .. } = read_state(&self.path, &self.connection)?;
        Ok(Now { store_id, lineage, head })
    }

    fn page(&self, after: Position) -> Result<Vec<Hashed>, CopyError> {
        self.select(after).map_err(|error| refused(&self.path, error).into())
    }

    fn hash_at(&self, position: Position) -> Result<Option<ChainHash>, CopyError> {
        hash_at(&self.connection, position).map_err(|error| refused(&self.path, error).into())
    }

    fn steps(&self) -> Result<Vec<JournalStep>, CopyError> {
        let page = journal::read(&self.connection, usize::MAX);
        Ok(page.map_err(|error| refused(&self.path, error))?.steps)
    }
}

/// A log that is open, of whatever kind.
pub(super) struct LogSource {
    log: Arc<dyn Log>,
    place: PathBuf,
    runtime: Handle,
}

impl LogSource {
    /// To be used on a thread where it may block; what is asked runs on `runtime`.
    pub(super) fn new(log: Arc<dyn Log>, runtime: Handle) -> Self {
        Self { place: log.place().into(), log, runtime }
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, ReadError>>) -> Result<T, CopyError> {
        let failed = |source| CopyError::Read { place: self.log.place(), source };
        self.runtime.block_on(question).map_err(failed)
    }
}

impl Source for LogSource {
    fn path(&self) -> &Path {
        &self.place
    }

    fn now(&self) -> Result<Now, CopyError> {
        let Head { store_id, lineage, position, .. } = self.ask(self.log.head())?;
        Ok(Now { store_id, lineage, head: position })
    }

    fn page(&self, after: Position) -> Result<Vec<Hashed>, CopyError> {
        let everything = EventFilter::everything();
        let page = self.ask(EventStore::read(&*self.log, after, &everything, PAGE))?;
        let Some(last) = page.events.last().map(|last| last.position) else { return Ok(Vec::new()) };
        let hash = self.hash_at(last)?;
        let hashed = |event: Arc<StoredEvent>| {
            let known = hash.filter(|_| event.position == last);
            (event, known)
        };
        Ok(page.events.into_iter().map(hashed).collect())
    }

    fn hash_at(&self, position: Position) -> Result<Option<ChainHash>, CopyError> {
        self.ask(self.log.chain_at(position))
    }

    fn steps(&self) -> Result<Vec<JournalStep>, CopyError> {
        Ok(self.ask(self.log.journal(usize::MAX))?.steps)
    }
}
