//! From an application's event to one that can be appended, and back.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::tagging::{Variant, variant_name};
use super::{DomainEvent, upcast};
use crate::event::{Json, NewEvent, Position, StoredEvent};

/// Why an application's event can't be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The type isn't an enum that is tagged as its [`DomainEvent`] says.
    #[error("{name} can't be an event: {reason}")]
    Tagging {
        /// The Rust type.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// serde can't write it as JSON.
    #[error("the event can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// An event of the log that can't be read as the application's type.
///
/// Nothing after it may be dealt with before this is resolved: upgrade the program, add an upcaster, or
/// read the aggregate as untyped events.
#[derive(Debug, thiserror::Error)]
#[error("the event at position {position} ({event_type}, version {schema_version}) can't be read: {reason}")]
#[non_exhaustive]
pub struct DecodeError {
    /// Where it stands.
    pub position: Position,
    /// Its type.
    pub event_type: String,
    /// The version of its payload's shape.
    pub schema_version: u32,
    /// What is wrong.
    #[source]
    pub reason: Unreadable,
}

/// Why a stored event can't be read as the application's type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It belongs to another kind of aggregate.
    #[error("it belongs to a {actual}, not to a {expected}; subscribe to events/{expected}/** only")]
    OtherAggregate {
        /// The kind that the type is of.
        expected: &'static str,
        /// The kind that the event is of.
        actual: String,
    },
    /// The enum has no such variant.
    #[error("this program doesn't know the event type; add a variant, or a #[serde(alias)] to a renamed one")]
    UnknownType,
    /// It was written by a later version of the program.
    #[error("this program knows versions up to {known}; upgrade it")]
    Newer {
        /// The greatest version known.
        known: u32,
    },
    /// The chain of upcasters has a hole.
    #[error("there is no upcaster from version {from} to {}; add one", from + 1)]
    NoUpcaster {
        /// The version that has no next step.
        from: u32,
    },
    /// An upcaster refused the payload.
    #[error("the upcaster from version {from} failed: {source}")]
    Upcast {
        /// The version that the step reads.
        from: u32,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The payload isn't what the variant expects.
    #[error("its payload doesn't fit the variant: {0}")]
    Payload(#[source] serde_json::Error),
}

/// The application's event as one that can be appended, at the current schema version of its type.
///
/// # Errors
///
/// [`EncodeError`] when the type isn't tagged as declared, or isn't JSON.
pub fn encode<E: DomainEvent>(event: &E) -> Result<NewEvent, EncodeError> {
    let (name, payload) = match E::TAG {
        None => external(event)?,
        Some(tag) => internal(event, tag)?,
    };
    let schema_version = upcast::current_version(E::UPCASTERS, &name);
    Ok(NewEvent { schema_version, ..NewEvent::new(&*name, payload) })
}

/// `{"Name":content}`, or `"Name"` for a variant without content.
fn external<E: DomainEvent>(event: &E) -> Result<(Cow<'static, str>, Json), EncodeError> {
    let name = variant_name(event).map_err(|error| tagging::<E>(error.to_string()))?;
    let mut text = serde_json::to_string(event)?;
    if text.starts_with('"') {
        return Ok((name.into(), Json::empty_object()));
    }
    let before = serde_json::to_string(name)?.len() + 2;
    text.pop();
    text.drain(..before);
    Ok((name.into(), Json::trusted(&text)))
}

/// `{"tag":"Name", …}`: the tag is taken out, wherever it stands.
fn internal<E: DomainEvent>(event: &E, tag: &str) -> Result<(Cow<'static, str>, Json), EncodeError> {
    let wrong = || tagging::<E>(format!("it is no object with a text in `{tag}` (DomainEvent::TAG)"));
    let text = serde_json::to_string(event)?;
    let members: Members<'_> = serde_json::from_str(&text).map_err(|_| wrong())?;
    let name = members.0.iter().find(|(name, _)| name == tag).ok_or_else(wrong)?.1;
    let name: String = serde_json::from_str(name.get()).map_err(|_| wrong())?;
    let mut payload = String::with_capacity(text.len());
    for (name, value) in members.0.iter().filter(|(name, _)| name != tag) {
        payload.push(if payload.is_empty() { '{' } else { ',' });
        payload.push_str(&serde_json::to_string(name)?);
        payload.push(':');
        payload.push_str(value.get());
    }
    payload.push_str(if payload.is_empty() { "{}" } else { "}" });
    Ok((name.into(), Json::trusted(&payload)))
}

fn tagging<E>(reason: String) -> EncodeError {
    EncodeError::Tagging { name: std::any::type_name::<E>(), reason }
}

/// An object's members in their order, values untouched.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A stored event as the application's type, upcast to the current version where it is older.
///
/// # Errors
///
/// [`DecodeError`] with the event's position when it can't be read.
pub fn decode<E: DomainEvent>(stored: &StoredEvent) -> Result<E, DecodeError> {
    read(stored).map_err(|reason| DecodeError {
        position: stored.position,
        event_type: stored.event_type.to_string(),
        schema_version: stored.schema_version,
        reason,
    })
}

fn read<E: DomainEvent>(stored: &StoredEvent) -> Result<E, Unreadable> {
    let actual = stored.aggregate.aggregate_type();
    if actual != E::AGGREGATE_TYPE {
        let actual = actual.to_owned();
        return Err(Unreadable::OtherAggregate { expected: E::AGGREGATE_TYPE, actual });
    }
    let known = upcast::current_version(E::UPCASTERS, &stored.event_type);
    if stored.schema_version > known {
        return Err(Unreadable::Newer { known });
    }
    let mut payload = Cow::Borrowed(stored.payload.as_bytes());
    if stored.schema_version < known {
        let mut value = stored.payload.to().map_err(Unreadable::Payload)?;
        for from in stored.schema_version..known {
            let step = upcast::step(E::UPCASTERS, &stored.event_type, from)
                .ok_or(Unreadable::NoUpcaster { from })?;
            value = step.apply(value).map_err(|source| Unreadable::Upcast { from, source })?;
        }
        payload = serde_json::to_vec(&value).map_err(Unreadable::Payload)?.into();
    }
    if let Some(tag) = E::TAG {
        return read_internal(&stored.event_type, tag, &payload);
    }
    let mut unknown = false;
    E::deserialize(Variant { name: &stored.event_type, content: &payload, unknown: &mut unknown })
        .map_err(|error| if unknown { Unreadable::UnknownType } else { Unreadable::Payload(error) })
}

fn read_internal<E: DomainEvent>(name: &str, tag: &str, payload: &[u8]) -> Result<E, Unreadable> {
    let tagged = |members: &[u8]| {
        let mut text = Vec::with_capacity(payload.len() + tag.len() + name.len() + 8);
        text.push(b'{');
        serde_json::to_writer(&mut text, tag)?;
        text.push(b':');
        serde_json::to_writer(&mut text, name)?;
        let empty = members.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b'}');
        text.extend_from_slice(if empty { b"" } else { b"," });
        text.extend_from_slice(members);
        Ok::<_, serde_json::Error>(text)
    };
    let Some(members) = payload.strip_prefix(b"{") else {
        let error = serde::de::Error::custom("expected an object");
        return Err(Unreadable::Payload(error));
    };
    let text = tagged(members).map_err(Unreadable::Payload)?;
    serde_json::from_slice(&text).map_err(|error| {
        // serde names a variant that it doesn't know in its message and nowhere else.
        if error.to_string().starts_with(&format!("unknown variant `{name}`")) {
            Unreadable::UnknownType
        } else {
            Unreadable::Payload(error)
        }
    })
}
