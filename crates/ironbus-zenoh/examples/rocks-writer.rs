//! A process that appends to a log in RocksDB, and is killed by the test `rocksdb`.
//!
//! `rocks-writer FOLDER COUNT NEXT…` lets one client for each NEXT append COUNT times, from that number on. Client
//! `c` appends its number `n` to an aggregate of its own, where it expects version `n - 1`; with every third number
//! it appends two events more, to an aggregate that all share. What is acknowledged it says in a line:
//! `stored CLIENT NUMBER POSITION…`.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use ironbus::event::{EventId, Sequence};
use ironbus::{Aggregate, Append, AppendError, EventStore, ExpectedVersion, Json, NewEvent};
use ironbus_zenoh::storage::{RocksLog, StorageOptions, ZenohStorageEventStore};
use uuid::Uuid;

/// The id of one of the events of an append. The test knows it too.
fn id(client: u64, number: u64, event: u64) -> EventId {
    EventId(Uuid::from_u128(u128::from(client) << 96 | u128::from(number) << 32 | u128::from(event)))
}

/// Some are large, so that a kill meets writes of many pages.
fn event(client: u64, number: u64, event: u64) -> Result<NewEvent, Box<dyn Error + Send + Sync>> {
    let length = if number.is_multiple_of(8) { 40_000 } else { 100 };
    let json = Json::parse(format!("\"{}\"", "x".repeat(length)))?;
    Ok(NewEvent::new("Numbered", json).with_id(id(client, number, event)))
}

fn append(client: u64, number: u64) -> Result<Append, Box<dyn Error + Send + Sync>> {
    let own = Aggregate::new("Own", client.to_string())?;
    let expected = ExpectedVersion::Exact(Sequence(number - 1));
    let append = Append::to(own, expected, vec![event(client, number, 0)?]);
    if !number.is_multiple_of(3) {
        return Ok(append);
    }
    let events = vec![event(client, number, 1)?, event(client, number, 2)?];
    Ok(append.and(Aggregate::new("Shared", "all")?, ExpectedVersion::Any, events))
}

async fn run(
    store: ZenohStorageEventStore,
    client: u64,
    first: u64,
    count: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    for number in first..first.saturating_add(count) {
        let done = loop {
            match store.append(append(client, number)?).await {
                Ok(done) => break done,
                Err(AppendError::Unknown(_) | AppendError::Unavailable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let positions: Vec<String> = done.events.iter().map(|event| event.position.to_string()).collect();
        let mut out = std::io::stdout().lock();
        writeln!(out, "stored {client} {number} {}", positions.join(" "))?;
        out.flush()?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("rocks-writer FOLDER COUNT NEXT…".into());
    };
    let count: u64 = count.parse()?;
    let log = Arc::new(RocksLog::open(folder).await?);
    let options = StorageOptions { snapshot_every: 16, ..StorageOptions::default() };
    let store = ZenohStorageEventStore::open(log.clone(), options).await?;
    let mut clients = Vec::new();
    for (client, first) in (0..).zip(arguments) {
        clients.push(tokio::spawn(run(store.clone(), client, first.parse()?, count)));
    }
    for client in clients {
        client.await??;
    }
    store.close().await;
    log.close().await;
    Ok(())
}
