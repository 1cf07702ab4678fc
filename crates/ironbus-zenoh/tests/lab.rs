//! Zenoh as it is, between hosts of the lab: what the tests of the bus are built on.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ironbus_testkit::net::Lab;
use ironbus_testkit::{PATIENCE, example};

const PORT: u16 = 7447;
const KEY: &str = "events/Numbered/one/1";

/// By default Zenoh needs 10 s to notice that the other side is gone, and up to 4 s to come back.
const IMPATIENT: [&str; 2] =
    ["transport/link/tx/lease=1000", "connect/retry={period_init_ms:100,period_max_ms:500}"];

/// A running process of a host, and the lines that it prints.
struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts an example in a host and waits until it says that it is ready.
    fn start(lab: &Lab, host: &str, name: &str, arguments: &[&str]) -> Self {
        let mut command = lab.command(host, example(name));
        command.args(arguments).args(IMPATIENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || printed.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let process = Self { child, lines };
        process.lines.recv_timeout(PATIENCE).expect("it says that it is ready");
        process
    }

    fn put(&mut self, number: u64) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{number}").expect("it reads its input");
    }

    /// The number that arrived next, if one does in time.
    fn heard(&self, time: Duration) -> Option<u64> {
        match self.lines.recv_timeout(time) {
            Ok(line) => {
                let number = line.strip_prefix(KEY).expect("it is on our key").trim();
                Some(number.parse().expect("a number"))
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the reader has ended"),
        }
    }
}

/// Puts ascending numbers until one of them arrives, and gives the last that did.
fn talk(writer: &mut Process, reader: &Process, last: &mut u64) {
    let (first, deadline) = (*last + 1, Instant::now() + PATIENCE);
    let mut next = first;
    let mut heard = loop {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for one of the numbers from {first}");
        writer.put(next);
        next += 1;
        match reader.heard(Duration::from_millis(20)) {
            Some(number) if number >= first => break number,
            // An old connection may deliver after all what was put into it during a partition.
            _ => {}
        }
    };
    // Both are connected: what was put since arrives as well, in order.
    while heard < next - 1 {
        let number = reader.heard(PATIENCE).expect("what follows what arrived");
        assert!(number > heard, "{number} after {heard}");
        heard = number;
    }
    *last = heard;
}

/// The ports of a host's connections to the router, as the system lists them.
fn connections(lab: &Lab, host: &str) -> Vec<String> {
    let listed = lab.inside(host, || std::fs::read_to_string("/proc/thread-self/net/tcp")).expect("listed");
    let lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let established = lines.filter(|line| line[2].ends_with(&format!(":{PORT:04X}")) && line[3] == "01");
    established.map(|line| line[1].to_owned()).collect()
}

#[test]
fn clients_in_two_hosts_talk_through_a_router_in_a_third_and_again_after_a_partition() {
    let Some(lab) = Lab::or_skip(&["router", "writer", "reader"]) else { return };
    let router = format!("tcp/{}:{PORT}", lab.address("router"));
    let mut process = Process::start(&lab, "router", "router", &[&router]);
    let reader = Process::start(&lab, "reader", "plain", &["sub", &router, "events/**"]);
    let mut writer = Process::start(&lab, "writer", "plain", &["put", &router, KEY]);
    let mut last = 0;
    talk(&mut writer, &reader, &mut last);
    assert_eq!(lab.counters("writer", "reader").offered, 0, "they only know the router");
    let before = connections(&lab, "reader");
    assert_eq!(before.len(), 1, "{before:?}");

    lab.partition(&["router"], &["writer", "reader"]);
    let deadline = Instant::now() + PATIENCE;
    while !(connections(&lab, "reader").is_empty() && connections(&lab, "writer").is_empty()) {
        assert!(Instant::now() < deadline, "the clients never notice that the router is away");
        last += 1;
        writer.put(last);
        assert_eq!(reader.heard(Duration::from_millis(20)), None, "nothing passes a partition");
    }
    lab.heal();
    let healed = Instant::now();
    talk(&mut writer, &reader, &mut last);
    println!("they talk again {:?} after the partition healed", healed.elapsed());
    let after = connections(&lab, "reader");
    assert!(after.len() == 1 && after != before, "the reader has connected anew: {before:?}, {after:?}");

    let terminated = Command::new("kill").arg(process.child.id().to_string()).status().expect("it runs");
    assert!(terminated.success() && process.child.wait().expect("it ends").success());
}
