//! Loads of one aggregate, and replay of the whole log; replay beside a bare scan of the same file.

use std::path::Path;
use std::time::{Duration, Instant};

use ironbus::{EventFilter, EventStore, SqliteEventStore, SqliteOptions, Start};
use ironbus_cli::bench::log::{fill, load, read_pages};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::table::{Table, grouped, median, micros, per_second};

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let total: u64 = if quick { 100_000 } else { 1_000_000 };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let path = folder.path().join("ours.db");
    runtime.block_on(async {
        let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
        fill(&store, total, |stored| eprintln!("filling: {stored} of {total}")).await.expect("stored");
        let events = grouped(total as f64);
        for size in [10, 1000] {
            let loaded = load(&store, size, total, Duration::from_secs(1)).await;
            let (p50, rate) = loaded.expect("readable");
            let what = format!("load of a {}-event aggregate among {events} events", grouped(size as f64));
            table.row(&what, &format!("p50 {}, {} loads/s", micros(p50), grouped(rate)), "–");
        }
        // Opened anew, so that the ring has none of them.
        store.close().await;
        let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
        let (pages, subscription, bare) = replay(&store, &path, total).await;
        let what = format!("replay of {events} events, warm file");
        let shown =
            format!("pages {} events/s, subscription {} events/s", grouped(pages), grouped(subscription));
        table.row(&what, &shown, &format!("bare scan of the same columns: {} events/s", grouped(bare)));
        store.close().await;
    });
}

async fn replay(store: &SqliteEventStore, path: &Path, total: u64) -> (f64, f64, f64) {
    let (mut pages, mut subscription, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let everything = EventFilter::everything();
    for turn in 1..=3 {
        eprintln!("replay: turn {turn} of 3");
        pages.push(read_pages(store, total).await.expect("readable"));
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
