//! The stores of others, each driven by a process of `ironbus-peers` (`peers/`, built by `just peers`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Figures;
use crate::appends::Turn;
use crate::sse::Talk;
use crate::table::{Table, median};

/// What it is told to drive, and what tables call it.
const KINDS: [(&str, &str); 5] = [
    ("sqlx", "SQLite through sqlx"),
    ("postgres", "PostgreSQL"),
    ("redis", "Redis Streams"),
    ("nats", "NATS JetStream"),
    ("umadb", "UmaDB"),
];

pub(super) struct External {
    name: &'static str,
    survives: String,
    talk: Talk,
    one: Vec<Turn>,
    many: Vec<Turn>,
}

/// Those that are there, each with an empty folder below this one. What isn't is said.
pub(super) fn start(folder: &Path) -> Vec<External> {
    let program = program();
    if !program.is_file() {
        eprintln!("the stores of others aren't measured: `just peers` builds what drives them");
        return Vec::new();
    }
    let started = KINDS.iter().filter_map(|(kind, name)| {
        let folder = folder.join(kind);
        std::fs::create_dir(&folder).expect("a folder");
        let mut talk = Talk::with(Command::new(&program).arg(kind).arg(&folder));
        let said = talk.line();
        let Some(survives) = said.strip_prefix("ready ") else {
            eprintln!("{name} isn't measured: {said}");
            return None;
        };
        Some(External { name, survives: survives.to_owned(), talk, one: Vec::new(), many: Vec::new() })
    });
    started.collect()
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/release/ironbus-peers")
}

impl External {
    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// A turn of appends by one client, and one by many.
    pub(super) fn append(&mut self, span: Duration) {
        let mut turn = |clients| {
            let said = self.talk.ask(&format!("append {clients} {}", span.as_millis()));
            let [rate, p50, p99] = numbers(&said);
            Turn { rate, p50, p99 }
        };
        let (one, many) = (turn(1), turn(64));
        self.one.push(one);
        self.many.push(many);
    }

    /// Fills its log, reads it, and tells what it came to.
    pub(super) fn tell(mut self, total: u64, table: &mut Table) {
        eprintln!("filling {}", self.name);
        self.talk.tell(&format!("fill {total}"));
        let [p50, loads] = numbers(&self.talk.ask("load 1000"));
        let replays = (0..3).map(|_| {
            let [rate] = numbers(&self.talk.ask(&format!("replay {total}")));
            rate
        });
        let replay = median(replays.collect());
        let figures = Figures { one: &self.one, many: &self.many, p50, loads, replay };
        table.row(&format!("{}: {}", self.name, self.survives), "–", &figures.cell(total));
    }
}

fn numbers<const N: usize>(line: &str) -> [f64; N] {
    let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
    numbers.try_into().expect("as many as were asked for")
}
