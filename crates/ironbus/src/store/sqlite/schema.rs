//! The file: its schema, its version, and whether it is ours to open.
//!
//! Positions come from the single row of `log`, updated in the transaction that inserts the events, and
//! never from AUTOINCREMENT, whose numbers have holes. An aggregate's version is the greatest sequence in
//! `event_by_aggregate`, so there is no second place that could disagree.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};
use uuid::Uuid;

use super::journal::phase_number;
use super::reserve::Reserve;
use super::{Durability, OpenError, unsynced};
use crate::event::{Epoch, Position, StoreId};
use crate::store::{CHAIN_START, ChainHash, EpochStart, Lineage, Phase};

/// `IRBS`: marks the file as an ironbus log (SQLite's `application_id`).
const APPLICATION_ID: i64 = 0x4952_4253;

/// The version of the schema that this build writes (SQLite's `user_version`).
pub(super) const SCHEMA_VERSION: i64 = 4;

/// Each entry takes a file from the version of its index to the next; the first creates it.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [
    "
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
",
    "
    ALTER TABLE log ADD COLUMN phase INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE migration_step (
        step        INTEGER PRIMARY KEY,
        at          INTEGER NOT NULL,
        after       INTEGER NOT NULL,
        from_phase  INTEGER NOT NULL,
        to_phase    INTEGER NOT NULL,
        by          TEXT NOT NULL,
        reason      TEXT NOT NULL,
        figures     TEXT NOT NULL
    ) STRICT;
",
    // `carried`: see `carried.rs`; what was committed before isn't news. `unsynced`: see `unsynced.rs`.
    "
    ALTER TABLE log ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE log ADD COLUMN unsynced TEXT;
    ALTER TABLE epoch ADD COLUMN why TEXT;
    UPDATE log SET carried = head;
",
    // Why no append is accepted any more: the log went over to another place, or is a copy in the making.
    "
    ALTER TABLE log ADD COLUMN sealed TEXT;
",
];

/// What the `log` and `epoch` tables say.
#[derive(Clone, Debug)]
pub(super) struct LogState {
    pub(super) store_id: StoreId,
    pub(super) lineage: Lineage,
    pub(super) head: Position,
    pub(super) chain: ChainHash,
    pub(super) last_recorded_at: i64,
    pub(super) phase: Phase,
    /// How far it was carried to other nodes. Means something in phases that carry only; see `carried.rs`.
    pub(super) carried: Position,
    /// Why the epoch in force began, where that is known.
    pub(super) epoch_began: Option<String>,
    /// Why no append is accepted, if that is so.
    pub(super) sealed: Option<String>,
}

/// Holds the right to write the log; the operating system gives it back when the process ends, however
/// it ends.
#[derive(Debug)]
pub(super) struct WriteLock(#[expect(dead_code, reason = "held, not read")] File);

impl WriteLock {
    /// Takes the lock file beside the database and writes into it who holds it.
    pub(super) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::StorageFull => OpenError::StorageFull { path: database.to_owned() },
            _ => OpenError::Io { path: path.clone(), source },
        };
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

/// Opens the connection that writes, creating or migrating the file. `boot` is which start of the machine
/// this is. On a full disk the reserve is given free for it: a rollback of the migration has to open the log.
pub(super) fn open_writer(
    path: &Path,
    durability: Durability,
    boot: Option<&str>,
) -> Result<(Connection, LogState, WriteLock), OpenError> {
    match try_open_writer(path, durability, boot) {
        Err(OpenError::StorageFull { .. }) if Reserve::of(path).free() => {
            try_open_writer(path, durability, boot)
        }
        opened => opened,
    }
}

fn try_open_writer(
    path: &Path,
    durability: Durability,
    boot: Option<&str>,
) -> Result<(Connection, LogState, WriteLock), OpenError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    let wrap = |error| refused(path, error);
    // Before the lock, so that nothing is left beside a file that isn't ours; and once more within it.
    check_owner(path, &connection, true)?;
    let lock = WriteLock::take(path)?;
    let version = check_owner(path, &connection, true)?;
    if version == SCHEMA_VERSION {
        // A damaged file is refused before anything in it is changed.
        read_state(path, &connection)?;
    }
    // Before WAL, so that a new file carries its owner and its schema from its first page on.
    migrate(&connection, version).map_err(wrap)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(wrap)?;
    let mut state = read_state(path, &connection)?;
    if unsynced::settle(path, &connection, &state, durability, boot)?.is_some() {
        state = read_state(path, &connection)?;
    }
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    // Foreign keys: whoever writes gives an aggregate its row before its first event, so nothing is looked up once more
    // for each event. The cache is small, because a commit that has split a page walks all of it (SQLite 3.54,
    // `pcache1TruncateUnsafe`); what is read comes from the mapped file.
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = {synchronous};
             PRAGMA foreign_keys = OFF;
             PRAGMA cache_size = -16384;
             PRAGMA journal_size_limit = 67108864;"
        ))
        .map_err(wrap)?;
    fold_in_at_close(&connection, true).map_err(wrap)?;
    Ok((connection, state, lock))
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

/// Opens the connection that folds the write-ahead log in.
pub(super) fn open_for_checkpoints(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// Whether a connection that closes as the last one folds the write-ahead log into the file. A new
/// connection doesn't: a file that turns out to be none that we may change stays as it is.
pub(super) fn fold_in_at_close(connection: &Connection, fold: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !fold)?;
    Ok(())
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let wrap = |error| refused(path, error);
    let connection = Connection::open_with_flags(path, flags).map_err(wrap)?;
    fold_in_at_close(&connection, false).map_err(wrap)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(wrap)?;
    connection.execute_batch("PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY;").map_err(wrap)?;
    // Without it a statement is compiled anew each time that its LIMIT is bound: SQLite plans by the value (3.54,
    // `sqlite3ExprIsInteger`), which took more than half of a load.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(wrap)?;
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
            // Some errors, that of a full disk among them, have ended the transaction already.
            if !connection.is_autocommit()
                && let Err(error) = connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "a migration of the schema that failed could not be rolled back");
            }
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

/// Reads where the log ends and its phase, and checks that its last event is where the head says.
pub(super) fn read_state(path: &Path, connection: &Connection) -> Result<LogState, OpenError> {
    let wrap = |error| refused(path, error);
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    // One snapshot, because whoever writes the log may go on, and its head is compared with its last event.
    let _snapshot =
        connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose().map_err(wrap)?;
    let (store_id, head, chain) = connection
        .query_row("SELECT store_id, head, chain FROM log", [], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, u64>(1)?, row.get::<_, ChainHash>(2)?))
        })
        .map_err(wrap)?;
    let lineage = read_lineage(connection)
        .map_err(wrap)?
        .ok_or_else(|| damaged("its table of epochs is empty or out of order".into()))?;
    let mut last = connection
        .prepare("SELECT position, chain, recorded_at FROM event ORDER BY position DESC LIMIT 1")
        .map_err(wrap)?;
    let last = last
        .query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, ChainHash>(1)?, row.get::<_, i64>(2)?)))
        .and_then(|mut rows| rows.next().transpose())
        .map_err(wrap)?;
    let (position, last_chain, last_recorded_at) = last.unwrap_or((0, CHAIN_START, i64::MIN));
    if position != head {
        return Err(damaged(format!("its head says position {head}, but its last event is at {position}")));
    }
    if chain != last_chain {
        return Err(damaged(format!(
            "its head and its last event, at position {head}, have different hashes"
        )));
    }
    let number = phase_number(connection).map_err(wrap)?;
    let phase = Phase::from_number(number)
        .ok_or_else(|| damaged(format!("it says that it is in phase {number}, which there isn't")))?;
    let (carried, epoch_began) = if schema_version(connection).map_err(wrap)? < 3 {
        (Position(head), None)
    } else {
        let carried: u64 =
            connection.query_row("SELECT carried FROM log", [], |row| row.get(0)).map_err(wrap)?;
        let began = "SELECT why FROM epoch ORDER BY epoch DESC LIMIT 1";
        (Position(carried.min(head)), connection.query_row(began, [], |row| row.get(0)).map_err(wrap)?)
    };
    let sealed = if schema_version(connection).map_err(wrap)? < 4 {
        None
    } else {
        connection.query_row("SELECT sealed FROM log", [], |row| row.get(0)).map_err(wrap)?
    };
    Ok(LogState {
        store_id: StoreId(Uuid::from_bytes(store_id)),
        lineage,
        head: Position(head),
        chain,
        last_recorded_at,
        phase,
        carried,
        epoch_began,
        sealed,
    })
}

/// The schema version of a file that is ours; whoever reads may meet an older one.
pub(super) fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Does something in one transaction that not even a power cut may take back, however appends are synced.
pub(super) fn synced<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let usual: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    let done = connection.unchecked_transaction().and_then(|transaction| {
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    });
    if let Err(error) = connection.execute_batch(&format!("PRAGMA synchronous = {usual}")) {
        tracing::warn!(%error, "appends are synced each, and so may be slower than they were");
    }
    done
}

/// Adds the next epoch, which begins after the log's last event, and why.
pub(super) fn insert_epoch(connection: &Connection, state: &LogState, why: &str) -> rusqlite::Result<Epoch> {
    insert_epoch_from(connection, state, state.lineage.epoch(), why)
}

/// Adds the next epoch whose number is at least the one given.
pub(super) fn insert_epoch_from(
    connection: &Connection,
    state: &LogState,
    least: Epoch,
    why: &str,
) -> rusqlite::Result<Epoch> {
    let epoch = Epoch(least.0.max(state.lineage.epoch().0 + 1));
    connection
        .execute("INSERT INTO epoch (epoch, after, why) VALUES (?1, ?2, ?3)", (epoch.0, state.head.0, why))?;
    Ok(epoch)
}

/// The log's epochs; `None` if the table can't be one of a log.
pub(super) fn read_lineage(connection: &Connection) -> rusqlite::Result<Option<Lineage>> {
    let mut epochs = connection.prepare("SELECT epoch, after FROM epoch ORDER BY epoch")?;
    let start = |row: &Row<'_>| Ok(EpochStart { epoch: Epoch(row.get(0)?), after: Position(row.get(1)?) });
    Ok(Lineage::new(epochs.query_map([], start)?.collect::<Result<_, _>>()?))
}

/// What SQLite says of a file, as a reason to refuse it.
pub(super) fn refused(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    // The shared memory of the write-ahead log is a file that has to grow.
    if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE) {
        return OpenError::StorageFull { path };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => OpenError::StorageFull { path },
        Some(ErrorCode::NotADatabase) => OpenError::NotOurs { path },
        // Neither its structure nor its schema (`Unknown`: there is no such table) is what was written.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) => {
            OpenError::Damaged { path, reason: format!("SQLite says: {error}") }
        }
        None => OpenError::Damaged { path, reason: format!("what it says of itself can't be read: {error}") },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::Locked { path, holder: "another program that has the file open".into() }
        }
        Some(ErrorCode::CannotOpen) => OpenError::CannotOpen { path, source: error },
        _ => OpenError::Sqlite { path, source: error },
    }
}
