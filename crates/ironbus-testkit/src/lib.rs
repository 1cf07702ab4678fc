//! What the tests of ironbus share: checkers of its promises, a contract suite for event stores, a model
//! of appends, stores that tests step through and break, a faulty bus from a far store, a second bus, a disk
//! that can be full, an S3 server, and the real logs.
//!
//! A checker says what is wrong rather than panicking, and each is itself tested by histories that are
//! wrong. Nothing here is published.

pub mod check;
pub mod contract;
pub mod disk;
pub mod failing;
pub mod far;
pub mod faulty;
pub mod model;
#[cfg(all(feature = "net", target_os = "linux"))]
pub mod net;
pub mod real_log;
pub mod s3;
pub mod second_bus;
pub mod stepped;
pub mod temp;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::{Aggregate, EventId, Json, NewEvent, Position, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::{EventStore, ReadError};

/// How long anything that must happen may take before a test says that it never will. Nothing waits so
/// long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
///
/// # Panics
///
/// After [`PATIENCE`], with `what` it waited for.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// The executable of an example, which `cargo test` builds before it runs the tests of the example's package.
///
/// # Panics
///
/// If it isn't there: a test that is run alone builds no examples.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let built = test.ancestors().nth(2).expect("tests lie in `deps`").join("examples").join(name);
    assert!(built.exists(), "{} is missing: `cargo build --examples` builds it", built.display());
    built
}

/// An aggregate with a name that is known to be good.
#[must_use]
pub fn aggregate(kind: &str, id: &str) -> Aggregate {
    Aggregate::new(kind, id).expect("the tests choose valid names")
}

/// An event whose payload is `{"n":n}`, with the id that belongs to `n`.
#[must_use]
pub fn numbered(n: u64) -> NewEvent {
    unnamed(n).with_id(numbered_id(n))
}

/// The same event without an id.
#[must_use]
pub fn unnamed(n: u64) -> NewEvent {
    NewEvent::new("Numbered", Json::parse(format!("{{\"n\":{n}}}")).expect("valid JSON"))
}

/// The id of [`numbered`] event `n`.
#[must_use]
pub fn numbered_id(n: u64) -> EventId {
    EventId(uuid::Uuid::from_u128(0x1000_0000_0000_0000_0000 + u128::from(n)))
}

/// Everything that a store holds, page by page.
///
/// # Errors
///
/// What reading the store says.
pub async fn read_all(store: &dyn EventStore) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
    let (mut events, mut after) = (Vec::new(), Position::START);
    loop {
        let page = store.read(after, &EventFilter::everything(), 1000).await?;
        events.extend(page.events);
        after = page.through;
        if page.through >= page.head {
            return Ok(events);
        }
    }
}
