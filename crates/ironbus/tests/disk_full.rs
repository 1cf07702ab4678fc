//! A disk that is really full: a small file system of the test's own.

use ironbus::store::sqlite::{OpenError, verify};
use ironbus::store::{Journal, JournalError, NewStep, Phase};
use ironbus::{
    Aggregate, Append, AppendError, EventFilter, EventStore, ExpectedVersion, Json, NewEvent, Position,
    SqliteEventStore, SqliteOptions,
};
use ironbus_testkit::disk::SmallDisk;

const VERSION_2: &[u8] = include_bytes!("fixtures/version-2.db.gz");

fn batch(number: u64) -> Append {
    let payload = Json::of(&"x".repeat(20_000)).expect("a text");
    let events = (0..5).map(|_| NewEvent::new("Filled", payload.clone())).collect();
    let aggregate = Aggregate::new("Disk", number.to_string()).expect("valid");
    Append::to(aggregate, ExpectedVersion::NoStream, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_appends_keeps_reads_and_recovers_without_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 20]).expect("written");
    let path = disk.path().join("ironbus.db");
    let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
    let mut stored = 0;
    let refused = loop {
        match store.append(batch(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::StorageFull), "{refused:?}");
    assert!(stored > 10, "the disk wasn't full from the start");
    let everything = EventFilter::everything();
    let page = store.read(Position::START, &everything, 10_000).await.expect("reads go on");
    assert_eq!(page.head, Position(stored * 5), "nothing is half written");
    // Steps go on as long as there is room for one that isn't a step back.
    let step = async |from: Phase, to: Phase| {
        let (by, reason, figures) = ("ann".into(), "x".repeat(4000), Json::empty_object());
        store.record(NewStep { from, to, by, reason, figures }).await
    };
    while step(Phase::Broadcast, Phase::Dual).await.is_ok() {
        step(Phase::Dual, Phase::Broadcast).await.expect("a step back is always recorded");
    }
    let refused = step(Phase::Broadcast, Phase::Dual).await.expect_err("the disk is full");
    assert!(matches!(refused, JournalError::StorageFull), "{refused:?}");
    assert!(refused.to_string().contains("free"), "{refused}");
    let refused = store.append(batch(stored)).await.expect_err("nobody else gets the reserve");
    assert!(matches!(refused, AppendError::StorageFull), "{refused:?}");
    std::fs::remove_file(&ballast).expect("removed");
    let appended = store.append(batch(stored)).await.expect("there is space again");
    assert_eq!(appended.head, Position((stored + 1) * 5));
    assert_eq!(store.journal(1).await.expect("readable").phase, Phase::Broadcast, "nothing is half recorded");
    store.close().await;
    let verified = verify(&path, |_, _| {}).expect("it is a log");
    assert!(verified.is_sound(), "{:?}", verified.faults);
    assert_eq!(verified.events, (stored + 1) * 5);
}

/// Fills what is left of the disk, to the last byte.
fn fill(place: &std::path::Path) {
    let mut file = std::fs::File::create(place).expect("created");
    let mut block = 1 << 20;
    while block > 0 {
        if std::io::Write::write_all(&mut file, &vec![1; block]).is_err() {
            block /= 2;
        }
    }
}

fn step(from: Phase, to: Phase) -> NewStep {
    let figures = Json::of(&"y".repeat(8000)).expect("a text");
    NewStep { from, to, by: "ann".into(), reason: "x".repeat(4000), figures }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_way_back_to_the_first_phase_is_recorded_and_nobody_else_gets_its_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.path().join("ironbus.db");
    let ballast = disk.path().join("ballast");
    let open = async || SqliteEventStore::open(SqliteOptions::new(&path)).await;
    let store = open().await.expect("opens");
    store.append(batch(0)).await.expect("there is room");
    store.record(step(Phase::Broadcast, Phase::Dual)).await.expect("there is room");
    store.record(step(Phase::Dual, Phase::Zenoh)).await.expect("there is room");
    fill(&ballast);
    let refused = store.append(batch(1)).await.expect_err("the disk is full");
    assert!(matches!(refused, AppendError::StorageFull), "{refused:?}");
    let small = Append::to(
        Aggregate::new("Disk", "small").expect("valid"),
        ExpectedVersion::Any,
        vec![NewEvent::new("Filled", Json::empty_object())],
    );
    for (from, to) in [(Phase::Zenoh, Phase::Dual), (Phase::Dual, Phase::Broadcast)] {
        // Also small ones, which would fit into what the step leaves of the reserve.
        while store.append(small.clone()).await.is_ok() {}
        store.record(step(from, to)).await.expect("a step back is always recorded");
    }
    let refused = store.record(step(Phase::Broadcast, Phase::Dual)).await.expect_err("a step forward isn't");
    assert!(matches!(refused, JournalError::StorageFull), "{refused:?}");
    std::fs::remove_file(&ballast).expect("removed");
    store.append(batch(1)).await.expect("there is room again");
    store.record(step(Phase::Broadcast, Phase::Zenoh)).await.expect("there is room again");
    let reserve = std::fs::metadata(disk.path().join("ironbus.db-reserve")).expect("it is there").len();
    assert!(reserve >= 256 << 10, "it was filled up: {reserve}");
    store.close().await;

    // Nor does it need a running server.
    fill(&ballast);
    let store = open().await.expect("opens on a full disk");
    let taken = store.record(step(Phase::Zenoh, Phase::Broadcast)).await.expect("recorded");
    assert_eq!(taken.to, Phase::Broadcast);
    store.close().await;
    std::fs::remove_file(&ballast).expect("removed");
    let verified = verify(&path, |_, _| {}).expect("it is a log");
    assert!(verified.is_sound(), "{:?}", verified.faults);
    assert_eq!((verified.phase, verified.steps), (1, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reserve_a_step_back_on_a_full_disk_says_what_to_do() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.path().join("ironbus.db");
    let store = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("opens");
    store.record(step(Phase::Broadcast, Phase::Zenoh)).await.expect("there is room");
    std::fs::remove_file(disk.path().join("ironbus.db-reserve")).expect("removed");
    fill(&disk.path().join("ballast"));
    let mut refused = Ok(());
    // What the write-ahead log has room for already is used up first.
    for (from, to) in [(Phase::Zenoh, Phase::Broadcast), (Phase::Broadcast, Phase::Zenoh)].repeat(20) {
        refused = refused.and(store.record(step(from, to)).await.map(drop));
    }
    let refused = refused.expect_err("there is no room and no reserve");
    assert!(matches!(refused, JournalError::StorageFull), "{refused:?}");
    assert!(refused.to_string().contains("free 1 MiB on the log's disk, then try again"), "{refused}");
    std::fs::remove_file(disk.path().join("ballast")).expect("removed");
    let phase = store.journal(1).await.expect("readable").phase;
    let to = if phase == Phase::Zenoh { Phase::Broadcast } else { Phase::Zenoh };
    store.record(step(phase, to)).await.expect("there is room again");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_earlier_version_on_a_full_disk_is_not_taken_for_a_damaged_one() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.path().join("ironbus.db");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(VERSION_2), &mut bytes).expect("readable");
    std::fs::write(&path, &bytes).expect("written");
    fill(&disk.path().join("ballast"));
    let refused = SqliteEventStore::open(SqliteOptions::new(&path)).await.expect_err("there is no room");
    assert!(matches!(refused, OpenError::StorageFull { .. }), "{refused:?}");
    std::fs::remove_file(disk.path().join("ballast")).expect("removed");
    SqliteEventStore::open(SqliteOptions::new(&path)).await.expect("there is room now").close().await;
}
