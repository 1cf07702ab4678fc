//! The load generator: one process with many streams open, the same for every server.
//!
//! It is told what to do line by line on its standard input, and answers on its standard output:
//!
//! - `connect ADDRESS COUNT PATH` opens so many streams; `{n}` in the path is the stream's number. Answers `connected`
//!   once each has the head of its response.
//! - `expect COUNT` waits until each stream has got so many events more. Answers `done`.
//! - `since NANOS` notes how long after that time (of the system's clock) each stream had got what was expected last.
//! - `report` answers with the percentiles of what was noted, in nanoseconds: `p50 p99`.
//!
//! What a stream gets is counted by the lines that begin with `id: `, of which every event has one and nothing else
//! does before the first heartbeat. That each event is there once and in order is `crowd`'s to check.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use memchr::memmem::Finder;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::appends::histogram;

/// What every event begins with.
const ID: &[u8] = b"\nid: ";

/// How many connections may be on their way: a listener's queue is bounded.
const UNDER_WAY: usize = 64;

struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    /// Whether the head of the response has come.
    open: bool,
    /// How many events it has got.
    events: u64,
    /// The head until it is whole; then the last bytes, in which an event may begin.
    rest: Vec<u8>,
    /// When it got the last event that was expected, in nanoseconds since 1970.
    at: u64,
}

struct Load {
    poll: Poll,
    clients: Vec<Client>,
    expected: u64,
    /// How many clients haven't got all that is expected.
    missing: usize,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
    finder: Finder<'static>,
}

/// Runs until its standard input ends.
pub(crate) fn run() {
    let mut load = Load {
        poll: Poll::new().expect("a poll"),
        clients: Vec::new(),
        expected: 0,
        missing: 0,
        latencies: histogram(),
        buffer: vec![0; 1 << 18],
        finder: Finder::new(ID),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("readable");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match *words.as_slice() {
            ["connect", address, count, path] => {
                load.connect(address.parse().expect("an address"), count.parse().expect("a count"), path);
                "connected".to_owned()
            }
            ["expect", count] => {
                load.expect(count.parse().expect("a count"));
                "done".to_owned()
            }
            ["since", nanos] => {
                load.note(nanos.parse().expect("nanoseconds"));
                "noted".to_owned()
            }
            ["report"] => {
                let latencies = std::mem::replace(&mut load.latencies, histogram());
                format!("{} {}", latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99))
            }
            _ => panic!("an unknown line: {line}"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads this");
    }
}

/// The system's clock, which all processes of a machine share.
pub(crate) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

impl Load {
    fn connect(&mut self, address: SocketAddr, count: usize, path: &str) {
        let first = self.clients.len();
        let (mut started, mut opened, mut events) = (0, 0, Events::with_capacity(1024));
        let mut again = VecDeque::new();
        while opened < count {
            while started < count && started - opened < UNDER_WAY {
                let number = first + started;
                let path = path.replace("{n}", &number.to_string());
                let request =
                    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
                let request = request.into_bytes();
                let mut socket =
                    TcpStream::connect(address).expect("a socket; raise the limit on open files");
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut socket, Token(number), both).expect("registered");
                let rest = Vec::new();
                self.clients.push(Client { socket, request, open: false, events: 0, rest, at: 0 });
                started += 1;
            }
            self.poll.poll(&mut events, Some(Duration::from_secs(20))).expect("polled");
            assert!(!events.is_empty(), "{opened} of {count} streams are open, and nothing comes any more");
            for event in &events {
                let Some(client) = self.clients.get_mut(event.token().0) else { continue };
                if event.is_writable() && !client.request.is_empty() {
                    let request = std::mem::take(&mut client.request);
                    client.socket.write_all(&request).expect("a small request");
                }
                if event.is_readable() {
                    again.push_back(event.token().0);
                }
            }
            for number in again.drain(..) {
                let before = self.clients[number].open;
                self.read(number);
                opened += usize::from(self.clients[number].open && !before);
            }
        }
    }

    /// Reads what has come for a client.
    fn read(&mut self, number: usize) {
        let client = &mut self.clients[number];
        loop {
            match client.socket.read(&mut self.buffer) {
                Ok(0) => panic!("stream {number} was ended"),
                Ok(read) => client.take(&self.buffer[..read], &self.finder),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("stream {number}: {error}"),
            }
        }
        if self.expected > 0 && client.at == 0 && client.events >= self.expected {
            client.at = clock();
            self.missing -= 1;
        }
    }

    fn expect(&mut self, count: u64) {
        // All have got the same before.
        self.expected += count;
        self.missing = 0;
        for client in &mut self.clients {
            client.at = if client.events >= self.expected { clock() } else { 0 };
            self.missing += usize::from(client.at == 0);
        }
        let mut events = Events::with_capacity(4096);
        while self.missing > 0 {
            self.poll.poll(&mut events, Some(Duration::from_secs(60))).expect("polled");
            assert!(!events.is_empty(), "{} streams wait, and nothing comes any more", self.missing);
            for event in &events {
                if event.is_readable() {
                    self.read(event.token().0);
                }
            }
        }
        for client in &self.clients {
            assert_eq!(client.events, self.expected, "each event comes once");
        }
    }

    fn note(&mut self, since: u64) {
        for client in &self.clients {
            self.latencies.record(client.at.saturating_sub(since).max(1)).expect("in range");
        }
    }
}

impl Client {
    fn take(&mut self, bytes: &[u8], finder: &Finder<'_>) {
        if !self.open {
            self.rest.extend_from_slice(bytes);
            let Some(end) = memchr::memmem::find(&self.rest, b"\r\n\r\n") else { return };
            assert!(self.rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.rest));
            self.open = true;
            let body = std::mem::take(&mut self.rest).split_off(end + 3);
            return self.take(&body, finder);
        }
        // One that came in two parts: the rest is shorter than what is looked for.
        self.rest.extend_from_slice(&bytes[..bytes.len().min(ID.len() - 1)]);
        self.events += finder.find_iter(&self.rest).count() as u64 + finder.find_iter(bytes).count() as u64;
        if let Some(last) = bytes.last_chunk::<{ ID.len() - 1 }>() {
            self.rest.clear();
            self.rest.extend_from_slice(last);
        } else {
            let kept = self.rest.len().saturating_sub(ID.len() - 1);
            self.rest.drain(..kept);
        }
    }
}
