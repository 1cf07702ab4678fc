//! Copying a log as it is: a backup beside a running writer, and a log restored from one.
//!
//! A copy is a log itself: every event has its position, its id, its time and its hash, so `verify` proves it, and
//! a copy that was begun is continued. The source (`source.rs`) is read page by page, so that no transaction stays open
//! while its writer goes on; since events are only ever added, what is copied is what the log held when the last page was
//! read.
//!
//! Invariants:
//! - every event is hashed anew, and a page is compared with the source's chain before it is written: damage isn't
//!   copied;
//! - a copy stands under its name only when it is one; until then it lies beside it as `….new`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tokio::runtime::Handle;

use super::reader::row_of;
use super::schema::{LogState, insert_epoch_from, open_writer, read_state, refused};
use super::source::{FileSource, Hashed, LogSource, Source};
use super::unsynced::this_boot;
use super::writer::{insert_aggregate, insert_event};
use super::{Durability, OpenError, journal};
use crate::event::{Epoch, Position, StoreId, StoredEvent};
use crate::store::{CHAIN_START, ChainHash, JournalStep, Lineage, Log, ReadError, chain};

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How many events were copied now.
    pub events: u64,
    /// The last position.
    pub head: Position,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The hash over all events, in hexadecimal: equal logs have equal ones.
    pub chain: String,
}

/// Why a log isn't copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// One of the two files can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no log to copy.
    #[error("there is no log at {path}; name its directory")]
    NoSource {
        /// Where.
        path: PathBuf,
    },
    /// There is a log where one is to be restored.
    #[error(
        "there is a log at {path} already, and a restore overwrites nothing: name another directory, or move it away"
    )]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// What is there isn't a copy of this log.
    #[error("{path} is no copy of this log ({reason}); copy to another directory")]
    NotACopy {
        /// The file.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// An event of the source isn't the one that was stored.
    #[error(
        "the event at position {position} of {path} is damaged; what is before it is copied (`ironbus verify` says more)"
    )]
    Damaged {
        /// The source.
        path: PathBuf,
        /// Where.
        position: Position,
    },
    /// A log that is no file can't be read.
    #[error("the log at {place} can't be read: {source}")]
    Read {
        /// Where.
        place: String,
        /// What it said.
        source: ReadError,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// Copies the log at `log` to `to`, or continues a copy that is there. Disturbs no writer of the log. `progress` is
/// told how many of how many events are copied.
///
/// # Errors
///
/// [`CopyError`] with what to do.
pub fn back_up(log: &Path, to: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Copied, CopyError> {
    back_up_from(&FileSource::open(log)?, to, &mut progress)
}

/// The same for a log of another kind, which is open. Blocks its thread; `runtime` is where the log is asked.
///
/// # Errors
///
/// [`CopyError`] with what to do.
pub fn back_up_log(
    log: Arc<dyn Log>,
    runtime: Handle,
    to: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    back_up_from(&LogSource::new(log, runtime), to, &mut progress)
}

fn back_up_from(
    source: &dyn Source,
    to: &Path,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    if to.exists() {
        continue_in(source, to, progress)
    } else {
        copy_to_new(source, to, progress, |_, _| Ok(()))
    }
}

/// Makes a log at `to` out of a copy of one. It begins a new epoch, so that no reader takes positions of the log
/// that was lost for its own: [`restored_epoch`].
///
/// # Errors
///
/// [`CopyError`] with what to do. Nothing is left at `to` then.
pub fn restore(copy: &Path, to: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Copied, CopyError> {
    if to.exists() {
        return Err(CopyError::Occupied { path: to.to_owned() });
    }
    copy_to_new(&FileSource::open(copy)?, to, &mut progress, |connection, state| {
        journal::back_in_sqlite(connection, state.head, RESTORED).map_err(|error| refused(to, error))?;
        insert_epoch_from(connection, state, restored_epoch(), RESTORED)
            .map_err(|error| refused(to, error))?;
        Ok(())
    })
}

/// Why the epoch of a restored log began.
pub const RESTORED: &str = "the log was restored from a copy";

/// The epoch that a restored log begins: the time in seconds since 1970 (or the next epoch, if that is greater). The
/// lost log may have begun epochs that the copy doesn't know of, and none had as great a number.
#[must_use]
pub fn restored_epoch() -> Epoch {
    Epoch(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default())
}

fn copy_to_new(
    source: &dyn Source,
    to: &Path,
    progress: &mut impl FnMut(u64, u64),
    finish: impl FnOnce(&Connection, &LogState) -> Result<(), CopyError>,
) -> Result<Copied, CopyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Io { path, source }
    };
    let store_id = source.now()?.store_id;
    let new = beside(to, ".new");
    // Left by one that was killed: it may be half of anything.
    for old in [&new, &beside(&new, "-wal"), &beside(&new, "-shm")] {
        match std::fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(old)(error)),
            _ => {}
        }
    }
    let mut copy = Copy::open(&new)?;
    copy.adopt(store_id)?;
    let copied = transfer(source, &mut copy, progress).and_then(|copied| {
        finish(&copy.connection, &copy.state)?;
        Ok(copied)
    });
    let closed = copied.and_then(|copied| {
        let state = read_state(&new, &copy.connection)?;
        copy.close()?;
        Ok(Copied { epoch: state.lineage.epoch(), ..copied })
    })?;
    // On the disk under its own name, and only then under the name that is looked for.
    std::fs::File::open(&new).and_then(|file| file.sync_all()).map_err(failed(&new))?;
    std::fs::rename(&new, to).map_err(failed(to))?;
    let lock = super::schema::lock_path(&new);
    std::fs::remove_file(&lock).map_err(failed(&lock))?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
    Ok(closed)
}

fn continue_in(
    source: &dyn Source,
    to: &Path,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    let mut copy = Copy::open(to)?;
    if let Err(reason) = is_copied_by(source, &copy.state)? {
        return Err(CopyError::NotACopy { path: to.to_owned(), reason });
    }
    let copied = transfer(source, &mut copy, progress)?;
    copy.close()?;
    Ok(copied)
}

/// Whether a log holds what the source holds up to its head.
fn is_copied_by(source: &dyn Source, copy: &LogState) -> Result<Result<(), String>, CopyError> {
    let (now, theirs) = (source.now()?, copy.head);
    if now.store_id != copy.store_id {
        return Ok(Err("it is of another log".into()));
    }
    if now.head < theirs {
        return Ok(Err(format!(
            "it goes on to position {theirs}, and the log ends at {}: the log was replaced by an older one",
            now.head
        )));
    }
    if !now.lineage.starts().starts_with(copy.lineage.starts()) || source.hash_at(theirs)? != Some(copy.chain)
    {
        return Ok(Err(format!("they hold different events up to position {theirs}")));
    }
    Ok(Ok(()))
}

/// Copies what the copy lacks, up to where the log ends when the last page is read.
fn transfer(
    source: &dyn Source,
    copy: &mut Copy,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    let mut events = 0;
    loop {
        let now = source.now()?;
        progress(copy.state.head.0, now.head.0);
        let page = source.page(copy.state.head)?;
        events += page.len() as u64;
        copy.write(&page, source.path(), &now.lineage)?;
        if page.is_empty() || copy.state.head >= now.head {
            progress(copy.state.head.0, copy.state.head.0);
            break;
        }
    }
    copy.take_steps(&source.steps()?).map_err(|error| refused(&copy.path, error))?;
    Ok(Copied {
        events,
        head: copy.state.head,
        epoch: copy.state.lineage.epoch(),
        chain: blake3::Hash::from_bytes(copy.state.chain).to_hex().to_string(),
    })
}

/// The hash of all events up to a position.
pub(super) fn hash_at(connection: &Connection, position: Position) -> rusqlite::Result<Option<ChainHash>> {
    if position == Position::START {
        return Ok(Some(CHAIN_START));
    }
    let mut select = connection.prepare_cached("SELECT chain FROM event WHERE position = ?1")?;
    select.query_row([position.0], |row| row.get(0)).optional()
}

/// A log that is made to hold what another one does.
pub(super) struct Copy {
    path: PathBuf,
    pub(super) connection: Connection,
    pub(super) state: LogState,
    lock: super::schema::WriteLock,
}

impl Copy {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let (connection, state, lock) = open_writer(path, Durability::Full, this_boot().as_deref())?;
        Ok(Self { path: path.to_owned(), connection, state, lock })
    }

    /// Takes the identity of the log that it copies; its epochs come with its events.
    pub(super) fn adopt(&mut self, store_id: StoreId) -> Result<(), OpenError> {
        self.connection
            .execute("UPDATE log SET store_id = ?1", [store_id.0.as_bytes()])
            .map_err(|error| refused(&self.path, error))?;
        self.state.store_id = store_id;
        Ok(())
    }

    /// Has these steps of the migration from now on, and the phase that they led to.
    fn take_steps(&self, steps: &[JournalStep]) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        journal::replace(&transaction, steps)?;
        transaction.commit()
    }

    /// Writes a page of events, and the epochs that have begun by its end, in one transaction.
    fn write(&mut self, page: &[Hashed], from: &Path, lineage: &Lineage) -> Result<(), CopyError> {
        let page = page.iter().map(|(event, stored)| (&**event, *stored));
        match self.add(page, lineage).map_err(|error| refused(&self.path, error))? {
            Some(position) => Err(CopyError::Damaged { path: from.to_owned(), position }),
            None => Ok(()),
        }
    }

    /// Writes events with the hashes that they had, where those are known, in one transaction. Says where one isn't
    /// the event that was stored, or isn't the next one; what is before it is written.
    pub(super) fn add<'a>(
        &mut self,
        page: impl Iterator<Item = (&'a StoredEvent, Option<ChainHash>)>,
        lineage: &Lineage,
    ) -> rusqlite::Result<Option<Position>> {
        let (mut head, mut hash) = (self.state.head, self.state.chain);
        let mut damaged = None;
        self.connection.unchecked_transaction().and_then(|transaction| {
            for (event, stored) in page {
                let position = head.next();
                let now = chain(&hash, event);
                if event.position != position || stored.is_some_and(|stored| stored != now) {
                    damaged = Some(position);
                    break;
                }
                let row = match row_of(&transaction, &event.aggregate)? {
                    Some(row) => row,
                    None => insert_aggregate(&transaction, &event.aggregate)?,
                };
                insert_event(&transaction, row, event, &now)?;
                (head, hash) = (position, now);
            }
            for start in lineage.starts().iter().filter(|start| start.after <= head) {
                transaction.execute(
                    "INSERT INTO epoch (epoch, after) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    (start.epoch.0, start.after.0),
                )?;
            }
            // A restored log doesn't hand its history to Zenoh again.
            transaction.execute("UPDATE log SET head = ?1, chain = ?2, carried = ?1", (head.0, hash))?;
            transaction.commit()
        })?;
        (self.state.head, self.state.chain) = (head, hash);
        self.state.lineage = lineage_up_to(lineage, head);
        Ok(damaged)
    }

    /// Folds everything into the one file.
    pub(super) fn close(self) -> Result<(), OpenError> {
        let Self { path, connection, lock, .. } = self;
        connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .and_then(|()| connection.close().map_err(|(_, error)| error))
            .map_err(|error| refused(&path, error))?;
        drop(lock);
        Ok(())
    }
}

fn lineage_up_to(lineage: &Lineage, head: Position) -> Lineage {
    let starts = lineage.starts().iter().filter(|start| start.after <= head).copied().collect();
    Lineage::new(starts).expect("a log's first epoch begins before its first event")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
