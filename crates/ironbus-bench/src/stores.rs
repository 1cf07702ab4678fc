//! The same work on every store that ironbus has, on those that others have, and on a stock Zenoh storage: durable
//! appends, loads of one aggregate, replay of the whole log.
//!
//! SQLite, slots in a folder, and, where the build has the features `rocksdb` and `s3`, RocksDB and the S3 server that
//! tests use (moto's; skipped, with a word, where there is none); `replica` brings the stock storage. Those of others run
//! where `just peers` has built what drives them, each in turns with ours.

mod peers;
#[cfg(feature = "replica")]
mod stock;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::store::{EventStore, Log};
use ironbus::{SqliteEventStore, SqliteOptions};
use ironbus_cli::bench::log::{append_to, fill, load, read_pages};
#[cfg(feature = "s3")]
use ironbus_testkit::s3::S3Server;
#[cfg(feature = "rocksdb")]
use ironbus_zenoh::storage::RocksLog;
use ironbus_zenoh::storage::{CommitLog, ObjectLog, StorageOptions, ZenohStorageEventStore};
#[cfg(feature = "s3")]
use ironbus_zenoh::storage::{S3Credentials, S3Options};
use tokio::runtime::Runtime;

use crate::appends::Turn;
use crate::table::{Table, grouped, median, micros};

/// A store that is measured.
struct Subject {
    name: &'static str,
    /// What an acknowledged append survives.
    durable: &'static str,
    store: Arc<dyn EventStore>,
    log: Arc<dyn Log>,
    one: Vec<Turn>,
    many: Vec<Turn>,
}

impl Subject {
    fn of(name: &'static str, durable: &'static str, log: Arc<dyn Log>) -> Self {
        let store = Arc::clone(&log) as Arc<dyn EventStore>;
        Self { name, durable, store, log, one: Vec::new(), many: Vec::new() }
    }

    async fn slots(name: &'static str, durable: &'static str, slots: impl CommitLog) -> Self {
        let store = ZenohStorageEventStore::open(Arc::new(slots), StorageOptions::default()).await;
        Self::of(name, durable, Arc::new(store.expect("opens")))
    }
}

#[cfg(feature = "s3")]
fn options(server: &S3Server) -> S3Options {
    S3Options {
        endpoint: Some(format!("http://{}", server.address())),
        region: Some("us-east-1".into()),
        credentials: Some(S3Credentials { access_key_id: "any".into(), secret_access_key: "any".into() }),
        allow_http: true,
        ..S3Options::new("bench", "log")
    }
}

pub(crate) fn measure(runtime: &Runtime, place: &Path, quick: bool, table: &mut Table) {
    let (total, turns, span) = if quick { (100_000, 3, 1) } else { (1_000_000, 5, 2) };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let span = Duration::from_secs(span);
    runtime.block_on(async {
        let sqlite = SqliteEventStore::open(SqliteOptions::new(folder.path().join("ours.db")));
        let sqlite = Arc::new(sqlite.await.expect("opens"));
        let mut subjects = vec![Subject::of("SQLite (FULL)", "each commit synced", sqlite)];
        let slots = folder.path().join("slots");
        let slots = ObjectLog::open_folder(&slots).await.expect("a folder can hold a log");
        subjects.push(Subject::slots("slots in a folder", "each object synced", slots).await);
        #[cfg(feature = "rocksdb")]
        {
            let rocks = RocksLog::open(folder.path().join("rocks")).await.expect("opens");
            subjects.push(Subject::slots("slots in RocksDB", "each commit synced", rocks).await);
        }
        #[cfg(feature = "s3")]
        let server = S3Server::start("bench", "slots in S3").await;
        #[cfg(feature = "s3")]
        if let Some(server) = &server {
            let log = ObjectLog::open_s3(&options(server)).await.expect("opens");
            subjects.push(Subject::slots("slots in S3 (moto)", "kept in the server's memory", log).await);
        }
        let mut peers = peers::start(folder.path());
        for turn in 1..=turns {
            for peer in &mut peers {
                eprintln!("appends to {}: turn {turn} of {turns}", peer.name());
                peer.append(span);
            }
            for subject in &mut subjects {
                eprintln!("appends to {}: turn {turn} of {turns}", subject.name);
                let one = append_to(Arc::clone(&subject.store), 1, span).await;
                subject.one.push(one.expect("stored"));
                let many = append_to(Arc::clone(&subject.store), 64, span).await;
                subject.many.push(many.expect("stored"));
            }
        }
        for subject in &subjects {
            let tell = |stored| eprintln!("filling {}: {stored} of {total}", subject.name);
            fill(&*subject.store, total, tell).await.expect("stored");
        }
        for subject in subjects {
            tell(subject, total, table).await;
        }
        for peer in peers {
            peer.tell(total, table);
        }
        #[cfg(feature = "replica")]
        stock::measure(total, table).await;
    });
}

async fn tell(subject: Subject, total: u64, table: &mut Table) {
    let mut replays = Vec::new();
    for _ in 0..3 {
        replays.push(read_pages(&*subject.store, total).await.expect("readable"));
    }
    let loaded = load(&*subject.store, 10, total, Duration::from_secs(1)).await;
    let (p50, loads) = loaded.expect("readable");
    let figures = Figures { one: &subject.one, many: &subject.many, p50, loads, replay: median(replays) };
    table.row(&format!("{}: {}", subject.name, subject.durable), &figures.cell(total), "–");
    subject.log.close().await;
}

/// What a store came to.
struct Figures<'a> {
    /// Appends by one client, and by many.
    one: &'a [Turn],
    many: &'a [Turn],
    /// The time of a load, in microseconds, and how many there were in a second.
    p50: f64,
    loads: f64,
    /// Events in a second.
    replay: f64,
}

impl Figures<'_> {
    fn cell(&self, total: u64) -> String {
        let of = |turns: &[Turn], value: fn(&Turn) -> f64| median(turns.iter().map(value).collect());
        let appends = |turns: &[Turn]| {
            let (p50, p99) = (micros(of(turns, |turn| turn.p50)), micros(of(turns, |turn| turn.p99)));
            format!("{}/s, p50 {p50}, p99 {p99}", grouped(of(turns, |turn| turn.rate)))
        };
        format!(
            "appends by 1 client {}; by 64 clients {}; load of a 10-event aggregate among {} events p50 {}, \
             {} loads/s; replay {} events/s",
            appends(self.one),
            appends(self.many),
            grouped(total as f64),
            micros(self.p50),
            grouped(self.loads),
            grouped(self.replay)
        )
    }
}
