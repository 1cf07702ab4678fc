//! The event bus: raw, live delivery of what was committed.
//!
//! A bus may lose, repeat or reorder; nothing that matters rests on it. Whoever needs every event uses a
//! [`crate::subscription::Subscription`]; a raw [`EventSubscription`] is for those who only want to hear
//! of news as fast as the bus carries it, and says how much it missed.
//!
//! [`DualEventBus`] is what a node has: a bus within the process, one over Zenoh where one is attached,
//! and a mode that says which of them carry, switched while everything runs.

mod broadcast;
mod dual;
mod listener;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use broadcast::BroadcastBus;
pub use dual::{Carried, DualEventBus, NoZenoh};
pub use listener::{EventSubscription, Heard, Listeners};

use crate::event::StoredEvent;
use crate::key::{EventFilter, EventKey};

/// How events travel from the log to live readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventBusMode {
    /// Within this process.
    Broadcast,
    /// Both ways. New raw subscriptions take Zenoh, old ones stay where they are.
    Dual,
    /// Over Zenoh.
    Zenoh,
}

/// One of the two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The bus within this process.
    Broadcast,
    /// The bus over Zenoh.
    Zenoh,
}

impl EventBusMode {
    /// Whether this side carries events in this mode.
    #[must_use]
    pub fn carries(self, side: Side) -> bool {
        match self {
            Self::Dual => true,
            Self::Broadcast => side == Side::Broadcast,
            Self::Zenoh => side == Side::Zenoh,
        }
    }
}

impl std::fmt::Display for EventBusMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Dual => "dual",
            Self::Zenoh => "zenoh",
        })
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Zenoh => "zenoh",
        })
    }
}

/// Why events couldn't be handed to a bus. Readers that need them get them from the log.
#[derive(Debug, thiserror::Error)]
#[error("the {side} bus can't carry events: {source}")]
pub struct PublishError {
    /// Which bus.
    pub side: Side,
    /// What it said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A bus that carries committed events to whoever listens.
pub trait EventBus: Send + Sync + 'static {
    /// Hands events to every raw subscription, in order. That nobody listens is no error.
    ///
    /// May block its thread while a network is congested.
    ///
    /// # Errors
    ///
    /// [`PublishError`] when the bus is down; some of the events may have been carried.
    fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError>;

    /// Listens to the matching events that are published from now on.
    fn subscribe(&self, filter: EventFilter) -> EventSubscription;

    /// How events travel.
    fn mode(&self) -> EventBusMode;

    /// How many raw subscriptions listen.
    fn listeners(&self) -> usize;

    /// Ends every raw subscription once it has heard what was published so far.
    fn end_listeners(&self);
}

/// The documented key of an event: `events/{aggregate_type}/{aggregate_id}/{sequence}`, percent-encoded.
/// The same as [`EventKey::of`].
#[must_use]
pub fn event_key(event: &StoredEvent) -> EventKey {
    EventKey::of(event)
}
