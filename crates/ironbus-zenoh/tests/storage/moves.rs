//! A node's log goes from SQLite to a folder of slots and back while everybody appends and reads.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::Position;
use ironbus::moving::{LogPlace, MoveError, Stage, Whereabouts};
use ironbus::store::{Append, Appended, ExpectedVersion, Journal, Log, NewStep, Phase};
use ironbus::subscription::Delivery;
use ironbus::{EventFilter, Json, Node, NodeOptions, Start};
use ironbus_testkit::check::{check_acknowledged, check_log, check_subscription};
use ironbus_testkit::{aggregate, numbered, read_all, within};
use ironbus_zenoh::storage::{ObjectLog, StorageOptions, StoragePlaces, verify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn slots() -> LogPlace {
    "folder:slots".parse().expect("an address")
}

fn step(from: Phase, to: Phase) -> NewStep {
    let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
    NewStep { from, to, by, reason, figures }
}

async fn open(data: &Path) -> Node {
    let storage = StoragePlaces { data: data.to_owned(), options: StorageOptions::default() };
    let options = NodeOptions { storage: Some(Arc::new(storage)), ..NodeOptions::new(data) };
    Node::open(options).await.expect("a log opens")
}

fn append_on(node: &Node, first: u64, stop: &CancellationToken) -> JoinHandle<Vec<Appended>> {
    let (store, stop) = (node.store(), stop.clone());
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in first.. {
            if stop.is_cancelled() {
                break;
            }
            let to = aggregate("Counter", &(n % 7).to_string());
            let appended = store.append(Append::to(to, ExpectedVersion::Any, vec![numbered(n)])).await;
            acknowledged.push(appended.unwrap_or_else(|error| panic!("an append was refused: {error}")));
        }
        acknowledged
    })
}

/// Waits until the log that was left has all up to `head` too.
async fn mirrored(node: &Node, head: Position) {
    let mut status = node.mover().expect("it has a log").watch();
    let kept = status.wait_for(|status| {
        status.as_ref().is_some_and(|status| status.stage == Stage::Mirroring && status.copied >= head.0)
    });
    within("the log that was left to be up to date", kept).await.expect("the mover is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_to_a_folder_and_back_and_there_again_and_nobody_notices() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path()).await;
    let stop = CancellationToken::new();
    let writers = [append_on(&node, 1_000_000, &stop), append_on(&node, 2_000_000, &stop)];
    let mut events = node.store().subscribe(EventFilter::everything(), Start::Beginning);
    let (through, mut known) = tokio::sync::watch::channel(Position::START);
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(next) = events.next().await {
            match next.expect("readable") {
                Delivery::Event(event) => {
                    through.send_replace(event.position);
                    seen.push(event);
                }
                Delivery::Reset(reason) => panic!("a reader was reset: {reason}"),
                _ => {}
            }
        }
        seen
    });
    let mover = node.mover().expect("it has a log");
    let ways = [
        (slots(), Phase::Zenoh, Phase::ZenohStorage),
        (LogPlace::database(), Phase::ZenohStorage, Phase::Zenoh),
    ];
    let mut pauses = Vec::new();
    for (n, (to, from_phase, to_phase)) in ways.iter().chain(&ways[..1]).enumerate() {
        within("some events", node.tail().reached(Position(node.tail().head().0 + 50))).await;
        let moved = within("the move", mover.go(to.clone(), step(*from_phase, *to_phase))).await;
        assert_eq!(moved.expect("it goes").step, n as u64 + 1);
        assert_eq!(mover.whereabouts().log, *to);
        pauses.extend(mover.last_pause());
        mirrored(&node, node.tail().head()).await;
    }
    stop.cancel();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no append is refused"));
    }
    let head = acknowledged.iter().map(|appended| appended.head).max().expect("some");
    within("the reader to be through", known.wait_for(|at| *at >= head)).await.expect("it reads on");
    let log = read_all(&*node.store()).await.expect("readable");
    check_log(&log).expect("contiguous");
    assert_eq!(log.len(), acknowledged.len(), "each once");
    let places = acknowledged.iter().flat_map(|appended| &appended.events);
    check_acknowledged(places, &log).expect("everything is there");
    assert_eq!(
        node.store().head().await.expect("readable").lineage.epoch().0,
        4,
        "each move begins an epoch"
    );
    let own = node.own_log().expect("it has a log");
    let steps = own.journal(10).await.expect("readable").steps;
    assert_eq!(steps.iter().map(|step| step.to.number()).collect::<Vec<_>>(), [4, 3, 4]);
    println!("{} events, appends waited {pauses:?}", log.len());
    mirrored(&node, head).await;
    let chain = own.current().chain_at(head).await.expect("readable");
    assert!(own.current().is_shared() && own.path() == Some(data.path().join("slots")));
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    let seen = reader.await.expect("no panic");
    check_subscription(&EventFilter::everything(), Position::START, head, &seen, &log)
        .expect("once, in order");
    // What lies in both places is the same.
    let objects = ObjectLog::open_folder(&data.path().join("slots")).await.expect("a folder can hold a log");
    let verified = verify(&objects).await.expect("sound").expect("there");
    assert_eq!((verified.head, Some(verified.chain)), (head, chain));
    let left = ironbus::SqliteEventStore::open(ironbus::SqliteOptions::new(data.path().join("ironbus.db")));
    let left = left.await.expect("it opens");
    assert_eq!(left.chain_at(head).await.expect("readable"), chain);
    assert!(left.is_sealed().await.expect("readable"));
    left.close().await;
    // And the next start finds it.
    let node = open(data.path()).await;
    let said = Whereabouts::read(data.path()).expect("readable").expect("it is there");
    assert_eq!((said.log, said.mirror), (slots(), Some(LogPlace::database())));
    let append = Append::to(aggregate("Counter", "0"), ExpectedVersion::Any, vec![numbered(9)]);
    assert_eq!(node.store().append(append).await.expect("accepted").head, head.next());
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

#[tokio::test]
async fn a_place_that_this_build_cannot_open_is_refused_and_says_why() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path()).await;
    let mover = node.mover().expect("it has a log");
    let mut places = vec![("rocksdb:rocks", "no RocksDB")];
    if cfg!(not(feature = "s3")) {
        places.push(("s3://bucket/log", "no S3"));
    }
    for (place, why) in places {
        let refused =
            mover.go(place.parse().expect("an address"), step(Phase::Zenoh, Phase::ZenohStorage)).await;
        assert!(
            matches!(&refused, Err(MoveError::Open(error)) if error.to_string().contains(why)),
            "{refused:?}"
        );
    }
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

#[tokio::test]
async fn a_folder_that_holds_another_log_is_refused_and_the_log_stays() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let other = tempfile::tempdir().expect("temporary files can be made");
    let append = |n| Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(n)]);
    let second = open(other.path()).await;
    second.store().append(append(1)).await.expect("appended");
    let mover = second.mover().expect("it has a log");
    let there = LogPlace::to_string(&slots());
    let elsewhere = there.replace("slots", &data.path().join("slots").display().to_string());
    let elsewhere: LogPlace = elsewhere.parse().expect("an address");
    within("the move", mover.go(elsewhere, step(Phase::Zenoh, Phase::ZenohStorage))).await.expect("it goes");
    assert_eq!(second.shutdown(Duration::from_secs(20)).await, [""; 0]);
    let node = open(data.path()).await;
    node.store().append(append(2)).await.expect("appended");
    let mover = node.mover().expect("it has a log");
    let refused = mover.go(slots(), step(Phase::Zenoh, Phase::ZenohStorage)).await;
    assert!(
        matches!(&refused, Err(MoveError::Open(error)) if error.to_string().contains("no copy of")),
        "{refused:?}"
    );
    node.store().append(append(3)).await.expect("the log is where it was");
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}
