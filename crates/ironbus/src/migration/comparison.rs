//! Listens to both sides of a node's bus while both carry, and tells the migration what each brings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::Migration;
use crate::bus::{DualEventBus, EventBusMode, EventSubscription, Heard, Side};
use crate::event::StoredEvent;
use crate::key::EventFilter;
use crate::publisher::Progress;
use crate::tail::Tail;

/// How long to wait before a side is listened to again that ended although it carries.
const AGAIN: Duration = Duration::from_secs(1);

/// Compares whenever both sides carry, until the bus is gone. `ours` is how many of each side's raw
/// subscriptions are its own.
pub(crate) async fn compare(
    migration: Migration,
    bus: Arc<DualEventBus>,
    tail: Arc<Tail>,
    zenoh: Arc<Progress>,
    ours: Arc<AtomicUsize>,
) {
    let mut mode = bus.watch_mode();
    while mode.wait_for(|mode| *mode == EventBusMode::Dual).await.is_ok() {
        let listening = async {
            // After a start it may first make good what it hadn't carried before.
            zenoh.through(tail.head()).await;
            let listen = |side| bus.subscribe_on(side, EventFilter::everything()).map(Ear::new);
            if let (Some(near), Some(far)) = (listen(Side::Broadcast), listen(Side::Zenoh)) {
                ours.store(1, Ordering::Relaxed);
                // What was committed before both were listened to may come on one side alone.
                migration.passed_over(tail.head().next());
                listen_to_both(near, far, &migration).await;
            }
            tokio::time::sleep(AGAIN).await;
        };
        tokio::select! {
            _ = mode.wait_for(|mode| *mode != EventBusMode::Dual) => {}
            () = listening => {}
        }
        ours.store(0, Ordering::Relaxed);
    }
}

/// Listens until one side ends.
async fn listen_to_both(mut near: Ear, mut far: Ear, migration: &Migration) -> Option<()> {
    loop {
        tokio::select! {
            heard = near.hear(migration) => heard?,
            heard = far.hear(migration) => heard?,
        }
    }
}

struct Ear {
    subscription: EventSubscription,
    /// Whether it was too slow for something before the next event.
    missed: bool,
}

impl Ear {
    fn new(subscription: EventSubscription) -> Self {
        Self { subscription, missed: false }
    }

    /// Tells what comes next; `None` when the side has ended.
    async fn hear(&mut self, migration: &Migration) -> Option<()> {
        match self.subscription.next().await? {
            Heard::Missed(_) => self.missed = true,
            Heard::Event(event) => {
                if std::mem::take(&mut self.missed) {
                    migration.passed_over(event.position);
                }
                migration.heard(self.subscription.side(), event.position, age(&event));
            }
        }
        Some(())
    }
}

/// How long ago the event was recorded, by the same clock.
fn age(event: &StoredEvent) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(event.recorded_at)).unwrap_or_default()
}
