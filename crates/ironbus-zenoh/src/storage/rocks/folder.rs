//! The folder of a log: whose it is, and who has it open.
//!
//! `mark` (see `mark.rs`) says that it is ours, `lock` is held by whoever has it open, `db` is RocksDB's, and
//! `snapshot` holds snapshots of the state that the slots add up to.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use super::database;
use super::error::RocksOpenError;
use super::mark::{self, Mark};

const LOCK: &str = "lock";

/// Holds the right to use the folder; the operating system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the folder of a log, or makes one of a folder that isn't there or is empty.
pub(super) fn take(folder: &Path, create: bool) -> Result<(Lock, Mark), RocksOpenError> {
    let failed = |source| RocksOpenError::io(folder, source);
    // Nothing is left beside what isn't ours.
    check_owner(folder, create)?;
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = Lock::take(folder)?;
    if !mark::path(folder).try_exists().map_err(failed)? {
        let database = database::path(folder);
        std::fs::create_dir_all(&database).map_err(failed)?;
        // With the mark the log is begun: whatever it needs is there by then.
        Mark::create(folder).map_err(failed)?;
        sync_parent(folder).map_err(failed)?;
    }
    Ok((lock, Mark::open(folder)?))
}

/// Refuses a folder without a mark, unless it is empty or a log was about to be begun in it.
fn check_owner(folder: &Path, create: bool) -> Result<(), RocksOpenError> {
    let failed = |source| RocksOpenError::io(folder, source);
    let none = || RocksOpenError::NoLog { path: folder.to_owned() };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if create { Ok(()) } else { Err(none()) };
        }
        Err(error) => return Err(failed(error)),
    };
    let mut begun = true;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if mark::path(folder).file_name() == Some(&name) {
            return Ok(());
        }
        let empty = || std::fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
        begun &=
            name == LOCK || name == mark::UNFINISHED || (entry.path() == database::path(folder) && empty());
    }
    match (begun, create) {
        (true, true) => Ok(()),
        (true, false) => Err(none()),
        (false, _) => Err(RocksOpenError::NotOurs { path: folder.to_owned() }),
    }
}

/// That the folder itself is found after a power cut.
fn sync_parent(folder: &Path) -> std::io::Result<()> {
    let folder = folder.canonicalize()?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

impl Lock {
    /// Takes the lock, and writes into it who holds it.
    fn take(folder: &Path) -> Result<Self, RocksOpenError> {
        let path = folder.join(LOCK);
        let failed = |source| RocksOpenError::io(&path, source);
        let options = File::options().create(true).truncate(false).read(true).write(true).clone();
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it only makes the message better; the lock itself is what decides.
                let _ = file.read_to_string(&mut holder);
                return Err(RocksOpenError::Locked {
                    path: folder.to_owned(),
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
