//! The file that says where a data directory's log is, and where it is going.
//!
//! Without it the log is the directory's SQLite file. It is written beside and renamed, so it is whole at any moment.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::LogPlace;
use crate::store::{OpenError, Phase};

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The log in force, or the one that a move leaves.
    pub log: LogPlace,
    /// The move that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "move")]
    pub moving: Option<Move>,
    /// The log that was left, and is kept up to date for the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<LogPlace>,
}

/// A move that is under way, and the step that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where the log goes.
    pub to: LogPlace,
    /// The phase that it leaves.
    pub from_phase: Phase,
    /// The phase that it leads to.
    pub to_phase: Phase,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it began.
    pub began: Timestamp,
}

impl Whereabouts {
    /// The file's name.
    pub const FILE: &str = "log.json";

    /// What is true without a file.
    #[must_use]
    pub fn usual() -> Self {
        Self { log: LogPlace::database(), moving: None, mirror: None }
    }

    /// What the file of a data directory says; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when it can't be read, or isn't such a file.
    pub fn read(data: &Path) -> Result<Option<Self>, OpenError> {
        let path = data.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            let reason = format!("it should say where the log is, and doesn't ({error})");
            OpenError::Damaged { path, reason }
        })
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    ///
    /// What the file system said; the file is as it was then.
    pub fn write(&self, data: &Path) -> Result<(), OpenError> {
        let path = data.join(Self::FILE);
        self.try_write(data, &path).map_err(|source| match source.kind() {
            ErrorKind::StorageFull => OpenError::StorageFull { path },
            _ => OpenError::Io { path, source },
        })
    }

    fn try_write(&self, data: &Path, path: &PathBuf) -> std::io::Result<()> {
        let new = path.with_extension("json.new");
        let mut file = File::create(&new)?;
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(data)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_what_it_says_and_nonsense_is_refused() {
        let data = tempfile::tempdir().expect("temporary files can be made");
        assert_eq!(Whereabouts::read(data.path()).expect("no file"), None);
        let mut said = Whereabouts::usual();
        said.moving = Some(Move {
            to: "rocksdb:rocks".parse().expect("an address"),
            from_phase: Phase::Zenoh,
            to_phase: Phase::ZenohStorage,
            by: "ann".into(),
            reason: "more".into(),
            began: Timestamp::UNIX_EPOCH,
        });
        said.write(data.path()).expect("written");
        assert_eq!(Whereabouts::read(data.path()).expect("read"), Some(said));
        std::fs::write(data.path().join(Whereabouts::FILE), "{\"log\":\"nowhere\"}").expect("written");
        assert!(matches!(Whereabouts::read(data.path()), Err(OpenError::Damaged { .. })));
    }
}
