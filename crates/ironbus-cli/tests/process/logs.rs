//! The real logs, where they are, and what each of their events must come back as.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) const LOGS: [&str; 2] = ["receipt.jsonl.gz", "bpic2013-incidents.jsonl.gz"];

/// A real log's file; says that the test is skipped where there is none.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let folder = std::env::var("IRONBUS_DATA_DIR").unwrap_or_else(|_| beside.to_owned());
    let path = Path::new(&folder).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: the real log {name} isn't here (IRONBUS_DATA_DIR says where to look)");
    None
}

/// What an event is, wherever it is written: type and id of its aggregate, its type, when, payload.
pub(crate) type Told = (String, String, String, Option<String>, String);

#[derive(Deserialize)]
struct Source {
    aggregate_type: String,
    aggregate_id: String,
    event_type: String,
    occurred_at: Option<String>,
    payload: Box<RawValue>,
}

pub(crate) fn source(path: &Path) -> Vec<Told> {
    let file = std::fs::File::open(path).expect("readable");
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    lines
        .map(|line| {
            let line: Source = serde_json::from_str(&line.expect("text")).expect("an event");
            let payload = line.payload.get().to_owned();
            (line.aggregate_type, line.aggregate_id, line.event_type, line.occurred_at, payload)
        })
        .collect()
}

#[derive(Deserialize)]
struct Exported {
    position: u64,
    aggregate_type: String,
    aggregate_id: String,
    event_type: String,
    payload: Box<RawValue>,
    metadata: serde_json::Value,
}

/// Reads an export; checks that its positions are contiguous from 1.
pub(crate) fn exported(text: &[u8]) -> Vec<Told> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            let line: Exported = serde_json::from_str(&line.expect("text")).expect("an event");
            assert_eq!(line.position, index as u64 + 1, "positions are contiguous and in order");
            let occurred_at = line.metadata["occurred_at"].as_str().map(str::to_owned);
            let payload = line.payload.get().to_owned();
            (line.aggregate_type, line.aggregate_id, line.event_type, occurred_at, payload)
        })
        .collect()
}
