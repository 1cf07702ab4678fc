//! How costs grow: of an event with the subscriptions and patterns of a node, and of what is done with a log with its
//! size. Each curve's exponent is told (the slope of the logarithm of the cost over that of the size: 0 is flat, 1 is in
//! proportion), and is refused beyond [`STEEPEST`]. `ironbus-bench growth [--quick]`; the picture is docs/images/growth.svg.

mod picture;

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::Stream;
use ironbus::event::Epoch;
use ironbus::tail::{RingLimits, Tail};
use ironbus::{
    Aggregate, Append, EventFilter, EventStore, ExpectedVersion, KeyPattern, NewEvent, Position, Sequence,
    SqliteEventStore, SqliteOptions, Start, StoredEvent, Subscription,
};
use tokio::runtime::Runtime;

use crate::appends::payload;
use crate::table::{Table, grouped, median};

/// The steepest that a curve may be. A logarithm over these sizes, and caches that get too small, come to 0.2.
const STEEPEST: f64 = 0.25;

/// The cost of one thing in nanoseconds at several sizes.
struct Curve {
    what: &'static str,
    /// What the sizes count.
    of: &'static str,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// The slope of the least squares in logarithms.
    fn exponent(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self.points.iter().map(|(size, cost)| (size.ln(), cost.ln())).collect();
        let count = logs.len() as f64;
        let (x, y) = (logs.iter().map(|(x, _)| x).sum::<f64>(), logs.iter().map(|(_, y)| y).sum::<f64>());
        let (x, y) = (x / count, y / count);
        let over: f64 = logs.iter().map(|(at, cost)| (at - x) * (cost - y)).sum();
        over / logs.iter().map(|(at, _)| (at - x).powi(2)).sum::<f64>()
    }
}

/// Measures, draws, and says whether no curve is too steep.
pub(crate) fn measure(
    runtime: &Runtime,
    place: &Path,
    picture: &Path,
    quick: bool,
    table: &mut Table,
) -> bool {
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let mut curves = Vec::new();
    runtime.block_on(async {
        let store = filled(&folder.path().join("few.db"), 4096).await;
        let events =
            store.read(Position::START, &EventFilter::everything(), 4096).await.expect("readable").events;
        let store: Arc<dyn EventStore> = Arc::new(store);
        let most = if quick { 100_000 } else { 1_000_000 };
        let own = |number: usize| KeyPattern::aggregate(&aggregate(number));
        curves.push(by_subscriptions("an event to its one subscription", &store, &events, most, own));
        let mixed = |number: usize| {
            let text = match number % 4 {
                _ if number == 0 => "events/Incident/1-000000000/**".to_owned(),
                0 => format!("events/*/1-{number:09}/**"),
                1 => format!("events/Kind{number}/**"),
                2 => format!("events/Incident/1-{number:09}/*"),
                _ => format!("events/session/{number}/**"),
            };
            text.parse().expect("a pattern")
        };
        curves.push(by_subscriptions("the same among patterns of four shapes", &store, &events, most, mixed));
        curves.push(by_readers(&store, &events, if quick { 1000 } else { 10_000 }));
        curves.extend(by_log(folder.path(), if quick { 100_000 } else { 10_000_000 }).await);
    });
    let mut flat = true;
    for curve in &curves {
        let exponent = curve.exponent();
        flat &= exponent <= STEEPEST;
        let points: Vec<String> =
            curve.points.iter().map(|(size, cost)| format!("{}: {}", grouped(*size), time(*cost))).collect();
        let verdict = if exponent <= STEEPEST { "" } else { ", which is too steep" };
        table.row(
            &format!("{} by {}", curve.what, curve.of),
            &format!("**exponent {exponent:.2}{verdict}**; {}", points.join(", ")),
            "–",
        );
    }
    std::fs::write(picture, picture::draw(&curves)).expect("the picture is written");
    flat
}

/// A time as people read it.
fn time(nanos: f64) -> String {
    match nanos {
        ..1e3 => format!("{nanos:.0} ns"),
        ..1e6 => format!("{:.1} µs", nanos / 1e3),
        ..1e9 => format!("{:.1} ms", nanos / 1e6),
        _ => format!("{:.1} s", nanos / 1e9),
    }
}

fn aggregate(number: usize) -> Aggregate {
    Aggregate::new("Incident", format!("1-{number:09}")).expect("valid")
}

fn sizes(least: usize, most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(least), |size| Some(size * 10)).take_while(move |size| *size <= most)
}

/// A log with so many events of aggregate 0.
async fn filled(path: &Path, count: usize) -> SqliteEventStore {
    let store = SqliteEventStore::open(SqliteOptions::new(path)).await.expect("opens");
    let events = (0..count).map(|_| NewEvent::new("Measured", payload())).collect();
    store.append(Append::to(aggregate(0), ExpectedVersion::Any, events)).await.expect("stored");
    store
}

fn tail() -> Arc<Tail> {
    Arc::new(Tail::new(Epoch(1), Position::START, RingLimits::default()))
}

fn subscribe(store: &Arc<dyn EventStore>, tail: &Arc<Tail>, pattern: KeyPattern) -> Subscription {
    let filter = EventFilter::public(pattern);
    let mut events = Subscription::new(Arc::clone(store), Arc::clone(tail), filter, Start::Live);
    assert!(!takes(&mut events), "nothing has happened yet");
    events
}

/// Whether it has an event; if not it waits for one.
fn takes(events: &mut Subscription) -> bool {
    let polled = std::pin::Pin::new(events).poll_next(&mut Context::from_waker(Waker::noop()));
    match polled {
        Poll::Ready(delivery) => delivery.expect("open").expect("readable").into_event().is_some(),
        Poll::Pending => false,
    }
}

/// Publishing an event that one subscription of many wants, until that has it; on one thread.
fn by_subscriptions(
    what: &'static str,
    store: &Arc<dyn EventStore>,
    events: &[Arc<StoredEvent>],
    most: usize,
    pattern: impl Fn(usize) -> KeyPattern,
) -> Curve {
    let mut points = Vec::new();
    for size in sizes(1, most) {
        eprintln!("{what}: among {size}");
        let tail = tail();
        let began = Instant::now();
        let mut all: Vec<_> = (0..size).map(|number| subscribe(store, &tail, pattern(number))).collect();
        if size == most {
            eprintln!("{} subscriptions were declared in {:.1?}", grouped(size as f64), began.elapsed());
        }
        let rounds = events.chunks(256).map(|round| {
            let began = Instant::now();
            for event in round {
                tail.publish(std::slice::from_ref(event)).expect("in order");
                assert!(takes(&mut all[0]), "it matches");
            }
            began.elapsed().as_nanos() as f64 / round.len() as f64
        });
        points.push((size as f64, median(rounds.collect())));
    }
    Curve { what, of: "subscriptions", points }
}

/// A delivery to one of many subscriptions that all want the event.
fn by_readers(store: &Arc<dyn EventStore>, events: &[Arc<StoredEvent>], most: usize) -> Curve {
    let mut points = Vec::new();
    for size in sizes(1, most) {
        eprintln!("a delivery: to each of {size}");
        let tail = tail();
        let mut all: Vec<_> =
            (0..size).map(|_| subscribe(store, &tail, KeyPattern::aggregate(&aggregate(0)))).collect();
        let count = (1_000_000 / size).clamp(16, events.len());
        let rounds = events[..count].chunks(count / 16).map(|round| {
            let began = Instant::now();
            for event in round {
                tail.publish(std::slice::from_ref(event)).expect("in order");
                all.iter_mut().for_each(|reader| assert!(takes(reader), "it matches"));
            }
            began.elapsed().as_nanos() as f64 / (round.len() * size) as f64
        });
        points.push((size as f64, median(rounds.collect())));
    }
    Curve { what: "a delivery to each of many that want the event", of: "subscriptions", points }
}

/// What is done with a log, by how many events it has.
async fn by_log(folder: &Path, most: usize) -> Vec<Curve> {
    let path = folder.join("growing.db");
    let whats = ["an append (FULL)", "a load of 10 events", "an event in a replay", "opening the log"];
    let mut curves = whats.map(|what| Curve { what, of: "events in the log", points: Vec::new() });
    let mut before = 0;
    for size in sizes(1000, most) {
        eprintln!("a log of {size} events");
        let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
        grow(&store, before / 10..size / 10).await;
        before = size;
        let mut costs = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for number in 0..300 {
            let event = NewEvent::new("Measured", payload());
            let to = Aggregate::new("Appended", format!("{size} {number}")).expect("valid");
            let began = Instant::now();
            store.append(Append::to(to, ExpectedVersion::NoStream, vec![event])).await.expect("stored");
            costs[0].push(nanos(began));
        }
        let mut number = 0;
        for _ in 0..2000 {
            // All over the log.
            number = (number + 7919) % (size / 10);
            let began = Instant::now();
            let page = store.load(&aggregate(number), Sequence::START, 100).await.expect("readable");
            costs[1].push(nanos(began));
            assert_eq!(page.events.len(), 10);
        }
        for part in 0..20 {
            let after = Position((part * (size as u64 - 1000)) / 20);
            let began = Instant::now();
            let page = store.read(after, &EventFilter::everything(), 1000).await.expect("readable");
            costs[2].push(nanos(began) / page.events.len() as f64);
        }
        store.close().await;
        for _ in 0..5 {
            let began = Instant::now();
            let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
            costs[3].push(nanos(began));
            store.close().await;
        }
        for (curve, costs) in curves.iter_mut().zip(costs) {
            curve.points.push((size as f64, median(costs)));
        }
    }
    curves.into()
}

fn nanos(began: Instant) -> f64 {
    began.elapsed().as_nanos() as f64
}

/// Appends 10 events to each of these aggregates.
async fn grow(store: &dyn EventStore, aggregates: std::ops::Range<usize>) {
    let numbers: Vec<usize> = aggregates.collect();
    for some in numbers.chunks(500) {
        let append = some.iter().fold(Append::default(), |append, number| {
            let events = (0..10).map(|_| NewEvent::new("Measured", payload())).collect();
            append.and(aggregate(*number), ExpectedVersion::NoStream, events)
        });
        store.append(append).await.expect("stored");
    }
}
