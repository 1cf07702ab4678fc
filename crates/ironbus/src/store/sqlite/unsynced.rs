//! What a power cut may have taken: the mark of a writer that doesn't sync each commit.
//!
//! With `Durability::Normal` a power cut takes the last acknowledged events, and new ones get their
//! positions. Whoever had read the lost ones could not see that within one epoch. So while such a writer has
//! the log open, a mark in the file, itself synced, names the start of the machine (its boot) that may hold
//! what the disk doesn't. A clean close syncs everything and takes it away.
//!
//! Invariant: a log that is opened for writing after its machine may have lost commits begins a new epoch
//! after what has survived, before anything is appended; so every cursor beyond that gets its reset. After a
//! mere crash of the process nothing is lost, and the epoch stays.
//!
//! Not seen is what loses writes without a start of the machine: a disk that was pulled, or lies about its
//! syncs. `ironbus promote` is for that.

use std::path::Path;

use rusqlite::Connection;

use super::schema::{LogState, insert_epoch, refused};
use super::{Durability, OpenError};
use crate::event::Epoch;

/// What the mark says where a machine doesn't tell which start of it this is: never the same one.
const UNKNOWN_BOOT: &str = "";

/// Why an epoch began, as `status` tells it.
const WHY: &str = "the machine was started anew, or the file came from another one, while appends weren't \
                   synced (durability normal), so the last acknowledged events may be lost";

/// Which start of this machine this is (Linux: `/proc/sys/kernel/random/boot_id`); `None` where the system
/// doesn't tell.
pub(super) fn this_boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}

/// Judges the mark that is found and leaves the one that this opening needs, all in one transaction, which
/// the connection has to sync. Gives back the epoch that had to begin, if one had to.
pub(super) fn settle(
    path: &Path,
    connection: &Connection,
    state: &LogState,
    durability: Durability,
    boot: Option<&str>,
) -> Result<Option<Epoch>, OpenError> {
    let wrap = |error| refused(path, error);
    let found: Option<String> =
        connection.query_row("SELECT unsynced FROM log", [], |row| row.get(0)).map_err(wrap)?;
    let survived = found.as_deref().is_none_or(|found| found != UNKNOWN_BOOT && Some(found) == boot);
    let wanted = match durability {
        Durability::Full => None,
        Durability::Normal => Some(boot.unwrap_or(UNKNOWN_BOOT)),
    };
    if survived && found.as_deref() == wanted {
        return Ok(None);
    }
    let transaction = connection.unchecked_transaction().map_err(wrap)?;
    let began = if survived { None } else { Some(insert_epoch(&transaction, state, WHY).map_err(wrap)?) };
    transaction.execute("UPDATE log SET unsynced = ?1", [wanted]).map_err(wrap)?;
    transaction.commit().map_err(wrap)?;
    if let Some(epoch) = began {
        tracing::warn!(
            %epoch,
            after = %state.head,
            "{WHY}: the log goes on in a new epoch, and readers that were further are told to begin anew",
        );
    }
    Ok(began)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::event::{Aggregate, Cursor, Json, NewEvent, Position};
    use crate::key::EventFilter;
    use crate::store::{Append, EventStore, ExpectedVersion, ResetReason, SqliteEventStore, SqliteOptions};
    use crate::subscription::{Delivery, Start};

    const HERE: Option<&str> = Some("this boot");
    const AFTER_A_POWER_CUT: Option<&str> = Some("the next boot");

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("temporary files can be made"))
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("ironbus.db")
        }

        fn open(&self, durability: Durability, boot: Option<&str>) -> SqliteEventStore {
            let options = SqliteOptions { durability, ..SqliteOptions::new(self.path()) };
            SqliteEventStore::open_blocking(&options, boot).expect("opens")
        }

        /// What a kill of the process leaves; or a power cut, if nothing later came to the disk.
        fn as_it_is_now(&self) -> Self {
            let left = Self::new();
            for file in ["ironbus.db", "ironbus.db-wal"] {
                std::fs::copy(self.0.path().join(file), left.0.path().join(file)).expect("copied");
            }
            left
        }
    }

    async fn append(store: &SqliteEventStore, n: u64) -> Position {
        let to = Aggregate::new("Counter", "1").expect("valid");
        let event = NewEvent::new("Counted", Json::parse(n.to_string()).expect("valid"));
        store.append(Append::to(to, ExpectedVersion::Any, vec![event])).await.expect("appended").head
    }

    async fn end_of(store: &SqliteEventStore) -> Cursor {
        let head = store.head().await.expect("readable");
        Cursor { epoch: head.lineage.epoch(), position: head.position }
    }

    async fn first(store: &SqliteEventStore, cursor: Cursor) -> Delivery {
        let mut events = store.subscribe(EventFilter::everything(), Start::Resume(cursor));
        let next = tokio::time::timeout(Duration::from_secs(20), events.next());
        next.await.expect("in time").expect("open").expect("readable")
    }

    #[tokio::test]
    async fn whoever_has_read_what_a_power_cut_took_is_told_although_its_positions_are_taken_again() {
        let place = Place::new();
        let store = place.open(Durability::Normal, HERE);
        // The least that a power cut leaves: no append was synced.
        let least = place.as_it_is_now();
        for n in 1..=3 {
            append(&store, n).await;
        }
        let some = place.as_it_is_now();
        append(&store, 4).await;
        let (cursor, earlier) = (end_of(&store).await, Cursor { epoch: Epoch(1), position: Position(3) });
        for (left, head) in [(least, 0), (some, 3)] {
            let store = left.open(Durability::Normal, AFTER_A_POWER_CUT);
            assert_eq!(end_of(&store).await, Cursor { epoch: Epoch(2), position: Position(head) });
            assert!(store.epoch_began().is_some_and(|why| why.contains("may be lost")));
            for n in 0..6 {
                append(&store, 100 + n).await;
            }
            let end = Position(head);
            let reset = ResetReason::BeyondEnd { epoch: Epoch(1), position: cursor.position, end };
            assert_eq!(first(&store, cursor).await, Delivery::Reset(reset));
            let event = first(&store, Cursor { position: earlier.position.min(end), ..earlier }).await;
            assert_eq!(event.into_event().map(|event| event.position), Some(Position(head + 1)), "no reset");
        }
    }

    #[tokio::test]
    async fn a_killed_process_loses_nothing_and_keeps_the_epoch_however_the_log_is_opened_next() {
        let place = Place::new();
        let store = place.open(Durability::Normal, HERE);
        append(&store, 1).await;
        for next in [Durability::Normal, Durability::Full] {
            let store = place.as_it_is_now().open(next, HERE);
            assert_eq!(end_of(&store).await, Cursor { epoch: Epoch(1), position: Position(1) });
            assert_eq!(store.epoch_began(), None);
        }
    }

    #[tokio::test]
    async fn what_was_closed_or_synced_needs_no_new_epoch() {
        let place = Place::new();
        let closed = place.open(Durability::Normal, HERE);
        append(&closed, 1).await;
        closed.close().await;
        let full = place.open(Durability::Full, AFTER_A_POWER_CUT);
        append(&full, 2).await;
        let killed = place.as_it_is_now().open(Durability::Normal, Some("a third"));
        assert_eq!(end_of(&killed).await, Cursor { epoch: Epoch(1), position: Position(2) });
    }

    #[tokio::test]
    async fn whoever_syncs_after_one_that_was_killed_needs_no_new_epoch_from_then_on() {
        let place = Place::new();
        let killed = place.open(Durability::Normal, HERE);
        append(&killed, 1).await;
        let synced = place.as_it_is_now();
        let full = synced.open(Durability::Full, HERE);
        append(&full, 2).await;
        let next = synced.as_it_is_now().open(Durability::Full, AFTER_A_POWER_CUT);
        assert_eq!(end_of(&next).await, Cursor { epoch: Epoch(1), position: Position(2) });
    }

    #[tokio::test]
    async fn each_power_cut_begins_an_epoch_and_a_boot_that_nobody_knows_is_never_the_same() {
        for boots in [["a", "b", "c"].map(Some), [None; 3], [Some("a"), None, Some("a")]] {
            let (mut place, mut epoch) = (Place::new(), 0);
            for boot in boots {
                let store = place.open(Durability::Normal, boot);
                append(&store, 1).await;
                epoch += 1;
                assert_eq!(end_of(&store).await.epoch, Epoch(epoch), "{boots:?}");
                place = place.as_it_is_now();
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_boot_has_a_name_that_stays() {
        assert_eq!(this_boot().map(|boot| boot.len()), Some(36));
        assert_eq!(this_boot(), this_boot());
    }
}
