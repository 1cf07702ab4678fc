//! The two halves of a serde enum: its variant's name and its variant's content.
//!
//! The name is asked of the enum itself, by a serializer and a deserializer that only know variants, and
//! not guessed from the JSON. So an enum that isn't tagged as it was declared is refused, rather than
//! stored under the name of its tag.

use std::fmt::Display;

use serde::de::value::{Error as Refused, StrDeserializer};
use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::ser::{Impossible, SerializeStructVariant, SerializeTupleVariant, Serializer};
use serde::{Deserializer, Serialize};

const NOT_EXTERNAL: &str = "it isn't an externally tagged enum (serde's own way); \
    for `#[serde(tag = \"…\")]` set `DomainEvent::TAG`, other ways are not supported";

/// The name of a value's variant; its content isn't looked at.
pub(super) fn variant_name<T: Serialize>(value: &T) -> Result<&'static str, Refused> {
    value.serialize(VariantName)
}

struct VariantName;

/// A variant whose fields are passed over.
struct Named(&'static str);

macro_rules! refuse {
    ($($method:ident($($argument:ty),*) -> $ok:ty;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<$ok, Refused> {
            Err(serde::ser::Error::custom(NOT_EXTERNAL))
        }
    )*};
}

impl Serializer for VariantName {
    type Ok = &'static str;
    type Error = Refused;
    type SerializeSeq = Impossible<Self::Ok, Refused>;
    type SerializeTuple = Impossible<Self::Ok, Refused>;
    type SerializeTupleStruct = Impossible<Self::Ok, Refused>;
    type SerializeTupleVariant = Named;
    type SerializeMap = Impossible<Self::Ok, Refused>;
    type SerializeStruct = Impossible<Self::Ok, Refused>;
    type SerializeStructVariant = Named;

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Self::Ok, Refused> {
        Ok(variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<Self::Ok, Refused> {
        Ok(variant)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Named, Refused> {
        Ok(Named(variant))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Named, Refused> {
        Ok(Named(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Refused> {
        value.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Self::Ok, Refused> {
        Err(serde::ser::Error::custom(NOT_EXTERNAL))
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<Self::Ok, Refused> {
        Err(serde::ser::Error::custom(NOT_EXTERNAL))
    }

    refuse! {
        serialize_bool(bool) -> Self::Ok;
        serialize_i8(i8) -> Self::Ok;
        serialize_i16(i16) -> Self::Ok;
        serialize_i32(i32) -> Self::Ok;
        serialize_i64(i64) -> Self::Ok;
        serialize_u8(u8) -> Self::Ok;
        serialize_u16(u16) -> Self::Ok;
        serialize_u32(u32) -> Self::Ok;
        serialize_u64(u64) -> Self::Ok;
        serialize_f32(f32) -> Self::Ok;
        serialize_f64(f64) -> Self::Ok;
        serialize_char(char) -> Self::Ok;
        serialize_str(&str) -> Self::Ok;
        serialize_bytes(&[u8]) -> Self::Ok;
        serialize_none() -> Self::Ok;
        serialize_unit() -> Self::Ok;
        serialize_unit_struct(&'static str) -> Self::Ok;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

impl SerializeTupleVariant for Named {
    type Ok = &'static str;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Refused> {
        Ok(())
    }

    fn end(self) -> Result<Self::Ok, Refused> {
        Ok(self.0)
    }
}

impl SerializeStructVariant for Named {
    type Ok = &'static str;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, _: &T) -> Result<(), Refused> {
        Ok(())
    }

    fn end(self) -> Result<Self::Ok, Refused> {
        Ok(self.0)
    }
}

/// An event's type and payload, as an externally tagged enum would find them.
pub(super) struct Variant<'a> {
    pub(super) name: &'a str,
    pub(super) content: &'a [u8],
    /// Set when the enum has no such variant: that is another error than a payload that doesn't fit.
    pub(super) unknown: &'a mut bool,
}

pub(super) struct Content<'a>(&'a [u8]);

impl<'de> Deserializer<'de> for Variant<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom(NOT_EXTERNAL))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = serde_json::Error;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'de>), Self::Error> {
        let name: StrDeserializer<'_, Self::Error> = self.name.into_deserializer();
        match seed.deserialize(name) {
            Ok(variant) => Ok((variant, Content(self.content))),
            Err(error) => {
                *self.unknown = true;
                Err(error)
            }
        }
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        // What is stored is `{}`; other writers may say `null`, or more than this reader needs.
        match self.0.first() {
            Some(b'{' | b'n') => Ok(()),
            _ => Err(de::Error::custom("expected an object or null for a variant without content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        seed.deserialize(&mut serde_json::Deserializer::from_slice(self.0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Self::Error> {
        serde_json::Deserializer::from_slice(self.0).deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        serde_json::Deserializer::from_slice(self.0).deserialize_struct("", fields, visitor)
    }
}
