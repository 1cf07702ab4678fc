//! Events over Zenoh beside plain Zenoh: the same bytes, on the same keys, reliable and with `Block`, to one
//! receiver on another thread, in one process and between two over TCP.
//!
//! Ours between two processes is the whole way: the store node's bus, the edge node's follower (order, repeats,
//! holes), its tail, and a catch-up subscription. Where throughput is measured, senders of both kinds keep at
//! most [`AHEAD`] events under way and sleep until the receiver has gone on, so that neither receiver overflows
//! and neither sender takes a core from it.
//!
//! Every round runs both kinds, the one first and then the other first, and gives ratios; medians of these
//! are told. So what else the machine does weighs on both alike. Beside the rate stands the time of a
//! processor that an event takes in both processes together, which hardly depends on what else runs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ironbus::bus::{EventBusMode, Heard};
use ironbus::store::Append;
use ironbus::{
    Aggregate, Durability, EventBus, EventFilter, EventKey, EventStore, ExpectedVersion, NewEvent, Node,
    NodeOptions, SqliteEventStore, SqliteOptions, Start, StoredEvent,
};
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohBus, ZenohOptions};
use tokio::runtime::Runtime;
use zenoh::Wait;
use zenoh::qos::{CongestionControl, Reliability};

use crate::appends::payload;
use crate::table::{Table, grouped, median, micros, per_second};

/// How many events may be under way where throughput is measured.
const AHEAD: u64 = 2048;

/// How often a receiver says how far it is.
const TELL: u64 = 256;

/// The pause between two events where latency is measured.
const PAUSE: Duration = Duration::from_micros(500);

/// The argument that makes this program a receiver.
pub(crate) const RECEIVE: &str = "--receive";

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

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let (many, few, rounds) = if quick { (50_000, 1000, 5) } else { (100_000, 2000, 15) };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let events = runtime.block_on(prepared(folder.path(), many));
    for between in [false, true] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            eprintln!(
                "Zenoh, {}: round {} of {rounds}",
                if between { "two processes" } else { "one process" },
                round + 1
            );
            let mut sides = [(&mut ours, "ours"), (&mut plain, "plain")];
            sides.rotate_left(round % 2);
            for (side, kind) in sides {
                side.push(if between {
                    two_processes(runtime, kind, &events, few)
                } else {
                    one_process(runtime, kind, &events, few)
                });
            }
        }
        let of = |side: &[Turn], value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
        let cell = |side: &[Turn]| {
            format!(
                "{} events/s, {:.1} µs of a processor for one; an event alone: p50 {}, p99 {}",
                grouped(of(side, |turn| turn.rate)),
                of(side, |turn| turn.processor),
                micros(of(side, |turn| turn.p50)),
                micros(of(side, |turn| turn.p99))
            )
        };
        let ratio = |value: fn(&Turn) -> f64| {
            let ratios = ours.iter().zip(&plain).map(|(ours, plain)| value(ours) / value(plain));
            let (least, most) = ratios
                .clone()
                .fold((f64::MAX, 0.0_f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
            format!("{:.2} ({least:.2} to {most:.2})", median(ratios.collect()))
        };
        let ratios = format!(
            "**{} times its events/s, {} times its p50**, {} times its processor time",
            ratio(|turn| turn.rate),
            ratio(|turn| turn.p50),
            ratio(|turn| turn.processor)
        );
        let what = if between {
            "Zenoh between two processes (TCP): store node's bus → edge node's catch-up subscription"
        } else {
            "Zenoh in one process: the bus → a raw subscription"
        };
        table.row(
            what,
            &format!("{}; {ratios}", cell(&ours)),
            &format!("plain put and subscriber: {}", cell(&plain)),
        );
    }
}

struct Turn {
    rate: f64,
    p50: f64,
    p99: f64,
    /// Microseconds of a processor for one event, of sender and receiver together.
    processor: f64,
}

/// Events as a log holds them, from position 1 on.
async fn prepared(folder: &Path, count: usize) -> Vec<Arc<StoredEvent>> {
    let options =
        SqliteOptions { durability: Durability::Normal, ..SqliteOptions::new(folder.join("events.db")) };
    let store = SqliteEventStore::open(options).await.expect("opens");
    let mut after = ironbus::Position(0);
    let mut events = Vec::new();
    while events.len() < count {
        let aggregate = Aggregate::new("Todo", format!("id-{}", events.len() / 1000)).expect("valid");
        let new = (0..1000).map(|_| NewEvent::new("Added", payload())).collect();
        store.append(Append::to(aggregate, ExpectedVersion::Any, new)).await.expect("appended");
        let page = EventStore::read(&store, after, &EventFilter::everything(), 1000).await.expect("read");
        after = page.through;
        events.extend(page.events);
    }
    store.close().await;
    // What is measured is how it travels: both kinds send JSON that is there.
    events.iter().for_each(|event: &Arc<StoredEvent>| drop(event.json()));
    events
}

/// How far the receiver is, for a sender that mustn't be too far ahead.
#[derive(Default)]
struct Window {
    received: Mutex<u64>,
    moved: Condvar,
}

impl Window {
    fn told(&self, received: u64) {
        *self.received.lock().expect("nobody panicked") = received;
        self.moved.notify_one();
    }

    /// Waits until fewer than [`AHEAD`] of the `sent` ones are under way.
    fn wait(&self, sent: u64) {
        let received = self.received.lock().expect("nobody panicked");
        drop(self.moved.wait_while(received, |received| sent >= *received + AHEAD));
    }
}

/// Sends what is to be sent, one kind or the other.
enum Sender {
    Ours(Arc<ZenohBus>),
    Plain(zenoh::Session),
}

impl Sender {
    fn send(&self, events: &[Arc<StoredEvent>], express: bool) {
        match self {
            Self::Ours(bus) => bus.publish_all(events).expect("carried"),
            Self::Plain(session) => {
                for event in events {
                    session
                        .put(EventKey::of(event).as_str(), event.json())
                        .congestion_control(CongestionControl::Block)
                        .reliability(Reliability::Reliable)
                        .express(express)
                        .wait()
                        .expect("put");
                }
            }
        }
    }

    /// A few one by one, each with its time; then all the others as fast as the receiver allows. Gives the
    /// times, and how much of a processor the others took here.
    fn run(&self, events: &[Arc<StoredEvent>], few: usize, window: &Window) -> (Vec<u64>, f64) {
        let mut sent = Vec::with_capacity(few);
        for event in &events[..few] {
            sent.push(clock());
            self.send(std::slice::from_ref(event), true);
            std::thread::sleep(PAUSE);
        }
        let before = processor();
        let mut under_way = few as u64;
        for batch in events[few..].chunks(256) {
            window.wait(under_way);
            self.send(batch, false);
            under_way += batch.len() as u64;
        }
        (sent, since(before))
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
    let mut took: Vec<f64> =
        sent.iter().zip(&seen.few).map(|(sent, came)| came.saturating_sub(*sent) as f64 / 1000.0).collect();
    took.sort_by(f64::total_cmp);
    let at = |hundredths: usize| took[(took.len() * hundredths / 100).min(took.len() - 1)];
    Turn {
        rate: per_second(others as u64, seen.others),
        p50: at(50),
        p99: at(99),
        processor: (processor + seen.processor) / others as f64,
    }
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

fn one_process(runtime: &Runtime, kind: &str, events: &[Arc<StoredEvent>], few: usize) -> Turn {
    let session = runtime.block_on(ZenohOptions::embedded().open()).expect("opens");
    let window = Arc::new(Window::default());
    let (telling, all) = (Arc::clone(&window), events.len());
    let mut counting = Counting::new(few, all, move |count| telling.told(count));
    let (sender, receiver) = if kind == "ours" {
        let bus = runtime.block_on(ZenohBus::new(session)).expect("starts");
        let mut raw = bus.subscribe(EventFilter::everything());
        let receiver = runtime.spawn(async move {
            loop {
                match raw.next().await.expect("the bus is there") {
                    Heard::Event(_) => {
                        if let Some(seen) = counting.one() {
                            return seen;
                        }
                    }
                    Heard::Missed(missed) => panic!("{missed} were missed"),
                }
            }
        });
        (Sender::Ours(bus), receiver)
    } else {
        let channel = zenoh::handlers::FifoChannel::new(4096);
        let declared = session.declare_subscriber("events/**").with(channel);
        let subscriber = runtime.block_on(async { declared.await }).expect("declared");
        let receiver = runtime.spawn(async move {
            loop {
                subscriber.recv_async().await.expect("the session is there");
                if let Some(seen) = counting.one() {
                    return seen;
                }
            }
        });
        (Sender::Plain(session), receiver)
    };
    let (sent, _) = sender.run(events, few, &window);
    let seen = runtime.block_on(receiver).expect("it doesn't panic");
    // One process: the receiver has counted for both.
    turn(&sent, 0.0, &seen, events.len() - few)
}

fn two_processes(runtime: &Runtime, kind: &str, events: &[Arc<StoredEvent>], few: usize) -> Turn {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let endpoint = format!("tcp/{port}");
    let folder = tempfile::tempdir().expect("a folder");
    let session = runtime.block_on(ZenohOptions::peer(&[&endpoint], &[]).open()).expect("listens");
    let mut node = None;
    let sender = if kind == "ours" {
        runtime.block_on(async {
            // Its log stays empty: what is sent comes from outside, so that no store is measured.
            let store = Node::open(NodeOptions::new(folder.path())).await.expect("opens");
            let options = StoreNodeOptions { name: "bench".into() };
            let joined = StoreNode::join(&store, session, options).await.expect("joins");
            store.bus().set_mode(EventBusMode::Zenoh).expect("there is Zenoh");
            let bus = Arc::clone(joined.bus());
            node = Some(store);
            Sender::Ours(bus)
        })
    } else {
        Sender::Plain(session)
    };
    let mut child = Receiving(
        Command::new(std::env::current_exe().expect("this program"))
            .args([RECEIVE, kind, &endpoint, &few.to_string(), &events.len().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process"),
    );
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let mut next = move || lines.next().expect("the receiver lives").expect("text");
    assert_eq!(next(), "ready");
    if let Sender::Plain(session) = &sender {
        runtime.block_on(matched(session));
    }
    let window = Arc::new(Window::default());
    let telling = Arc::clone(&window);
    let reading = std::thread::spawn(move || {
        let (mut few, mut processor) = (Vec::new(), f64::NAN);
        loop {
            let line = next();
            let (word, number) = line.split_once(' ').expect("a word and a number");
            let number: u64 = number.parse().expect("a number");
            match word {
                "count" => telling.told(number),
                "came" => few.push(number),
                "processor" => processor = number as f64,
                _ => return Seen { few, others: Duration::from_nanos(number), processor },
            }
        }
    });
    let (sent, processor) = sender.run(events, few, &window);
    let seen = reading.join().expect("it doesn't panic");
    if let Some(node) = node {
        runtime.block_on(node.shutdown(Duration::from_secs(5)));
    }
    turn(&sent, processor, &seen, events.len() - few)
}

/// Waits until a put would reach the receiver.
async fn matched(session: &zenoh::Session) {
    let publisher = session.declare_publisher("events/**").await.expect("declared");
    while !publisher.matching_status().await.expect("known").matching() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A second process, which ends with the turn.
struct Receiving(Child);

impl Drop for Receiving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The second process: receives, and tells on standard output what it has seen.
pub(crate) fn receive(runtime: &Runtime, arguments: &[String]) {
    let [kind, endpoint, few, all] = arguments else { panic!("called by this program alone") };
    let (few, all) = (few.parse().expect("a number"), all.parse().expect("a number"));
    let tell = |word: &str, number: u64| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {number}").and_then(|()| out.flush()).expect("somebody reads");
    };
    let ready = || println!("ready");
    let mut counting = Counting::new(few, all, |count| tell("count", count));
    let seen = runtime.block_on(async {
        let session = ZenohOptions::peer(&[], &[endpoint]).open().await.expect("opens");
        if kind == "ours" {
            let (node, edge) = EdgeNode::start(session, EdgeOptions::new("bench")).await.expect("starts");
            while !node.tail().has_log() || edge.following().heartbeat.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut events = node.store().subscribe(EventFilter::everything(), Start::Beginning);
            // Its subscriber was declared before it found its log, on the same link.
            ready();
            loop {
                events.next_event().await.expect("open").expect("readable");
                if let Some(seen) = counting.one() {
                    break seen;
                }
            }
        } else {
            let channel = zenoh::handlers::FifoChannel::new(4096);
            let subscriber = session.declare_subscriber("events/**").with(channel).await.expect("declared");
            ready();
            loop {
                subscriber.recv_async().await.expect("the session is there");
                if let Some(seen) = counting.one() {
                    break seen;
                }
            }
        }
    });
    seen.few.iter().for_each(|came| tell("came", *came));
    if seen.processor.is_finite() {
        tell("processor", seen.processor as u64);
    }
    tell("took", u64::try_from(seen.others.as_nanos()).expect("short"));
}
