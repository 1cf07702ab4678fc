//! Opening: a log that is there, none, one that somebody has, and what isn't one.

use ironbus::event::Position;
use ironbus::store::{CHAIN_START, EventStore, chain};
use ironbus_testkit::{numbered, read_all};
use ironbus_zenoh::storage::{CommitLog, Committed, RocksLog, RocksOpenError, Slot, verify};

use crate::support::{any, contents, files, log_of_writes, node, ok, open};

#[tokio::test]
async fn a_log_is_closed_and_found_again_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut id = None;
    for round in 0..4_u64 {
        let log = open(folder.path()).await;
        let store = node(&log).await;
        let head = store.head().await.expect("it is there");
        assert_eq!(head.position, Position(round * 10));
        assert_eq!(*id.get_or_insert(head.store_id), head.store_id);
        for n in round * 10..(round + 1) * 10 {
            ok(&store, any([numbered(n)])).await;
        }
        let history = read_all(&store).await.expect("it can be read");
        let hash = history.iter().fold(CHAIN_START, |hash, event| chain(&hash, event));
        let verified = verify(&*log).await.expect("sound").expect("there");
        assert_eq!((verified.head, verified.chain), (Position((round + 1) * 10), hash));
        store.close().await;
        log.close().await;
    }
    let log = open(folder.path()).await;
    let kept = log.snapshots().await.expect("there");
    assert!(kept.len() == 2 && kept[0] > kept[1], "{kept:?}");
    assert!(log.snapshot(kept[0]).await.expect("there").is_some());
    assert_eq!(log.snapshot(Slot(3)).await.expect("there"), None);
}

#[tokio::test]
async fn a_slot_is_won_once_and_a_later_one_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    assert_eq!(log.read(Slot(0)).await.expect("there"), None);
    assert_eq!(log.beyond(Slot(0)).await.expect("there"), None);
    assert!(matches!(log.commit(Slot(0), "one".into()).await, Committed::Won));
    let second = log.commit(Slot(0), "two".into()).await;
    assert!(matches!(&second, Committed::Lost(held) if held == "one"), "{second:?}");
    assert_eq!(log.read(Slot(0)).await.expect("there").as_deref(), Some(&b"one"[..]));
    // Their numbers are in the order of the slots, also where a byte overflows.
    for slot in [256, 255, 70_000] {
        assert!(matches!(log.commit(Slot(slot), "later".into()).await, Committed::Won));
    }
    let mut found = Vec::new();
    let mut at = Slot(0);
    while let Some(later) = log.beyond(at).await.expect("there") {
        found.push(later.0);
        at = later;
    }
    assert_eq!(found, [255, 256, 70_000]);
    log.close().await;
    let log = open(folder.path()).await;
    let second = log.commit(Slot(255), "two".into()).await;
    assert!(matches!(&second, Committed::Lost(held) if held == "later"), "{second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_slot_one_wins_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    let commits = (0..200_u64).map(|n| {
        let log = log.clone();
        tokio::spawn(async move { log.commit(Slot(0), n.to_string().into()).await })
    });
    let mut winners = 0;
    for commit in futures_util::future::join_all(commits).await {
        match commit.expect("no panic") {
            Committed::Won => winners += 1,
            Committed::Lost(_) => {}
            Committed::Unknown(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_log_that_somebody_has_is_refused_and_says_who() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    let refused = RocksLog::open(folder.path()).await.expect_err("it is in use");
    let RocksOpenError::Locked { path, holder } = &refused else { panic!("{refused}") };
    assert_eq!(
        (path.as_path(), holder.as_str()),
        (folder.path(), &*format!("process {}", std::process::id()))
    );
    assert!(refused.to_string().contains(&folder.path().display().to_string()), "{refused}");
    log.close().await;
    let closed = log.read(Slot(0)).await.expect_err("it is closed");
    assert!(closed.to_string().contains("closed"), "{closed}");
    assert!(matches!(log.commit(Slot(0), "late".into()).await, Committed::Unknown(_)));
    RocksLog::open(folder.path()).await.expect("it is free again");
}

#[tokio::test]
async fn another_process_is_refused_and_so_is_who_has_only_the_database() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    let mut writer = std::process::Command::new(ironbus_testkit::example("rocks-writer"));
    let ended = writer.arg(folder.path()).args(["1", "1"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains(&format!("process {}", std::process::id())), "{said}");
    log.close().await;
    let other = rocksdb::DB::open_default(folder.path().join("db")).expect("it is a database");
    let refused = RocksLog::open(folder.path()).await.expect_err("its database is in use");
    assert!(matches!(refused, RocksOpenError::Locked { .. }), "{refused}");
    drop(other);
    RocksLog::open(folder.path()).await.expect("it is free again");
}

#[tokio::test]
async fn the_lock_is_given_back_by_the_last_handle() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    let store = node(&log).await;
    drop(log);
    RocksLog::open(folder.path()).await.expect_err("the store has it");
    store.close().await;
    drop(store);
    ironbus_testkit::within("the folder is free", async {
        while RocksLog::open(folder.path()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_folder_of_something_else_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("letter.txt"), "Dear Ann").expect("written");
    let refused = RocksLog::open(folder.path()).await.expect_err("it isn't ours");
    assert!(matches!(refused, RocksOpenError::NotOurs { .. }), "{refused}");
    assert_eq!(files(folder.path()), [std::path::PathBuf::from("letter.txt")]);
}

#[tokio::test]
async fn another_database_of_rocksdbs_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    log.close().await;
    let refused = RocksLog::open(folder.path().join("db")).await.expect_err("it has no mark");
    assert!(matches!(refused, RocksOpenError::NotOurs { .. }), "{refused}");
}

#[tokio::test]
async fn none_is_begun_unless_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for missing in [folder.path().to_owned(), folder.path().join("none")] {
        let refused = RocksLog::open_existing(&missing).await.expect_err("there is none");
        assert!(matches!(refused, RocksOpenError::NoLog { .. }), "{refused}");
    }
    assert!(files(folder.path()).is_empty() && !folder.path().join("none").exists());
    open(folder.path()).await.close().await;
    RocksLog::open_existing(folder.path()).await.expect("there is one");
}

#[tokio::test]
async fn a_log_that_lost_a_part_is_refused_and_not_begun_anew() {
    type Loss = fn(&std::path::Path) -> std::io::Result<()>;
    let losses: [(&str, Loss); 4] = [
        ("the database", |folder| std::fs::remove_dir_all(folder.join("db"))),
        ("the name of its manifest", |folder| std::fs::remove_file(folder.join("db/CURRENT"))),
        ("its log of writes", |folder| std::fs::remove_file(log_of_writes(folder))),
        ("everything but the mark", |folder| {
            std::fs::remove_dir_all(folder.join("db"))?;
            std::fs::create_dir(folder.join("db"))
        }),
    ];
    for (what, lose) in losses {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = open(folder.path()).await;
        ok(&node(&log).await, any([numbered(1)])).await;
        log.close().await;
        lose(folder.path()).expect("it can be lost");
        let before = contents(folder.path());
        let refused = RocksLog::open(folder.path()).await.expect_err("something is missing");
        assert!(matches!(refused, RocksOpenError::Damaged { .. }), "without {what}: {refused}");
        assert_eq!(contents(folder.path()), before, "without {what}");
    }
}
