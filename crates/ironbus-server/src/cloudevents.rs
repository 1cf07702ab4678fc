//! `CloudEvents` 1.0 in and out: one mapping for the server and for the command line.
//!
//! | `CloudEvent` | event |
//! |---|---|
//! | `type` | `event_type` |
//! | extensions `aggregatetype` and `aggregateid`, else `subject` = `{type}/{id}` | aggregate |
//! | `data` (null when absent) | `payload`, byte for byte |
//! | `time` | `metadata.occurred_at` |
//! | extensions `schemaversion`, `sessionid` | `schema_version`, `session_id` |
//! | extensions `correlationid`, `causationid` | `metadata.correlation_id`, `metadata.causation_id` |
//! | `source`, `id` | `metadata.ce_source`, `metadata.ce_id`, and from both the event's id |
//! | every other attribute and extension | `metadata`, under its own name |
//!
//! Invariants: the same source and id always give the same event id, so a `CloudEvent` that comes twice is
//! stored once; and what [`to_cloudevent`] writes, [`from_cloudevent`] reads as the same event id. What a
//! `CloudEvent` can't say (metadata that is no text, truth value or small number, or whose name is none for
//! an extension) stays in the log.

use std::fmt;

use ironbus::event::InvalidName;
use ironbus::{Aggregate, EventId, Json, Metadata, NewEvent, SessionId, StoreId, StoredEvent};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Under which name event ids are derived from source and id. Never changes: ids rest on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x3f0c_9a5e_71d2_5b86_a4c9_0e6d_82f7_1b35);

/// With what the source of a store's own `CloudEvents` begins; the store's id follows.
const OWN_SOURCE: &str = "urn:ironbus:";

/// Extensions that [`to_cloudevent`] adds and that mean nothing in another log.
const PLACES: [&str; 2] = ["position", "sequence"];

/// Why a text can't be taken as a `CloudEvent`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloudEventError {
    /// It isn't a JSON object.
    #[error("a CloudEvent must be a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("`specversion` is {found}; only CloudEvents \"1.0\" are understood")]
    Version {
        /// What stands there, as JSON.
        found: String,
    },
    /// An attribute that every `CloudEvent` has is absent.
    #[error("the attribute `{attribute}` is missing; every CloudEvent has it")]
    Missing {
        /// The attribute.
        attribute: &'static str,
    },
    /// An attribute's value can't be taken.
    #[error("the attribute `{attribute}` must be {expected}")]
    Attribute {
        /// The attribute.
        attribute: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A name that no attribute may have.
    #[error("`{name}` can't be an attribute: names are of lower-case letters and digits alone")]
    Name {
        /// The name.
        name: String,
    },
    /// An attribute stands twice.
    #[error("the attribute `{name}` stands twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// Binary data.
    #[error(
        "`data_base64` can't be stored: a payload is JSON. Send `data`, or store the bytes elsewhere and send a reference"
    )]
    Binary,
    /// It doesn't say which aggregate it belongs to.
    #[error(
        "it doesn't say which aggregate it belongs to: give the extensions `aggregatetype` and `aggregateid`, or a `subject` of the form {{type}}/{{id}}"
    )]
    NoAggregate,
    /// A name is empty, too long, or reserved.
    #[error(transparent)]
    Invalid(#[from] InvalidName),
}

/// Whether a JSON text says of itself that it is a `CloudEvent` (it has a member `specversion`).
#[must_use]
pub fn is_cloudevent(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        specversion: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Version>(json).is_ok_and(|event| event.specversion.is_some())
}

/// Reads a `CloudEvent` in its JSON format as an event of an aggregate.
///
/// # Errors
///
/// [`CloudEventError`] names the attribute and what it has to be.
pub fn from_cloudevent(json: &[u8]) -> Result<(Aggregate, NewEvent), CloudEventError> {
    let mut attributes = Attributes(serde_json::from_slice::<Members>(json)?.0);
    attributes.check_names()?;
    match attributes.take("specversion") {
        Some(version) if version.as_str() == "\"1.0\"" => {}
        Some(version) => return Err(CloudEventError::Version { found: version.as_str().to_owned() }),
        None => return Err(CloudEventError::Missing { attribute: "specversion" }),
    }
    let id = attributes.required("id")?;
    let source = attributes.required("source")?;
    let event_type = attributes.required("type")?;
    if attributes.take("data_base64").is_some() {
        return Err(CloudEventError::Binary);
    }
    let payload = attributes.take_even_null("data").unwrap_or_else(null);
    let aggregate = attributes.aggregate()?;
    let schema_version = attributes.schema_version()?;
    let session_id = attributes.text("sessionid")?.map(SessionId::new).transpose()?;
    let own = source.starts_with(OWN_SOURCE);
    let event_id = event_id(&source, &id);
    let event = NewEvent {
        event_id: Some(event_id),
        event_type: event_type.into(),
        schema_version,
        payload,
        metadata: attributes.into_metadata(&source, &id, own)?,
        session_id,
    };
    Ok((aggregate, event))
}

/// Writes an event as a `CloudEvent` in its JSON format, on one line unless its payload has several.
///
/// An event that came as a `CloudEvent` goes out with the source and id that it came with; any other has
/// the log as its source.
#[must_use]
pub fn to_cloudevent(event: &StoredEvent, store_id: StoreId) -> Vec<u8> {
    let mut metadata: Map<String, Value> = event.metadata.json().to().unwrap_or_default();
    let (source, id) = identity(event, store_id, &mut metadata);
    let aggregate = &event.aggregate;
    let occurred_at = text_of(&mut metadata, "occurred_at").filter(|time| is_time(time));

    let mut out = Attribute::begin(event.payload.as_bytes().len() + 640);
    out.text("specversion", "1.0");
    out.text("id", &id);
    out.text("source", &source);
    out.text("type", &event.event_type);
    let subject = text_of(&mut metadata, "subject");
    let own = format!("{}/{}", aggregate.aggregate_type(), aggregate.aggregate_id());
    out.text("subject", subject.as_deref().unwrap_or(&own));
    out.text("time", &occurred_at.unwrap_or_else(|| format!("{:.6}", event.recorded_at)));
    let content = text_of(&mut metadata, "datacontenttype");
    out.text("datacontenttype", content.as_deref().unwrap_or("application/json"));
    out.text("aggregatetype", aggregate.aggregate_type());
    out.text("aggregateid", aggregate.aggregate_id());
    // The numbers of CloudEvents end at 2^31: places are texts.
    out.text("sequence", &event.sequence.to_string());
    out.text("position", &event.position.to_string());
    out.raw("schemaversion", event.schema_version.to_string().as_bytes());
    if let Some(session) = &event.session_id {
        out.text("sessionid", session.as_str());
    }
    for (name, value) in metadata {
        let name = match name.as_str() {
            "correlation_id" => "correlationid",
            "causation_id" => "causationid",
            other if is_extension(other) => other,
            _ => continue,
        };
        if is_simple(&value) {
            out.raw(name, value.to_string().as_bytes());
        }
    }
    out.raw("data", event.payload.as_bytes());
    out.end()
}

/// The identity of the event that a source calls `id`.
fn event_id(source: &str, id: &str) -> EventId {
    if source.starts_with(OWN_SOURCE)
        && let Ok(own) = Uuid::try_parse(id)
    {
        return EventId(own);
    }
    EventId(Uuid::new_v5(&NAMESPACE, format!("{source}\n{id}").as_bytes()))
}

/// The source and id to give out: those it came with, if its id really is theirs.
fn identity(event: &StoredEvent, store_id: StoreId, metadata: &mut Map<String, Value>) -> (String, String) {
    let came_with = text_of(metadata, "ce_source").zip(text_of(metadata, "ce_id"));
    came_with
        .filter(|(source, id)| event_id(source, id) == event.event_id)
        .unwrap_or_else(|| (format!("{OWN_SOURCE}{store_id}"), event.event_id.to_string()))
}

fn text_of(metadata: &mut Map<String, Value>, name: &str) -> Option<String> {
    match metadata.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn null() -> Json {
    Json::parse("null").expect("null is JSON")
}

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

/// The context attributes of the specification and those that this mapping writes itself.
const KNOWN: [&str; 16] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "data",
    "aggregatetype",
    "aggregateid",
    "sequence",
    "position",
    "schemaversion",
    "sessionid",
    "correlationid",
    "causationid",
];

fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn is_extension(name: &str) -> bool {
    is_attribute_name(name) && !KNOWN.contains(&name)
}

/// What the type system of `CloudEvents` can say: texts, truth values, 32-bit numbers.
fn is_simple(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        _ => false,
    }
}

/// The members of a JSON object in their order, values untouched.
struct Members(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The attributes that haven't been dealt with yet.
struct Attributes(Vec<(String, Json)>);

impl Attributes {
    fn check_names(&self) -> Result<(), CloudEventError> {
        let mut seen = std::collections::HashSet::new();
        for (name, _) in &self.0 {
            if !is_attribute_name(name) && name != "data_base64" {
                return Err(CloudEventError::Name { name: name.chars().take(64).collect() });
            }
            if !seen.insert(name) {
                return Err(CloudEventError::Repeated { name: name.clone() });
            }
        }
        Ok(())
    }

    fn take_even_null(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(at).1)
    }

    /// An attribute that is null is absent, says the specification.
    fn take(&mut self, name: &str) -> Option<Json> {
        self.take_even_null(name).filter(|value| value.as_str() != "null")
    }

    fn text(&mut self, attribute: &'static str) -> Result<Option<String>, CloudEventError> {
        let Some(value) = self.take(attribute) else { return Ok(None) };
        let text = value.to::<String>().map_err(|_| refuse(attribute, "a text"))?;
        Ok(Some(text))
    }

    fn required(&mut self, attribute: &'static str) -> Result<String, CloudEventError> {
        let text = self.text(attribute)?.ok_or(CloudEventError::Missing { attribute })?;
        // Control characters are forbidden in every text, and a line break would make two sources one.
        if text.is_empty() || text.contains(char::is_control) {
            return Err(refuse(attribute, "a text that isn't empty and has no control characters"));
        }
        Ok(text)
    }

    fn aggregate(&mut self) -> Result<Aggregate, CloudEventError> {
        let named = (self.text("aggregatetype")?, self.text("aggregateid")?);
        let (Some(aggregate_type), Some(aggregate_id)) = named else {
            let subject = self.text("subject")?.ok_or(CloudEventError::NoAggregate)?;
            let (aggregate_type, aggregate_id) =
                subject.split_once('/').ok_or(CloudEventError::NoAggregate)?;
            return Ok(Aggregate::new(aggregate_type, aggregate_id)?);
        };
        let derived = format!("{aggregate_type}/{aggregate_id}");
        self.0
            .retain(|(name, value)| name != "subject" || value.to::<String>().ok() != Some(derived.clone()));
        Ok(Aggregate::new(aggregate_type, aggregate_id)?)
    }

    fn schema_version(&mut self) -> Result<u32, CloudEventError> {
        let Some(value) = self.take("schemaversion") else { return Ok(1) };
        let number = value.to::<u32>().ok().or_else(|| value.to::<String>().ok()?.parse().ok());
        number.filter(|number| *number > 0).ok_or_else(|| refuse("schemaversion", "a whole number from 1"))
    }

    fn into_metadata(mut self, source: &str, id: &str, own: bool) -> Result<Metadata, CloudEventError> {
        let mut out = Attribute::begin(256);
        out.text("ce_source", source);
        out.text("ce_id", id);
        if let Some(time) = self.text("time")? {
            if !is_time(&time) {
                return Err(refuse("time", "a time as in RFC 3339, for example 2026-01-31T12:00:00Z"));
            }
            out.text("occurred_at", &time);
        }
        for (attribute, member) in [("correlationid", "correlation_id"), ("causationid", "causation_id")] {
            if let Some(text) = self.text(attribute)? {
                out.text(member, &text);
            }
        }
        for (name, value) in self.0 {
            let said_already = (own && PLACES.contains(&&*name))
                || (name == "datacontenttype" && value.as_str() == "\"application/json\"");
            if value.as_str() != "null" && !said_already {
                out.raw(&name, value.as_bytes());
            }
        }
        let json = Json::parse(out.end()).expect("an object of checked members is JSON");
        Ok(Metadata::new(json).expect("it is an object"))
    }
}

fn refuse(attribute: &str, expected: &'static str) -> CloudEventError {
    CloudEventError::Attribute { attribute: attribute.to_owned(), expected }
}

/// Writes a JSON object member by member, so that values keep their bytes.
struct Attribute(Vec<u8>);

impl Attribute {
    fn begin(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(b'{');
        Self(out)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, name).expect("writing text into memory can't fail");
        self.0.push(b':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        serde_json::to_writer(&mut self.0, text).expect("writing text into memory can't fail");
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.0.extend_from_slice(json);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(json: &str) -> (Aggregate, NewEvent) {
        from_cloudevent(json.as_bytes()).expect("a CloudEvent")
    }

    fn refused(json: &str) -> String {
        from_cloudevent(json.as_bytes()).expect_err("refused").to_string()
    }

    /// As the log would give the event back.
    fn stored(aggregate: &Aggregate, event: &NewEvent) -> StoredEvent {
        let text = |text: &str| serde_json::to_string(text).expect("JSON");
        let session = event.session_id.as_ref();
        let json = format!(
            r#"{{"position":5000000000,"sequence":2,"event_id":"{}","aggregate_type":{},"aggregate_id":{},"event_type":{},"schema_version":{},"payload":{},"metadata":{},"session_id":{},"recorded_at":"2026-01-31T12:00:00Z"}}"#,
            event.event_id.expect("given"),
            text(aggregate.aggregate_type()),
            text(aggregate.aggregate_id()),
            text(&event.event_type),
            event.schema_version,
            event.payload.as_str(),
            event.metadata.json().as_str(),
            session.map_or_else(|| "null".to_owned(), |session| text(session.as_str())),
        );
        StoredEvent::from_json(json.as_bytes()).expect("an event")
    }

    const STORE: StoreId = StoreId(Uuid::from_u128(7));

    #[test]
    fn every_attribute_finds_its_place() {
        let (aggregate, event) = taken(
            r#"{"specversion":"1.0","id":"17","source":"/shop","type":"OrderPlaced","time":"2026-01-31T12:00:00Z",
                "aggregatetype":"Order","aggregateid":"a/b","schemaversion":3,"sessionid":"s","correlationid":"c",
                "causationid":"d","traceparent":"00-1","data":{"b": 1.50,"a":[ ]}}"#,
        );
        assert_eq!((aggregate.aggregate_type(), aggregate.aggregate_id()), ("Order", "a/b"));
        assert_eq!(&*event.event_type, "OrderPlaced");
        assert_eq!(event.payload.as_str(), r#"{"b": 1.50,"a":[ ]}"#);
        assert_eq!(event.schema_version, 3);
        assert_eq!(event.session_id, Some(SessionId::new("s").expect("valid")));
        assert_eq!(
            event.metadata.json().as_str(),
            r#"{"ce_source":"/shop","ce_id":"17","occurred_at":"2026-01-31T12:00:00Z","correlation_id":"c","causation_id":"d","traceparent":"00-1"}"#
        );
        assert_eq!(event.metadata.correlation_id().as_deref(), Some("c"));
    }

    #[test]
    fn the_subject_names_the_aggregate_where_no_extension_does() {
        let (aggregate, event) =
            taken(r#"{"specversion":"1.0","id":"1","source":"s","type":"T","subject":"Order/a/b"}"#);
        assert_eq!((aggregate.aggregate_type(), aggregate.aggregate_id()), ("Order", "a/b"));
        assert_eq!(event.payload.as_str(), "null");
        assert_eq!(event.metadata.json().as_str(), r#"{"ce_source":"s","ce_id":"1"}"#);
    }

    #[test]
    fn the_event_id_comes_from_source_and_id_alone() {
        let id = |source: &str, id: &str, data: u32| {
            let json = format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"T","subject":"O/1","data":{data}}}"#
            );
            taken(&json).1.event_id.expect("derived")
        };
        assert_eq!(id("a", "1", 1), id("a", "1", 2));
        assert_ne!(id("a", "1", 1), id("a", "2", 1));
        assert_ne!(id("a", "1", 1), id("b", "1", 1));
        // Written down, because ids that were once derived must be derived again by every later version.
        assert_eq!(id("a", "1", 1).to_string(), "ca56da7c-7c8e-53e9-a7b0-08e74c911252");
        let own = "0190163d-8694-739b-aea5-966c26f8ad91";
        assert_eq!(id("urn:ironbus:x", own, 1).to_string(), own);
        assert_ne!(id("elsewhere", own, 1).to_string(), own);
    }

    #[test]
    fn what_goes_out_comes_in_as_the_same_event() {
        let (aggregate, event) = taken(
            r#"{"specversion":"1.0","id":"17","source":"/shop","type":"Placed","time":"2026-01-31T12:00:00Z",
                "aggregatetype":"Order","aggregateid":"é \"1\"","schemaversion":3,"sessionid":"s","subject":"x",
                "correlationid":"c","traceparent":"00-1","big":true,"datacontenttype":"text/json",
                "dataschema":"/schema","data":{"b": 1.50}}"#,
        );
        let json = to_cloudevent(&stored(&aggregate, &event), STORE);
        let (aggregate_again, mut again) = from_cloudevent(&json).expect("a CloudEvent");
        assert_eq!(aggregate_again, aggregate);
        // A foreign source may have extensions of these names: they are kept.
        let mut metadata: Map<String, Value> = again.metadata.json().to().expect("an object");
        assert_eq!(metadata.remove("position"), Some("5000000000".into()));
        assert_eq!(metadata.remove("sequence"), Some("2".into()));
        assert_eq!(Value::Object(metadata), event.metadata.json().to::<Value>().expect("an object"));
        again.metadata = event.metadata.clone();
        assert_eq!(again, event);
    }

    #[test]
    fn an_event_of_this_log_goes_out_with_the_log_as_its_source() {
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        let json = Json::parse(r#"{"n":1}"#).expect("valid");
        let event = NewEvent::new("Added", json)
            .with_id(EventId::generate())
            .with_metadata(Metadata::caused(Some("c"), None));
        let json = to_cloudevent(&stored(&aggregate, &event), STORE);
        let value: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["source"], format!("urn:ironbus:{STORE}"));
        assert_eq!(value["id"], event.event_id.expect("given").to_string());
        assert_eq!(value["subject"], "Todo/1");
        assert_eq!(value["time"], "2026-01-31T12:00:00.000000Z");
        assert_eq!(value["position"], "5000000000");
        let (_, again) = from_cloudevent(&json).expect("a CloudEvent");
        assert_eq!(again.event_id, event.event_id);
        let metadata: Value = again.metadata.json().to().expect("an object");
        assert_eq!(metadata.get("position"), None);
    }

    #[test]
    fn an_identity_that_the_metadata_only_claims_is_not_given_out() {
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        let claimed = Json::parse(r#"{"ce_source":"/bank","ce_id":"1"}"#).expect("valid");
        let event = NewEvent::new("Added", Json::empty_object())
            .with_id(EventId::generate())
            .with_metadata(Metadata::new(claimed).expect("an object"));
        let json = to_cloudevent(&stored(&aggregate, &event), STORE);
        let value: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["source"], format!("urn:ironbus:{STORE}"));
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        let with = |members: &str| {
            format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"T","subject":"O/1"{members}}}"#)
        };
        for (json, said) in [
            (r"[]".to_owned(), "JSON object"),
            (r#"{"specversion":"0.3","id":"1"}"#.to_owned(), r#"`specversion` is "0.3""#),
            (r#"{"specversion":"1.0","id":"1"}"#.to_owned(), "`source` is missing"),
            (r#"{"specversion":"1.0","id":"1","source":"a\nb"}"#.to_owned(), "`source` must be"),
            (r#"{"specversion":"1.0","id":"1","source":"s","type":"T"}"#.to_owned(), "`aggregatetype`"),
            (r#"{"specversion":"1.0","id":"1","source":"s","type":"T","subject":"x"}"#.to_owned(), "subject"),
            (with(r#","data_base64":"AA==""#), "data_base64"),
            (with(r#","time":"yesterday""#), "`time` must be"),
            (with(r#","schemaversion":0"#), "`schemaversion` must be"),
            (with(r#","aggregateType":"O""#), "`aggregateType` can't"),
            (with(r#","id":"2""#), "`id` stands twice"),
            (with(r#","sessionid":7"#), "`sessionid` must be a text"),
        ] {
            assert!(refused(&json).contains(said), "{json}: {}", refused(&json));
        }
    }

    #[test]
    fn cloudevents_are_told_from_other_lines() {
        assert!(is_cloudevent(br#"{"id":"1","specversion":"1.0"}"#));
        assert!(!is_cloudevent(br#"{"aggregate_type":"T","payload":{"specversion":"1.0"}}"#));
        assert!(!is_cloudevent(b"nonsense"));
    }
}
