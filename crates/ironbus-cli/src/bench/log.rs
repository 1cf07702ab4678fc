//! What a log on the disk does: durable appends by one and by many clients beside the disk's own syncs, loads of one
//! aggregate, and replay.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbus::{
    Aggregate, Append, EventFilter, EventStore, ExpectedVersion, NewEvent, Position, Sequence,
    SqliteEventStore, SqliteOptions,
};

use super::figures::{Turn, grouped, histogram, median, nanos, per_second};
use super::row::MICROS;
use super::{Bench, BenchError, During, Part, Row, payload};

/// How many events an aggregate gets: about as many as in the real logs (65,533 over 7,554; 8,577 over 1,434).
pub const LIFE: u64 = 8;

/// How many clients append at a time where many do.
const CLIENTS: usize = 64;

/// How long the disk alone is measured, before and after each turn.
const SYNCING: Duration = Duration::from_millis(150);

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    let (runtime, sizes, part) = (bench.runtime, &bench.sizes, Part::Store.name());
    let (mut rows, span) = (Vec::new(), sizes.span);
    for clients in [1, CLIENTS] {
        let (mut ours, mut disk) = (Vec::new(), Vec::new());
        for _ in bench.turns(&format!("durable appends, clients: {clients}")) {
            let folder = bench.folder()?;
            let before = sync_rate(folder.path(), SYNCING.min(span))?;
            ours.push(runtime.block_on(async {
                let options = SqliteOptions::new(folder.path().join("appends.db"));
                let store = SqliteEventStore::open(options).await.during("a log can't be begun")?;
                let store = Arc::new(store);
                let turn = append_to(Arc::clone(&store) as Arc<dyn EventStore>, clients, span).await;
                store.close().await;
                turn
            })?);
            disk.push((before + sync_rate(folder.path(), SYNCING.min(span))?) / 2.0);
        }
        let rates: Vec<f64> = ours.iter().map(|turn| turn.rate).collect();
        let times: Vec<f64> = ours.iter().map(|turn| turn.p50).collect();
        let who = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let row = Row::new(part, format!("appends of one event by {who}"), &rates, "events/s").synced();
        rows.push(row.beside("syncs/s of the disk itself, before and after", &rates, &disk));
        let row = Row::new(part, format!("appends of one event by {who}: acknowledged, p50"), &times, MICROS);
        let syncs: Vec<f64> = disk.iter().map(|rate| 1e6 / rate).collect();
        rows.push(row.synced().beside("a sync of the disk itself", &times, &syncs));
    }

    let folder = bench.folder()?;
    let (loads, replays) = runtime.block_on(async {
        let store = SqliteEventStore::open(SqliteOptions::new(folder.path().join("read.db"))).await;
        let store = store.during("a log can't be begun")?;
        fill(&store, sizes.log, |stored| {
            (bench.say)(&format!(
                "a log to read: {} of {}",
                grouped(stored as f64),
                grouped(sizes.log as f64)
            ));
        })
        .await?;
        let (mut loads, mut replays) = (Vec::new(), Vec::new());
        for _ in bench.turns("loads and replay") {
            loads.push(load(&store, 10, sizes.log, span).await?.0);
            replays.push(read_pages(&store, sizes.log).await?);
        }
        store.close().await;
        Ok::<_, BenchError>((loads, replays))
    })?;
    let among = grouped(sizes.log as f64);
    let what = format!("load of an aggregate of 10 events among {among}, p50");
    rows.push(Row::new(part, what, &loads, MICROS).synced());
    rows.push(Row::new(part, format!("replay of {among} events, warm file"), &replays, "events/s").synced());
    Ok(rows)
}

/// How often in a second the disk below a folder syncs 4 KiB that were appended to a file.
///
/// # Errors
///
/// [`BenchError`] when a file can't be written there.
pub fn sync_rate(folder: &Path, span: Duration) -> Result<f64, BenchError> {
    let mut file = tempfile::tempfile_in(folder).during("a file can't be made")?;
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < span || count == 0 {
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).during("a file can't be synced")?;
        count += 1;
    }
    Ok(per_second(count, began.elapsed()))
}

/// Appends of one event each by so many clients, each to aggregates that it alone writes to and begins.
///
/// # Errors
///
/// [`BenchError`] when one can't be stored.
pub async fn append_to(
    store: Arc<dyn EventStore>,
    clients: usize,
    span: Duration,
) -> Result<Turn, BenchError> {
    let run = uuid::Uuid::now_v7();
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let (payload, mut latencies) = (payload(), histogram());
                for number in 0_u64.. {
                    if began.elapsed() >= span {
                        break;
                    }
                    let name = format!("{run} {client} {}", number / LIFE);
                    let aggregate = Aggregate::new("Bench", name).expect("valid");
                    let event = NewEvent::new("Measured", payload.clone());
                    let expected = ExpectedVersion::Exact(Sequence(number % LIFE));
                    let one = Instant::now();
                    let append = Append::to(aggregate, expected, vec![event]);
                    store.append(append).await.during("an event can't be stored")?;
                    latencies.record(nanos(one)).expect("in range");
                }
                Ok::<_, BenchError>(latencies)
            })
        })
        .collect();
    let mut all = histogram();
    for task in tasks {
        all.add(task.await.during("a client failed")??).expect("alike");
    }
    Ok(Turn::of(all.len(), began.elapsed(), &all))
}

/// How many events are stored at once where a log is filled.
const FILLED: u64 = 5000;

/// Stores so many events, a multiple of 5,000: one aggregate of 1,000 events, and others of 10. `tell` hears how many
/// are stored.
///
/// # Errors
///
/// [`BenchError`] when they can't be stored.
pub async fn fill(store: &dyn EventStore, total: u64, tell: impl Fn(u64)) -> Result<(), BenchError> {
    let payload = payload();
    let mut stored = 0;
    while stored < total {
        let mut append = Append::default();
        while (append.len() as u64) < FILLED {
            let number = stored + append.len() as u64;
            let (name, size) = if number == 0 { ("big".to_owned(), 1000) } else { (number.to_string(), 10) };
            let events = (0..size).map(|_| NewEvent::new("Measured", payload.clone())).collect();
            append = append.and(Aggregate::new("Bench", name).expect("valid"), ExpectedVersion::Any, events);
        }
        stored += append.len() as u64;
        store.append(append).await.during("events can't be stored")?;
        if stored.is_multiple_of(20 * FILLED) {
            tell(stored);
        }
    }
    Ok(())
}

/// Loads aggregates of this size, 10 or 1,000, of a log that [`fill`] has filled with so many events, one after the
/// other for so long. Gives the time that half of them took at the most, in microseconds, and how many are loaded in a
/// second.
///
/// # Errors
///
/// [`BenchError`] when one can't be loaded, or isn't there as it was stored.
pub async fn load(
    store: &dyn EventStore,
    size: usize,
    total: u64,
    span: Duration,
) -> Result<(f64, f64), BenchError> {
    let mut latencies = Vec::new();
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < span {
        let name = if size == 1000 { "big".to_owned() } else { (1000 + number).to_string() };
        number = (number + 7910) % (total - 1000);
        let aggregate = Aggregate::new("Bench", name).expect("valid");
        let one = Instant::now();
        let page = store.load(&aggregate, Sequence::START, 10_000).await;
        let page = page.during("an aggregate can't be loaded")?;
        latencies.push(one.elapsed().as_secs_f64() * 1e6);
        if page.events.len() != size {
            return Err(format!("{aggregate} has {} events", page.events.len())).during("a load is wrong");
        }
    }
    let rate = per_second(latencies.len() as u64, began.elapsed());
    Ok((median(latencies), rate))
}

/// Reads so many events from the first on, page by page; gives how many in a second.
///
/// # Errors
///
/// [`BenchError`] when they can't be read.
pub async fn read_pages(store: &dyn EventStore, total: u64) -> Result<f64, BenchError> {
    let began = Instant::now();
    let (mut after, mut seen) = (Position::START, 0);
    while seen < total {
        let page = store.read(after, &EventFilter::everything(), 5000).await;
        let page = page.during("the log can't be read")?;
        seen += page.events.len() as u64;
        after = page.through;
    }
    Ok(per_second(seen, began.elapsed()))
}
