//! Raw subscriptions: whoever listens to a bus, and what each of them hears.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{EventBusMode, Side};
use crate::event::{Position, StoredEvent};
use crate::key::EventFilter;

/// The raw subscriptions of one bus in this process.
///
/// They share a channel of a fixed size. When it is full the oldest event leaves, and a listener that
/// hadn't heard it is told how many it missed. Telling never waits.
#[derive(Debug)]
pub struct Listeners {
    side: Side,
    capacity: usize,
    sender: RwLock<broadcast::Sender<Arc<StoredEvent>>>,
}

impl Listeners {
    /// No listeners yet, on a channel that holds `capacity` events (rounded up to a power of two, at
    /// least 1).
    #[must_use]
    pub fn new(side: Side, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { side, capacity, sender: RwLock::new(broadcast::Sender::new(capacity)) }
    }

    /// Tells every listener of an event.
    pub fn tell(&self, event: &Arc<StoredEvent>) {
        // An error only says that nobody listens.
        let _ = self.sender.read().send(Arc::clone(event));
    }

    /// A further listener, which hears the matching events from now on.
    #[must_use]
    pub fn add(&self, filter: EventFilter) -> EventSubscription {
        let source = self.sender.read().subscribe();
        EventSubscription { side: self.side, filter, source, last: Position::START, repeated: 0 }
    }

    /// How many listen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sender.read().receiver_count()
    }

    /// Ends every subscription once it has heard what was told so far.
    pub fn end(&self) {
        *self.sender.write() = broadcast::Sender::new(self.capacity);
    }
}

/// A raw and live subscription: what the bus brings, in ascending positions, and how much it lost on
/// the way.
#[derive(Debug)]
pub struct EventSubscription {
    side: Side,
    filter: EventFilter,
    source: broadcast::Receiver<Arc<StoredEvent>>,
    last: Position,
    repeated: u64,
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
    /// The mode of the bus that it listens to.
    #[must_use]
    pub fn mode(&self) -> EventBusMode {
        match self.side {
            Side::Broadcast => EventBusMode::Broadcast,
            Side::Zenoh => EventBusMode::Zenoh,
        }
    }

    /// Which bus it listens to.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// How many events the bus brought again or too late; they were passed over.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// What comes next; `None` when the bus is gone or carries no more, or the log went over to a later
    /// epoch, where positions may come again: subscribe again to hear on.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.source.recv().await {
                Ok(event) if event.position <= self.last => self.repeated += 1,
                Ok(event) => {
                    self.last = event.position;
                    if self.filter.matches(&event) {
                        return Some(Heard::Event(event));
                    }
                }
                Err(RecvError::Lagged(missed)) => return Some(Heard::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
