//! One of several processes that append to a log in one bucket.
//!
//! `bucket-writer ENDPOINT BUCKET WRITER FIRST LAST` appends the numbers from FIRST to LAST, each by an
//! append of its own, to an aggregate of its own and every other one to a counter that all writers share,
//! where it expects the version that it knows. It says a line when it begins an append, and another when it
//! is answered; the test `bucket` reads them.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ironbus::event::{EventId, Sequence};
use ironbus::{Aggregate, Append, AppendError, EventStore, ExpectedVersion, Json, NewEvent};
use ironbus_zenoh::storage::{ObjectLog, S3Options, StorageOptions, ZenohStorageEventStore};
use uuid::Uuid;

/// The system's clock, in microseconds: the same for all processes of a machine.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_micros()
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, writer, first, last] = &arguments[..] else {
        return Err("bucket-writer ENDPOINT BUCKET WRITER FIRST LAST".into());
    };
    let (writer, first, last): (u64, u64, u64) = (writer.parse()?, first.parse()?, last.parse()?);
    let options = S3Options {
        endpoint: Some(endpoint.clone()),
        region: Some("us-east-1".into()),
        allow_http: true,
        timeout: Duration::from_secs(1),
        ..S3Options::new(bucket, "a/log")
    };
    let log = loop {
        // The server loses replies, to the probe as well.
        match ObjectLog::open_s3(&options).await {
            Ok(log) => break Arc::new(log),
            Err(error) => eprintln!("{error}; trying again"),
        }
    };
    let storage = StorageOptions { snapshot_every: 16, ..StorageOptions::default() };
    let store = loop {
        match ZenohStorageEventStore::open(log.clone(), storage.clone()).await {
            Ok(store) => break store,
            Err(error) => eprintln!("{error}; trying again"),
        }
    };
    let own = Aggregate::new("Own", writer.to_string())?;
    let counter = Aggregate::new("Counter", "all")?;
    for n in first..=last {
        let event = NewEvent::new("Numbered", Json::parse(format!("{{\"n\":{n}}}"))?)
            .with_id(EventId(Uuid::from_u128(u128::from(n))));
        let append = if n % 2 == 0 {
            Append::to(own.clone(), ExpectedVersion::Any, vec![event])
        } else {
            let version = store.load(&counter, Sequence::START, 0).await?.version;
            Append::to(counter.clone(), ExpectedVersion::Exact(version), vec![event])
        };
        say(&format!("asked {n} {}", now()))?;
        loop {
            match store.append(append.clone()).await {
                Ok(done) => {
                    let (position, sequence) = (done.events[0].position, done.events[0].sequence);
                    say(&format!("stored {n} {} {position} {sequence}", now()))?;
                }
                Err(AppendError::Conflict { actual, .. }) => say(&format!("refused {n} {} {actual}", now()))?,
                Err(AppendError::Unknown(_) | AppendError::Unavailable { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            break;
        }
    }
    store.close().await;
    say("done")?;
    Ok(())
}
