//! Space that is kept for a step back: a small file beside the database, given free when the disk is full.
//!
//! A rollback of the migration must always be possible, and is recorded in the log's own file. On a full disk
//! only the reserve has room for that. Appends don't get it: the writer's thread gives it free, records, and
//! takes it again before it looks at an append. (Where the record fails all the same, the room that it took in
//! the write-ahead log stays there, and appends may find it.)

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// How much is kept. A step takes some pages of 4 KiB in the write-ahead log, and its figures.
const BYTES: usize = 256 << 10;
const BLOCK: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of a database, as it is.
    pub(super) fn of(database: &Path) -> Self {
        let mut name = OsString::from(database);
        name.push("-reserve");
        Self { path: name.into() }
    }

    /// Takes what is missing of it, as far as there is room: a part of it is better than nothing.
    pub(super) fn fill(&self) {
        match self.try_fill() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => tracing::warn!(
                held = self.held(),
                wanted = BYTES,
                "the disk is full: there may be no room to record a rollback of the migration; free some space"
            ),
            Err(error) => tracing::warn!(
                path = %self.path.display(),
                %error,
                "no space can be kept for a rollback of the migration on a full disk"
            ),
        }
    }

    fn try_fill(&self) -> std::io::Result<()> {
        let missing = BYTES.saturating_sub(self.held());
        if missing == 0 {
            return Ok(());
        }
        let held = self.held() as u64;
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        let written = missing.div_ceil(BLOCK);
        let written = (0..written).try_for_each(|_| file.write_all(&noise()));
        // Also where only a part could be written. Some file systems look for blocks only now: what has none
        // isn't kept, so that it is tried again.
        file.sync_all().or_else(|error| file.set_len(held).and(Err(error)))?;
        written
    }

    fn held(&self) -> usize {
        std::fs::metadata(&self.path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX))
    }

    /// Gives its space free. Says whether there was any.
    pub(super) fn free(&self) -> bool {
        if self.held() == 0 {
            return false;
        }
        let freed = File::options().write(true).open(&self.path).and_then(|file| {
            file.set_len(0)?;
            // Some file systems give blocks free only once that is on the disk.
            file.sync_all()
        });
        if let Err(error) = &freed {
            tracing::warn!(path = %self.path.display(), %error, "the reserve could not be given free");
        }
        freed.is_ok()
    }
}

/// A block that no file system stores as nothing, as it may do with zeros.
fn noise() -> [u8; BLOCK] {
    let mut chance = uuid::Uuid::new_v4().as_u128() | 1;
    std::array::from_fn(|_| {
        // A multiplier of a linear congruential generator of 128 bits (L'Ecuyer 1999).
        chance = chance.wrapping_mul(0xda94_2042_e4dd_58b5);
        (chance >> 120) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_filled_up_given_free_and_filled_anew() {
        let directory = tempfile::tempdir().expect("temporary files can be made");
        let reserve = Reserve::of(&directory.path().join("ironbus.db"));
        assert!(!reserve.free(), "there was none");
        reserve.fill();
        assert_eq!(reserve.held(), BYTES);
        File::options().write(true).open(&reserve.path).and_then(|file| file.set_len(5000)).expect("cut");
        reserve.fill();
        assert!(reserve.held() >= BYTES, "what was missing is taken");
        assert!(reserve.free());
        assert_eq!(reserve.held(), 0);
    }
}
