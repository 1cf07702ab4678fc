//! Why a log in RocksDB can't be opened.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a log in RocksDB can't be opened. What was refused stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RocksOpenError {
    /// There is none, and none was to be begun.
    #[error("there is no log in {path}; name another folder, or let one be created")]
    NoLog {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error("{path} holds something else than an ironbus log; name another folder, or an empty one")]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The log was written by a later version of ironbus.
    #[error("{path} has format {found}, but this build knows formats up to {known}; use a newer ironbus")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// The greatest that is known here.
        known: u16,
    },
    /// Somebody else has the log open.
    #[error("{path} is in use by {holder}; stop it first, or talk to its server instead")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who uses it, as far as is known.
        holder: String,
    },
    /// The log is damaged.
    #[error("{path} is damaged: {reason}; keep a copy of it, and restore a backup")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no space left to open the log.
    #[error("no space left to open {path}: free 64 MiB on its disk, then try again")]
    StorageFull {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{path} can't be used (may you write there?): {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// RocksDB refused.
    #[error("{path}: {source}")]
    RocksDb {
        /// The folder.
        path: PathBuf,
        /// What it said.
        source: rocksdb::Error,
    },
}

impl RocksOpenError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull => Self::StorageFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    /// What RocksDB said at an open of a log that has something in it, or is begun.
    pub(super) fn rocksdb(path: &Path, source: rocksdb::Error) -> Self {
        let path = path.to_owned();
        let text = source.to_string();
        match source.kind() {
            rocksdb::ErrorKind::IOError if text.contains("No space left") => Self::StorageFull { path },
            // Of all that RocksDB holds locked it says either.
            rocksdb::ErrorKind::IOError if text.contains("/LOCK: ") || text.contains("lock hold by") => {
                Self::Locked { path, holder: "another program of RocksDB's".into() }
            }
            // It finds a file missing that another one names.
            rocksdb::ErrorKind::IOError if text.contains("No such file") => {
                Self::Damaged { path, reason: text }
            }
            // A whole folder that is gone, or a part of it, would be for it to create; it wasn't let.
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument => {
                Self::Damaged { path, reason: text }
            }
            _ => Self::RocksDb { path, source },
        }
    }
}
