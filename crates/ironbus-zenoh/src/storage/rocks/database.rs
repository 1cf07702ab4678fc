//! RocksDB as the log uses it: what it is told, and how its folder is opened.

use std::path::{Path, PathBuf};

use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, ReadOptions,
    WriteOptions,
};

use super::error::RocksOpenError;
use super::frames;
use crate::storage::batch;
use crate::storage::log::Slot;

/// How much is kept in memory, and in the log of writes, before it goes into a table. A start reads it.
const WRITE_BUFFER: usize = 32 << 20;

/// RocksDB's own folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("db")
}

/// Opens the database for writing. `filled` is how many slots it must have; it is created only if none.
pub(super) fn open(folder: &Path, filled: u64) -> Result<DB, RocksOpenError> {
    if filled > 0 {
        // A start for writing carries the log of writes over into a table and deletes it, with whatever was
        // damaged in it. So another one looks first, which changes nothing.
        check_end(folder, filled)?;
    } else {
        frames::check(folder, &path(folder))?;
    }
    let mut options = options();
    options.create_if_missing(filled == 0);
    DB::open(&options, path(folder)).map_err(|source| RocksOpenError::rocksdb(folder, source))
}

/// Opens the database so that it stays as it is.
pub(super) fn open_to_read(folder: &Path) -> Result<DB, RocksOpenError> {
    frames::check(folder, &path(folder))?;
    DB::open_for_read_only(&options(), path(folder), false)
        .map_err(|source| RocksOpenError::rocksdb(folder, source))
}

/// Refuses a log that would end where it didn't.
///
/// Where RocksDB finds a record that isn't whole, its log of writes ends for it. After a power cut that is what is
/// left of the last write, which was not acknowledged. It is damage where the mark says that more was acknowledged,
/// or where a write after it was begun: that was only when the one before was on the disk.
fn check_end(folder: &Path, filled: u64) -> Result<(), RocksOpenError> {
    let db = open_to_read(folder)?;
    let refused = |source| RocksOpenError::rocksdb(folder, source);
    let damaged = |reason| Err(RocksOpenError::Damaged { path: folder.to_owned(), reason });
    let found = last_slot(&db).map_err(refused)?.map_or(0, |last| last.next().0);
    if found < filled {
        return damaged(format!("{filled} slots were acknowledged, and only {found} are found"));
    }
    let Some(first) = read(&db, Slot(0)).map_err(refused)? else { return Ok(()) };
    match last_in_writes(folder, &first).map_err(|source| RocksOpenError::io(folder, source))? {
        Some(later) if later > Slot(found) => {
            damaged(format!("slot {found} is unreadable, and slot {later} was written after it"))
        }
        _ => Ok(()),
    }
}

/// The last slot of which there is anything in the logs of writes, whether RocksDB finds it or not.
fn last_in_writes(folder: &Path, first: &[u8]) -> std::io::Result<Option<Slot>> {
    let mut last = None;
    for entry in std::fs::read_dir(path(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            last = last.max(batch::last_begun(first, &frames::joined(&std::fs::read(path)?)));
        }
    }
    Ok(last)
}

fn options() -> Options {
    let mut options = Options::default();
    // The log of writes ends where the first record isn't whole: what a power cut has left of a write, in whatever
    // order a disk took its sectors. The mode for half records only would refuse some of these logs, and would not
    // notice a flipped length either. `check_end` tells the end from damage.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A log of writes that is complete, but not yet in a table, must be found whole.
    options.set_track_and_verify_wals_in_manifest(true);
    // Old logs of writes aren't used again: what is left in one could be taken for a record of the new.
    options.set_recycle_log_file_num(0);
    // After a write that failed no other is accepted until the database has been opened anew.
    options.set_paranoid_checks(true);
    // Any build can read what this one writes, whatever it was built with.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_open_files(512);
    // RocksDB's own notes of what it does.
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}

/// How a commit is written: on stable storage before it is told of, and before anybody reads it.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn checked() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

/// In this order of bytes keys are sorted as the slots are.
fn key(slot: Slot) -> [u8; 8] {
    slot.0.to_be_bytes()
}

fn slot_of(key: &[u8]) -> Option<Slot> {
    key.try_into().ok().map(u64::from_be_bytes).map(Slot)
}

type Read<T> = Result<T, rocksdb::Error>;

pub(super) fn read(db: &DB, slot: Slot) -> Read<Option<Vec<u8>>> {
    db.get_opt(key(slot), &checked())
}

pub(super) fn fill(db: &DB, slot: Slot, batch: &[u8]) -> Result<(), rocksdb::Error> {
    db.put_opt(key(slot), batch, &synced())
}

/// The first slot at or after `slot` that is filled.
pub(super) fn first_from(db: &DB, slot: Slot) -> Read<Option<Slot>> {
    first(db.iterator_opt(IteratorMode::From(&key(slot), Direction::Forward), checked()))
}

fn last_slot(db: &DB) -> Read<Option<Slot>> {
    first(db.iterator_opt(IteratorMode::End, checked()))
}

fn first(mut entries: rocksdb::DBIterator<'_>) -> Read<Option<Slot>> {
    Ok(entries.next().transpose()?.and_then(|(key, _)| slot_of(&key)))
}

#[cfg(test)]
mod tests {
    use rocksdb::statistics::Ticker;

    use super::*;

    #[test]
    fn every_commit_is_on_the_disk_before_it_is_told_of() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = options();
        options.create_if_missing(true);
        options.enable_statistics();
        let db = DB::open(&options, folder.path()).expect("an empty folder");
        for n in 1..=5 {
            fill(&db, Slot(n), b"batch").expect("there is space");
            assert_eq!(options.get_ticker_count(Ticker::WalFileSynced), n);
        }
    }
}
