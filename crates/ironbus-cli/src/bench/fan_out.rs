//! Fan-out within one process: from publishing to one subscription, to many of one pattern, and to one of many that
//! each want something else; beside a raw `tokio::sync::broadcast` with as many receivers.
//!
//! The disk has no part in it: a tail is fed with events that the log has already. Each is published alone, as the
//! writer of a log does with the appends of one client; to the many that each want something else they are published in
//! groups, as the writer does with the appends of many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ironbus::tail::{RingLimits, Tail};
use ironbus::{EventFilter, EventStore, Position, SqliteEventStore, Start, StoredEvent, Subscription};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use super::figures::{Turn, grouped, histogram, nanos, per_second};
use super::row::MICROS;
use super::{Bench, BenchError, During, EPOCH, Part, Row, idle};

/// So many events are published before all readers are waited for; both sides hold as many.
pub const ROUND: usize = 4096;

/// What it is compared with.
const RAW: &str = "raw tokio::sync::broadcast";

/// So many events are told to a crowd by a broadcast, which wakes everybody for each.
const TO_ALL: usize = 8;

/// So many events the writer of a log publishes at once when that many clients append.
const GROUP: usize = 64;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    let (runtime, sizes, part) = (bench.runtime, &bench.sizes, Part::InProcess.name());
    let folder = bench.folder()?;
    let (store, events) = runtime.block_on(super::stored(folder.path(), sizes.many, sizes.crowd))?;
    let few = &events[..sizes.alone];
    let mut rows = Vec::new();

    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in bench.turns("one subscription on the publisher's thread") {
        ours.push(runtime.block_on(same_thread(&Ours::over(&store), &events)));
        raw.push(runtime.block_on(same_thread(&broadcast::Sender::new(ROUND), &events)));
    }
    let what = "published → one subscription on the same thread, p50";
    rows.push(Row::new(part, what, &ours, MICROS).beside(RAW, &ours, &raw).goal(1.0));

    let to_many = &events[..events.len().min(ROUND / 2)];
    for (readers, many, alone) in
        [(1, &events[..], few), (sizes.readers, to_many, &few[..few.len().min(200)])]
    {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for _ in bench.turns(&format!("subscriptions of one pattern: {}", grouped(readers as f64))) {
            ours.push(runtime.block_on(turn_of(|| Ours::over(&store), readers, many, alone))?);
            raw.push(runtime.block_on(turn_of(|| broadcast::Sender::new(ROUND), readers, many, alone))?);
        }
        let of = |side: &[Turn], value: fn(&Turn) -> f64| side.iter().map(value).collect::<Vec<_>>();
        let rates = [of(&ours, |turn| turn.rate), of(&raw, |turn| turn.rate)];
        if readers == 1 {
            let p50 = [of(&ours, |turn| turn.p50), of(&raw, |turn| turn.p50)];
            let what = "published → one subscription on another thread, p50";
            rows.push(Row::new(part, what, &p50[0], MICROS).beside(RAW, &p50[0], &p50[1]).goal(1.0));
            let what = "to one subscription on another thread, as fast as they come";
            let row = Row::new(part, what, &rates[0], "events/s");
            rows.push(row.beside(RAW, &rates[0], &rates[1]).goal(1_000_000.0));
        } else {
            let what = format!("to {} subscriptions of one pattern", grouped(readers as f64));
            let row = Row::new(part, what, &rates[0], "deliveries/s");
            rows.push(row.beside(RAW, &rates[0], &rates[1]));
        }
    }

    let (crowd, mut ours, mut raw) = (sizes.crowd, Vec::new(), Vec::new());
    for _ in bench.turns(&format!("subscriptions of an aggregate each: {}", grouped(crowd as f64))) {
        ours.push(runtime.block_on(wake(&Ours::over(&store), crowd, &events, 1)));
        let all = broadcast::Sender::new(ROUND);
        raw.push(runtime.block_on(wake(&all, crowd, &events[..TO_ALL.min(events.len())], crowd)));
    }
    let what = format!(
        "to one of {} subscriptions, each of its own aggregate, in groups of {GROUP}",
        grouped(crowd as f64)
    );
    let row = Row::new(part, what, &ours, "events/s").goal(1_000_000.0);
    rows.push(row.beside(format!("{RAW}, which wakes all"), &ours, &raw));
    runtime.block_on(store.close());
    rows.extend(idle::measure(bench)?);
    Ok(rows)
}

/// What is published to, and its readers.
pub trait Side: Send + Sync + 'static {
    /// Who gets what is published.
    type Reader: Reader;
    /// Gives events to all who want them.
    fn publish(&self, events: &[Arc<StoredEvent>]);
    /// Who gets all events of the type `Bench`.
    fn reader(&self) -> Self::Reader;
    /// Who wants the events of this aggregate alone; where nobody is told apart, it gets all.
    fn reader_of(&self, aggregate: usize) -> Self::Reader;
}

/// Who gets what is published.
pub trait Reader: Send + 'static {
    /// Takes the next event; none is ever lost here.
    fn next(&mut self) -> impl Future<Output = Arc<StoredEvent>> + Send;
}

/// A tail that is fed by hand, with subscriptions that would read the log if they fell behind.
pub struct Ours {
    store: Arc<dyn EventStore>,
    tail: Arc<Tail>,
}

impl Ours {
    /// A tail before the first event of this log.
    #[must_use]
    pub fn over(store: &SqliteEventStore) -> Self {
        let limits = RingLimits { events: ROUND, ..RingLimits::default() };
        Self { store: Arc::new(store.clone()), tail: Arc::new(Tail::new(EPOCH, Position::START, limits)) }
    }

    fn subscribe(&self, pattern: &str) -> Subscription {
        let filter = EventFilter::public(pattern.parse().expect("a pattern"));
        Subscription::new(Arc::clone(&self.store), Arc::clone(&self.tail), filter, Start::Live)
    }
}

impl Side for Ours {
    type Reader = Subscription;

    fn publish(&self, events: &[Arc<StoredEvent>]) {
        self.tail.publish(events).expect("they are in order");
    }

    fn reader(&self) -> Subscription {
        self.subscribe("events/Bench/**")
    }

    fn reader_of(&self, aggregate: usize) -> Subscription {
        self.subscribe(&format!("events/Bench/{aggregate}/**"))
    }
}

impl Reader for Subscription {
    async fn next(&mut self) -> Arc<StoredEvent> {
        self.next_event().await.expect("the tail is open").expect("the log can be read")
    }
}

impl Side for broadcast::Sender<Arc<StoredEvent>> {
    type Reader = broadcast::Receiver<Arc<StoredEvent>>;

    fn publish(&self, events: &[Arc<StoredEvent>]) {
        for event in events {
            self.send(Arc::clone(event)).expect("there are receivers");
        }
    }

    fn reader(&self) -> Self::Reader {
        self.subscribe()
    }

    fn reader_of(&self, _: usize) -> Self::Reader {
        self.subscribe()
    }
}

impl Reader for broadcast::Receiver<Arc<StoredEvent>> {
    async fn next(&mut self) -> Arc<StoredEvent> {
        self.recv().await.expect("a round fits into the channel")
    }
}

/// Publishes and takes one after the other on this thread; gives half of the times at the most, in microseconds.
async fn same_thread<S: Side>(side: &S, events: &[Arc<StoredEvent>]) -> f64 {
    let (mut reader, mut latencies) = (side.reader(), histogram());
    for event in events {
        let one = Instant::now();
        side.publish(std::slice::from_ref(event));
        reader.next().await;
        latencies.record(nanos(one)).expect("in range");
    }
    Turn::at(0.0, &latencies).p50
}

/// As many as possible for the rate, then each alone for the latencies.
///
/// # Errors
///
/// [`BenchError`] when a reader fails.
pub async fn turn_of<S: Side>(
    side: impl Fn() -> S,
    readers: usize,
    many: &[Arc<StoredEvent>],
    alone: &[Arc<StoredEvent>],
) -> Result<Turn, BenchError> {
    let (took, _) = deliver(side(), readers, many, ROUND).await?;
    let rate = per_second((many.len() * readers) as u64, took);
    let (_, latencies) = deliver(side(), readers, alone, 1).await?;
    Ok(Turn::at(rate, &latencies))
}

/// Publishes the events to so many readers, `round` at a time. Gives back how long it took, and how long
/// after its publication each delivery came, where an event is a round.
async fn deliver<S: Side>(
    side: S,
    readers: usize,
    events: &[Arc<StoredEvent>],
    round: usize,
) -> Result<(Duration, Histogram<u64>), BenchError> {
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
            round.chunks(1).for_each(|event| side.publish(event));
            handle.block_on(shared.2.notified());
        }
        began.elapsed()
    });
    let took = publisher.await.during("the publisher failed")?;
    let mut all = histogram();
    for task in tasks {
        for latency in task.await.during("a reader failed")? {
            all.record(latency).expect("in range");
        }
    }
    Ok((took, all))
}

/// Publishes the events, in groups, to a crowd of which each reader wants another aggregate, as fast as they are taken;
/// `wakes` readers get each. Gives how many events there are in a second.
async fn wake<S: Side>(side: &S, crowd: usize, events: &[Arc<StoredEvent>], wakes: usize) -> f64 {
    // How many deliveries of the round are left, and that none is.
    let shared = Arc::new((AtomicUsize::new(0), Notify::new()));
    let mut tasks = JoinSet::new();
    for aggregate in 0..crowd {
        let (mut reader, shared) = (side.reader_of(aggregate), Arc::clone(&shared));
        tasks.spawn(async move {
            loop {
                reader.next().await;
                if shared.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                    shared.1.notify_one();
                }
            }
        });
    }
    // Every task has run once and waits: that they begin isn't measured.
    while Handle::current().metrics().global_queue_depth() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    for round in events.chunks(ROUND / 4) {
        shared.0.store(round.len() * wakes, Ordering::Release);
        round.chunks(GROUP).for_each(|group| side.publish(group));
        shared.1.notified().await;
    }
    let took = began.elapsed();
    tasks.shutdown().await;
    per_second(events.len() as u64, took)
}
