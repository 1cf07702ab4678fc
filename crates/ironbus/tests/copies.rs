//! Copies of a log: made beside its writer, continued, refused where they aren't of the log, and restored.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ironbus::Json;
use ironbus::event::{Cursor, Epoch, Position};
use ironbus::key::EventFilter;
use ironbus::migration::{Journal, NewStep, Phase};
use ironbus::store::sqlite::{CopyError, back_up, raise_epoch, restore, verify};
use ironbus::store::{Append, EventStore, ExpectedVersion, SqliteEventStore, SqliteOptions};
use ironbus::subscription::{Delivery, Start};
use ironbus_testkit::{aggregate, numbered, read_all, within};
use rusqlite::Connection;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

async fn open(path: &Path) -> SqliteEventStore {
    SqliteEventStore::open(SqliteOptions::new(path)).await.expect("a log opens")
}

/// Appends events over seven aggregates, in batches.
async fn append(store: &SqliteEventStore, numbers: std::ops::RangeInclusive<u64>) {
    let numbers: Vec<_> = numbers.collect();
    for batch in numbers.chunks(500) {
        let all = batch.iter().fold(Append::default(), |all, n| {
            all.and(aggregate("Thing", &(n % 7).to_string()), ExpectedVersion::Any, vec![numbered(*n)])
        });
        store.append(all).await.expect("stored");
    }
}

fn quiet(_: u64, _: u64) {}

fn chain(path: &Path) -> (Position, String) {
    let verified = verify(path, quiet).expect("it opens");
    assert!(verified.is_sound(), "{:?}", verified.faults);
    (verified.head, verified.chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_and_continued_beside_a_writer_is_the_log_up_to_where_it_goes() {
    let place = Place::new();
    let (log, copy) = (place.file("log.db"), place.file("copy.db"));
    let store = open(&log).await;
    append(&store, 1..=10_000).await;
    // What a copy that was killed leaves behind.
    std::fs::write(place.file("copy.db.new"), "half of anything").expect("written");
    let writing = tokio::spawn({
        let store = store.clone();
        async move { append(&store, 10_001..=30_000).await }
    });
    for round in 0..2 {
        let (from, to) = (log.clone(), copy.clone());
        let copied = tokio::task::spawn_blocking(move || back_up(&from, &to, quiet)).await.expect("no panic");
        let copied = copied.expect("copied");
        assert!(round > 0 || copied.events >= 10_000, "{copied:?}");
        assert_eq!(chain(&copy), (copied.head, copied.chain.clone()));
        assert!(!place.file("copy.db.new").exists());
    }
    writing.await.expect("no panic");
    let copied = back_up(&log, &copy, quiet).expect("copied");
    assert_eq!((copied.head, copied.epoch), (Position(30_000), Epoch(1)));
    assert_eq!(chain(&copy), chain(&log));
    let reading = open(&copy).await;
    assert_eq!(reading.head().await.expect("readable"), store.head().await.expect("readable"));
    let [copied, own] = [read_all(&reading).await, read_all(&store).await].map(|all| all.expect("readable"));
    assert_eq!(copied, own, "every event, as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_broken_off_anywhere_is_continued() {
    let place = Place::new();
    let (log, copy) = (place.file("log.db"), place.file("copy.db"));
    let store = open(&log).await;
    append(&store, 1..=100).await;
    back_up(&log, &copy, quiet).expect("copied");
    append(&store, 101..=40_000).await;
    for pages in 1..4 {
        let mut told = 0;
        let broken_off = catch_unwind(AssertUnwindSafe(|| {
            back_up(&log, &copy, |_, _| {
                told += 1;
                assert!(told <= pages, "broken off here");
            })
        }));
        assert!(broken_off.is_err());
        chain(&copy);
    }
    back_up(&log, &copy, quiet).expect("continued");
    assert_eq!(chain(&copy), chain(&log));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_copy_of_the_log_stays_as_it_is() {
    let place = Place::new();
    let [log, other, copy, short] =
        ["log.db", "other.db", "copy.db", "short.db"].map(|name| place.file(name));
    let store = open(&log).await;
    append(&store, 1..=300).await;
    back_up(&log, &short, quiet).expect("copied");
    append(&store, 301..=400).await;
    back_up(&log, &copy, quiet).expect("copied");
    let another = open(&other).await;
    append(&another, 1..=300).await;
    another.close().await;
    let reason = |from: &Path, to: &Path| {
        let before = std::fs::read(to).expect("readable");
        let Err(error @ CopyError::NotACopy { .. }) = back_up(from, to, quiet) else {
            panic!("it isn't refused")
        };
        assert_eq!(std::fs::read(to).expect("readable"), before);
        error.to_string()
    };
    assert!(reason(&log, &other).contains("of another log"));
    assert!(reason(&short, &copy).contains("ends at 300"));
    // Two that have gone on by themselves, from the same events.
    raise_epoch(&copy).expect("raised");
    let promoted = open(&copy).await;
    append(&promoted, 501..=510).await;
    promoted.close().await;
    append(&store, 601..=620).await;
    assert!(reason(&log, &copy).contains("different events"));
    let nothing = back_up(&place.file("none.db"), &copy, quiet);
    assert!(matches!(nothing, Err(CopyError::NoSource { .. })), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_not_copied() {
    let place = Place::new();
    let (log, copy) = (place.file("log.db"), place.file("copy.db"));
    let store = open(&log).await;
    append(&store, 1..=6000).await;
    store.close().await;
    let meddling = Connection::open(&log).expect("opens");
    meddling.execute("UPDATE event SET payload = '{\"n\":0}' WHERE position = 5000", []).expect("changed");
    drop(meddling);
    let found = back_up(&log, &copy, quiet).expect_err("the event isn't what was stored");
    assert!(matches!(found, CopyError::Damaged { position: Position(5000), .. }), "{found}");
    assert!(!copy.exists(), "nothing stands under the copy's name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_has_a_greater_epoch_and_readers_who_saw_more_are_reset() {
    let place = Place::new();
    let (log, copy, restored) = (place.file("log.db"), place.file("copy.db"), place.file("restored.db"));
    let store = open(&log).await;
    append(&store, 1..=200).await;
    let step =
        |from, to| NewStep { from, to, by: "ann".into(), reason: "x".into(), figures: Json::empty_object() };
    store.record(step(Phase::Broadcast, Phase::Dual)).await.expect("recorded");
    back_up(&log, &copy, quiet).expect("copied");
    append(&store, 201..=300).await;
    // The log begins an epoch that the copy doesn't know of, and is lost.
    store.close().await;
    let lost = raise_epoch(&log).expect("raised");

    let made = restore(&copy, &restored, quiet).expect("restored");
    assert!(made.epoch > lost && made.head == Position(200), "{made:?}");
    let occupied = restore(&copy, &restored, quiet);
    assert!(matches!(occupied, Err(CopyError::Occupied { .. })), "{occupied:?}");
    let store = open(&restored).await;
    let page = store.journal(10).await.expect("readable");
    assert_eq!((page.phase, page.steps.len()), (Phase::Dual, 1), "the migration is where it was");
    append(&store, 1001..=1300).await;
    for (epoch, position, kept) in [(1, 150, true), (1, 200, true), (1, 250, false), (lost.0, 300, false)] {
        let cursor = Cursor { epoch: Epoch(epoch), position: Position(position) };
        let mut events = store.subscribe(EventFilter::everything(), Start::Resume(cursor));
        let first =
            within("the first delivery", events.next()).await.expect("there are events").expect("readable");
        match first {
            Delivery::Event(event) => assert!(kept && event.position.0 == position + 1, "{cursor}"),
            other => assert!(!kept && matches!(other, Delivery::Reset(_)), "{cursor}: {other:?}"),
        }
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_written_is_opened_for_reading_and_copied_at_any_moment() {
    let place = Place::new();
    let (log, copy) = (place.file("log.db"), place.file("copy.db"));
    let store = open(&log).await;
    append(&store, 1..=1).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let (writing, stopped) = (store.clone(), stop.clone());
    let writer = tokio::spawn(async move {
        for n in 2.. {
            if stopped.is_cancelled() {
                return;
            }
            append(&writing, n..=n).await;
        }
    });
    for _ in 0..100 {
        let reading = SqliteEventStore::open_read_only(SqliteOptions::new(&log)).await.expect("it is sound");
        reading.close().await;
        back_up(&log, &copy, quiet).expect("copied");
    }
    stop.cancel();
    writer.await.expect("nothing is refused");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_elsewhere_is_in_sqlite_again_when_it_is_restored_there() {
    let place = Place::new();
    let (log, copy, restored) = (place.file("log.db"), place.file("copy.db"), place.file("restored.db"));
    let store = open(&log).await;
    append(&store, 1..=3).await;
    let step =
        |from, to| NewStep { from, to, by: "ann".into(), reason: "x".into(), figures: Json::empty_object() };
    for (from, to) in
        [(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh), (Phase::Zenoh, Phase::ZenohStorage)]
    {
        store.record(step(from, to)).await.expect("recorded");
    }
    back_up(&log, &copy, quiet).expect("copied");
    store.close().await;
    restore(&copy, &restored, quiet).expect("restored");
    let store = open(&restored).await;
    let page = store.journal(10).await.expect("readable");
    let last = page.steps.last().expect("there are steps");
    assert_eq!((page.phase, page.taken, last.from), (Phase::Zenoh, 4, Phase::ZenohStorage));
    store.close().await;
}
