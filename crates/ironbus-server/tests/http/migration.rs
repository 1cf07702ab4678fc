//! The migration over HTTP: who may take its steps, what is shown, and what is in the way.

use std::sync::Arc;
use std::time::Duration;

use ironbus::Node;
use ironbus::migration::{MigrationOptions, NodeReport, ParityOptions};
use ironbus_server::{OperatorToken, Operators, ServerOptions};
use ironbus_testkit::second_bus::{NoLink, SecondBus};
use serde_json::{Value, json};

use crate::support::{Answer, Server, node_options};

async fn server(zenoh: bool, options: ServerOptions) -> Server {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::open(node_options(data.path())).await.expect("a new log opens");
    if zenoh {
        node.join(SecondBus::new(), Arc::<NoLink>::default());
    }
    let parity = ParityOptions {
        window: Duration::from_millis(100),
        min_events: 3,
        grace: Duration::from_millis(20),
        ..ParityOptions::default()
    };
    let every = Duration::from_millis(10);
    node.start_migration(MigrationOptions { parity, every, ..MigrationOptions::default() })
        .await
        .expect("nothing is in the way");
    Server::over(node, data, options).await
}

fn for_everybody() -> ServerOptions {
    ServerOptions { operators: Operators::Everybody, ..ServerOptions::default() }
}

fn wish(reason: &str) -> String {
    json!({ "by": "ann", "reason": reason }).to_string()
}

fn kinds(problem: &Value) -> Vec<&str> {
    let obstacles = problem["obstacles"].as_array().expect("they are told");
    obstacles.iter().map(|one| one["kind"].as_str().expect("a word")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_to_zenoh_and_back_over_http() {
    let server = server(true, for_everybody()).await;
    let shown = server.get("/v1/migration").await.json();
    assert_eq!(
        (&shown["status"]["phase"], &shown["status"]["phase_number"]),
        (&json!("broadcast"), &json!(1))
    );
    assert_eq!(shown["plan"]["advance"]["to"], "dual");
    assert_eq!(shown["plan"]["advance"]["obstacles"], json!([]));
    assert_eq!(shown["plan"]["rollback"], json!([]));
    assert_eq!(shown["history"], json!([]));
    let triggers = shown["status"]["triggers"].as_array().expect("all are shown");
    let thresholds: Vec<_> = triggers.iter().map(|one| (&one["trigger"], &one["threshold"])).collect();
    let expected =
        [("sse_clients", 200.0), ("events_per_second", 800.0), ("nodes", 1.0), ("foreign_subscribers", 0.0)];
    let expected = expected.map(|(trigger, threshold)| (json!(trigger), json!(threshold)));
    assert_eq!(thresholds, expected.iter().map(|(one, other)| (one, other)).collect::<Vec<_>>());

    let answer = server.post("/v1/migration/advance", wish("three nodes are planned")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let (step, status) = (&answer.json()["step"], &answer.json()["status"]);
    assert_eq!((&step["step"], &step["from"], &step["to"]), (&json!(1), &json!("broadcast"), &json!("dual")));
    assert_eq!((&step["by"], &step["reason"]), (&json!("ann"), &json!("three nodes are planned")));
    assert_eq!((&status["phase"], &status["bus"]), (&json!("dual"), &json!("dual")));
    assert_eq!(server.get("/v1/status").await.json()["mode"], "dual");

    let refused = server.post("/v1/migration/advance", wish("at once")).await;
    let detail = refused.problem(409, "step-refused");
    assert!(detail.contains("no step from phase dual"), "{detail}");
    let problem = refused.json();
    assert_eq!(problem["phase"], "dual");
    assert!(kinds(&problem).contains(&"compared_too_few"), "{problem}");

    server.append("Todo", "1", 1..=5).await;
    let mut watch = server.open("/v1/migration/watch", &[]).await;
    let parity = loop {
        let status = watch.message().await.json();
        if status["parity"]["why_not"] == json!([]) {
            break status["parity"].clone();
        }
    };
    assert_eq!((&parity["both"], &parity["only_broadcast"]), (&json!(5), &json!(0)));
    let body = json!({ "to": "zenoh", "by": "ann", "reason": "parity" });
    assert_eq!(server.post("/v1/migration/advance", body.to_string()).await.status, 200);
    loop {
        if watch.message().await.json()["phase"] == "zenoh" {
            break;
        }
    }
    let body = json!({ "to": "broadcast", "by": "bob", "reason": "a drill" });
    let answer = server.post("/v1/migration/rollback", body.to_string()).await;
    assert_eq!((answer.status, &answer.json()["status"]["phase"]), (200, &json!("broadcast")));
    let history = server.get("/v1/migration?history=2").await.json()["history"].clone();
    let steps: Vec<_> = history.as_array().expect("steps").iter().map(|step| &step["step"]).collect();
    assert_eq!(steps, [&json!(2), &json!(3)]);
    assert_eq!((&history[1]["by"], &history[1]["from"]), (&json!("bob"), &json!("zenoh")));

    server.stop.cancel();
    while watch.frame().await.is_some() {}
}

#[tokio::test]
async fn what_is_in_the_way_is_a_409_and_what_cannot_be_recorded_a_422() {
    let server = server(false, for_everybody()).await;
    let refused = server.post("/v1/migration/advance", wish("go")).await;
    refused.problem(409, "step-refused");
    assert_eq!(kinds(&refused.json()), ["no_zenoh"]);
    let refused = server.post("/v1/migration/rollback", wish("back")).await;
    refused.problem(409, "step-refused");
    assert_eq!(kinds(&refused.json()), ["first_phase"]);
    let body = json!({ "to": "zenoh", "by": "ann", "reason": "far" }).to_string();
    assert_eq!(kinds(&server.post("/v1/migration/advance", body).await.json()), ["not_next"]);
    server.post("/v1/migration/advance", wish(" ")).await.problem(409, "step-refused");
    let detail = server.post("/v1/migration/advance", r#"{"by":"ann"}"#).await.problem(400, "invalid-json");
    assert!(detail.contains("reason"), "{detail}");
    let unknown = r#"{"by":"ann","reason":"x","phase":"dual"}"#;
    server.post("/v1/migration/advance", unknown).await.problem(400, "invalid-json");
    let phase = r#"{"by":"ann","reason":"x","to":"four"}"#;
    server.post("/v1/migration/rollback", phase).await.problem(400, "invalid-json");
    server.get("/v1/migration?history=1001").await.problem(400, "invalid-query");
    let plain = server.http.post(server.url("/v1/migration/advance")).header("content-type", "text/plain");
    Answer::of(plain.body(wish("from another page"))).await.problem(415, "content-type");
    assert_eq!(server.get("/v1/migration").await.json()["history"], json!([]));
}

#[tokio::test]
async fn a_step_without_a_reason_is_a_422() {
    let server = server(true, for_everybody()).await;
    let detail = server.post("/v1/migration/advance", wish(" ")).await.problem(422, "invalid-step");
    assert!(detail.contains("`reason` must not be empty"), "{detail}");
    assert_eq!(server.get("/v1/migration").await.json()["status"]["phase"], "broadcast");
}

#[tokio::test]
async fn where_there_are_operators_only_they_take_steps_and_all_may_look() {
    let access = Arc::new(OperatorToken::new("secret"));
    let server = server(true, ServerOptions { access, ..ServerOptions::default() }).await;
    assert_eq!(server.get("/v1/migration").await.status, 200);
    for path in ["/v1/migration/advance", "/v1/migration/rollback"] {
        let detail = server.post(path, wish("go")).await.problem(401, "operators-only");
        assert!(detail.contains("operator"), "{detail}");
        let wrong = server.http.post(server.url(path)).bearer_auth("wrong");
        let wrong = wrong.header("content-type", "application/json").body(wish("go"));
        assert_eq!(Answer::of(wrong).await.status, 401);
    }
    let right = server.http.post(server.url("/v1/migration/advance")).bearer_auth("secret");
    let right = right.header("content-type", "application/json").body(wish("go"));
    assert_eq!(Answer::of(right).await.status, 200);
    assert_eq!(server.get("/v1/migration").await.json()["status"]["phase"], "dual");
}

#[tokio::test]
async fn edge_nodes_are_shown_and_told_of_before_a_step_to_broadcast() {
    let server = server(true, for_everybody()).await;
    server.post("/v1/migration/advance", wish("go")).await;
    let migration = server.node.migration().expect("started");
    migration.node_report(NodeReport {
        node: "edge-1".into(),
        covered: Duration::from_millis(1500),
        by_zenoh: 7,
        from_log: 2,
        latency: None,
        sse_clients: 4,
    });
    let shown = server.get("/v1/migration").await.json();
    let told = &shown["plan"]["rollback"][0]["consequences"][0];
    assert_eq!(told["kind"], "edge_nodes_hear_by_heartbeat");
    assert!(told["message"].as_str().is_some_and(|said| said.contains("edge-1")), "{told}");
    let mut watch = server.open("/v1/migration/watch", &[]).await;
    loop {
        let status = watch.message().await.json();
        let node = &status["edge_nodes"][0];
        if node["node"] == "edge-1" {
            assert_eq!((&node["covered_seconds"], &node["from_log"]), (&json!(1.5), &json!(2)));
            break;
        }
    }
}

#[tokio::test]
async fn a_node_whose_migration_was_not_started_says_so() {
    let server = Server::start().await;
    for path in ["/v1/migration", "/v1/migration/watch"] {
        server.get(path).await.problem(404, "no-migration");
    }
    let detail = server.post("/v1/migration/advance", wish("go")).await.problem(401, "operators-only");
    assert!(detail.contains("--operator-token"), "{detail}");
}

#[tokio::test]
async fn open_streams_are_counted_for_the_status_and_the_triggers() {
    let server = server(false, for_everybody()).await;
    let _one = server.stream("?after=0").await;
    let _two = server.stream("").await;
    assert_eq!(server.get("/v1/status").await.json()["sse_clients"], 2);
    assert!(server.get("/metrics").await.text.contains("ironbus_sse_clients 2"));
    let mut watch = server.open("/v1/migration/watch", &[]).await;
    loop {
        if watch.message().await.json()["triggers"][0]["measured"] == json!(2.0) {
            break;
        }
    }
}
