//! What a subscription takes that waits for nothing that comes: time to declare it, and memory.
//!
//! In a process of its own, so that nothing else is in its memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ironbus::tail::{RingLimits, Tail};
use ironbus::{
    EventBus, EventFilter, EventStore, Position, SqliteEventStore, SqliteOptions, Start, Subscription,
};
use ironbus_zenoh::{ZenohBus, ZenohOptions};

use super::figures::{grouped, resident};
use super::helper::{Helper, runtime};
use super::{Bench, BenchError, During, EPOCH, Part, Row};

/// What is declared.
pub(super) const TAIL: &str = "tail";
pub(super) const ZENOH: &str = "zenoh";

/// Subscriptions within one process.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    let count = bench.sizes.idle;
    let Some((seconds, bytes)) = ask(bench, TAIL, count)? else { return Ok(Vec::new()) };
    let row = |what: String, figure: f64, unit| Row::new(Part::InProcess.name(), what, &[figure], unit);
    let many = grouped(count as f64);
    let rows = [
        row("subscriptions of one process at a time".into(), count as f64, "subscriptions").goal(256.0),
        row(format!("declaring {many} subscriptions, each of its own aggregate"), seconds, "s"),
        row(format!("memory of each of {many} idle ones"), bytes, "bytes").goal(8.0 * 1024.0),
    ];
    Ok(rows.map(Row::without_events).into())
}

/// Raw subscriptions of the bus over Zenoh, of one process.
pub(super) fn measure_zenoh(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    // The mission's 10,000, and as many again, since it is to be beaten.
    let count = bench.sizes.idle.min(20_000);
    let Some((_, bytes)) = ask(bench, ZENOH, count)? else { return Ok(Vec::new()) };
    let row = |what: String, figure: f64, unit| Row::new(Part::Zenoh.name(), what, &[figure], unit);
    let memory = format!("one process: memory of each of {} idle ones", grouped(count as f64));
    let what = "one process: raw subscriptions of the bus at a time";
    let rows = [
        row(what.into(), count as f64, "subscriptions").goal(10_000.0),
        row(memory, bytes, "bytes").goal(32.0 * 1024.0),
    ];
    Ok(rows.map(Row::without_events).into())
}

/// The seconds that so many take together, and the bytes that each takes, which only Linux tells.
fn ask(bench: &Bench<'_>, kind: &str, count: usize) -> Result<Option<(f64, f64)>, BenchError> {
    (bench.say)(&format!("idle subscriptions: {}", grouped(count as f64)));
    let folder = bench.folder()?;
    let folder = folder.path().to_string_lossy().into_owned();
    let mut helper = Helper::start(&["idle", kind, &count.to_string(), &folder])?;
    let line = helper.line()?;
    let numbers = line.split_once(' ').and_then(|(seconds, bytes)| {
        Some((seconds.parse().ok()?, bytes.parse::<f64>().ok()?)).filter(|(_, bytes)| bytes.is_finite())
    });
    Ok(numbers)
}

/// The other process: declares them, and says what they take.
pub(super) fn declare(kind: &str, count: usize, folder: &Path) -> Result<(), BenchError> {
    let runtime = runtime()?;
    let filter =
        |number: usize| EventFilter::public(format!("events/Bench/{number}/**").parse().expect("a pattern"));
    if kind == ZENOH {
        let bus = runtime.block_on(async {
            let session = ZenohOptions::embedded().open().await.during("Zenoh can't be opened")?;
            ZenohBus::new(session).await.during("the bus can't be started")
        })?;
        tell(count, |number| bus.subscribe(filter(number)));
        return Ok(());
    }
    let store = runtime.block_on(SqliteEventStore::open(SqliteOptions::new(folder.join("empty.db"))));
    let store: Arc<dyn EventStore> = Arc::new(store.during("a log can't be begun")?);
    let tail = Arc::new(Tail::new(EPOCH, Position::START, RingLimits::default()));
    tell(count, |number| {
        Subscription::new(Arc::clone(&store), Arc::clone(&tail), filter(number), Start::Live)
    });
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn tell<T>(count: usize, declare: impl FnMut(usize) -> T) {
    let (before, began) = (resident(), Instant::now());
    let all: Vec<T> = (0..count).map(declare).collect();
    let (took, after) = (began.elapsed().as_secs_f64(), resident());
    let each = before.zip(after).map(|(before, after)| (after - before.min(after)) as f64 / all.len() as f64);
    println!("{took} {}", each.unwrap_or(f64::NAN));
}
