//! What a follower tells its closure: each event once, and everything where it can't know.

use std::sync::Arc;

use futures_util::FutureExt;
use ironbus::cache::{Follower, Invalidated, on_invalidation};
use ironbus::event::{Epoch, Position, SessionId};
use ironbus::key::{Entitlement, EventFilter};
use ironbus::store::{Append, EventStore, ExpectedVersion};
use ironbus_testkit::failing::FailingStore;
use ironbus_testkit::stepped::SteppedStore;
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered, within};
use tokio::sync::mpsc;

fn on(pattern: &str) -> EventFilter {
    EventFilter::public(pattern.parse().expect(pattern))
}

fn append(n: u64, kind: &str, id: &str) -> Append {
    Append::to(aggregate(kind, id), ExpectedVersion::Any, vec![numbered(n)])
}

/// A follower, and what it tells.
fn follow(
    store: &(impl EventStore + Clone),
    filters: impl IntoIterator<Item = EventFilter>,
) -> (Follower, mpsc::Receiver<Invalidated>) {
    let (tell, told) = mpsc::channel(1000);
    let follower = on_invalidation("test", Arc::new(store.clone()), filters, move |invalidated| {
        tell.try_send(invalidated).expect("the test listens");
    });
    (follower, told)
}

/// What was told next: the position of an event, or `None` for everything.
async fn next(told: &mut mpsc::Receiver<Invalidated>) -> Option<u64> {
    match within("what is told next", told.recv()).await.expect("the follower lives") {
        Invalidated::By(event) => Some(event.position.0),
        Invalidated::Everything => None,
    }
}

#[tokio::test]
async fn an_event_that_several_filters_let_pass_is_told_once() {
    let temp = TempStore::new();
    let store = temp.open().await;
    store.append(append(1, "Todo", "1")).await.expect("stored");
    let filters = [on("events/Todo/1/**"), on("events/Todo/**"), on("events/*/1/**")];
    let (_follower, mut told) = follow(&store, filters);
    for (n, (kind, id)) in
        [("Todo", "1"), ("User", "2"), ("Todo", "2"), ("User", "1"), ("Todo", "1")].into_iter().enumerate()
    {
        store.append(append(n as u64 + 2, kind, id)).await.expect("stored");
    }
    let mut positions = Vec::new();
    for _ in 0..4 {
        positions.push(next(&mut told).await.expect("nothing was missed"));
    }
    positions.sort_unstable();
    assert_eq!(positions, [2, 4, 5, 6], "not what came before, nor what isn't asked for");
    assert!(told.recv().now_or_never().is_none());
}

#[tokio::test]
async fn a_session_s_events_are_told_to_those_entitled() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let session = SessionId::new("s").expect("valid");
    let (_public, mut public) = follow(&store, [on("events/**")]);
    let entitled = on("events/**").entitled(Entitlement::session(session.clone()));
    let (_session, mut of_session) = follow(&store, [entitled]);
    for event in [numbered(1).for_session(session), numbered(2)] {
        let append = Append::to(aggregate("Todo", "1"), ExpectedVersion::Any, vec![event]);
        store.append(append).await.expect("stored");
    }
    assert_eq!(next(&mut of_session).await, Some(1));
    assert_eq!(next(&mut of_session).await, Some(2));
    assert_eq!(next(&mut public).await, Some(2));
}

/// Commits more than the ring holds and the follower was told of one by one.
fn flood(store: &SteppedStore, from: u64) -> u64 {
    (from..from + 50).for_each(|n| store.commit(&append(n, "Todo", "1")));
    store.publish();
    from + 50
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_invalidates_everything_and_what_follows_is_told() {
    let store = FailingStore::new(SteppedStore::new(4));
    let (_follower, mut told) = follow(&store, [on("events/Todo/**"), on("events/Todo/1/**")]);
    let n = flood(store.stepped(), 1);
    for position in 1..n {
        assert_eq!(next(&mut told).await, Some(position), "what has left the ring is read from the log");
    }
    store.unreadable(true);
    let n = flood(store.stepped(), n);
    assert_eq!(next(&mut told).await, None, "what has left the ring can't be read");
    store.append(append(n, "Todo", "1")).await.expect("stored");
    assert_eq!(next(&mut told).await, Some(n), "live again, although the log still can't be read");
}

#[tokio::test(start_paused = true)]
async fn a_reset_invalidates_everything_and_what_follows_is_told() {
    let store = FailingStore::new(SteppedStore::new(4));
    let n = flood(store.stepped(), 1);
    store.begin_epoch();
    let (_follower, mut told) = follow(&store, [on("events/Todo/**"), on("events/Todo/1/**")]);
    assert_eq!(next(&mut told).await, None);
    store.append(append(n, "Todo", "1")).await.expect("stored");
    assert_eq!(next(&mut told).await, Some(n), "what the other log held before isn't told");
}

/// What was lost hadn't been told, but may be in what the closure keeps.
#[tokio::test(start_paused = true)]
async fn a_log_that_loses_its_last_events_invalidates_everything() {
    let store = SteppedStore::new(100);
    let (_follower, mut told) = follow(&store, [on("events/Todo/**")]);
    store.append(append(1, "Todo", "1")).await.expect("stored");
    assert_eq!(next(&mut told).await, Some(1));
    store.append(append(2, "Todo", "1")).await.expect("stored");
    store.tail().begin_epoch(Epoch(2), Position(1), Position(1));
    assert_eq!(next(&mut told).await, None);
    store.publish();
    assert_eq!(next(&mut told).await, Some(2), "what comes in its place is told");
}

#[tokio::test]
async fn a_store_that_closes_invalidates_everything_and_ends_the_follower() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let (follower, mut told) = follow(&store, [on("events/Todo/**")]);
    store.append(append(1, "Todo", "1")).await.expect("stored");
    store.close().await;
    assert_eq!(next(&mut told).await, Some(1));
    assert_eq!(next(&mut told).await, None);
    assert!(within("the end", told.recv()).await.is_none(), "the closure is gone");
    follower.shutdown().await;
}

#[tokio::test]
async fn a_follower_that_is_dropped_or_shut_down_tells_no_more_and_leaves_the_tail() {
    let store = SteppedStore::new(4);
    let (follower, mut told) = follow(&store, [on("events/**"), on("events/Todo/**")]);
    assert_eq!(store.tail().subscriptions(), 2);
    assert_eq!((follower.name(), follower.is_finished()), ("test", false));
    follower.shutdown().await;
    assert_eq!(store.tail().subscriptions(), 0);
    store.append(append(1, "Todo", "1")).await.expect("stored");
    assert!(told.recv().await.is_none());
    let (follower, mut told) = follow(&store, [on("events/Todo/**")]);
    drop(follower);
    assert!(within("the end", told.recv()).await.is_none());
    assert_eq!(store.tail().subscriptions(), 0);
}

#[tokio::test]
#[should_panic(expected = "the closure's own")]
async fn a_closure_that_panics_is_heard_of_at_the_shutdown() {
    let store = SteppedStore::new(4);
    let follower = on_invalidation("test", Arc::new(store.clone()), [on("events/**")], |_| {
        panic!("the closure's own");
    });
    store.append(append(1, "Todo", "1")).await.expect("stored");
    while !follower.is_finished() {
        tokio::task::yield_now().await;
    }
    follower.shutdown().await;
}
