//! The publisher: one per log, carries what is committed to the bus, in position order.
//!
//! It is a subscription of its own to everything. So it gets each batch from the writer's hand by way of
//! the tail's ring, without a second read; and when it has fallen out of the ring, or starts behind the
//! head, it reads the log from its last published position. A crash between commit and publish can't lose
//! anything, nor can two committers reorder.

use std::sync::Arc;

use crate::bus::EventBus;
use crate::event::Position;
use crate::key::EventFilter;
use crate::store::EventStore;
use crate::subscription::Start;

/// Publishes every event of `store` after `after` to `bus`, until the store closes.
pub async fn publish_from(store: Arc<dyn EventStore>, bus: Arc<dyn EventBus>, after: Position) {
    let mut events = store.subscribe(EventFilter::everything(), Start::After(after));
    while let Some(next) = events.next_event().await {
        match next {
            Ok(event) => bus.publish(&event).await,
            Err(error) => {
                tracing::warn!(%error, "the publisher can't read the log; trying again in a second");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}
