//! `ironbus migrate`: against a server whose second bus stands in for Zenoh, and straight on a directory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ironbus::migration::{Journal, NewStep, Phase};
use ironbus::{Json, NodeOptions, SqliteEventStore, SqliteOptions};
use serde_json::{Value, json};

use crate::near::NearServer;
use crate::server::{Server, ironbus, succeed};

/// Runs a command on a thread where it may block.
async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    run.await.expect("no panic")
}

fn migrate(target: &[&str], words: &[&str]) -> Command {
    let mut command = ironbus();
    command.arg("migrate").args(words).args(target);
    command
}

async fn lines(target: &[&str], words: &[&str]) -> Vec<Value> {
    let output = output(migrate(target, words)).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.lines().map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")).collect()
}

async fn fails(target: &[&str], words: &[&str], code: i32, says: &[&str]) {
    let output = output(migrate(target, words)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?} said {said}");
    for part in says {
        assert!(said.contains(part), "{words:?} doesn't say `{part}` but: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_to_zenoh_and_back_by_commands() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = NearServer::start(data.path(), None).await;
    let at = ["--url", server.url.as_str()];
    let status = lines(&at, &["status"]).await.remove(0);
    assert_eq!((&status["status"]["phase"], &status["history"]), (&json!("broadcast"), &json!([])));
    let plan = lines(&at, &["plan"]).await.remove(0);
    assert_eq!((&plan["advance"]["to"], &plan["advance"]["obstacles"]), (&json!("dual"), &json!([])));

    let mut watching = migrate(&at, &["watch"]).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let told = BufReader::new(watching.stdout.take().expect("it is piped")).lines();
    let mut told = told.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON"));
    assert_eq!(told.next().expect("told at once")["phase"], "broadcast");

    let step =
        lines(&at, &["advance", "--to", "dual", "--reason", "three nodes", "--by", "ann"]).await.remove(0);
    assert_eq!((&step["step"], &step["to"], &step["by"]), (&json!(1), &json!("dual"), &json!("ann")));
    let too_early = ["advance", "--reason", "at once"];
    fails(&at, &too_early, 3, &["no step from phase dual", "compared so far"]).await;
    fails(&at, &["advance", "--to", "dual", "--reason", "again"], 3, &["leads to zenoh and not to dual"])
        .await;
    for n in 0..20 {
        let append = ["append", "T", "1", "--type", "E", "--payload", &n.to_string(), "--url", &server.url]
            .map(str::to_owned);
        let mut command = ironbus();
        command.args(append);
        tokio::task::spawn_blocking(move || succeed(&mut command)).await.expect("no panic");
    }
    let parity = told.find(|status| status["parity"]["why_not"] == json!([])).expect("it goes on");
    assert_eq!(parity["parity"]["only_broadcast"], 0);
    // Who runs this is who took the step, where nobody is named.
    let step = lines(&at, &["advance", "--reason", "parity"]).await.remove(0);
    let user = String::from_utf8(succeed(Command::new("id").arg("-un")).stdout).expect("text");
    assert_eq!((&step["to"], step["by"].as_str()), (&json!("zenoh"), Some(user.trim())));
    assert!(told.any(|status| status["phase"] == "zenoh"), "it is told");
    let step = lines(&at, &["rollback", "--to", "1", "--reason", "a drill"]).await.remove(0);
    assert_eq!((&step["from"], &step["to"]), (&json!("zenoh"), &json!("broadcast")));
    fails(&at, &["rollback", "--reason", "further"], 3, &["no phase before broadcast"]).await;

    let history = lines(&at, &["status", "--history", "2"]).await.remove(0)["history"].take();
    assert_eq!((&history[0]["step"], &history[1]["step"]), (&json!(2), &json!(3)));
    // The record can be read straight from the directory, beside the server; steps are the server's.
    let directory = ["--data", data.path().to_str().expect("text")];
    let read = lines(&directory, &["status", "--history", "2"]).await.remove(0);
    assert_eq!((&read["history"], &read["status"]["taken"]), (&history, &json!(3)));
    fails(&directory, &["rollback", "--reason", "x"], 4, &["in use by process"]).await;
    fails(&directory, &["advance", "--reason", "x"], 2, &["--url"]).await;
    fails(&directory, &["plan"], 2, &["--url"]).await;
    watching.kill().expect("it still runs");
    watching.wait().expect("it ends");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_takes_steps_where_there_is_one() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = NearServer::start(data.path(), Some("secret")).await;
    let at = ["--url", server.url.as_str()];
    let advance = ["advance", "--reason", "x", "--by", "ann"];
    fails(&at, &advance, 1, &["operator's token"]).await;
    let with_token = [&advance[..], &["--token", "secret"]].concat();
    assert_eq!(lines(&at, &with_token).await[0]["to"], "dual");
    server.end().await;
}

pub(crate) async fn put_in_phase(data: &Path, steps: &[(Phase, Phase)]) {
    let options = SqliteOptions::new(NodeOptions::new(data).log_path());
    let store = SqliteEventStore::open(options).await.expect("a log opens");
    for (from, to) in steps.iter().copied() {
        let (by, reason, figures) = ("ann".into(), "a test".into(), Json::empty_object());
        store.record(NewStep { from, to, by, reason, figures }).await.expect("recorded");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_needs_zenoh_is_rolled_back_without_it_while_no_server_runs() {
    let data = tempfile::tempdir().expect("a temporary directory");
    put_in_phase(data.path(), &[(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh)]).await;
    let directory = ["--data", data.path().to_str().expect("text")];
    let mut serve = ironbus();
    serve.args(["serve", "--listen", "127.0.0.1:0"]).args(directory);
    let refused = output(serve).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("phase zenoh") && said.contains("ironbus migrate rollback"), "{said}");
    fails(&directory, &["rollback", "--to", "zenoh", "--reason", "x"], 3, &["isn't earlier"]).await;
    fails(&["--data", "nowhere"], &["rollback", "--reason", "x"], 4, &["no log at nowhere"]).await;
    assert!(!Path::new("nowhere").exists(), "no log is created to be rolled back");
    let step =
        lines(&directory, &["rollback", "--to", "broadcast", "--reason", "no Zenoh here"]).await.remove(0);
    assert_eq!(
        (&step["step"], &step["from"], &step["to"]),
        (&json!(3), &json!("zenoh"), &json!("broadcast"))
    );
    let mut verify = ironbus();
    verify.args(["verify"]).args(directory);
    let verified: Value = serde_json::from_slice(&output(verify).await.stdout).expect("JSON");
    assert_eq!(
        (&verified["sound"], &verified["phase"], &verified["migration_steps"]),
        (&json!(true), &json!(1), &json!(3))
    );
    let path = data.path().to_owned();
    let server = tokio::task::spawn_blocking(move || Server::start(&path)).await.expect("no panic");
    let status = lines(&["--url", &server.url], &["status"]).await.remove(0);
    assert_eq!((&status["status"]["phase"], &status["status"]["taken"]), (&json!("broadcast"), &json!(3)));
}
