//! Loads of one aggregate, and replay of the whole log; replay beside a bare scan of the same file.

use std::path::Path;
use std::time::{Duration, Instant};

use ironbus::{
    Aggregate, Append, EventFilter, EventStore, ExpectedVersion, NewEvent, Position, Sequence,
    SqliteEventStore, SqliteOptions, Start,
};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::appends::payload;
use crate::table::{Table, grouped, median, micros, per_second};

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let total: u64 = if quick { 100_000 } else { 1_000_000 };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let path = folder.path().join("ours.db");
    runtime.block_on(async {
        let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
        fill(&store, total).await;
        let events = grouped(total as f64);
        for size in [10, 1000] {
            let (p50, rate) = load(&store, size).await;
            let what = format!("load of a {}-event aggregate among {events} events", grouped(size as f64));
            table.row(&what, &format!("p50 {}, {} loads/s", micros(p50), grouped(rate)), "–");
        }
        let (pages, subscription, bare) = replay(&store, &path, total).await;
        let what = format!("replay of {events} events, warm file");
        let shown =
            format!("pages {} events/s, subscription {} events/s", grouped(pages), grouped(subscription));
        table.row(&what, &shown, &format!("bare scan of the same columns: {} events/s", grouped(bare)));
        store.close().await;
    });
}

/// One aggregate of 1,000 events, and others of 10.
pub(crate) async fn fill(store: &dyn EventStore, total: u64) {
    let payload = payload();
    let mut stored = 0;
    while stored < total {
        let mut append = Append::default();
        while append.len() < 5000 {
            let number = stored + append.len() as u64;
            let (name, size) = if number == 0 { ("big".to_owned(), 1000) } else { (number.to_string(), 10) };
            let events = (0..size).map(|_| NewEvent::new("Measured", payload.clone())).collect();
            append = append.and(Aggregate::new("Bench", name).expect("valid"), ExpectedVersion::Any, events);
        }
        stored += append.len() as u64;
        store.append(append).await.expect("stored");
        if stored % 100_000 == 0 {
            eprintln!("filling: {stored} of {total}");
        }
    }
}

pub(crate) async fn load(store: &dyn EventStore, size: usize) -> (f64, f64) {
    let mut latencies = Vec::new();
    let began = Instant::now();
    let mut number = 1000;
    while began.elapsed() < Duration::from_secs(1) {
        let name = if size == 1000 { "big".to_owned() } else { number.to_string() };
        number = 1000 + (number + 7910) % 90_000;
        let aggregate = Aggregate::new("Bench", name).expect("valid");
        let one = Instant::now();
        let page = store.load(&aggregate, Sequence::START, 10_000).await.expect("readable");
        latencies.push(one.elapsed().as_secs_f64() * 1e6);
        assert_eq!(page.events.len(), size, "{aggregate}");
    }
    let rate = per_second(latencies.len() as u64, began.elapsed());
    (median(latencies), rate)
}

async fn replay(store: &SqliteEventStore, path: &Path, total: u64) -> (f64, f64, f64) {
    let (mut pages, mut subscription, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let everything = EventFilter::everything();
    for turn in 1..=3 {
        eprintln!("replay: turn {turn} of 3");
        pages.push(read_pages(store, total).await);
        let began = Instant::now();
        let mut events = store.subscribe(everything.clone(), Start::Beginning);
        for _ in 0..total {
            events.next_event().await.expect("open").expect("readable");
        }
        subscription.push(per_second(total, began.elapsed()));
        bare.push(scan(path, total));
    }
    (median(pages), median(subscription), median(bare))
}

/// Reads so many events from the first on, page by page; gives how many in a second.
pub(crate) async fn read_pages(store: &dyn EventStore, total: u64) -> f64 {
    let began = Instant::now();
    let (mut after, mut seen) = (Position::START, 0);
    while seen < total {
        let page = store.read(after, &EventFilter::everything(), 5000).await.expect("readable");
        seen += page.events.len() as u64;
        after = page.through;
    }
    per_second(seen, began.elapsed())
}

fn scan(path: &Path, total: u64) -> f64 {
    let connection = Connection::open(path).expect("opens");
    connection.execute_batch("PRAGMA mmap_size = 268435456").expect("set");
    let began = Instant::now();
    let mut select = connection
        .prepare("SELECT position, aggregate, sequence, event_id, event_type, recorded_at, metadata, payload FROM event ORDER BY position")
        .expect("ours");
    let mut rows = select.query([]).expect("readable");
    let mut seen = 0;
    while let Some(row) = rows.next().expect("readable") {
        let payload: String = row.get(7).expect("a text");
        let _: (i64, i64, i64, [u8; 16]) = (
            row.get(0).expect("a number"),
            row.get(1).expect("a number"),
            row.get(2).expect("a number"),
            row.get(3).expect("an id"),
        );
        seen += u64::from(!payload.is_empty());
    }
    assert_eq!(seen, total);
    per_second(seen, began.elapsed())
}
