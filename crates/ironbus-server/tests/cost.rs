//! What an idle stream takes of the server's memory, counted byte by byte, so that it doesn't depend on the machine.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ironbus::{Node, NodeOptions};
use ironbus_server::{ServerOptions, serve};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Opens a stream of an aggregate of its own, and waits until the server has nothing more to say.
fn open(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let path = format!("/v1/stream?pattern=events/Incident/1-{number:09}/**");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
    while !text.windows(9).any(|bytes| bytes == b"caught_up") {
        let read = stream.read(&mut buffer).expect("in time");
        assert!(read > 0, "ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_takes_little() {
    // As a body it takes hyper's buffers for reading and writing, of 8 KiB each, and a task.
    for (stream_threads, most) in [(1, 1024), (0, 23 * 1024)] {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::open(NodeOptions::new(folder.path())).await.expect("opens");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let options = ServerOptions { stream_threads, ..Default::default() };
        let served = tokio::spawn(serve(node.clone(), listener, options, stop.clone()));
        const MANY: usize = 1000;
        let open_all = move || -> (Vec<TcpStream>, usize) {
            // What the first ones need once for all isn't theirs.
            let mut streams: Vec<_> = (0..100).map(|number| open(address, number)).collect();
            streams.reserve(MANY);
            let before = Region::new(MEMORY);
            streams.extend((0..MANY).map(|number| open(address, 100 + number)));
            let change = before.change();
            (streams, change.bytes_allocated.saturating_sub(change.bytes_deallocated) / MANY)
        };
        let (streams, each) = tokio::task::spawn_blocking(open_all).await.expect("no panic");
        eprintln!("an idle stream takes {each} bytes with {stream_threads} threads for streams");
        assert!(each <= most, "{each} bytes for a stream with {stream_threads} threads for them");
        drop(streams);
        stop.cancel();
        served.await.expect("no panic").expect("served");
        node.shutdown(Duration::from_secs(5)).await;
    }
}
