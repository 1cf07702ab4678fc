//! The last events of the log, in memory.
//!
//! Invariant: the ring holds a contiguous run of positions that ends at the last one published. It is
//! bounded by a count and by bytes; when it is full the oldest events leave, and a reader that still
//! needs them reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{Position, StoredEvent};

/// How many events are kept in memory: of the log's end, or of those that came before their turn. Whichever
/// bound is met first holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// The number of events.
    pub events: usize,
    /// Their payloads and metadata, in bytes.
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self { events: 16_384, bytes: 64 << 20 }
    }
}

pub(super) struct Ring {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    limits: RingLimits,
    /// The last position published, also where nothing is kept.
    last: Position,
}

pub(super) fn weight(event: &StoredEvent) -> usize {
    event.payload.as_bytes().len() + event.metadata.json().as_bytes().len()
}

impl Ring {
    pub(super) fn new(last: Position, limits: RingLimits) -> Self {
        Self { events: VecDeque::new(), bytes: 0, limits, last }
    }

    pub(super) fn push(&mut self, event: Arc<StoredEvent>) {
        debug_assert_eq!(event.position, self.last.next(), "the ring is contiguous");
        self.last = event.position;
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
        }
    }

    /// The events after `after`, or `None` when the ring no longer reaches back so far.
    pub(super) fn after(&self, after: Position) -> Option<impl ExactSizeIterator<Item = &Arc<StoredEvent>>> {
        let missing = self.last.0 - self.events.len() as u64;
        let skip = usize::try_from(after.0.checked_sub(missing)?).ok()?;
        Some(self.events.range(skip.min(self.events.len())..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Aggregate, Sequence, test_event};

    fn event(position: u64) -> Arc<StoredEvent> {
        let aggregate = Aggregate::new("Todo", "1").expect("valid");
        let event = test_event(aggregate, Sequence(position), None);
        Arc::new(StoredEvent { position: Position(position), ..event })
    }

    #[test]
    fn the_oldest_events_leave_and_readers_behind_them_are_told() {
        let mut ring = Ring::new(Position(10), RingLimits { events: 3, bytes: usize::MAX });
        for position in 11..=15 {
            ring.push(event(position));
        }
        let positions = |after: u64| -> Option<Vec<u64>> {
            Some(ring.after(Position(after))?.map(|event| event.position.0).collect())
        };
        assert_eq!(positions(12), Some(vec![13, 14, 15]));
        assert_eq!(positions(14), Some(vec![15]));
        assert_eq!(positions(15), Some(vec![]));
        assert_eq!(positions(11), None, "12 has left, so a reader after 11 must read the log");
    }

    #[test]
    fn bytes_bound_the_ring_too() {
        let mut ring = Ring::new(Position::START, RingLimits { events: 100, bytes: 9 });
        (1..=5).for_each(|position| ring.push(event(position)));
        assert_eq!(ring.events.len(), 2, "each test event weighs 4 bytes");
        assert_eq!(ring.last, Position(5));
    }
}
