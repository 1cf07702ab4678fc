//! Nodes on hosts of the lab: a store node and two edge nodes, which know only a router in a fourth host, on
//! links that lose, repeat and reorder packets, are cut one way, and are partitioned.
//!
//! Every host follows the log with `ironbus tail` and imports a third of a real log through its own node. In the
//! end each tail has to hold exactly what the log holds of its pattern, in order. `IRONBUS_FIRE=full` takes
//! the whole log and partitions of up to 15 s.

#![cfg(target_os = "linux")]

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ironbus_testkit::net::{Lab, Link};
use ironbus_testkit::real_log::{REAL_LOGS, RealEvent, real_log};
use ironbus_testkit::{PATIENCE, example};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const BINARY: &str = env!("CARGO_BIN_EXE_ironbus");
const NODES: [&str; 3] = ["store", "edge-1", "edge-2"];
const URL: &str = "http://127.0.0.1:4466";

/// What each host follows. The last pattern matches only some events of each aggregate.
const PATTERNS: [&str; 3] = ["events/**", "events/Incident/**", "events/*/*/1"];

struct Hosts {
    lab: Lab,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Hosts {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ironbus(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.lab.command(host, BINARY);
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Starts a process and waits for the line that says that it is ready.
    fn start(&mut self, mut command: Command) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("text");
        self.running.push(child);
        assert!(line.starts_with("listening on"), "{line}");
    }

    fn serve(&mut self, host: &str, words: &[&str]) {
        let router = format!("tcp/{}:7447", self.lab.address("router"));
        let mut command = self.ironbus(host, &["serve", "--name", host, "--listen", "127.0.0.1:4466"]);
        command.args(["--zenoh-client", "--zenoh-connect", &router]).args(words);
        command.stderr(File::create(self.path(&format!("{host}.log"))).expect("a file"));
        self.start(command);
    }

    /// Takes a step of the migration, as soon as nothing is in its way.
    fn migrate(&self, step: &str, reason: &str) {
        let begun = Instant::now();
        loop {
            let words = ["migrate", step, "--url", URL, "--reason", reason];
            let output = self.ironbus("store", &words).output().expect("it runs");
            if output.status.success() {
                println!("{step} ({reason}): after {:.1?}", begun.elapsed());
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("no step from phase"), "{said}");
            assert!(begun.elapsed() < 2 * PATIENCE, "refused for too long: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Appends one event at the store node.
    fn append(&self, id: &str, number: usize) {
        let payload = number.to_string();
        let words = ["append", "Incident", id, "--type", "Numbered", "--payload", &payload, "--url", URL];
        assert!(self.ironbus("store", &words).output().expect("it runs").status.success());
    }

    fn tail(&mut self, host: &str, index: usize) {
        let file = File::create(self.path(&format!("{host}-{index}.jsonl"))).expect("a file");
        let words = ["tail", "--after", "0", "--json", "--pattern", PATTERNS[index], "--url", URL];
        let log = File::create(self.path(&format!("{host}-{index}.log"))).expect("a file");
        let child = self.ironbus(host, &words).stdout(file).stderr(log).spawn();
        self.running.push(child.expect("it starts"));
    }

    /// The positions and ids that a tail has shown so far.
    fn shown(&self, host: &str, index: usize) -> Vec<(u64, String)> {
        places(&std::fs::read(self.path(&format!("{host}-{index}.jsonl"))).expect("it is there"))
    }

    fn logged(&self, pattern: &str) -> Vec<(u64, String)> {
        let words = ["export", "--url", URL, "--pattern", pattern];
        let output = self.ironbus("store", &words).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        places(&output.stdout)
    }

    /// How many events a tail has shown so far. Lines are only counted: reading them as JSON takes longer than what
    /// is measured with this.
    fn count(&self, host: &str, index: usize) -> usize {
        let lines = std::fs::read(self.path(&format!("{host}-{index}.jsonl"))).expect("it is there");
        lines.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Waits until every tail has shown as many events as the log holds of its pattern; gives the time.
    fn converge(&self, expected: &[Vec<(u64, String)>]) -> Duration {
        let begun = Instant::now();
        for host in NODES {
            for (index, expected) in expected.iter().enumerate() {
                loop {
                    let (shown, wanted) = (self.count(host, index), expected.len());
                    if shown >= wanted {
                        break;
                    }
                    assert!(begun.elapsed() < PATIENCE, "{host}, {}: {shown} of {wanted}", PATTERNS[index]);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        begun.elapsed()
    }

    /// Takes cuts away; gives the time until every host's tail has shown what the log held at that moment.
    fn rejoined(&self) -> Duration {
        let output = self.ironbus("store", &["status", "--json", "--url", URL]).output().expect("it runs");
        let status: Value = serde_json::from_slice(&output.stdout).expect("a status in JSON");
        let held = usize::try_from(status["head"].as_u64().expect("a position")).expect("it fits");
        self.lab.rejoin();
        let begun = Instant::now();
        for host in NODES {
            while self.count(host, 0) < held {
                let shown = self.count(host, 0);
                assert!(begun.elapsed() < PATIENCE, "{host}: {shown} of {held}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        begun.elapsed()
    }
}

/// Position and id of each whole line.
fn places(lines: &[u8]) -> Vec<(u64, String)> {
    let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let parse = |line: &[u8]| {
        let event: Value = serde_json::from_slice(line).expect("an event in JSON");
        (event["position"].as_u64().expect("a number"), event["event_id"].as_str().expect("text").to_owned())
    };
    lines[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
}

/// A third of the events: all of some aggregates, in their order.
fn write_third(events: &[RealEvent], third: u64, path: &Path) {
    let mut file = File::create(path).expect("a file");
    for event in events {
        let mut hasher = DefaultHasher::new();
        event.aggregate.hash(&mut hasher);
        if hasher.finish() % 3 == third {
            let payload: Value = event.payload.to().expect("JSON");
            let line = json!({
                "aggregate_type": event.aggregate.aggregate_type(),
                "aggregate_id": event.aggregate.aggregate_id(),
                "event_type": event.event_type,
                "payload": payload,
            });
            writeln!(file, "{line}").expect("written");
        }
    }
}

/// Imports a file through a host's own node, again and again until all of it is in.
fn import(mut command: impl FnMut() -> Command) -> u32 {
    let deadline = Instant::now() + 8 * PATIENCE;
    let mut again = 0;
    loop {
        let output = command().output().expect("it runs");
        if output.status.success() {
            return again;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(4), "an import may only find its node unavailable: {said}");
        assert!(Instant::now() < deadline, "the import never ends: {said}");
        again += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn nodes_behind_a_router_converge_through_loss_cuts_and_partitions_without_a_violation() {
    let Some(events) = real_log(REAL_LOGS[1]) else { return };
    let Some(lab) = Lab::or_skip(&["router", NODES[0], NODES[1], NODES[2]]) else { return };
    let full = std::env::var("IRONBUS_FIRE").is_ok_and(|value| value == "full");
    let events = if full { &events[..] } else { &events[..6000] };
    let seconds = |short: u64, long: u64| Duration::from_secs(if full { long } else { short });

    let mut hosts = Hosts { lab, folder: tempfile::tempdir().expect("a folder"), running: Vec::new() };
    let settings = "[serve.migration]\nparity_seconds = 1\nparity_events = 20\n";
    std::fs::write(hosts.path("store.toml"), settings).expect("written");
    let address = format!("tcp/{}:7447", hosts.lab.address("router"));
    let mut router = hosts.lab.command("router", example("router"));
    router.args([&address, "transport/link/tx/lease=3000"]);
    hosts.start(router);
    hosts.serve("store", &["--data", "data", "--config", "store.toml"]);
    NODES[1..].iter().for_each(|edge| hosts.serve(edge, &["--edge"]));
    for host in NODES {
        (0..PATTERNS.len()).for_each(|index| hosts.tail(host, index));
    }
    for (third, host) in (0..).zip(NODES) {
        write_third(events, third, &hosts.path(&format!("{host}.jsonl")));
    }

    let begun = Instant::now();
    let (mut flowing, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let imports = NODES.map(|host| {
            let file = format!("{host}.jsonl");
            scope.spawn(move || {
                import(|| hosts.ironbus(host, &["import", &file, "--batch", "20", "--url", URL]))
            })
        });
        hosts.migrate("advance", "edge nodes");
        let link = Link {
            loss: 0.1,
            duplicate: 0.05,
            reorder: 0.1,
            delay: Duration::from_millis(1),
            ..Link::default()
        };
        hosts.lab.impair(link);
        std::thread::sleep(seconds(2, 20));
        for (cut, away) in [(1, 1), (2, 5), (3, 15)] {
            hosts.lab.partition(&["store"], &["router"]);
            std::thread::sleep(seconds(cut, away));
            slowest = slowest.max(hosts.rejoined());
            hosts.lab.cut("router", "edge-1");
            std::thread::sleep(seconds(1, 4));
            slowest = slowest.max(hosts.rejoined());
            hosts.lab.cut("edge-2", "router");
            std::thread::sleep(seconds(1, 4));
            slowest = slowest.max(hosts.rejoined());
        }
        hosts.lab.heal();
        // Parity is judged by what flows: whatever the imports' pace, something does.
        let steps = CancellationToken::new();
        let stop = steps.clone().drop_guard();
        let trickle = scope.spawn(move || {
            let mut appended = 0;
            while !steps.is_cancelled() {
                hosts.append("flowing", appended);
                appended += 1;
            }
            appended
        });
        hosts.migrate("advance", "parity");
        drop(stop);
        flowing = trickle.join().expect("it doesn't panic");
        let again = imports.map(|import| import.join().expect("it doesn't panic"));
        println!(
            "{} events imported after {:.1?}; begun again {again:?} times",
            events.len(),
            begun.elapsed()
        );
    });

    // The edges are away while the last events are appended: only a heartbeat can tell of these.
    hosts.lab.partition(&["router"], &["edge-1", "edge-2"]);
    (0..20).for_each(|number| hosts.append("the last", number));
    let logged = PATTERNS.map(|pattern| hosts.logged(pattern));
    assert_eq!(logged[0].len(), events.len() + flowing + 20, "every acknowledged event is there once");
    std::thread::sleep(seconds(2, 15));
    hosts.lab.heal();
    let took = hosts.converge(&logged);
    println!(
        "the edges had what the log held {slowest:.1?} after a link came back at the latest, while all wrote and \
         links lost packets; {took:.1?} after the last partition healed"
    );
    let took = took.max(slowest);
    for host in NODES {
        for (index, expected) in logged.iter().enumerate() {
            assert_eq!(hosts.shown(host, index), *expected, "{host}, {}", PATTERNS[index]);
        }
    }
    assert!(took < Duration::from_secs(5), "it took {took:?} to converge");
    ["to dual", "to broadcast"].into_iter().for_each(|reason| hosts.migrate("rollback", reason));
    let verified = hosts.ironbus("store", &["verify", "--data", "data"]).output().expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
