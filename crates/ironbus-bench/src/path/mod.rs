//! One hot path so many times and nothing else, for a tool that counts instructions: `just instructions` runs each under
//! callgrind with a count and with twice as many, so that what happens once for all falls out.

mod streams;
mod zenoh;

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ironbus::tail::{RingLimits, Tail};
use ironbus::{
    Aggregate, Append, Epoch, EventFilter, EventStore, ExpectedVersion, Json, NewEvent, Position, Sequence,
    SqliteEventStore, SqliteOptions, Start, StoredEvent, Subscription,
};

/// The first argument.
pub(crate) const PATH: &str = "path";

/// The paths.
const NAMES: [&str; 9] = ["append", "one", "crowd", "replay", "load", "stream", "body", "zenoh", "edge"];

/// How many clients append at a time, and so how many events are published at once.
const CLIENTS: usize = 64;

/// How many subscriptions there are where each wants something else.
const CROWD: usize = 10_000;

/// How many events are stored at once.
const ROUND: usize = 1024;

/// How many events the log has that is read in order.
const REPLAYED: usize = 10_000;

/// How often a path can be taken where its events are published.
const MOST: usize = 20 * ROUND;

pub(crate) fn run(arguments: &[String], place: &Path) -> Result<(), String> {
    let known = format!("say which path ({}) and how often", NAMES.join(", "));
    let [name, count] = arguments else { return Err(known) };
    let (name, count) = (name.as_str(), count.parse().map_err(|_| known.clone())?);
    if !NAMES.contains(&name) {
        return Err(known);
    }
    if count > MOST {
        return Err(format!("at most {MOST} times"));
    }
    let folder = tempfile::tempdir_in(place).expect("a folder");
    // Zenoh needs a runtime with threads; everything else is counted without the wake-ups of these.
    let mut runtime = match name {
        "zenoh" | "edge" => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match name {
            "stream" => streams::deliver(folder.path(), 1, count).await,
            "body" => streams::deliver(folder.path(), 0, count).await,
            "zenoh" => zenoh::within(folder.path(), count).await,
            "edge" => zenoh::between(folder.path(), count).await,
            _ => of_store(name, folder.path(), count).await,
        }
    });
    Ok(())
}

/// What needs no more than a store.
async fn of_store(name: &str, place: &Path, count: usize) {
    let path = place.join("log.db");
    let store = Arc::new(SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens"));
    match name {
        "append" => append(&store, count).await,
        "one" => one(&store, count).await,
        "crowd" => crowd(&store, count).await,
        "replay" => replay(&store, &path, count).await,
        "load" => load(&store, count).await,
        _ => unreachable!("it is one of the names"),
    }
    store.close().await;
}

fn event() -> NewEvent {
    NewEvent::new("Measured", Json::of(&["x".repeat(290)]).expect("a text"))
}

fn named(number: usize) -> Aggregate {
    Aggregate::new("Bench", number.to_string()).expect("valid")
}

/// Appends of one event each, by many clients at a time, each to an aggregate that gets eight.
async fn append(store: &SqliteEventStore, count: usize) {
    for group in 0..count / CLIENTS {
        let mut under_way: FuturesUnordered<_> = (0..CLIENTS)
            .map(|client| {
                let aggregate = named(group / 8 * CLIENTS + client);
                let expected = ExpectedVersion::Exact(Sequence(group as u64 % 8));
                store.append(Append::to(aggregate, expected, vec![event()]))
            })
            .collect();
        while let Some(stored) = under_way.next().await {
            stored.expect("stored");
        }
    }
}

/// A log of so many events, ten to an aggregate.
async fn filled(store: &SqliteEventStore, count: usize) {
    for first in (0..count).step_by(5000) {
        let mut append = Append::default();
        for aggregate in (first..count.min(first + 5000)).step_by(10) {
            let events = (0..10).map(|_| event()).collect();
            append = append.and(named(aggregate / 10), ExpectedVersion::Any, events);
        }
        store.append(append).await.expect("stored");
    }
}

/// The events of a log, each of the next of so many aggregates: as many whatever is counted, so that they fall out.
async fn spread(store: &SqliteEventStore, aggregates: usize) -> Vec<Arc<StoredEvent>> {
    let mut events = Vec::new();
    while events.len() < MOST {
        let mut append = Append::default();
        for number in events.len()..events.len() + ROUND {
            append = append.and(named(number % aggregates), ExpectedVersion::Any, vec![event()]);
        }
        store.append(append).await.expect("stored");
        let after = Position(events.len() as u64);
        events.extend(store.read(after, &EventFilter::everything(), ROUND).await.expect("readable").events);
    }
    events
}

fn tail() -> Arc<Tail> {
    let limits = RingLimits { events: ROUND, ..RingLimits::default() };
    Arc::new(Tail::new(Epoch(1), Position::START, limits))
}

/// Published alone, and taken by one subscription.
async fn one(store: &Arc<SqliteEventStore>, count: usize) {
    let (events, tail) = (spread(store, CROWD).await, tail());
    let filter = EventFilter::public("events/Bench/**".parse().expect("a pattern"));
    let log = Arc::clone(store) as Arc<dyn EventStore>;
    let mut reader = Subscription::new(log, Arc::clone(&tail), filter, Start::Live);
    for event in &events[..count] {
        tail.publish(std::slice::from_ref(event)).expect("in order");
        reader.next_event().await.expect("open").expect("readable");
    }
}

/// Published in groups, and each taken by the one subscription of many that wants it, in a task of its own.
async fn crowd(store: &Arc<SqliteEventStore>, count: usize) {
    let (events, tail) = (spread(store, CROWD).await, tail());
    let (taken, mut told) = tokio::sync::mpsc::channel(ROUND);
    let mut tasks = tokio::task::JoinSet::new();
    for aggregate in 0..CROWD {
        let filter = EventFilter::public(format!("events/Bench/{aggregate}/**").parse().expect("a pattern"));
        let log = Arc::clone(store) as Arc<dyn EventStore>;
        let mut reader = Subscription::new(log, Arc::clone(&tail), filter, Start::Live);
        let taken = taken.clone();
        tasks.spawn(async move {
            while let Some(Ok(_)) = reader.next_event().await {
                taken.send(()).await.expect("somebody counts");
            }
        });
    }
    tokio::task::yield_now().await;
    for group in events[..count].chunks(CLIENTS) {
        tail.publish(group).expect("in order");
        for _ in 0..group.len() {
            told.recv().await.expect("the readers run");
        }
    }
    tasks.shutdown().await;
}

/// So many events are read in order, by subscriptions that go to the end of a log that was just opened: the ring has none
/// of them, and what is read ahead is used.
async fn replay(store: &SqliteEventStore, path: &Path, count: usize) {
    filled(store, REPLAYED).await;
    store.close().await;
    let store = SqliteEventStore::open(SqliteOptions::new(path)).await.expect("opens");
    let mut left = count;
    while left > 0 {
        let mut events = store.subscribe(EventFilter::everything(), Start::Beginning);
        for _ in 0..left.min(REPLAYED) {
            events.next_event().await.expect("open").expect("readable");
            left -= 1;
        }
    }
    store.close().await;
}

/// Aggregates of ten events are loaded.
async fn load(store: &SqliteEventStore, count: usize) {
    filled(store, 20_000).await;
    for number in 0..count {
        let page = store.load(&named(number * 791 % 2000), Sequence::START, 100).await.expect("readable");
        assert_eq!(page.events.len(), 10);
    }
}
