//! What one line says: an event in our own form, a `CloudEvent`, or an event that was exported.
//!
//! Invariant: the same line at the same place always gives the same event id, so that importing again
//! changes nothing. The name of the file plays no part: a file and standard input agree.

use ironbus::event::InvalidName;
use ironbus::{Aggregate, EventId, Json, Metadata, NewEvent, StoredEvent};
use ironbus_server::cloudevents::{CloudEventError, from_cloudevent};
use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

/// Under which name the ids of lines are derived. Never changes: ids rest on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x9b1d_6e02_c7f4_5a38_8e50_24d3_f6a1_7c9b);

/// Why a line can't be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLine {
    #[error("{0}")]
    Json(String),
    #[error("`occurred_at` must be a text")]
    OccurredAt,
    #[error(transparent)]
    CloudEvent(#[from] CloudEventError),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Event(#[from] ironbus::event::InvalidEvent),
}

impl From<serde_json::Error> for BadLine {
    fn from(error: serde_json::Error) -> Self {
        // The line that serde_json counts is always the first here; the file's line is told with the file.
        let said = error.to_string();
        let column = error.column();
        match said.rsplit_once(" at line ") {
            Some((reason, _)) if column > 0 => Self::Json(format!("{reason} (column {column})")),
            _ => Self::Json(said),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    aggregate_type: String,
    aggregate_id: String,
    event_type: String,
    occurred_at: Option<Json>,
    payload: Json,
}

/// The members that tell the forms apart.
#[derive(Deserialize)]
struct Form {
    specversion: Option<IgnoredAny>,
    position: Option<IgnoredAny>,
}

/// Reads the line that stands at `number` (from 1).
pub(crate) fn parse(number: u64, text: &[u8]) -> Result<(Aggregate, NewEvent), BadLine> {
    let form: Form = serde_json::from_slice(text)?;
    let (aggregate, event) = if form.specversion.is_some() {
        from_cloudevent(text)?
    } else if form.position.is_some() {
        exported(text)?
    } else {
        own(number, text)?
    };
    event.check()?;
    Ok((aggregate, event))
}

fn own(number: u64, text: &[u8]) -> Result<(Aggregate, NewEvent), BadLine> {
    let line: Own = serde_json::from_slice(text)?;
    let aggregate = Aggregate::new(line.aggregate_type, line.aggregate_id)?;
    let mut event = NewEvent::new(line.event_type, line.payload).with_id(id(number, text));
    if let Some(occurred_at) = line.occurred_at {
        if !occurred_at.as_str().starts_with('"') {
            return Err(BadLine::OccurredAt);
        }
        let json = Json::parse(format!("{{\"occurred_at\":{}}}", occurred_at.as_str()))?;
        event.metadata = Metadata::new(json).expect("written as an object above");
    }
    Ok((aggregate, event))
}

/// An event that was exported keeps all that is its own; its place is given anew.
fn exported(text: &[u8]) -> Result<(Aggregate, NewEvent), BadLine> {
    let event = StoredEvent::from_json(text)?;
    let new = NewEvent {
        event_id: Some(event.event_id),
        event_type: event.event_type,
        schema_version: event.schema_version,
        payload: event.payload,
        metadata: event.metadata,
        session_id: event.session_id,
    };
    Ok((event.aggregate, new))
}

fn id(number: u64, text: &[u8]) -> EventId {
    let mut name = format!("{number}\n").into_bytes();
    name.extend_from_slice(text);
    EventId(Uuid::new_v5(&NAMESPACE, &name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"aggregate_type":"T","aggregate_id":"1","event_type":"E","payload":{"b": 1.0,"a":2}}"#;

    fn parsed(number: u64, text: &str) -> (Aggregate, NewEvent) {
        parse(number, text.as_bytes()).expect("a good line")
    }

    fn refused(text: &str) -> String {
        parse(1, text.as_bytes()).expect_err("a bad line").to_string()
    }

    #[test]
    fn a_line_keeps_its_payload_byte_for_byte() {
        let (aggregate, event) = parsed(3, LINE);
        assert_eq!((aggregate.aggregate_type(), aggregate.aggregate_id()), ("T", "1"));
        assert_eq!(event.payload.as_str(), r#"{"b": 1.0,"a":2}"#);
        assert_eq!(event.metadata, Metadata::default());
        // Written down, because ids that were once derived must be derived again by every later version.
        assert_eq!(event.event_id.expect("derived").to_string(), "d4e67c5b-2aeb-5a27-aa24-e7f2b8ab41ee");
    }

    #[test]
    fn a_lines_id_depends_on_its_place_and_its_content() {
        let id = |number, text: &str| parsed(number, text).1.event_id;
        assert_eq!(id(1, LINE), id(1, LINE));
        assert_ne!(id(1, LINE), id(2, LINE));
        assert_ne!(id(1, LINE), id(1, &LINE.replace("1.0", "1.1")));
    }

    #[test]
    fn when_it_occurred_goes_into_the_metadata_as_it_was_written() {
        let text = LINE.replace("\"payload\"", "\"occurred_at\":\"2010-03-31T14:59:42.000Z\",\"payload\"");
        let metadata = parsed(1, &text).1.metadata;
        assert_eq!(metadata.json().as_str(), r#"{"occurred_at":"2010-03-31T14:59:42.000Z"}"#);
    }

    #[test]
    fn a_cloudevent_is_known_by_its_version() {
        let (aggregate, event) = parsed(
            1,
            r#"{"specversion":"1.0","id":"1","source":"s","type":"E","subject":"T/1","data":[1 ]}"#,
        );
        assert_eq!((aggregate.aggregate_id(), event.payload.as_str()), ("1", "[1 ]"));
    }

    #[test]
    fn an_exported_event_keeps_its_identity_and_all_that_is_its_own() {
        let exported = r#"{"position":7,"sequence":2,"event_id":"0190163d-8694-739b-aea5-966c26f8ad91","aggregate_type":"T","aggregate_id":"1","event_type":"E","schema_version":3,"payload":{"a": 1},"metadata":{"k":1},"session_id":"s","recorded_at":"2026-01-31T12:00:00Z"}"#;
        let (_, event) = parsed(1, exported);
        assert_eq!(event.event_id.expect("kept").to_string(), "0190163d-8694-739b-aea5-966c26f8ad91");
        assert_eq!((event.schema_version, event.metadata.json().as_str()), (3, r#"{"k":1}"#));
        assert_eq!(event.session_id.expect("kept").as_str(), "s");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        assert!(refused("nonsense").contains("column"), "{}", refused("nonsense"));
        assert!(refused(r#"{"aggregate_type":"T"}"#).contains("missing field `aggregate_id`"));
        assert!(refused(&LINE.replace("\"payload\"", "\"x\":1,\"payload\"")).contains("unknown field `x`"));
        assert!(refused(&LINE.replace("\"1\"", "\"\"")).contains("`aggregate_id` must not be empty"));
        assert!(
            refused(&LINE.replace("\"payload\"", "\"occurred_at\":7,\"payload\"")).contains("occurred_at")
        );
        assert!(refused(&LINE.replace("\"E\"", "\"\"")).contains("`event_type` must not be empty"));
        assert!(refused(r#"{"specversion":"1.0"}"#).contains("`id` is missing"));
    }
}
