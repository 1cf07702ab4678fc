//! Files that can't be a log's, and logs that aren't what was stored: refused or found, told with what and
//! where, and left as they are, byte for byte.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ironbus::event::{Aggregate, Metadata, NewEvent, Position, Sequence, SessionId, StoredEvent};
use ironbus::key::EventFilter;
use ironbus::store::sqlite::{Fault, OpenError, SqliteOptions, Verification, verify};
use ironbus::store::{Append, EventStore, ExpectedVersion, ReadError, SqliteEventStore};
use ironbus_testkit::temp::TempStore;
use ironbus_testkit::{aggregate, numbered, numbered_id, read_all, within};
use proptest::prelude::*;
use rusqlite::Connection;

/// How many events the logs of these tests have.
const EVENTS: u64 = 200;

/// Event `n` is of one of three aggregates; some are of a session, some have metadata, some are large.
fn event(n: u64) -> (Aggregate, NewEvent) {
    let mut event = numbered(n);
    if n.is_multiple_of(7) {
        event = event.for_session(SessionId::new("a session").expect("valid"));
    }
    if n.is_multiple_of(5) {
        event = event.with_metadata(Metadata::caused(Some("a conversation"), None));
    }
    if n.is_multiple_of(20) {
        let large = format!("{{\"n\":{n},\"large\":{:?}}}", "x".repeat(9000));
        event.payload = ironbus::Json::parse(large).expect("valid JSON");
    }
    (aggregate("Thing", &(n % 3).to_string()), event)
}

/// A log of [`EVENTS`] events, closed: everything is in its one file.
async fn log() -> TempStore {
    let temp = TempStore::new();
    let store = temp.open().await;
    let all = (1..=EVENTS)
        .map(event)
        .fold(Append::default(), |all, (to, event)| all.and(to, ExpectedVersion::Any, vec![event]));
    store.append(all).await.expect("stored");
    store.close().await;
    assert_eq!(
        sorted_names(&temp),
        ["ironbus.db", "ironbus.db-reserve", "ironbus.db.lock"],
        "a closed log is one file, its lock, and some space"
    );
    temp
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sorted_names(temp: &TempStore) -> Vec<String> {
    let folder = std::fs::read_dir(temp.beside("")).expect("readable");
    let mut names: Vec<_> =
        folder.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Runs SQL on the file, as somebody else would who minds no rule of ours.
fn meddle(path: &Path, sql: &str) -> Connection {
    let other = Connection::open(path).expect("opens");
    other
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}"))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    other
}

/// What the file would be if whoever runs this SQL on it were killed then: all of it is in the write-ahead
/// log. In the file itself it is folded in.
fn meddle_and_die(temp: &TempStore, sql: &str) -> TempStore {
    let other = meddle(temp.path(), sql);
    let left = TempStore::new();
    for suffix in ["", "-wal"] {
        std::fs::copy(beside(temp.path(), suffix), beside(left.path(), suffix)).expect("copied");
    }
    drop(other);
    assert_eq!(sizes(temp)[1], 0);
    assert_ne!(sizes(&left)[1], 0);
    left
}

/// How long the file and its write-ahead log are.
fn sizes(temp: &TempStore) -> [usize; 2] {
    content(temp).map(|bytes| bytes.len())
}

/// The file and its write-ahead log; one that isn't there holds as much as an empty one.
fn content(temp: &TempStore) -> [Vec<u8>; 2] {
    ["", "-wal"].map(|suffix| std::fs::read(beside(temp.path(), suffix)).unwrap_or_default())
}

/// Opens the file in every way, and gives back what each said. However it ends, the file and its
/// write-ahead log are what they were.
async fn open_in_every_way(temp: &TempStore) -> [Result<(), OpenError>; 3] {
    let before = content(temp);
    let options = || SqliteOptions::new(temp.path());
    let written = SqliteEventStore::open(options()).await.map(|_| ());
    let read = SqliteEventStore::open_read_only(options()).await.map(|_| ());
    let verified = verify(temp.path(), |_, _| {}).map(|_| ());
    assert!(before == content(temp), "the file was changed");
    [written, read, verified]
}

/// Opens a file that everyone must refuse in the same words; gives back these words without the path.
async fn refusal(temp: &TempStore) -> (OpenError, String) {
    let [written, read, verified] =
        open_in_every_way(temp).await.map(|opened| opened.expect_err("it is refused"));
    let said = written.to_string();
    assert_eq!((read.to_string(), verified.to_string()), (said.clone(), said.clone()));
    let said =
        said.strip_prefix(temp.path().to_str().expect("text")).expect("it begins with the path").to_owned();
    (written, said)
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_nothing_is_left_beside_it() {
    let is_refused = async |temp: TempStore, kind: &str| {
        let (error, said) = refusal(&temp).await;
        assert!(matches!(error, OpenError::NotOurs { .. }), "{kind}: {error:?}");
        assert_eq!(said, " is not an ironbus log; name another file, or move this one away", "{kind}");
        assert!(!sorted_names(&temp).contains(&"ironbus.db.lock".to_owned()), "{kind}: a lock was left");
    };
    for bytes in [&b"Milk, eggs, and a note to self.\n"[..], &[0xa5; 10_000]] {
        let temp = TempStore::new();
        std::fs::write(temp.path(), bytes).expect("written");
        is_refused(temp, "no database").await;
    }
    for settings in ["", "PRAGMA application_id = 7; PRAGMA user_version = 1;", "PRAGMA journal_mode = WAL;"]
    {
        let temp = TempStore::new();
        meddle(
            temp.path(),
            &format!("{settings} CREATE TABLE note (text TEXT); INSERT INTO note VALUES ('mine')"),
        );
        is_refused(temp, settings).await;
    }
}

#[tokio::test]
async fn what_another_program_left_in_its_write_ahead_log_stays_there() {
    let temp = TempStore::new();
    let left = meddle_and_die(&temp, "PRAGMA journal_mode = WAL; CREATE TABLE note (text TEXT)");
    let (error, _) = refusal(&left).await;
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_a_later_version_is_refused_and_says_which() {
    let temp = log().await;
    let known: i64 = Connection::open(temp.path())
        .and_then(|file| file.query_row("PRAGMA user_version", [], |row| row.get(0)))
        .expect("it has a version");
    let later = known + 1;
    let raise = format!("PRAGMA user_version = {later}");
    let left = meddle_and_die(&temp, &raise);
    for temp in [temp, left] {
        let (error, said) = refusal(&temp).await;
        assert!(matches!(error, OpenError::Newer { found, .. } if found == later), "{error:?}");
        let words = format!(
            " has schema version {later}, but this build knows versions up to {known}; use a newer ironbus"
        );
        assert_eq!(said, words);
    }
}

#[tokio::test]
async fn a_log_that_a_store_writes_is_refused_to_a_second_writer_and_open_to_readers() {
    let temp = log().await;
    let store = temp.open().await;
    let [written, read, verified] = open_in_every_way(&temp).await;
    let error = written.expect_err("it is in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    let holder =
        format!("in use by process {}; stop it first, or talk to its server instead", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    assert!(read.is_ok() && verified.is_ok());
    let (to, event) = event(EVENTS + 1);
    store.append(Append::to(to, ExpectedVersion::Any, vec![event])).await.expect("the first goes on");
    store.close().await;
    temp.open().await.close().await;
}

#[tokio::test]
async fn a_lock_of_another_process_holds_until_that_is_gone_however_it_went() {
    let temp = log().await;
    let lock = beside(temp.path(), ".lock");
    std::fs::write(&lock, "process 4711\n").expect("written");
    let holder = Command::new("flock")
        .arg("--no-fork")
        .arg(&lock)
        .args(["sh", "-c", "echo held; read _"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut holder) = holder else {
        println!("skipped: there is no `flock` here (util-linux)");
        return;
    };
    let mut held = String::new();
    let said = holder.stdout.take().expect("it is piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut held).expect("readable");
    assert_eq!(held, "held\n");
    let [written, read, verified] = open_in_every_way(&temp).await;
    let error = written.expect_err("it is in use");
    assert!(error.to_string().contains("in use by process 4711"), "{error}");
    assert!(read.is_ok() && verified.is_ok());
    holder.kill().expect("it still runs");
    holder.wait().expect("it ends");
    temp.open().await.close().await;
}

#[tokio::test]
async fn a_file_that_another_program_keeps_to_itself_is_refused() {
    let temp = log().await;
    let other = Connection::open(temp.path()).expect("opens");
    other
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE log SET head = head")
        .expect("held");
    let error = temp.try_open().await.expect_err("it is in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another program that has the file open"), "{error}");
    other
        .execute_batch("ROLLBACK")
        .and_then(|()| other.close().map_err(|(_, error)| error))
        .expect("given back");
    temp.open().await.close().await;
}

#[tokio::test]
async fn a_damaged_head_is_refused_and_says_what_is_wrong() {
    let kinds = [
        ("UPDATE log SET head = head + 1", "its head says position 201, but its last event is at 200"),
        (
            "DELETE FROM event WHERE position = 200",
            "its head says position 200, but its last event is at 199",
        ),
        (
            "UPDATE log SET chain = zeroblob(32)",
            "its head and its last event, at position 200, have different hashes",
        ),
        ("UPDATE log SET chain = zeroblob(7)", "what it says of itself can't be read"),
        ("DELETE FROM log", "what it says of itself can't be read"),
        ("DELETE FROM epoch", "its table of epochs is empty or out of order"),
        ("DROP TABLE epoch", "no such table: epoch"),
        ("DROP TABLE event", "no such table: event"),
    ];
    for (sql, reason) in kinds {
        let temp = log().await;
        let left = meddle_and_die(&temp, sql);
        for temp in [temp, left] {
            let [written, read, verified] = open_in_every_way(&temp).await;
            for error in [written, read].map(|opened| opened.expect_err("it is refused")) {
                assert!(matches!(error, OpenError::Damaged { .. }), "{sql}: {error:?}");
                let said = error.to_string();
                assert!(
                    said.contains(reason) && said.contains("run `ironbus verify` on a copy"),
                    "{sql}: {said}"
                );
            }
            if verified.is_ok() {
                assert_ne!(temp.verify().faults, [], "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_of_which_a_part_is_gone_or_garbage_is_refused() {
    let temp = log().await;
    let whole = std::fs::read(temp.path()).expect("readable");
    let noise =
        |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(0xa5));
    let mut first_page = whole.clone();
    noise(&mut first_page[100..4096]);
    let mut all_but_the_header = whole.clone();
    noise(&mut all_but_the_header[100..]);
    for bytes in [first_page, all_but_the_header, whole[..4096].to_vec(), whole[..whole.len() / 2].to_vec()] {
        std::fs::write(temp.path(), bytes).expect("written");
        let [written, read, verified] = open_in_every_way(&temp).await;
        for error in [written, read].map(|opened| opened.expect_err("it is refused")) {
            assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        }
        if verified.is_ok() {
            assert_ne!(temp.verify().faults, []);
        }
    }
}

#[tokio::test]
async fn a_garbage_page_in_the_middle_is_said_by_reads_and_found_by_verify() {
    let temp = log().await;
    let mut bytes = std::fs::read(temp.path()).expect("readable");
    let page = Pages::of(&temp).leaves[1];
    bytes[page * 4096..][..4096].fill(0xa5);
    std::fs::write(temp.path(), bytes).expect("written");
    let found = temp.verify();
    assert!(!found.is_sound());
    let store = temp.open().await;
    let error = read_all(&store).await.expect_err("it can't be read");
    assert!(matches!(&error, ReadError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("run `ironbus verify`, and restore a backup"), "{error}");
    let (to, event) = event(EVENTS + 1);
    store.append(Append::to(to, ExpectedVersion::Any, vec![event])).await.expect("the end of it is sound");
    store.close().await;
}

/// What `verify` finds after somebody ran this on the log.
async fn found_after(sql: &str) -> Vec<Fault> {
    let temp = log().await;
    assert_eq!(temp.verify().faults, []);
    meddle(temp.path(), sql);
    let [_, _, verified] = open_in_every_way(&temp).await;
    verified.unwrap_or_else(|error| panic!("{sql}: {error}"));
    temp.verify().faults
}

fn hash(position: u64) -> Fault {
    Fault::Hash { position: Position(position) }
}

#[tokio::test]
async fn whatever_of_an_event_is_changed_verify_names_its_position() {
    for change in [
        "payload = '{\"n\":0}'",
        "payload = payload || ' '",
        "metadata = '{\"a\":1}'",
        "event_type = 'Other'",
        "schema_version = 2",
        "recorded_at = recorded_at + 1",
        "session_id = 'another'",
        "event_id = zeroblob(16)",
    ] {
        let faults = found_after(&format!("UPDATE event SET {change} WHERE position = 31")).await;
        assert_eq!(faults, [hash(31)], "{change}");
        assert_eq!(
            faults[0].to_string(),
            "the event at position 31 is not the one that was stored: its hash differs"
        );
    }
    for session in [7, 14] {
        let faults =
            found_after(&format!("UPDATE event SET session_id = NULL WHERE position = {session}")).await;
        assert_eq!(faults, [hash(session)]);
    }
    let faults = found_after("UPDATE event SET chain = zeroblob(32) WHERE position = 31").await;
    assert_eq!(faults, [hash(31), hash(32)], "neither it nor the next goes with that hash");
}

#[tokio::test]
async fn a_row_that_can_not_be_an_event_is_named_by_the_position_before_it() {
    for change in
        ["recorded_at = 9223372036854775807", "event_id = zeroblob(3)", "session_id = ''", "aggregate = 99"]
    {
        let faults = found_after(&format!("UPDATE event SET {change} WHERE position = 31")).await;
        let unreadable = |fault: &Fault| matches!(fault, Fault::Unreadable { after: Position(30), .. });
        assert!(faults.iter().any(unreadable), "{change}: {faults:?}");
    }
}

#[tokio::test]
async fn events_that_are_gone_moved_or_renamed_are_found_where_they_were() {
    let sequence = |position, id: &str, expected, found| Fault::Sequence {
        position: Position(position),
        aggregate: aggregate("Thing", id),
        expected: Sequence(expected),
        found: Sequence(found),
    };
    let gone = Fault::Position { expected: Position(31), found: Position(32) };
    // Event 31 is the eleventh of `1`: 1, 4, 7, … 31; the next of it is 34.
    let faults = found_after("DELETE FROM event WHERE position = 31").await;
    assert_eq!(faults, [gone, hash(32), sequence(34, "1", 11, 12)]);
    assert_eq!(faults[0].to_string(), "position 31 is missing: the next event is at 32");

    let faults = found_after("DELETE FROM event WHERE position = 200").await;
    assert_eq!(faults, [Fault::Head { head: Position(200), last: Position(199) }]);
    let faults = found_after("DELETE FROM event").await;
    assert_eq!(faults, [Fault::Head { head: Position(200), last: Position(0) }]);

    let faults = found_after("UPDATE event SET sequence = 1000 WHERE position = 31").await;
    assert_eq!(faults, [sequence(31, "1", 11, 1000), hash(31), sequence(34, "1", 1001, 12)]);
    let said = "at position 31, Thing 1 has sequence 1000 where 11 had to come";
    assert_eq!(faults[0].to_string(), said);

    let to_another =
        "UPDATE event SET sequence = 12, aggregate = (SELECT aggregate FROM event WHERE position = 32)";
    let faults =
        found_after(&format!("DELETE FROM event WHERE position = 35; {to_another} WHERE position = 34"))
            .await;
    assert!(faults.contains(&hash(34)), "{faults:?}");

    let swap = "UPDATE event SET position = 1000 WHERE position = 31; UPDATE event SET position = 31 WHERE position = 34;
        UPDATE event SET position = 34 WHERE position = 1000";
    let faults = found_after(swap).await;
    let there =
        [sequence(31, "1", 11, 12), hash(31), hash(32), sequence(34, "1", 13, 11), hash(34), hash(35)];
    assert_eq!(faults[..there.len()], there);

    let faults = found_after("UPDATE aggregate SET aggregate_id = 'x' WHERE aggregate_id = '1'").await;
    assert_eq!(faults, (1..=EVENTS).filter(|n| n % 3 == 1).map(hash).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_head_or_an_epoch_that_is_wrong_is_found() {
    let faults = found_after("UPDATE log SET head = 201").await;
    assert_eq!(faults, [Fault::Head { head: Position(201), last: Position(200) }]);
    let faults = found_after("UPDATE log SET chain = zeroblob(32)").await;
    assert_eq!(faults, [Fault::HeadHash { head: Position(200) }]);
    let faults = found_after("DELETE FROM epoch").await;
    assert!(matches!(faults[..], [Fault::Epochs(_)]), "{faults:?}");
    let faults = found_after("INSERT INTO epoch (epoch, after) VALUES (2, 9), (3, 8)").await;
    assert!(matches!(faults[..], [Fault::Epochs(_)]), "{faults:?}");
    let faults = found_after("DROP INDEX event_by_id").await;
    assert_eq!(faults, [], "an index says nothing of its own");
}

/// Changes one byte in the log's file, that of `place` in `bytes`; also in former copies of the row, which
/// free space may have.
fn flip(temp: &TempStore, bytes: &[u8], place: usize) {
    let mut file = std::fs::read(temp.path()).expect("readable");
    let starts = file.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
    let starts: Vec<_> = starts.map(|(start, _)| start).collect();
    assert!(!starts.is_empty(), "{} is there", String::from_utf8_lossy(bytes));
    for start in starts {
        file[start + place] ^= 0x10;
    }
    std::fs::write(temp.path(), file).expect("written");
}

#[tokio::test]
async fn a_flipped_byte_of_a_payload_a_hash_or_a_sequence_is_found_where_it_is() {
    let temp = log().await;
    flip(&temp, b"{\"n\":31}", 5);
    assert_eq!(temp.verify().faults, [hash(31)]);

    let temp = log().await;
    let chain: Vec<u8> = Connection::open(temp.path())
        .and_then(|file| file.query_row("SELECT chain FROM event WHERE position = 31", [], |row| row.get(0)))
        .expect("it is there");
    flip(&temp, &chain, 17);
    assert_eq!(temp.verify().faults, [hash(31), hash(32)]);

    // In an event's row its sequence, here one byte, stands right before its id.
    let temp = log().await;
    let row = [&[11][..], numbered_id(31).0.as_bytes(), b"Numbered"].concat();
    flip(&temp, &row, 0);
    let faults = temp.verify().faults;
    let expected = Fault::Sequence {
        position: Position(31),
        aggregate: aggregate("Thing", "1"),
        expected: Sequence(11),
        found: Sequence(11 ^ 0x10),
    };
    assert_eq!(faults[..2], [expected, hash(31)], "{faults:?}");
    let index = |fault: &Fault| fault.to_string().contains("event_by_aggregate");
    assert!(faults.iter().any(index), "SQLite misses it in the index: {faults:?}");
}

/// Which pages of the file hold events, their indexes, and the names of aggregates, counted from 0.
struct Pages {
    all: Vec<usize>,
    /// Those that hold rows of events themselves.
    leaves: Vec<usize>,
}

impl Pages {
    fn of(temp: &TempStore) -> Self {
        let file = Connection::open(temp.path()).expect("opens");
        let pages = |which: &str| {
            let sql = format!("SELECT pageno - 1 FROM dbstat WHERE {which} ORDER BY pageno");
            let mut pages = file.prepare(&sql).expect("SQLite was built with dbstat");
            let pages = pages.query_map([], |row| row.get::<_, usize>(0)).expect("readable");
            pages.collect::<Result<Vec<_>, _>>().expect("readable")
        };
        Self {
            all: pages("name NOT IN ('log', 'epoch', 'sqlite_schema')"),
            leaves: pages("name = 'event' AND pagetype = 'leaf'"),
        }
    }
}

/// A sound log as bytes, what it holds, and where.
struct Original {
    bytes: Vec<u8>,
    events: Vec<Arc<StoredEvent>>,
    pages: Pages,
}

/// What becomes of a flipped byte.
#[derive(Debug, PartialEq)]
enum Flipped {
    /// The file is refused.
    Refused,
    /// `verify` finds it.
    Found,
    /// `verify` finds nothing, and every event is what it was, in the log and in its aggregate.
    Unchanged,
}

impl Original {
    async fn make() -> Self {
        let temp = log().await;
        let bytes = std::fs::read(temp.path()).expect("readable");
        let store = temp.open().await;
        let events = read_all(&store).await.expect("readable");
        store.close().await;
        let pages = Pages::of(&temp);
        assert!(pages.leaves.len() > 5 && pages.all.len() > 30, "too few pages to tell");
        Self { bytes, events, pages }
    }

    /// Flips a byte in the page-th of the pages, and looks. `Err` if it changes anything unnoticed.
    async fn flip(&self, page: usize, offset: usize, by: u8) -> Result<Flipped, String> {
        let temp = TempStore::new();
        let mut bytes = self.bytes.clone();
        bytes[self.pages.all[page] * 4096 + offset] ^= by;
        std::fs::write(temp.path(), bytes).expect("written");
        match verify(temp.path(), |_, _| {}) {
            Err(_) => return Ok(Flipped::Refused),
            Ok(Verification { faults, .. }) if !faults.is_empty() => return Ok(Flipped::Found),
            Ok(_) => {}
        }
        let store = temp.try_open().await.map_err(|error| error.to_string())?;
        let events = read_all(&store).await.map_err(|error| error.to_string())?;
        if events != self.events {
            return Err("the log differs".into());
        }
        for id in ["0", "1", "2"] {
            let thing = aggregate("Thing", id);
            let page =
                store.load(&thing, Sequence::START, usize::MAX).await.map_err(|error| error.to_string())?;
            if !self.events.iter().filter(|event| event.aggregate == thing).eq(&page.events) {
                return Err(format!("{thing} differs"));
            }
        }
        let session = EventFilter::everything();
        let session =
            EventFilter { pattern: "events/session/a session/**".parse().expect("valid"), ..session };
        let page =
            store.read(Position::START, &session, usize::MAX).await.map_err(|error| error.to_string())?;
        if !self.events.iter().filter(|event| event.session_id.is_some()).eq(&page.events) {
            return Err("the session's events differ".into());
        }
        store.close().await;
        Ok(Flipped::Unchanged)
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(within("a file with a flipped byte", work))
}

static ORIGINAL: std::sync::LazyLock<Original> = std::sync::LazyLock::new(|| run(Original::make()));

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_flipped_byte_changes_an_event_unnoticed(
        page in any::<prop::sample::Index>(),
        offset in 0..4096_usize,
        by in 1..=u8::MAX,
    ) {
        let page = page.index(ORIGINAL.pages.all.len());
        prop_assert!(run(ORIGINAL.flip(page, offset, by)).is_ok());
    }
}

/// The random flips are worth nothing if they met only free space; this says that they don't.
#[test]
fn the_flips_of_every_page_meet_what_is_found() {
    for page in 0..ORIGINAL.pages.all.len() {
        let flips: Vec<_> =
            (0..4096).step_by(257).map(|offset| run(ORIGINAL.flip(page, offset, 0x04))).collect();
        assert!(flips.iter().all(Result::is_ok), "page {page}: {flips:?}");
        assert!(!flips.iter().all(|flip| *flip == Ok(Flipped::Unchanged)), "page {page} was never looked at");
    }
}
