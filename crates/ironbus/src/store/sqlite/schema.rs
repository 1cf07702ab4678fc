//! The file: its schema, its version, and whether it is ours to open.
//!
//! Positions come from the single row of `log`, updated in the transaction that inserts the events, and
//! never from AUTOINCREMENT, whose numbers have holes. An aggregate's version is the greatest sequence in
//! `event_by_aggregate`, so there is no second place that could disagree.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use uuid::Uuid;

use super::hash::{CHAIN_START, ChainHash};
use super::{Durability, OpenError};
use crate::event::{Epoch, Position, StoreId};
use crate::store::{EpochStart, Lineage};

/// `IRBS`: marks the file as an ironbus log (SQLite's `application_id`).
const APPLICATION_ID: i64 = 0x4952_4253;

/// The version of the schema that this build writes (SQLite's `user_version`).
pub(super) const SCHEMA_VERSION: i64 = 1;

/// Each entry takes a file from the version of its index to the next; the first creates it.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = ["
    CREATE TABLE log (
        only        INTEGER PRIMARY KEY CHECK (only = 1),
        store_id    BLOB NOT NULL,
        head        INTEGER NOT NULL,
        chain       BLOB NOT NULL,
        created_at  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE epoch (
        epoch       INTEGER PRIMARY KEY,
        after       INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE aggregate (
        aggregate       INTEGER PRIMARY KEY,
        aggregate_type  TEXT NOT NULL,
        aggregate_id    TEXT NOT NULL,
        UNIQUE (aggregate_type, aggregate_id)
    ) STRICT;
    CREATE TABLE event (
        position        INTEGER PRIMARY KEY,
        aggregate       INTEGER NOT NULL REFERENCES aggregate,
        sequence        INTEGER NOT NULL,
        event_id        BLOB NOT NULL,
        event_type      TEXT NOT NULL,
        schema_version  INTEGER NOT NULL,
        recorded_at     INTEGER NOT NULL,
        session_id      TEXT,
        chain           BLOB NOT NULL,
        metadata        TEXT NOT NULL,
        payload         TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX event_by_id ON event (event_id);
    CREATE UNIQUE INDEX event_by_aggregate ON event (aggregate, sequence);
    CREATE INDEX event_by_session ON event (session_id) WHERE session_id IS NOT NULL;
"];

/// What the `log` and `epoch` tables say.
#[derive(Clone, Debug)]
pub(super) struct LogState {
    pub(super) store_id: StoreId,
    pub(super) lineage: Lineage,
    pub(super) head: Position,
    pub(super) chain: ChainHash,
    pub(super) last_recorded_at: i64,
}

/// Holds the right to write the log; the operating system gives it back when the process ends, however
/// it ends.
#[derive(Debug)]
pub(super) struct WriteLock(#[expect(dead_code, reason = "held, not read")] File);

impl WriteLock {
    /// Takes the lock file beside the database and writes into it who holds it.
    pub(super) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it only makes the message better; the lock itself is what decides.
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::Locked {
                    path: database.to_owned(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let note = format!("process {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(failed)?;
        Ok(Self(file))
    }
}

pub(super) fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Opens the connection that writes, creating or migrating the file.
pub(super) fn open_writer(path: &Path, durability: Durability) -> Result<(Connection, LogState), OpenError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    let wrap = |error| refused(path, error);
    let version = check_owner(path, &connection, true)?;
    connection.execute_batch("PRAGMA journal_mode = WAL;").map_err(wrap)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = {synchronous};
             PRAGMA cache_size = -65536;
             PRAGMA wal_autocheckpoint = 4000;
             PRAGMA journal_size_limit = 67108864;"
        ))
        .map_err(wrap)?;
    migrate(&connection, version).map_err(wrap)?;
    let state = read_state(path, &connection)?;
    Ok((connection, state))
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    // Not SQLITE_OPEN_READ_ONLY: a reader of a WAL file may have to create its shared memory.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    check_owner(path, &connection, false)?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")
        .map_err(|error| refused(path, error))?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let wrap = |error| refused(path, error);
    let connection = Connection::open_with_flags(path, flags).map_err(wrap)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(wrap)?;
    connection.execute_batch("PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY;").map_err(wrap)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The schema version of a file that is ours; 0 for an empty one where that is allowed.
fn check_owner(path: &Path, connection: &Connection, may_be_new: bool) -> Result<i64, OpenError> {
    let wrap = |error| refused(path, error);
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).map_err(wrap)
    };
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(wrap)?;
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    match (application, version) {
        (0, 0) if tables == 0 && may_be_new => Ok(0),
        (APPLICATION_ID, version) if version > SCHEMA_VERSION => {
            Err(OpenError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION })
        }
        (APPLICATION_ID, version) if version >= 1 => Ok(version),
        _ => Err(OpenError::NotOurs { path: path.to_owned() }),
    }
}

fn migrate(connection: &Connection, from: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for (version, statements) in (1_i64..).zip(MIGRATIONS).skip(done) {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let applied = connection.execute_batch(statements).and_then(|()| {
            if version == 1 {
                create_log(connection)?;
            }
            connection.execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; COMMIT"
            ))
        });
        if let Err(error) = applied {
            connection.execute_batch("ROLLBACK")?;
            return Err(error);
        }
    }
    Ok(())
}

fn create_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO log (only, store_id, head, chain, created_at) VALUES (1, ?1, 0, ?2, ?3)",
        (Uuid::now_v7().as_bytes(), CHAIN_START, jiff::Timestamp::now().as_microsecond()),
    )?;
    connection.execute("INSERT INTO epoch (epoch, after) VALUES (1, 0)", [])?;
    Ok(())
}

/// Reads where the log ends, and checks that its last event is where the head says.
pub(super) fn read_state(path: &Path, connection: &Connection) -> Result<LogState, OpenError> {
    let wrap = |error| refused(path, error);
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let (store_id, head, chain) = connection
        .query_row("SELECT store_id, head, chain FROM log", [], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, u64>(1)?, row.get::<_, ChainHash>(2)?))
        })
        .map_err(wrap)?;
    let mut epochs = connection.prepare("SELECT epoch, after FROM epoch ORDER BY epoch").map_err(wrap)?;
    let starts = epochs
        .query_map([], |row| Ok(EpochStart { epoch: Epoch(row.get(0)?), after: Position(row.get(1)?) }))
        .and_then(Iterator::collect)
        .map_err(wrap)?;
    let lineage =
        Lineage::new(starts).ok_or_else(|| damaged("its table of epochs is empty or out of order".into()))?;
    let mut last = connection
        .prepare("SELECT position, chain, recorded_at FROM event ORDER BY position DESC LIMIT 1")
        .map_err(wrap)?;
    let last = last
        .query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, ChainHash>(1)?, row.get::<_, i64>(2)?)))
        .and_then(|mut rows| rows.next().transpose())
        .map_err(wrap)?;
    let (position, last_chain, last_recorded_at) = last.unwrap_or((0, CHAIN_START, i64::MIN));
    if position != head || chain != last_chain {
        return Err(damaged(format!("its head says position {head}, but its last event is at {position}")));
    }
    Ok(LogState {
        store_id: StoreId(Uuid::from_bytes(store_id)),
        lineage,
        head: Position(head),
        chain,
        last_recorded_at,
    })
}

/// What SQLite says of a file, as a reason to refuse it.
pub(super) fn refused(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotOurs { path },
        Some(ErrorCode::DatabaseCorrupt) => {
            OpenError::Damaged { path, reason: format!("SQLite says: {error}") }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::Locked { path, holder: "another program that has the file open".into() }
        }
        Some(ErrorCode::CannotOpen) => OpenError::CannotOpen { path, source: error },
        _ => OpenError::Sqlite { path, source: error },
    }
}
