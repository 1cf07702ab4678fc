//! Following a log that another process writes: feeds the tail of a store that only reads.
//!
//! SQLite tells no other process of a commit, but a connection sees by one cheap number
//! (`data_version`) whether anyone has committed. That is looked at every [`INTERVAL`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::reader::Reader;
use crate::key::EventFilter;
use crate::tail::Tail;

const INTERVAL: Duration = Duration::from_millis(50);
const PAGE: usize = 1024;

/// Starts the thread; it ends when the tail is gone.
pub(super) fn spawn(mut reader: Reader, tail: &Arc<Tail>) -> std::io::Result<()> {
    let tail = Arc::downgrade(tail);
    let thread = std::thread::Builder::new().name("ironbus-follower".into());
    thread.spawn(move || {
        let mut seen = None;
        while tail.strong_count() > 0 {
            match follow(&mut reader, &tail, &mut seen) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the log can't be followed just now; trying again"),
            }
            std::thread::sleep(INTERVAL);
        }
    })?;
    Ok(())
}

fn follow(reader: &mut Reader, tail: &Weak<Tail>, seen: &mut Option<i64>) -> rusqlite::Result<()> {
    let version = reader.data_version()?;
    if *seen == Some(version) {
        return Ok(());
    }
    while let Some(tail) = tail.upgrade() {
        let page = reader.read(tail.head(), &EventFilter::everything(), PAGE)?;
        if let Err(hole) = tail.publish(&page.events) {
            unreachable!("a page begins right after the head it was asked for: {hole}");
        }
        if page.through >= page.head {
            *seen = Some(version);
            break;
        }
    }
    Ok(())
}
