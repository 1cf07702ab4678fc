//! A model of appends: what a store must answer and hold, as plainly as it can be said.
//!
//! It has no groups, no files and no threads; a store that disagrees with it is wrong, or it is.

use std::collections::HashMap;
use std::sync::Arc;

use ironbus::event::{Aggregate, EventId, NewEvent, Position, Sequence, StoredEvent};
use ironbus::store::{Append, AppendError, ExpectedVersion, InvalidAppend, Recorded};
use serde::Serialize;

/// How an append ended, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An aggregate isn't at the expected version.
    Conflict(Aggregate, ExpectedVersion, Sequence),
    /// An id is stored for another event.
    EventIdReused(EventId),
    /// Only some of the batch's events are stored.
    PartlyStored(usize, usize),
    /// No store takes such a batch.
    Invalid(InvalidAppend),
}

impl Refusal {
    /// The refusal that a store's error is; `None` for an error that no model has.
    #[must_use]
    pub fn of(error: &AppendError) -> Option<Self> {
        Some(match error {
            AppendError::Conflict { aggregate, expected, actual } => {
                Self::Conflict(aggregate.clone(), *expected, *actual)
            }
            AppendError::EventIdReused { event_id } => Self::EventIdReused(*event_id),
            AppendError::PartlyStored { stored, total } => Self::PartlyStored(*stored, *total),
            AppendError::Invalid(invalid) => Self::Invalid(invalid.clone()),
            _ => return None,
        })
    }
}

/// A log in memory that follows the rules. Every event it is given must bear an id.
#[derive(Clone, Debug, Default)]
pub struct ModelLog {
    events: Vec<Arc<StoredEvent>>,
    places: HashMap<EventId, usize>,
    versions: HashMap<Aggregate, u64>,
}

impl ModelLog {
    /// The events, in order.
    #[must_use]
    pub fn events(&self) -> &[Arc<StoredEvent>] {
        &self.events
    }

    /// An aggregate's version.
    #[must_use]
    pub fn version(&self, aggregate: &Aggregate) -> Sequence {
        Sequence(self.versions.get(aggregate).copied().unwrap_or(0))
    }

    /// Forgets the events after `kept`, as a copy that was made before them has never had them.
    pub fn keep(&mut self, kept: Position) {
        while self.events.last().is_some_and(|event| event.position > kept) {
            let Some(event) = self.events.pop() else { break };
            self.places.remove(&event.event_id);
            self.versions.insert(event.aggregate.clone(), event.sequence.0 - 1);
        }
    }

    /// Appends, or says why not.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that a store must give.
    pub fn append(&mut self, append: &Append) -> Result<Vec<Recorded>, Refusal> {
        append.check().map_err(Refusal::Invalid)?;
        if let Some(places) = self.stored_before(append)? {
            return Ok(places);
        }
        let mut planned = self.versions.clone();
        for write in &append.writes {
            let version = planned.entry(write.aggregate.clone()).or_default();
            let as_expected = match write.expected {
                ExpectedVersion::Any => true,
                ExpectedVersion::NoStream => *version == 0,
                ExpectedVersion::StreamExists => *version != 0,
                ExpectedVersion::Exact(exact) => *version == exact.0,
            };
            if !as_expected {
                return Err(Refusal::Conflict(write.aggregate.clone(), write.expected, Sequence(*version)));
            }
            *version += write.events.len() as u64;
        }
        let mut places = Vec::new();
        for write in &append.writes {
            for event in &write.events {
                places.push(self.push(&write.aggregate, event));
            }
        }
        Ok(places)
    }

    fn stored_before(&self, append: &Append) -> Result<Option<Vec<Recorded>>, Refusal> {
        let mut places = Vec::new();
        let mut reused = None;
        for write in &append.writes {
            for event in &write.events {
                let id = event.event_id.expect("the model is only given events with ids");
                let Some(index) = self.places.get(&id) else { continue };
                let stored = &self.events[*index];
                let same = stored.aggregate == write.aggregate
                    && stored.event_type == event.event_type
                    && stored.schema_version == event.schema_version
                    && stored.payload == event.payload
                    && stored.session_id == event.session_id;
                if !same {
                    reused = reused.or(Some(id));
                }
                places.push(recorded(stored));
            }
        }
        match (reused, places.len()) {
            (Some(id), _) => Err(Refusal::EventIdReused(id)),
            (None, 0) => Ok(None),
            (None, stored) if stored == append.len() => Ok(Some(places)),
            (None, stored) => Err(Refusal::PartlyStored(stored, append.len())),
        }
    }

    fn push(&mut self, aggregate: &Aggregate, event: &NewEvent) -> Recorded {
        let version = self.versions.entry(aggregate.clone()).or_default();
        *version += 1;
        let position = Position(self.events.len() as u64 + 1);
        let stored = stored_event(position, Sequence(*version), aggregate, event);
        let place = recorded(&stored);
        self.places.insert(place.event_id, self.events.len());
        self.events.push(Arc::new(stored));
        place
    }
}

fn recorded(event: &StoredEvent) -> Recorded {
    Recorded { event_id: event.event_id, position: event.position, sequence: event.sequence }
}

/// What a store would hold for `event` at this place, recorded as many seconds after 1970 as its position.
fn stored_event(
    position: Position,
    sequence: Sequence,
    aggregate: &Aggregate,
    event: &NewEvent,
) -> StoredEvent {
    #[derive(Serialize)]
    struct Document<'a> {
        position: Position,
        sequence: Sequence,
        event_id: Option<EventId>,
        aggregate_type: &'a str,
        aggregate_id: &'a str,
        event_type: &'a str,
        schema_version: u32,
        payload: &'a ironbus::event::Json,
        metadata: &'a ironbus::event::Json,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<&'a str>,
        recorded_at: String,
    }
    let seconds = i64::try_from(position.0).expect("a test's log is short");
    let recorded_at = jiff::Timestamp::from_second(seconds).expect("in range");
    let document = Document {
        position,
        sequence,
        event_id: event.event_id,
        aggregate_type: aggregate.aggregate_type(),
        aggregate_id: aggregate.aggregate_id(),
        event_type: &event.event_type,
        schema_version: event.schema_version,
        payload: &event.payload,
        metadata: event.metadata.json(),
        session_id: event.session_id.as_ref().map(|id| id.as_str()),
        recorded_at: recorded_at.to_string(),
    };
    let json = serde_json::to_vec(&document).expect("an event can be written as JSON");
    StoredEvent::from_json(&json).expect("it was written as events are")
}
