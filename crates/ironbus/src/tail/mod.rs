//! The tail: the end of the log as one node knows it, and who waits for what comes next.
//!
//! One per node. On the store node the writer feeds it directly, after the commit and before the
//! acknowledgement; so an acknowledged event is in the tail.
//!
//! Invariants:
//! - what is published is contiguous: a batch that would leave a hole is refused, what is already there
//!   is dropped;
//! - registering and publishing exclude each other, so that every matching event after the position that
//!   `Tail::register` returns is noted in the slot: none is missed between replay and live;
//! - an event is in the ring before its readers are told of it, and they are told of it before
//!   [`Tail::head`] reaches it. So a reader that reads the head first and then finds its slot empty has
//!   seen everything up to that head.

mod index;
mod ring;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub use ring::RingLimits;
pub(crate) use slot::{Slot, Waiting};

use crate::event::{Position, StoredEvent};
use crate::key::{EventFilter, KeyChunks};
use index::Index;
use ring::Ring;

/// The end of the log in memory, with an index of who waits for which events.
pub struct Tail {
    ring: RwLock<Ring>,
    readers: Mutex<Readers>,
    head: AtomicU64,
}

#[derive(Default)]
struct Readers {
    index: Index,
    closed: bool,
}

/// A batch that doesn't follow what the tail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tail ends at position {head}; a batch that starts at {first} would leave a hole")]
pub struct Hole {
    /// The last position that the tail has.
    pub head: Position,
    /// The first position of the refused batch.
    pub first: Position,
}

/// What a look at the ring found.
pub(crate) enum Looked {
    /// Everything up to this position was looked at.
    Through(Position),
    /// The ring no longer reaches back so far: read the log.
    Gone,
}

impl Tail {
    /// A tail that follows a log whose last position is `head`.
    #[must_use]
    pub fn new(head: Position, limits: RingLimits) -> Self {
        Self {
            ring: RwLock::new(Ring::new(head, limits)),
            readers: Mutex::default(),
            head: AtomicU64::new(head.0),
        }
    }

    /// The last position of which every reader has been told.
    #[must_use]
    pub fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    /// How many subscriptions are registered.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.readers.lock().index.len()
    }

    /// Takes a batch of events in the order of their positions; drops those that it has already.
    ///
    /// # Errors
    ///
    /// [`Hole`] when the batch starts beyond the next position; nothing of it is taken.
    pub fn publish(&self, batch: &[Arc<StoredEvent>]) -> Result<(), Hole> {
        let mut wakers = Vec::new();
        {
            let readers = self.readers.lock();
            let head = self.head();
            let new = batch.partition_point(|event| event.position <= head);
            let batch = &batch[new..];
            let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
            if first.position != head.next() {
                return Err(Hole { head, first: first.position });
            }
            let mut ring = self.ring.write();
            batch.iter().for_each(|event| ring.push(Arc::clone(event)));
            drop(ring);
            if readers.index.len() > 0 {
                for event in batch {
                    readers.index.matching(KeyChunks::of(event).as_slice(), &mut |slot| {
                        if slot.filter().entitlement.allows(event.session_id.as_ref()) {
                            wakers.extend(slot.note(event.position));
                        }
                    });
                }
            }
            self.head.store(last.position.0, Ordering::Release);
        }
        // Waking is slow beside all of the above: outside of the lock.
        wakers.into_iter().for_each(std::task::Waker::wake);
        Ok(())
    }

    /// Ends every subscription once it has delivered what it was told of. No more are woken after that.
    pub fn close(&self) {
        let mut wakers = Vec::new();
        {
            let mut readers = self.readers.lock();
            readers.closed = true;
            readers.index.all(&mut |slot| wakers.extend(slot.close()));
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Registers a reader. Every matching event after the returned position will be noted in the slot.
    pub(crate) fn register(&self, filter: EventFilter) -> (Arc<Slot>, Position) {
        let slot = Slot::new(filter);
        let mut readers = self.readers.lock();
        if readers.closed {
            slot.close();
        } else {
            readers.index.insert(Arc::clone(&slot));
        }
        (slot, self.head())
    }

    pub(crate) fn unregister(&self, slot: &Arc<Slot>) {
        self.readers.lock().index.remove(slot);
    }

    /// The event at `position`, if the ring holds it.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<StoredEvent>> {
        self.ring.read().get(position).cloned()
    }

    /// Hands the matching events after `after` to `found`, looking at `most` events at the most.
    pub(crate) fn look(
        &self,
        after: Position,
        most: usize,
        filter: &EventFilter,
        mut found: impl FnMut(Arc<StoredEvent>),
    ) -> Looked {
        let ring = self.ring.read();
        let Some(events) = ring.after(after) else { return Looked::Gone };
        let mut through = after;
        for event in events.take(most) {
            through = event.position;
            if filter.matches(event) {
                found(Arc::clone(event));
            }
        }
        Looked::Through(through)
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("head", &self.head()).finish_non_exhaustive()
    }
}
