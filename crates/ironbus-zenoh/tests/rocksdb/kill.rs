//! `kill -9` at random moments of processes in which eight clients append: what was acknowledged is there once,
//! nothing is half there, and a retry of what wasn't answered gives one event.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ironbus::event::{EventId, Position};
use ironbus_testkit::check::{check_batches, check_log};
use ironbus_testkit::{example, read_all};
use ironbus_zenoh::storage::verify;
use uuid::Uuid;

use crate::support::{node, open};

const CLIENTS: u64 = 8;

/// What the clients were told: the positions of each append's events, by client and number.
type Told = BTreeMap<(u64, u64), Vec<u64>>;

/// As `examples/rocks-writer.rs` has them.
fn ids(client: u64, number: u64) -> Vec<EventId> {
    let id =
        |event: u128| EventId(Uuid::from_u128(u128::from(client) << 96 | u128::from(number) << 32 | event));
    (0..if number.is_multiple_of(3) { 3 } else { 1 }).map(id).collect()
}

/// The number after the last that was acknowledged.
fn next(told: &Told, client: u64) -> u64 {
    told.range((client, 0)..(client + 1, 0)).next_back().map_or(1, |((_, number), _)| number + 1)
}

/// Lets a process append `count` times for each client, and kills it after `life`, if it has one. `true`: it ended
/// by itself.
fn run(folder: &Path, count: u64, life: Option<Duration>, told: &mut Told) -> bool {
    let mut command = Command::new(example("rocks-writer"));
    command.arg(folder).arg(count.to_string());
    command.args((0..CLIENTS).map(|client| next(told, client).to_string()));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let printed = BufReader::new(child.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || printed.split(b'\n').map_while(Result::ok).collect::<Vec<_>>());
    if let Some(life) = life {
        // The moment of the kill is what this test varies.
        std::thread::sleep(life);
        child.kill().expect("it runs");
    }
    let ended = child.wait().expect("it has ended");
    assert!(ended.success() || life.is_some(), "{ended}");
    // What it had still said counts: a client was told so.
    for line in reader.join().expect("no panic") {
        let line = String::from_utf8(line).expect("text");
        let Some(numbers) = line.strip_prefix("stored ") else { panic!("{line}") };
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().expect("a number")).collect();
        let before = told.insert((numbers[0], numbers[1]), numbers[2..].to_vec());
        assert_eq!(before, None, "an append was made again after its answer");
    }
    ended.success()
}

/// Compares the whole log with what was told. Says how many appends are there that nobody was told of.
async fn check(folder: &Path, told: &Told) -> u64 {
    let log = open(folder).await;
    let verified = verify(&*log).await.expect("the log is sound");
    let store = node(&log).await;
    let history = read_all(&store).await.expect("it can be read");
    check_log(&history).expect("one history");
    // A process may have been killed before it had begun the log.
    let head = verified.map_or(Position::START, |verified| verified.head);
    assert_eq!(head, Position(history.len() as u64));
    let places: HashMap<EventId, u64> =
        history.iter().map(|event| (event.event_id, event.position.0)).collect();
    assert_eq!(places.len(), history.len(), "an event is there twice");
    for ((client, number), positions) in told {
        let found: Vec<_> = ids(*client, *number).iter().map(|id| places.get(id).copied()).collect();
        let expected: Vec<_> = positions.iter().map(|position| Some(*position)).collect();
        assert_eq!(found, expected, "client {client} was told of its append {number}");
    }
    // A client has at most one append that it wasn't told of.
    let asked: Vec<Vec<EventId>> = (0..CLIENTS).map(|client| ids(client, next(told, client))).collect();
    check_batches(asked.iter().map(Vec::as_slice), &history).expect("nothing is half there");
    let untold = asked.iter().filter(|ids| places.contains_key(&ids[0]));
    let (events, appends) = untold.fold((0, 0), |(events, appends), ids| (events + ids.len(), appends + 1));
    let known = told.values().map(Vec::len).sum::<usize>() + events;
    assert_eq!(known, history.len(), "nothing is there that nobody sent");
    store.close().await;
    log.close().await;
    appends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_and_nothing_is_half_there() {
    let rounds: u64 = match std::env::var("IRONBUS_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("IRONBUS_KILL_ROUNDS is a number"),
        Err(_) => 15,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut told = Told::new();
    let mut untold = 0;
    for round in 0..rounds {
        // The moment is random to the log: lives of 2 to 300 ms, of which the first go by with opening it.
        let life = Duration::from_micros(2_000 + (round * 7_919 * 1_013) % 298_000);
        let ended = tokio::task::block_in_place(|| run(folder.path(), u64::MAX, Some(life), &mut told));
        assert!(!ended, "it was killed while it ran");
        untold += check(folder.path(), &told).await;
    }
    let before: Vec<u64> = (0..CLIENTS).map(|client| next(&told, client)).collect();
    let unanswered = check(folder.path(), &told).await;
    // Everybody tries again what wasn't answered, or goes on.
    assert!(tokio::task::block_in_place(|| run(folder.path(), 1, None, &mut told)), "it ended by itself");
    assert_eq!(check(folder.path(), &told).await, 0);
    assert!((0..CLIENTS).all(|client| next(&told, client) == before[client as usize] + 1));
    println!(
        "{rounds} kills, {} appends acknowledged, {untold} found that nobody was told of, {unanswered} of them \
         after the last kill",
        told.len()
    );
    assert!(told.len() as u64 > rounds * CLIENTS, "too few came through to show anything");
}
