//! The commit log: numbered slots, each of which is written once.
//!
//! This is all that a storage has to be able to do. Which appends a slot's batch holds, and what they
//! mean, is decided above (`plan`, `state`).

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

/// The number of a slot, counted from 0. Slots are filled in order and none is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of a batch that was put into a slot.
#[derive(Debug)]
pub enum Committed {
    /// It is there, on stable storage.
    Won,
    /// The slot holds this; the batch was not written. It may be the very batch, of which an earlier attempt
    /// had got through unnoticed.
    Lost(Bytes),
    /// It can't be told. It may be there, or come to be there at any later time, unless something else is
    /// there before.
    Unknown(LogError),
}

/// Why a log can't be read or written just now.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
pub struct LogError {
    /// What was asked for, and where.
    pub place: String,
    /// What the storage said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Whether the storage says that what it holds there is damaged. To ask again is of no use then.
    pub damaged: bool,
}

impl LogError {
    /// An error of the storage at this place.
    pub fn new(
        place: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { place: place.into(), source: source.into(), damaged: false }
    }

    /// What the storage itself has found to be damaged at this place.
    pub fn damaged(
        place: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { damaged: true, ..Self::new(place, source) }
    }
}

/// A log of slots with compare-and-set, and beside it snapshots of what the slots add up to.
///
/// The one promise on which everything rests: of all that is ever put into one slot, by whomever, exactly one
/// batch is ever there; nobody reads another, and [`Committed::Won`] is told of no other.
#[async_trait]
pub trait CommitLog: std::fmt::Debug + Send + Sync + 'static {
    /// Puts a batch into a slot if nothing is there.
    async fn commit(&self, slot: Slot, batch: Bytes) -> Committed;

    /// What a slot holds; `None` if nothing was there at some moment since this was asked.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the log can't be read.
    async fn read(&self, slot: Slot) -> Result<Option<Bytes>, LogError>;

    /// The first slot after `slot` that holds something: found only where a slot in between was lost.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the log can't be read.
    async fn beyond(&self, slot: Slot) -> Result<Option<Slot>, LogError>;

    /// The snapshots that there are, the latest first. Each is of all slots before the one it bears.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the log can't be read.
    async fn snapshots(&self) -> Result<Vec<Slot>, LogError>;

    /// A snapshot.
    ///
    /// # Errors
    ///
    /// [`LogError`] when the log can't be read.
    async fn snapshot(&self, before: Slot) -> Result<Option<Bytes>, LogError>;

    /// Keeps a snapshot of all slots before `before`, and may drop those that two later ones make useless.
    ///
    /// # Errors
    ///
    /// [`LogError`] when it can't be kept. The log goes on without it.
    async fn keep_snapshot(&self, before: Slot, snapshot: Bytes) -> Result<(), LogError>;

    /// Where it is, for people.
    fn place(&self) -> String {
        format!("{self:?}")
    }

    /// Its folder, where it has one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Whether several nodes may have it open at the same time.
    fn is_shared(&self) -> bool {
        true
    }

    /// Gives it free, for others who may have it only alone. Whatever is asked of it later may fail.
    async fn close(&self) {}
}
