//! Sealing a log, and beginning its next epoch.

use std::sync::Arc;

use ironbus::event::{Cursor, Epoch, Position};
use ironbus::store::{AppendError, CopyFailure, CopyOf, EventStore};
use ironbus::{EventFilter, Start};
use ironbus_testkit::{numbered, read_all, within};
use ironbus_zenoh::storage::{MemoryLog, StorageOptions, verify};

use crate::support::{any, dozing, node, node_with, ok};

#[tokio::test]
async fn a_sealed_log_accepts_nothing_on_any_node_but_answers_retries() {
    let log = Arc::new(MemoryLog::default());
    let (one, two) = (node(&log).await, node(&log).await);
    let first = ok(&one, any([numbered(1)])).await;
    let sealed = one.seal_epoch(Epoch(1), "it went over").await.expect("nothing is in the way");
    assert_eq!((sealed.epoch, sealed.head), (Epoch(1), Position(1)));
    assert_eq!(two.seal_epoch(Epoch(1), "").await.expect("it is sealed"), sealed, "once");
    for store in [&one, &two] {
        let refused = store.append(any([numbered(2)])).await.expect_err("it is sealed");
        assert!(
            matches!(&refused, AppendError::Superseded { reason } if reason == "it went over"),
            "{refused}"
        );
        assert_eq!(ok(store, any([numbered(1)])).await, first);
    }
    let verified = verify(&*log).await.expect("it is sound").expect("there is one");
    assert_eq!((verified.head, verified.chain, verified.sealed), (sealed.head, sealed.chain, true));
}

#[tokio::test]
async fn a_later_epoch_opens_the_log_and_keeps_every_cursor_up_to_it() {
    let log = Arc::new(MemoryLog::default());
    let (one, two) = (node(&log).await, node(&log).await);
    ok(&one, any([numbered(1), numbered(2)])).await;
    one.seal_epoch(Epoch(1), "it went over").await.expect("nothing is in the way");
    let begun = one.raise_epoch(Epoch(3), "a test").await.expect("nothing is in the way");
    assert_eq!((begun.epoch, begun.head), (Epoch(3), Position(2)));
    assert_eq!(two.raise_epoch(Epoch(2), "").await.expect("a later one is in force").epoch, Epoch(3));
    assert_eq!(ok(&two, any([numbered(3)])).await.head, Position(3));
    let lineage = two.head().await.expect("it can be reached").lineage;
    assert_eq!(lineage.starts().iter().map(|s| (s.epoch.0, s.after.0)).collect::<Vec<_>>(), [(1, 0), (3, 2)]);
    let start = Start::Resume(Cursor { epoch: Epoch(1), position: Position(2) });
    let mut reader = two.subscribe(EventFilter::everything(), start);
    let event = within("the event of the later epoch", reader.next_event()).await;
    assert_eq!(event.expect("open").expect("readable").position, Position(3));
}

#[tokio::test]
async fn a_log_is_gone_over_to_once_it_holds_all_that_was_sealed() {
    let (from, to) = (Arc::new(MemoryLog::default()), Arc::new(MemoryLog::default()));
    let source = node(&from).await;
    ok(&source, any([numbered(1), numbered(2)])).await;
    let head = source.head().await.expect("it can be reached");
    let of = CopyOf { store_id: head.store_id, lineage: head.lineage };
    let options = StorageOptions { copy_of: Some(of), ..dozing() };
    let target = node_with(&to, options).await;
    target.copy(read_all(&source).await.expect("it can be read")).await.expect("it is a copy");
    let refused = target.append(any([numbered(9)])).await.expect_err("it isn't open");
    assert!(matches!(refused, AppendError::Superseded { .. }), "{refused}");
    ok(&source, any([numbered(3)])).await;
    let sealed = source.seal_epoch(Epoch(1), "").await.expect("nothing is in the way");
    let short = target.open_copy(sealed, "a test").await.expect_err("the third is missing");
    assert!(matches!(short, CopyFailure::NotACopy { .. }), "{short}");
    let all = read_all(&source).await.expect("it can be read");
    let copied = target.copy(Vec::from([Arc::clone(&all[2])])).await.expect("it follows");
    assert_eq!((copied.head, copied.chain), (sealed.head, sealed.chain));
    target.copy(all.clone()).await.expect("again, which changes nothing");
    let opened = target.open_copy(sealed, "a test").await.expect("it is whole");
    assert_eq!((opened.epoch, opened.head), (Epoch(2), Position(3)));
    assert_eq!(target.open_copy(sealed, "a test").await.expect("it is open"), opened);
    assert_eq!(read_all(&target).await.expect("it can be read"), all, "with the same times");
    assert_eq!(target.head().await.expect("there").store_id, head.store_id);
    assert_eq!(ok(&target, any([numbered(2)])).await.head, Position(2), "a retry finds the first result");
    assert_eq!(ok(&target, any([numbered(4)])).await.head, Position(4));
    target.copy(all).await.expect("nothing of it is new");
    let late = read_all(&target).await.expect("it can be read");
    assert_eq!(late.len(), 4);
}

#[tokio::test]
async fn a_reader_lives_through_a_change_of_epochs() {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    let mut reader = store.subscribe(EventFilter::everything(), Start::Beginning);
    for (n, epoch) in [(1, 1), (2, 2), (3, 3)] {
        store.raise_epoch(Epoch(epoch), "").await.expect("nothing is in the way");
        ok(&store, any([numbered(n)])).await;
        let event = within("the event", reader.next_event()).await.expect("open").expect("readable");
        assert_eq!((event.position, reader.epoch()), (Position(n), Epoch(epoch)));
    }
}
