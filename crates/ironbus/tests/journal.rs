//! The journal of the migration, in the log's own file: what it promises, also to a log of the first
//! schema version, beside appends, and when the process is killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use ironbus::store::sqlite::{Fault, raise_epoch, verify};
use ironbus::store::{
    Append, EventStore, ExpectedVersion, InvalidStep, Journal, JournalError, NewStep, Phase, SqliteOptions,
};
use ironbus::{Json, Position, SqliteEventStore};
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, read_all, unnamed, within};

/// A log that the build before the journal wrote: four events of three aggregates.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.db.gz");
const VERSION_1_CHAIN: &str = "156caed1b6e97cabb98d54f801f3a06935982a7e0905c7a412835b5ab8590cd3";

/// A log that the build before schema version 3 wrote: four events of three aggregates, one step.
const VERSION_2: &[u8] = include_bytes!("fixtures/version-2.db.gz");
const VERSION_2_CHAIN: &str = "fdd9a9a047c68dab25553edf81b7534e06de8e6ef566864dee21d2b844283998";

fn unpacked(archive: &[u8]) -> TempStore {
    let (temp, mut file) = (TempStore::new(), Vec::new());
    flate2::read::GzDecoder::new(archive).read_to_end(&mut file).expect("a gzip file");
    std::fs::write(temp.path(), file).expect("written");
    temp
}

fn step(from: Phase, to: Phase) -> NewStep {
    let figures = Json::parse(r#"{"compared": 100}"#).expect("valid");
    NewStep { from, to, by: "ann".into(), reason: "more clients".into(), figures }
}

fn one_event(n: u64) -> Append {
    Append::to(aggregate("Counter", "1"), ExpectedVersion::Any, vec![unnamed(n)])
}

#[tokio::test]
async fn a_log_of_version_1_is_read_as_it_is_and_migrated_when_it_is_opened_for_writing() {
    let temp = unpacked(VERSION_1);
    let reading = SqliteEventStore::open_read_only(SqliteOptions::new(temp.path())).await.expect("opens");
    let before = read_all(&reading).await.expect("readable");
    assert_eq!(before.len(), 4);
    let page = reading.journal(10).await.expect("readable");
    assert_eq!((page.phase, page.taken), (Phase::Broadcast, 0));
    let found = temp.verify();
    assert!(found.is_sound(), "{:?}", found.faults);
    assert_eq!((found.phase, found.steps, found.chain.as_str()), (1, 0, VERSION_1_CHAIN));

    let store = temp.open().await;
    assert_eq!(read_all(&store).await.expect("readable"), before);
    assert_eq!(store.journal(10).await.expect("readable").phase, Phase::Broadcast);
    let taken = store.record(step(Phase::Broadcast, Phase::Dual)).await.expect("recorded");
    assert_eq!((taken.step, taken.after), (1, Position(4)));
    // Who had opened the old file sees the step too.
    assert_eq!(reading.journal(10).await.expect("readable").steps, [taken]);
    store.append(one_event(1)).await.expect("appended");
    store.close().await;
    let found = temp.verify();
    assert!(found.is_sound(), "{:?}", found.faults);
    assert_eq!((found.events, found.phase, found.steps), (5, 2, 1));
}

#[tokio::test]
async fn a_log_of_version_2_is_read_as_it_is_and_migrated_when_it_is_opened_for_writing() {
    let temp = unpacked(VERSION_2);
    let reading = SqliteEventStore::open_read_only(SqliteOptions::new(temp.path())).await.expect("opens");
    let before = read_all(&reading).await.expect("readable");
    let page = reading.journal(10).await.expect("readable");
    assert_eq!((before.len(), page.phase, page.taken), (4, Phase::Dual, 1));
    assert_eq!((reading.head().await.expect("readable").lineage.epoch().0, reading.epoch_began()), (1, None));
    let found = temp.verify();
    assert!(found.is_sound(), "{:?}", found.faults);
    assert_eq!((found.phase, found.steps, found.chain.as_str()), (2, 1, VERSION_2_CHAIN));

    let store = temp.open().await;
    assert_eq!(read_all(&store).await.expect("readable"), before);
    assert_eq!(store.journal(10).await.expect("readable"), page);
    store.append(one_event(1)).await.expect("appended");
    let taken = store.record(step(Phase::Dual, Phase::Zenoh)).await.expect("recorded");
    // Who had opened the old file goes on reading.
    assert_eq!(reading.journal(1).await.expect("readable").steps, [taken]);
    assert_eq!(read_all(&reading).await.expect("readable").len(), 5);
    store.close().await;
    assert_eq!(raise_epoch(temp.path()).expect("nobody has it open").0, 2);
    let store = temp.open().await;
    assert_eq!(store.epoch_began().as_deref(), Some("an operator promoted this log"));
    store.close().await;
    let found = temp.verify();
    assert!(found.is_sound(), "{:?}", found.faults);
    assert_eq!((found.events, found.phase, found.steps), (5, 3, 2));
}

#[tokio::test]
async fn steps_are_numbered_join_and_stand_in_one_order_with_appends() {
    let temp = TempStore::new();
    let store = temp.open().await;
    // Sent at once: one commit for the appends before the step, another for those after it.
    let before = join_all((0..20).map(|n| store.append(one_event(n))));
    let recording = store.record(step(Phase::Broadcast, Phase::Dual));
    let after = join_all((20..40).map(|n| store.append(one_event(n))));
    let (_, first, _) = tokio::join!(before, recording, after);
    let first = first.expect("recorded");
    assert_eq!((first.step, first.after), (1, Position(20)));
    let second = store.record(step(Phase::Dual, Phase::Zenoh)).await.expect("recorded");
    let third = store.record(step(Phase::Zenoh, Phase::Broadcast)).await.expect("recorded");
    assert_eq!((third.step, third.after), (3, Position(40)));
    assert!(first.at <= second.at && second.at <= third.at);
    let page = store.journal(2).await.expect("readable");
    assert_eq!((page.phase, page.taken), (Phase::Broadcast, 3));
    assert_eq!(page.steps, [second.clone(), third.clone()]);
    assert_eq!(page.steps[0].figures.as_str(), r#"{"compared": 100}"#);
    store.close().await;
    let page = temp.open().await.journal(10).await.expect("readable");
    assert_eq!(page.steps, [first, second, third]);
}

#[tokio::test]
async fn of_concurrent_steps_from_one_phase_exactly_one_is_recorded() {
    let store = TempStore::new();
    let store = store.open().await;
    let answers = join_all((0..8).map(|_| store.record(step(Phase::Broadcast, Phase::Dual)))).await;
    let moved = |answer: &Result<_, _>| {
        let (expected, actual) = (Phase::Broadcast, Phase::Dual);
        matches!(answer, Err(JournalError::Moved { expected: e, actual: a }) if *e == expected && *a == actual)
    };
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(|answer| moved(answer)).count(), 7);
    assert_eq!(store.journal(10).await.expect("readable").taken, 1);
}

#[tokio::test]
async fn a_step_needs_somebody_who_took_it_and_a_reason_and_a_log_that_may_be_written() {
    let temp = TempStore::new();
    let store = temp.open().await;
    let nobody = NewStep { by: " ".into(), ..step(Phase::Broadcast, Phase::Dual) };
    let refused = store.record(nobody).await;
    assert!(matches!(refused, Err(JournalError::Invalid(InvalidStep::Empty { field: "by" }))), "{refused:?}");
    let long = NewStep { reason: "x".repeat(4097), ..step(Phase::Broadcast, Phase::Dual) };
    let refused = store.record(long).await;
    assert!(matches!(refused, Err(JournalError::Invalid(InvalidStep::TooLong { .. }))), "{refused:?}");
    let reading = SqliteEventStore::open_read_only(SqliteOptions::new(temp.path())).await.expect("opens");
    let refused = reading.record(step(Phase::Broadcast, Phase::Dual)).await;
    assert!(matches!(refused, Err(JournalError::ReadOnly)), "{refused:?}");
    store.supersede(Some("node b has a later epoch".into()));
    let refused = store.record(step(Phase::Broadcast, Phase::Dual)).await;
    assert!(matches!(refused, Err(JournalError::Superseded { .. })), "{refused:?}");
    store.supersede(None);
    store.close().await;
    let refused = store.record(step(Phase::Broadcast, Phase::Dual)).await;
    assert!(matches!(refused, Err(JournalError::Closed)), "{refused:?}");
    assert_eq!(temp.verify().steps, 0);
}

#[tokio::test]
async fn verify_says_what_is_wrong_with_a_journal() {
    let faults = async |damage: &str| {
        let temp = TempStore::new();
        let store = temp.open().await;
        for (from, to) in
            [(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh), (Phase::Zenoh, Phase::Dual)]
        {
            store.record(step(from, to)).await.expect("recorded");
        }
        store.close().await;
        let connection = rusqlite::Connection::open(temp.path()).expect("opens");
        connection.execute_batch(damage).expect("done");
        drop(connection);
        verify(temp.path(), |_, _| {}).expect("a log").faults
    };
    assert_eq!(faults("").await, []);
    assert_eq!(
        faults("DELETE FROM migration_step WHERE step = 2").await,
        [
            Fault::Step { expected: 2, found: 3 },
            Fault::StepFrom { step: 3, expected: Phase::Dual, found: Phase::Zenoh }
        ]
    );
    assert_eq!(
        faults("DELETE FROM migration_step WHERE step = 3").await,
        [Fault::Phase { found: 2, reached: Phase::Zenoh }]
    );
    assert_eq!(faults("UPDATE log SET phase = 7").await, [Fault::Phase { found: 7, reached: Phase::Dual }]);
    let unreadable = faults("UPDATE migration_step SET to_phase = 9 WHERE step = 2").await;
    assert!(matches!(unreadable[..], [Fault::UnreadableStep { after: 1, .. }]), "{unreadable:?}");
}

#[tokio::test]
async fn a_log_in_a_phase_that_nobody_knows_is_refused() {
    let temp = TempStore::new();
    temp.open().await.close().await;
    let connection = rusqlite::Connection::open(temp.path()).expect("opens");
    connection.execute_batch("UPDATE log SET phase = 9").expect("done");
    drop(connection);
    let refused = temp.try_open().await.expect_err("refused").to_string();
    assert!(refused.contains("phase 9"), "{refused}");
}

/// What the kill test runs as a process of its own: goes to and fro, appends between, and writes down
/// what was acknowledged.
#[tokio::test]
#[ignore = "the process that the kill test kills"]
async fn to_and_fro_until_killed() {
    let Ok(path) = std::env::var("IRONBUS_TEST_LOG") else { return };
    let store = SqliteEventStore::open(SqliteOptions::new(path)).await.expect("opens");
    let page = store.journal(1).await.expect("readable");
    let (mut phase, mut out) = (page.phase, std::io::stdout());
    for n in 0.. {
        let to = if phase == Phase::Broadcast { Phase::Dual } else { Phase::Broadcast };
        let (appended, recorded) = tokio::join!(store.append(one_event(n)), store.record(step(phase, to)));
        phase = recorded.expect("recorded").to;
        let (head, steps) =
            (appended.expect("appended").head, store.journal(0).await.expect("readable").taken);
        writeln!(out, "acknowledged {head} {steps}").and_then(|()| out.flush()).expect("the test listens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_every_acknowledged_step_and_a_sound_journal() {
    let temp = TempStore::new();
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "to_and_fro_until_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env("IRONBUS_TEST_LOG", temp.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next = || lines.next().and_then(Result::ok);
        let acknowledged = |line: &str| {
            let mut words = line.split("acknowledged ").nth(1)?.split(' ').map(str::parse::<u64>);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        };
        let mut last = std::iter::from_fn(&mut next).find_map(|line| acknowledged(&line)).expect("it begins");
        // The moment is the point: somewhere within the steps that follow.
        std::thread::sleep(Duration::from_millis(round * 7));
        child.kill().expect("killed");
        child.wait().expect("ended");
        last = std::iter::from_fn(next).filter_map(|line| acknowledged(&line)).last().unwrap_or(last);
        let found = temp.verify();
        assert!(found.is_sound(), "round {round}: {:?}", found.faults);
        assert!(found.head.0 >= last.0 && found.steps >= last.1, "{found:?} after {last:?}");
    }
    let store = within("the log opens again", temp.open()).await;
    let page = store.journal(1).await.expect("readable");
    let to = if page.phase == Phase::Broadcast { Phase::Dual } else { Phase::Broadcast };
    let next = store.record(step(page.phase, to)).await.expect("it goes on");
    assert_eq!(next.step, page.taken + 1);
}
