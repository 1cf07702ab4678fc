//! Several processes that append to one bucket of an S3 server: killed, and by a server that loses replies.
//!
//! The server is moto's (`moto_server`, a Python package). `IRONBUS_MOTO` names it where it isn't on the
//! path; where there is none the test says so and is skipped. The feature `s3` is needed.

mod history;
mod proxy;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ironbus_testkit::check::check_log;
use ironbus_testkit::s3::S3Server;
use ironbus_testkit::{example, read_all, within};
use ironbus_zenoh::storage::{
    CommitLog, Committed, ObjectLog, S3Credentials, S3Options, Slot, StorageOptions, ZenohStorageEventStore,
    verify,
};
use tokio::sync::mpsc;

use history::{Answer, History, Operation, check_linearizable};

const BUCKET: &str = "ironbus-test";
/// The name and the secret of whom moto's server lets in: everybody.
const ANYBODY: &str = "anybody";
const WRITERS: u64 = 3;
/// How many appends each writer makes.
const APPENDS: u64 = 40;
/// How often each writer is killed, always while it waits for an answer.
const KILLS: u64 = 3;

fn options(server: &S3Server) -> S3Options {
    S3Options {
        endpoint: Some(format!("http://{}", server.address())),
        region: Some("us-east-1".into()),
        credentials: Some(S3Credentials { access_key_id: ANYBODY.into(), secret_access_key: ANYBODY.into() }),
        allow_http: true,
        ..S3Options::new(BUCKET, "a/log")
    }
}

/// A writer's process, and the lines that it prints.
struct Writer {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Writer {
    fn start(endpoint: &str, writer: u64, first: u64, last: u64) -> Self {
        let mut command = Command::new(example("bucket-writer"));
        let numbers = [writer, first, last].map(|number| number.to_string());
        command.env("AWS_ACCESS_KEY_ID", ANYBODY).env("AWS_SECRET_ACCESS_KEY", ANYBODY);
        command.args([endpoint, BUCKET]).args(numbers).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || printed.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }
}

/// Lets a writer make its appends, kills it now and then while it waits for an answer, and starts it again
/// with the append that it was at. Gives back what it was told.
async fn drive(endpoint: String, writer: u64, seed: u64, killed: Arc<AtomicUsize>) -> History {
    let (mut next, last) = (writer * APPENDS + 1, (writer + 1) * APPENDS);
    let mut random = fastrand::Rng::with_seed(seed + writer);
    let mut kills: Vec<u64> = (0..KILLS).map(|_| random.u64(next..=last)).collect();
    let mut asked: BTreeMap<u64, u128> = BTreeMap::new();
    let mut history = History::new();
    'process: loop {
        let mut process = Writer::start(&endpoint, writer, next, last);
        while let Some(line) = process.lines.recv().await {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            let time = || words[2].parse::<u128>().expect("a time");
            let answer = match words[0] {
                "asked" => {
                    asked.entry(number(1)).or_insert_with(time);
                    if let Some(at) = kills.iter().position(|n| *n == number(1)) {
                        kills.remove(at);
                        // At some moment of the append.
                        tokio::time::sleep(Duration::from_millis(random.u64(..30))).await;
                        process.child.kill().expect("it runs");
                        process.child.wait().expect("it has ended");
                        killed.fetch_add(1, Relaxed);
                        // What it could still say counts: it was told so.
                        while let Some(line) = process.lines.recv().await {
                            if !line.starts_with("asked") && line != "done" {
                                note(&mut history, &asked, &line);
                                next = history.keys().last().expect("it was just noted") + 1;
                            } else if let Some(number) = line.strip_prefix("asked ") {
                                let mut words = number.split(' ');
                                let mut word = || words.next().and_then(|word| word.parse::<u128>().ok());
                                let (n, time) = (word().expect("a number"), word().expect("a time"));
                                asked.entry(n as u64).or_insert(time);
                            }
                        }
                        continue 'process;
                    }
                    continue;
                }
                "done" => {
                    process.child.wait().expect("it ends");
                    return history;
                }
                _ => line.as_str(),
            };
            note(&mut history, &asked, answer);
            next = number(1) + 1;
        }
        panic!("writer {writer} ended at {next}: {:?}", process.child.wait());
    }
}

fn note(history: &mut History, asked: &BTreeMap<u64, u128>, line: &str) {
    let words: Vec<u128> = line.split(' ').skip(1).map(|word| word.parse().expect("a number")).collect();
    let answer = match (line.split(' ').next(), &words[2..]) {
        (Some("stored"), [position, sequence]) => {
            Answer::Stored { position: *position as u64, sequence: *sequence as u64 }
        }
        (Some("refused"), [actual]) => Answer::Refused { actual: *actual as u64 },
        _ => panic!("{line}"),
    };
    let n = words[0] as u64;
    history.insert(n, Operation { asked: asked[&n], answered: words[1], answer });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_make_one_linearizable_history_in_one_bucket() {
    let Some(server) = S3Server::start(BUCKET, "several processes on one bucket").await else { return };
    let (proxy, faults) = proxy::start(server.address(), 1).await.expect("loopback");
    let endpoint = format!("http://{proxy}");
    let killed = Arc::new(AtomicUsize::new(0));
    let drivers =
        (0..WRITERS).map(|writer| tokio::spawn(drive(endpoint.clone(), writer, 7, Arc::clone(&killed))));
    let driven =
        tokio::time::timeout(Duration::from_secs(240), futures_util::future::join_all(drivers)).await;
    let mut history = History::new();
    for driven in driven.expect("all writers get through") {
        history.extend(driven.expect("no panic"));
    }
    assert_eq!(history.len() as u64, WRITERS * APPENDS, "every append was answered");

    let log = open(&options(&server)).await;
    let verified = verify(&log).await.expect("the log is sound").expect("it was begun");
    let store = ZenohStorageEventStore::open(Arc::new(log), StorageOptions::default()).await.expect("sound");
    let stored = read_all(&store).await.expect("it can be read");
    check_log(&stored).expect("one history");
    assert_eq!(check_linearizable(&history, &stored), Ok(()));
    assert_eq!(verified.head.0, stored.len() as u64);
    let (unheard, cut, late) =
        (faults.unheard.load(Relaxed), faults.cut.load(Relaxed), faults.late.load(Relaxed));
    let refused = history.len() - stored.len();
    println!(
        "{} stored, {refused} refused, {} slots; {} kills, {unheard} puts unheard, {cut} cut, {late} late",
        stored.len(),
        verified.slots,
        killed.load(Relaxed)
    );
    assert!(killed.load(Relaxed) > 0, "nobody was killed");
    assert!(unheard > 0 && cut > 0 && late > 0, "nothing went wrong");
}

async fn open(options: &S3Options) -> ObjectLog {
    ObjectLog::open_s3(options).await.expect("the server honours create-only puts")
}

#[tokio::test]
async fn a_slot_of_a_bucket_is_won_once() {
    let Some(server) = S3Server::start(BUCKET, "several processes on one bucket").await else { return };
    let log = open(&options(&server)).await;
    assert!(matches!(log.commit(Slot(0), "one".into()).await, Committed::Won));
    let second = log.commit(Slot(0), "two".into()).await;
    assert!(matches!(&second, Committed::Lost(held) if held == "one"), "{second:?}");
    assert_eq!(log.read(Slot(0)).await.expect("there").as_deref(), Some(&b"one"[..]));
    assert_eq!(log.read(Slot(1)).await.expect("there"), None);
    assert!(matches!(log.commit(Slot(11), "later".into()).await, Committed::Won));
    assert_eq!(log.beyond(Slot(0)).await.expect("there"), Some(Slot(11)));
    assert_eq!(log.beyond(Slot(11)).await.expect("there"), None);
}

/// Snapshots grow with the log: they go in parts, and come for as long as they take.
#[tokio::test]
async fn a_large_snapshot_is_kept_and_comes_over_a_thin_line() {
    let Some(server) = S3Server::start(BUCKET, "several processes on one bucket").await else { return };
    let log = open(&options(&server)).await;
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    log.keep_snapshot(Slot(3), bytes.clone().into()).await.expect("it can be kept");
    log.keep_snapshot(Slot(3), bytes.clone().into()).await.expect("another node keeps the same");
    assert_eq!(log.snapshots().await.expect("there"), [Slot(3)]);
    // Twenty pieces, which take twice as long together as the server may be silent.
    let (piece, timeout) = (1_000_000, Duration::from_secs(1));
    let thin = proxy::start_thin(server.address(), piece, timeout / 10).await.expect("loopback");
    let options = S3Options { endpoint: Some(format!("http://{thin}")), timeout, ..options(&server) };
    let far = open(&options).await;
    let began = std::time::Instant::now();
    let kept = within("it comes", far.snapshot(Slot(3))).await.expect("there").expect("it was kept");
    assert!(began.elapsed() > timeout, "the line wasn't thin");
    assert!(kept == bytes, "it is another");
}
