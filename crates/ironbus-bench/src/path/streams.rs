//! Live streams: an event goes to many clients of one server, which is in this process as they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ironbus::{Append, ExpectedVersion, Node, NodeOptions};
use ironbus_server::ServerOptions;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{event, named};

/// How many clients there are; what an append takes is shared by so many deliveries.
const CLIENTS: usize = 256;

/// So many deliveries of events that are appended one by one, the next when all clients have the one before.
pub(super) async fn deliver(place: &Path, stream_threads: usize, count: usize) {
    let node = Node::open(NodeOptions::new(place)).await.expect("opens");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let heartbeat = Duration::from_secs(3600);
    let options = ServerOptions { stream_threads, heartbeat, ..ServerOptions::default() };
    let served = ironbus_server::serve(node.clone(), listener, options, CancellationToken::new());
    let server = tokio::spawn(served);
    // Each client's own thread would be counted with its wake-ups: one thread reads one client after the other.
    let (told, mut done) = mpsc::channel(1);
    let events = count / CLIENTS;
    let clients = std::thread::spawn(move || {
        // One for all: to make it anew would take more than all that is to be counted.
        let mut buffer = [0; 8192];
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| open(address, &mut buffer)).collect();
        told.blocking_send(()).expect("somebody waits");
        for _ in 0..events {
            clients.iter_mut().for_each(|client| read_through(client, &mut buffer, b"}\n\n"));
            told.blocking_send(()).expect("somebody waits");
        }
    });
    done.recv().await.expect("all are open");
    for _ in 0..events {
        let append = Append::to(named(1), ExpectedVersion::Any, vec![event()]);
        node.store().append(append).await.expect("stored");
        done.recv().await.expect("all have it");
    }
    clients.join().expect("no panic");
    server.abort();
    node.shutdown(Duration::from_secs(5)).await;
}

fn open(address: SocketAddr, buffer: &mut [u8]) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("connects");
    client
        .write_all(b"GET /v1/stream?pattern=events/Bench/** HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("a small request");
    // It says so when it is caught up, and is live from then on.
    read_through(&mut client, buffer, b"caught_up\ndata: {\"position\":0}\n\n");
    client
}

/// Reads until what was read last ends so, but for what ends a chunk of a body.
fn read_through(client: &mut TcpStream, buffer: &mut [u8], end: &[u8]) {
    let mut filled = 0;
    loop {
        let read = client.read(&mut buffer[filled..]).expect("readable");
        assert!(read > 0, "a stream was ended");
        filled += read;
        let got = &buffer[..filled];
        if got.strip_suffix(b"\r\n").unwrap_or(got).ends_with(end) {
            return;
        }
    }
}
