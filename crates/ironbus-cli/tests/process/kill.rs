//! `kill -9` at random moments while eight clients append: what was acknowledged is there once, nothing is
//! half there, and a retry of what wasn't answered gives one event.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use ironbus::EventId;
use serde_json::{Value, json};

use crate::server::{Server, ironbus, succeed};

const WRITERS: usize = 8;

/// One append: what was sent, and the answer once there is one.
struct Attempt {
    body: String,
    ids: Vec<String>,
    answer: Option<Value>,
}

/// A client with an aggregate of its own, whose version it knows.
pub(crate) struct Writer {
    name: String,
    version: u64,
    attempts: Vec<Attempt>,
    http: reqwest::Client,
}

impl Writer {
    pub(crate) fn new(number: usize) -> Self {
        let name = format!("writer {number}/#");
        Self { name, version: 0, attempts: Vec::new(), http: reqwest::Client::new() }
    }

    async fn append_until_cut(mut self, url: String) -> Self {
        self.append_while(&url).await;
        self
    }

    /// Appends until the server no longer answers. First repeats what wasn't answered.
    pub(crate) async fn append_while(&mut self, url: &str) {
        loop {
            if self.attempts.last().is_none_or(|attempt| attempt.answer.is_some()) {
                self.attempts.push(self.next_attempt());
            }
            if !self.send_last(url).await {
                return;
            }
        }
    }

    /// Repeats the last attempt if it wasn't answered; says whether that was so.
    pub(crate) async fn finish(&mut self, url: &str) -> bool {
        let unanswered = self.attempts.last().is_some_and(|attempt| attempt.answer.is_none());
        if unanswered {
            assert!(self.send_last(url).await, "the server answers");
        }
        unanswered
    }

    /// How many appends it has made.
    pub(crate) fn appends(&self) -> usize {
        self.attempts.len()
    }

    /// An append to this writer's own aggregate at its exact version; every third is a batch that also
    /// writes twice to an aggregate that all share.
    fn next_attempt(&self) -> Attempt {
        let ids: Vec<String> = (0..3).map(|_| EventId::generate().to_string()).collect();
        let event = |id: &String| json!({ "event_id": id, "event_type": "Counted", "payload": { "x": 1 } });
        let own = json!({ "aggregate_type": "Own", "aggregate_id": self.name,
            "expected_version": self.version, "events": [event(&ids[0])] });
        if self.attempts.len().is_multiple_of(3) {
            let shared = json!({ "aggregate_type": "Shared", "aggregate_id": "all",
                "events": [event(&ids[1]), event(&ids[2])] });
            return Attempt { body: json!({ "writes": [own, shared] }).to_string(), ids, answer: None };
        }
        let body = json!({ "writes": [own] }).to_string();
        Attempt { body, ids: ids[..1].to_vec(), answer: None }
    }

    /// Sends the last attempt; says whether it was answered.
    async fn send_last(&mut self, url: &str) -> bool {
        let attempt = self.attempts.last_mut().expect("there is one");
        let request = self.http.post(format!("{url}/v1/events")).header("content-type", "application/json");
        let Ok(response) = request.body(attempt.body.clone()).send().await else { return false };
        let status = response.status();
        let Ok(answer) = response.json::<Value>().await else { return false };
        assert_eq!(status, 201, "{answer}");
        self.version = answer["events"][0]["sequence"].as_u64().expect("a number");
        attempt.answer = Some(answer);
        true
    }
}

/// Compares the whole log, but for the first `others` events, with what was answered.
pub(crate) async fn check(url: &str, writers: &[Writer], others: u64) {
    let request =
        reqwest::Client::new().get(format!("{url}/v1/events")).header("accept", "application/x-ndjson");
    let text = request.send().await.expect("answers").text().await.expect("a whole body");
    let mut places = HashMap::new();
    let mut sequences: HashMap<String, u64> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["position"], index + 1, "positions are contiguous");
        let last =
            sequences.entry(format!("{} {}", event["aggregate_type"], event["aggregate_id"])).or_default();
        *last += 1;
        assert_eq!(event["sequence"], *last, "sequences are contiguous");
        if index < others as usize {
            continue;
        }
        let id = event["event_id"].as_str().expect("a text").to_owned();
        let place = (event["position"].clone(), event["sequence"].clone());
        assert!(places.insert(id, place).is_none(), "an event is there twice");
    }
    let mut known = 0;
    for attempt in writers.iter().flat_map(|writer| &writer.attempts) {
        let there = attempt.ids.iter().filter(|id| places.contains_key(*id)).count();
        assert!(there == 0 || there == attempt.ids.len(), "a batch is half there");
        known += there;
        let Some(answer) = &attempt.answer else { continue };
        for (id, told) in attempt.ids.iter().zip(answer["events"].as_array().expect("a list")) {
            let place = places.get(id).expect("what was acknowledged is there");
            assert_eq!((&told["position"], &told["sequence"]), (&place.0, &place.1));
        }
    }
    assert_eq!(known, places.len(), "nothing is there that nobody sent");
}

async fn one_round(data: &Path, writers: Vec<Writer>, life: Duration) -> Vec<Writer> {
    let mut server = Server::start(data);
    check(&server.url, &writers, 0).await;
    let appending: Vec<_> =
        writers.into_iter().map(|writer| tokio::spawn(writer.append_until_cut(server.url.clone()))).collect();
    tokio::time::sleep(life).await;
    server.kill();
    let mut writers = Vec::new();
    for writer in appending {
        writers.push(writer.await.expect("every answer is right"));
    }
    writers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_and_nothing_is_half_there() {
    let rounds: u64 = match std::env::var("IRONBUS_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("IRONBUS_KILL_ROUNDS is a number"),
        Err(_) => 15,
    };
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut writers: Vec<_> = (0..WRITERS).map(Writer::new).collect();
    for round in 0..rounds {
        // The moment is random to the log: the lives of the server are spread over 2 to 120 ms.
        let life = Duration::from_micros(2_000 + (round * 7_919 * 1_013) % 118_000);
        writers = one_round(data.path(), writers, life).await;
    }
    let server = Server::start(data.path());
    check(&server.url, &writers, 0).await;
    let mut retried = 0;
    for writer in &mut writers {
        retried += usize::from(writer.finish(&server.url).await);
    }
    check(&server.url, &writers, 0).await;
    let attempts: Vec<_> = writers.iter().flat_map(|writer| &writer.attempts).collect();
    assert!(attempts.iter().all(|attempt| attempt.answer.is_some()));
    println!("{rounds} kills, {} appends, {retried} retried after the last kill", attempts.len());
    drop(server);
    succeed(ironbus().args(["verify", "--data"]).arg(data.path()));
}
