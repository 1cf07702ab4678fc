//! What is damaged is noticed, and never served or written over.

use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::{Json, NewEvent, Position, StoredEvent};
use ironbus::store::{ChainHash, EventStore, ReadError};
use ironbus::{AppendError, EventFilter};
use ironbus_testkit::numbered;
use ironbus_zenoh::storage::{
    Batch, CommitLog, Fault, MemoryLog, Record, Slot, StorageOpenError, StorageOptions, Trouble,
    ZenohStorageEventStore, verify,
};

use crate::support::{any, dozing, node, node_with, ok};

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

/// The same event once more, to be altered.
fn another(event: &StoredEvent) -> StoredEvent {
    let same = NewEvent {
        event_id: None,
        event_type: event.event_type.clone(),
        schema_version: event.schema_version,
        payload: event.payload.clone(),
        metadata: event.metadata.clone(),
        session_id: event.session_id.clone(),
    };
    let (id, aggregate) = (event.event_id, event.aggregate.clone());
    same.into_stored(id, aggregate, event.sequence, event.position, event.recorded_at)
}

#[tokio::test]
async fn a_batch_that_is_sound_but_not_the_one_that_was_there_is_noticed() {
    let (log, store) = three_slots().await;
    let whole = log.held(Slot(2)).expect("it was committed");
    let sound = Batch::decode(Slot(2), whole).expect("it is sound");
    let alter = |alter: &dyn Fn(&mut ChainHash, &mut ChainHash, &mut StoredEvent)| {
        let mut batch = sound.clone();
        let Record::Events { previous, chain, events } = &mut batch.record else { panic!("it holds events") };
        let mut event = another(&events[0]);
        alter(previous, chain, &mut event);
        events[0] = Arc::new(event);
        batch
    };
    let altered = [
        ("its hash", alter(&|_, chain, _| chain[0] ^= 1)),
        ("the hash before it", alter(&|previous, _, _| previous[0] ^= 1)),
        ("a payload", alter(&|_, _, event| event.payload = Json::parse("{\"n\":4}").expect("valid JSON"))),
        ("a time", alter(&|_, _, event| event.recorded_at += std::time::Duration::from_secs(1))),
        ("a type", alter(&|_, _, event| event.event_type = "Other".into())),
    ];
    for (what, batch) in altered {
        log.damage(Slot(2), Some(batch.encode()));
        let read = store.read(Position(1), &EventFilter::everything(), 1).await;
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "{what}: {read:?}");
        let verified = verify(&*log).await.expect_err("its hash is wrong");
        let noticed = matches!(verified, Trouble::Damaged { slot: Slot(2), fault: Fault::Chain(_) });
        assert!(noticed, "{what}: {verified}");
    }
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
    // A node that has folded it goes on at the end.
    assert_eq!(ok(&store, any([numbered(4)])).await.head, Position(4));
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

/// A running node asks for no slot beyond the next, so one that is lost before it has folded it is filled; but nothing
/// further is put, because what follows doesn't.
#[tokio::test]
async fn a_slot_that_is_lost_before_a_node_has_folded_it_is_noticed_at_its_next_look() {
    let log = Arc::new(MemoryLog::default());
    let behind = node(&log).await;
    let ahead = node(&log).await;
    for n in 1..=3 {
        ok(&ahead, any([numbered(n)])).await;
    }
    log.damage(Slot(1), None);
    ok(&behind, any([numbered(9)])).await;
    let looked = behind.catch_up().await.expect_err("the second slot doesn't follow");
    assert!(matches!(looked, ReadError::Damaged { .. }), "{looked}");
    let refused = behind.append(any([numbered(10)])).await.expect_err("nothing is put behind it");
    assert!(matches!(refused, AppendError::Storage(_)), "{refused}");
    assert_eq!(log.filled(), 4);
}

#[tokio::test]
async fn a_snapshot_is_not_gone_on_from_unless_the_slot_before_it_is_the_last_of_it() {
    let log = Arc::new(MemoryLog::default());
    let store = node_with(&log, StorageOptions { snapshot_every: 4, ..dozing() }).await;
    for n in 1..=4 {
        ok(&store, any([numbered(n)])).await;
    }
    store.close().await;
    let latest = log.snapshots().await.expect("there")[0];
    let last = Slot(latest.0 - 1);
    let mut batch = Batch::decode(last, log.held(last).expect("there")).expect("sound");
    // The hash is as it was; the event isn't.
    let Record::Events { events, .. } = &mut batch.record else { panic!("it holds events") };
    let mut event = another(&events[0]);
    event.event_type = "Other".into();
    events[0] = Arc::new(event);
    log.damage(last, Some(batch.encode()));
    let opened = open(&log).await.expect_err("its last slot is another");
    let damaged = matches!(opened, StorageOpenError::Trouble(Trouble::Damaged { slot, .. }) if slot == last);
    assert!(damaged, "{opened}");
}
