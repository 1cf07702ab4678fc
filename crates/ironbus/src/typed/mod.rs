//! An application's own types on top of the log: serde enums in and out, upcasting, deciders.
//!
//! A [`DomainEvent`] is an ordinary serde enum. Its variant's name is the event's type, and the variant's
//! content is the payload, so what other programs see in the log reads naturally: the variant
//! `Added { title }` is stored as the type `Added` with the payload `{"title": …}`, and a variant without
//! content with `{}`.
//!
//! ```
//! use ironbus::typed::{DomainEvent, Upcaster};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! enum TodoEvent {
//!     Added { title: String, urgent: bool },
//!     Completed,
//! }
//!
//! impl DomainEvent for TodoEvent {
//!     const AGGREGATE_TYPE: &'static str = "Todo";
//!     // `urgent` came later: `Added` is at version 2 now, and what was stored as version 1 is still read.
//!     const UPCASTERS: &'static [Upcaster] = &[Upcaster::new("Added", 1, |mut payload| {
//!         payload["urgent"] = false.into();
//!         Ok(payload)
//!     })];
//! }
//! ```
//!
//! On the way of an event this stands above [`crate::store`] and [`crate::subscription`] and changes
//! neither. Invariant: an event that can't be read as the application's type is an error that names its
//! position. It is never skipped, because whoever skips an event has a state that never was.

mod codec;
mod decider;
mod repository;
mod subscription;
mod tagging;
mod upcast;

pub use codec::{DecodeError, EncodeError, Unreadable, decode, encode};
pub use decider::{CommandContext, Decider};
pub use repository::{ExecuteError, Executed, LoadError, Loaded, Repository};
pub use subscription::{TypedDelivery, TypedReadError, TypedSubscription};
pub use upcast::{UpcastResult, Upcaster};

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Position, StoredEvent};

/// The events of one kind of aggregate, as an application's own serde enum.
///
/// The variant's name (as serde writes it, so `rename` and `rename_all` hold) is the event's type. A
/// variant that was renamed is still read under its old name where it has `#[serde(alias = "…")]`.
pub trait DomainEvent: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind of aggregate that these are the events of.
    const AGGREGATE_TYPE: &'static str;

    /// For an enum with `#[serde(tag = "…")]`: the name of its tag. Serde's own way, without that
    /// attribute, needs nothing here. In both cases the tag becomes the event's type and isn't stored
    /// in the payload. `#[serde(tag, content)]` and `#[serde(untagged)]` are refused.
    const TAG: Option<&'static str> = None;

    /// How older payloads become newer ones. A type's current `schema_version` is one more than its
    /// last upcaster reads, and 1 for a type without any.
    const UPCASTERS: &'static [Upcaster] = &[];
}

/// A stored event together with what it says in the application's own words.
#[derive(Clone, Debug)]
pub struct TypedEvent<E> {
    /// What happened.
    pub event: E,
    /// Where it stands: position, sequence, metadata, time.
    pub stored: Arc<StoredEvent>,
}

impl<E> TypedEvent<E> {
    /// Its place in the whole log.
    #[must_use]
    pub fn position(&self) -> Position {
        self.stored.position
    }
}
