//! How reasons are written down: a word for programs, a sentence for people.

/// Gives a type a `kind` for each of its forms, and writes it as `{"kind": …, "message": …}`, with its
/// `Display` as the message.
macro_rules! told {
    ($name:ident { $($form:pat => $kind:expr,)* }) => {
        impl $name {
            /// One word that says which it is; part of the interface.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                use $name::*;
                match self { $($form => $kind,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let mut document = serializer.serialize_struct(stringify!($name), 2)?;
                document.serialize_field("kind", self.kind())?;
                document.serialize_field("message", &self.to_string())?;
                document.end()
            }
        }
    };
}
pub(super) use told;

/// A number with its noun: `1 event`, `2 events`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
