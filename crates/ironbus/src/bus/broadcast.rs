//! The bus within one process: `tokio::sync::broadcast`, as in phase 1.

use std::sync::Arc;

use super::{EventBus, EventBusMode, EventSubscription, Listeners, PublishError, Side};
use crate::event::StoredEvent;
use crate::key::EventFilter;

/// The bus within one process. Publishing never waits and never fails.
#[derive(Debug)]
pub struct BroadcastBus(Listeners);

impl BroadcastBus {
    /// A bus whose channel holds `capacity` events; see [`Listeners`] for what happens when it is full.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Listeners::new(Side::Broadcast, capacity))
    }
}

impl Default for BroadcastBus {
    /// Holds 1,024 events.
    fn default() -> Self {
        Self::new(1024)
    }
}

impl EventBus for BroadcastBus {
    fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
        events.iter().for_each(|event| self.0.tell(event));
        Ok(())
    }

    fn subscribe(&self, filter: EventFilter) -> EventSubscription {
        self.0.add(filter)
    }

    fn mode(&self) -> EventBusMode {
        EventBusMode::Broadcast
    }

    fn listeners(&self) -> usize {
        self.0.count()
    }

    fn end_listeners(&self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Heard;
    use crate::event::{Aggregate, Position, Sequence, test_event};

    fn publish(bus: &BroadcastBus, kind: &str, position: u64) {
        let event = test_event(Aggregate::new(kind, "1").expect("valid"), Sequence(1), None);
        let event = Arc::new(StoredEvent { position: Position(position), ..event });
        bus.publish_all(&[event]).expect("never fails");
    }

    fn position(heard: Option<Heard>) -> Option<u64> {
        match heard {
            Some(Heard::Event(event)) => Some(event.position.0),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_listener_hears_what_matches_and_how_much_it_missed() {
        let bus = BroadcastBus::new(2);
        publish(&bus, "Todo", 1);
        let pattern = "events/Todo/**".parse().expect("valid");
        let mut todos = bus.subscribe(EventFilter::public(pattern));
        publish(&bus, "User", 2);
        publish(&bus, "Todo", 3);
        assert_eq!(position(todos.next().await), Some(3));
        (4..=7).for_each(|position| publish(&bus, "Todo", position));
        assert_eq!(todos.next().await, Some(Heard::Missed(2)));
        assert_eq!(position(todos.next().await), Some(6));
        drop(bus);
        assert_eq!(position(todos.next().await), Some(7));
        assert_eq!(todos.next().await, None);
    }

    #[tokio::test]
    async fn a_listener_hears_ascending_positions_and_ends_with_its_bus() {
        let bus = BroadcastBus::default();
        let mut all = bus.subscribe(EventFilter::everything());
        [1, 2, 2, 1, 3].into_iter().for_each(|position| publish(&bus, "Todo", position));
        bus.end_listeners();
        let mut later = bus.subscribe(EventFilter::everything());
        publish(&bus, "Todo", 4);
        for expected in 1..=3 {
            assert_eq!(position(all.next().await), Some(expected));
        }
        assert_eq!((all.next().await, all.repeated()), (None, 2));
        assert_eq!(position(later.next().await), Some(4));
    }
}
