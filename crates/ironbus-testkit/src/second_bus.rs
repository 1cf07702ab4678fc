//! A second bus within the process, where a test needs one that stands in for Zenoh, and a link to nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use ironbus::bus::{EventSubscription, Listeners, PublishError, Side};
use ironbus::node::Link;
use ironbus::store::Head;
use ironbus::{EventBus, EventBusMode, EventFilter, LogAccess, StoredEvent};

/// A bus that loses every n-th event, or none, and that fails when it is told to.
#[derive(Debug)]
pub struct SecondBus {
    listeners: Listeners,
    loses: AtomicU64,
    down: AtomicBool,
}

impl SecondBus {
    /// A bus that loses nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_capacity(1024)
    }

    /// The same, whose listeners may be so many events behind before they miss some.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            listeners: Listeners::new(Side::Zenoh, capacity),
            loses: AtomicU64::new(u64::MAX),
            down: AtomicBool::new(false),
        })
    }

    /// From now on it fails to carry anything, or carries again.
    pub fn fail(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// From now on it loses every event whose position is a multiple of this; `None` loses nothing.
    pub fn lose_every(&self, n: Option<u64>) {
        self.loses.store(n.unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl EventBus for SecondBus {
    fn publish_all(&self, events: &[Arc<StoredEvent>]) -> Result<(), PublishError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(PublishError { side: Side::Zenoh, source: "the test says so".into() });
        }
        let loses = self.loses.load(Ordering::SeqCst);
        events
            .iter()
            .filter(|event| !event.position.0.is_multiple_of(loses))
            .for_each(|event| self.listeners.tell(event));
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

/// A link to nobody, that says how many subscribers of other services there are.
#[derive(Debug, Default)]
pub struct NoLink {
    /// How many.
    pub foreign_subscribers: u64,
}

#[async_trait]
impl Link for NoLink {
    fn log_access(&self) -> LogAccess {
        LogAccess::Own
    }

    fn foreign_subscribers(&self) -> u64 {
        self.foreign_subscribers
    }

    async fn log_moved(&self, _: &Head) {}

    async fn close(&self) -> bool {
        true
    }
}
