//! A disk that is really full: a small file system of the test's own.

use ironbus::event::Position;
use ironbus::store::{AppendError, EventStore};
use ironbus::{Json, NewEvent};
use ironbus_testkit::disk::SmallDisk;
use ironbus_testkit::{numbered_id, read_all};
use ironbus_zenoh::storage::{StorageOptions, ZenohStorageEventStore, verify};

use crate::support::{any, open, uncached};

fn large(n: u64) -> NewEvent {
    NewEvent::new("Filled", Json::of(&"x".repeat(100_000)).expect("a text")).with_id(numbered_id(n))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_reads_and_appends_go_on_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 14 << 20]).expect("written");
    let folder = disk.path().join("log");
    let log = open(&folder).await;
    // Longer than RocksDB takes to be opened anew, for which reads wait too, on a slow machine.
    let options = StorageOptions { patience: std::time::Duration::from_secs(3), ..uncached() };
    let store = ZenohStorageEventStore::open(log.clone(), options).await.expect("there is space");
    let mut stored = 0;
    let refused = loop {
        match store.append(any([large(stored)])).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 10, "the disk wasn't full from the start");
    assert!(matches!(refused, AppendError::Unknown(_)), "{refused}");
    assert!(
        refused.to_string().contains("No space left") || refused.to_string().contains("free"),
        "{refused}"
    );
    let history = read_all(&store).await.expect("reads go on");
    assert_eq!(history.len() as u64, stored);
    std::fs::remove_file(&ballast).expect("removed");
    let appended = store.append(any([large(stored)])).await.expect("there is space again");
    assert_eq!(appended.head, Position(stored + 1));
    store.close().await;
    log.close().await;
    let log = open(&folder).await;
    let verified = verify(&*log).await.expect("sound").expect("there");
    assert_eq!(verified.head, Position(stored + 1));
}
