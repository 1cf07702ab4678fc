//! What nodes say to each other.
//!
//! An event travels as its documented JSON, so that any Zenoh client can read it, with a short
//! attachment that says which log and epoch it is of ([`Origin`]): a node takes only what its own store
//! node has sent. Requests and heartbeats are JSON; pages of events are their JSON documents, each with
//! its length before it.

use std::sync::Arc;

use ironbus::event::{Epoch, EventId, Position, Sequence, SessionId, StoreId};
use ironbus::store::{
    AggregateWrite, Append, AppendError, EpochStart, ExpectedVersion, Head, InvalidAppend, Lineage, ReadError,
};
use ironbus::{Aggregate, Entitlement, EventFilter, Json, KeyPattern, Metadata, NewEvent, StoredEvent};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which log an event is of, in which epoch it was sent, and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The log.
    pub store_id: StoreId,
    /// The epoch in force when it was sent.
    pub epoch: Epoch,
}

impl Origin {
    /// The version of the attachment's form: its first byte.
    const FORM: u8 = 1;
    const LENGTH: usize = 33;

    /// The attachment of an event at `position`: form, store id, epoch and position, big-endian.
    #[must_use]
    pub fn attachment(&self, position: Position) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LENGTH);
        out.push(Self::FORM);
        out.extend_from_slice(self.store_id.0.as_bytes());
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&position.0.to_be_bytes());
        out
    }

    /// Reads an attachment; `None` when it isn't one of ours.
    #[must_use]
    pub fn of_attachment(bytes: &[u8]) -> Option<(Self, Position)> {
        if bytes.len() != Self::LENGTH || bytes[0] != Self::FORM {
            return None;
        }
        let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
        let store_id = StoreId(Uuid::from_slice(&bytes[1..17]).ok()?);
        Some((Self { store_id, epoch: Epoch(number(17)?) }, Position(number(25)?)))
    }
}

/// A request to append.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppendRequest {
    writes: Vec<Write>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Write {
    aggregate_type: String,
    aggregate_id: String,
    expected_version: ExpectedVersion,
    events: Vec<Event>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Event {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    event_type: String,
    schema_version: u32,
    payload: Json,
    metadata: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
}

impl AppendRequest {
    pub(crate) fn of(append: &Append) -> Self {
        let event = |event: &NewEvent| Event {
            event_id: event.event_id,
            event_type: event.event_type.as_ref().to_owned(),
            schema_version: event.schema_version,
            payload: event.payload.clone(),
            metadata: event.metadata.json().clone(),
            session_id: event.session_id.as_ref().map(|id| id.as_str().to_owned()),
        };
        let write = |write: &AggregateWrite| Write {
            aggregate_type: write.aggregate.aggregate_type().to_owned(),
            aggregate_id: write.aggregate.aggregate_id().to_owned(),
            expected_version: write.expected,
            events: write.events.iter().map(event).collect(),
        };
        Self { writes: append.writes.iter().map(write).collect() }
    }

    /// The append, with its names checked.
    pub(crate) fn into_append(self) -> Result<Append, Malformed> {
        let mut append = Append::default();
        for write in self.writes {
            let aggregate = Aggregate::new(write.aggregate_type, write.aggregate_id).map_err(malformed)?;
            let mut events = Vec::with_capacity(write.events.len());
            for event in write.events {
                events.push(NewEvent {
                    event_id: event.event_id,
                    event_type: event.event_type.into(),
                    schema_version: event.schema_version,
                    payload: event.payload,
                    metadata: Metadata::new(event.metadata).map_err(malformed)?,
                    session_id: event.session_id.map(SessionId::new).transpose().map_err(malformed)?,
                });
            }
            append = append.and(aggregate, write.expected_version, events);
        }
        Ok(append)
    }
}

/// A request to read the whole log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadRequest {
    pub(crate) after: Position,
    pub(crate) limit: usize,
    pattern: String,
    sessions: Sessions,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sessions {
    None,
    These(Vec<String>),
    All,
}

impl ReadRequest {
    pub(crate) fn new(after: Position, filter: &EventFilter, limit: usize) -> Self {
        let sessions = match &filter.entitlement {
            Entitlement::Public => Sessions::None,
            Entitlement::Sessions(sessions) => {
                Sessions::These(sessions.iter().map(|id| id.as_str().to_owned()).collect())
            }
            Entitlement::Everything => Sessions::All,
        };
        Self { after, limit, pattern: filter.pattern.as_str().to_owned(), sessions }
    }

    pub(crate) fn filter(&self) -> Result<EventFilter, Malformed> {
        let pattern: KeyPattern = self.pattern.parse().map_err(malformed)?;
        let entitlement = match &self.sessions {
            Sessions::None => Entitlement::Public,
            Sessions::These(ids) => {
                let ids: Result<_, _> = ids.iter().map(|id| SessionId::new(id.as_str())).collect();
                Entitlement::Sessions(Arc::new(ids.map_err(malformed)?))
            }
            Sessions::All => Entitlement::Everything,
        };
        Ok(EventFilter::public(pattern).entitled(entitlement))
    }
}

/// What a page of the log says beside its events.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PageEnd {
    pub(crate) through: Position,
    pub(crate) head: Position,
}

/// A request to read one aggregate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadRequest {
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) after: Sequence,
    pub(crate) limit: usize,
}

/// What a page of an aggregate says beside its events.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadEnd {
    pub(crate) version: Sequence,
}

/// Which log a store node has, and where it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeadAnswer {
    store_id: StoreId,
    epochs: Vec<EpochStart>,
    earliest: Position,
    position: Position,
}

impl From<Head> for HeadAnswer {
    fn from(head: Head) -> Self {
        Self {
            store_id: head.store_id,
            epochs: head.lineage.starts().to_vec(),
            earliest: head.earliest,
            position: head.position,
        }
    }
}

impl HeadAnswer {
    pub(crate) fn into_head(self) -> Result<Head, Malformed> {
        let lineage = Lineage::new(self.epochs).ok_or_else(|| malformed("the log's epochs don't ascend"))?;
        Ok(Head { store_id: self.store_id, lineage, earliest: self.earliest, position: self.position })
    }
}

/// A text that isn't what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

pub(crate) fn malformed(error: impl std::fmt::Display) -> Malformed {
    Malformed(error.to_string())
}

/// Reads JSON that another node has written.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Writes JSON for another node.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("what nodes say has text for keys, so it is always JSON")
}

/// The events as one payload: each one's JSON with its length (four bytes, big-endian) before it.
/// Stops before `most` bytes are passed, but holds at least one event; says how many it holds.
pub(crate) fn pack(events: &[Arc<StoredEvent>], most: usize) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    for (count, event) in events.iter().enumerate() {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        event.write_json(&mut out);
        if out.len() > most && count > 0 {
            out.truncate(start);
            return (out, count);
        }
        let length = u32::try_from(out.len() - start - 4).expect("an event is a few megabytes at the most");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    (out, events.len())
}

/// The events of a payload that [`pack`] made.
pub(crate) fn unpack(mut bytes: &[u8]) -> Result<Vec<Arc<StoredEvent>>, Malformed> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let cut = || malformed("a page of events is cut off");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_be_bytes(*length) as usize;
        let event = rest.get(..length).ok_or_else(cut)?;
        events.push(Arc::new(StoredEvent::from_json(event).map_err(malformed)?));
        bytes = &rest[length..];
    }
    Ok(events)
}

/// Why a store node refused a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "error")]
pub(crate) enum Refusal {
    Conflict {
        aggregate_type: String,
        aggregate_id: String,
        expected: ExpectedVersion,
        actual: Sequence,
    },
    EventIdReused {
        event_id: EventId,
    },
    PartlyStored {
        stored: usize,
        total: usize,
    },
    Empty,
    TooManyEvents {
        count: usize,
        limit: usize,
    },
    TooManyBytes {
        bytes: usize,
        limit: usize,
    },
    RepeatedId {
        event_id: EventId,
    },
    StorageFull,
    Superseded {
        reason: String,
    },
    Closed,
    /// Too much waits already; nothing was done.
    Busy,
    Damaged {
        place: String,
        reason: String,
    },
    Unknown {
        reason: String,
    },
    /// The store failed, and nothing was written.
    Failed {
        reason: String,
    },
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let reason = error.to_string();
        match error {
            AppendError::Conflict { aggregate, expected, actual } => Self::Conflict {
                aggregate_type: aggregate.aggregate_type().to_owned(),
                aggregate_id: aggregate.aggregate_id().to_owned(),
                expected,
                actual,
            },
            AppendError::EventIdReused { event_id } => Self::EventIdReused { event_id },
            AppendError::PartlyStored { stored, total } => Self::PartlyStored { stored, total },
            AppendError::Invalid(InvalidAppend::Empty) => Self::Empty,
            AppendError::Invalid(InvalidAppend::TooManyEvents { count, limit }) => {
                Self::TooManyEvents { count, limit }
            }
            AppendError::Invalid(InvalidAppend::TooManyBytes { bytes, limit }) => {
                Self::TooManyBytes { bytes, limit }
            }
            AppendError::Invalid(InvalidAppend::RepeatedId { event_id }) => Self::RepeatedId { event_id },
            AppendError::StorageFull => Self::StorageFull,
            AppendError::Superseded { reason } => Self::Superseded { reason },
            AppendError::Closed => Self::Closed,
            AppendError::Unknown(source) => Self::Unknown { reason: source.to_string() },
            _ => Self::Failed { reason },
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged { place, reason } => Self::Damaged { place, reason },
            ReadError::Closed => Self::Closed,
            other => Self::Failed { reason: other.to_string() },
        }
    }
}

impl Refusal {
    /// What the caller of an append is told; `None` when it may be tried again at once.
    pub(crate) fn of_append(self) -> Option<AppendError> {
        Some(match self {
            Self::Conflict { aggregate_type, aggregate_id, expected, actual } => {
                match Aggregate::new(aggregate_type, aggregate_id) {
                    Ok(aggregate) => AppendError::Conflict { aggregate, expected, actual },
                    Err(error) => AppendError::Storage(error.into()),
                }
            }
            Self::EventIdReused { event_id } => AppendError::EventIdReused { event_id },
            Self::PartlyStored { stored, total } => AppendError::PartlyStored { stored, total },
            Self::Empty => InvalidAppend::Empty.into(),
            Self::TooManyEvents { count, limit } => InvalidAppend::TooManyEvents { count, limit }.into(),
            Self::TooManyBytes { bytes, limit } => InvalidAppend::TooManyBytes { bytes, limit }.into(),
            Self::RepeatedId { event_id } => InvalidAppend::RepeatedId { event_id }.into(),
            Self::StorageFull => AppendError::StorageFull,
            Self::Superseded { reason } => AppendError::Superseded { reason },
            Self::Closed | Self::Busy => return None,
            Self::Unknown { reason } => AppendError::Unknown(reason.into()),
            Self::Damaged { reason, .. } | Self::Failed { reason } => AppendError::Storage(reason.into()),
        })
    }

    /// What a reader is told; `None` when it may be tried again at once.
    pub(crate) fn of_read(self) -> Option<ReadError> {
        Some(match self {
            Self::Damaged { place, reason } => ReadError::Damaged { place, reason },
            Self::Closed | Self::Busy => return None,
            other => ReadError::Storage(String::from_utf8_lossy(&to_json(&other)).into_owned().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_reads_back_and_nothing_else_is_taken_for_one() {
        let origin = Origin { store_id: StoreId(Uuid::from_u128(7)), epoch: Epoch(3) };
        let bytes = origin.attachment(Position(9));
        assert_eq!(Origin::of_attachment(&bytes), Some((origin, Position(9))));
        assert_eq!(Origin::of_attachment(&bytes[..32]), None);
        assert_eq!(Origin::of_attachment(b""), None);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Origin::of_attachment(&other), None);
    }

    #[test]
    fn an_append_reads_back_byte_for_byte() {
        let event = NewEvent::new("Done", Json::parse("{\"b\":1.50,\n \"a\":[ ]}").expect("valid"))
            .with_id(EventId(Uuid::from_u128(1)))
            .for_session(SessionId::new("s/1").expect("valid"));
        let aggregate = Aggregate::new("To do", "a/ü").expect("valid");
        let append = Append::to(aggregate, ExpectedVersion::Exact(Sequence(4)), vec![event]);
        let bytes = to_json(&AppendRequest::of(&append));
        let back: AppendRequest = from_json(&bytes).expect("reads back");
        assert_eq!(back.into_append(), Ok(append));
    }

    #[test]
    fn refusals_keep_what_callers_act_on() {
        let conflict = AppendError::Conflict {
            aggregate: Aggregate::new("Todo", "1").expect("valid"),
            expected: ExpectedVersion::NoStream,
            actual: Sequence(2),
        };
        let said = conflict.to_string();
        let bytes = to_json(&Refusal::from(conflict));
        let back: Refusal = from_json(&bytes).expect("reads back");
        assert_eq!(back.of_append().expect("final").to_string(), said);
        assert!(Refusal::Busy.of_append().is_none());
    }
}
