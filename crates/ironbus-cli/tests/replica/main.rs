//! `ironbus verify --replica`: a stock Zenoh storage loses what is put while it is away, and somebody else changes
//! and adds keys; all of that is found, and what is missing is put again.
//!
//! In memory it runs always; on RocksDB in a real `zenohd` where `IRONBUS_ZENOHD` names one (`just replica`).

mod link;
#[path = "../process/server.rs"]
#[expect(dead_code, reason = "shared with tests that do more with a server")]
mod server;
mod stock;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ironbus::migration::{Journal as _, NewStep, Phase};
use ironbus::{
    Aggregate, EventKey, Json, NodeOptions, Sequence, SqliteEventStore, SqliteOptions, StoredEvent,
};
use ironbus_replica::Client;
use ironbus_testkit::within;
use serde_json::{Value, json};

use crate::server::{Server, ironbus, succeed};
use crate::stock::{Stock, free_port};

/// How often it is asked anew for what must come.
const AGAIN: Duration = Duration::from_millis(100);

const TOKEN: &str = "an operator's token";

/// A log in the phase whose events go over Zenoh.
async fn log_in(data: &Path) {
    std::fs::create_dir(data).expect("created");
    let options = SqliteOptions::new(NodeOptions::new(data).log_path());
    let store = SqliteEventStore::open(options).await.expect("a log opens");
    for (from, to) in [(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh)] {
        let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
        store.record(NewStep { from, to, by, reason, figures }).await.expect("recorded");
    }
    store.close().await;
}

/// Runs the binary to its end. Gives its exit code, what it has found, and what it said.
fn run(words: &[&str]) -> (i32, Value, String) {
    let output = tokio::task::block_in_place(|| ironbus().args(words).output().expect("the binary runs"));
    let found = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it isn't killed"), found, said)
}

struct Scene {
    stock: Stock,
    server: Server,
    client: Client,
    data: String,
    appended: usize,
}

impl Scene {
    async fn start(stock: Stock, data: &Path) -> Self {
        log_in(data).await;
        let upstream = stock.upstream();
        // A client, so that the router takes questions on to it: its answers mustn't be taken for the replica's.
        let words = ["--zenoh-client", "--zenoh-connect", &upstream, "--operator-token", TOKEN];
        let server = tokio::task::block_in_place(|| Server::start_with(data, &words));
        let client = Client::connect(&stock.endpoint()).await.expect("it connects");
        Self { stock, server, client, data: data.to_str().expect("text").to_owned(), appended: 0 }
    }

    /// Appends one event; its ids have what keys have to encode, and each fifth is one session's.
    fn append(&mut self) {
        self.appended += 1;
        let n = self.appended;
        let payload = format!("{{\n \"n\": {n} }}");
        let aggregate = format!("a/ü {}", n % 3);
        let session = format!("s {}", n % 2);
        let mut command = ironbus();
        command.args(["append", "To do", &aggregate, "--type", "Added", "--payload", &payload]);
        command.args(["--url", &self.server.url]);
        if n.is_multiple_of(5) {
            command.args(["--session", &session]);
        }
        tokio::task::block_in_place(|| succeed(&mut command));
    }

    fn verify(&self, words: &[&str]) -> (i32, Value) {
        let endpoint = self.stock.endpoint();
        let given = ["verify", "--json", "--data", &self.data, "--replica", "--connect", &endpoint];
        let (code, found, said) = run(&[&given[..], words].concat());
        assert!(found.is_object(), "it ended with {code} and said: {said}");
        (code, found)
    }

    /// The positions that the replica has, as plain Zenoh tells.
    async fn held(&self) -> BTreeSet<u64> {
        let held = self.client.held("events/**").await.expect("it answers");
        held.values().map(|json| StoredEvent::from_json(json).expect("an event").position.0).collect()
    }

    /// Appends until the replica has something that it hadn't: the store node is connected to it.
    async fn until_it_hears(&mut self) {
        let before = self.held().await.len();
        within("the replica hears of events", async {
            loop {
                self.append();
                if self.held().await.len() > before {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        })
        .await;
    }

    /// The positions that the replica lacks: within, and at the end.
    async fn lacking(&self) -> (Vec<u64>, Vec<u64>) {
        let held = self.held().await;
        let last = held.last().copied().unwrap_or(0);
        let lacking = (1..=self.appended as u64).filter(|position| !held.contains(position));
        lacking.partition(|position| *position < last)
    }

    async fn until(&self, what: &str, key: &str, done: impl Fn(Option<&Vec<u8>>) -> bool) {
        within(what, async {
            while !done(self.client.held(key).await.expect("it answers").get(key)) {
                tokio::time::sleep(AGAIN).await;
            }
        })
        .await;
    }
}

fn key_of(aggregate: &str, sequence: u64) -> String {
    let aggregate = Aggregate::new("To do", aggregate).expect("valid");
    EventKey::new(&aggregate, Sequence(sequence), None).to_string()
}

/// The positions of the stretches that are told.
fn told(ranges: &Value) -> Vec<u64> {
    let stretches: Vec<(u64, u64)> = serde_json::from_value(ranges["first"].clone()).expect("stretches");
    let told: Vec<u64> = stretches.into_iter().flat_map(|(from, to)| from..=to).collect();
    assert_eq!(ranges["count"], told.len(), "few enough to be told in full");
    told
}

async fn a_replica_is_proven_and_mended(stock: Stock) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(stock, &place.path().join("data")).await;

    // What was put before the replica was connected is missing, and is put.
    scene.until_it_hears().await;
    let (code, seeded) = scene.verify(&["--repair"]);
    assert_eq!((code, &seeded["complete"]), (0, &json!(true)), "{seeded}");
    for _ in 0..20 {
        scene.append();
    }
    within("the replica has all", async {
        while scene.verify(&[]).0 != 0 {
            tokio::time::sleep(AGAIN).await;
        }
    })
    .await;

    // Away, it loses what is put; back, it doesn't know.
    scene.stock.go_away();
    let gone_at = scene.appended as u64;
    for _ in 0..10 {
        scene.append();
    }
    scene.stock.come_back().await;
    within("the client is connected again", async {
        while scene.held().await.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    })
    .await;
    let (within_it, at_the_end) = scene.lacking().await;
    assert_eq!((within_it, at_the_end), (vec![], (gone_at + 1..=gone_at + 10).collect()));
    let (code, behind) = scene.verify(&[]);
    assert_eq!((code, &behind["found"]["missing"]["count"]), (1, &json!(0)), "{behind}");
    assert_eq!(told(&behind["found"]["behind"]), (gone_at + 1..=gone_at + 10).collect::<Vec<_>>());
    scene.until_it_hears().await;
    let (missing, _) = scene.lacking().await;
    assert!((gone_at + 1..=gone_at + 10).all(|position| missing.contains(&position)), "{missing:?}");
    let (code, found) = scene.verify(&[]);
    assert_eq!((code, told(&found["found"]["missing"])), (1, missing.clone()), "{found}");
    assert_eq!(found["replica"]["volume"], scene.stock.volume());
    assert_ne!(found["found"]["log_chain"], found["found"]["replica_chain"]);

    // Somebody else changes one byte of an event, and adds a key.
    let key = key_of("a/ü 1", 1);
    let json = scene.client.held(&key).await.expect("it answers").remove(&key).expect("it is held");
    let text = String::from_utf8(json.clone()).expect("text");
    scene.client.put(&key, text.replace("\"n\": 1 ", "\"n\": 2 ")).await.expect("put");
    scene.until("the change is there", &key, |held| held.is_some_and(|held| *held != json)).await;
    let foreign = &key_of("nobody", 1);
    scene.client.put(foreign, text.clone()).await.expect("put");
    scene.until("the key is there", foreign, |held| held.is_some()).await;
    let (code, found) = scene.verify(&[]);
    let position = StoredEvent::from_json(&json).expect("an event").position.0;
    assert_eq!((code, told(&found["found"]["altered"])), (1, vec![position]), "{found}");
    assert_eq!((&found["foreign"], &found["foreign_keys"]), (&json!(1), &json!([foreign])));

    // A repair puts what is missing and what is altered. What is foreign stays, for whoever looks into it.
    let (code, repaired) = scene.verify(&["--repair"]);
    assert_eq!((code, &repaired["repaired"]), (1, &json!(missing.len() + 1)), "{repaired}");
    assert_eq!(told(&repaired["before"]["missing"]), missing);
    for kind in ["missing", "behind", "altered"] {
        assert_eq!(told(&repaired["found"][kind]), [0; 0], "{kind}");
    }
    assert_eq!(repaired["foreign"], 1);
    scene.client.delete(foreign).await.expect("deleted");
    scene.until("the key is gone", foreign, |held| held.is_none()).await;
    let (code, whole) = scene.verify(&[]);
    assert_eq!((code, &whole["complete"]), (0, &json!(true)), "{whole}");
    assert_eq!(whole["found"]["held"], scene.appended);
    assert_eq!(whole["found"]["replica_chain"], whole["log"]["chain"]);
    assert_eq!(scene.client.held(&key).await.expect("it answers")[&key], json, "as it was at first");

    // The log of a server counts as well, if it shows everything.
    let endpoint = scene.stock.endpoint();
    let words = ["verify", "--json", "--replica", "--connect", &endpoint, "--url", &scene.server.url];
    let (code, found, said) = run(&[&words[..], &["--token", TOKEN]].concat());
    assert_eq!((code, &found["complete"]), (0, &json!(true)), "{said}");
    assert_eq!(found["found"], whole["found"]);
    let (code, _, said) = run(&words);
    assert!(code == 2 && said.contains("position 5") && said.contains("--token"), "{code}: {said}");
    scene.stock.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_memory_is_proven_and_mended() {
    a_replica_is_proven_and_mended(Stock::memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_on_rocksdb_is_proven_and_mended() {
    let Some(zenohd) = std::env::var_os("IRONBUS_ZENOHD") else {
        println!("skipped: IRONBUS_ZENOHD names no zenohd (`just replica` builds one)");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary directory");
    a_replica_is_proven_and_mended(Stock::rocksdb(zenohd.into(), folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_said() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let data = place.path().join("data");
    log_in(&data).await;
    let data = data.to_str().expect("text");
    let (code, _, said) = run(&["verify", "--data", data, "--replica"]);
    assert!(code == 2 && said.contains("--connect tcp/"), "{code}: {said}");
    let (code, _, said) = run(&["verify", "--data", data, "--repair", "--connect", "tcp/127.0.0.1:1"]);
    assert!(code == 2 && said.contains("--replica"), "{code}: {said}");
    let nowhere = format!("tcp/127.0.0.1:{}", free_port());
    let (code, _, said) = run(&["verify", "--data", data, "--replica", "--connect", &nowhere]);
    assert!(code == 4 && said.contains("no storage"), "{code}: {said}");

    // An empty storage is complete for an empty log, and is chosen by its name.
    let stock = Stock::memory().await;
    let endpoint = stock.endpoint();
    let verify = |name: &str| {
        let replica = format!("--replica={name}");
        run(&["verify", "--json", "--data", data, &replica, "--connect", &endpoint])
    };
    let (code, found, said) = verify("events");
    assert_eq!((code, &found["complete"]), (0, &json!(true)), "{said}");
    let (code, _, said) = verify("other");
    assert!(code == 2 && said.contains("`events` (memory, events/**)"), "{code}: {said}");
    stock.end();
}
