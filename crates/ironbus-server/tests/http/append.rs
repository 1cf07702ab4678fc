//! Appending over HTTP: what is stored, what a retry gets, what is refused and how.

use crate::support::{Answer, PATIENCE, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const EVENTS: &str = "/v1/aggregates/Todo/1/events";

#[tokio::test(flavor = "multi_thread")]
async fn an_append_says_where_its_events_stand_and_a_retry_gets_the_same_answer() {
    let server = Server::start().await;
    let body = json!({ "expected_version": "no_stream", "events": [
        { "event_id": "018f0000-0000-7000-8000-000000000001", "event_type": "Added", "payload": { "title": "a" } },
        { "event_id": "018f0000-0000-7000-8000-000000000002", "event_type": "Done", "payload": null },
    ] })
    .to_string();
    let first = server.post(EVENTS, &*body).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(
        first.json(),
        json!({ "events": [
            { "event_id": "018f0000-0000-7000-8000-000000000001", "position": 1, "sequence": 1 },
            { "event_id": "018f0000-0000-7000-8000-000000000002", "position": 2, "sequence": 2 },
        ], "head": 2 })
    );
    server.append("Todo", "2", 1..=3).await;
    let retry = server.post(EVENTS, body).await;
    assert_eq!((retry.status, retry.text), (201, first.text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_says_what_was_expected_and_what_is() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=3).await;
    for (expected, shown) in [("2", json!(2)), ("\"no_stream\"", json!("no_stream"))] {
        let events = r#"[{"event_type":"Done","payload":{}}]"#;
        let body = format!(r#"{{"expected_version":{expected},"events":{events}}}"#);
        let answer = server.post(EVENTS, body).await;
        assert!(answer.problem(409, "conflict").contains("version 3"));
        let problem = answer.json();
        assert_eq!((&problem["expected"], &problem["actual"]), (&shown, &json!(3)));
    }
    assert_eq!(server.get("/v1/events").await.json()["head"], 3, "a conflict writes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_several_aggregates_is_all_or_nothing() {
    let server = Server::start().await;
    let event = json!({ "event_type": "Moved", "payload": {} });
    let batch = |second: serde_json::Value| {
        json!({ "writes": [
            { "aggregate_type": "Account", "aggregate_id": "a/1", "expected_version": 0, "events": [event] },
            { "aggregate_type": "Account", "aggregate_id": "b", "expected_version": second, "events": [event] },
        ] })
        .to_string()
    };
    server.post("/v1/events", batch(json!(1))).await.problem(409, "conflict");
    assert_eq!(server.get("/v1/events").await.json()["head"], 0);
    let answer = server.post("/v1/events", batch(json!("no_stream"))).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let loaded = server.get("/v1/aggregates/Account/a%2F1/events").await.json();
    assert_eq!((&loaded["version"], &loaded["events"][0]["aggregate_id"]), (&json!(1), &json!("a/1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_comes_back_byte_for_byte() {
    let server = Server::start().await;
    let payload = "{ \"b\" : 1.50e+3,\n \"a\":[12345678901234567890, \"\\u00e9\"] }";
    let body = format!(r#"{{"events":[{{"event_type":"Kept","payload":{payload}}}]}}"#);
    assert_eq!(server.post(EVENTS, body).await.status, 201);
    let page = server.get(EVENTS).await;
    assert!(page.text.contains(&format!("\"payload\":{payload},\"metadata\":{{}}")), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said_with_its_place() {
    let server = Server::start().await;
    let refused = async |body: &str, status, kind| server.post(EVENTS, body).await.problem(status, kind);
    assert!(refused("{\"events\":[", 400, "invalid-json").await.contains("line 1 column 11"));
    let unknown = r#"{"events":[{"event_type":"A","payload":1},{"event_type":"B","payload":1,"typo":2}]}"#;
    let detail = refused(unknown, 400, "invalid-json").await;
    assert!(detail.contains("events[1]") && detail.contains("typo"), "{detail}");
    let detail = refused(r#"{"events":[{"event_type":"A"}]}"#, 400, "invalid-json").await;
    assert!(detail.contains("payload"), "{detail}");
    let detail = refused(r#"{"events":[],"expected_version":"maybe"}"#, 400, "invalid-json").await;
    assert!(detail.contains("expected_version") && detail.contains("no_stream"), "{detail}");
    let detail =
        refused(r#"{"events":[{"event_id":"x","event_type":"A","payload":1}]}"#, 400, "invalid-json").await;
    assert!(detail.contains("event_id"), "{detail}");
    refused(r#"{"events":[]}"#, 422, "invalid-event").await;
    refused(r#"{"events":[{"event_type":"","payload":1}]}"#, 422, "invalid-event").await;
    refused(r#"{"events":[{"event_type":"A","payload":1,"metadata":[]}]}"#, 422, "invalid-event").await;
    refused(r#"{"events":[{"event_type":"A","payload":1}]} x"#, 400, "invalid-json").await;
    let reserved = server.post("/v1/aggregates/session/1/events", r#"{"events":[]}"#).await;
    assert!(reserved.problem(422, "invalid-name").contains("reserved"));
    let body = r#"{"events":[{"event_type":"A","payload":1}]}"#;
    let as_text = server.http.post(server.url(EVENTS)).header("content-type", "text/plain").body(body);
    assert!(Answer::of(as_text).await.problem(415, "content-type").contains("application/json"));
    let as_nothing = server.http.post(server.url(EVENTS)).body(body);
    Answer::of(as_nothing).await.problem(415, "content-type");
    assert_eq!(server.get("/v1/events").await.json()["head"], 0, "nothing was half written");
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_bodies_and_batches_are_refused_with_the_limit() {
    let options = ironbus_server::ServerOptions { max_body_bytes: 4 << 20, ..Default::default() };
    let server = Server::with(options).await;
    let event = r#"{"event_type":"A","payload":1}"#;
    let many = format!(r#"{{"events":[{}]}}"#, vec![event; 10_001].join(","));
    assert!(server.post(EVENTS, many).await.problem(413, "too-many-events").contains("10000"));
    let large = format!(r#"{{"events":[{{"event_type":"A","payload":"{}"}}]}}"#, "x".repeat(1 << 20));
    assert!(server.post(EVENTS, large).await.problem(422, "invalid-event").contains("1048576"));
    let endless = "x".repeat(5 << 20);
    assert!(server.post(EVENTS, endless).await.problem(413, "body-too-large").contains("4194304"));
    assert_eq!(server.get("/v1/events").await.json()["head"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_while_still_sending_reads_the_answer() {
    let options = ironbus_server::ServerOptions { max_body_bytes: 1 << 20, ..Default::default() };
    let server = Server::with(options).await;
    let body = vec![b'x'; 16 << 20];
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = tokio::net::TcpStream::connect(server.address).await.expect("connects");
    connection.write_all(head.as_bytes()).await.expect("sends");
    connection.write_all(&body).await.expect("the server takes what it has no use for");
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("the server ends it").expect("readable");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body-too-large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_go_in_and_out_in_every_mode() {
    let server = Server::start().await;
    let event = |id: &str| {
        json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "OrderPlaced",
                "subject": "Order/o 1", "time": "2024-01-01T00:00:00Z", "data": { "total": 3 } })
    };
    let post = |kind: &str, body: serde_json::Value| {
        let request = server.http.post(server.url("/v1/events")).header("content-type", kind);
        Answer::of(request.body(body.to_string()))
    };
    let one = post("application/cloudevents+json; charset=utf-8", event("1")).await;
    assert_eq!(one.status, 201, "{}", one.text);
    let again = post("application/cloudevents+json", event("1")).await;
    assert_eq!(again.text, one.text, "the same source and id is the same event");
    let two = post("application/cloudevents-batch+json", json!([event("2"), event("3")])).await;
    assert_eq!(two.json()["head"], 3, "{}", two.text);
    let binary = server.http.post(server.url("/v1/events"));
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "4"),
        ("ce-source", "/shop"),
        ("ce-type", "OrderPaid"),
        ("ce-subject", "Order/o 1"),
        ("content-type", "application/json"),
    ]
    .iter()
    .fold(binary, |request, (name, value)| request.header(*name, *value));
    let four = Answer::of(binary.body(r#"{"paid":true}"#)).await;
    assert_eq!(four.json()["head"], 4, "{}", four.text);
    let loaded = server.get("/v1/aggregates/Order/o%201/events").await.json();
    assert_eq!(loaded["version"], 4);
    assert_eq!(loaded["events"][0]["metadata"]["occurred_at"], "2024-01-01T00:00:00Z");
    assert_eq!(loaded["events"][3]["payload"], json!({ "paid": true }));

    let wanted = "application/cloudevents-batch+json";
    let out = Answer::of(server.http.get(server.url("/v1/events")).header("accept", wanted)).await;
    assert_eq!(out.headers["content-type"], wanted);
    let given = out.json();
    for name in ["specversion", "id", "source", "type", "subject", "time", "data"] {
        assert_eq!(given[0][name], event("1")[name], "{name} goes out as it came in");
    }
    server.append("Todo", "1", 1..=1).await;
    let out = Answer::of(server.http.get(server.url("/v1/events?after=4")).header("accept", wanted)).await;
    let status = server.get("/v1/status").await.json();
    let source = format!("urn:ironbus:{}", status["store_id"].as_str().expect("a text"));
    assert_eq!(out.json()[0]["source"], source, "an event of this log has the log as its source");

    let broken = post("application/cloudevents+json", json!({ "specversion": "0.3" })).await;
    assert!(broken.problem(400, "invalid-cloudevent").contains("1.0"));
}
