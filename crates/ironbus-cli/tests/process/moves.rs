//! The log goes from SQLite to slots and back while eight clients append and others read, and the server is killed on
//! the way, as `ironbus migrate` and a real process do it.
//!
//! `IRONBUS_MOVE_TO` names the places, with commas between them (`folder:slots` where it doesn't); `s3` among them is
//! an S3 server of the test's own. `IRONBUS_MOVE_READERS` says how many read.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ironbus_testkit::s3::S3Server;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::kill::{Writer, check};
use crate::logs::{LOGS, find};
use crate::server::{Server, ironbus, succeed};

const PATTERNS: [&str; 4] = ["events/**", "events/Own/**", "events/Shared/**", "events/*/*/1"];

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of a stream that goes on where it was, at whichever server there is.
struct Reader {
    pattern: &'static str,
    /// The cursor of the last event, and its position.
    last: Option<String>,
    positions: Vec<u64>,
}

impl Reader {
    /// Reads until it is told to stop.
    async fn read(mut self, at: Arc<Mutex<String>>, stop: CancellationToken) -> Self {
        let http = reqwest::Client::new();
        while !stop.is_cancelled() {
            let url = format!("{}/v1/stream?pattern={}&after=0", at.lock().clone(), self.pattern);
            let mut request = http.get(url);
            if let Some(last) = &self.last {
                request = request.header("last-event-id", last);
            }
            let Ok(response) = request.send().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let (mut bytes, mut text) = (response.bytes_stream(), Vec::new());
            while let Some(Some(Ok(chunk))) = stop.run_until_cancelled(bytes.next()).await {
                text.extend_from_slice(&chunk);
                while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let frame = text.drain(..end + 2).collect();
                    self.take(&String::from_utf8(frame).expect("text"));
                }
            }
        }
        self
    }

    fn take(&mut self, frame: &str) {
        assert!(!frame.contains("event: reset"), "a reader was reset: {frame}");
        let Some(id) = frame.lines().find_map(|line| line.strip_prefix("id: ")) else { return };
        let position = id.split_once('.').expect("epoch and position").1.parse().expect("a number");
        // A bare id moves the cursor past what doesn't match.
        if frame.lines().any(|line| line.starts_with("data: ")) {
            self.positions.push(position);
        }
        self.last = Some(id.to_owned());
    }
}

async fn get(url: &str, path: &str) -> Option<Value> {
    reqwest::get(format!("{url}{path}")).await.ok()?.json().await.ok()
}

/// The migration's status, once it is as wanted.
async fn until(url: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    let mut last = Value::Null;
    while began.elapsed() < PATIENCE {
        if let Some(mut document) = get(url, "/v1/migration").await {
            last = document["status"].take();
            if wanted(&last) {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}: {last}");
}

/// Takes a step; `None` where the server went away meanwhile.
async fn take(url: &str, way: &str, document: Value) -> Option<Value> {
    let request = reqwest::Client::new().post(format!("{url}/v1/migration/{way}")).json(&document);
    let response = request.send().await.ok()?;
    let (status, answer) = (response.status(), response.json::<Value>().await.ok()?);
    assert!(status.is_success(), "{way} was refused: {answer}");
    Some(answer)
}

struct Run {
    data: tempfile::TempDir,
    config: std::path::PathBuf,
    server: Server,
    at: Arc<Mutex<String>>,
}

impl Run {
    fn start(data: tempfile::TempDir) -> Self {
        let config = data.path().join("ironbus.toml");
        let text = "[serve.migration]\nparity_seconds = 1\nparity_events = 10\n";
        std::fs::write(&config, text).expect("written");
        let server = Self::serve(data.path(), &config);
        let at = Arc::new(Mutex::new(server.url.clone()));
        Self { data, config, server, at }
    }

    fn serve(data: &Path, config: &Path) -> Server {
        let config = config.to_str().expect("text");
        Server::start_with(data, &["--zenoh-listen", "tcp/127.0.0.1:0", "--config", config])
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server = Self::serve(self.data.path(), &self.config);
        *self.at.lock() = self.server.url.clone();
    }

    fn url(&self) -> String {
        self.server.url.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_to_slots_and_back_under_fire_and_nothing_is_lost() {
    // A client of HTTP needs a provider of cryptography where the build has S3.
    #[cfg(feature = "s3")]
    ironbus_zenoh::storage::provide_tls();
    let named = std::env::var("IRONBUS_MOVE_TO").unwrap_or_else(|_| "folder:slots".into());
    let bucket = match named.split(',').any(|place| place == "s3") {
        true => Some(S3Server::start("moves", "moves to S3").await.expect("IRONBUS_MOVE_TO names S3")),
        false => None,
    };
    let places: Vec<String> = named
        .split(',')
        .map(|place| match &bucket {
            Some(server) if place == "s3" => server.place("moves", "log"),
            _ => place.to_owned(),
        })
        .collect();
    let readers: usize = match std::env::var("IRONBUS_MOVE_READERS") {
        Ok(readers) => readers.parse().expect("IRONBUS_MOVE_READERS is a number"),
        Err(_) => 12,
    };
    let mut run = Run::start(tempfile::tempdir().expect("a temporary directory"));
    if let Some(path) = LOGS.into_iter().filter_map(find).next_back() {
        let url = run.url();
        let importing = move || succeed(ironbus().args(["import", "--url", &url]).arg(&path));
        tokio::task::spawn_blocking(importing).await.expect("the import succeeds");
    }
    let imported = get(&run.url(), "/v1/status").await.expect("answers")["head"].as_u64().expect("a number");
    let stop = CancellationToken::new();
    let reading: Vec<_> = (0..readers)
        .map(|n| {
            let pattern = PATTERNS[n % PATTERNS.len()];
            let reader = Reader { pattern, last: None, positions: Vec::new() };
            tokio::spawn(reader.read(Arc::clone(&run.at), stop.clone()))
        })
        .collect();
    let (at, ending) = (Arc::clone(&run.at), stop.clone());
    let writing: Vec<_> = (0..8)
        .map(|n| {
            let (at, stop) = (Arc::clone(&at), ending.clone());
            tokio::spawn(async move {
                let mut writer = Writer::new(n);
                // It ends when its server goes, and goes on at the next.
                while !stop.is_cancelled() {
                    let url = at.lock().clone();
                    let again = stop.run_until_cancelled(Box::pin(writer.append_while(&url))).await;
                    if again.is_none() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                writer
            })
        })
        .collect();

    for phase in ["dual", "zenoh"] {
        let url = run.url();
        if phase == "zenoh" {
            until(&url, "parity", |status| status["parity"]["why_not"] == json!([])).await;
        }
        take(&url, "advance", json!({ "to": phase, "by": "ann", "reason": "a test" }))
            .await
            .expect("answers");
    }
    let mut pauses = Vec::new();
    // There and back, first undisturbed, then killed after a while that grows from round to round.
    let rounds = [None, Some(3), Some(40), Some(150), None];
    let rounds = rounds.into_iter().flat_map(|killed_after| places.iter().map(move |to| (killed_after, to)));
    for (round, (killed_after, to)) in rounds.enumerate() {
        for (way, phase) in [("advance", "zenoh_storage"), ("rollback", "zenoh")] {
            let log = if way == "advance" { Some(to) } else { None };
            let document =
                json!({ "to": phase, "log": log, "by": "ann", "reason": format!("round {round}") });
            // A step that was never recorded in that time gets more of it, or it never would be on a slow machine.
            for attempt in 0.. {
                let url = run.url();
                let step = take(&url, way, document.clone());
                let taken = match killed_after {
                    None => step.await,
                    Some(millis) => {
                        let life = Duration::from_millis(millis + 3 * attempt);
                        tokio::time::timeout(life, step).await.ok().flatten()
                    }
                };
                if taken.is_none() {
                    run.restart();
                }
                // A move that was recorded goes on by itself; one that wasn't is asked for again.
                let status = until(&run.url(), "the move to end", |status| {
                    let stage = status["moving"]["stage"].as_str();
                    stage.is_none_or(|stage| stage == "mirroring") && status["phase"].is_string()
                })
                .await;
                if status["phase"] == phase {
                    pauses.extend(status["pause_seconds"].as_f64());
                    break;
                }
            }
        }
    }
    stop.cancel();
    let mut writers = Vec::new();
    for writer in writing {
        writers.push(writer.await.expect("every answer is right"));
    }
    for writer in &mut writers {
        writer.finish(&run.url()).await;
    }
    // The readers had to see it all; a last look shows whether they had.
    let url = run.url();
    let head = get(&url, "/v1/status").await.expect("answers")["head"].as_u64().expect("a number");
    let mut seen = 0;
    for reader in reading {
        let reader = reader.await.expect("no reset");
        let through = reader.positions.last().copied().unwrap_or_default();
        let path = format!("/v1/events?pattern={}&limit=10000&after=", reader.pattern);
        let (mut after, mut expected) = (0, Vec::new());
        while after < through {
            let page = get(&url, &format!("{path}{after}")).await.expect("answers");
            let positions = page["events"].as_array().expect("a list").iter();
            expected.extend(positions.map(|event| event["position"].as_u64().expect("a number")));
            after = page["through"].as_u64().expect("a number");
        }
        expected.retain(|position| *position <= through);
        let differs = reader.positions.iter().zip(&expected).position(|(seen, expected)| seen != expected);
        let from = differs.unwrap_or(expected.len().min(reader.positions.len())).saturating_sub(2);
        assert!(
            reader.positions == expected,
            "{} saw {} of {}; {:?} for {:?}",
            reader.pattern,
            reader.positions.len(),
            expected.len(),
            reader.positions[from..].iter().take(5).collect::<Vec<_>>(),
            expected[from..].iter().take(5).collect::<Vec<_>>()
        );
        seen += reader.positions.len();
    }
    assert!(seen as u64 > imported, "the readers read");
    let own: Vec<_> = writers.iter().map(Writer::appends).collect();
    println!(
        "to {named} and back 5 times: {head} events, {} appends by 8 clients, {readers} readers saw {seen} deliveries; \
         appends waited at most {:.0} ms",
        own.iter().sum::<usize>(),
        pauses.iter().copied().fold(0.0, f64::max) * 1e3
    );
    assert!(pauses.iter().all(|pause| *pause < 2.0), "{pauses:?}");
    check(&url, &writers, imported).await;
    let mut chains = Vec::new();
    for place in &places {
        chains.push(look_at_the_directory(&mut run, place, head).await);
    }
    let place = run.data.path();
    run.server.kill();
    chains.push(verified(&["--data".as_ref(), place.as_os_str()])["chain"].clone());
    println!("the hash chain over {head} events, in {named} and in SQLite: {chains:?}");
    assert!(chains.iter().all(|chain| *chain == chains[0]), "hash chains are equal everywhere");
}

/// What `ironbus verify` says of a log.
fn verified(place: &[&OsStr]) -> Value {
    serde_json::from_slice(&succeed(ironbus().arg("verify").args(place)).stdout).expect("JSON")
}

/// Goes there once more and says what works straight on the directory of a log that isn't in SQLite; then back. Gives the
/// hash chain of the log there.
async fn look_at_the_directory(run: &mut Run, to: &str, head: u64) -> Value {
    let url = run.url();
    let document = json!({ "to": "zenoh_storage", "log": to, "by": "ann", "reason": "the directory" });
    take(&url, "advance", document).await.expect("answers");
    until(&url, "the mirror", |status| status["moving"]["copied"] == head).await;
    run.server.kill();
    let (data, copy) = (run.data.path(), tempfile::tempdir().expect("a temporary directory"));
    let on_data = |words: &[&str]| {
        let output = succeed(ironbus().args(words).arg("--data").arg(data));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let found = on_data(&["verify"]);
    assert_eq!(
        (&found["sound"], &found["place"], &found["events"]),
        (&json!(true), &json!(to), &json!(head))
    );
    let status = on_data(&["status"]);
    assert_eq!((&status["place"], &status["head"]), (&json!(to), &json!(head)));
    // What was left is kept up to date beside it, so a backup is one of the log.
    succeed(ironbus().arg("backup").arg(copy.path()).arg("--data").arg(data));
    let copied = verified(&["--data".as_ref(), copy.path().as_os_str()]);
    assert_eq!(
        (&copied["events"], &copied["chain"]),
        (&json!(head), &found["chain"]),
        "hash chains are equal"
    );
    run.restart();
    let document = json!({ "to": "zenoh", "by": "ann", "reason": "the way back" });
    take(&run.url(), "rollback", document).await.expect("answers");
    found["chain"].clone()
}
