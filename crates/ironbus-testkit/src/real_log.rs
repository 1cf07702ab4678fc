//! The real logs that the tests are fed with: JSON lines of process-mining event logs, gzip-compressed.
//!
//! They aren't part of the repository. Where they are absent a test says so and is skipped.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use ironbus::event::{Aggregate, Json, NewEvent};
use serde::Deserialize;

/// One line of a real log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealEvent {
    /// What it belongs to.
    pub aggregate: Aggregate,
    /// What happened.
    pub event_type: String,
    /// When, as the source writes it.
    pub occurred_at: Option<String>,
    /// The payload, byte for byte.
    pub payload: Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    aggregate_type: String,
    aggregate_id: String,
    event_type: String,
    occurred_at: Option<String>,
    payload: Json,
}

/// The names of the real logs.
pub const REAL_LOGS: [&str; 2] = ["receipt.jsonl.gz", "bpic2013-incidents.jsonl.gz"];

/// Where the real logs are: `IRONBUS_DATA_DIR`, else `../shared/data` beside the workspace.
#[must_use]
pub fn data_dir() -> PathBuf {
    std::env::var_os("IRONBUS_DATA_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from)
}

/// The lines of the real log `name`, in its order; `None`, and a line that says so, where it is absent.
///
/// # Panics
///
/// If the file is there but isn't such a log: that is a broken test set-up, not an absent one.
#[must_use]
pub fn real_log(name: &str) -> Option<Vec<RealEvent>> {
    let path = data_dir().join(name);
    let Ok(file) = File::open(&path) else {
        eprintln!("skipped: there is no {} (set IRONBUS_DATA_DIR)", path.display());
        return None;
    };
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    let events = lines.enumerate().map(|(index, line)| {
        let wrong = |error: &dyn std::fmt::Display| -> ! {
            panic!("{}, line {}: {error}", path.display(), index + 1)
        };
        let line = line.unwrap_or_else(|error| wrong(&error));
        let line: Line = serde_json::from_str(&line).unwrap_or_else(|error| wrong(&error));
        RealEvent {
            aggregate: Aggregate::new(line.aggregate_type, line.aggregate_id)
                .unwrap_or_else(|error| wrong(&error)),
            event_type: line.event_type,
            occurred_at: line.occurred_at,
            payload: line.payload,
        }
    });
    Some(events.collect())
}

impl RealEvent {
    /// The event as one to append.
    #[must_use]
    pub fn to_new(&self) -> NewEvent {
        NewEvent::new(self.event_type.as_str(), self.payload.clone())
    }
}
