//! The figures of ironbus on this machine, in turns with what they are compared with: `ironbus bench`.
//!
//! [`run`] measures the chosen [`Part`]s and gives a [`Row`] for every figure: `fan_out` and `idle` within one process
//! and without a disk, `over_zenoh` over Zenoh, `log` the store, `streams` the server's live streams. What needs a
//! process of its own is this program again, told by its arguments what to do (`helper`). [`page()`] shows the rows as
//! a page.
//!
//! Nothing is left behind: all files are below one folder, which is the caller's to remove.

pub mod fan_out;
pub mod figures;
mod helper;
mod idle;
pub mod log;
mod machine;
pub mod over_zenoh;
mod page;
mod row;
mod streams;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::Epoch;
use ironbus::store::Append;
use ironbus::{
    Aggregate, EventFilter, EventStore, ExpectedVersion, Json, NewEvent, Position, SqliteEventStore,
    SqliteOptions, StoredEvent,
};
use tokio::runtime::Runtime;

pub use helper::{HELPER, help};
pub use machine::Machine;
pub use page::page;
pub use row::{Beside, Better, Durability, Goal, Row};

/// The epoch of logs that are measured.
const EPOCH: Epoch = Epoch(1);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Events to subscriptions of one process.
    InProcess,
    /// Events over Zenoh, within a process and between two.
    Zenoh,
    /// Appends, loads and replay of a log on the disk.
    Store,
    /// Live streams of the server.
    Sse,
}

impl Part {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 4] = [Self::InProcess, Self::Zenoh, Self::Store, Self::Sse];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Zenoh => "zenoh",
            Self::Store => "store",
            Self::Sse => "sse",
        }
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// How many turns ours and what is beside it take.
    pub turns: usize,
    /// How many events are told one by one, where latency is measured.
    pub alone: usize,
    /// How many events are told as fast as they go.
    pub many: usize,
    /// How many subscriptions one pattern has.
    pub readers: usize,
    /// How many subscriptions have an aggregate of their own.
    pub crowd: usize,
    /// How many subscriptions do nothing at all.
    pub idle: usize,
    /// How long clients append in one turn, and how long aggregates are loaded.
    pub span: Duration,
    /// How many events a log has that is read.
    pub log: u64,
    /// How many streams are open.
    pub streams: usize,
    /// How often [`streams::BURST`] events are told at once to all streams.
    pub bursts: u64,
}

impl Sizes {
    /// What takes less than a minute on two processors.
    #[must_use]
    pub fn short() -> Self {
        Self {
            turns: 3,
            alone: 500,
            many: 50_000,
            readers: 1000,
            crowd: 100_000,
            idle: 100_000,
            span: Duration::from_millis(700),
            log: 100_000,
            streams: 1000,
            bursts: 4,
        }
    }

    /// What varies less from run to run, and takes some minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            turns: 7,
            alone: 2000,
            many: 100_000,
            idle: 1_000_000,
            span: Duration::from_secs(3),
            log: 1_000_000,
            bursts: 20,
            ..Self::short()
        }
    }

    /// What only shows that everything runs.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            turns: 1,
            alone: 20,
            many: 600,
            readers: 10,
            crowd: 200,
            idle: 5000,
            span: Duration::from_millis(20),
            log: 5000,
            streams: 10,
            bursts: 1,
        }
    }

    /// How many files a process has open for so many streams: one end of each, and the others.
    #[must_use]
    pub fn files(&self) -> usize {
        self.streams + OTHER_FILES
    }

    /// The same with as many streams as so many open files leave room for.
    #[must_use]
    pub fn within(mut self, files: usize) -> Self {
        self.streams = self.streams.min(files.saturating_sub(OTHER_FILES)).max(1);
        self
    }
}

/// What else is open while streams are measured: a log, a runtime, pipes.
const OTHER_FILES: usize = 128;

/// What every part works with.
pub struct Bench<'a> {
    /// Runs what is measured.
    pub runtime: &'a Runtime,
    /// Below it are all files. To be on the disk that is measured.
    pub folder: &'a Path,
    /// How much is measured.
    pub sizes: Sizes,
    /// Is told what is measured now.
    pub say: &'a dyn Fn(&str),
}

impl Bench<'_> {
    /// Says what is measured, before each of its turns.
    fn turns(&self, what: &str) -> impl Iterator<Item = usize> {
        let turns = self.sizes.turns;
        (0..turns).inspect(move |turn| (self.say)(&format!("{what}: turn {} of {turns}", turn + 1)))
    }

    /// A new folder, which is removed with what is given back.
    fn folder(&self) -> Result<tempfile::TempDir, BenchError> {
        tempfile::tempdir_in(self.folder).during("a folder for the measured files can't be made")
    }
}

/// Measures these parts, one after the other; `tell` gets the rows of each as soon as they are there.
///
/// # Errors
///
/// [`BenchError`] when something couldn't be measured; the parts before it have been told.
pub fn run(bench: &Bench<'_>, parts: &[Part], mut tell: impl FnMut(&[Row])) -> Result<(), BenchError> {
    for part in Part::ALL.iter().filter(|part| parts.contains(part)) {
        let rows = match part {
            Part::InProcess => fan_out::measure(bench)?,
            Part::Zenoh => over_zenoh::measure(bench)?,
            Part::Store => log::measure(bench)?,
            Part::Sse => streams::measure(bench)?,
        };
        tell(&rows);
    }
    Ok(())
}

/// Something couldn't be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// What is measured, or what it needs, failed.
    #[error("{doing}: {source}")]
    Failed {
        /// What can't be done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A process that was started for the measurement ended before it was done; it has said why on standard error.
    #[error("a process that was started to measure with ended too early")]
    HelperEnded,
    /// A process of the measurement said something else than was agreed on.
    #[error("a process that was started to measure with said `{said}` instead of {instead}")]
    Helper {
        /// What it said.
        said: String,
        /// What it should have said.
        instead: &'static str,
    },
}

/// Says what was being done when something failed.
trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, BenchError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> During<T> for Result<T, E> {
    fn during(self, doing: &'static str) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Failed { doing, source: source.into() })
    }
}

/// What every measured event says: 294 bytes of JSON.
#[must_use]
pub fn payload() -> Json {
    Json::of(&["x".repeat(290)]).expect("a text")
}

/// A log in this folder with so many events, spread over so many aggregates of the type `Bench` (`0`, `1`, …) one
/// after the other, and these events.
///
/// # Errors
///
/// [`BenchError`] when they can't be stored or read.
pub async fn stored(
    folder: &Path,
    count: usize,
    aggregates: usize,
) -> Result<(SqliteEventStore, Vec<Arc<StoredEvent>>), BenchError> {
    const BATCH: usize = 4096;
    let store = SqliteEventStore::open(SqliteOptions::new(folder.join("events.db"))).await;
    let store = store.during("a log can't be begun")?;
    let payload = payload();
    let mut events: Vec<Arc<StoredEvent>> = Vec::with_capacity(count);
    while events.len() < count {
        let mut append = Append::default();
        let first = events.len();
        let last = count.min(first + BATCH);
        // What is of one aggregate stands together in an append: an aggregate is in it once.
        for number in first..last.min(first + aggregates) {
            let aggregate = Aggregate::new("Bench", (number % aggregates).to_string()).expect("valid");
            let of_this = (number..last).step_by(aggregates);
            let new = of_this.map(|_| NewEvent::new("Measured", payload.clone())).collect();
            append = append.and(aggregate, ExpectedVersion::Any, new);
        }
        store.append(append).await.during("events can't be stored")?;
        let page = store.read(Position(first as u64), &EventFilter::everything(), BATCH).await;
        events.extend(page.during("the log can't be read")?.events);
    }
    Ok((store, events))
}
