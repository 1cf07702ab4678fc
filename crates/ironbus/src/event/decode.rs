//! An event out of its JSON.
//!
//! Nearly every document comes from [`StoredEvent::write_json`], so it is first read as that writes: field by
//! field in that order. Any other, and one with an escape in a name, is read as JSON at large.
//!
//! Invariant: the first way reads nothing that the second would refuse, and nothing differently.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::names::Names;
use super::{Aggregate, Encoded, EventId, Json, Metadata, Position, Sequence, SessionId, StoredEvent};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    position: Position,
    sequence: Sequence,
    event_id: EventId,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    schema_version: u32,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(default, borrow)]
    session_id: Option<Cow<'a, str>>,
    recorded_at: Timestamp,
}

impl StoredEvent {
    /// Reads an event from the JSON that [`Self::write_json`] writes.
    ///
    /// # Errors
    ///
    /// Where the text isn't such a document, or holds a name that no event may have.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        Self::read_json(text, |name| Arc::from(name))
    }

    /// The same for one of many events: names that an event before it had are shared with that.
    ///
    /// # Errors
    ///
    /// As [`Self::from_json`].
    pub fn from_json_among(text: &[u8], names: &mut Names) -> Result<Self, serde_json::Error> {
        Self::read_json(text, |name| names.shared(name))
    }

    fn read_json(text: &[u8], mut name: impl FnMut(&str) -> Arc<str>) -> Result<Self, serde_json::Error> {
        use serde::de::Error;
        let document = match std::str::from_utf8(text).ok().and_then(as_written) {
            Some(document) => document,
            None => serde_json::from_slice(text)?,
        };
        let aggregate = Aggregate::new(name(&document.aggregate_type), name(&document.aggregate_id));
        Ok(Self {
            position: document.position,
            sequence: document.sequence,
            event_id: document.event_id,
            aggregate: aggregate.map_err(serde_json::Error::custom)?,
            event_type: name(&document.event_type),
            schema_version: document.schema_version,
            payload: Json::of_raw(document.payload),
            metadata: Metadata::new(Json::of_raw(document.metadata)).map_err(serde_json::Error::custom)?,
            session_id: document
                .session_id
                .map(|id| SessionId::new(&*id))
                .transpose()
                .map_err(serde_json::Error::custom)?,
            recorded_at: document.recorded_at,
            encoded: Encoded::default(),
        })
    }
}

/// A document as it is written; `None` for any other text, whether or not it is one.
fn as_written(text: &str) -> Option<Document<'_>> {
    let mut rest = Rest(text);
    rest.pass("{\"position\":")?;
    let position = Position(rest.number()?);
    rest.pass(",\"sequence\":")?;
    let sequence = Sequence(rest.number()?);
    rest.pass(",\"event_id\":")?;
    let event_id = EventId(rest.text()?.parse::<Uuid>().ok()?);
    rest.pass(",\"aggregate_type\":")?;
    let aggregate_type = rest.text()?.into();
    rest.pass(",\"aggregate_id\":")?;
    let aggregate_id = rest.text()?.into();
    rest.pass(",\"event_type\":")?;
    let event_type = rest.text()?.into();
    rest.pass(",\"schema_version\":")?;
    let schema_version = u32::try_from(rest.number()?).ok()?;
    rest.pass(",\"payload\":")?;
    let payload = rest.value()?;
    rest.pass(",\"metadata\":")?;
    let metadata = rest.value()?;
    let session_id = match rest.pass(",\"session_id\":") {
        Some(()) => Some(rest.text()?.into()),
        None => None,
    };
    rest.pass(",\"recorded_at\":")?;
    let recorded_at = rest.text()?.parse().ok()?;
    (rest.0 == "}").then_some(Document {
        position,
        sequence,
        event_id,
        aggregate_type,
        aggregate_id,
        event_type,
        schema_version,
        payload,
        metadata,
        session_id,
        recorded_at,
    })
}

/// What is left of a text.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn pass(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    fn take(&mut self, bytes: usize) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A whole number as JSON writes it.
    fn number(&mut self) -> Option<u64> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let digits = self.take(digits)?;
        if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
    }

    /// A text in which nothing is escaped or had to be.
    fn text(&mut self) -> Option<&'a str> {
        self.pass("\"")?;
        let special = |byte: u8| byte == b'"' || byte == b'\\' || byte < b' ';
        let length = self.0.bytes().position(special)?;
        let text = self.take(length)?;
        self.pass("\"")?;
        Some(text)
    }

    /// Any value, with no space before it.
    fn value(&mut self) -> Option<&'a RawValue> {
        let value = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(self.0)).ok()?;
        self.pass(value.get())?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-zA-Z0-9-]{1,12}", "(?s)[^\0]{1,12}", Just("\"\\\n".to_owned())]
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null"),
            Just("true"),
            Just("-0.5e3"),
            Just("12"),
            Just("\"a\\\"}é\""),
            Just("{}"),
        ];
        leaf.prop_map(str::to_owned).prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(" , "))),
                inner.prop_map(|one| format!("{{\"k\" :\n{one}}}")),
            ]
        })
    }

    prop_compose! {
        fn event()(
            (position, sequence, id) in any::<(u64, u64, u128)>(),
            (kind, of, event_type, session) in (text(), text(), text(), prop::option::of(text())),
            schema_version in any::<u32>(),
            payload in json(),
            metadata in prop_oneof![Just("{}".to_owned()), json().prop_map(|json| format!("{{\"m\":{json}}}"))],
            at in -1_000_000_000_000_000..4_000_000_000_000_000_i64,
        ) -> StoredEvent {
            StoredEvent {
                position: Position(position),
                sequence: Sequence(sequence),
                event_id: EventId(Uuid::from_u128(id)),
                aggregate: Aggregate::new(kind, of).expect("valid"),
                event_type: event_type.into(),
                schema_version,
                payload: Json::parse(payload).expect("valid"),
                metadata: Metadata::new(Json::parse(metadata).expect("valid")).expect("an object"),
                session_id: session.map(|id| SessionId::new(id).expect("valid")),
                recorded_at: Timestamp::from_microsecond(at).expect("in range"),
                encoded: Encoded::default(),
            }
        }
    }

    fn at_large(text: &[u8]) -> Option<String> {
        serde_json::from_slice::<Document<'_>>(text).ok().map(|document| format!("{document:?}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_written_is_read_the_short_way_unless_a_name_is_escaped(event in event()) {
            prop_assume!(event.aggregate.aggregate_type() != "session");
            let mut text = Vec::new();
            event.write_json(&mut text);
            let read = as_written(std::str::from_utf8(&text).expect("JSON"));
            prop_assert_eq!(&StoredEvent::from_json(&text).expect("valid"), &event);
            let names = [event.aggregate.aggregate_type(), event.aggregate.aggregate_id(), &event.event_type];
            let mut names = names.into_iter().chain(event.session_id.as_ref().map(SessionId::as_str));
            let escaped = |name: &str| serde_json::to_string(name).expect("text").len() != name.len() + 2;
            prop_assert_eq!(read.is_some(), !names.any(escaped));
        }

        #[test]
        fn whatever_is_read_the_short_way_is_read_alike_as_json_at_large(
            event in event(), edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..3),
        ) {
            let mut text = Vec::new();
            event.write_json(&mut text);
            for (at, edit) in edits {
                let at = at.index(text.len());
                match edit {
                    Edit::Cut => drop(text.split_off(at)),
                    Edit::Remove => drop(text.remove(at)),
                    Edit::Put(byte) => text[at] = byte,
                    Edit::Insert(byte) => text.insert(at, byte),
                }
                if text.is_empty() {
                    break;
                }
            }
            if let Some(read) = std::str::from_utf8(&text).ok().and_then(as_written) {
                prop_assert_eq!(Some(format!("{read:?}")), at_large(&text));
            }
        }
    }

    #[test]
    fn near_misses_are_read_as_json_at_large_reads_them() {
        let written = r#"{"position":7,"sequence":2,"event_id":"00000000-0000-0000-0000-000000000001","aggregate_type":"A","aggregate_id":"1","event_type":"Done","schema_version":3,"payload":{"a":[1]},"metadata":{},"session_id":"s","recorded_at":"2023-11-14T22:13:20.000000Z"}"#;
        assert!(as_written(written).is_some());
        for (part, instead) in [
            ("7", "07"),
            ("7", "+7"),
            ("7", "7.0"),
            ("7", ""),
            ("7", "18446744073709551616"),
            (":3", ":4294967296"),
            ("Done", "Do\ne"),
            ("Done", "Do\\ne"),
            ("Done", "Do\tne"),
            ("0001", "000g"),
            ("[1]", "[1"),
            ("[1]", "[1,]"),
            ("{\"a\":[1]}", ""),
            ("{\"a\":[1]}", " {}"),
            ("{\"a\":[1]}", "{} "),
            ("{\"a\":[1]}", "01"),
            ("{\"a\":[1]}", "nul"),
            ("Z\"}", "Z\"} "),
            ("Z\"}", "Z\"}}"),
            ("Z\"}", "Z\""),
            ("Z\"}", "\"}"),
            ("Z\"}", "Z\",\"more\":1}"),
            (",\"metadata\":{}", ""),
            (",\"metadata\":{}", ",\"metadata\":{},\"metadata\":{}"),
        ] {
            let text = written.replacen(part, instead, 1);
            if let Some(read) = as_written(&text) {
                assert_eq!(Some(format!("{read:?}")), at_large(text.as_bytes()), "{text}");
            }
        }
        let without = written.replace(r#","session_id":"s""#, "");
        assert!(as_written(&without).is_some_and(|document| document.session_id.is_none()));
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Cut,
        Remove,
        Put(u8),
        Insert(u8),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let byte = || prop_oneof![prop::sample::select(b"\"\\{}[],:0 -.e\n".to_vec()), any::<u8>()];
        prop_oneof![
            Just(Edit::Cut),
            Just(Edit::Remove),
            byte().prop_map(Edit::Put),
            byte().prop_map(Edit::Insert),
        ]
    }
}
