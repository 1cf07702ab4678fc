//! A node's log goes over to another place and back while everybody appends and reads, and whoever moves it is
//! killed at every step.

mod places;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::Cursor;
use ironbus::moving::{LogPlace, MoveError, Stage, Whereabouts};
use ironbus::store::sqlite::raise_epoch;
use ironbus::store::{Append, Appended, ExpectedVersion, Journal, NewStep, Phase};
use ironbus::subscription::Delivery;
use ironbus::{AppendError, EventFilter, Json, Node, NodeOptions, Position, Start, StoredEvent};
use ironbus_testkit::check::{check_acknowledged, check_log, check_subscription};
use ironbus_testkit::{aggregate, numbered, read_all, within};
use places::{Kill, TestPlaces};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn elsewhere() -> LogPlace {
    "folder:elsewhere.db".parse().expect("an address")
}

fn step(from: Phase, to: Phase) -> NewStep {
    let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
    NewStep { from, to, by, reason, figures }
}

async fn open(data: &Path, kill: Arc<Kill>) -> Node {
    let storage = TestPlaces { data: data.to_owned(), kill };
    let options = NodeOptions { storage: Some(Arc::new(storage)), ..NodeOptions::new(data) };
    Node::open(options).await.expect("a log opens")
}

/// Appends one event, which has to be accepted.
async fn append(node: &Node, n: u64) -> Position {
    let append = Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(n)]);
    node.store().append(append).await.expect("accepted").head
}

/// Appends without end to a few aggregates; gives back what was acknowledged.
fn append_on(node: &Node, first: u64, stop: &CancellationToken) -> JoinHandle<Vec<Appended>> {
    let (store, stop) = (node.store(), stop.clone());
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in first.. {
            let to = aggregate("Counter", &(n % 7).to_string());
            let append = store.append(Append::to(to, ExpectedVersion::Any, vec![numbered(n)]));
            match stop.run_until_cancelled(append).await {
                Some(Ok(appended)) => acknowledged.push(appended),
                Some(Err(error)) => panic!("an append was refused: {error}"),
                None => break,
            }
        }
        acknowledged
    })
}

/// Reads everything from `start` on, until it has what the log holds up to `head`.
async fn read_through(node: &Node, start: Start, head: Position) -> Vec<Arc<StoredEvent>> {
    let mut events = node.store().subscribe(EventFilter::everything(), start);
    let mut seen = Vec::new();
    while events.cursor() < head {
        match within("the next event", events.next()).await.expect("the log is open").expect("readable") {
            Delivery::Event(event) => seen.push(event),
            Delivery::Reset(reason) => panic!("a reader was reset: {reason}"),
            _ => {}
        }
    }
    seen
}

/// What would be there if the process were killed now: two looks that see the same show one moment, where one alone may
/// mix what was there before a write of the mirror with what is there after it.
fn killed_now(data: &Path) -> tempfile::TempDir {
    let mut before = look(data);
    let files = loop {
        match look(data) {
            Some(now) if before.as_ref() == Some(&now) => break now,
            now => before = now,
        }
    };
    let left = tempfile::tempdir().expect("temporary files can be made");
    for (name, content) in files {
        std::fs::write(left.path().join(name), content).expect("written");
    }
    left
}

/// The files of a directory; nothing where one was renamed meanwhile.
fn look(data: &Path) -> Option<BTreeMap<OsString, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for file in std::fs::read_dir(data).expect("readable") {
        let file = file.expect("readable");
        match std::fs::read(file.path()) {
            Ok(content) => _ = files.insert(file.file_name(), content),
            Err(error) if error.kind() == ErrorKind::IsADirectory => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => panic!("{}: {error}", file.path().display()),
        }
    }
    Some(files)
}

async fn mirrored(node: &Node) {
    let mut status = node.mover().expect("it has a log").watch();
    let kept = status.wait_for(|status| {
        status.as_ref().is_some_and(|status| status.stage == Stage::Mirroring && status.copied >= status.head)
    });
    within("the log that was left to be up to date", kept).await.expect("the mover is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_there_and_back_twice_and_no_reader_and_no_writer_notices() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path(), Arc::default()).await;
    let stop = CancellationToken::new();
    let writers = [append_on(&node, 1_000_000, &stop), append_on(&node, 2_000_000, &stop)];
    let read = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (reading, seen) = (node.clone(), Arc::clone(&read));
    let reader = tokio::spawn(async move {
        let mut events = reading.store().subscribe(EventFilter::everything(), Start::Beginning);
        while let Some(next) = events.next().await {
            match next.expect("readable") {
                Delivery::Event(event) => seen.lock().push(event),
                Delivery::Reset(reason) => panic!("a reader was reset: {reason}"),
                _ => {}
            }
        }
    });
    let mover = node.mover().expect("it has a log");
    let mut pauses = Vec::new();
    for round in 1..=2 {
        let there = within("the move", mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage))).await;
        assert_eq!(there.expect("it goes").step, round * 2 - 1);
        pauses.extend(mover.last_pause());
        assert_eq!(mover.whereabouts().log, elsewhere());
        mirrored(&node).await;
        let back = mover.go(LogPlace::database(), step(Phase::ZenohStorage, Phase::Zenoh));
        assert_eq!(within("the way back", back).await.expect("it goes").step, round * 2);
        pauses.extend(mover.last_pause());
        mirrored(&node).await;
    }
    stop.cancel();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no append is refused"));
    }
    // An append that was let go of may come to be stored all the same: a last one is behind all of them.
    let last = Append::to(aggregate("Counter", "0"), ExpectedVersion::Any, vec![numbered(1)]);
    let last = node.store().append(last).await.expect("accepted");
    acknowledged.push(last.clone());
    let seen = within("the reader to be through", async {
        loop {
            tokio::task::yield_now().await;
            if read.lock().last().is_some_and(|event| event.position == last.head) {
                return std::mem::take(&mut *read.lock());
            }
        }
    });
    let seen = seen.await;
    reader.abort();
    let log = read_all(&*node.store()).await.expect("readable");
    check_log(&log).expect("contiguous");
    let acknowledged = acknowledged.iter().flat_map(|appended| &appended.events);
    check_acknowledged(acknowledged, &log).expect("everything is there");
    check_subscription(&EventFilter::everything(), Position::START, last.head, &seen, &log)
        .expect("once, in order");
    let head = node.store().head().await.expect("readable");
    assert_eq!(head.lineage.epoch().0, 5, "each move begins an epoch");
    assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(2)), "{pauses:?}");
    println!("{} events, appends waited {pauses:?}", log.len());
    let steps = node.own_log().expect("it has a log").journal(10).await.expect("readable").steps;
    assert_eq!(steps.iter().map(|step| step.to.number()).collect::<Vec<_>>(), [4, 3, 4, 3]);
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

/// A step of the log's, and where it is once that is taken.
struct Way {
    to: LogPlace,
    phases: (Phase, Phase),
    left: LogPlace,
    /// How many steps there are then.
    steps: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_next_start_goes_on_and_nothing_is_lost() {
    let phases = (Phase::Zenoh, Phase::ZenohStorage);
    let way = Way { to: elsewhere(), phases, left: LogPlace::database(), steps: 1 };
    killed_at_any_step(&way, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_the_way_back_the_next_start_goes_on_and_nothing_is_lost() {
    let phases = (Phase::ZenohStorage, Phase::Zenoh);
    let way = Way { to: "folder:back.db".parse().expect("an address"), phases, left: elsewhere(), steps: 2 };
    killed_at_any_step(&way, async |data| {
        let node = open(data, Arc::default()).await;
        append(&node, 1).await;
        let mover = node.mover().expect("it has a log");
        mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage)).await.expect("it goes");
        mirrored(&node).await;
        assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    })
    .await;
}

/// Goes this way after `before`, killed at the first step, at the second, and so on until it is there.
async fn killed_at_any_step(way: &Way, before: impl AsyncFn(&Path)) {
    for at in 1.. {
        let data = tempfile::tempdir().expect("temporary files can be made");
        before(data.path()).await;
        let kill = Kill::at(at);
        let node = open(data.path(), Arc::clone(&kill)).await;
        let stop = CancellationToken::new();
        let writers = [append_on(&node, 1_000_000, &stop), append_on(&node, 2_000_000, &stop)];
        within("some events", node.tail().reached(Position(50))).await;
        let cursor = Cursor { epoch: node.tail().epoch(), position: Position(20) };
        let (mover, to, phases) = (node.mover().expect("it has a log").clone(), way.to.clone(), way.phases);
        let there = tokio::spawn(async move { mover.go(to, step(phases.0, phases.1)).await });
        let done = async {
            tokio::select! {
                () = kill.reached() => None,
                moved = there => Some(moved.expect("no panic").expect("it goes")),
            }
        };
        let done = within("the step, or the end", done).await;
        stop.cancel();
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.expect("no append is refused"));
        }
        let left = killed_now(data.path());
        let next = open(left.path(), Arc::default()).await;
        mirrored(&next).await;
        let said = Whereabouts::read(left.path()).expect("readable").expect("it is there");
        let expected = (way.to.clone(), Some(way.left.clone()), None);
        assert_eq!((said.log, said.mirror, said.moving), expected, "step {at}");
        let log = read_all(&*next.store()).await.expect("readable");
        check_log(&log).expect("contiguous");
        check_acknowledged(acknowledged.iter().flat_map(|appended| &appended.events), &log)
            .unwrap_or_else(|error| panic!("step {at}: {error:?}"));
        let head = Position(log.len() as u64);
        let seen = read_through(&next, Start::Resume(cursor), head).await;
        check_subscription(&EventFilter::everything(), cursor.position, head, &seen, &log)
            .expect("once, in order");
        assert_eq!(append(&next, 9).await, head.next(), "step {at}");
        let steps = next.own_log().expect("it has a log").journal(10).await.expect("readable");
        assert_eq!((steps.phase, steps.taken), (way.phases.1, way.steps), "step {at}");
        assert_eq!(next.shutdown(Duration::from_secs(20)).await, [""; 0]);
        if done.is_some() {
            assert!(at > 5, "only {at} steps: the test stops nowhere");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_holds_something_else_is_refused_and_the_log_stays() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path(), Arc::default()).await;
    let other = tempfile::tempdir().expect("temporary files can be made");
    let second = Node::open(NodeOptions::new(other.path())).await.expect("a log opens");
    for (node, n) in [(&node, 1), (&second, 2)] {
        let append = Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(n)]);
        node.store().append(append).await.expect("appended");
    }
    assert_eq!(second.shutdown(Duration::from_secs(20)).await, [""; 0]);
    std::fs::copy(other.path().join("ironbus.db"), data.path().join("elsewhere.db")).expect("copied");
    let mover = node.mover().expect("it has a log");
    let refused = mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage)).await;
    assert!(
        matches!(&refused, Err(MoveError::Open(error)) if error.to_string().contains("another log")),
        "{refused:?}"
    );
    assert_eq!((mover.whereabouts(), mover.status()), (Whereabouts::usual(), None));
    let append = Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(3)]);
    node.store().append(append).await.expect("the log is where it was");
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_log_accepts_nothing_also_after_a_restart_and_answers_retries() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path(), Arc::default()).await;
    let append = |n| Append::to(aggregate("A", "1"), ExpectedVersion::Any, vec![numbered(n)]);
    let first = node.store().append(append(1)).await.expect("appended");
    let log = node.own_log().expect("it has a log").current();
    let end = log.seal("it went elsewhere").await.expect("sealed");
    assert_eq!(log.seal("once more").await.expect("sealed"), end);
    for _ in 0..2 {
        let node = if log.is_sealed().await.is_ok() {
            node.clone()
        } else {
            open(data.path(), Arc::default()).await
        };
        let refused = node.store().append(append(2)).await;
        assert!(
            matches!(&refused, Err(AppendError::Superseded { reason }) if reason == "it went elsewhere"),
            "{refused:?}"
        );
        assert_eq!(node.store().append(append(1)).await.expect("a retry"), first);
        let log = node.own_log().expect("it has a log").current();
        assert!(log.is_sealed().await.expect("readable"));
        assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_log_that_went_on_elsewhere_is_refused_as_a_place_and_no_reader_hears_of_it() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let node = open(data.path(), Arc::default()).await;
    append(&node, 1).await;
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    let other = data.path().join("elsewhere.db");
    std::fs::copy(data.path().join("ironbus.db"), &other).expect("copied");
    raise_epoch(&other).expect("an operator's copy");

    let node = open(data.path(), Arc::default()).await;
    let mut events = node.store().subscribe(EventFilter::everything(), Start::Live);
    let mover = node.mover().expect("it has a log");
    let refused = mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage)).await;
    let says = |error: &MoveError| error.to_string().contains("accepts appends itself");
    assert!(refused.as_ref().is_err_and(says), "{refused:?}");
    assert_eq!(append(&node, 2).await, Position(2));
    let heard = within("the next event", events.next_event()).await.expect("open").expect("readable");
    assert_eq!((heard.position, node.tail().epoch().0), (Position(2), 1));
    assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_place_that_is_away_is_shown_and_can_be_cancelled() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let kill = Kill::at(3);
    let node = open(data.path(), Arc::clone(&kill)).await;
    append(&node, 1).await;
    let mover = node.mover().expect("it has a log").clone();
    let going =
        tokio::spawn(async move { mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage)).await });
    within("the kill", kill.reached()).await;
    let left = killed_now(data.path());
    going.abort();

    let away = Arc::<Kill>::default();
    away.away(true);
    let next = open(left.path(), Arc::clone(&away)).await;
    let mover = next.mover().expect("it has a log");
    let mut status = mover.watch();
    let shown = status.wait_for(|status| status.as_ref().is_some_and(|status| status.trouble.is_some()));
    let shown = within("the trouble to be shown", shown).await.expect("the mover is there").clone();
    assert!(shown.and_then(|status| status.trouble).is_some_and(|trouble| trouble.contains("it is away")));
    append(&next, 2).await;
    assert!(mover.cancel(), "it is still copying");
    let ended = status.wait_for(Option::is_none);
    within("the move to end", ended).await.expect("the mover is there");
    assert!(!mover.cancel(), "there is none any more");
    assert_eq!(mover.whereabouts(), Whereabouts::usual());
    append(&next, 3).await;
    away.away(false);
    mover
        .go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage))
        .await
        .expect("it goes on from what was copied");
    assert_eq!(next.shutdown(Duration::from_secs(20)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_where_the_log_is_cannot_be_written_down_the_next_start_finds_it() {
    let data = tempfile::tempdir().expect("temporary files can be made");
    let kill = Arc::<Kill>::default();
    let node = open(data.path(), Arc::clone(&kill)).await;
    append(&node, 1).await;
    kill.block(data.path().join("log.json.new"));
    let mover = node.mover().expect("it has a log");
    mover.go(elsewhere(), step(Phase::Zenoh, Phase::ZenohStorage)).await.expect("it goes");
    let head = append(&node, 2).await;
    let mut status = mover.watch();
    let shown = status.wait_for(|status| status.as_ref().is_some_and(|status| status.trouble.is_some()));
    within("the trouble to be shown", shown).await.expect("the mover is there");
    let left = killed_now(data.path());
    let said = Whereabouts::read(left.path()).expect("readable").expect("it is there");
    assert_eq!((said.log, said.moving.is_some()), (LogPlace::database(), true), "it couldn't be written");
    let next = open(left.path(), Arc::default()).await;
    assert_eq!(next.mover().expect("it has a log").whereabouts().log, elsewhere());
    assert_eq!(next.store().head().await.expect("readable").position, head);
    assert_eq!(append(&next, 3).await, head.next());
    for node in [node, next] {
        assert_eq!(node.shutdown(Duration::from_secs(20)).await, [""; 0]);
    }
}
