//! Events over Zenoh beside plain Zenoh: the same bytes, on the same keys, reliable and with `Block`, to one
//! receiver on another thread, in one process and between two over TCP.
//!
//! Ours between two processes is the whole way: the store node's bus, the edge node's follower (order, repeats,
//! holes), its tail, and a catch-up subscription. Where throughput is measured, senders of both kinds keep at
//! most [`AHEAD`] events under way and sleep until the receiver has gone on, so that neither receiver overflows
//! and neither sender takes a core from it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ironbus::bus::{EventBusMode, Heard};
use ironbus::{EventBus, EventFilter, EventKey, Node, NodeOptions, Start, StoredEvent};
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohBus, ZenohOptions};
use tokio::runtime::Runtime;
use zenoh::Wait;
use zenoh::qos::{CongestionControl, Reliability};

use super::figures::histogram;
use super::helper::Helper;
use super::row::MICROS;
use super::{Bench, BenchError, During, Part, Row, idle};

/// How many events may be under way where throughput is measured.
const AHEAD: u64 = 2048;

/// How often a receiver says how far it is.
const TELL: u64 = 256;

/// The pause between two events where latency is measured.
const PAUSE: Duration = Duration::from_micros(500);

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before the year 2500")
}

/// The time of a processor that this process has taken so far, in microseconds; `None` where the system
/// doesn't say it as Linux does.
fn processor() -> Option<f64> {
    // Hundredths of a second, in the 12th and 13th field after the name, which ends with a bracket.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) * 10_000.0)
}

/// Whose way events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bus of ironbus, and what it needs at the other end.
    Ours,
    /// A put and a subscriber.
    Plain,
}

impl Kind {
    /// Both, in an order that changes with every round.
    #[must_use]
    pub fn both(round: usize) -> [Self; 2] {
        if round.is_multiple_of(2) { [Self::Ours, Self::Plain] } else { [Self::Plain, Self::Ours] }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Plain => "plain",
        }
    }
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    let (part, few) = (Part::Zenoh.name(), bench.sizes.alone.min(bench.sizes.many / 2));
    let folder = bench.folder()?;
    let events = bench.runtime.block_on(prepared(folder.path(), bench.sizes.many))?;
    let mut rows = Vec::new();
    for (within, latency, rate) in
        [("one process", 50.0, 100_000.0), ("two processes (TCP)", 200.0, 50_000.0)]
    {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in bench.turns(&format!("Zenoh, {within}")) {
            for kind in Kind::both(round) {
                let turn = if within == "one process" {
                    one_process(bench.runtime, kind, &events, few)?
                } else {
                    two_processes(bench.runtime, folder.path(), kind, &events, few)?
                };
                if kind == Kind::Ours { ours.push(turn) } else { plain.push(turn) }
            }
        }
        let of = |side: &[Turn], value: fn(&Turn) -> f64| side.iter().map(value).collect::<Vec<_>>();
        let (p50, beside) = (of(&ours, |turn| turn.p50), of(&plain, |turn| turn.p50));
        let way = if within == "one process" { "a raw subscription" } else { "an edge node's subscription" };
        let row = Row::new(part, format!("{within}: the bus → {way}, p50"), &p50, MICROS);
        rows.push(row.beside(PLAIN, &p50, &beside).goal(latency));
        let (rates, beside) = (of(&ours, |turn| turn.rate), of(&plain, |turn| turn.rate));
        let row = Row::new(part, format!("{within}: the same as fast as they come"), &rates, "events/s");
        rows.push(row.beside(PLAIN, &rates, &beside).goal(rate));
        if within == "one process" {
            rows.extend(idle::measure_zenoh(bench)?);
        }
    }
    Ok(rows)
}

/// What it is compared with.
const PLAIN: &str = "plain Zenoh put and subscriber";

/// What one turn of one kind came to.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// How many events in a second.
    pub rate: f64,
    /// Microseconds until half of the events that were alone had come.
    pub p50: f64,
    /// Microseconds until all but one in a hundred of these had come.
    pub p99: f64,
    /// Microseconds of a processor for one event, of sender and receiver together; not a number where the system
    /// doesn't say it.
    pub processor: f64,
}

/// Events as a log holds them, from position 1 on, with their JSON, since what is measured is how it travels.
///
/// # Errors
///
/// [`BenchError`] when they can't be stored or read.
pub async fn prepared(folder: &Path, count: usize) -> Result<Vec<Arc<StoredEvent>>, BenchError> {
    let (store, events) = super::stored(folder, count, 100).await?;
    store.close().await;
    events.iter().for_each(|event| drop(event.json()));
    Ok(events)
}

/// How far the receiver is, for a sender that mustn't be too far ahead.
#[derive(Default)]
struct Window {
    received: Mutex<u64>,
    moved: Condvar,
}

impl Window {
    fn told(&self, received: u64) {
        *self.received.lock().unwrap_or_else(PoisonError::into_inner) = received;
        self.moved.notify_one();
    }

    /// Nobody receives any more, and nobody is to wait.
    fn given_up(&self) {
        self.told(u64::MAX - AHEAD);
    }

    /// Waits until fewer than [`AHEAD`] of the `sent` ones are under way.
    fn wait(&self, sent: u64) {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.moved.wait_while(received, |received| sent >= *received + AHEAD));
    }
}

/// Sends what is to be sent, one kind or the other.
enum Sender {
    Ours(Arc<ZenohBus>),
    Plain(zenoh::Session),
}

impl Sender {
    fn send(&self, events: &[Arc<StoredEvent>], express: bool) -> Result<(), BenchError> {
        match self {
            Self::Ours(bus) => bus.publish_all(events).during("the bus can't carry an event"),
            Self::Plain(session) => events.iter().try_for_each(|event| {
                let key = EventKey::of(event);
                let put = session.put(key.as_str(), event.json());
                let put = put.congestion_control(CongestionControl::Block).express(express);
                put.reliability(Reliability::Reliable).wait().during("Zenoh can't put an event")
            }),
        }
    }

    /// A few one by one, each with its time; then all the others as fast as the receiver allows. Gives the
    /// times, and how much of a processor the others took here.
    fn run(
        &self,
        events: &[Arc<StoredEvent>],
        few: usize,
        window: &Window,
    ) -> Result<(Vec<u64>, f64), BenchError> {
        let mut sent = Vec::with_capacity(few);
        for event in &events[..few] {
            sent.push(clock());
            self.send(std::slice::from_ref(event), true)?;
            std::thread::sleep(PAUSE);
        }
        let before = processor();
        let mut under_way = few as u64;
        for batch in events[few..].chunks(256) {
            window.wait(under_way);
            self.send(batch, false)?;
            under_way += batch.len() as u64;
        }
        Ok((sent, since(before)))
    }
}

/// How much of a processor this process has taken since, where that is known.
fn since(before: Option<f64>) -> f64 {
    before.and_then(|before| Some(processor()? - before)).unwrap_or(f64::NAN)
}

/// What a receiver has seen: when each of the first few came, and how long all the others took, and how much
/// of a processor.
struct Seen {
    few: Vec<u64>,
    others: Duration,
    processor: f64,
}

fn turn(sent: &[u64], processor: f64, seen: &Seen, others: usize) -> Turn {
    let mut took = histogram();
    for (sent, came) in sent.iter().zip(&seen.few) {
        took.record(came.saturating_sub(*sent)).expect("in range");
    }
    let super::figures::Turn { rate, p50, p99 } = super::figures::Turn::of(others as u64, seen.others, &took);
    Turn { rate, p50, p99, processor: (processor + seen.processor) / others as f64 }
}

/// Counts what comes, in the order of `positions`.
struct Counting<F> {
    few: usize,
    all: usize,
    seen: Vec<u64>,
    count: u64,
    first: Option<(Instant, Option<f64>)>,
    tell: F,
}

impl<F: FnMut(u64)> Counting<F> {
    fn new(few: usize, all: usize, tell: F) -> Self {
        Self { few, all, seen: Vec::with_capacity(few), count: 0, first: None, tell }
    }

    /// One more came; gives what was seen once all have.
    fn one(&mut self) -> Option<Seen> {
        self.count += 1;
        if self.seen.len() < self.few {
            self.seen.push(clock());
        } else if self.first.is_none() {
            self.first = Some((Instant::now(), processor()));
        }
        if self.count.is_multiple_of(TELL) {
            (self.tell)(self.count);
        }
        let (first, before) = self.first.filter(|_| self.count == self.all as u64)?;
        Some(Seen { few: std::mem::take(&mut self.seen), others: first.elapsed(), processor: since(before) })
    }
}

/// One turn within this process: a few events alone, then all others.
///
/// # Errors
///
/// [`BenchError`] when they can't be sent or don't come.
pub fn one_process(
    runtime: &Runtime,
    kind: Kind,
    events: &[Arc<StoredEvent>],
    few: usize,
) -> Result<Turn, BenchError> {
    let session = runtime.block_on(ZenohOptions::embedded().open()).during("Zenoh can't be opened")?;
    let window = Arc::new(Window::default());
    let (telling, all) = (Arc::clone(&window), events.len());
    let mut counting = Counting::new(few, all, move |count| telling.told(count));
    let waiting = Arc::clone(&window);
    let (sender, receiver) = if kind == Kind::Ours {
        let bus = runtime.block_on(ZenohBus::new(session)).during("the bus can't be started")?;
        let mut raw = bus.subscribe(EventFilter::everything());
        let receiver = runtime.spawn(async move {
            while let Some(Heard::Event(_)) = raw.next().await {
                if let Some(seen) = counting.one() {
                    return Ok(seen);
                }
            }
            waiting.given_up();
            Err("it has missed some")
        });
        (Sender::Ours(bus), receiver)
    } else {
        let channel = zenoh::handlers::FifoChannel::new(4096);
        let declared = session.declare_subscriber("events/**").with(channel);
        let subscriber = declared.wait().during("a subscriber can't be declared")?;
        let receiver = runtime.spawn(async move {
            while subscriber.recv_async().await.is_ok() {
                if let Some(seen) = counting.one() {
                    return Ok(seen);
                }
            }
            waiting.given_up();
            Err("its session ended")
        });
        (Sender::Plain(session), receiver)
    };
    let (sent, _) = sender.run(events, few, &window)?;
    let seen = runtime.block_on(receiver).during("the receiver failed")?;
    // One process: the receiver has counted for both.
    Ok(turn(&sent, 0.0, &seen.during("the receiver didn't get all events")?, events.len() - few))
}

/// One turn from this process to another over TCP; `folder` is for a log that stays empty.
///
/// # Errors
///
/// [`BenchError`] when they can't be sent or don't come.
pub fn two_processes(
    runtime: &Runtime,
    folder: &Path,
    kind: Kind,
    events: &[Arc<StoredEvent>],
    few: usize,
) -> Result<Turn, BenchError> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let endpoint = format!("tcp/{}", port.during("no port can be listened on")?);
    let folder = tempfile::tempdir_in(folder).during("a folder for an empty log can't be made")?;
    let session = runtime.block_on(ZenohOptions::peer(&[&endpoint], &[]).open());
    let session = session.during("Zenoh can't be opened")?;
    let (sender, node) = match kind {
        Kind::Ours => {
            let (bus, node) = runtime.block_on(store_node(folder.path(), session))?;
            (Sender::Ours(bus), Some(node))
        }
        Kind::Plain => (Sender::Plain(session), None),
    };
    let (few_of, all) = (few.to_string(), events.len().to_string());
    let mut receiver = Helper::start(&["receive", kind.name(), &endpoint, &few_of, &all])?;
    receiver.hear("ready")?;
    if let Sender::Plain(session) = &sender {
        runtime.block_on(matched(session))?;
    }
    let window = Arc::new(Window::default());
    let telling = Arc::clone(&window);
    let reading = std::thread::spawn(move || {
        let seen = seen_by(&mut receiver, &telling);
        if seen.is_err() {
            telling.given_up();
        }
        seen
    });
    let sent = sender.run(events, few, &window);
    let seen = reading.join().map_err(|_| BenchError::HelperEnded)?;
    if let Some(node) = node {
        runtime.block_on(node.shutdown(Duration::from_secs(5)));
    }
    let (sent, processor) = sent?;
    Ok(turn(&sent, processor, &seen?, events.len() - few))
}

/// A store node whose log stays empty: what is sent comes from outside, so that no store is measured.
async fn store_node(folder: &Path, session: zenoh::Session) -> Result<(Arc<ZenohBus>, Node), BenchError> {
    let node = Node::open(NodeOptions::new(folder)).await.during("a node can't be opened")?;
    let options = StoreNodeOptions { name: "bench".into() };
    let joined = StoreNode::join(&node, session, options).await.during("a store node can't join")?;
    node.bus().set_mode(EventBusMode::Zenoh).during("the bus can't go over to Zenoh")?;
    Ok((Arc::clone(joined.bus()), node))
}

/// What the other process tells it has seen, and tells meanwhile of how far it is.
fn seen_by(receiver: &mut Helper, window: &Window) -> Result<Seen, BenchError> {
    let (mut few, mut processor) = (Vec::new(), f64::NAN);
    loop {
        let line = receiver.line()?;
        let read = line.split_once(' ').and_then(|(word, number)| Some((word, number.parse::<u64>().ok()?)));
        match read {
            Some(("count", number)) => window.told(number),
            Some(("came", number)) => few.push(number),
            Some(("processor", number)) => processor = number as f64,
            Some(("took", number)) => {
                return Ok(Seen { few, others: Duration::from_nanos(number), processor });
            }
            _ => return Err(BenchError::Helper { said: line, instead: "what it has seen" }),
        }
    }
}

/// Waits until a put would reach the receiver.
async fn matched(session: &zenoh::Session) -> Result<(), BenchError> {
    let publisher = session.declare_publisher("events/**").await.during("a publisher can't be declared")?;
    while !publisher.matching_status().await.during("Zenoh doesn't say who listens")?.matching() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The second process: receives, and tells on standard output what it has seen.
pub(super) fn receive(
    runtime: &Runtime,
    kind: &str,
    endpoint: &str,
    few: usize,
    all: usize,
) -> Result<(), BenchError> {
    // Standard output is written line by line.
    let tell = |word: &str, number: u64| println!("{word} {number}");
    let ready = || println!("ready");
    let mut counting = Counting::new(few, all, |count| tell("count", count));
    let seen = runtime.block_on(async {
        let session = ZenohOptions::peer(&[], &[endpoint]).open().await.during("Zenoh can't be opened")?;
        if kind == Kind::Ours.name() {
            let started = EdgeNode::start(session, EdgeOptions::new("bench")).await;
            let (node, edge) = started.during("an edge node can't be started")?;
            while !node.tail().has_log() || edge.following().heartbeat.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut events = node.store().subscribe(EventFilter::everything(), Start::Beginning);
            // Its subscriber was declared before it found its log, on the same link.
            ready();
            while let Some(event) = events.next_event().await {
                event.during("the log can't be read")?;
                if let Some(seen) = counting.one() {
                    return Ok(seen);
                }
            }
        } else {
            let channel = zenoh::handlers::FifoChannel::new(4096);
            let declared = session.declare_subscriber("events/**").with(channel).await;
            let subscriber = declared.during("a subscriber can't be declared")?;
            ready();
            while subscriber.recv_async().await.is_ok() {
                if let Some(seen) = counting.one() {
                    return Ok(seen);
                }
            }
        }
        Err("no more events come").during("not everything has come")
    })?;
    seen.few.iter().for_each(|came| tell("came", *came));
    if seen.processor.is_finite() {
        tell("processor", seen.processor as u64);
    }
    tell("took", u64::try_from(seen.others.as_nanos()).unwrap_or(u64::MAX));
    Ok(())
}
