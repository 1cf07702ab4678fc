//! A crowd of live readers: so many streams over HTTP on one node or over several edge nodes, each with a pattern of its
//! own, while a real log flows. Every one of them is checked, event by event.
//!
//! `ironbus-bench crowd [--clients COUNT] [--edges COUNT] [--rate EVENTS_A_SECOND] [--log NAME]`. With no edges all are
//! on the store node. All processes run on this machine: the store node, the edges, and as many load generators.

mod client;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ironbus::key::EventKey;
use ironbus::{Aggregate, Sequence};
use ironbus_testkit::real_log::{RealEvent, real_log};

use crate::sse::Talk;
use crate::table::{Table, grouped, micros};

/// The first argument of a load generator's process.
pub(crate) const CLIENTS: &str = "crowd-clients";

pub(crate) use client::run as run_clients;

struct Options {
    clients: usize,
    edges: usize,
    rate: u64,
    log: String,
}

impl Options {
    fn of(arguments: &[String]) -> Result<Self, String> {
        let mut options =
            Self { clients: 100_000, edges: 6, rate: 1000, log: "bpic2013-incidents.jsonl.gz".to_owned() };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name} wants a value"))?;
            let number = || value.parse().map_err(|_| format!("{name}: `{value}` isn't a number"));
            match name.as_str() {
                "--clients" => options.clients = number()?,
                "--edges" => options.edges = number()?,
                "--rate" => options.rate = number()? as u64,
                "--log" => options.log.clone_from(value),
                _ => {
                    return Err(format!(
                        "unknown argument `{name}`; there are --clients, --edges, --rate and --log"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// A node of the crowd's, in a process of its own; ended when it is dropped.
struct Server {
    child: Child,
    address: String,
    /// Kept open: it says more later.
    _out: BufReader<ChildStdout>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(ironbus());
        command.arg("serve").args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("`cargo build --release -p ironbus-cli` builds it");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("readable");
        let address = line.trim().strip_prefix("listening on http://").expect("it answers").to_owned();
        Self { child, address, _out: out }
    }

    /// Its resident memory, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary beside this one.
fn ironbus() -> PathBuf {
    std::env::current_exe().expect("this program").with_file_name("ironbus")
}

/// The aggregate's part of its events' keys.
fn key_of(aggregate_type: &str, aggregate_id: &str) -> String {
    let aggregate = Aggregate::new(aggregate_type, aggregate_id).expect("valid");
    let key = EventKey::new(&aggregate, Sequence(1), None).to_string();
    key.trim_start_matches("events/").rsplit_once('/').expect("a sequence").0.to_owned()
}

pub(crate) fn measure(arguments: &[String], place: &Path) -> Result<Table, String> {
    let options = Options::of(arguments)?;
    let Some(events) = real_log(&options.log) else { return Err("there is no such log".to_owned()) };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (keys, numbers) = aggregates(&events);
    let names = folder.path().join("aggregates");
    std::fs::write(&names, keys.join("\n")).expect("written");

    let (store, edges) = start(&options, folder.path());
    let nodes: Vec<&Server> = if edges.is_empty() { vec![&store] } else { edges.iter().collect() };
    let before: u64 = nodes.iter().map(|node| node.memory()).sum();
    let began = Instant::now();
    let mut loads: Vec<Talk> = nodes.iter().map(|_| Talk::start(None, &[CLIENTS])).collect();
    let (mut first, each) = (0, options.clients.div_ceil(nodes.len()));
    for (load, node) in loads.iter_mut().zip(&nodes) {
        let count = each.min(options.clients - first);
        load.say(&format!("open {} {first} {count} {}", node.address, names.display()));
        first += count;
    }
    loads.iter_mut().for_each(|load| load.hear("open"));
    let opened = began.elapsed();
    let after: u64 = nodes.iter().map(|node| node.memory()).sum();
    eprintln!("{} streams are open after {opened:.1?}", grouped(options.clients as f64));

    let (positions, took) = append(&store, &events, &numbers, keys.len(), options.rate);
    let expected = folder.path().join("expected");
    std::fs::write(&expected, positions.join("\n")).expect("written");
    let appended = Instant::now();
    loads.iter_mut().for_each(|load| load.say(&format!("check {}", expected.display())));
    let (mut deliveries, mut p50, mut p99) = (0.0, Vec::new(), 0_f64);
    for load in &mut loads {
        let answer = load.line();
        let figures: Vec<f64> = answer.split(' ').map(|figure| figure.parse().expect("a number")).collect();
        deliveries += figures[0];
        p50.push(figures[1]);
        p99 = p99.max(figures[2]);
    }
    let last = appended.elapsed();
    let most = nodes.iter().map(|node| node.memory()).sum::<u64>();

    let mut table = Table::default();
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / options.clients as f64 / 1024.0;
    table.row(
        &format!(
            "{} SSE clients on {}, each with a pattern of its own",
            grouped(options.clients as f64),
            if edges.is_empty() { "one node".to_owned() } else { format!("{} edge nodes", edges.len()) }
        ),
        &format!(
            "{} events of the real log in {:.1} s, {} deliveries; every client got its events, each once and in order; \
             recorded → arrived p50 {}, p99 {} (of the slowest node); opened in {:.1} s; {:.2} KB a client when idle, \
             {:.2} KB after the run; the last had all {:.1} s after the last append",
            grouped(events.len() as f64),
            took.as_secs_f64(),
            grouped(deliveries),
            micros(crate::table::median(p50)),
            micros(p99),
            opened.as_secs_f64(),
            each(after),
            each(most),
            last.as_secs_f64(),
        ),
        "–",
    );
    Ok(table)
}

/// The keys of the aggregates in the order in which they appear, and which number each has.
fn aggregates(events: &[RealEvent]) -> (Vec<String>, HashMap<&Aggregate, usize>) {
    let (mut keys, mut numbers) = (Vec::new(), HashMap::new());
    for event in events {
        numbers.entry(&event.aggregate).or_insert_with(|| {
            keys.push(key_of(event.aggregate.aggregate_type(), event.aggregate.aggregate_id()));
            keys.len() - 1
        });
    }
    (keys, numbers)
}

fn start(options: &Options, folder: &Path) -> (Server, Vec<Server>) {
    let data = folder.join("data");
    let most = (options.clients.div_ceil(options.edges.max(1)) + 100).to_string();
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let endpoint = format!("tcp/{free}");
    let common = ["--listen", "127.0.0.1:0", "--max-connections", &most];
    let mut arguments = vec!["--data", data.to_str().expect("UTF-8")];
    arguments.extend(common);
    if options.edges > 0 {
        arguments.extend(["--zenoh-listen", &endpoint]);
    }
    let store = Server::start(&arguments);
    let edges: Vec<_> = (1..=options.edges)
        .map(|number| {
            let name = format!("edge-{number}");
            let mut arguments = vec!["--edge", "--name", &name, "--zenoh-connect", &endpoint];
            arguments.extend(common);
            Server::start(&arguments)
        })
        .collect();
    if options.edges > 0 {
        let url = format!("http://{}", store.address);
        let advance = ["migrate", "advance", "--to", "dual", "--reason", "a crowd comes", "--url", &url];
        let done = Command::new(ironbus()).args(advance).stdout(Stdio::null()).status().expect("runs");
        assert!(done.success(), "events go over Zenoh");
    }
    (store, edges)
}

/// Appends the log in its order, at the rate; gives back each aggregate's positions.
fn append(
    store: &Server,
    events: &[RealEvent],
    numbers: &HashMap<&Aggregate, usize>,
    aggregates: usize,
    rate: u64,
) -> (Vec<String>, Duration) {
    let mut positions = vec![String::new(); aggregates];
    let mut connection = std::net::TcpStream::connect(&store.address).expect("connects");
    connection.set_nodelay(true).expect("set");
    let mut answers = BufReader::new(connection.try_clone().expect("cloned"));
    let began = Instant::now();
    let (mut position, mut told) = (0_u64, 0);
    for batch in events.chunks(10) {
        let due = began + Duration::from_secs_f64(position as f64 / rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let writes: Vec<_> = batch
            .iter()
            .map(|event| {
                let payload: &serde_json::value::RawValue =
                    serde_json::from_str(event.payload.as_str()).expect("JSON");
                serde_json::json!({
                    "aggregate_type": event.aggregate.aggregate_type(),
                    "aggregate_id": event.aggregate.aggregate_id(),
                    "events": [{ "event_type": event.event_type, "payload": payload }],
                })
            })
            .collect();
        let body = serde_json::json!({ "writes": writes }).to_string();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).expect("sent");
        created(&mut answers);
        for event in batch {
            position += 1;
            let line = &mut positions[numbers[&event.aggregate]];
            line.push_str(&format!("{position} "));
        }
        if position / 10_000 > told {
            told = position / 10_000;
            eprintln!("{} of {} events after {:.1?}", position, events.len(), began.elapsed());
        }
    }
    (positions, began.elapsed())
}

/// Reads an answer, which must say that the events were stored.
fn created(answers: &mut impl BufRead) {
    let (mut line, mut length) = (String::new(), 0);
    answers.read_line(&mut line).expect("readable");
    let status = line.clone();
    while line != "\r\n" {
        line.clear();
        answers.read_line(&mut line).expect("readable");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    std::io::Read::read_exact(answers, &mut body).expect("a whole answer");
    assert!(status.starts_with("HTTP/1.1 201"), "{status}{}", String::from_utf8_lossy(&body));
}
