//! The bus within one process: `tokio::sync::broadcast`, as in phase 1.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{EventBus, EventBusMode, EventSubscription};
use crate::event::StoredEvent;
use crate::key::EventFilter;

/// The bus within one process.
///
/// When its channel is full the oldest event leaves, and a listener that hadn't heard it is told how many
/// it missed. Publishing never waits.
#[derive(Debug)]
pub struct BroadcastBus {
    sender: broadcast::Sender<Arc<StoredEvent>>,
}

impl BroadcastBus {
    /// A bus whose channel holds `capacity` events (rounded up to a power of two, at least 1).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity.max(1)) }
    }
}

impl Default for BroadcastBus {
    /// Holds 1,024 events.
    fn default() -> Self {
        Self::new(1024)
    }
}

#[async_trait]
impl EventBus for BroadcastBus {
    async fn publish(&self, event: &Arc<StoredEvent>) {
        // An error only says that nobody listens.
        let _ = self.sender.send(Arc::clone(event));
    }

    fn subscribe(&self, filter: EventFilter) -> EventSubscription {
        EventSubscription { filter, source: self.sender.subscribe() }
    }

    fn mode(&self) -> EventBusMode {
        EventBusMode::Broadcast
    }

    fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Heard;
    use crate::event::{Aggregate, Sequence, test_event};

    fn event(kind: &str, sequence: u64) -> Arc<StoredEvent> {
        Arc::new(test_event(Aggregate::new(kind, "1").expect("valid"), Sequence(sequence), None))
    }

    #[tokio::test]
    async fn a_listener_hears_what_matches_and_how_much_it_missed() {
        let bus = BroadcastBus::new(2);
        bus.publish(&event("Todo", 1)).await;
        let pattern = "events/Todo/**".parse().expect("valid");
        let mut todos = bus.subscribe(EventFilter::public(pattern));
        bus.publish(&event("User", 1)).await;
        bus.publish(&event("Todo", 2)).await;
        assert!(matches!(todos.next().await, Some(Heard::Event(event)) if event.sequence.0 == 2));
        for sequence in 3..=6 {
            bus.publish(&event("Todo", sequence)).await;
        }
        assert_eq!(todos.next().await, Some(Heard::Missed(2)));
        assert!(matches!(todos.next().await, Some(Heard::Event(event)) if event.sequence.0 == 5));
        drop(bus);
        assert!(matches!(todos.next().await, Some(Heard::Event(event)) if event.sequence.0 == 6));
        assert_eq!(todos.next().await, None);
    }
}
