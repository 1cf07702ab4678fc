//! JSON text that is kept byte for byte.
//!
//! A payload is what its author wrote: key order, number notation and spacing survive. It is checked
//! once, when it comes in, and never parsed again on its way to a reader.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A valid JSON text. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// Checks that `text` is one JSON value and keeps its bytes (without the space around it).
    ///
    /// # Errors
    ///
    /// What is wrong with the text, and where.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, serde_json::Error> {
        let text = text.into();
        let value: &RawValue = serde_json::from_slice(&text)?;
        let kept = text.slice_ref(value.get().as_bytes());
        Ok(Self(kept))
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    ///
    /// What `serde_json` says of a value that can't be JSON, such as a map whose keys aren't text.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|bytes| Self(bytes.into()))
    }

    /// The empty object, `{}`.
    #[must_use]
    pub const fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// Takes text that was checked when it was stored.
    pub(crate) fn trusted(text: &str) -> Self {
        // What most metadata is: not worth a place in memory of its own.
        if text == "{}" { Self::empty_object() } else { Self(Bytes::copy_from_slice(text.as_bytes())) }
    }

    /// Takes JSON that was checked.
    pub(super) fn of_raw(raw: &RawValue) -> Self {
        Self::trusted(raw.get())
    }

    /// Reads the text as a `T`.
    ///
    /// # Errors
    ///
    /// Where the text isn't what `T` expects.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("JSON was checked to be UTF-8 when it was made")
    }

    /// The bytes of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the text is a JSON object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.0.first() == Some(&b'{')
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self::of_raw(&raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_payload_survive() {
        for text in [r#"{"b":1,"a":1.50e+3,"b":2}"#, "[1 ,2]", "\"\\u00e9 é\"", "12345678901234567890123"] {
            assert_eq!(Json::parse(text).expect("valid").as_str(), text);
            let through_serde: Json = serde_json::from_str(text).expect("valid");
            assert_eq!(serde_json::to_string(&through_serde).expect("valid"), text);
        }
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for text in ["", "{", "{} {}", "{'a':1}", "\u{feff}{}", "nul"] {
            assert!(Json::parse(text).is_err(), "{text:?} was taken for JSON");
        }
        assert!(Json::parse(&b"\"\xff\""[..]).is_err(), "bytes that aren't UTF-8 were taken for JSON");
    }
}
