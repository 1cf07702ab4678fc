//! Out of what a bus brings and what is read from the log: one contiguous run. Pure; [`super::follow`]
//! drives it.
//!
//! Invariants:
//! - what is taken out is contiguous from the position that it began after, each position once;
//! - it holds a bounded number of events that came before their turn; when that is full the farthest
//!   are forgotten, and are read from the log when their turn comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ring::{RingLimits, weight};
use crate::event::{Position, StoredEvent};

/// How the events of a node without a log have come to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// By the bus, in time.
    pub by_bus: u64,
    /// Read from the log, because the bus hadn't brought them.
    pub by_log: u64,
    /// Brought by the bus again or too late, and dropped.
    pub repeated: u64,
    /// Brought by the bus so far before their turn that there was no room for them.
    pub no_room: u64,
}

#[derive(Debug)]
pub(super) struct Merge {
    head: Position,
    /// The last position that was heard of.
    known: Position,
    early: BTreeMap<Position, Arc<StoredEvent>>,
    /// What the early events weigh.
    bytes: usize,
    room: RingLimits,
    counts: Merged,
}

impl Merge {
    /// Begins after `head`, with room for so many events that come before their turn.
    pub(super) fn new(head: Position, room: RingLimits) -> Self {
        Self { head, known: head, early: BTreeMap::new(), bytes: 0, room, counts: Merged::default() }
    }

    /// The last position that was taken out.
    pub(super) fn head(&self) -> Position {
        self.head
    }

    pub(super) fn counts(&self) -> Merged {
        self.counts
    }

    /// Whether events are missing before one that was heard of, also where there was no room for it.
    pub(super) fn misses(&self) -> bool {
        self.known > self.head
    }

    /// Takes an event that the bus brought; gives it back to be emitted if it is its turn. Then
    /// [`Self::next_early`] tells what has waited for it.
    pub(super) fn heard(&mut self, event: Arc<StoredEvent>) -> Option<Arc<StoredEvent>> {
        let position = event.position;
        self.known = self.known.max(position);
        if position <= self.head || self.early.contains_key(&position) {
            self.counts.repeated += 1;
            return None;
        }
        if position == self.head.next() {
            self.head = position;
            self.counts.by_bus += 1;
            return Some(event);
        }
        self.bytes += weight(&event);
        self.early.insert(position, event);
        while self.early.len() > self.room.events || self.bytes > self.room.bytes {
            let Some((_, farthest)) = self.early.pop_last() else { break };
            self.bytes -= weight(&farthest);
            self.counts.no_room += 1;
        }
        None
    }

    /// The next event if it came before its turn and that is now.
    pub(super) fn next_early(&mut self) -> Option<Arc<StoredEvent>> {
        let next = self.head.next();
        let entry = self.early.first_entry().filter(|first| *first.key() == next)?;
        self.head = next;
        self.counts.by_bus += 1;
        let event = entry.remove();
        self.bytes -= weight(&event);
        Some(event)
    }

    /// Takes events that were read from the log, in order; gives those that are new and contiguous.
    pub(super) fn read(&mut self, events: Vec<Arc<StoredEvent>>) -> Vec<Arc<StoredEvent>> {
        let mut new = Vec::with_capacity(events.len());
        for event in events {
            if event.position == self.head.next() {
                self.head = event.position;
                if let Some(early) = self.early.remove(&event.position) {
                    self.bytes -= weight(&early);
                    self.counts.by_bus += 1;
                } else {
                    self.counts.by_log += 1;
                }
                new.push(event);
            }
        }
        while let Some(event) = self.next_early() {
            new.push(event);
        }
        new
    }

    /// Forgets what came before its turn, and goes on after `head`.
    pub(super) fn begin_anew(&mut self, head: Position) {
        self.early.clear();
        self.bytes = 0;
        (self.head, self.known) = (head, head);
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

    const ROOM: RingLimits = RingLimits { events: 8, bytes: usize::MAX };

    fn hear(merge: &mut Merge, position: u64) -> Vec<u64> {
        let mut out: Vec<_> = merge.heard(event(position)).into_iter().collect();
        if !out.is_empty() {
            out.extend(std::iter::from_fn(|| merge.next_early()));
        }
        out.iter().map(|event| event.position.0).collect()
    }

    #[test]
    fn events_wait_for_their_turn_and_repeats_are_dropped() {
        let mut merge = Merge::new(Position(10), ROOM);
        assert_eq!(hear(&mut merge, 11), [11]);
        assert_eq!(hear(&mut merge, 13), [0; 0]);
        assert_eq!(hear(&mut merge, 13), [0; 0]);
        assert!(merge.misses());
        assert_eq!(hear(&mut merge, 12), [12, 13]);
        assert_eq!(hear(&mut merge, 12), [0; 0]);
        assert!(!merge.misses());
        assert_eq!(merge.counts(), Merged { by_bus: 3, by_log: 0, repeated: 2, no_room: 0 });
    }

    #[test]
    fn early_events_are_bounded_by_bytes_too() {
        let bytes = 2 * weight(&event(1));
        let mut merge = Merge::new(Position(0), RingLimits { bytes, ..ROOM });
        for position in 2..=5 {
            assert_eq!(hear(&mut merge, position), [0; 0]);
        }
        assert_eq!(merge.counts().no_room, 2);
        assert_eq!(hear(&mut merge, 1), [1, 2, 3]);
        assert!(merge.bytes == 0 && merge.misses());
        hear(&mut merge, 5);
        let new = merge.read(vec![event(4), event(5)]);
        assert_eq!((new.len(), merge.bytes), (2, 0));
        hear(&mut merge, 8);
        merge.begin_anew(Position(9));
        assert_eq!(merge.bytes, 0);
    }

    #[test]
    fn what_the_log_gives_joins_what_has_waited() {
        let mut merge = Merge::new(Position(0), RingLimits { events: 2, ..ROOM });
        for position in [5, 3, 9] {
            assert_eq!(hear(&mut merge, position), [0; 0]);
        }
        assert_eq!(merge.counts().no_room, 1, "9 is the farthest");
        let new = merge.read(vec![event(1), event(2), event(3), event(4)]);
        let positions: Vec<_> = new.iter().map(|event| event.position.0).collect();
        assert_eq!(positions, [1, 2, 3, 4, 5]);
        assert_eq!(merge.counts(), Merged { by_bus: 2, by_log: 3, repeated: 0, no_room: 1 });
        assert_eq!(merge.read(vec![event(4)]).len(), 0);
        assert_eq!(merge.read(vec![event(7), event(8)]).len(), 0, "a page with a hole before it");
        merge.begin_anew(Position(2));
        assert_eq!(hear(&mut merge, 3), [3]);
    }
}
