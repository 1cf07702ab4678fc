//! Two buses and a switch: the bus of a node, whose mode changes while everything runs.
//!
//! Invariants:
//! - a side carries exactly while the mode says so; a mode that needs Zenoh is only taken where a Zenoh
//!   bus is attached;
//! - a failure on one side is counted and shown, and in `Dual` never fails a publish;
//! - a raw subscription stays on its side until that side stops carrying; then it ends, so that its
//!   owner subscribes again to the other. Catch-up subscriptions don't depend on any of this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{BroadcastBus, EventBus, EventBusMode, EventSubscription, PublishError, Side};
use crate::event::StoredEvent;
use crate::key::EventFilter;

/// The bus of a node.
pub struct DualEventBus {
    broadcast: BroadcastBus,
    zenoh: RwLock<Option<Arc<dyn EventBus>>>,
    mode: watch::Sender<EventBusMode>,
    counts: [Counts; 2],
}

#[derive(Default)]
struct Counts {
    published: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// What one side has carried since the bus exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Carried {
    /// Events handed over.
    pub published: u64,
    /// Events that the side couldn't carry. Subscriptions got them from the log.
    pub failed: u64,
    /// What the side said last when it couldn't.
    pub last_failure: Option<String>,
}

/// A mode that needs Zenoh, on a bus that has none attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the mode {mode} needs Zenoh, and this node was started without it; give it a way to other nodes (`ironbus serve --zenoh-listen …`, or `[zenoh]` in ironbus.toml) and start it again"
)]
pub struct NoZenoh {
    /// The mode.
    pub mode: EventBusMode,
}

impl DualEventBus {
    /// A bus within this process. A Zenoh bus may be attached later.
    #[must_use]
    pub fn new_broadcast(broadcast: BroadcastBus) -> Self {
        Self {
            broadcast,
            zenoh: RwLock::new(None),
            mode: watch::Sender::new(EventBusMode::Broadcast),
            counts: Default::default(),
        }
    }

    /// A bus over Zenoh.
    #[must_use]
    pub fn new_zenoh(zenoh: Arc<dyn EventBus>) -> Self {
        Self::both(BroadcastBus::default(), zenoh, EventBusMode::Zenoh)
    }

    /// Both at the same time.
    #[must_use]
    pub fn new_dual(broadcast: BroadcastBus, zenoh: Arc<dyn EventBus>) -> Self {
        Self::both(broadcast, zenoh, EventBusMode::Dual)
    }

    fn both(broadcast: BroadcastBus, zenoh: Arc<dyn EventBus>, mode: EventBusMode) -> Self {
        let bus = Self::new_broadcast(broadcast);
        bus.attach_zenoh(zenoh);
        bus.mode.send_replace(mode);
        bus
    }

    /// Gives the bus its Zenoh side. The mode stays as it is.
    pub fn attach_zenoh(&self, zenoh: Arc<dyn EventBus>) {
        *self.zenoh.write() = Some(zenoh);
    }

    /// Whether there is a Zenoh side to switch to.
    #[must_use]
    pub fn has_zenoh(&self) -> bool {
        self.zenoh.read().is_some()
    }

    /// Switches the mode. Raw subscriptions of a side that carries no more end.
    ///
    /// # Errors
    ///
    /// [`NoZenoh`] when the mode needs a side that isn't there; nothing changes then.
    pub fn set_mode(&self, mode: EventBusMode) -> Result<(), NoZenoh> {
        if mode.carries(Side::Zenoh) && !self.has_zenoh() {
            return Err(NoZenoh { mode });
        }
        self.mode.send_if_modified(|now| std::mem::replace(now, mode) != mode);
        for side in [Side::Broadcast, Side::Zenoh] {
            if !mode.carries(side) {
                self.on(side, |bus| bus.end_listeners());
            }
        }
        Ok(())
    }

    /// Tells of every change of the mode.
    #[must_use]
    pub fn watch_mode(&self) -> watch::Receiver<EventBusMode> {
        self.mode.subscribe()
    }

    /// Publishes one event on whatever carries now. That nobody listens is no error.
    ///
    /// # Errors
    ///
    /// [`PublishError`] when the only side that carries is down. In `Dual` a failing side is counted
    /// and the event is carried by the other.
    pub async fn publish(&self, event: &Arc<StoredEvent>) -> Result<(), PublishError> {
        let mode = self.mode();
        if mode.carries(Side::Broadcast) {
            self.publish_on(Side::Broadcast, std::slice::from_ref(event))?;
        }
        if !mode.carries(Side::Zenoh) {
            return Ok(());
        }
        let Some(zenoh) = self.zenoh.read().clone() else { return Ok(()) };
        let sent = Arc::clone(event);
        // A congested network blocks the thread: not one of the runtime's.
        let published = tokio::task::spawn_blocking(move || zenoh.publish_all(&[sent])).await;
        let published = published.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let counted = self.count(Side::Zenoh, 1, published);
        if mode == EventBusMode::Dual { Ok(()) } else { counted }
    }

    /// Hands events to one side, whatever the mode says, and counts what became of them.
    pub(crate) fn publish_on(&self, side: Side, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
        let published = self.on(side, |bus| bus.publish_all(events)).unwrap_or(Ok(()));
        self.count(side, events.len(), published)
    }

    fn count(
        &self,
        side: Side,
        events: usize,
        published: Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let counts = &self.counts[side as usize];
        match &published {
            Ok(()) => counts.published.fetch_add(events as u64, Ordering::Relaxed),
            Err(error) => {
                *counts.last_failure.lock() = Some(error.to_string());
                counts.failed.fetch_add(events as u64, Ordering::Relaxed)
            }
        };
        published
    }

    /// What one side has carried so far.
    #[must_use]
    pub fn carried(&self, side: Side) -> Carried {
        let counts = &self.counts[side as usize];
        Carried {
            published: counts.published.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            last_failure: counts.last_failure.lock().clone(),
        }
    }

    /// How many raw subscriptions listen to one side.
    #[must_use]
    pub fn listeners_on(&self, side: Side) -> usize {
        self.on(side, EventBus::listeners).unwrap_or(0)
    }

    /// Listens to one side, whatever the mode says; `None` where there is no such side.
    #[must_use]
    pub fn subscribe_on(&self, side: Side, filter: EventFilter) -> Option<EventSubscription> {
        self.on(side, |bus| bus.subscribe(filter))
    }

    /// Ends the raw subscriptions of one side, which goes on carrying.
    pub(crate) fn end_listeners_on(&self, side: Side) {
        self.on(side, EventBus::end_listeners);
    }

    fn on<T>(&self, side: Side, with: impl FnOnce(&dyn EventBus) -> T) -> Option<T> {
        match side {
            Side::Broadcast => Some(with(&self.broadcast)),
            Side::Zenoh => {
                let zenoh = self.zenoh.read().clone()?;
                Some(with(&*zenoh))
            }
        }
    }
}

impl EventBus for DualEventBus {
    fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
        let mode = self.mode();
        let mut last = Ok(());
        for side in [Side::Broadcast, Side::Zenoh] {
            if mode.carries(side) {
                last = self.publish_on(side, events);
            }
        }
        if mode == EventBusMode::Dual { Ok(()) } else { last }
    }

    /// In `Dual` a new subscription takes Zenoh.
    fn subscribe(&self, filter: EventFilter) -> EventSubscription {
        loop {
            let side = if self.mode().carries(Side::Zenoh) { Side::Zenoh } else { Side::Broadcast };
            let listening = self.subscribe_on(side, filter.clone());
            let listening = listening.expect("a mode that needs Zenoh is only taken where there is Zenoh");
            // A side that stopped meanwhile may have ended its listeners before this was one of them.
            if self.mode().carries(side) {
                return listening;
            }
        }
    }

    fn mode(&self) -> EventBusMode {
        *self.mode.borrow()
    }

    fn listeners(&self) -> usize {
        [Side::Broadcast, Side::Zenoh].into_iter().map(|side| self.listeners_on(side)).sum()
    }

    fn end_listeners(&self) {
        for side in [Side::Broadcast, Side::Zenoh] {
            self.on(side, EventBus::end_listeners);
        }
    }
}

impl std::fmt::Debug for DualEventBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DualEventBus").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Heard, Listeners};
    use crate::event::{Aggregate, Position, Sequence, test_event};

    /// A second bus that can be told to fail.
    struct Far {
        listeners: Listeners,
        down: std::sync::atomic::AtomicBool,
    }

    impl Far {
        fn new() -> Arc<Self> {
            Arc::new(Self { listeners: Listeners::new(Side::Zenoh, 16), down: false.into() })
        }
    }

    impl EventBus for Far {
        fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
            if self.down.load(Ordering::Relaxed) {
                return Err(PublishError { side: Side::Zenoh, source: "no session".into() });
            }
            events.iter().for_each(|event| self.listeners.tell(event));
            Ok(())
        }
        fn subscribe(&self, filter: EventFilter) -> EventSubscription {
            self.listeners.add(filter)
        }
        fn mode(&self) -> EventBusMode {
            EventBusMode::Zenoh
        }
        fn listeners(&self) -> usize {
            self.listeners.count()
        }
        fn end_listeners(&self) {
            self.listeners.end();
        }
    }

    fn event(position: u64) -> Arc<StoredEvent> {
        let event = test_event(Aggregate::new("Todo", "1").expect("valid"), Sequence(position), None);
        Arc::new(StoredEvent { position: Position(position), ..event })
    }

    fn position(heard: Option<Heard>) -> Option<u64> {
        match heard {
            Some(Heard::Event(event)) => Some(event.position.0),
            _ => None,
        }
    }

    #[tokio::test]
    async fn in_dual_new_subscriptions_take_zenoh_and_old_ones_stay_until_their_side_ends() {
        let bus = DualEventBus::new_broadcast(BroadcastBus::default());
        let mut old = bus.subscribe(EventFilter::everything());
        assert_eq!(bus.set_mode(EventBusMode::Dual), Err(NoZenoh { mode: EventBusMode::Dual }));
        bus.attach_zenoh(Far::new());
        bus.set_mode(EventBusMode::Dual).expect("attached");
        let mut new = bus.subscribe(EventFilter::everything());
        assert_eq!((old.side(), new.side()), (Side::Broadcast, Side::Zenoh));
        bus.publish(&event(1)).await.expect("both carry");
        assert_eq!((position(old.next().await), position(new.next().await)), (Some(1), Some(1)));
        bus.set_mode(EventBusMode::Zenoh).expect("attached");
        bus.publish(&event(2)).await.expect("Zenoh carries");
        assert_eq!((position(old.next().await), position(new.next().await)), (None, Some(2)));
        bus.set_mode(EventBusMode::Broadcast).expect("always there");
        assert_eq!(new.next().await, None, "its side carries no more");
        assert_eq!(bus.subscribe(EventFilter::everything()).side(), Side::Broadcast);
    }

    #[tokio::test]
    async fn in_dual_a_side_that_fails_is_counted_and_fails_nothing() {
        let far = Far::new();
        let bus = DualEventBus::new_dual(BroadcastBus::default(), Arc::clone(&far) as _);
        let mut near = bus.subscribe_on(Side::Broadcast, EventFilter::everything()).expect("there");
        far.down.store(true, Ordering::Relaxed);
        bus.publish(&event(1)).await.expect("the other side carries");
        bus.publish_all(&[event(2)]).expect("the other side carries");
        assert_eq!((position(near.next().await), position(near.next().await)), (Some(1), Some(2)));
        let zenoh = bus.carried(Side::Zenoh);
        assert_eq!((zenoh.published, zenoh.failed), (0, 2));
        assert!(zenoh.last_failure.is_some_and(|said| said.contains("no session")));
        bus.set_mode(EventBusMode::Zenoh).expect("attached");
        assert!(bus.publish(&event(3)).await.is_err(), "nothing carries it now");
    }
}
