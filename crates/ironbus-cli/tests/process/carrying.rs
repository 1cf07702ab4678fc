//! `kill -9` of the store node while clients append: whoever listens by plain Zenoh and comes back hears of
//! every event that was committed, at least once and in order after each start; readers of an edge node
//! hear nothing twice.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbus::bus::Heard;
use ironbus::store::Phase;
use ironbus::{EventBus as _, EventFilter, Node, Start, StoredEvent};
use ironbus_testkit::within;
use ironbus_zenoh::{EdgeNode, EdgeOptions, ZenohOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::migrate::put_in_phase;
use crate::server::Server;

const WRITERS: usize = 4;

/// How long the store node lives each time: shorter and longer than it gives its listeners to come back.
const LIVES: [u64; 4] = [1_500, 2_000, 7_500, 6_000];

/// Appends until the server no longer answers. Says whether it answered at all.
async fn append_until_cut(url: String, writer: usize) {
    let http = reqwest::Client::new();
    let url = format!("{url}/v1/aggregates/Counter/{writer}/events");
    let body = json!({ "events": [{ "event_type": "Counted", "payload": { "x": "x".repeat(200) } }] });
    while let Ok(answer) = http.post(&url).json(&body).send().await {
        assert_eq!(answer.status(), 201);
    }
}

async fn start(data: &Path, endpoint: &str) -> Server {
    let (data, endpoint) = (data.to_owned(), endpoint.to_owned());
    let start = move || Server::start_with(&data, &["--name", "store", "--zenoh-listen", &endpoint]);
    tokio::task::spawn_blocking(start).await.expect("no panic")
}

/// Every position that a subscriber of plain Zenoh has heard; it connects again as Zenoh does by default.
async fn plain(place: &Path, endpoint: &str) -> (impl Sized, Arc<Mutex<Vec<u64>>>) {
    let file = place.join("plain.json5");
    let config = format!(
        "{{ mode: 'client', scouting: {{ multicast: {{ enabled: false }} }}, connect: {{
        endpoints: ['{endpoint}'], timeout_ms: -1, exit_on_failure: false }} }}"
    );
    std::fs::write(&file, config).expect("written");
    let session =
        ZenohOptions { file: Some(file), ..ZenohOptions::default() }.open().await.expect("it opens");
    let heard = Arc::<Mutex<Vec<u64>>>::default();
    let hearing = Arc::clone(&heard);
    let subscriber = session
        .declare_subscriber("events/**")
        .callback(move |sample| {
            let event: Value = serde_json::from_slice(&sample.payload().to_bytes()).expect("JSON");
            let position = event["position"].as_u64().expect("a number");
            hearing.lock().expect("not poisoned").push(position);
        })
        .await
        .expect("declared");
    ((session, subscriber), heard)
}

/// What a raw listener of a node hears, in any number of subscriptions one after the other.
async fn listen(node: Node) {
    loop {
        let (mut events, mut last) = (node.bus().subscribe(EventFilter::everything()), 0);
        while let Some(heard) = events.next().await {
            if let Heard::Event(event) = heard {
                assert!(event.position.0 > last, "{} after {last}", event.position);
                last = event.position.0;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_by_zenoh_and_comes_back_hears_of_all_that_was_committed_around_kills() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("created");
    put_in_phase(&data, &[(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh)]).await;
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let mut server = start(&data, &endpoint).await;
    let (_plain, heard) = plain(place.path(), &endpoint).await;
    let session = ZenohOptions::peer(&[], &[&endpoint]).open().await.expect("a session opens");
    let (edge, _joined) = EdgeNode::start(session, EdgeOptions::new("edge")).await.expect("it starts");
    let mut all = edge.store().subscribe(EventFilter::everything(), Start::Beginning);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(edge.clone()));
    // From the moment on that it is connected.
    let http = reqwest::Client::new();
    let first = within("the subscriber is connected", async {
        loop {
            let url = format!("{}/v1/aggregates/First/1/events", server.url);
            let body = json!({ "events": [{ "event_type": "First", "payload": {} }] });
            assert_eq!(http.post(url).json(&body).send().await.expect("it answers").status(), 201);
            if let Some(first) = heard.lock().expect("not poisoned").first() {
                break *first;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    for life in LIVES {
        let appending: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(append_until_cut(server.url.clone(), writer))).collect();
        // The moment is random to the log.
        tokio::time::sleep(Duration::from_millis(life)).await;
        server.kill();
        for writer in appending {
            writer.await.expect("every answer is right");
        }
        server = start(&data, &endpoint).await;
    }

    let log = http.get(format!("{}/v1/events", server.url)).header("accept", "application/x-ndjson");
    let log = log.send().await.expect("it answers").text().await.expect("a whole body");
    let log: Vec<_> =
        log.lines().map(|line| StoredEvent::from_json(line.as_bytes()).expect("an event")).collect();
    let committed: BTreeSet<u64> =
        log.iter().map(|event| event.position.0).filter(|at| *at >= first).collect();
    let missing = || {
        let heard: BTreeSet<u64> = heard.lock().expect("not poisoned").iter().copied().collect();
        committed.difference(&heard).copied().collect::<Vec<_>>()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !missing().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "never heard of {:?}", missing());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let heard = heard.lock().expect("not poisoned").clone();
    println!("{} events, {} of them heard again after a start", log.len(), heard.len() - committed.len());
    let starts = heard.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    assert!(starts <= LIVES.len(), "in order, but for each start: {starts}");
    assert!(starts > 0, "nothing was in doubt at any kill, so this has shown nothing");

    for expected in &log {
        let event = within("the edge has all", all.next_event()).await.expect("open").expect("readable");
        assert_eq!(*event, *expected, "each once, in order");
    }
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        assert!(
            ended.is_err_and(|error| error.is_cancelled()),
            "a raw listener heard something out of order"
        );
    }
    assert_eq!(edge.shutdown(Duration::from_secs(5)).await, [""; 0]);
}
