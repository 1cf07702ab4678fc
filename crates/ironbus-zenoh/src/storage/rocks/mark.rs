//! The mark beside RocksDB's folder: that the log is ours, and how many of its slots were acknowledged.
//!
//! RocksDB checks every record that it reads, but it can't miss what it no longer finds. A flipped length near the
//! end of its log of writes, or a file that was cut off, looks to it as a write does that a crash cut short: it
//! drops that and what follows, and says nothing. The mark is raised before a commit is acknowledged, so a log
//! that ends before its mark has lost what was acknowledged, and is refused.
//!
//! It is in two copies, of which one may be damaged, and is written over in place, so that a full disk has room
//! for it. How far it may be behind the log: not at all after a kill, and after a power cut by what the disk
//! wasn't given of it, which is what was committed in the last second before, or the half minute in which the
//! system writes by itself if the log was idle then. It is never ahead, because RocksDB syncs first.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::RocksOpenError;
use crate::storage::bytes::{Damage, Reader, Writer};

const MAGIC: [u8; 4] = *b"ibrk";
const FORMAT: u16 = 1;

/// What one copy takes: what it is, the number, and a hash.
const COPY: usize = 4 + 2 + 8 + 32;

/// Where the copies are: no sector of a disk holds both.
const COPIES: [u64; 2] = [0, 4096];

/// How long a raised mark is left to the system while commits come.
const SYNC_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    /// How many slots, counted from the first, were acknowledged or stand before one that was.
    filled: u64,
    synced: u64,
    synced_at: Instant,
}

pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("mark")
}

/// The mark's file while it is made.
pub(super) const UNFINISHED: &str = "mark.new";

impl Mark {
    /// Makes the mark of a log that begins, whole or not at all.
    pub(super) fn create(folder: &Path) -> std::io::Result<()> {
        let unfinished = folder.join(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        write(&mut file, 0)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path(folder))?;
        File::open(folder)?.sync_all()
    }

    pub(super) fn open(folder: &Path) -> Result<Self, RocksOpenError> {
        let path = path(folder);
        let failed = |source| RocksOpenError::io(&path, source);
        let mut file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        let mut copies = Vec::with_capacity(COPIES.len());
        for at in COPIES {
            copies.push(read(&mut file, at).map_err(failed)?);
        }
        let newer = copies.iter().find_map(|copy| match copy {
            Err(Damage::Newer { found, known }) => Some((*found, *known)),
            _ => None,
        });
        if let Some((found, known)) = newer {
            return Err(RocksOpenError::Newer { path: folder.to_owned(), found, known });
        }
        if copies.iter().all(|copy| *copy == Err(Damage::NotOurs)) {
            return Err(RocksOpenError::NotOurs { path: folder.to_owned() });
        }
        for damage in copies.iter().filter_map(|copy| copy.as_ref().err()) {
            tracing::warn!(path = %path.display(), %damage, "one copy of the log's mark is damaged; the other is used");
        }
        let Some(filled) = copies.into_iter().flatten().max() else {
            let reason = format!("both copies in {} are unreadable", path.display());
            return Err(RocksOpenError::Damaged { path: folder.to_owned(), reason });
        };
        Ok(Self { file, filled, synced: filled, synced_at: Instant::now() })
    }

    /// How many slots there must be.
    pub(super) fn filled(&self) -> u64 {
        self.filled
    }

    /// Raises it to this many slots. What is in the file then survives the process; see above for the machine.
    pub(super) fn raise(&mut self, filled: u64) -> std::io::Result<()> {
        if filled <= self.filled {
            return Ok(());
        }
        write(&mut self.file, filled)?;
        self.filled = filled;
        // The first is synced at once: as long as the mark is 0, a start may create what isn't there.
        if self.synced == 0 || self.synced_at.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> std::io::Result<()> {
        if self.synced < self.filled {
            self.file.sync_data()?;
            (self.synced, self.synced_at) = (self.filled, Instant::now());
        }
        Ok(())
    }
}

fn write(file: &mut File, filled: u64) -> std::io::Result<()> {
    let mut copy = Writer::new(MAGIC, FORMAT);
    copy.u64(filled);
    let copy = copy.seal();
    for at in COPIES {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&copy)?;
    }
    Ok(())
}

fn read(file: &mut File, at: u64) -> std::io::Result<Result<u64, Damage>> {
    let mut copy = [0; COPY];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut copy) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Ok(Err(Damage::Malformed("it ends too early")));
        }
        Err(error) => return Err(error),
    }
    let filled = Reader::open(Bytes::copy_from_slice(&copy), MAGIC, FORMAT).and_then(|mut from| from.u64());
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(filled: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Mark::create(folder.path()).expect("it can be made");
        Mark::open(folder.path()).expect("it is sound").raise(filled).expect("there is room");
        folder
    }

    #[test]
    fn a_mark_is_found_as_it_was_raised_and_never_goes_back() {
        let folder = marked(7);
        let mut mark = Mark::open(folder.path()).expect("it is sound");
        mark.raise(3).expect("there is room");
        assert_eq!(Mark::open(folder.path()).expect("it is sound").filled(), 7);
    }

    #[test]
    fn one_damaged_copy_is_left_out_and_two_are_refused() {
        for byte in 0..COPY {
            let folder = marked(7);
            let whole = std::fs::read(path(folder.path())).expect("it is there");
            for at in COPIES.map(|at| usize::try_from(at).expect("small") + byte) {
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                std::fs::write(path(folder.path()), &flipped).expect("it can be written");
                assert_eq!(Mark::open(folder.path()).expect("the other is sound").filled(), 7, "byte {at}");
            }
            let mut flipped = whole;
            for at in COPIES.map(|at| usize::try_from(at).expect("small") + byte) {
                flipped[at] ^= 1;
            }
            std::fs::write(path(folder.path()), &flipped).expect("it can be written");
            let refused = Mark::open(folder.path()).expect_err("none is sound");
            let fits = match refused {
                RocksOpenError::NotOurs { .. } => byte < MAGIC.len(),
                RocksOpenError::Damaged { .. } => byte >= MAGIC.len(),
                _ => false,
            };
            assert!(fits, "byte {byte}: {refused}");
        }
    }

    #[test]
    fn a_mark_that_is_cut_off_is_refused() {
        let folder = marked(7);
        File::options()
            .write(true)
            .open(path(folder.path()))
            .expect("there")
            .set_len(9)
            .expect("it can be cut");
        let refused = Mark::open(folder.path()).expect_err("it is cut off");
        assert!(matches!(refused, RocksOpenError::Damaged { .. }), "{refused}");
    }

    #[test]
    fn a_mark_of_a_later_format_is_refused() {
        let folder = marked(7);
        let mut later = Writer::new(MAGIC, FORMAT + 1);
        later.u64(7);
        std::fs::write(path(folder.path()), later.seal()).expect("it can be written");
        let refused = Mark::open(folder.path()).expect_err("it is newer");
        assert!(matches!(refused, RocksOpenError::Newer { found: 2, known: 1, .. }), "{refused}");
    }
}
