//! Appends of one event, with expected version, by 1 and by 64 clients at a time, durable against a power
//! cut (FULL) and against a crash (NORMAL); beside plain transactions of one event each through the same
//! SQLite settings.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironbus::{
    Aggregate, Append, Durability, EventFilter, EventStore, ExpectedVersion, Json, NewEvent,
    SqliteEventStore, SqliteOptions, Start,
};
pub(crate) use ironbus_cli::bench::figures::{Turn, histogram, nanos};
use ironbus_cli::bench::log::{LIFE, append_to, sync_rate};
pub(crate) use ironbus_cli::bench::payload;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::table::{Table, grouped, median, micros};

/// How long the disk alone is measured.
const SYNCING: Duration = Duration::from_millis(500);

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let (turns, span) = if quick { (3, 1) } else { (7, 3) };
    let span = Duration::from_secs(span);
    let syncs = sync_rate(place, SYNCING).expect("synced");
    let [full, normal] = [(Durability::Full, "FULL"), (Durability::Normal, "NORMAL")];
    for ((durability, synchronous), clients) in [(full, 1), (full, 64), (normal, 1), (normal, 64)] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for turn in 1..=turns {
            eprintln!("appends ({synchronous}), {clients} clients: turn {turn} of {turns}");
            let folder = tempfile::tempdir_in(place).expect("a folder");
            ours.push(runtime.block_on(append_ours(folder.path(), durability, clients, span)));
            plain.push(append_plain(folder.path(), synchronous, clients, span));
        }
        let of = |side: &[Turn], value: fn(&Turn) -> f64| median(side.iter().map(value).collect());
        let cell = |side: &[Turn]| {
            let (p50, p99) = (micros(of(side, |turn| turn.p50)), micros(of(side, |turn| turn.p99)));
            format!("{}/s, p50 {p50}, p99 {p99}", grouped(of(side, |turn| turn.rate)))
        };
        let faster = of(&ours, |turn| turn.rate) / of(&plain, |turn| turn.rate);
        let slower = of(&ours, |turn| turn.p50) / of(&plain, |turn| turn.p50);
        let verdict = match (durability, clients) {
            (Durability::Full, 1) => format!("p50 {slower:.2} times plain (goal: at most 1.2)"),
            (Durability::Full, _) => format!("{faster:.1} times plain (goal: at least 8)"),
            (Durability::Normal, 1) => format!("p50 {slower:.2} times plain"),
            (Durability::Normal, _) => format!("{faster:.1} times plain"),
        };
        let what =
            format!("appends ({synchronous}), {clients} client{}", if clients == 1 { "" } else { "s" });
        table.row(
            &what,
            &format!("{}; **{verdict}**", cell(&ours)),
            &format!("plain transactions: {}", cell(&plain)),
        );
    }
    let after = sync_rate(place, SYNCING).expect("synced");
    table.row(
        "the disk beside it: `fdatasync` of 4 KiB",
        &format!("{}/s before", grouped(syncs)),
        &format!("{}/s after", grouped(after)),
    );
    let latency = runtime.block_on(append_to_subscriber(place, if quick { 2000 } else { 10_000 }));
    let shown = format!("p50 {}, p99 {}", micros(latency.p50), micros(latency.p99));
    table.row("append called → subscriber has the event (FULL, 1 client)", &shown, "–");
}

async fn append_ours(folder: &Path, durability: Durability, clients: usize, span: Duration) -> Turn {
    let options = SqliteOptions { durability, ..SqliteOptions::new(folder.join("ours.db")) };
    let store = Arc::new(SqliteEventStore::open(options).await.expect("opens"));
    let turn = append_to(Arc::clone(&store) as Arc<dyn EventStore>, clients, span).await.expect("stored");
    store.close().await;
    turn
}

fn append_plain(folder: &Path, synchronous: &str, clients: usize, span: Duration) -> Turn {
    let connection = Connection::open(folder.join("plain.db")).expect("opens");
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -65536;
             PRAGMA mmap_size = 268435456; PRAGMA wal_autocheckpoint = 4000;
             CREATE TABLE event (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
                 event_id BLOB NOT NULL UNIQUE, type TEXT NOT NULL, payload TEXT NOT NULL,
                 UNIQUE (stream, sequence)) STRICT;"
        ))
        .expect("a table");
    let connection = Arc::new(Mutex::new(connection));
    let began = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let connection = Arc::clone(&connection);
            std::thread::spawn(move || {
                let (run, payload, mut latencies) = (uuid::Uuid::now_v7(), payload(), histogram());
                for number in 0_u64.. {
                    if began.elapsed() >= span {
                        break;
                    }
                    let name = format!("{run} {client} {}", number / LIFE);
                    let one = Instant::now();
                    let connection = connection.lock().expect("not poisoned");
                    insert_plain(&connection, &name, &payload).expect("stored");
                    drop(connection);
                    latencies.record(nanos(one)).expect("in range");
                }
                latencies
            })
        })
        .collect();
    let mut all = histogram();
    for thread in threads {
        all.add(thread.join().expect("no client fails")).expect("alike");
    }
    Turn::of(all.len(), began.elapsed(), &all)
}

fn insert_plain(connection: &Connection, stream: &str, payload: &Json) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let version: i64 = connection
        .prepare_cached("SELECT coalesce(max(sequence), 0) FROM event WHERE stream = ?1")?
        .query_row([stream], |row| row.get(0))?;
    connection
        .prepare_cached(
            "INSERT INTO event (stream, sequence, event_id, type, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((stream, version + 1, uuid::Uuid::now_v7().as_bytes(), "Measured", payload.as_str()))?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

async fn append_to_subscriber(place: &Path, count: u64) -> Turn {
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let store =
        SqliteEventStore::open(SqliteOptions::new(folder.path().join("ours.db"))).await.expect("opens");
    let mut events = store.subscribe(EventFilter::everything(), Start::Live);
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let reader = tokio::spawn(async move {
        while let Some(Ok(_)) = events.next_event().await {
            if told.send(Instant::now()).await.is_err() {
                break;
            }
        }
    });
    let (payload, mut latencies) = (payload(), histogram());
    let aggregate = Aggregate::new("Bench", "1").expect("valid");
    let began = Instant::now();
    for _ in 0..count {
        let one = Instant::now();
        let event = NewEvent::new("Measured", payload.clone());
        store.append(Append::to(aggregate.clone(), ExpectedVersion::Any, vec![event])).await.expect("stored");
        let at = heard.recv().await.expect("the subscription is open");
        latencies.record(u64::try_from((at - one).as_nanos()).unwrap_or(u64::MAX)).expect("in range");
    }
    let took = began.elapsed();
    store.close().await;
    drop(heard);
    reader.await.expect("the reader ends with the store");
    Turn::of(count, took, &latencies)
}
