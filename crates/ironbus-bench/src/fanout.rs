//! Fan-out within one process: from publishing to one subscription, and to 1,000 of one pattern; beside a raw
//! `tokio::sync::broadcast` with as many receivers.
//!
//! The disk has no part in it: a tail is fed with events that the log has already. Each is published alone,
//! from a thread that isn't the readers', as the writer of a log does with the appends of one client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ironbus::event::Epoch;
use ironbus::store::Append;
use ironbus::tail::{RingLimits, Tail};
use ironbus::{
    Aggregate, EventFilter, EventStore, ExpectedVersion, NewEvent, Position, SqliteEventStore, SqliteOptions,
    Start, StoredEvent, Subscription,
};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, broadcast};

use crate::appends::{histogram, nanos, payload};
use crate::table::{Table, grouped, median, micros, per_second};

/// So many events are published before all readers are waited for; both sides hold as many.
const ROUND: usize = 4096;

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (store, events) = runtime.block_on(stored(folder.path(), 16 * ROUND));
    let turns = if quick { 3 } else { 7 };
    for (readers, count, alone) in [(1, events.len(), 5000), (1000, ROUND / 2, 500)] {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for turn in 1..=turns {
            eprintln!("fan-out to {readers}: turn {turn} of {turns}");
            let side = || Ours::over(&store);
            ours.push(runtime.block_on(turn_of(side, readers, &events[..count], &events[..alone])));
            let side = || broadcast::Sender::new(ROUND);
            raw.push(runtime.block_on(turn_of(side, readers, &events[..count], &events[..alone])));
        }
        let cell = |side: &[Turn]| {
            let of = |value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
            let (p50, p99) = (micros(of(|turn| turn.p50)), micros(of(|turn| turn.p99)));
            format!("{} deliveries/s; an event alone: p50 {p50}, p99 {p99}", grouped(of(|turn| turn.rate)))
        };
        let what = match readers {
            1 => "fan-out within the process to 1 subscription".to_owned(),
            many => format!("the same to {} subscriptions of one pattern", grouped(many as f64)),
        };
        table.row(&what, &cell(&ours), &format!("raw `tokio::sync::broadcast`: {}", cell(&raw)));
    }
    runtime.block_on(store.close());
}

async fn stored(folder: &Path, count: usize) -> (SqliteEventStore, Vec<Arc<StoredEvent>>) {
    let store = SqliteEventStore::open(SqliteOptions::new(folder.join("ours.db"))).await.expect("opens");
    let (aggregate, payload) = (Aggregate::new("Bench", "1").expect("valid"), payload());
    let mut events = Vec::new();
    while events.len() < count {
        let batch = (0..ROUND).map(|_| NewEvent::new("Measured", payload.clone())).collect();
        let append = Append::to(aggregate.clone(), ExpectedVersion::Any, batch);
        store.append(append).await.expect("stored");
        let after = Position(events.len() as u64);
        let page = store.read(after, &EventFilter::everything(), ROUND).await.expect("readable");
        events.extend(page.events);
    }
    (store, events)
}

/// What is published to, and its readers.
trait Side: Send + Sync + 'static {
    type Reader: Reader;
    fn publish(&self, event: &Arc<StoredEvent>);
    fn reader(&self) -> Self::Reader;
}

trait Reader: Send + 'static {
    /// Takes the next event; none is ever lost here.
    fn next(&mut self) -> impl Future<Output = Arc<StoredEvent>> + Send;
}

/// A tail that is fed by hand, with subscriptions that would read the log if they fell behind.
struct Ours {
    store: Arc<dyn EventStore>,
    tail: Arc<Tail>,
}

impl Ours {
    fn over(store: &SqliteEventStore) -> Self {
        let limits = RingLimits { events: ROUND, ..RingLimits::default() };
        Self { store: Arc::new(store.clone()), tail: Arc::new(Tail::new(Epoch(1), Position::START, limits)) }
    }
}

impl Side for Ours {
    type Reader = Subscription;

    fn publish(&self, event: &Arc<StoredEvent>) {
        self.tail.publish(std::slice::from_ref(event)).expect("they are in order");
    }

    fn reader(&self) -> Subscription {
        let filter = EventFilter::public("events/Bench/**".parse().expect("a pattern"));
        Subscription::new(Arc::clone(&self.store), Arc::clone(&self.tail), filter, Start::Live)
    }
}

impl Reader for Subscription {
    async fn next(&mut self) -> Arc<StoredEvent> {
        self.next_event().await.expect("the tail is open").expect("the log can be read")
    }
}

impl Side for broadcast::Sender<Arc<StoredEvent>> {
    type Reader = broadcast::Receiver<Arc<StoredEvent>>;

    fn publish(&self, event: &Arc<StoredEvent>) {
        self.send(Arc::clone(event)).expect("there are receivers");
    }

    fn reader(&self) -> Self::Reader {
        self.subscribe()
    }
}

impl Reader for broadcast::Receiver<Arc<StoredEvent>> {
    async fn next(&mut self) -> Arc<StoredEvent> {
        self.recv().await.expect("a round fits into the channel")
    }
}

/// What one turn of one side came to.
struct Turn {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// As many as possible for the rate, then each alone for the latencies.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn turn_of<S: Side>(
    side: impl Fn() -> S,
    readers: usize,
    many: &[Arc<StoredEvent>],
    alone: &[Arc<StoredEvent>],
) -> Turn {
    let (took, _) = deliver(side(), readers, many, ROUND).await;
    let rate = per_second((many.len() * readers) as u64, took);
    let (_, latencies) = deliver(side(), readers, alone, 1).await;
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Turn { rate, p50: at(0.5), p99: at(0.99) }
}

/// Publishes the events to so many readers, `round` at a time. Gives back how long it took, and how long
/// after its publication each delivery came, where an event is a round.
async fn deliver<S: Side>(
    side: S,
    readers: usize,
    events: &[Arc<StoredEvent>],
    round: usize,
) -> (Duration, Histogram<u64>) {
    let clock = Instant::now();
    // When the round's publication began, how many readers don't have the round yet, and that all have it.
    let shared = Arc::new((AtomicU64::new(0), AtomicUsize::new(0), Notify::new()));
    let total = events.len();
    let tasks: Vec<_> = (0..readers)
        .map(|_| {
            let (mut reader, shared) = (side.reader(), Arc::clone(&shared));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for seen in 1..=total {
                    let event = reader.next().await;
                    assert_eq!(event.position.0, seen as u64, "each once, in order");
                    if round == 1 {
                        latencies.push(nanos(clock) - shared.0.load(Ordering::Acquire));
                    }
                    let whole = seen.is_multiple_of(round) || seen == total;
                    if whole && shared.1.fetch_sub(1, Ordering::AcqRel) == 1 {
                        shared.2.notify_one();
                    }
                }
                latencies
            })
        })
        .collect();
    let (events, handle) = (events.to_vec(), Handle::current());
    let publisher = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        for round in events.chunks(round) {
            shared.1.store(readers, Ordering::Release);
            shared.0.store(nanos(clock), Ordering::Release);
            round.iter().for_each(|event| side.publish(event));
            handle.block_on(shared.2.notified());
        }
        began.elapsed()
    });
    let took = publisher.await.expect("everything is published");
    let mut all = histogram();
    for task in tasks {
        for latency in task.await.expect("no reader fails") {
            all.record(latency).expect("in range");
        }
    }
    (took, all)
}
