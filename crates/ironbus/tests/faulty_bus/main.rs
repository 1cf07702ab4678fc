//! Nodes without a log over a bus that loses, repeats and reorders, and a log that fails and is slow: no
//! subscription sees any of it.
//!
//! By seeds: `IRONBUS_FAULT_SEED` replays one, `IRONBUS_FAULT_TIMES` runs so many times as many.

mod at_large;
mod stepped;

use std::sync::Arc;

use fastrand::Rng;
use ironbus::event::{Position, SessionId, StoredEvent};
use ironbus::key::{Entitlement, EventFilter};
use ironbus_testkit::check::{Violation, check_subscription};
use ironbus_testkit::far::FarStore;

const PATTERNS: [&str; 8] = [
    "events/**",
    "events/A/**",
    "events/A/%401/**",
    "events/B/2/**",
    "events/session/s/**",
    "events/*/2/*",
    "**/1",
    "events/$*/0/**",
];

fn filter(rng: &mut Rng) -> EventFilter {
    let pattern = PATTERNS[rng.usize(..PATTERNS.len())].parse().expect("a valid pattern");
    EventFilter::public(pattern).entitled(match rng.u8(..3) {
        0 => Entitlement::Public,
        1 => Entitlement::session(SessionId::new("s").expect("valid")),
        _ => Entitlement::Everything,
    })
}

/// What a reader got before a reset is of one history alone, without a hole.
fn check_of_one_history(
    filter: &EventFilter,
    after: Position,
    got: &[Arc<StoredEvent>],
    far: &FarStore,
) -> Result<(), Vec<Violation>> {
    let mut histories = far.former();
    histories.push(far.events());
    let checks = histories.iter().map(|log| check_subscription(filter, after, Position::START, got, log));
    let violations: Vec<_> = checks.map_while(Result::err).collect();
    if violations.len() == histories.len() { Err(violations) } else { Ok(()) }
}
