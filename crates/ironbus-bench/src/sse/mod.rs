//! Live streams over HTTP: what an idle one takes, and how many deliveries a second there are to 1,000 of them, with
//! one event under way at a time and with as many as come. One load generator (`load`) for ours and all others.
//!
//! The server has one processor to itself and the load generator another, where the system lets them be chosen.
//! Ours stores every event before it is sent (FULL); the others only send.

mod load;
mod nchan;
mod peers;
mod server;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use load::clock;

use crate::table::{Table, grouped, median, micros, per_second};

/// The first argument of the processes that are started here.
pub(crate) const LOAD: &str = "sse-load";
pub(crate) const SERVER: &str = "sse-server";

/// Runs such a process.
pub(crate) fn run(arguments: &[String]) {
    match arguments {
        [load] if load == LOAD => load::run(),
        [_, kind, place] => server::run(kind, Path::new(place)),
        _ => panic!("unknown arguments: {arguments:?}"),
    }
}

const CLIENTS: usize = 1000;

/// How many events come at once where many do.
const BURST: u64 = 500;

/// For how long a process may take to end.
const ENDS: Duration = Duration::from_secs(10);

/// What one turn of one server came to.
struct Turn {
    /// Bytes of memory for an idle stream.
    idle: f64,
    /// Deliveries a second with one event under way, and when half of the clients had it, in microseconds.
    alone: f64,
    p50: f64,
    p99: f64,
    /// Deliveries a second with [`BURST`] events under way.
    many: f64,
}

pub(crate) fn measure(place: &Path, quick: bool, table: &mut Table) {
    let turns = if quick { 1 } else { 5 };
    let mut all: Vec<(&str, Vec<Turn>)> = server::KINDS.iter().map(|kind| (*kind, Vec::new())).collect();
    if nchan::is_there() {
        all.push((server::NCHAN, Vec::new()));
    } else {
        eprintln!("nchan isn't measured: nginx or its module isn't installed");
    }
    for turn in 1..=turns {
        for (kind, of_kind) in &mut all {
            eprintln!("streams from {kind}: turn {turn} of {turns}");
            of_kind.push(turn_of(kind, place, quick));
        }
    }
    let of = |turns: &[Turn], value: fn(&Turn) -> f64| median(turns.iter().map(value).collect());
    let cell = |turns: &[Turn]| {
        format!(
            "idle {:.1} KB a stream; 1,000 streams: one event under way {} deliveries/s (p50 {}, p99 {}), many {}/s",
            of(turns, |turn| turn.idle) / 1024.0,
            grouped(of(turns, |turn| turn.alone)),
            micros(of(turns, |turn| turn.p50)),
            micros(of(turns, |turn| turn.p99)),
            grouped(of(turns, |turn| turn.many)),
        )
    };
    for (kind, turns) in &all {
        let (ours, beside) = if kind.starts_with("ironbus") {
            (cell(turns), "–".into())
        } else {
            ("–".into(), cell(turns))
        };
        table.row(&format!("SSE, {kind}"), &ours, &beside);
    }
}

fn turn_of(kind: &str, place: &Path, quick: bool) -> Turn {
    let (idle_streams, alone, bursts) = if quick { (5000, 100, 10) } else { (10_000, 400, 40) };
    let own =
        |kind: &str| if kind.starts_with("ironbus") { "/v1/stream?pattern=events/Bench/{n}/**" } else { "/" };
    let all =
        |kind: &str| if kind.starts_with("ironbus") { "/v1/stream?pattern=events/Bench/**" } else { "/" };

    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (mut server, mut load) = (Talk::server(kind, folder.path()), Talk::load());
    // What the first streams need once for all isn't told.
    load.tell(&format!("connect {} 100 {}", server.address, own(kind)));
    let before: f64 = server.ask("memory").parse().expect("KiB");
    load.tell(&format!("connect {} {idle_streams} {}", server.address, own(kind)));
    let after: f64 = server.ask("memory").parse().expect("KiB");
    drop((server, load));

    let folder = tempfile::tempdir_in(place).expect("a folder");
    let (mut server, mut load) = (Talk::server(kind, folder.path()), Talk::load());
    load.tell(&format!("connect {} {CLIENTS} {}", server.address, all(kind)));
    // Says when the events were published.
    let deliver = |load: &mut Talk, server: &mut Talk, count: u64| {
        load.say(&format!("expect {count}"));
        let at = server.ask(&format!("publish {count}"));
        load.hear("done");
        at
    };
    deliver(&mut load, &mut server, 1);
    let began = Instant::now();
    for _ in 0..bursts {
        deliver(&mut load, &mut server, BURST);
    }
    let many = per_second(bursts * BURST * CLIENTS as u64, began.elapsed());
    let mut took = Duration::ZERO;
    for _ in 0..alone {
        let began = Instant::now();
        let at = deliver(&mut load, &mut server, 1);
        took += began.elapsed();
        load.tell(&format!("since {at}"));
    }
    let latencies = load.ask("report");
    let (p50, p99) = latencies.split_once(' ').expect("two numbers");
    let micros = |nanos: &str| nanos.parse::<f64>().expect("a number") / 1000.0;
    Turn {
        idle: (after - before) * 1024.0 / f64::from(idle_streams),
        alone: per_second(alone * CLIENTS as u64, took),
        p50: micros(p50),
        p99: micros(p99),
        many,
    }
}

/// A process that is told what to do line by line; ended when it is dropped.
pub(crate) struct Talk {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    address: String,
}

impl Talk {
    /// Starts this program with these arguments, on one processor where that is asked for and can be.
    pub(crate) fn start(processor: Option<usize>, arguments: &[&str]) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut command = match processor {
            Some(processor) if is_there("taskset") => {
                let mut command = Command::new("taskset");
                command.args(["-c", &processor.to_string()]).arg(own);
                command
            }
            _ => Command::new(own),
        };
        Self::with(command.args(arguments))
    }

    /// Starts another program.
    pub(crate) fn with(command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("starts");
        let (to, from) = (child.stdin.take(), child.stdout.take().expect("piped"));
        Self { child, to, from: BufReader::new(from), address: String::new() }
    }

    fn server(kind: &str, place: &Path) -> Self {
        let mut server = Self::start(Some(0), &[SERVER, kind, place.to_str().expect("UTF-8")]);
        server.address = server.line();
        server
    }

    fn load() -> Self {
        Self::start(Some(1), &[LOAD])
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.to.as_mut().expect("open"), "{line}").expect("it runs");
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("readable");
        assert!(!line.is_empty(), "a process of the benchmark has ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn hear(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        self.ask(line);
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Its input ends, and so does it, and what it has started; if it doesn't, it is ended.
        self.to = None;
        let began = Instant::now();
        while began.elapsed() < ENDS && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
