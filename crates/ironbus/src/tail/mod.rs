//! The tail: the end of the log as one node knows it, and who waits for what comes next.
//!
//! One per node. On the store node the writer feeds it directly, after the commit and before the
//! acknowledgement; so an acknowledged event is in the tail. On a node without a log, [`follow`] merges
//! what a bus and heartbeats tell and reads holes from the log.
//!
//! Invariants:
//! - what is published is contiguous: a batch that would leave a hole is refused, what is already there
//!   is dropped;
//! - registering and publishing exclude each other, so that every matching event after the position that
//!   `Tail::register` tells is noted in the slot: none is missed between replay and live;
//! - an event is in the ring before its readers are told of it, and they are told of it before
//!   [`Tail::head`] reaches it. So a reader that reads the head first and then finds its slot empty has
//!   seen everything up to that head;
//! - when the log goes over to a later epoch, every reader is told before it sees an event of that epoch.

mod follow;
mod merge;
mod ring;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use follow::{Entrance, Follow, FollowOptions, Following, Heartbeat, NoRoom, Signal, follow};
pub use merge::Merged;
pub use ring::RingLimits;
pub(crate) use slot::{Run, Runs, Slot, Waiting};

use crate::event::{Cursor, Epoch, Position, StoredEvent};
use crate::key::{EventFilter, Index, KeyChunks};
use ring::Ring;

/// The end of the log in memory, with an index of who waits for which events.
pub struct Tail {
    ring: RwLock<Ring>,
    limits: RingLimits,
    readers: Mutex<Readers>,
    head: AtomicU64,
    epoch: AtomicU64,
    /// How many later epochs there have been; changed under the lock of `readers`.
    rewinds: AtomicUsize,
    /// Wakes who waits for the head; costs next to nothing where nobody does.
    moved: Notify,
}

#[derive(Default)]
struct Readers {
    index: Index<Arc<Slot>>,
    closed: bool,
    /// Where the log ended when it was found; nothing where it was known from the start.
    began: Option<Cursor>,
    /// For each later epoch, the one before it and the last position that was kept of that. Grows with
    /// the promotions that this process has lived through, which are an operator's acts.
    kept: Vec<(Epoch, Position)>,
}

/// What registering gives a reader.
pub(crate) struct Registered {
    pub(crate) slot: Arc<Slot>,
    /// Whether the tail had found its log.
    pub(crate) found: bool,
    /// Every matching event after this will be noted in the slot.
    pub(crate) head: Cursor,
    /// How many later epochs there had been.
    pub(crate) rewinds: usize,
}

/// What has become of the log in later epochs.
pub(crate) struct Rewound {
    /// How many later epochs there have been.
    pub(crate) rewinds: usize,
    /// The epoch of which the least was kept.
    pub(crate) epoch: Epoch,
    /// The last position that was kept of it.
    pub(crate) kept: Position,
    /// The epoch in force.
    pub(crate) now: Epoch,
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
    /// A tail that follows a log in this epoch whose last position is `head`. Epochs count from 1; with 0
    /// the tail has still to find its log.
    #[must_use]
    pub fn new(epoch: Epoch, head: Position, limits: RingLimits) -> Self {
        Self {
            ring: RwLock::new(Ring::new(head, limits)),
            limits,
            readers: Mutex::default(),
            head: AtomicU64::new(head.0),
            epoch: AtomicU64::new(epoch.0),
            rewinds: AtomicUsize::new(0),
            moved: Notify::new(),
        }
    }

    /// The epoch that the log is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Goes over to a later epoch, whose log ends at `head`, and which kept of the one in force the
    /// positions up to `kept`; they may be more than have been published. What was published beyond is
    /// forgotten, and what is published next follows `kept`; where nothing was kept, `head`.
    ///
    /// Every reader is told, also where the tail itself had nothing to forget: one that reads the log may be
    /// ahead of it.
    pub fn begin_epoch(&self, epoch: Epoch, kept: Position, head: Position) {
        self.go_over(epoch, kept, |known| {
            // Another log altogether: its readers read it, as when a log is found.
            (kept < known).then_some(if kept == Position::START { head } else { kept })
        });
    }

    /// Every reader is told of a later epoch; where `next` says after which position, the ring begins anew there.
    fn go_over(&self, epoch: Epoch, kept: Position, next: impl FnOnce(Position) -> Option<Position>) {
        let mut wakers = Vec::new();
        {
            let mut readers = self.readers.lock();
            readers.kept.push((self.epoch(), kept));
            self.rewinds.store(readers.kept.len(), Ordering::Release);
            // After that: who asks the log of this epoch has been told of it.
            self.epoch.store(epoch.0, Ordering::Release);
            // Before the head moves: a reader takes an empty slot for having seen all up to the head.
            readers.index.all(&mut |slot| wakers.extend(slot.rewind()));
            if let Some(after) = next(self.head()) {
                *self.ring.write() = Ring::new(after, self.limits);
                self.head.store(after.0, Ordering::Release);
            }
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.moved.notify_waiters();
    }

    /// A tail that hadn't found its log yet has found it: it ends at `position`. Readers that were
    /// registered before have waited for that.
    pub(crate) fn start_at(&self, epoch: Epoch, position: Position) {
        let mut wakers = Vec::new();
        {
            let mut readers = self.readers.lock();
            *self.ring.write() = Ring::new(position, self.limits);
            self.head.store(position.0, Ordering::Release);
            self.epoch.store(epoch.0, Ordering::Release);
            readers.began = Some(Cursor { epoch, position });
            readers.index.all(&mut |slot| wakers.extend(slot.rewind()));
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.moved.notify_waiters();
    }

    /// A log is there to feed it: the one that it was to find, or the same one, perhaps in a later epoch, that kept
    /// everything. What the tail hasn't heard of meanwhile its readers read from the log.
    pub fn adopt(&self, epoch: Epoch, head: Position) {
        if !self.has_log() {
            self.start_at(epoch, head);
        } else if epoch > self.epoch() || head > self.head() {
            self.go_over(epoch.max(self.epoch()), head, |known| (head > known).then_some(head));
        }
    }

    /// Whether the tail knows its log. One that follows a log elsewhere may not have found it yet.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.epoch().0 > 0
    }

    /// Where the log ended when it was found, once it was.
    pub(crate) fn began(&self) -> Option<Cursor> {
        self.readers.lock().began
    }

    pub(crate) fn rewinds(&self) -> usize {
        self.rewinds.load(Ordering::Acquire)
    }

    /// What has become of the log after the first `since` rewinds; there has been a further one.
    pub(crate) fn rewound_since(&self, since: usize) -> Rewound {
        let readers = self.readers.lock();
        let least = readers.kept[since..].iter().min_by_key(|(_, kept)| kept);
        let (epoch, kept) = *least.expect("there has been a further one, and they are never taken back");
        Rewound { rewinds: readers.kept.len(), epoch, kept, now: self.epoch() }
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

    /// Takes a batch of events in the order of their positions; drops those that it has already. Says how
    /// many readers were told of the event that most were told of.
    ///
    /// # Errors
    ///
    /// [`Hole`] when the batch starts beyond the next position; nothing of it is taken.
    pub fn publish(&self, batch: &[Arc<StoredEvent>]) -> Result<usize, Hole> {
        let mut wakers = Vec::new();
        let mut most = 0;
        {
            let readers = self.readers.lock();
            let head = self.head();
            let new = batch.partition_point(|event| event.position <= head);
            let batch = &batch[new..];
            let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(0) };
            if first.position != head.next() {
                return Err(Hole { head, first: first.position });
            }
            let mut ring = self.ring.write();
            batch.iter().for_each(|event| ring.push(Arc::clone(event)));
            drop(ring);
            if readers.index.len() > 0 {
                for event in batch {
                    let mut told = 0;
                    readers.index.matching(KeyChunks::of(event).as_slice(), &mut |slot| {
                        if slot.filter().entitlement.allows(event.session_id.as_ref()) {
                            told += 1;
                            wakers.extend(slot.note(event.position));
                        }
                    });
                    most = most.max(told);
                }
            }
            self.head.store(last.position.0, Ordering::Release);
        }
        // Waking is slow beside all of the above: outside of the lock.
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.moved.notify_waiters();
        Ok(most)
    }

    /// Waits until the head has reached a position.
    pub async fn reached(&self, position: Position) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // From here on, and not from when it is first awaited: what moves between isn't missed.
            moved.as_mut().enable();
            if self.head() >= position {
                return;
            }
            moved.await;
        }
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

    pub(crate) fn register(&self, filter: EventFilter) -> Registered {
        let slot = Slot::new(filter);
        let mut readers = self.readers.lock();
        if readers.closed {
            slot.close();
        } else {
            readers.index.insert(&slot.filter().pattern, Arc::clone(&slot));
        }
        let head = Cursor { epoch: self.epoch(), position: self.head() };
        Registered { slot, found: self.has_log(), head, rewinds: readers.kept.len() }
    }

    pub(crate) fn unregister(&self, slot: &Arc<Slot>) {
        self.readers.lock().index.remove(&slot.filter().pattern, slot);
    }

    /// Hands the events of a run over; says whether the ring held them all. If not, none is.
    pub(crate) fn collect(&self, run: Run, found: &mut impl Extend<Arc<StoredEvent>>) -> bool {
        let ring = self.ring.read();
        let Some(events) = ring.after(Position(run.first.0 - 1)) else { return false };
        let Ok(count) = usize::try_from(run.last.0 + 1 - run.first.0) else { return false };
        if events.len() < count {
            return false;
        }
        found.extend(events.take(count).cloned());
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Aggregate, Encoded, EventId, Json, Metadata, Sequence};

    fn event(position: u64) -> Arc<StoredEvent> {
        Arc::new(StoredEvent {
            position: Position(position),
            sequence: Sequence(position),
            event_id: EventId::generate(),
            aggregate: Aggregate::new("A", "1").expect("valid"),
            event_type: "Counted".into(),
            schema_version: 1,
            payload: Json::empty_object(),
            metadata: Metadata::default(),
            session_id: None,
            recorded_at: jiff::Timestamp::UNIX_EPOCH,
            encoded: Encoded::default(),
        })
    }

    /// With the clock stopped: nothing but the head's move can wake who waits.
    /// The log may have gone on where this tail didn't hear of it.
    #[test]
    fn a_log_that_is_adopted_is_followed_from_where_it_ends_by_then() {
        for epoch in [Epoch(1), Epoch(3)] {
            let tail = Tail::new(Epoch(1), Position(0), RingLimits::default());
            tail.publish(&[event(1)]).expect("it follows");
            let rewinds = tail.rewinds();
            tail.adopt(epoch, Position(4));
            assert_eq!((tail.epoch(), tail.head()), (epoch, Position(4)));
            // What it hasn't got is read from the log, and nothing is taken back.
            let missed = tail.look(Position(1), 10, &EventFilter::everything(), |_| {});
            assert!(matches!(missed, Looked::Gone));
            let rewound = tail.rewound_since(rewinds);
            assert_eq!((rewound.kept, rewound.now), (Position(4), epoch));
            tail.publish(&[event(5)]).expect("it follows");
        }
        // One that it has heard all of changes nothing.
        let tail = Tail::new(Epoch(1), Position(4), RingLimits::default());
        let rewinds = tail.rewinds();
        tail.adopt(Epoch(1), Position(4));
        assert_eq!(tail.rewinds(), rewinds);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_head_goes_on_as_soon_as_it_is_there() {
        let tail = Arc::new(Tail::new(Epoch(1), Position::START, RingLimits::default()));
        tail.reached(Position::START).await;
        let waiting = Arc::clone(&tail);
        let reached = tokio::spawn(async move { waiting.reached(Position(3)).await });
        for position in 1..=3 {
            tokio::task::yield_now().await;
            assert!(!reached.is_finished(), "the head is at {}", tail.head());
            tail.publish(&[event(position)]).expect("in turn");
        }
        tokio::time::timeout(std::time::Duration::from_secs(1), reached)
            .await
            .expect("woken")
            .expect("no panic");
    }
}
