//! What a subscription takes and what an event costs, in numbers that don't depend on the machine: bytes and
//! allocations, and ratios of times within one run. The targets are those of the benchmarks; this guards them.

use std::alloc::System;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use ironbus::event::Epoch;
use ironbus::tail::{RingLimits, Tail};
use ironbus::{
    Aggregate, Append, EventFilter, EventStore, ExpectedVersion, KeyPattern, NewEvent, Position,
    SqliteEventStore, SqliteOptions, Start, StoredEvent, Subscription,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn aggregate(number: usize) -> Aggregate {
    Aggregate::new("Incident", format!("1-{number:09}")).expect("valid")
}

/// A store, and events of aggregate 0 that it holds.
async fn stored(folder: &std::path::Path, count: usize) -> (Arc<dyn EventStore>, Vec<Arc<StoredEvent>>) {
    let store = SqliteEventStore::open(SqliteOptions::new(folder.join("log.db"))).await.expect("opens");
    let events = (0..count).map(|_| NewEvent::new("Opened", ironbus::Json::empty_object())).collect();
    store.append(Append::to(aggregate(0), ExpectedVersion::Any, events)).await.expect("stored");
    let page = store.read(Position::START, &EventFilter::everything(), count).await.expect("readable");
    (Arc::new(store), page.events)
}

fn tail() -> Arc<Tail> {
    Arc::new(Tail::new(Epoch(1), Position::START, RingLimits::default()))
}

/// A subscription that has asked once, as one that waits for events has.
fn waiting(store: &Arc<dyn EventStore>, tail: &Arc<Tail>, number: usize) -> Subscription {
    let filter = EventFilter::public(KeyPattern::aggregate(&aggregate(number)));
    let mut events = Subscription::new(Arc::clone(store), Arc::clone(tail), filter, Start::Live);
    assert!(next(&mut events).is_none());
    events
}

fn next(events: &mut Subscription) -> Option<Arc<StoredEvent>> {
    match std::pin::Pin::new(events).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(delivery) => delivery.expect("open").expect("readable").into_event(),
        Poll::Pending => None,
    }
}

// One test: the allocator counts for all of them.
#[tokio::test]
async fn a_subscription_takes_a_kilobyte_and_an_event_costs_what_matches_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, events) = stored(folder.path(), 4096).await;

    // Memory, with the pattern, of subscriptions that each have one of their own.
    const MANY: usize = 20_000;
    let crowded = tail();
    let before = Region::new(MEMORY);
    let mut all: Vec<Subscription> = Vec::with_capacity(MANY);
    all.extend((0..MANY).map(|number| waiting(&store, &crowded, number)));
    let change = before.change();
    let each = (change.bytes_allocated - change.bytes_deallocated) / MANY;
    eprintln!("a subscription with a pattern of its own takes {each} bytes");
    assert!(each <= 1024, "{each} bytes for a subscription");

    // An event finds its subscription among many as it does alone: the same allocations, and about the same time.
    let lonely = tail();
    let mut alone = waiting(&store, &lonely, 0);
    let mut took = [(&lonely, &mut alone), (&crowded, &mut all[0])].map(|(tail, events_of)| {
        // The first event makes room for those that follow.
        let (first, events) = events.split_at(64);
        for event in first {
            tail.publish(std::slice::from_ref(event)).expect("in order");
            assert_eq!(next(events_of).expect("it matches").position, event.position);
        }
        let before = Region::new(MEMORY);
        let mut best = Duration::MAX;
        // The best of several: other work on the machine only makes one slower.
        for chunk in events.chunks(64) {
            let began = Instant::now();
            for event in chunk {
                tail.publish(std::slice::from_ref(event)).expect("in order");
                assert_eq!(next(events_of).expect("it matches").position, event.position);
            }
            best = best.min(began.elapsed());
        }
        let each = before.change().allocations as f64 / events.len() as f64;
        (best, each)
    });
    eprintln!("64 events to their one subscription, alone and among {MANY}: {took:?}");
    assert!(took[1].1 <= took[0].1 + 0.1, "allocations for an event: {took:?}");
    assert!(took[0].1 <= 8.0, "allocations for an event: {took:?}");
    took[0].0 = took[0].0.max(Duration::from_micros(20));
    assert!(took[1].0 < 4 * took[0].0, "64 events, alone and among {MANY}: {took:?}");
}
