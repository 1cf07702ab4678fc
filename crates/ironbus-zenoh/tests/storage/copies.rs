//! Copies in the making, also of logs that were left: what they accept, and when they are opened.

use std::sync::Arc;

use futures_util::FutureExt;
use ironbus::event::{Cursor, Epoch, Position};
use ironbus::store::{AppendError, CopyFailure, CopyOf, EpochStart, EventStore, Lineage, Log, ReadError};
use ironbus::{EventFilter, Start};
use ironbus_testkit::{numbered, read_all, within};
use ironbus_zenoh::storage::{MemoryLog, StorageOpenError, StorageOptions, ZenohStorageEventStore, verify};

use crate::support::{any, dozing, node, node_with, ok};

async fn of(store: &ZenohStorageEventStore) -> CopyOf {
    let head = store.head().await.expect("it can be reached");
    CopyOf { store_id: head.store_id, lineage: head.lineage }
}

async fn copy_in(log: &Arc<MemoryLog>, of: CopyOf) -> ZenohStorageEventStore {
    node_with(log, StorageOptions { copy_of: Some(of), ..dozing() }).await
}

/// A log of so many events, and a whole copy of it that isn't open.
async fn copied(events: u64) -> (ZenohStorageEventStore, Arc<MemoryLog>, ZenohStorageEventStore) {
    let source = node(&Arc::new(MemoryLog::default())).await;
    for n in 1..=events {
        ok(&source, any([numbered(n)])).await;
    }
    let log = Arc::new(MemoryLog::default());
    let copy = copy_in(&log, of(&source).await).await;
    copy.copy(read_all(&source).await.expect("readable")).await.expect("it follows");
    (source, log, copy)
}

fn not_a_copy(failure: &CopyFailure) -> bool {
    matches!(failure, CopyFailure::NotACopy { .. })
}

#[tokio::test]
async fn a_log_that_was_left_becomes_a_copy_and_takes_over_again() {
    let home = Arc::new(MemoryLog::default());
    let first = node(&home).await;
    // Another node of it, whose readers see all of it through.
    let bystander = node(&home).await;
    let mut reader = bystander.subscribe(EventFilter::everything(), Start::Beginning);
    ok(&first, any([numbered(1)])).await;
    let away = Arc::new(MemoryLog::default());
    let second = copy_in(&away, of(&first).await).await;
    let end = first.seal_epoch(Epoch(1), "it went over").await.expect("nothing is in the way");
    second.copy(read_all(&first).await.expect("readable")).await.expect("it follows");
    second.open_copy(end, "it came").await.expect("it is whole");
    assert_eq!(second.epoch_began().as_deref(), Some("it came"));
    ok(&second, any([numbered(2), numbered(3)])).await;
    // The way back.
    first.follow(of(&second).await.lineage).await.expect("it was sealed");
    assert!(first.is_sealed().await.expect("readable"), "it accepts nothing as long as it is a copy");
    let refused = first.append(any([numbered(9)])).await.expect_err("it isn't open");
    assert!(matches!(&refused, AppendError::Superseded { reason } if reason == "it went over"), "{refused}");
    let all = read_all(&second).await.expect("readable");
    first.copy(all.clone()).await.expect("the first of it is known, the rest follows");
    bystander.catch_up().await.expect("it can be reached");
    assert_eq!(
        read_all(&bystander).await.expect("readable").len(),
        1,
        "what is copied isn't read before it opens"
    );
    let end = second.seal_epoch(Epoch(2), "it went back").await.expect("nothing is in the way");
    let opened = first.open_copy(end, "it came back").await.expect("it is whole");
    assert_eq!((opened.epoch, opened.head, opened.chain), (Epoch(3), end.head, end.chain));
    let starts: Vec<_> = of(&first).await.lineage.starts().iter().map(|s| (s.epoch.0, s.after.0)).collect();
    assert_eq!(starts, [(1, 0), (2, 1), (3, 3)]);
    ok(&first, any([numbered(4)])).await;
    bystander.catch_up().await.expect("it can be reached");
    for position in 1..=4 {
        let event = within("the next event", reader.next_event()).await.expect("open").expect("readable");
        assert_eq!(event.position, Position(position));
    }
    assert_eq!(reader.epoch(), Epoch(3));
    let cursor = Cursor { epoch: Epoch(2), position: Position(2) };
    let mut resumed = bystander.subscribe(EventFilter::everything(), Start::Resume(cursor));
    let event = within("the next event", resumed.next_event()).await.expect("open").expect("readable");
    assert_eq!(event.position, Position(3));
    let verified = verify(&*home).await.expect("sound").expect("there");
    assert_eq!((verified.head, verified.epoch), (Position(4), Epoch(3)));
}

#[tokio::test]
async fn a_tail_that_was_given_hears_of_a_copy_when_that_is_opened_and_outlives_it() {
    let source = node(&Arc::new(MemoryLog::default())).await;
    ok(&source, any([numbered(1)])).await;
    let options = StorageOptions {
        copy_of: Some(of(&source).await),
        tail: Some(Arc::clone(source.tail())),
        ..dozing()
    };
    let copy = node_with(&Arc::new(MemoryLog::default()), options).await;
    copy.copy(read_all(&source).await.expect("readable")).await.expect("it follows");
    assert_eq!(source.tail().epoch(), Epoch(1));
    let end = source.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    copy.open_copy(end, "").await.expect("it is whole");
    assert_eq!((source.tail().epoch(), source.tail().head()), (Epoch(2), Position(1)));
    ok(&copy, any([numbered(2)])).await;
    let mut reader = copy.subscribe(EventFilter::everything(), Start::Beginning);
    for position in 1..=2 {
        let event = within("the next event", reader.next_event()).await.expect("open").expect("readable");
        assert_eq!(event.position, Position(position));
    }
    copy.close().await;
    assert!(matches!(copy.catch_up().await, Err(ReadError::Closed)));
    // The tail goes on with whoever feeds it next.
    assert!(reader.next_event().now_or_never().is_none(), "its readers wait for that");
}

#[tokio::test]
async fn a_copy_is_opened_only_by_comparison() {
    let (source, _, copy) = copied(2).await;
    let refused = copy.raise_epoch(Epoch(9), "").await.expect_err("nobody compared it");
    assert!(matches!(refused, AppendError::Superseded { .. }), "{refused}");
    ok(&source, any([numbered(3)])).await;
    let end = source.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    let failure = copy.open_copy(end, "").await.expect_err("the third is missing");
    assert!(not_a_copy(&failure), "{failure}");
    let refused = copy.append(any([numbered(4)])).await.expect_err("it isn't open");
    assert!(matches!(refused, AppendError::Superseded { .. }), "{refused}");
    copy.copy(read_all(&source).await.expect("readable")).await.expect("it follows");
    copy.open_copy(end, "").await.expect("it is whole");
}

#[tokio::test]
async fn a_log_that_was_never_the_copy_is_not_taken_for_it() {
    let (source, _, _) = copied(2).await;
    let end = source.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    // Another log, in a later epoch and longer.
    let log = Arc::new(MemoryLog::default());
    let other = node(&log).await;
    other.raise_epoch(Epoch(2), "").await.expect("nothing is in the way");
    for n in 11..=13 {
        ok(&other, any([numbered(n)])).await;
    }
    let options = StorageOptions { copy_of: Some(of(&source).await), ..dozing() };
    let opened = ZenohStorageEventStore::open(Arc::clone(&log) as _, options).await;
    assert!(matches!(opened, Err(StorageOpenError::OtherLog { .. })), "{opened:?}");
    let failure = other.open_copy(end, "").await.expect_err("it never was a copy");
    assert!(not_a_copy(&failure), "{failure}");
    let failure = other.copy(read_all(&source).await.expect("readable")).await.expect_err("they are others");
    assert!(not_a_copy(&failure), "{failure}");
}

#[tokio::test]
async fn a_copy_whose_epochs_are_not_those_of_the_log_is_not_opened() {
    let source = node(&Arc::new(MemoryLog::default())).await;
    ok(&source, any([numbered(1)])).await;
    let before = of(&source).await;
    source.raise_epoch(Epoch(2), "").await.expect("nothing is in the way");
    let copy = copy_in(&Arc::new(MemoryLog::default()), before).await;
    copy.copy(read_all(&source).await.expect("readable")).await.expect("it follows");
    let end = source.seal_epoch(Epoch(2), "").await.expect("nothing is in the way");
    let failure = copy.open_copy(end, "").await.expect_err("it knows nothing of the second epoch");
    assert!(matches!(failure, CopyFailure::Storage { .. }), "it may yet: {failure}");
    copy.follow(of(&source).await.lineage).await.expect("they go on from its own");
    assert_eq!(copy.open_copy(end, "").await.expect("it is whole").epoch, Epoch(3));
    // One that is ahead of it.
    let (source, _, copy) = copied(1).await;
    let start = |epoch, after| EpochStart { epoch: Epoch(epoch), after: Position(after) };
    let ahead = Lineage::new(vec![start(1, 0), start(4, 1)]).expect("ascending");
    copy.follow(ahead).await.expect("they go on from its own");
    let end = source.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    let failure = copy.open_copy(end, "").await.expect_err("it follows another");
    assert!(not_a_copy(&failure), "{failure}");
    assert!(copy.is_sealed().await.expect("readable"), "it stays closed");
}

/// What is put into a slot stays there, so nothing wrong may ever be put.
#[tokio::test]
async fn whatever_a_copy_is_told_the_log_stays_sound() {
    let (source, log, copy) = copied(1).await;
    for n in 2..=3 {
        ok(&source, any([numbered(n)])).await;
    }
    let all = read_all(&source).await.expect("readable");
    let failure =
        copy.copy(vec![Arc::clone(&all[1]), Arc::clone(&all[1])]).await.expect_err("it stands twice");
    assert!(matches!(failure, CopyFailure::Storage { .. }), "{failure}");
    let mut holed = all.clone();
    holed.remove(1);
    copy.copy(holed).await.expect_err("the second is missing");
    // A copy accepts nothing, so to seal it changes nothing; and it goes on.
    copy.seal_epoch(Epoch(1), "").await.expect("nothing to do");
    copy.copy(all).await.expect("it follows");
    let start = |epoch, after| EpochStart { epoch: Epoch(epoch), after: Position(after) };
    let beyond = Lineage::new(vec![start(1, 0), start(4, 10)]).expect("ascending");
    copy.follow(beyond).await.expect("they go on from its own");
    copy.raise_epoch(Epoch(9), "").await.expect_err("it would begin before the epoch ahead of it");
    let end =
        ironbus::store::LogEnd { epoch: Epoch(4), ..copy.seal_epoch(Epoch(4), "").await.expect("its end") };
    copy.open_copy(end, "").await.expect_err("it would begin before the epoch ahead of it");
    assert_eq!(verify(&*log).await.expect("sound").expect("there").head, Position(3));
    assert_eq!(node(&log).await.head().await.expect("it can be opened").position, Position(3));
}

#[tokio::test]
async fn a_log_that_accepts_appends_is_no_copy_and_does_not_become_one() {
    let store = node(&Arc::new(MemoryLog::default())).await;
    ok(&store, any([numbered(1)])).await;
    let lineage = of(&store).await.lineage;
    assert!(not_a_copy(&store.follow(lineage.clone()).await.expect_err("it is open")));
    let event = read_all(&store).await.expect("readable");
    assert!(store.copy(event).await.is_ok(), "it has that");
    store.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    assert!(not_a_copy(&store.follow(lineage).await.expect_err("nobody has gone on from it")));
}
