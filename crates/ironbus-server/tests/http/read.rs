//! Reading over HTTP: pages, forms, sessions, the page itself and the description of the API.

use std::sync::Arc;

use crate::support::{Answer, Server};
use ironbus_server::{OperatorToken, ServerOptions};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_how_far_they_looked() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=3).await;
    server.append("User", "1", 1..=2).await;
    let page = server.get("/v1/events?pattern=events/Todo/**&limit=2").await.json();
    let positions = |page: &serde_json::Value| -> Vec<u64> {
        page["events"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|event| event["position"].as_u64())
            .collect()
    };
    assert_eq!((positions(&page), &page["through"], &page["head"]), (vec![1, 2], &json!(2), &json!(5)));
    let page = server.get("/v1/events?pattern=events/Todo/**&limit=2&after=2").await.json();
    assert_eq!((positions(&page), &page["through"]), (vec![3], &json!(5)));
    let page = server.get("/v1/events?pattern=events/Nothing/**").await.json();
    assert_eq!((positions(&page), &page["through"]), (vec![], &json!(5)));
    let page = server.get("/v1/aggregates/Todo/1/events?after_sequence=1&limit=1").await.json();
    assert_eq!((positions(&page), &page["version"]), (vec![2], &json!(3)));
    let none = server.get("/v1/aggregates/Todo/none/events").await;
    assert_eq!((none.status, none.json()), (200, json!({ "events": [], "version": 0 })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_the_documented_fields_in_every_form() {
    let server = Server::start().await;
    let metadata = r#"{"correlation_id":"c", "x": 1}"#;
    let event = format!(r#"{{"event_type":"A","schema_version":2,"payload":[],"metadata":{metadata}}}"#);
    server.post("/v1/aggregates/Todo/a%20%23%3F/events", format!(r#"{{"events":[{event}]}}"#)).await;
    let document = server.get("/v1/events").await.json()["events"][0].clone();
    let mut fields: Vec<_> = document.as_object().expect("an object").keys().cloned().collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "aggregate_id",
            "aggregate_type",
            "event_id",
            "event_type",
            "metadata",
            "payload",
            "position",
            "recorded_at",
            "schema_version",
            "sequence"
        ]
    );
    assert_eq!((&document["aggregate_id"], &document["schema_version"]), (&json!("a #?"), &json!(2)));
    for path in ["/v1/events?limit=5", "/v1/events", "/v1/aggregates/Todo/a%20%23%3F/events"] {
        let lines = server.http.get(server.url(path)).header("accept", "application/x-ndjson");
        let lines = Answer::of(lines).await;
        assert_eq!(lines.headers["content-type"], "application/x-ndjson");
        assert!(lines.text.ends_with('\n') && lines.text.contains(metadata));
        let line: serde_json::Value = serde_json::from_str(lines.text.trim_end()).expect("one line");
        assert_eq!(line, document);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_log_as_lines_crosses_pages() {
    let server = Server::start().await;
    for batch in 0..3 {
        server.append("Todo", "1", batch * 5000 + 1..=batch * 5000 + 5000).await;
    }
    let request = server.http.get(server.url("/v1/events?after=1")).header("accept", "application/x-ndjson");
    let answer = Answer::of(request).await;
    assert_eq!(answer.headers["ironbus-head"], "15000");
    let numbers: Vec<u64> = answer
        .text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["payload"]["n"].as_u64())
        .map(|number| number.expect("a number"))
        .collect();
    assert_eq!(numbers, (2..=15_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_queries_are_refused_with_what_is_possible() {
    let server = Server::start().await;
    let detail = server.get("/v1/events?pattern=events/Todo").await.problem(400, "invalid-pattern");
    assert!(detail.contains("events/Todo/**"), "{detail}");
    let detail = server.get("/v1/stream?pattern=events/a*b/**").await.problem(400, "invalid-pattern");
    assert!(detail.contains("$*"), "{detail}");
    let detail = server.get("/v1/events?limit=0").await.problem(400, "invalid-query");
    assert!(detail.contains("from 1 to 10000"), "{detail}");
    let detail = server.get("/v1/events?since=3").await.problem(400, "invalid-query");
    assert!(detail.starts_with("in the query, since: ") && detail.contains("after"), "{detail}");
    let detail = server.get("/v1/events?after=-1").await.problem(400, "invalid-query");
    assert!(detail.contains("after") && detail.contains("/openapi.json"), "{detail}");
    assert!(server.get("/v2").await.problem(404, "no-such-route").contains("/openapi.json"));
    let deleted = Answer::of(server.http.delete(server.url("/v1/events"))).await;
    assert!(deleted.problem(405, "no-such-method").contains("DELETE"));
    let image = server.http.get(server.url("/v1/events")).header("accept", "image/png");
    assert!(Answer::of(image).await.problem(406, "accept").contains("application/x-ndjson"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_events_are_shown_only_to_those_entitled() {
    let access = Arc::new(OperatorToken::new("secret"));
    let server = Server::with(ServerOptions { access, ..Default::default() }).await;
    server.append("Todo", "1", 1..=1).await;
    let event = r#"{"event_type":"A","payload":{},"session_id":"s1"}"#;
    server.post("/v1/aggregates/Todo/1/events", format!(r#"{{"events":[{event}]}}"#)).await;
    let count = |answer: &Answer| answer.json()["events"].as_array().expect("a list").len();
    for path in ["/v1/events", "/v1/aggregates/Todo/1/events", "/v1/events?pattern=**"] {
        assert_eq!(count(&server.get(path).await), 1, "{path}");
        let operator = server.http.get(server.url(path)).bearer_auth("secret");
        assert_eq!(count(&Answer::of(operator).await), 2, "{path}");
        let other = server.http.get(server.url(path)).bearer_auth("guessed");
        Answer::of(other).await.problem(401, "credentials");
    }
    server.get("/v1/events?pattern=events/session/s1/**").await.problem(403, "session");
    server.get("/v1/stream?pattern=events/session/s1/**").await.problem(403, "session");
    let mut public = server.stream("?after=0").await;
    let mut operator = server.stream_with("?after=0", &[("authorization", "Bearer secret")]).await;
    server.append("Todo", "1", 2..=2).await;
    assert_eq!(public.positions(2).await, [1, 3]);
    assert_eq!(operator.positions(3).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_of_the_api_names_every_route_and_nothing_else() {
    let server = Server::start().await;
    let description = server.get("/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    for (path, operations) in description["paths"].as_object().expect("an object") {
        let url = path.replace("{type}", "T").replace("{id}", "1").replace("{name}", "app.js");
        for method in operations.as_object().expect("an object").keys().filter(|key| *key != "parameters") {
            let request = match method.as_str() {
                "get" if path == "/v1/stream" => continue,
                "get" => server.http.get(server.url(&url)),
                "post" => server.http.post(server.url(&url)),
                other => panic!("an undocumented method {other}"),
            };
            let answer = Answer::of(request).await;
            let documented = &operations[method]["responses"][answer.status.to_string()];
            assert!(documented.is_object(), "{method} {path} answered {}, undocumented", answer.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_nothing_of_the_outside() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"));
    for name in ["app.js", "style.css", "icon.svg"] {
        let asset = server.get(&format!("/assets/{name}")).await;
        assert_eq!(asset.status, 200, "{name}");
        assert!(!asset.text.contains("https://"), "{name} names an address elsewhere");
    }
    server.get("/assets/other.js").await.problem(404, "no-such-asset");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_metrics_tell_what_happened() {
    let server = Server::start().await;
    server.append("Todo", "1", 1..=3).await;
    server
        .post(
            "/v1/aggregates/Todo/1/events",
            r#"{"expected_version":0,"events":[{"event_type":"A","payload":1}]}"#,
        )
        .await;
    let mut stream = server.stream("?after=0").await;
    stream.control("caught_up").await;
    let status = server.get("/v1/status").await.json();
    assert_eq!(
        (&status["head"], &status["sse_clients"], &status["ready"]),
        (&json!(3), &json!(1), &json!(true))
    );
    assert_eq!(status["appends"]["accepted"], 1);
    assert_eq!(status["appends"]["refused"], 1);
    assert_eq!(status["appends"]["events"], 3);
    assert!(status["appends"]["seconds"]["p99"].as_f64().expect("a number") > 0.0);
    assert_eq!(server.get("/healthz").await.json(), json!({ "healthy": true }));
    assert_eq!(server.get("/readyz").await.json(), json!({ "ready": true, "log": "the log is here" }));
    let metrics = server.get("/metrics").await.text;
    for line in [
        "ironbus_log_head 3",
        "ironbus_sse_clients 1",
        "ironbus_sse_events_total 3",
        "ironbus_appends_total{outcome=\"refused\"} 1",
        "ironbus_append_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "`{line}` isn't in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_local_names_are_answered_unless_that_is_lifted() {
    let server = Server::start().await;
    let status = async |server: &Server, host: &str| {
        Answer::of(server.http.get(server.url("/healthz")).header("host", host)).await
    };
    for host in ["localhost:4466", "127.0.0.1", "[::1]:4466", "app.localhost"] {
        assert_eq!(status(&server, host).await.status, 200, "{host}");
    }
    status(&server, "evil.example:4466").await.problem(421, "host");
    let open = Server::with(ServerOptions { check_host: false, ..Default::default() }).await;
    assert_eq!(status(&open, "ironbus.example").await.status, 200);
}
