//! Session-scoped events on an edge node, in every mode of the bus: each session sees its own and what is
//! public, nobody another's, live as in replay.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ironbus_testkit::PATIENCE;
use serde_json::Value;

use crate::server::{Server, ironbus, succeed};

const OPERATOR: &str = "the operator's";

/// Ends its process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it can be ended");
    }
}

fn token(session: &str, secret: &Path) -> String {
    let output = succeed(ironbus().args(["session-token", session, "--session-secret-file"]).arg(secret));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The payloads that `ironbus tail` has written as whole lines.
fn payloads(lines: &[u8]) -> Vec<String> {
    let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let parse = |line: &[u8]| serde_json::from_slice::<Value>(line).expect("JSON")["payload"].to_string();
    lines[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
}

fn append(url: &str, session: Option<&str>, said: &mut Vec<(Option<String>, String)>) {
    let payload = format!("{}", said.len());
    let mut command = ironbus();
    command.args(["append", "Notice", "1", "--type", "Said", "--payload", &payload, "--url", url]);
    command.args(session.iter().flat_map(|session| ["--session", session]));
    succeed(&mut command);
    said.push((session.map(str::to_owned), payload));
}

/// Takes a step as soon as nothing is in its way; events go on meanwhile.
fn advance(store: &str, edge: &str, said: &mut Vec<(Option<String>, String)>) {
    let begun = Instant::now();
    let words = ["migrate", "advance", "--reason", "a test", "--token", OPERATOR, "--url", store];
    while !ironbus().args(words).output().expect("it runs").status.success() {
        assert!(begun.elapsed() < PATIENCE, "the step is refused for too long");
        append(edge, None, said);
    }
}

/// A reader at the edge from the beginning: live for as long as it is there.
fn tail(edge: &str, token: Option<&str>, into: &Path) -> Running {
    let mut command = ironbus();
    command.args(["tail", "--after", "0", "--json", "--url", edge]);
    command.args(token.iter().flat_map(|token| ["--token", token]));
    Running(
        command.stdout(File::create(into).expect("a file")).stderr(Stdio::null()).spawn().expect("it runs"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_edge_node_a_session_sees_its_own_events_in_every_mode_and_nobody_elses() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let endpoint = format!("tcp/{free}");
    let place = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| place.path().join(name);
    std::fs::write(file("secret"), "a secret that is long enough for a test\n").expect("written");
    let settings = "[serve.migration]\nparity_seconds = 1\nparity_events = 5\n";
    std::fs::write(file("ironbus.toml"), settings).expect("written");
    let [secret, settings] = ["secret", "ironbus.toml"].map(|name| file(name).display().to_string());
    let sessions = ["--session-secret-file", &secret, "--operator-token", OPERATOR];
    let store = [&sessions[..], &["--zenoh-listen", &endpoint, "--config", &settings]].concat();
    let store = Server::start_with(&file("data"), &store);
    let edge = [&sessions[..], &["--edge", "--connect", &endpoint]].concat();
    let edge = Server::start_with(&file("nothing"), &edge);
    until_ready(&edge.url).await;

    let mut said = Vec::new();
    let [one, two] = ["s1", "s2"].map(|session| token(session, &file("secret")));
    let readers = [("s1", Some(&one)), ("s2", Some(&two)), ("public", None)];
    let live = readers.map(|(name, token)| tail(&edge.url, token.map(String::as_str), &file(name)));
    for mode in ["broadcast", "dual", "zenoh"] {
        if mode != "broadcast" {
            advance(&store.url, &edge.url, &mut said);
        }
        for url in [&store.url, &edge.url] {
            [None, Some("s1"), Some("s2")].into_iter().for_each(|session| append(url, session, &mut said));
        }
    }
    let seen_by = |name: &str| -> Vec<String> {
        let visible =
            said.iter().filter(|(session, _)| session.as_deref().is_none_or(|session| session == name));
        visible.map(|(_, payload)| payload.clone()).collect()
    };
    for (name, token) in readers {
        let (expected, begun) = (seen_by(name), Instant::now());
        let shown = || payloads(&std::fs::read(file(name)).expect("it is there"));
        while shown().len() < expected.len() && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(shown(), expected, "live, {name}");
        let mut replay = ironbus();
        replay.args(["tail", "--after", "0", "--until-head", "--json", "--url", &edge.url]);
        replay.args(token.iter().flat_map(|token| ["--token", token.as_str()]));
        assert_eq!(payloads(&succeed(&mut replay).stdout), expected, "in replay, {name}");
    }
    drop(live);

    let own: Vec<_> = said.iter().filter(|(session, _)| session.as_deref() == Some("s1")).collect();
    let http = reqwest::Client::new();
    let stream = format!("{}/v1/sessions/s1/stream?after=0", edge.url);
    for foreign in [None, Some(&two)] {
        let request = http.get(&stream);
        let request = match foreign {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        assert_eq!(request.send().await.expect("answered").status(), 403);
    }
    let mut stream = http.get(&stream).bearer_auth(&one).send().await.expect("answered").bytes_stream();
    let mut text = String::new();
    let data = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["event_id"].is_string())
            .map(|event| event["payload"].to_string())
            .collect()
    };
    while data(&text).len() < own.len() {
        let piece = tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&piece.expect("it goes on").expect("readable")));
    }
    let own: Vec<_> = own.into_iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(data(&text), own, "the session's own stream");
}

async fn until_ready(url: &str) {
    let begun = Instant::now();
    while !reqwest::get(format!("{url}/readyz")).await.is_ok_and(|answer| answer.status() == 200) {
        assert!(begun.elapsed() < PATIENCE, "the edge node doesn't become ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
