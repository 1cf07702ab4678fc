//! A disk that is really full: a small file system of the test's own.

use std::path::Path;
use std::process::Command;

use ironbus::store::sqlite::verify;
use ironbus::{
    Aggregate, Append, AppendError, EventFilter, EventStore, ExpectedVersion, Json, NewEvent, Position,
    SqliteEventStore, SqliteOptions,
};

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this user may not mount a small file system");
        }
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small file system is unmounted");
    }
}

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
    std::fs::remove_file(&ballast).expect("removed");
    let appended = store.append(batch(stored)).await.expect("there is space again");
    assert_eq!(appended.head, Position((stored + 1) * 5));
    store.close().await;
    let verified = verify(&path, |_, _| {}).expect("it is a log");
    assert!(verified.is_sound(), "{:?}", verified.faults);
    assert_eq!(verified.events, (stored + 1) * 5);
}
