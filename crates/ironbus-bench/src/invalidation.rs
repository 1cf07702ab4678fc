//! What an event costs a cache of 1,000 and of 100,000 entries when one of them depends on it; beside a scan
//! of all entries. The rules alone, without moka and without a log.

use std::collections::HashMap;
use std::time::Instant;

use ironbus::cache::{Dependencies, Stale};
use ironbus::{Cursor, Epoch, EventFilter, Position, StoredEvent};

use crate::table::{Table, median};

const SIZES: [u64; 2] = [1_000, 100_000];
/// How many events are applied in one turn, each of which invalidates another entry.
const EVENTS: u64 = 500;

pub(crate) fn measure(quick: bool, table: &mut Table) {
    let turns = if quick { 5 } else { 21 };
    let mut sides = SIZES.map(|entries| (Indexed::new(entries), Scanned::new(entries)));
    let mut took = [(); 2].map(|()| (Vec::new(), Vec::new()));
    for turn in 1..=turns {
        eprintln!("invalidation: turn {turn} of {turns}");
        for ((indexed, scanned), (ours, scan)) in sides.iter_mut().zip(&mut took) {
            ours.push(indexed.turn());
            scan.push(scanned.turn());
        }
    }
    let [few, many] = took.map(|(ours, scan)| (median(ours), median(scan)));
    table.row(
        &format!("an event that invalidates 1 of {} / of {} cached entries", SIZES[0], SIZES[1]),
        &format!("{:.2} µs / {:.2} µs: **{:.1} times**", few.0, many.0, many.0 / few.0),
        &format!("scan of all entries: {:.0} µs / {:.0} µs: {:.0} times", few.1, many.1, many.1 / few.1),
    );
}

fn filter(entry: u64) -> EventFilter {
    EventFilter::public(format!("events/Todo/uuid-{entry}/**").parse().expect("valid"))
}

/// The events of one turn, spread over all entries.
fn events(entries: u64, after: u64) -> Vec<StoredEvent> {
    (0..EVENTS).map(|n| event(after + n + 1, (n * 7919) % entries)).collect()
}

fn event(position: u64, entry: u64) -> StoredEvent {
    let json = format!(
        r#"{{"position":{position},"sequence":1,"event_id":"{}","aggregate_type":"Todo","aggregate_id":"uuid-{entry}","event_type":"Measured","schema_version":1,"payload":{{}},"metadata":{{}},"recorded_at":"2026-01-01T00:00:00Z"}}"#,
        uuid::Uuid::now_v7()
    );
    StoredEvent::from_json(json.as_bytes()).expect("an event")
}

/// Microseconds per event, the invalidated entry's removal included.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_event(began: Instant, events: u64) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / events as f64
}

/// Entries as ironbus has them.
struct Indexed {
    entries: u64,
    dependencies: Dependencies<u64>,
    applied: u64,
}

impl Indexed {
    fn new(entries: u64) -> Self {
        let mut dependencies = Dependencies::new();
        dependencies.follow(at(0));
        for entry in 0..entries {
            dependencies.admit(entry, vec![filter(entry)], at(0)).expect("nothing has happened");
        }
        Self { entries, dependencies, applied: 0 }
    }

    /// Applies the events of one turn, then lets in again what they have invalidated.
    fn turn(&mut self) -> f64 {
        let events = events(self.entries, self.applied);
        let mut stale = Vec::with_capacity(events.len());
        let began = Instant::now();
        for event in &events {
            match self.dependencies.apply(event) {
                Stale::Values(values) => stale.extend(values),
                Stale::Everything => unreachable!("there is no hole"),
            }
        }
        let took = per_event(began, EVENTS);
        assert_eq!(stale.len() as u64, EVENTS, "each event has invalidated one entry");
        self.applied += EVENTS;
        for entry in stale.iter().map(|dependent| *dependent.key()) {
            let admitted = self.dependencies.admit(entry, vec![filter(entry)], at(self.applied));
            admitted.expect("computed just now");
        }
        took
    }
}

/// Entries of which each is asked whether the event matters to it.
struct Scanned {
    entries: HashMap<u64, EventFilter>,
    applied: u64,
}

impl Scanned {
    fn new(entries: u64) -> Self {
        Self { entries: (0..entries).map(|entry| (entry, filter(entry))).collect(), applied: 0 }
    }

    /// Applies one event, then lets in again what it has invalidated.
    fn turn(&mut self) -> f64 {
        let count = self.entries.len() as u64;
        let entry = self.applied * 7919 % count;
        self.applied += 1;
        let event = event(self.applied, entry);
        let began = Instant::now();
        self.entries.retain(|_, filter| !filter.matches(&event));
        let took = per_event(began, 1);
        assert!(self.entries.insert(entry, filter(entry)).is_none(), "the event has invalidated one entry");
        took
    }
}

fn at(position: u64) -> Cursor {
    Cursor { epoch: Epoch(1), position: Position(position) }
}
