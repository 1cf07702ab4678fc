//! The event bus: raw, live delivery of what was committed.
//!
//! A bus may lose, repeat or reorder; nothing that matters rests on it. Whoever needs every event uses a
//! [`crate::subscription::Subscription`]; a raw [`EventSubscription`] is for those who only want to hear
//! of news as fast as the bus carries it, and says how much it missed.

mod broadcast;

use std::sync::Arc;

use async_trait::async_trait;

pub use broadcast::BroadcastBus;

use crate::event::StoredEvent;
use crate::key::EventFilter;

/// How events travel from the log to live readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventBusMode {
    /// Within this process.
    Broadcast,
}

impl std::fmt::Display for EventBusMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
        })
    }
}

/// A bus that carries committed events to whoever listens.
#[async_trait]
pub trait EventBus: Send + Sync + 'static {
    /// Hands an event to every raw subscription. That nobody listens is no error.
    async fn publish(&self, event: &Arc<StoredEvent>);

    /// Listens to the matching events that are published from now on.
    fn subscribe(&self, filter: EventFilter) -> EventSubscription;

    /// How events travel.
    fn mode(&self) -> EventBusMode;

    /// How many raw subscriptions listen.
    fn listeners(&self) -> usize;
}

/// A raw and live subscription: what the bus brings, and how much it lost on the way.
#[derive(Debug)]
pub struct EventSubscription {
    filter: EventFilter,
    source: tokio::sync::broadcast::Receiver<Arc<StoredEvent>>,
}

/// What a raw subscription hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A matching event.
    Event(Arc<StoredEvent>),
    /// This listener was too slow: so many events, matching or not, were passed over. Read the store
    /// from the last position that was heard.
    Missed(u64),
}

impl EventSubscription {
    /// Which bus it listens to.
    #[must_use]
    pub fn mode(&self) -> EventBusMode {
        EventBusMode::Broadcast
    }

    /// What comes next; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            match self.source.recv().await {
                Ok(event) if self.filter.matches(&event) => return Some(Heard::Event(event)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Heard::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
