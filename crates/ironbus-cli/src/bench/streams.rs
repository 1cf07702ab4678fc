//! Live streams of the server: how many deliveries a second there are to many of them, with one event under way at a
//! time and with many. Every event is stored and synced before it is sent.
//!
//! The server is in this process; the clients are in another, which counts the lines that begin with `id: `, of which
//! every event has one and nothing else does before the first heartbeat. It is told line by line:
//!
//! - `connect ADDRESS COUNT` opens so many streams. Answers `connected` once each has begun to be answered.
//! - `expect COUNT` waits until each stream has got so many events more. Answers `done`.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ironbus::{Aggregate, Append, ExpectedVersion, NewEvent, Node, NodeOptions};
use ironbus_server::ServerOptions;
use memchr::memmem::Finder;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tokio_util::sync::CancellationToken;

use super::figures::{grouped, per_second};
use super::helper::Helper;
use super::{Bench, BenchError, During, Part, Row, payload};

/// How many events are told at once where many are.
pub(super) const BURST: u64 = 500;

/// How long clients wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, BenchError> {
    let (mut alone, mut many) = (Vec::new(), Vec::new());
    for _ in bench.turns(&format!("live streams: {}", grouped(bench.sizes.streams as f64))) {
        let (one, burst) = bench.runtime.block_on(turn(bench))?;
        alone.push(one);
        many.push(burst);
    }
    let to = format!("to {} streams", grouped(bench.sizes.streams as f64));
    let row = |what: String, turns: &[f64]| Row::new(Part::Sse.name(), what, turns, "deliveries/s").synced();
    Ok(vec![
        row(format!("{to}, one event under way"), &alone),
        row(format!("{to}, {BURST} events under way"), &many),
    ])
}

/// Deliveries a second with one event under way, and with many.
async fn turn(bench: &Bench<'_>) -> Result<(f64, f64), BenchError> {
    let folder = bench.folder()?;
    let node = Node::open(NodeOptions::new(folder.path())).await.during("a node can't be opened")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.during("no port can be listened on")?;
    let address = listener.local_addr().during("no port can be listened on")?;
    // No heartbeat, whose lines would be among those that are counted by time.
    let heartbeat = Duration::from_secs(3600);
    let options = ServerOptions { heartbeat, drain: Duration::ZERO, ..ServerOptions::default() };
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(ironbus_server::serve(node.clone(), listener, options, shutdown.clone()));
    let measured = deliver(bench, &node, address).await;
    shutdown.cancel();
    served.await.during("the server failed")?.during("the server failed")?;
    node.shutdown(Duration::from_secs(5)).await;
    measured
}

async fn deliver(bench: &Bench<'_>, node: &Node, address: SocketAddr) -> Result<(f64, f64), BenchError> {
    let streams = bench.sizes.streams as u64;
    let aggregate = Aggregate::new("Bench", "1").expect("valid");
    let mut load = Helper::start(&["load"])?;
    load.say(&format!("connect {address} {streams}"))?;
    load.hear("connected")?;
    let (alone, bursts) = (bench.sizes.alone.min(400) as u64, bench.sizes.bursts);
    let mut rates = [0.0; 2];
    // The first event, which everybody waits for once, isn't measured.
    for (rate, times, count) in [(None, 1, 1), (Some(0), alone, 1), (Some(1), bursts, BURST)] {
        let began = Instant::now();
        for _ in 0..times {
            load.say(&format!("expect {count}"))?;
            let events = (0..count).map(|_| NewEvent::new("Measured", payload())).collect();
            let append = Append::to(aggregate.clone(), ExpectedVersion::Any, events);
            node.store().append(append).await.during("events can't be stored")?;
            // What is waited for has a thread of its own, because others run here.
            tokio::task::block_in_place(|| load.hear("done"))?;
        }
        if let Some(rate) = rate {
            rates[rate] = per_second(times * count * streams, began.elapsed());
        }
    }
    Ok((rates[0], rates[1]))
}

/// What every event begins with.
const ID: &[u8; 5] = b"\nid: ";

/// How many connections may be on their way: a listener's queue is bounded.
const UNDER_WAY: usize = 64;

struct Client {
    socket: TcpStream,
    asked: bool,
    answered: bool,
    events: u64,
    /// The last bytes, in which an event may begin.
    last: [u8; ID.len() - 1],
}

struct Load {
    poll: Poll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    finder: Finder<'static>,
}

/// The other process: clients of a server, until its standard input ends.
pub(super) fn load() -> Result<(), BenchError> {
    let mut load = Load {
        poll: Poll::new().during("nothing can be polled")?,
        clients: Vec::new(),
        buffer: vec![0; 1 << 18],
        finder: Finder::new(ID),
    };
    let mut expected = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.during("what is to be done can't be read")?;
        let count = |text: &str| text.parse::<u64>().during("a count was expected");
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["connect", address, streams] => {
                let address = address.parse::<SocketAddr>().during("an address was expected")?;
                load.connect(address, usize::try_from(count(streams)?).during("too many")?)?;
                println!("connected");
            }
            ["expect", events] => {
                expected += count(events)?;
                load.until(|client| client.events >= expected)?;
                println!("done");
            }
            _ => return Err(BenchError::Helper { said: words.join(" "), instead: "connect or expect" }),
        }
    }
    Ok(())
}

impl Load {
    fn connect(&mut self, address: SocketAddr, count: usize) -> Result<(), BenchError> {
        while self.clients.len() < count {
            for _ in 0..UNDER_WAY.min(count - self.clients.len()) {
                let mut socket = TcpStream::connect(address).during(
                    "a stream can't be opened; if too many files are open, raise their limit (`ulimit -n`)",
                )?;
                let (token, both) = (Token(self.clients.len()), Interest::READABLE | Interest::WRITABLE);
                self.poll.registry().register(&mut socket, token, both).during("a stream can't be polled")?;
                let last = [0; ID.len() - 1];
                self.clients.push(Client { socket, asked: false, answered: false, events: 0, last });
            }
            self.until(|client| client.answered)?;
        }
        Ok(())
    }

    /// Reads what comes until this is so of every client.
    fn until(&mut self, is_so: impl Fn(&Client) -> bool) -> Result<(), BenchError> {
        let mut missing = self.clients.iter().filter(|client| !is_so(client)).count();
        let mut events = Events::with_capacity(4096);
        while missing > 0 {
            self.poll.poll(&mut events, Some(PATIENCE)).during("streams can't be polled")?;
            if events.is_empty() {
                return Err(format!("{missing} of {} wait", self.clients.len()))
                    .during("nothing comes any more");
            }
            for event in &events {
                let client = &mut self.clients[event.token().0];
                let before = is_so(client);
                if event.is_writable() && !client.asked {
                    client.asked = true;
                    let request =
                        b"GET /v1/stream?pattern=events/Bench/** HTTP/1.1\r\nhost: localhost\r\n\r\n";
                    client.socket.write_all(request).during("a stream can't be asked for")?;
                }
                if event.is_readable() {
                    client.read(&mut self.buffer, &self.finder)?;
                }
                missing -= usize::from(is_so(client) && !before);
            }
        }
        Ok(())
    }
}

impl Client {
    /// Reads all that has come.
    fn read(&mut self, buffer: &mut [u8], finder: &Finder<'_>) -> Result<(), BenchError> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err("the server has closed it").during("a stream ended"),
                Ok(read) => self.take(&buffer[..read], finder)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("a stream can't be read"),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], finder: &Finder<'_>) -> Result<(), BenchError> {
        if !self.answered {
            if !bytes.starts_with(b"HTTP/1.1 200") {
                let said = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
                return Err(said).during("the server doesn't give a stream");
            }
            self.answered = true;
        }
        // What came in two parts: less of either than what is looked for.
        let kept = self.last.len();
        let mut seam = self.last.to_vec();
        seam.extend_from_slice(&bytes[..bytes.len().min(kept)]);
        self.events += (finder.find_iter(&seam).count() + finder.find_iter(bytes).count()) as u64;
        if let Some(last) = bytes.last_chunk() {
            self.last = *last;
        } else {
            self.last.copy_from_slice(&seam[seam.len() - kept..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_counted_once_wherever_it_is_cut() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let text = b"HTTP/1.1 200 OK\r\n\r\n: hello\n\nid: 1.1\ndata: id: x\n\nid: 1.2\ndata: \"\n\nid: ";
        let finder = Finder::new(ID);
        for first in 12..text.len() {
            for second in first..text.len().min(first + 6) {
                let socket = TcpStream::connect(address).expect("a socket");
                let last = [0; ID.len() - 1];
                let mut client = Client { socket, asked: true, answered: false, events: 0, last };
                for part in [&text[..first], &text[first..second], &text[second..]] {
                    client.take(part, &finder).expect("a stream");
                }
                assert_eq!(client.events, 3, "cut at {first} and {second}");
                drop(listener.accept());
            }
        }
    }
}
