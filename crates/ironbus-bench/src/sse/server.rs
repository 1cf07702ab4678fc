//! A server in a process of its own, told what to do line by line: `publish COUNT` sends so many events and answers
//! with the time (of the system's clock) right before; `memory` answers with its resident memory in KiB.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ironbus::{Aggregate, Append, ExpectedVersion, Json, NewEvent, Node, NodeOptions};
use ironbus_server::ServerOptions;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::nchan::Nchan;
use super::peers::{Server, axum_sse, floor, shared_frames};

/// What can be started.
pub(super) const KINDS: [&str; 5] = ["ironbus", "ironbus-body", "axum-sse", "shared-frames", "epoll"];

/// Another one, where it is installed.
pub(super) const NCHAN: &str = "nchan";

/// The event as a client gets it, about as long as ours, whose payload has 300 bytes or so.
pub(super) fn data(number: u64) -> String {
    let payload = "x".repeat(PAYLOAD);
    format!("{{\"position\":{number},\"sequence\":{number},{OTHER},\"payload\":\"{payload}\"}}")
}

/// How long a payload is, so that a frame has about 300 bytes.
const PAYLOAD: usize = 16;

/// What every event of ours says beside, in as many bytes.
const OTHER: &str = "\"event_id\":\"01a227b8-8aef-743f-9f43-811af0716c91\",\"aggregate_type\":\"Bench\",\
     \"aggregate_id\":\"1\",\"event_type\":\"Measured\",\"schema_version\":1,\"metadata\":{},\
     \"recorded_at\":\"2026-11-29T14:32:15.343423Z\"";

pub(super) fn frame(number: u64) -> Bytes {
    format!("id: 1.{number}\ndata: {}\n\n", data(number)).into()
}

/// Runs until its standard input ends. Says first where it listens.
pub(crate) fn run(kind: &str, place: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _within = runtime.enter();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut address: SocketAddr = listener.local_addr().expect("bound");
    let mut server: Box<dyn Server + Send> = match kind {
        "ironbus" => Box::new(runtime.block_on(Ours::start(listener, place, 1))),
        "ironbus-body" => Box::new(runtime.block_on(Ours::start(listener, place, 0))),
        "epoll" => floor(listener),
        NCHAN => {
            let (its, nchan) = Nchan::start(place);
            address = its;
            Box::new(nchan)
        }
        "axum-sse" | "shared-frames" => {
            let (routes, server) = if kind == "axum-sse" { axum_sse() } else { shared_frames() };
            listener.set_nonblocking(true).expect("set");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            runtime.spawn(async move {
                use axum::serve::ListenerExt;
                let listener = listener.tap_io(|socket| {
                    let _ = socket.set_nodelay(true);
                });
                axum::serve(listener, routes).await.expect("serves");
            });
            server
        }
        _ => panic!("no such server: {kind}"),
    };
    say(&address.to_string());
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("readable");
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("publish", count) => {
                let now = clock();
                server.publish(count.parse().expect("a count"));
                say(&now.to_string());
            }
            ("memory", "") => say(&server.resident().to_string()),
            _ => panic!("an unknown line: {line}"),
        }
    }
}

fn say(answer: &str) {
    println!("{answer}");
    std::io::stdout().flush().expect("somebody reads this");
}

/// The resident memory of a process, in KiB.
pub(super) fn resident_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A node with a log, all of whose events go through it.
struct Ours {
    node: Node,
    aggregate: Aggregate,
}

impl Ours {
    async fn start(listener: std::net::TcpListener, place: &Path, stream_threads: usize) -> Self {
        let node = Node::open(NodeOptions::new(place)).await.expect("opens");
        listener.set_nonblocking(true).expect("set");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let heartbeat = Duration::from_secs(3600);
        let options =
            ServerOptions { stream_threads, heartbeat, max_connections: 20_000, ..Default::default() };
        tokio::spawn(ironbus_server::serve(node.clone(), listener, options, CancellationToken::new()));
        Self { node, aggregate: Aggregate::new("Bench", "1").expect("valid") }
    }
}

impl Server for Ours {
    fn publish(&mut self, count: u64) {
        let payload = Json::of(&"x".repeat(PAYLOAD)).expect("a text");
        let events = (0..count).map(|_| NewEvent::new("Measured", payload.clone())).collect();
        let append = Append::to(self.aggregate.clone(), ExpectedVersion::Any, events);
        let store = self.node.store();
        tokio::runtime::Handle::current().block_on(store.append(append)).expect("stored");
    }
}
