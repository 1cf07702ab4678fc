//! Cached views: never older than an invalidation that was processed, and in the end as fresh as computed.
//!
//! Once stepped: one thread, a store whose commits, publications, slow reads, failures and resets the test
//! chooses, and computations that take as long as it chooses. And once at large, on SQLite with many threads.
#![cfg(feature = "moka")]

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use ironbus::cache::{CachedViews, Refused, View};
use ironbus::event::{Cursor, Epoch, Position, Sequence, SessionId, StoredEvent};
use ironbus::key::{Entitlement, EventFilter, KeyPattern};
use ironbus::store::{Append, EventStore, ExpectedVersion, ReadError, SqliteEventStore, SqliteOptions};
use ironbus_testkit::failing::FailingStore;
use ironbus_testkit::stepped::SteppedStore;
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered, read_all, within};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};

fn on(pattern: &str) -> EventFilter {
    EventFilter::public(pattern.parse().expect(pattern))
}

fn append(n: u64, kind: &str, id: &str) -> Append {
    Append::to(aggregate(kind, id), ExpectedVersion::Any, vec![numbered(n)])
}

/// Commits more than a small ring holds and a subscription is told of one by one.
fn flood(store: &SteppedStore, from: u64) -> u64 {
    (from..from + 50).for_each(|n| store.commit(&append(n, "Flood", "1")));
    store.publish();
    from + 50
}

/// Lets others run until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        yield_now().await;
    }
    panic!("waited in vain until {what}");
}

/// A cache over a store that is followed already.
async fn followed(store: &(impl EventStore + Clone), capacity: u64) -> CachedViews<String, u64> {
    let views = CachedViews::new("test", Arc::new(store.clone()), capacity);
    within("the cache follows", views.wait_for(Position::START)).await;
    views
}

/// The value under `key`, a computed one counted by `computed` and made of it.
async fn get(views: &CachedViews<String, u64>, key: &str, pattern: &str, computed: &AtomicUsize) -> u64 {
    let compute = async |at| {
        let value = computed.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        Ok::<_, Infallible>(View::new(value, at).depends_on(on(pattern)))
    };
    let Ok(value) = views.get_or_compute(key, compute).await;
    value
}

#[tokio::test]
async fn a_value_is_computed_once_until_an_event_comes_that_it_depends_on() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    for (n, (id, expected)) in [("other", 1), ("1", 2), ("other", 2), ("1", 3)].into_iter().enumerate() {
        for _ in 0..2 {
            get(&views, "one", "events/Todo/1/**", &computed).await;
        }
        let appended = store.append(append(n as u64, "Todo", id)).await.expect("stored");
        views.wait_for(appended.head).await;
        let again = get(&views, "one", "events/Todo/1/**", &computed).await;
        assert_eq!(again, expected, "after the event of {id}");
        assert_eq!(views.get("one"), Some(expected));
    }
    assert_eq!((views.values(), views.dependencies()), (1, 1));
}

#[tokio::test]
async fn every_node_s_cache_is_invalidated() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let other = SqliteEventStore::open_read_only(SqliteOptions::new(temp.path())).await.expect("opens");
    let nodes = [followed(&store, 100).await, followed(&other, 100).await];
    let computed = AtomicUsize::new(0);
    for views in &nodes {
        get(views, "todos", "events/Todo/**", &computed).await;
    }
    let appended = store.append(append(1, "Todo", "1")).await.expect("stored");
    for views in &nodes {
        within("the node hears of it", views.wait_for(appended.head)).await;
        assert_eq!(views.get("todos"), None);
    }
}

#[tokio::test]
async fn a_value_that_an_event_outran_is_given_to_who_computed_it_and_not_kept() {
    let store = SteppedStore::new(100);
    let views = followed(&store, 100).await;
    let computing = views.get_or_compute("one", async |at| {
        store.append(append(1, "Todo", "1")).await.expect("stored");
        views.wait_for(Position(1)).await;
        Ok::<_, Infallible>(View::new(7, at).depends_on(on("events/Todo/1/**")))
    });
    assert_eq!(computing.await, Ok(7));
    assert_eq!(views.get("one"), None);
    let stale = View::new(7, Cursor { epoch: Epoch(1), position: Position(0) });
    let refused = views.put("one".to_owned(), stale.depends_on(on("events/Todo/**"))).expect_err("stale");
    let expected = Refused::Stale { computed_at: Position(0), invalidated_at: Position(1) };
    assert_eq!(refused, expected);
    assert_eq!((views.values(), views.dependencies()), (0, 0));
}

#[tokio::test]
async fn a_value_that_is_put_before_the_event_arrives_is_invalidated_when_it_does() {
    let store = SteppedStore::new(100);
    let views = followed(&store, 100).await;
    store.commit(&append(1, "Todo", "1"));
    store.commit(&append(2, "Todo", "1"));
    let put = |key: &str, position| {
        let computed_at = Cursor { epoch: Epoch(1), position: Position(position) };
        let view = View::new(position, computed_at).depends_on(on("events/Todo/1/**"));
        views.put(key.to_owned(), view).expect("the cache hasn't seen that it is stale");
    };
    put("without both", 0);
    put("without the second", 1);
    put("with both", 2);
    store.publish();
    within("the cache has seen it", views.wait_for(Position(2))).await;
    assert_eq!(views.get("without both"), None);
    assert_eq!(views.get("without the second"), None);
    assert_eq!(views.get("with both"), Some(2));
}

/// While the values are still being removed one by one, none is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_invalidates_much_invalidates_it_all_at_once() {
    let store = SteppedStore::new(100);
    let views: CachedViews<u64, u64> = CachedViews::new("test", Arc::new(store.clone()), 20_000);
    within("the cache follows", views.wait_for(Position::START)).await;
    let at = views.seen().expect("followed");
    for n in 0..10_000 {
        views.put(n, View::new(n, at).depends_on(on("events/Todo/**"))).expect("nothing has happened");
    }
    assert_eq!(views.get(&0), Some(0));
    store.append(append(1, "Todo", "1")).await.expect("stored");
    while views.seen() == Some(at) {
        std::hint::spin_loop();
    }
    assert_eq!((0..10_000).rev().find_map(|n| views.get(&n)), None);
    within("all are removed", views.wait_for(Position(1))).await;
    assert_eq!((views.values(), views.dependencies()), (0, 0));
}

/// A value that is outrun at the worst moment: when it was let in, and moka is about to take a copy of it.
struct Outrun {
    store: SteppedStore,
    views: CachedViews<u64, Outrun>,
    again: bool,
}

impl Clone for Outrun {
    fn clone(&self) -> Self {
        if self.again {
            let runtime = tokio::runtime::Handle::current();
            runtime.block_on(self.store.append(append(1, "Todo", "1"))).expect("stored");
            runtime.block_on(within("the cache has seen it", self.views.wait_for(Position(1))));
        }
        Self { store: self.store.clone(), views: self.views.clone(), again: false }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_outrun_after_it_was_let_in_is_neither_served_nor_kept() {
    let store = SteppedStore::new(100);
    let views: CachedViews<u64, Outrun> = CachedViews::new("test", Arc::new(store.clone()), 100);
    within("the cache follows", views.wait_for(Position::START)).await;
    let at = views.seen().expect("followed");
    let value = Outrun { store: store.clone(), views: views.clone(), again: true };
    let putting = views.clone();
    let put = tokio::task::spawn_blocking(move || {
        putting.put(1, View::new(value, at).depends_on(on("events/Todo/**")))
    });
    assert_eq!(within("the value is put in", put).await.expect("no panic"), Ok(()), "it was let in");
    assert!(views.get(&1).is_none());
    assert_eq!((views.values(), views.dependencies()), (0, 0));
}

#[tokio::test]
async fn of_many_who_ask_at_once_one_computes() {
    let store = SteppedStore::new(100);
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    let go = Notify::new();
    let ask = || async {
        let compute = async |at| {
            computed.fetch_add(1, Ordering::Relaxed);
            go.notified().await;
            Ok::<_, Infallible>(View::new(1, at).depends_on(on("events/Todo/**")))
        };
        let Ok(value) = views.get_or_compute("one", compute).await;
        value
    };
    let mut first = Box::pin(ask());
    assert!(first.as_mut().now_or_never().is_none());
    let mut others = Box::pin(join_all((0..10).map(|_| ask())));
    assert!(others.as_mut().now_or_never().is_none());
    assert_eq!(computed.load(Ordering::Relaxed), 1);
    // Who computes gives up: another one does it.
    drop(first);
    assert!(others.as_mut().now_or_never().is_none());
    assert_eq!(computed.load(Ordering::Relaxed), 2);
    go.notify_one();
    assert_eq!(within("the others", others).await, [1; 10]);
    assert_eq!(computed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_computation_that_fails_fails_for_who_made_it_and_keeps_nothing() {
    let store = SteppedStore::new(100);
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    let failed = views.get_or_compute("one", async |_| Err("no")).await;
    assert_eq!(failed, Err("no"));
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 1);
}

#[tokio::test]
async fn what_leaves_a_full_cache_leaves_no_dependencies_behind() {
    let store = SteppedStore::new(100);
    let views = followed(&store, 10).await;
    for n in 0..1000_u64 {
        let at = views.seen().expect("followed");
        let pattern = format!("events/Todo/{}/**", n % 300);
        let view = View::new(n, at).depends_on(on(&pattern)).depends_on(on("events/User/**"));
        views.put((n % 300).to_string(), view).expect("nothing has happened");
    }
    assert!(views.values() <= 10, "{} values", views.values());
    assert_eq!(views.dependencies() as u64, 2 * views.values());
    store.append(append(1, "User", "1")).await.expect("stored");
    within("the cache has seen it", views.wait_for(Position(1))).await;
    assert_eq!((views.values(), views.dependencies()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_invalidates_everything_and_nothing_is_kept_until_the_log_is_followed_again() {
    let store = FailingStore::new(SteppedStore::new(4));
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 1);
    let before = views.seen().expect("followed");
    store.unreadable(true);
    store.headless(true);
    let n = flood(store.stepped(), 1);
    until("the cache has lost the log", || views.seen().is_none()).await;
    assert_eq!((views.get("one"), views.values(), views.dependencies()), (None, 0, 0));
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 2);
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 3, "nothing would invalidate it");
    store.headless(false);
    within("the cache follows again", views.wait_for(Position(n - 1))).await;
    let old = views.put("one".to_owned(), View::new(1, before).depends_on(on("events/Todo/**")));
    assert!(matches!(old, Err(Refused::TooOld { .. })), "{old:?}");
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 4);
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_reset_invalidates_everything_and_what_was_computed_from_the_other_log_is_not_kept() {
    let store = FailingStore::new(SteppedStore::new(4));
    let n = flood(store.stepped(), 1);
    let head = store.head().await.expect("readable");
    let of_the_other = Cursor { epoch: head.lineage.epoch(), position: head.position };
    store.begin_epoch();
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    assert_ne!(views.seen().expect("followed").epoch, of_the_other.epoch);
    let put = views.put("one".to_owned(), View::new(1, of_the_other).depends_on(on("events/Todo/**")));
    assert!(matches!(put, Err(Refused::EarlierEpoch { .. })), "{put:?}");
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 1);
    store.append(append(n, "Todo", "1")).await.expect("stored");
    within("the cache has seen it", views.wait_for(Position(n))).await;
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 2);
}

/// What was lost hadn't been seen by the cache, but is in a value.
#[tokio::test(start_paused = true)]
async fn a_value_of_events_that_the_log_has_lost_is_not_kept() {
    let store = FailingStore::new(SteppedStore::new(100));
    let views = followed(&store, 100).await;
    let epoch = views.seen().expect("followed").epoch;
    store.append(append(1, "Todo", "1")).await.expect("stored");
    store.append(append(2, "Todo", "1")).await.expect("stored");
    let put = || {
        let view = View::new(2, Cursor { epoch, position: Position(2) });
        views.put("one".to_owned(), view.depends_on(on("events/Todo/1/**")))
    };
    put().expect("it is ahead of what was seen");
    assert_eq!((views.get("one"), views.seen().map(|seen| seen.position)), (Some(2), Some(Position::START)));
    store.begin_epoch();
    store.stepped().tail().begin_epoch(Epoch(2), Position(1), Position(1));
    within("the cache follows again", views.wait_for(Position(1))).await;
    assert_eq!(views.get("one"), None);
    assert!(matches!(put(), Err(Refused::EarlierEpoch { .. })));
}

#[tokio::test]
async fn when_the_store_closes_or_the_cache_goes_nothing_is_served_or_followed_any_more() {
    let store = SteppedStore::new(4);
    let (views, computed) = (followed(&store, 100).await, AtomicUsize::new(0));
    let other = followed(&store, 100).await;
    assert_eq!(store.tail().subscriptions(), 2);
    drop(other.clone());
    assert_eq!(store.tail().subscriptions(), 2);
    drop(other);
    until("the other cache's subscription has ended", || store.tail().subscriptions() == 1).await;
    get(&views, "one", "events/Todo/**", &computed).await;
    store.tail().close();
    within("the end", views.wait_for(Position(1))).await;
    assert_eq!((views.get("one"), views.seen()), (None, None));
    assert_eq!(get(&views, "one", "events/Todo/**", &computed).await, 2, "it is still computed");
}

// What follows is at random. A value is the number of events that its log had when it was computed, so that
// it says of itself how old it is.

const KEYS: usize = 6;

/// What the value under a key depends on.
fn filters(key: usize) -> Vec<EventFilter> {
    let session = Entitlement::session(SessionId::new("s").expect("valid"));
    match key {
        0 => vec![on("events/A/1/**")],
        1 => vec![on("events/A/**")],
        2 => vec![on("events/B/2/**"), on("events/*/1/*")],
        3 => vec![on("events/session/s/**").entitled(session)],
        4 => vec![on("events/**").entitled(session), on("events/A/2/**")],
        _ => vec![on("events/C/**")],
    }
}

fn view(key: usize, value: u64, computed_at: Cursor) -> View<u64> {
    filters(key).into_iter().fold(View::new(value, computed_at), View::depends_on)
}

/// Whether an event after `value` and up to `seen` has changed what the key stands for.
fn is_stale(log: &[Arc<StoredEvent>], key: usize, value: u64, seen: Position) -> bool {
    let since = log.iter().filter(|event| event.position.0 > value && event.position <= seen);
    let filters = filters(key);
    since.into_iter().any(|event| filters.iter().any(|filter| filter.matches(event)))
}

/// What an append is made of: per event the aggregate and whether it is for the session.
type Shape = Vec<(usize, bool)>;

fn to_append(shape: &Shape, next: &mut u64) -> Append {
    let of = [("A", "1"), ("A", "2"), ("B", "1"), ("B", "2"), ("C", "1"), ("D", "1")];
    shape.iter().fold(Append::default(), |append, (to, scoped)| {
        *next += 1;
        let event = numbered(*next);
        let event = if *scoped { event.for_session(SessionId::new("s").expect("valid")) } else { event };
        append.and(aggregate(of[*to].0, of[*to].1), ExpectedVersion::Any, vec![event])
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let event = (0..6_usize, prop::bool::weighted(0.2));
    prop_oneof![
        8 => prop::collection::vec(event.clone(), 1..4),
        1 => prop::collection::vec(event, 20..60),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Shape),
    Publish,
    /// Let the others run so often.
    Yield(usize),
    /// Ask for a value, which is computed from the log itself.
    Ask(usize),
    /// Ask for a value, which is computed from something that is so many events behind.
    AskBehind(usize, u64),
    /// Let one computation go on: it reads, or gives what it read.
    GoOn(prop::sample::Index),
    /// Give one computation up.
    GiveUp(prop::sample::Index),
    /// Put a value in that was computed from so many events ago.
    Put(usize, u64),
    Get(usize),
    /// Reads yield so often before and after they look.
    SlowReads(usize, usize),
    /// The log can't be read when it must be; and is another one then, or the same.
    Gap(bool),
    /// The log loses so many of its last events, and has them again when they are published.
    Rewind(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        10 => shape().prop_map(Step::Commit),
        10 => Just(Step::Publish),
        12 => (1..8_usize).prop_map(Step::Yield),
        10 => (0..KEYS).prop_map(Step::Ask),
        4 => (0..KEYS, 0..8_u64).prop_map(|(key, behind)| Step::AskBehind(key, behind)),
        16 => index().prop_map(Step::GoOn),
        2 => index().prop_map(Step::GiveUp),
        4 => (0..KEYS, 0..8_u64).prop_map(|(key, behind)| Step::Put(key, behind)),
        10 => (0..KEYS).prop_map(Step::Get),
        1 => (0..3_usize, 0..3_usize).prop_map(|(before, after)| Step::SlowReads(before, after)),
        1 => any::<bool>().prop_map(Step::Gap),
        1 => (1..6_u64).prop_map(Step::Rewind),
    ]
}

/// One who asked for a value.
struct Asking {
    /// Lets the computation, if there is one, go on.
    go_on: Arc<Notify>,
    task: JoinHandle<Result<(), TestCaseError>>,
}

struct Stepped {
    store: FailingStore,
    views: CachedViews<usize, u64>,
    capacity: u64,
    asking: Vec<Asking>,
    next: u64,
}

impl Stepped {
    fn log(&self) -> Vec<Arc<StoredEvent>> {
        self.store.stepped().events()
    }

    fn get(&self, key: usize) -> Result<Option<u64>, TestCaseError> {
        let Some(value) = self.views.get(&key) else { return Ok(None) };
        let seen = self.views.seen();
        prop_assert!(seen.is_some(), "nothing is served while the log isn't followed");
        let seen = seen.map_or(Position::START, |seen| seen.position);
        let stale = is_stale(&self.log(), key, value, seen);
        prop_assert!(!stale, "key {key} was served from position {value}, although {seen} was seen");
        Ok(Some(value))
    }

    /// A computation reads the log itself, or what is so many events behind.
    fn ask(&mut self, key: usize, behind: Option<u64>) {
        let go_on = Arc::new(Notify::new());
        let (store, views, go) = (self.store.clone(), self.views.clone(), Arc::clone(&go_on));
        let task = tokio::spawn(async move {
            let (epoch, seen) = (store.epoch(), views.seen().map_or(Position::START, |seen| seen.position));
            let ours = Mutex::new(None);
            let compute = async |at: Cursor| {
                go.notified().await;
                let log = store.stepped().events().len() as u64;
                let (value, at) = match behind {
                    None => (log, at),
                    Some(behind) => {
                        let position = Position(log.saturating_sub(behind));
                        let epoch = store.head().await?.lineage.epoch();
                        (position.0, Cursor { epoch, position })
                    }
                };
                *ours.lock() = Some(value);
                go.notified().await;
                Ok::<_, ReadError>(view(key, value, at))
            };
            let value = match views.get_or_compute(&key, compute).await {
                Ok(value) => value,
                Err(_) => return Ok(()),
            };
            if let Some(ours) = ours.into_inner() {
                prop_assert_eq!(value, ours, "who computes gets what it computed");
            } else if store.epoch() == epoch {
                let stale = is_stale(&store.stepped().events(), key, value, seen);
                prop_assert!(!stale, "key {key} was served from position {value}; {seen} was seen before");
            }
            Ok(())
        });
        self.asking.push(Asking { go_on, task });
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let asking = self.asking.len();
        match step {
            Step::Commit(shape) => self.store.stepped().commit(&to_append(&shape, &mut self.next)),
            Step::Publish => self.store.stepped().publish(),
            Step::Yield(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
            }
            Step::Ask(key) => self.ask(key, None),
            Step::AskBehind(key, behind) => self.ask(key, Some(behind)),
            Step::GoOn(who) if asking > 0 => self.asking[who.index(asking)].go_on.notify_one(),
            Step::GiveUp(who) if asking > 0 => self.asking.swap_remove(who.index(asking)).task.abort(),
            Step::GoOn(_) | Step::GiveUp(_) => {}
            Step::Put(key, behind) => {
                let position = Position((self.log().len() as u64).saturating_sub(behind));
                let epoch = self.store.head().await.expect("readable").lineage.epoch();
                let put = self.views.put(key, view(key, position.0, Cursor { epoch, position }));
                let seen = self.views.seen().map_or(Position::START, |seen| seen.position);
                let stale = is_stale(&self.log(), key, position.0, seen);
                prop_assert!(put.is_err() || !stale, "a stale value was let in");
            }
            Step::Get(key) => drop(self.get(key)?),
            Step::SlowReads(before, after) => self.store.stepped().slow_reads(before, after, 10),
            Step::Gap(another) => self.gap(another).await?,
            Step::Rewind(back) => {
                self.store.begin_epoch();
                let tail = self.store.stepped().tail();
                let kept = Position(tail.head().0.saturating_sub(back));
                tail.begin_epoch(self.store.epoch(), kept, kept);
            }
        }
        Ok(())
    }

    async fn gap(&mut self, another: bool) -> Result<(), TestCaseError> {
        let before = self.views.seen();
        self.store.unreadable(true);
        self.store.headless(true);
        if another {
            self.store.begin_epoch();
        }
        // What comes is more than the ring holds and is noted one by one, so that the log has to be read.
        self.store.stepped().commit(&to_append(&vec![(5, false); 60], &mut self.next));
        self.store.stepped().publish();
        if before.is_some() {
            until("the cache has lost the log", || self.views.seen().is_none()).await;
        }
        for key in 0..KEYS {
            prop_assert_eq!(self.get(key)?, None);
        }
        self.store.unreadable(false);
        self.store.headless(false);
        Ok(())
    }

    /// Lets everyone come to an end; then every value is as one computed now.
    async fn settle(mut self) -> Result<(), TestCaseError> {
        self.store.stepped().publish();
        let (gates, tasks): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.asking).into_iter().map(|asking| (asking.go_on, asking.task)).unzip();
        let mut ended = join_all(tasks);
        let ended = loop {
            // Some wait for what others compute.
            gates.iter().for_each(|gate| gate.notify_one());
            tokio::select! {
                ended = &mut ended => break ended,
                () = yield_now() => {}
            }
        };
        for ended in ended {
            ended.expect("no one panics")?;
        }
        let head = Position(self.log().len() as u64);
        within("the cache has seen everything", self.views.wait_for(head)).await;
        // Counting lets those that are too many leave.
        prop_assert!(self.views.values() <= self.capacity);
        let (mut values, mut dependencies) = (0, 0);
        for key in 0..KEYS {
            if let Some(value) = self.get(key)? {
                prop_assert!(!is_stale(&self.log(), key, value, head));
                (values, dependencies) = (values + 1, dependencies + filters(key).len());
            }
        }
        prop_assert_eq!((self.views.values(), self.views.dependencies()), (values, dependencies));
        for key in 0..KEYS {
            let now = async |at| Ok::<_, Infallible>(view(key, head.0, at));
            let Ok(value) = self.views.get_or_compute(&key, now).await;
            prop_assert!(!is_stale(&self.log(), key, value, head));
        }
        let store = self.store.clone();
        drop(self);
        until("the subscription has ended", || store.stepped().tail().subscriptions() == 0).await;
        Ok(())
    }
}

async fn stepped(ring: usize, capacity: u64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = FailingStore::new(SteppedStore::new(ring));
    let views = CachedViews::new("test", Arc::new(store.clone()), capacity);
    let mut stepped = Stepped { store, views, capacity, asking: Vec::new(), next: 0 };
    for step in steps {
        stepped.step(step).await?;
    }
    stepped.settle().await
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_served_is_never_older_than_what_was_seen_and_fresh_in_the_end(
        ring in 1..9_usize,
        capacity in 2..9_u64,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        on_one_thread(stepped(ring, capacity, steps))?;
    }
}

/// What one reader was served, and up to where the cache had seen the log just before.
struct Served {
    key: usize,
    seen: Position,
    value: u64,
}

/// The log's events of one kind, as a value that says up to where it goes.
async fn compute(store: &SqliteEventStore, key: usize, at: Cursor) -> Result<View<u64>, ReadError> {
    let aggregate = aggregate("Todo", &key.to_string());
    let page = store.load(&aggregate, Sequence::START, 10_000).await?;
    let last = page.events.last().map_or(0, |event| event.position.0);
    Ok(View::new(last, at).depends_on(KeyPattern::aggregate(&aggregate)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_and_readers_at_large() {
    const WRITERS: usize = 4;
    const READERS: usize = 6;
    const AGGREGATES: usize = 8;
    const EACH: usize = 250;
    let temp = TempStore::new().with_ring(64);
    let store = temp.open().await;
    let views: CachedViews<usize, u64> = CachedViews::new("test", Arc::new(store.clone()), 6);
    let writers = (0..WRITERS).map(|writer| {
        let (store, views) = (store.clone(), views.clone());
        tokio::spawn(async move {
            for n in 0..EACH {
                let key = (n * 7 + writer * 3) % AGGREGATES;
                let to = append((writer * EACH + n) as u64, "Todo", &key.to_string());
                let own = store.append(to).await.expect("stored").head;
                if n % 10 == 0 {
                    within("the cache has seen it", views.wait_for(own)).await;
                    let read = views.get_or_compute(&key, |at| compute(&store, key, at)).await;
                    assert!(read.expect("readable") >= own.0, "who waits sees the own append");
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let readers = (0..READERS).map(|reader| {
        let (store, views, stopped) = (store.clone(), views.clone(), stopped.clone());
        tokio::spawn(async move {
            let (mut served, mut hits) = (Vec::new(), 0);
            for n in 0_usize.. {
                if *stopped.borrow() {
                    break;
                }
                let key = (n * 5 + reader) % AGGREGATES;
                let seen = views.seen().map_or(Position::START, |seen| seen.position);
                let ours = AtomicUsize::new(0);
                let computed = async |at| {
                    ours.fetch_add(1, Ordering::Relaxed);
                    compute(&store, key, at).await
                };
                let value = views.get_or_compute(&key, computed).await.expect("readable");
                served.push(Served { key, seen, value });
                hits += 1 - ours.into_inner();
                yield_now().await;
            }
            (served, hits)
        })
    });
    let readers: Vec<_> = readers.collect();
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    stop.send(true).expect("the readers listen");
    let log = read_all(&store).await.expect("readable");
    assert_eq!(log.len(), WRITERS * EACH);
    let last = |key: usize, seen: Position| {
        let id = key.to_string();
        let of = log.iter().filter(|event| event.aggregate.aggregate_id() == id && event.position <= seen);
        of.map(|event| event.position.0).max().unwrap_or(0)
    };
    let mut hits = 0;
    for reader in readers {
        let (served, of_these) = reader.await.expect("no reader panics");
        for Served { key, seen, value } in served {
            assert!(value >= last(key, seen), "{key} was served from {value}, although {seen} was seen");
        }
        hits += of_these;
    }
    assert!(hits > 0, "something was served without being computed");
    let head = Position(log.len() as u64);
    within("the cache has seen everything", views.wait_for(head)).await;
    for key in 0..AGGREGATES {
        let value = views.get_or_compute(&key, |at| compute(&store, key, at)).await.expect("readable");
        assert_eq!(value, last(key, head), "settled, it is as one computed now");
    }
    assert_eq!(views.dependencies() as u64, views.values());
    println!("{hits} of the values were served without being computed");
}
