//! Where a log is: an address, and who opens it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::store::{CopyOf, Durability, Log, LogCopy, OpenError, SqliteEventStore, SqliteOptions, sqlite};
use crate::tail::{RingLimits, Tail};

/// The address of a log: `sqlite:ironbus.db`, `rocksdb:rocks`, `folder:slots`, `s3://bucket/prefix`. A path that isn't
/// absolute is one within the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogPlace {
    kind: String,
    rest: String,
}

impl LogPlace {
    /// The SQLite log of a data directory.
    #[must_use]
    pub fn database() -> Self {
        Self { kind: Self::SQLITE.into(), rest: "ironbus.db".into() }
    }

    /// Some place that isn't a SQLite file, for what is the same wherever that is.
    pub(crate) fn anywhere() -> Self {
        Self { kind: "folder".into(), rest: "slots".into() }
    }

    /// The kind of a log in a SQLite file.
    pub const SQLITE: &str = "sqlite";

    /// What kind of log is there: `sqlite`, `rocksdb`, `folder`, `s3`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether it is a SQLite file.
    #[must_use]
    pub fn is_database(&self) -> bool {
        self.kind == Self::SQLITE
    }

    /// What follows the kind.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// Its path, where its kind is one of files.
    #[must_use]
    pub fn path_in(&self, data: &Path) -> PathBuf {
        data.join(&self.rest)
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.rest)
    }
}

/// A text that is no address of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of a log; write sqlite:FILE, rocksdb:DIRECTORY, folder:DIRECTORY or s3://BUCKET/PREFIX"
)]
pub struct InvalidPlace(String);

impl FromStr for LogPlace {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPlace(text.chars().take(256).collect());
        let (kind, rest) = text.split_once(':').ok_or_else(invalid)?;
        let known = ["sqlite", "rocksdb", "folder", "s3"].contains(&kind);
        let written = if kind == "s3" { rest.starts_with("//") && rest.len() > 2 } else { !rest.is_empty() };
        if known && written { Ok(Self { kind: kind.into(), rest: rest.into() }) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for LogPlace {
    type Error = InvalidPlace;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LogPlace> for String {
    fn from(place: LogPlace) -> Self {
        place.to_string()
    }
}

/// Whoever opens logs by their addresses.
#[async_trait]
pub trait LogPlaces: fmt::Debug + Send + Sync + 'static {
    /// Opens the log at a place, or begins one where there is none. It feeds `tail`, which has found no log yet or
    /// stands at an older epoch of this one.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    async fn open(&self, place: &LogPlace, tail: Arc<Tail>) -> Result<Arc<dyn Log>, OpenError>;

    /// The copy of a log that is being made at a place, begun where there is nothing yet. A sealed log that holds the
    /// same up to its end becomes one. It feeds `tail` once it is opened.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with what to do.
    async fn copy(&self, place: &LogPlace, of: &CopyOf, tail: Arc<Tail>) -> Result<Found, OpenError>;
}

/// What was found where a copy is to be.
pub enum Found {
    /// A copy in the making.
    Copy(Box<dyn LogCopy>),
    /// The copy was opened and accepts appends. It isn't open here: a log that isn't in force feeds no tail.
    Opened,
}

/// Opens SQLite logs itself, and has the others opened by whom it was given.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) data: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) ring: RingLimits,
    pub(crate) storage: Option<Arc<dyn LogPlaces>>,
}

impl Places {
    fn storage(&self, place: &LogPlace) -> Result<&Arc<dyn LogPlaces>, OpenError> {
        self.storage.as_ref().ok_or_else(|| OpenError::Elsewhere {
            place: place.to_string(),
            source: "this program opens SQLite logs only".into(),
        })
    }

    fn sqlite(&self, place: &LogPlace, tail: Arc<Tail>) -> SqliteOptions {
        SqliteOptions {
            durability: self.durability,
            ring: self.ring,
            tail: Some(tail),
            ..SqliteOptions::new(place.path_in(&self.data))
        }
    }
}

#[async_trait]
impl LogPlaces for Places {
    async fn open(&self, place: &LogPlace, tail: Arc<Tail>) -> Result<Arc<dyn Log>, OpenError> {
        if !place.is_database() {
            return self.storage(place)?.open(place, tail).await;
        }
        Ok(Arc::new(SqliteEventStore::open(self.sqlite(place, tail)).await?))
    }

    async fn copy(&self, place: &LogPlace, of: &CopyOf, tail: Arc<Tail>) -> Result<Found, OpenError> {
        if !place.is_database() {
            return self.storage(place)?.copy(place, of, tail).await;
        }
        sqlite::copy_of(self.sqlite(place, tail), of.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_what_it_writes_and_nonsense_is_refused() {
        for text in ["sqlite:ironbus.db", "rocksdb:/var/rocks", "folder:a b", "s3://bucket/logs/main?x=1"] {
            assert_eq!(text.parse::<LogPlace>().expect("an address").to_string(), text);
        }
        for text in ["", "ironbus.db", "sqlite:", "s3:bucket", "s3://", "ftp://x"] {
            assert!(text.parse::<LogPlace>().is_err(), "{text:?} was taken for an address");
        }
    }
}
