//! Starting on a log that is there: from snapshots, without, and beside others. And the same log as SQLite's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ironbus::event::{Position, Sequence};
use ironbus::store::{CHAIN_START, EventStore, chain};
use ironbus_testkit::{numbered, read_all, within};
use ironbus_zenoh::storage::memory::{Asked, Fault};
use ironbus_zenoh::storage::{
    CommitLog, MemoryLog, ObjectLog, Slot, StorageOpenError, StorageOptions, Trouble, ZenohStorageEventStore,
    verify,
};

use crate::support::{any, dozing, exact, node, node_with, ok, todo};

/// A log of so many slots of two events each, with a snapshot now and then.
async fn filled(slots: u64) -> Arc<MemoryLog> {
    let log = Arc::new(MemoryLog::default());
    let store = node_with(&log, StorageOptions { snapshot_every: 8, ..dozing() }).await;
    for n in 0..slots {
        let session = ironbus::SessionId::new("s").expect("valid");
        ok(&store, any([numbered(2 * n), numbered(2 * n + 1).for_session(session)])).await;
    }
    // Waits for the snapshot that is under way.
    store.close().await;
    log
}

#[tokio::test]
async fn a_start_reads_only_what_the_snapshot_does_not_hold_and_knows_the_same() {
    let log = filled(50).await;
    let latest = log.snapshots().await.expect("there").first().copied().expect("one was due");
    assert!(latest >= Slot(40), "{latest}");
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    log.break_with(move |asked| {
        if let Asked::Read(slot) = asked {
            assert!(slot.next() >= latest, "{slot} is in the snapshot, and isn't its last");
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Fault::None
    });
    let store = node(&log).await;
    assert!(reads.load(Ordering::Relaxed) > 0);
    log.mend();
    // Versions, ids and places are those of the whole log.
    assert_eq!(ok(&store, any([numbered(6)])).await.events[0].position, Position(7));
    let aggregate = store.load(&todo(), Sequence(95), 10).await.expect("it can be loaded");
    assert_eq!((aggregate.events.len(), aggregate.version), (5, Sequence(100)));
    assert_eq!(ok(&store, exact(100, numbered(1000))).await.head, Position(101));
    let unfolded = verify(&*log).await.expect("sound").expect("there");
    assert_eq!(unfolded.head, Position(101));
}

#[tokio::test]
async fn a_damaged_snapshot_is_left_out() {
    let log = filled(50).await;
    for snapshot in log.snapshots().await.expect("there") {
        let mut bytes = log.snapshot(snapshot).await.expect("there").expect("there").to_vec();
        bytes[100] ^= 1;
        log.keep_snapshot(snapshot, bytes.into()).await.expect("it can be kept");
    }
    let store = node(&log).await;
    assert_eq!(store.head().await.expect("it can be reached").position, Position(100));
    assert_eq!(read_all(&store).await.expect("it can be read").len(), 100);
}

#[tokio::test]
async fn a_snapshot_of_slots_that_are_gone_is_not_gone_on_from() {
    let log = filled(50).await;
    let latest = log.snapshots().await.expect("there")[0];
    for slot in latest.0 - 1..log.filled() as u64 {
        log.damage(Slot(slot), None);
    }
    let opened = ZenohStorageEventStore::open(Arc::clone(&log) as _, dozing()).await;
    let Err(StorageOpenError::Trouble(Trouble::Missing { missing, .. })) = opened else {
        panic!("{opened:?}")
    };
    assert_eq!(missing, Slot(latest.0 - 1));
}

#[tokio::test]
async fn of_many_who_begin_one_log_at_once_all_have_the_same() {
    let log = Arc::new(MemoryLog::default());
    let opened = (0..8).map(|_| {
        tokio::spawn({
            let log = Arc::clone(&log);
            async move { node(&log).await.head().await.expect("it can be reached").store_id }
        })
    });
    let ids = futures_util::future::join_all(opened).await;
    let ids: Vec<_> = ids.into_iter().map(|id| id.expect("no panic")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_log_that_is_not_there_is_not_begun_unless_asked() {
    let log = Arc::new(MemoryLog::default());
    let options = StorageOptions { create: false, ..dozing() };
    let opened = ZenohStorageEventStore::open(Arc::clone(&log) as _, options).await;
    assert!(matches!(opened, Err(StorageOpenError::NoLog)), "{opened:?}");
    assert_eq!(log.filled(), 0);
}

#[tokio::test]
async fn a_folder_is_closed_opened_again_and_shared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || async {
        let log = Arc::new(ObjectLog::open_folder(folder.path()).await.expect("a folder can hold a log"));
        ZenohStorageEventStore::open(log, StorageOptions { snapshot_every: 4, ..dozing() })
            .await
            .expect("sound")
    };
    let store = open().await;
    for n in 0..20 {
        ok(&store, any([numbered(n)])).await;
    }
    let id = store.head().await.expect("there").store_id;
    store.close().await;
    let (one, two) = (open().await, open().await);
    ok(&one, exact(20, numbered(20))).await;
    ok(&two, exact(21, numbered(21))).await;
    let head = one.head().await.expect("there");
    assert_eq!((head.store_id, head.position), (id, Position(22)));
    let log = read_all(&one).await.expect("it can be read");
    // The chain is the one that every kind of store has, so that logs can be compared.
    let hash = log.iter().fold(CHAIN_START, |hash, event| chain(&hash, event));
    let objects = ObjectLog::open_folder(folder.path()).await.expect("a folder can hold a log");
    let verified = within("the log is verified", verify(&objects)).await.expect("sound").expect("there");
    assert_eq!((verified.head, verified.chain, verified.slots), (Position(22), hash, 23));
    let kept = objects.snapshots().await.expect("there");
    assert!(!kept.is_empty() && kept.len() <= 2, "{kept:?}");
}
