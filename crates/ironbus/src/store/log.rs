//! A log that a node has itself, whatever it is built on.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::sqlite::carried::Carried;
use super::{Append, AppendError, Appended, ChainHash, EventStore, Journal, JournalStep, Lineage};
use crate::event::{Epoch, Position, StoreId, StoredEvent};
use crate::store::ReadError;
use crate::tail::Tail;

/// Where a log ends, and the hash over all of it. Logs whose position and hash are the same hold the same, event by
/// event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The epoch in force.
    pub epoch: Epoch,
    /// The last position.
    pub head: Position,
    /// The hash of all events up to it ([`super::chain`]).
    pub chain: ChainHash,
}

impl LogEnd {
    /// Whether two logs hold the same.
    #[must_use]
    pub fn holds_the_same(&self, other: &Self) -> bool {
        (self.head, self.chain) == (other.head, other.chain)
    }
}

/// A log that a node has itself: an event store with a journal of its migration, which can be sealed, so that the
/// log goes on elsewhere.
#[async_trait]
pub trait Log: EventStore + Journal {
    /// The end of the log in memory.
    fn tail(&self) -> &Arc<Tail>;

    /// Where it is, for people.
    fn place(&self) -> String;

    /// Its file or directory, where it has one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Whether other nodes may append to it as this one does. Then the log itself sees to it that they agree.
    fn is_shared(&self) -> bool {
        false
    }

    /// Why the epoch in force began, for people, where that is known.
    fn epoch_began(&self) -> Option<String> {
        None
    }

    /// Another node has committed, so that a shared log is looked at at once. Only makes it quicker.
    fn hint(&self) {}

    /// Its name among those that write to the log, where several may.
    fn writer(&self) -> Option<Uuid> {
        None
    }

    /// How the others that write to a shared log are reached, so that one may append for all. Only makes it quicker.
    fn reach_others_by(&self, _others: Arc<dyn OtherWriters>) {}

    /// Appends for another node, which has this one in mind: never sent on.
    ///
    /// # Errors
    ///
    /// [`AppendError`].
    async fn append_here(&self, append: Append) -> Result<Appended, AppendError> {
        self.append(append).await
    }

    /// How far whoever carries its events elsewhere was handed it, where that is kept across starts.
    #[doc(hidden)]
    fn carrying(&self) -> Option<Carrying> {
        None
    }

    /// Seals it: no append is accepted from then on, also after a restart, until a later epoch begins. To seal a
    /// sealed log changes nothing. `why` is told to those whose appends are refused.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; whether it is sealed is unknown only after [`AppendError::Unknown`].
    async fn seal(&self, why: &str) -> Result<LogEnd, AppendError>;

    /// Begins the next epoch after its last event, which opens a sealed log again.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; whether it has begun is unknown only after [`AppendError::Unknown`].
    async fn begin_epoch(&self, why: &str) -> Result<LogEnd, AppendError>;

    /// Whether it is sealed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when it can't be reached.
    async fn is_sealed(&self) -> Result<bool, ReadError>;

    /// The hash of all events up to a position; `None` for one that it doesn't have.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when it can't be read.
    async fn chain_at(&self, position: Position) -> Result<Option<ChainHash>, ReadError>;

    /// Commits what waits, refuses what comes after, and gives it free. Ends the subscriptions of its own tail; a
    /// tail that it was given stays open.
    async fn close(&self);
}

/// Reaches those that write to a shared log.
#[async_trait]
pub trait OtherWriters: Send + Sync {
    /// Has another one append ([`Log::append_here`]). `None` where it didn't answer, and then it may have appended all
    /// the same, or do so later.
    async fn append_at(&self, writer: Uuid, append: &Append) -> Option<Result<Appended, AppendError>>;
}

/// How far a log was carried elsewhere, and by whom that is kept.
#[derive(Clone)]
pub struct Carrying {
    pub(crate) carried: Arc<Carried>,
    /// Up to where it was surely carried when the log was opened; `None` in a phase that doesn't carry.
    pub(crate) before: Option<Position>,
    /// Keeps it although nothing is committed.
    pub(crate) keep: Arc<dyn Fn() + Send + Sync>,
}

/// A log in the making: a copy of another log, which accepts only what is copied until it is opened. Whoever copies
/// may be killed at any moment, and begins again with what is there.
#[async_trait]
pub trait LogCopy: Send + Sync {
    /// Where it ends so far.
    fn end(&self) -> LogEnd;

    /// Takes the epochs of the log that it copies, where that has begun a further one.
    ///
    /// # Errors
    ///
    /// [`CopyFailure`].
    async fn follow(&mut self, lineage: &Lineage) -> Result<(), CopyFailure>;

    /// Adds events, which follow what it has, with their places, ids and times.
    ///
    /// # Errors
    ///
    /// [`CopyFailure`]; what was added stays.
    async fn add(&mut self, events: Vec<Arc<StoredEvent>>) -> Result<(), CopyFailure>;

    /// Gives it this journal instead of what it has, and opens it in the epoch after that of `of`, the end of the
    /// log that was sealed. It feeds the tail that it was begun with.
    ///
    /// # Errors
    ///
    /// [`CopyFailure`], and then it isn't open, but after [`CopyFailure::Unknown`].
    async fn open(
        self: Box<Self>,
        of: LogEnd,
        journal: Vec<JournalStep>,
        why: &str,
    ) -> Result<Arc<dyn Log>, CopyFailure>;

    /// Gives it free as it is.
    async fn close(self: Box<Self>);
}

/// Which log a copy is to be of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOf {
    /// The log's identity.
    pub store_id: StoreId,
    /// Its epochs.
    pub lineage: Lineage,
}

/// Why something isn't copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyFailure {
    /// What is there isn't a copy of this log.
    #[error("what is at {place} is no copy of this log ({reason}); name another place, or move it away")]
    NotACopy {
        /// Where.
        place: String,
        /// How it differs.
        reason: String,
    },
    /// The storage failed; what was written before stays.
    #[error("{place}: {source}")]
    Storage {
        /// Where.
        place: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The storage failed at a moment when it can't tell whether the copy was opened.
    #[error("whether the log at {place} was opened is unknown: {reason}")]
    Unknown {
        /// Where.
        place: String,
        /// What it said.
        reason: String,
    },
}
