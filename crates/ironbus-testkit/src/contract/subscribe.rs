//! Subscriptions: replay and live without a seam, starts, resets, what else they say, and their end.

#![allow(missing_docs, reason = "each test's name says what it tests")]

use std::sync::Arc;
use std::time::Duration;

use ironbus::event::{Cursor, Epoch, NewEvent, Position, SessionId, StoredEvent};
use ironbus::key::{Entitlement, EventFilter};
use ironbus::store::{Append, EventStore, ExpectedVersion, ResetReason};
use ironbus::subscription::{Delivery, Start, Subscription};

use super::{ROOMY, Subject};
use crate::check::check_subscription;
use crate::{aggregate, numbered, read_all};

async fn append(store: &dyn EventStore, kind: &str, events: Vec<NewEvent>) {
    let append = Append::to(aggregate(kind, "1"), ExpectedVersion::Any, events);
    store.append(append).await.expect("nothing is in the way");
}

fn public(pattern: &str) -> EventFilter {
    EventFilter::public(pattern.parse().expect("a valid pattern"))
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = subscription.next().await.expect("the store is open");
    next.expect("the log can be read")
}

/// The positions of the next `count` events, whatever else is said between them.
async fn events(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut positions = Vec::new();
    while positions.len() < count {
        let event = subscription.next_event().await.expect("the store is open");
        positions.push(event.expect("the log can be read").position.0);
    }
    positions
}

/// That nothing comes now: all that was acknowledged so far has been delivered, or isn't for this reader.
async fn nothing(subscription: &mut Subscription) {
    let mut next = Box::pin(subscription.next());
    if let std::task::Poll::Ready(delivery) = futures_util::poll!(&mut next) {
        panic!("something came: {delivery:?}");
    }
}

pub async fn from_the_beginning_everything_comes_and_then_what_is_new(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", vec![numbered(1), numbered(2)]).await;
    append(store, "User", vec![numbered(3)]).await;
    let mut all = store.subscribe(public("events/**"), Start::Beginning);
    let mut todo = store.subscribe(public("events/Todo/**"), Start::Beginning);
    assert_eq!(events(&mut all, 3).await, [1, 2, 3]);
    assert_eq!(events(&mut todo, 2).await, [1, 2]);
    append(store, "User", vec![numbered(4)]).await;
    append(store, "Todo", vec![numbered(5)]).await;
    assert_eq!(events(&mut all, 2).await, [4, 5]);
    assert_eq!(events(&mut todo, 1).await, [5]);
    nothing(&mut all).await;
    nothing(&mut todo).await;
    assert_eq!((all.cursor(), todo.cursor()), (Position(5), Position(5)));
}

pub async fn live_means_only_what_is_committed_from_now_on(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", vec![numbered(1), numbered(2)]).await;
    let mut live = store.subscribe(public("events/**"), Start::Live);
    nothing(&mut live).await;
    append(store, "Todo", vec![numbered(3)]).await;
    assert_eq!(events(&mut live, 1).await, [3]);
    // What comes between the subscription and its first poll counts as well.
    let mut unpolled = store.subscribe(public("events/**"), Start::Live);
    append(store, "Todo", vec![numbered(4)]).await;
    assert_eq!(events(&mut unpolled, 1).await, [4]);
}

pub async fn after_a_position_and_a_resumed_cursor_go_on_behind_it(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", (1..=5).map(numbered).collect()).await;
    let epoch = store.head().await.expect("the head can be read").lineage.epoch();
    for position in 0..=5 {
        let resume = Start::Resume(Cursor { epoch, position: Position(position) });
        for start in [Start::After(Position(position)), resume] {
            let mut subscription = store.subscribe(public("events/**"), start).with_caught_up();
            for expected in position + 1..=5 {
                let Delivery::Event(event) = next(&mut subscription).await else {
                    panic!("an event was due")
                };
                assert_eq!(event.position.0, expected);
            }
            assert_eq!(next(&mut subscription).await, Delivery::CaughtUp(Position(5)), "{start:?}");
        }
    }
}

pub async fn a_cursor_of_a_foreign_epoch_is_reset(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", (1..=3).map(numbered).collect()).await;
    let current = store.head().await.expect("the head can be read").lineage.epoch();
    let epoch = Epoch(current.0 + 7);
    let start = Start::Resume(Cursor { epoch, position: Position(2) });
    let mut subscription = store.subscribe(public("events/**"), start);
    let reset = Delivery::Reset(ResetReason::ForeignEpoch { epoch, current });
    assert_eq!(next(&mut subscription).await, reset);
    assert_eq!(events(&mut subscription, 3).await, [1, 2, 3]);
}

pub async fn a_cursor_beyond_the_head_is_reset(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", (1..=3).map(numbered).collect()).await;
    let epoch = store.head().await.expect("the head can be read").lineage.epoch();
    let position = Position(4);
    for start in [Start::Resume(Cursor { epoch, position }), Start::After(position)] {
        let mut subscription = store.subscribe(public("events/**"), start);
        let reset = ResetReason::BeyondEnd { epoch, position, end: Position(3) };
        assert_eq!(next(&mut subscription).await, Delivery::Reset(reset), "{start:?}");
        assert_eq!(events(&mut subscription, 3).await, [1, 2, 3]);
        nothing(&mut subscription).await;
    }
}

pub async fn caught_up_is_said_once_between_replay_and_live(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let mut empty = store.subscribe(public("events/**"), Start::Beginning).with_caught_up();
    assert_eq!(next(&mut empty).await, Delivery::CaughtUp(Position(0)), "of an empty log too");
    append(store, "Todo", vec![numbered(1), numbered(2)]).await;
    append(store, "User", vec![numbered(3)]).await;
    let mut todo = store.subscribe(public("events/Todo/**"), Start::Beginning).with_caught_up();
    assert_eq!(events(&mut todo, 2).await, [1, 2]);
    assert_eq!(next(&mut todo).await, Delivery::CaughtUp(Position(3)));
    append(store, "Todo", vec![numbered(4)]).await;
    assert_eq!(events(&mut todo, 1).await, [4]);
    nothing(&mut todo).await;
    let mut silent = store.subscribe(public("events/**"), Start::After(Position(4)));
    nothing(&mut silent).await;
}

pub async fn watermarks_advance_where_nothing_matches(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    append(store, "Todo", vec![numbered(1)]).await;
    append(store, "User", vec![numbered(2), numbered(3)]).await;
    let every = Duration::from_millis(1);
    let mut todo = store.subscribe(public("events/Todo/**"), Start::Beginning).with_watermarks(every);
    assert_eq!(events(&mut todo, 1).await, [1]);
    assert_eq!(next(&mut todo).await, Delivery::Watermark(Position(3)));
    append(store, "User", vec![numbered(4)]).await;
    assert_eq!(next(&mut todo).await, Delivery::Watermark(Position(4)));
    append(store, "Todo", vec![numbered(5)]).await;
    assert_eq!(events(&mut todo, 1).await, [5]);
    append(store, "User", vec![numbered(6)]).await;
    // Nothing was said of 5 alone, because its event said it.
    assert_eq!(next(&mut todo).await, Delivery::Watermark(Position(6)));
}

pub async fn a_sessions_events_reach_only_the_entitled_in_replay_and_live(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    let session = |id: &str| SessionId::new(id).expect("valid");
    let batch = |n: u64| {
        vec![
            numbered(n),
            numbered(n + 1).for_session(session("a")),
            numbered(n + 2).for_session(session("b")),
        ]
    };
    append(store, "Todo", batch(1)).await;
    let mut readers = [
        ("events/**", Entitlement::Public, [vec![1], vec![4]]),
        ("events/**", Entitlement::session(session("a")), [vec![1, 2], vec![4, 5]]),
        ("events/**", Entitlement::session(session("b")), [vec![1, 3], vec![4, 6]]),
        ("events/**", Entitlement::Everything, [vec![1, 2, 3], vec![4, 5, 6]]),
        ("events/session/a/**", Entitlement::Public, [vec![], vec![]]),
        ("events/session/a/**", Entitlement::session(session("b")), [vec![], vec![]]),
        ("events/session/a/**", Entitlement::session(session("a")), [vec![2], vec![5]]),
        ("events/session/*/Todo/**", Entitlement::session(session("a")), [vec![2], vec![5]]),
        ("events/Todo/**", Entitlement::Everything, [vec![1], vec![4]]),
    ]
    .map(|(pattern, entitlement, expected)| {
        let filter = public(pattern).entitled(entitlement);
        (store.subscribe(filter, Start::Beginning).with_caught_up(), expected)
    });
    for (reader, expected) in &mut readers {
        assert_eq!(events(reader, expected[0].len()).await, expected[0], "replay, {reader:?}");
        assert_eq!(next(reader).await, Delivery::CaughtUp(Position(3)), "{reader:?}");
    }
    append(store, "Todo", batch(4)).await;
    for (reader, expected) in &mut readers {
        assert_eq!(events(reader, expected[1].len()).await, expected[1], "live, {reader:?}");
        nothing(reader).await;
    }
}

pub async fn a_reader_that_falls_out_of_the_ring_loses_nothing(subject: &dyn Subject) {
    let opened = subject.open(4).await;
    let store = &*opened.store;
    let mut all = store.subscribe(public("events/**"), Start::Live).with_caught_up();
    let mut todo = store.subscribe(public("events/Todo/**"), Start::Live).with_caught_up();
    assert_eq!(next(&mut all).await, Delivery::CaughtUp(Position(0)));
    assert_eq!(next(&mut todo).await, Delivery::CaughtUp(Position(0)));
    for n in 0..300 {
        append(store, if n % 7 == 0 { "Todo" } else { "User" }, vec![numbered(n)]).await;
    }
    let log = read_all(store).await.expect("the log can be read");
    for subscription in [&mut all, &mut todo] {
        let mut got: Vec<Arc<StoredEvent>> = Vec::new();
        loop {
            match next(subscription).await {
                Delivery::Event(event) => got.push(event),
                Delivery::CaughtUp(position) => {
                    assert_eq!(position, Position(300), "said again after it had fallen behind");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let filter = if got.len() == 300 { public("events/**") } else { public("events/Todo/**") };
        assert_eq!(check_subscription(&filter, Position::START, Position(300), &got, &log), Ok(()));
        assert!(subscription.reads_of_log() > 0, "the ring of 4 can't have been enough");
    }
}

pub async fn an_acknowledged_event_is_there_for_who_subscribes_next(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = &*opened.store;
    for n in 1..=50 {
        append(store, "Todo", vec![numbered(n)]).await;
        let mut after = store.subscribe(public("events/**"), Start::After(Position(n - 1)));
        assert_eq!(events(&mut after, 1).await, [n]);
        let page = store.read(Position(n - 1), &public("events/**"), 10).await.expect("it can be read");
        assert_eq!((page.events.len(), page.head), (1, Position(n)));
    }
}

pub async fn closing_the_store_ends_its_subscriptions(subject: &dyn Subject) {
    let opened = subject.open(ROOMY).await;
    let store = opened.store;
    append(&*store, "Todo", vec![numbered(1)]).await;
    let mut waiting = store.subscribe(public("events/**"), Start::Live);
    nothing(&mut waiting).await;
    let mut told = store.subscribe(public("events/**"), Start::Live);
    append(&*store, "Todo", vec![numbered(2)]).await;
    let woken = tokio::spawn(async move {
        let first = waiting.next().await;
        (first, waiting.next().await)
    });
    opened.close.await;
    let (first, then) = woken.await.expect("it doesn't panic");
    assert!(matches!(first, Some(Ok(Delivery::Event(event))) if event.position == Position(2)));
    assert!(then.is_none(), "{then:?}");
    assert_eq!(events(&mut told, 1).await, [2], "what was told of before the end is still delivered");
    assert!(told.next().await.is_none());
    assert!(told.next().await.is_none(), "and stays at its end");
    let mut late = store.subscribe(public("events/**"), Start::Live);
    assert!(late.next().await.is_none(), "a closed store's subscription is at its end");
    let refused =
        store.append(Append::to(aggregate("Todo", "1"), ExpectedVersion::Any, vec![numbered(3)])).await;
    assert!(matches!(refused, Err(ironbus::store::AppendError::Closed)), "{refused:?}");
}
