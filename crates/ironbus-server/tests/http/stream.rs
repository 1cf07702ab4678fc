//! Live streams: start, resume, reset, heartbeats, slow clients, and a shutdown with streams open.

use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server};
use ironbus_server::ServerOptions;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_starts_live_or_from_the_beginning() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=3).await;
    let mut all = server.stream("?after=0").await;
    let mut live = server.stream("").await;
    let hello = all.frame().await.expect("a first frame");
    assert_eq!(hello.retry.as_deref(), Some("2000"));
    assert_eq!(live.control("caught_up").await, json!({ "position": 3 }));
    server.append("Todo", "1", 4..=5).await;
    assert_eq!(all.positions(5).await, [1, 2, 3, 4, 5]);
    assert_eq!(live.positions(2).await, [4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_goes_on_after_the_last_event_that_was_seen() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=5).await;
    // A browser reconnects to the same address, so the cursor must win over `after`.
    let mut by_header = server.stream_with("?after=0", &[("last-event-id", "1.3")]).await;
    assert_eq!(by_header.control("resumed").await, json!({ "after": 3, "epoch": 1 }));
    assert_eq!(by_header.positions(2).await, [4, 5]);
    let mut by_query = server.stream("?after=0&last_event_id=1.4").await;
    assert_eq!(by_query.control("resumed").await["after"], 4);
    assert_eq!(by_query.positions(1).await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_not_ours_gets_a_reset_and_everything_from_the_beginning() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=2).await;
    for (cursor, word) in [("7.1", "epoch 7"), ("1.99", "beyond 2"), ("garbage", "not a cursor")] {
        let mut stream = server.stream_with("", &[("last-event-id", cursor)]).await;
        let reset = stream.control("reset").await;
        assert!(reset["reason"].as_str().expect("a text").contains(word), "{cursor}: {reset}");
        assert_eq!(stream.positions(2).await, [1, 2]);
    }
    let mut beyond = server.stream("?after=99").await;
    beyond.control("reset").await;
    assert_eq!(beyond.positions(2).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_only_what_matches_and_names_types_when_asked() {
    let server = Server::start().await;
    let mut todos = server.stream("?pattern=events/Todo/*/**&names=true").await;
    todos.control("caught_up").await;
    server.append("User", "1", 1..=3).await;
    server.append("Todo", "1", 1..=1).await;
    let named = todos.frame().await.expect("an event");
    assert_eq!((named.event.as_deref(), named.id.as_deref()), (Some("Counted"), Some("1.4")));
    assert_eq!(named.json()["aggregate_type"], "Todo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_gets_comments_and_its_cursor_advances_past_what_does_not_match() {
    let heartbeat = Duration::from_millis(50);
    let server = Server::with(ServerOptions { heartbeat, ..Default::default() }).await;
    let mut quiet = server.stream("?pattern=events/Nothing/**").await;
    quiet.control("caught_up").await;
    let comment = quiet.frame().await.expect("a frame");
    assert_eq!(comment.comment.as_deref(), Some(""));
    server.append("Todo", "1", 1..=3).await;
    loop {
        let frame = quiet.frame().await.expect("a frame");
        assert_eq!(frame.data, None, "nothing fires an event in the browser");
        if frame.id.as_deref() == Some("1.3") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_in_seconds_although_streams_are_open() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = server.stream("").await;
        stream.control("caught_up").await;
        streams.push(stream);
    }
    let began = Instant::now();
    server.stop.cancel();
    for mut stream in streams {
        while stream.frame().await.is_some() {}
    }
    tokio::time::timeout(PATIENCE, server.served)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("no error");
    assert!(began.elapsed() < Duration::from_secs(4), "took {:?}", began.elapsed());
    assert_eq!(server.node.shutdown(Duration::from_secs(2)).await, Vec::<&str>::new());
}

/// A program of one's own may stop waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_keeps_no_connection() {
    let server = Server::start().await;
    let mut client = TcpStream::connect(server.address).await.expect("connects");
    let request = b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(request).await.expect("a small request");
    let mut got = Vec::new();
    while !got.windows(9).any(|bytes| bytes == b"caught_up") {
        let read = client.read_buf(&mut got).await.expect("readable");
        assert!(read > 0, "ended: {}", String::from_utf8_lossy(&got));
    }
    server.served.abort();
    // Whether it says farewell or is cut off.
    let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got)).await.expect("it ends");
    assert_eq!(server.node.shutdown(Duration::from_secs(2)).await, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_slows_nobody_and_loses_nothing() {
    let server = Server::start().await;
    let mut stalled = TcpStream::connect(server.address).await.expect("connects");
    let request = "GET /v1/stream?after=0 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stalled.write_all(request.as_bytes()).await.expect("sends");
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(server.stream("?after=0").await);
    }
    // 30,000 events of about 1 KB: more than the kernel's buffers and the ring hold.
    let (batches, size) = (60, 500);
    let event = format!(r#"{{"event_type":"A","payload":"{}"}}"#, "x".repeat(700));
    let body = format!(r#"{{"events":[{}]}}"#, vec![event; size].join(","));
    let readers: Vec<_> = others
        .into_iter()
        .map(|mut stream| tokio::spawn(async move { stream.positions(batches * size).await }))
        .collect();
    for _ in 0..batches {
        assert_eq!(server.post("/v1/aggregates/Big/1/events", &*body).await.status, 201);
    }
    let everything: Vec<u64> = (1..=(batches * size) as u64).collect();
    for reader in readers {
        let seen =
            tokio::time::timeout(3 * PATIENCE, reader).await.expect("nobody waits for the stalled one");
        assert_eq!(seen.expect("no panic"), everything);
    }
    // Now the stalled one goes on. Only ids are looked at: that is what counts positions.
    let mut ids = Vec::new();
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while ids.len() < everything.len() {
        let read = tokio::time::timeout(PATIENCE, stalled.read(&mut buffer)).await.expect("goes on");
        text.extend_from_slice(&buffer[..read.expect("the connection was kept")]);
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            if let Some(id) = line.strip_prefix("id: 1.") {
                ids.push(id.parse::<u64>().expect("a position"));
            }
        }
        text.drain(..whole);
    }
    assert_eq!(ids, everything);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_or_a_body_that_is_stuck_half_way_is_ended_and_others_are_served() {
    // Long enough for a busy machine to get the first bytes across: before them a connection is only idle.
    let request_timeout = Duration::from_secs(2);
    let server = Server::with(ServerOptions { request_timeout, ..Default::default() }).await;
    let mut answers = Vec::new();
    for stuck in [
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-ty",
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{\"writes\":[",
    ] {
        let mut connection = TcpStream::connect(server.address).await.expect("connects");
        connection.write_all(stuck.as_bytes()).await.expect("sends");
        assert_eq!(server.get("/healthz").await.status, 200, "others are served meanwhile");
        let mut answer = String::new();
        let read = connection.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("the server ends it").expect("readable");
        answers.push(answer);
    }
    for (answer, kind) in answers.iter().zip(["head-timeout", "body-timeout"]) {
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains(kind), "{answer}");
    }
    assert_eq!(server.get("/v1/events").await.json()["head"], 0);
}

/// A connection on which a stream is asked for as a browser does, with as little room for what comes as there can be.
async fn narrow(address: std::net::SocketAddr, requests: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(2048).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("connects");
    stream.write_all(requests.as_bytes()).await.expect("sends");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_before_a_stream_on_its_connection_are_answered_first() {
    let server = Server::start().await;
    let large = format!(r#"{{"events":[{{"event_type":"A","payload":"{}"}}]}}"#, "x".repeat(600_000));
    for _ in 0..8 {
        assert_eq!(server.post("/v1/aggregates/Big/1/events", &*large).await.status, 201);
    }
    // Nothing is read while the server answers, so the large answer doesn't fit and is still owed when the stream is
    // asked for.
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for before in ["/healthz", "/v1/events"] {
        let mut connection =
            narrow(server.address, &(get(before) + &get("/v1/stream?after=7") + &get("/healthz"))).await;
        let (mut text, mut buffer, mut begun) = (Vec::new(), vec![0; 1 << 16], false);
        let read_all = async {
            // As bodies, a chunk ends in a line of its own.
            while !begun || !(text.ends_with(b"\n\n") || text.ends_with(b"\n\n\r\n")) {
                let read = connection.read(&mut buffer).await.expect("readable");
                assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&text));
                let known = text.len().saturating_sub(8);
                text.extend_from_slice(&buffer[..read]);
                begun |= text[known..].windows(8).any(|bytes| bytes == b"id: 1.8\n");
            }
        };
        tokio::time::timeout(PATIENCE, read_all).await.expect("a whole frame at the end");
        let text = String::from_utf8_lossy(&text);
        let answers: Vec<_> = text.match_indices("HTTP/1.1 200 OK").collect();
        assert_eq!(answers.len(), 2, "{}", &text[..500]);
        let (first, second) = text.split_at(answers[1].0);
        assert!(second.contains("text/event-stream") && second.contains("id: 1.8\n"));
        assert_eq!(first.contains("\"head\":8"), before == "/v1/events", "{}", &first[first.len() - 100..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_or_never_stops_talking_gives_its_place_free() {
    let options = ServerOptions { max_connections: 3, ..Default::default() };
    let server = Server::with(options).await;
    let request = "GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for round in 0..4 {
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut client = narrow(server.address, request).await;
            let mut first = [0; 15];
            let read = client.read_exact(&mut first);
            tokio::time::timeout(PATIENCE, read).await.expect("served").expect("readable");
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            open.push(client);
        }
        assert_eq!(server.node.open_streams(), 3);
        // One that sends without end is cut off, however long its stream would be. As a body, it is never read from.
        if round == 3 && !env!("CARGO_CRATE_NAME").ends_with("as_bodies") {
            let mut talker = open.remove(0);
            let talk = async { while talker.write_all(&[b'x'; 4096]).await.is_ok() {} };
            tokio::time::timeout(PATIENCE, talk).await.expect("cut off");
        }
        drop(open);
        let gone = async {
            while server.node.open_streams() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("all have gone");
    }
    assert_eq!(server.get("/healthz").await.status, 200);
}

/// Readers that read a little, wait, and read on, with patterns that match all, few and none of the events, through
/// sockets that take a few frames: each gets what is for it, whole, once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_all_speeds_and_patterns_get_their_events_whole_and_in_order() {
    const EVENTS: u64 = 3000;
    let server = Server::start().await;
    let patterns = ["**", "events/A/**", "events/A/3/**", "events/B/*/**", "events/C/**"];
    let matches = |pattern: &str, position: u64| match pattern {
        "**" => true,
        "events/A/**" => position.is_multiple_of(2),
        "events/A/3/**" => position.is_multiple_of(2) && position % 7 == 3,
        "events/B/*/**" => !position.is_multiple_of(2),
        _ => false,
    };
    let readers: Vec<_> = (0..60)
        .map(|number| {
            let (address, pattern) = (server.address, patterns[number % patterns.len()]);
            let expected: Vec<u64> = (1..=EVENTS).filter(|position| matches(pattern, *position)).collect();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(number as u64);
                let request =
                    format!("GET /v1/stream?after=0&pattern={pattern} HTTP/1.1\r\nhost: localhost\r\n\r\n");
                let mut stream = narrow(address, &request).await;
                let (mut seen, mut text) = (Vec::new(), Vec::new());
                while seen.len() < expected.len() {
                    let mut buffer = vec![0; random.usize(1..9000)];
                    let read = stream.read(&mut buffer).await.expect("readable");
                    assert!(read > 0, "reader {number}: the stream ended after {} events", seen.len());
                    text.extend_from_slice(&buffer[..read]);
                    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    let mut id = None;
                    for line in std::str::from_utf8(&text[..whole]).expect("UTF-8").lines() {
                        if let Some(cursor) = line.strip_prefix("id: 1.") {
                            id = Some(cursor.parse::<u64>().expect("a position"));
                        } else if let Some(data) = line.strip_prefix("data: ").filter(|_| id.is_some()) {
                            let event: serde_json::Value = serde_json::from_str(data).expect("a whole event");
                            assert_eq!(event["position"].as_u64(), id);
                            seen.extend(id.take());
                        }
                    }
                    // An id whose data hasn't come yet is looked at again with it.
                    let keep = id.map_or(whole, |id| {
                        let line = format!("id: 1.{id}\n");
                        text.windows(line.len()).rposition(|bytes| bytes == line.as_bytes()).unwrap_or(whole)
                    });
                    text.drain(..keep);
                    if random.u8(..8) == 0 {
                        tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
                    }
                }
                assert_eq!(seen, expected, "reader {number} of {pattern}");
            })
        })
        .collect();
    let payload = "x".repeat(400);
    let mut position = 0;
    while position < EVENTS {
        let writes: Vec<_> = (0..100)
            .map(|_| {
                position += 1;
                let kind = if position.is_multiple_of(2) { "A" } else { "B" };
                let event = json!({ "event_type": "T", "payload": payload });
                json!({ "aggregate_type": kind, "aggregate_id": (position % 7).to_string(), "events": [event] })
            })
            .collect();
        let answer = server.post("/v1/events", json!({ "writes": writes }).to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    for reader in readers {
        tokio::time::timeout(3 * PATIENCE, reader).await.expect("in time").expect("all of it");
    }
}
