//! A client that knows only Zenoh: a Python program, with the package `eclipse-zenoh`.
//!
//! `IRONBUS_PYTHON` names an interpreter that has the package, else it is `python3`. Where there is none the
//! test says so and is skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ironbus::bus::EventBusMode;
use ironbus::event::Position;
use ironbus::{
    Aggregate, Append, EventKey, ExpectedVersion, Json, KeyPattern, NewEvent, Node, NodeOptions, Sequence,
    SessionId, StoredEvent,
};
use ironbus_testkit::PATIENCE;
use ironbus_testkit::real_log::real_log;
use ironbus_zenoh::{StoreNode, StoreNodeOptions, ZenohOptions};
use serde_json::Value;

/// How many events are appended: enough for aggregates with a history among them.
const EVENTS: usize = 400;

/// An interpreter that has the package; says that the test is skipped where there is none.
fn python() -> Option<String> {
    let python = std::env::var("IRONBUS_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import zenoh"]).stderr(Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    println!("skipped: {python} has no package eclipse-zenoh (IRONBUS_PYTHON names another interpreter)");
    None
}

/// The client, and the lines that it prints.
struct Client {
    child: Child,
    lines: Receiver<String>,
}

impl Client {
    fn start(python: &str, endpoint: &str, pattern: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
        let mut command = Command::new(python);
        command.arg(script).args([endpoint, pattern]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || printed.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let client = Self { child, lines };
        assert_eq!(client.line()["subscribed"], pattern);
        client
    }

    fn line(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("it prints a line");
        serde_json::from_str(&line).expect("a line of JSON")
    }

    /// The next event heard that is after `position`.
    fn heard_after(&self, position: Position) -> Value {
        loop {
            let line = self.line();
            let event: Value = serde_json::from_str(line["text"].as_str().expect("text")).expect("an event");
            if event["position"].as_u64() > Some(position.0) {
                return line;
            }
        }
    }

    /// What a query is answered with.
    fn query(&mut self, selector: &str) -> Vec<Value> {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{selector}").expect("it reads its input");
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if line["answered"] == selector {
                return lines;
            }
            lines.push(line);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // A test that failed doesn't wait for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Incidents as they happened, or, where that log is absent, made-up ones.
fn incidents() -> Vec<(Aggregate, NewEvent)> {
    if let Some(log) = real_log("bpic2013-incidents.jsonl.gz") {
        return log.into_iter().take(EVENTS).map(|event| (event.aggregate.clone(), event.to_new())).collect();
    }
    let made_up = (0..EVENTS).map(|number| {
        let incident = Aggregate::new("Incident", format!("1-{}/a b", number % 37)).expect("valid");
        let payload =
            Json::parse(format!("{{\"status\": \"Accepted\",\n \"n\": {number}.50}}")).expect("valid");
        (incident, NewEvent::new("StatusChanged", payload))
    });
    made_up.collect()
}

/// A store node on loopback, and where it listens.
async fn store_node(directory: &Path) -> (Node, String) {
    let node = Node::open(NodeOptions::new(directory)).await.expect("the log opens");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("tcp/{}", free.local_addr().expect("bound"));
    drop(free);
    let session = ZenohOptions::peer(&[&endpoint], &[]).open().await.expect("it listens");
    let options = StoreNodeOptions { name: "store".into() };
    StoreNode::join(&node, session, options).await.expect("it joins");
    node.bus().set_mode(EventBusMode::Zenoh).expect("it has Zenoh");
    (node, endpoint)
}

async fn append(node: &Node, aggregate: &Aggregate, event: NewEvent) {
    let append = Append::to(aggregate.clone(), ExpectedVersion::Any, vec![event]);
    node.store().append(append).await.expect("appended");
}

fn is(line: &Value, what: &str, event: &StoredEvent) {
    assert_eq!(line[what], EventKey::of(event).as_str(), "{line}");
    assert_eq!(line["encoding"], "application/json", "{line}");
    assert_eq!(line["text"].as_str().expect("text").as_bytes(), &event.json()[..], "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_only_zenoh_hears_incidents_and_asks_for_the_history_of_one() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let (node, endpoint) = store_node(directory.path()).await;
    let mut client = Client::start(&python, &endpoint, "events/Incident/**");

    // Its subscription may still be on its way to the store node: it has arrived once one event is heard.
    let first = Aggregate::new("Incident", "the first").expect("valid");
    loop {
        append(&node, &first, NewEvent::new("Opened", Json::parse("{}").expect("valid"))).await;
        if client.lines.recv_timeout(Duration::from_millis(200)).is_ok() {
            break;
        }
    }

    let incidents = incidents();
    let often = |aggregate: &Aggregate| incidents.iter().filter(|(other, _)| other == aggregate).count();
    let incident = incidents.iter().map(|(aggregate, _)| aggregate).max_by_key(|aggregate| often(aggregate));
    let incident = incident.expect("there are incidents").clone();
    let session = SessionId::new("somebody's").expect("valid");
    let before = node.store().head().await.expect("readable").position;
    for (number, (aggregate, event)) in incidents.iter().enumerate() {
        if number == EVENTS / 2 {
            // Neither heard nor answered, though it is of the same incident.
            append(&node, &incident, event.clone().for_session(session.clone())).await;
        }
        append(&node, aggregate, event.clone()).await;
    }

    let everything = ironbus::EventFilter::public(KeyPattern::everything());
    let stored = node.store().read(before, &everything, EVENTS + 1).await.expect("readable").events;
    assert_eq!(stored.len(), EVENTS, "all but that of the session");
    for event in &stored {
        is(&client.heard_after(before), "heard", event);
    }

    let history = node.store().load(&incident, Sequence::START, EVENTS + 1).await.expect("readable").events;
    let public: Vec<_> = history.iter().filter(|event| event.session_id.is_none()).collect();
    assert_eq!((public.len(), history.len()), (often(&incident), often(&incident) + 1));
    assert!(public.len() > 5, "an incident with a history");
    let answers = client.query(KeyPattern::aggregate(&incident).as_str());
    assert_eq!(answers.len(), public.len(), "{answers:?}");
    for (answer, event) in answers.iter().zip(&public) {
        is(answer, "answer", event);
    }

    assert_eq!(client.query("events/session/**"), [] as [Value; 0], "nothing of any session");
    let refused = client.query(KeyPattern::session(&session).as_str());
    let [refused] = &refused[..] else { panic!("one refusal, not {refused:?}") };
    assert!(refused["refused"].as_str().is_some_and(|text| text.contains("entitled")), "{refused}");
    assert!(node.shutdown(Duration::from_secs(5)).await.is_empty());
}
