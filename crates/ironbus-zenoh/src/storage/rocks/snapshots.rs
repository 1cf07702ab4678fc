//! Snapshots, as files. They are left out where they are damaged, and may be deleted at any time.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::storage::log::Slot;

/// How many are kept: the latest, and one more in case that it turns out damaged.
const KEPT: usize = 2;

fn folder(log: &Path) -> PathBuf {
    log.join("snapshot")
}

/// Numbers of a fixed width, so that their order is that of their names.
fn path(log: &Path, before: Slot) -> PathBuf {
    folder(log).join(format!("{:020}", before.0))
}

/// The snapshots that there are, the latest first.
pub(super) fn list(log: &Path) -> std::io::Result<Vec<Slot>> {
    let entries = match std::fs::read_dir(folder(log)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        // What isn't a number is one that was never finished.
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).map(Slot));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

pub(super) fn read(log: &Path, before: Slot) -> std::io::Result<Option<Bytes>> {
    match std::fs::read(path(log, before)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(|bytes| Some(bytes.into())),
    }
}

/// Keeps a snapshot, whole or not at all, and deletes those that are too old.
pub(super) fn keep(log: &Path, before: Slot, snapshot: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder(log))?;
    let unfinished = folder(log).join("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(snapshot)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path(log, before))?;
    for old in list(log)?.into_iter().skip(KEPT) {
        std::fs::remove_file(path(log, old))?;
    }
    Ok(())
}
