//! A part of the crowd: one process with many streams open, each of one aggregate, that keeps what each of them gets.
//!
//! It is told what to do line by line on its standard input, and answers on its standard output:
//!
//! - `open ADDRESS FIRST COUNT FILE` opens so many streams. Client `n` of the whole crowd follows the aggregate of line
//!   `n` of the file, counted round and round. Answers `open` once each has said that it is caught up.
//! - `check FILE` waits until each has got as many events as the file says, which has a line for each aggregate: the
//!   positions of its events. Answers `DELIVERIES P50 P99` (of the time from an event's `recorded_at` to its arrival,
//!   in microseconds) if each client has got just those, each once and in order; panics with who hasn't otherwise.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Deserialize;

use crate::appends::histogram;
use crate::sse::clock;

/// How many connections may be on their way: a listener's queue is bounded.
const UNDER_WAY: usize = 64;

/// After so long without anything, what is missing won't come.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Event {
    position: u32,
    aggregate_type: String,
    aggregate_id: String,
    recorded_at: jiff::Timestamp,
}

struct Client {
    socket: TcpStream,
    /// Which line of the file it follows.
    aggregate: usize,
    request: Vec<u8>,
    is_caught_up: bool,
    /// What came of a frame that isn't whole.
    rest: Vec<u8>,
    got: Vec<u32>,
}

pub(crate) fn run() {
    let mut part: Option<Part> = None;
    // Events must be taken while nothing is said, so lines come from a thread of their own.
    let poll = Poll::new().expect("a poll");
    let waker = mio::Waker::new(poll.registry(), WAKE).expect("a waker");
    let (lines, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            lines.send(line.expect("readable")).expect("the other side waits");
            waker.wake().expect("woken");
        }
        drop(lines);
        waker.wake().expect("woken");
    });
    let mut poll = Some(poll);
    loop {
        if let Some(part) = &mut part {
            part.take(None);
        }
        let line = match (&part, said.try_recv()) {
            (_, Ok(line)) => line,
            (Some(_), Err(std::sync::mpsc::TryRecvError::Empty)) => continue,
            (None, Err(std::sync::mpsc::TryRecvError::Empty)) => match said.recv() {
                Ok(line) => line,
                Err(_) => return,
            },
            _ => return,
        };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match (words.as_slice(), &mut part) {
            (["open", address, first, count, file], _) => {
                let number = |text: &str| text.parse::<usize>().expect("a number");
                let opened = Part::new(poll.take().expect("said once"), number(first), read(file));
                let opened = part.insert(opened);
                opened.open(address.parse().expect("an address"), number(count));
                "open".to_owned()
            }
            (["check", file], Some(part)) => part.check(&read(file)),
            _ => panic!("an unknown line: {line}"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads this");
    }
}

const WAKE: Token = Token(usize::MAX);

fn read(file: &str) -> Vec<String> {
    std::fs::read_to_string(file).expect("readable").lines().map(str::to_owned).collect()
}

struct Part {
    poll: Poll,
    happened: Events,
    buffer: Vec<u8>,
    first: usize,
    /// The aggregates' types and ids, as in keys.
    aggregates: Vec<String>,
    clients: Vec<Client>,
    caught_up: usize,
    latencies: Histogram<u64>,
}

impl Part {
    fn new(poll: Poll, first: usize, aggregates: Vec<String>) -> Self {
        Self {
            poll,
            happened: Events::with_capacity(4096),
            buffer: vec![0; 1 << 16],
            first,
            aggregates,
            clients: Vec::new(),
            caught_up: 0,
            latencies: histogram(),
        }
    }

    fn open(&mut self, address: SocketAddr, count: usize) {
        while self.caught_up < count {
            while self.clients.len() < count && self.clients.len() - self.caught_up < UNDER_WAY {
                let number = self.clients.len();
                let aggregate = (self.first + number) % self.aggregates.len();
                let path = format!("/v1/stream?pattern=events/{}/**", self.aggregates[aggregate]);
                let path = path.replace('%', "%25").replace('&', "%26").replace('+', "%2B");
                let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
                let mut socket =
                    TcpStream::connect(address).expect("a socket; raise the limit on open files");
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut socket, Token(number), both).expect("registered");
                let (rest, got) = (Vec::new(), Vec::new());
                self.clients.push(Client { socket, aggregate, request, is_caught_up: false, rest, got });
            }
            assert!(self.take(Some(SILENCE)), "{} of {count} are open, and nothing comes", self.caught_up);
        }
    }

    /// Takes what comes next; says whether anything did.
    fn take(&mut self, patience: Option<Duration>) -> bool {
        self.poll.poll(&mut self.happened, patience).expect("polled");
        for event in &self.happened {
            let Some(client) = self.clients.get_mut(event.token().0) else { continue };
            if event.is_writable() && !client.request.is_empty() {
                let request = std::mem::take(&mut client.request);
                client.socket.write_all(&request).expect("a small request");
            }
            if !event.is_readable() {
                continue;
            }
            loop {
                match client.socket.read(&mut self.buffer) {
                    Ok(0) => panic!("the stream of {} was ended", self.aggregates[client.aggregate]),
                    Ok(read) => {
                        let before = client.is_caught_up;
                        let name = &self.aggregates[client.aggregate];
                        client.take(&self.buffer[..read], name, &mut self.latencies);
                        self.caught_up += usize::from(client.is_caught_up && !before);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => panic!("the stream of {}: {error}", self.aggregates[client.aggregate]),
                }
            }
        }
        !self.happened.is_empty()
    }

    fn check(&mut self, expected: &[String]) -> String {
        let positions = |line: &String| -> Vec<u32> {
            line.split_whitespace().map(|position| position.parse().expect("a position")).collect()
        };
        let expected: Vec<Vec<u32>> = expected.iter().map(positions).collect();
        assert_eq!(expected.len(), self.aggregates.len(), "a line for each aggregate");
        let lacks = |client: &Client| client.got.len() < expected[client.aggregate].len();
        while self.clients.iter().any(lacks) {
            if !self.take(Some(SILENCE)) {
                break;
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            let name = &self.aggregates[client.aggregate];
            let number = self.first + number;
            assert_eq!(client.got, expected[client.aggregate], "client {number}, of {name}");
        }
        let deliveries: usize = self.clients.iter().map(|client| client.got.len()).sum();
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        format!("{deliveries} {} {}", at(0.5), at(0.99))
    }
}

impl Client {
    fn take(&mut self, bytes: &[u8], name: &str, latencies: &mut Histogram<u64>) {
        self.rest.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(end) = memchr::memmem::find(&self.rest[done..], b"\n\n") {
            let frame = std::str::from_utf8(&self.rest[done..done + end]).expect("UTF-8");
            done += end + 2;
            if frame.contains("event: caught_up") {
                self.is_caught_up = true;
            }
            let Some(data) = frame.strip_prefix("id: ").and_then(|frame| frame.split_once("\ndata: ")) else {
                assert!(!frame.contains("event: reset"), "the stream of {name} was reset");
                continue;
            };
            let event: Event = serde_json::from_str(data.1).expect("an event");
            assert_eq!(data.0.split_once('.').expect("a cursor").1, event.position.to_string());
            let key = super::key_of(&event.aggregate_type, &event.aggregate_id);
            assert_eq!(key, name, "an event of another aggregate came");
            let micros = u64::try_from(event.recorded_at.as_microsecond()).expect("after 1970");
            latencies.record((clock() / 1000).saturating_sub(micros).max(1)).expect("in range");
            self.got.push(event.position);
        }
        self.rest.drain(..done);
        if self.rest.is_empty() {
            // There are many, and most are quiet.
            self.rest = Vec::new();
        }
    }
}
