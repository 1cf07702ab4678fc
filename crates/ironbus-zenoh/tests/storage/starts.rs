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

use crate::support::{Intercepted, any, dozing, exact, node, node_over, node_with, ok, todo};

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

/// Counts the reads of slots that a snapshot would have spared.
fn count_early_reads(
    log: &MemoryLog,
    mut fault: impl FnMut(Asked) -> Fault + Send + 'static,
) -> Arc<AtomicUsize> {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    log.break_with(move |asked| {
        if matches!(asked, Asked::Read(slot) if slot < Slot(30)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        fault(asked)
    });
    reads
}

#[tokio::test]
async fn a_damaged_snapshot_is_left_out() {
    let log = filled(50).await;
    for part in 1..8 {
        let mut whole = Vec::new();
        for snapshot in log.snapshots().await.expect("there") {
            let bytes = log.snapshot(snapshot).await.expect("there").expect("there");
            let mut flipped = bytes.to_vec();
            let at = flipped.len() * part / 8;
            flipped[at] ^= 1;
            log.keep_snapshot(snapshot, flipped.into()).await.expect("it can be kept");
            whole.push((snapshot, bytes));
        }
        let early = count_early_reads(&log, |_| Fault::None);
        let store = node(&log).await;
        assert!(early.load(Ordering::Relaxed) >= 30, "part {part}: a snapshot was taken all the same");
        log.mend();
        assert_eq!(store.head().await.expect("it can be reached").position, Position(100));
        assert_eq!(read_all(&store).await.expect("it can be read").len(), 100);
        for (snapshot, bytes) in whole {
            log.keep_snapshot(snapshot, bytes).await.expect("it can be kept");
        }
    }
    let early = count_early_reads(&log, |_| Fault::None);
    node(&log).await;
    assert_eq!(early.load(Ordering::Relaxed), 0, "a sound one spares them");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_fetched_is_left_out() {
    let log = filled(50).await;
    let early = count_early_reads(&log, |asked| match asked {
        Asked::Snapshot(_) => Fault::Dropped,
        _ => Fault::None,
    });
    let store = node(&log).await;
    assert!(early.load(Ordering::Relaxed) >= 30);
    assert_eq!(store.head().await.expect("it can be reached").position, Position(100));
}

#[tokio::test]
async fn a_snapshot_is_due_by_the_slots_since_the_last_one_not_since_the_start() {
    let log = Arc::new(MemoryLog::default());
    for n in 0..10 {
        // Each start sees few slots, all of them together many.
        let store = node_with(&log, StorageOptions { snapshot_every: 8, ..dozing() }).await;
        ok(&store, any([numbered(n)])).await;
        store.close().await;
    }
    assert_eq!(log.snapshots().await.expect("there"), [Slot(8)]);
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
    let puts = Arc::new(AtomicUsize::new(0));
    // All have found nothing before the first of them puts something.
    let gate = Arc::new(tokio::sync::Barrier::new(8));
    let opened = (0..8).map(|_| {
        let (gate, puts) = (Arc::clone(&gate), Arc::clone(&puts));
        let seen = Intercepted::new(&log, move |asked| {
            let (gate, puts) = (Arc::clone(&gate), Arc::clone(&puts));
            async move {
                if asked == Asked::Put(Slot(0)) {
                    puts.fetch_add(1, Ordering::Relaxed);
                    gate.wait().await;
                }
            }
        });
        tokio::spawn(async move {
            node_over(seen, dozing()).await.head().await.expect("it can be reached").store_id
        })
    });
    let ids = within("all of them open it", futures_util::future::join_all(opened)).await;
    let ids: Vec<_> = ids.into_iter().map(|id| id.expect("no panic")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!((puts.load(Ordering::Relaxed), log.filled()), (8, 1));
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
