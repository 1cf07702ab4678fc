//! What is damaged is noticed, and never served or written over.

use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::Position;
use ironbus::store::{EventStore, ReadError};
use ironbus::{AppendError, EventFilter};
use ironbus_testkit::numbered;
use ironbus_zenoh::storage::{
    Batch, CommitLog, Fault, MemoryLog, Record, Slot, StorageOpenError, Trouble, ZenohStorageEventStore,
    verify,
};

use crate::support::{any, dozing, node, ok};

async fn three_slots() -> (Arc<MemoryLog>, ZenohStorageEventStore) {
    let log = Arc::new(MemoryLog::default());
    let store = node(&log).await;
    for n in 1..=3 {
        ok(&store, any([numbered(n)])).await;
    }
    (log, store)
}

async fn open(log: &Arc<MemoryLog>) -> Result<ZenohStorageEventStore, StorageOpenError> {
    ZenohStorageEventStore::open(Arc::clone(log) as _, dozing()).await
}

/// The same batch with one more bit set somewhere, or one less.
fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_wherever_it_is() {
    let (log, store) = three_slots().await;
    let whole = log.held(Slot(2)).expect("it was committed");
    for at in 0..whole.len() {
        log.damage(Slot(2), Some(flipped(&whole, at)));
        let read = store.read(Position(0), &EventFilter::everything(), 10).await;
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "byte {at}: {read:?}");
        let opened = open(&log).await.expect_err("it is damaged");
        let damaged = matches!(opened, StorageOpenError::Trouble(Trouble::Damaged { slot: Slot(2), .. }));
        assert!(damaged, "byte {at}: {opened}");
    }
    log.damage(Slot(2), Some(whole));
    assert!(open(&log).await.is_ok());
}

#[tokio::test]
async fn a_batch_that_is_sound_but_not_the_one_that_was_there_is_noticed() {
    let (log, store) = three_slots().await;
    let whole = log.held(Slot(2)).expect("it was committed");
    let mut batch = Batch::decode(Slot(2), whole).expect("it is sound");
    let Record::Events { chain, .. } = &mut batch.record else { panic!("it holds events") };
    chain[0] ^= 1;
    log.damage(Slot(2), Some(batch.encode()));
    let read = store.read(Position(1), &EventFilter::everything(), 1).await;
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
    let verified = verify(&*log).await.expect_err("its hash is wrong");
    assert!(matches!(verified, Trouble::Damaged { slot: Slot(2), fault: Fault::Chain(_) }), "{verified}");
}

#[tokio::test]
async fn a_lost_slot_is_noticed_and_not_filled_again() {
    let (log, store) = three_slots().await;
    log.damage(Slot(2), None);
    let read = store.read(Position(0), &EventFilter::everything(), 10).await;
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
    let opened = open(&log).await.expect_err("it has a hole");
    let StorageOpenError::Trouble(Trouble::Missing { missing, later }) = opened else { panic!("{opened}") };
    assert_eq!((missing, later), (Slot(2), Slot(3)));
    assert_eq!(log.held(Slot(2)), None);
    log.damage(Slot(0), None);
    let opened = open(&log).await.expect_err("no second log is begun before the rest of this one");
    assert!(
        matches!(opened, StorageOpenError::Trouble(Trouble::Missing { missing: Slot(0), .. })),
        "{opened}"
    );
}

#[tokio::test]
async fn a_node_appends_nothing_behind_what_it_cannot_read() {
    let (log, behind) = three_slots().await;
    let other = node(&log).await;
    ok(&other, any([numbered(4)])).await;
    let whole = log.held(Slot(4)).expect("it was committed");
    log.damage(Slot(4), Some(flipped(&whole, 50)));
    let refused = behind.append(any([numbered(5)])).await.expect_err("the slot before it can't be read");
    assert!(matches!(refused, AppendError::Storage(_)), "{refused}");
    assert_eq!(log.beyond(Slot(4)).await.expect("it is there"), None);
    log.damage(Slot(4), Some(whole));
    assert_eq!(ok(&behind, any([numbered(5)])).await.head, Position(5));
}

#[tokio::test]
async fn a_batch_of_another_log_is_not_taken() {
    let (log, _store) = three_slots().await;
    let (other, _other_store) = three_slots().await;
    let mut batch = Batch::decode(Slot(3), log.held(Slot(3)).expect("there")).expect("sound");
    batch.store_id = Batch::decode(Slot(0), other.held(Slot(0)).expect("there")).expect("sound").store_id;
    log.damage(Slot(3), Some(batch.encode()));
    let verified = verify(&*log).await.expect_err("it is of another log");
    assert!(matches!(verified, Trouble::Damaged { slot: Slot(3), fault: Fault::OtherLog(_) }), "{verified}");
}
