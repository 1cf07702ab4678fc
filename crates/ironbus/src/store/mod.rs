//! The log: what every store promises, whatever it is built on.
//!
//! An append is a batch over one or several aggregates, all or nothing, checked against expected
//! versions and idempotent by event id (ids are checked first, so that the retry of a successful append
//! gets the first result and not a conflict). It is acknowledged only when it is durable. Positions are
//! contiguous from 1 in commit order, sequences contiguous from 1 within each aggregate.

mod error;
mod hash;
mod journal;
mod lineage;
mod log;
pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use error::{AppendError, InvalidAppend, ReadError};
pub use hash::{CHAIN_START, ChainHash, chain};
pub use journal::{
    InvalidPhase, InvalidStep, Journal, JournalError, JournalPage, JournalStep, NewStep, Phase,
};
pub use lineage::{EpochStart, Lineage, ResetReason};
pub use log::{Carrying, CopyFailure, CopyOf, Log, LogCopy, LogEnd, OtherWriters};
pub use sqlite::{Durability, OpenError, SqliteEventStore, SqliteOptions};

use crate::event::{Aggregate, EventId, NewEvent, Position, Sequence, StoreId, StoredEvent};
use crate::key::EventFilter;
use crate::subscription::{Start, Subscription};

/// An event store: append, load, read, subscribe.
///
/// It is used as `Arc<dyn EventStore>`, because a program may move from one kind of store to another
/// while it runs.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Appends a batch, all or nothing. Returns when it is durable.
    ///
    /// A retry with the same event ids returns the first result. Dropping the future doesn't take the
    /// append back.
    ///
    /// # Errors
    ///
    /// [`AppendError`]: in every case but [`AppendError::Unknown`] nothing was written.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// Loads at most `limit` events of one aggregate, those after `after`, in order.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read.
    async fn load(
        &self,
        aggregate: &Aggregate,
        after: Sequence,
        limit: usize,
    ) -> Result<AggregatePage, ReadError>;

    /// Reads at most `limit` matching events of the whole log, those after `after`, in order. A page may
    /// hold fewer, even none, and still not be at the end: [`Page::through`] says how far it looked.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read.
    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError>;

    /// Which log this is and where it ends.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be reached.
    async fn head(&self) -> Result<Head, ReadError>;

    /// Every matching event from `start` on, exactly once, in ascending position, for as long as the
    /// store is open.
    fn subscribe(&self, filter: EventFilter, start: Start) -> Subscription;
}

/// Reading the whole log: what following it needs.
///
/// A reader of a log elsewhere asks the epoch that its node's tail is in when it asks, and no other answers.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// As [`EventStore::read`].
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the log can't be read.
    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError>;
}

#[async_trait]
impl<S: EventStore> LogReader for S {
    async fn read(&self, after: Position, filter: &EventFilter, limit: usize) -> Result<Page, ReadError> {
        EventStore::read(self, after, filter, limit).await
    }
}

/// Which log this is and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log's identity.
    pub store_id: StoreId,
    /// Its epochs; the last one is in force.
    pub lineage: Lineage,
    /// The first position that can still be read; the position after the head of an empty log.
    pub earliest: Position,
    /// The last committed position.
    pub position: Position,
}

/// What the writer of an append believes of an aggregate; checked inside the commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// Nothing.
    #[default]
    Any,
    /// It has no events.
    NoStream,
    /// It has at least one event.
    StreamExists,
    /// Its last event has this sequence; `Exact(0)` is the same as [`Self::NoStream`].
    Exact(Sequence),
}

impl ExpectedVersion {
    /// Whether an aggregate at `version` is as expected.
    #[must_use]
    pub fn admits(self, version: Sequence) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => version == Sequence::START,
            Self::StreamExists => version > Sequence::START,
            Self::Exact(exact) => version == exact,
        }
    }
}

impl std::fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoStream => f.write_str("no_stream"),
            Self::StreamExists => f.write_str("stream_exists"),
            Self::Exact(sequence) => sequence.fmt(f),
        }
    }
}

impl Serialize for ExpectedVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(sequence) => sequence.serialize(serializer),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for ExpectedVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ExpectedVersion;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"any\", \"no_stream\", \"stream_exists\" or a whole number from 0")
            }
            fn visit_u64<E: serde::de::Error>(self, version: u64) -> Result<Self::Value, E> {
                Ok(ExpectedVersion::Exact(Sequence(version)))
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
                match word {
                    "any" => Ok(ExpectedVersion::Any),
                    "no_stream" => Ok(ExpectedVersion::NoStream),
                    "stream_exists" => Ok(ExpectedVersion::StreamExists),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// New events of one aggregate, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateWrite {
    /// The aggregate.
    pub aggregate: Aggregate,
    /// What it is expected to be before these events.
    pub expected: ExpectedVersion,
    /// The events, in order.
    pub events: Vec<NewEvent>,
}

/// A batch of writes, committed all or nothing and in this order.
///
/// Each write is checked against the state that the writes before it produce, so an aggregate may appear
/// more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The writes, in order.
    pub writes: Vec<AggregateWrite>,
}

impl Append {
    /// The most events of one append.
    pub const MAX_EVENTS: usize = 10_000;
    /// The most bytes of payload and metadata of one append.
    pub const MAX_BYTES: usize = 16 << 20;

    /// An append to one aggregate.
    #[must_use]
    pub fn to(aggregate: Aggregate, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self::default().and(aggregate, expected, events)
    }

    /// The same append with a further write.
    #[must_use]
    pub fn and(mut self, aggregate: Aggregate, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        self.writes.push(AggregateWrite { aggregate, expected, events });
        self
    }

    /// The number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.iter().map(|write| write.events.len()).sum()
    }

    /// Whether there is nothing to append.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all payloads and metadata.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let events = self.writes.iter().flat_map(|write| &write.events);
        events.map(|event| event.payload.as_bytes().len() + event.metadata.json().as_bytes().len()).sum()
    }

    /// Says what keeps the batch from being appended to any store, if anything does.
    ///
    /// # Errors
    ///
    /// [`InvalidAppend`] with what to change.
    pub fn check(&self) -> Result<(), InvalidAppend> {
        let count = self.len();
        if count == 0 || self.writes.iter().any(|write| write.events.is_empty()) {
            return Err(InvalidAppend::Empty);
        }
        if count > Self::MAX_EVENTS {
            return Err(InvalidAppend::TooManyEvents { count, limit: Self::MAX_EVENTS });
        }
        if self.bytes() > Self::MAX_BYTES {
            return Err(InvalidAppend::TooManyBytes { bytes: self.bytes(), limit: Self::MAX_BYTES });
        }
        let mut seen = std::collections::HashSet::new();
        for event in self.writes.iter().flat_map(|write| &write.events) {
            event.check()?;
            if let Some(event_id) = event.event_id.filter(|id| !seen.insert(*id)) {
                return Err(InvalidAppend::RepeatedId { event_id });
            }
        }
        Ok(())
    }
}

/// Where an appended event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recorded {
    /// The event's identity, generated where none was given.
    pub event_id: EventId,
    /// Its place in the whole log.
    pub position: Position,
    /// Its place within its aggregate.
    pub sequence: Sequence,
}

/// The result of an append: the places of its events, in the order they were given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Where each event stands.
    pub events: Vec<Recorded>,
    /// The log's head as this append left it: the position of its last event. A retry gets the same.
    pub head: Position,
}

impl Appended {
    /// The result for events at these places.
    #[must_use]
    pub fn new(events: Vec<Recorded>) -> Self {
        let head = events.iter().map(|event| event.position).max().unwrap_or_default();
        Self { events, head }
    }
}

/// Events of one aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregatePage {
    /// The events, by ascending sequence.
    pub events: Vec<Arc<StoredEvent>>,
    /// The aggregate's version: the sequence of its last event, 0 if it has none.
    pub version: Sequence,
}

/// Events of the whole log.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The matching events, by ascending position.
    pub events: Vec<Arc<StoredEvent>>,
    /// Every position up to this one has been looked at; the next page is read after it.
    pub through: Position,
    /// The last position of the log at the time of reading. The page is the last one when
    /// `through >= head`.
    pub head: Position,
}
