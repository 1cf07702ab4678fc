//! A server of a test's own on a free port, and a reader of its streams.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ironbus::{Node, NodeOptions};
use ironbus_server::{ServerOptions, serve};
use ironbus_zenoh::storage::{StorageOptions, StoragePlaces};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes so long; only a fault does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A log in SQLite, or in slots where this is compiled as the suite for those.
pub(crate) fn node_options(data: &Path) -> NodeOptions {
    if !env!("CARGO_CRATE_NAME").ends_with("on_slots") {
        return NodeOptions::new(data);
    }
    let place = std::env::var("IRONBUS_TEST_LOG").unwrap_or_else(|_| "folder:slots".into());
    let storage = StoragePlaces { data: data.to_owned(), options: StorageOptions::default() };
    let log = Some(place.parse().expect("an address"));
    NodeOptions { log, storage: Some(Arc::new(storage)), ..NodeOptions::new(data) }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) node: Node,
    pub(crate) http: reqwest::Client,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<std::io::Result<()>>,
    _data: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(ServerOptions::default()).await
    }

    pub(crate) async fn with(options: ServerOptions) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let node = Node::open(node_options(data.path())).await.expect("a new log opens");
        Self::over(node, data, options).await
    }

    /// A server over a node whose log is in `data`.
    pub(crate) async fn over(node: Node, data: tempfile::TempDir, options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let as_bodies = env!("CARGO_CRATE_NAME").ends_with("as_bodies");
        let stream_threads = if as_bodies { 0 } else { options.stream_threads };
        let options = ServerOptions { stream_threads, ..options };
        let served = tokio::spawn(serve(node.clone(), listener, options, stop.clone()));
        // Where the build has S3, a client needs one. There may be one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection of its own for each request: one that was idle may be closed by the server just when it's used.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        Self { address, node, http, stop, served, _data: data }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(self.url(path))).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = self.http.post(self.url(path)).header("content-type", "application/json");
        Answer::of(request.body(body.into())).await
    }

    /// Appends events `{"n":…}` with these numbers to one aggregate.
    pub(crate) async fn append(&self, kind: &str, id: &str, numbers: std::ops::RangeInclusive<u64>) {
        let events: Vec<_> =
            numbers.map(|n| serde_json::json!({ "event_type": "Counted", "payload": { "n": n } })).collect();
        let body = serde_json::json!({ "events": events }).to_string();
        let answer = self.post(&format!("/v1/aggregates/{kind}/{id}/events"), body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    pub(crate) async fn stream(&self, query: &str) -> Stream {
        self.stream_with(query, &[]).await
    }

    pub(crate) async fn stream_with(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        self.open(&format!("/v1/stream{query}"), headers).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::of(self.request(path, headers)).await
    }

    fn request(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let request = self.http.get(self.url(path));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    /// Opens any stream.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let response = self.request(path, headers).send().await.expect("the server answers");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { body: Box::pin(response.bytes_stream()), text: Vec::new() }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // A stream where an answer was expected never ends.
        let text = tokio::time::timeout(PATIENCE, response.text()).await.expect("the answer ends");
        Self { status, headers, text: text.expect("a whole body") }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Checks that the answer is a problem of this status and kind, and gives back its detail.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:ironbus:problem:{kind}"));
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().expect("every problem says what to do").to_owned()
    }
}

/// One frame of a stream: its fields as they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) comment: Option<String>,
}

impl Frame {
    fn parse(text: &str) -> Self {
        let mut frame = Self::default();
        for line in text.trim_end_matches('\n').lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "id" => frame.id = Some(value),
                "event" => frame.event = Some(value),
                "data" => {
                    assert!(frame.data.is_none(), "an event has one data line: {text}");
                    frame.data = Some(value);
                }
                "retry" => frame.retry = Some(value),
                "" => frame.comment = Some(value),
                other => panic!("an unknown field `{other}`"),
            }
        }
        frame
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().expect("the frame has data")).expect("data is JSON")
    }
}

type Chunks = std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>;

pub(crate) struct Stream {
    body: Chunks,
    text: Vec<u8>,
}

impl Stream {
    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.text.drain(..end + 2).collect();
                return Some(Frame::parse(std::str::from_utf8(&frame).expect("UTF-8")));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("a frame in time");
            self.text.extend_from_slice(&chunk?.expect("the stream isn't cut"));
        }
    }

    /// The next frame that a browser would fire `onmessage` for.
    pub(crate) async fn message(&mut self) -> Frame {
        loop {
            let frame = self.frame().await.expect("the stream goes on");
            if frame.data.is_some() && frame.event.is_none() {
                return frame;
            }
        }
    }

    /// The positions of the next `count` events.
    pub(crate) async fn positions(&mut self, count: usize) -> Vec<u64> {
        let mut positions = Vec::new();
        while positions.len() < count {
            let frame = self.message().await;
            let position = frame.json()["position"].as_u64().expect("a number");
            assert_eq!(frame.id, Some(format!("1.{position}")));
            positions.push(position);
        }
        positions
    }

    /// The next control event of this name.
    pub(crate) async fn control(&mut self, name: &str) -> Value {
        loop {
            let frame = self.frame().await.expect("the stream goes on");
            if frame.event.as_deref() == Some(name) {
                assert_eq!(frame.id, None, "control events don't move the cursor");
                return frame.json();
            }
        }
    }
}
