//! A server whose disk is really full.

use std::process::Command;

use ironbus::store::Phase;
use ironbus_testkit::disk::SmallDisk;
use serde_json::{Value, json};

use crate::migrate::put_in_phase;
use crate::server::{Server, ironbus, succeed};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_answers_507_reads_go_on_and_appends_are_accepted_again_once_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 20]).expect("written");
    let data = disk.path().join("data");
    let server = Server::start(&data);
    let http = reqwest::Client::new();
    let url = format!("{}/v1/aggregates/Disk/1/events", server.url);
    let append = async |version: u64| {
        let event = json!({ "event_type": "Filled", "payload": "x".repeat(100_000) });
        let body = json!({ "expected_version": version, "events": [event] });
        let answer = http.post(&url).json(&body).send().await.expect("the server answers");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let mut stored = 0;
    let problem = loop {
        match append(stored).await {
            (201, _) => stored += 1,
            (507, problem) => break problem,
            other => panic!("{other:?}"),
        }
    };
    assert!(stored > 10, "the disk wasn't full from the start");
    assert_eq!(problem["type"], "urn:ironbus:problem:storage-full");
    assert!(problem["detail"].as_str().expect("text").contains("free some space"), "{problem}");
    let read = http.get(format!("{}/v1/events", server.url)).header("accept", "application/x-ndjson");
    let lines = read.send().await.expect("answers").text().await.expect("a whole body");
    assert_eq!(lines.lines().count() as u64, stored, "reads go on, and nothing is half written");
    std::fs::remove_file(&ballast).expect("removed");
    let (status, answer) = append(stored).await;
    assert_eq!((status, &answer["head"]), (201, &(stored + 1).into()), "there is space again");
    succeed(ironbus().args(["verify", "--data"]).arg(&data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_taken_on_a_full_disk_while_appends_are_refused() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.path().join("ballast");
    // So much that in the end there is room for what the write-ahead log holds in the file as well.
    std::fs::write(&ballast, vec![0; 14 << 20]).expect("written");
    let data = disk.path().join("data");
    std::fs::create_dir(&data).expect("created");
    put_in_phase(&data, &[(Phase::Broadcast, Phase::Dual), (Phase::Dual, Phase::Zenoh)]).await;
    let socket = format!("unixsock-stream/{}", disk.path().join("bus.sock").display());
    let mut server = Server::start_with(&data, &["--zenoh-listen", &socket]);
    let http = reqwest::Client::new();
    let append = async |bytes: usize| {
        let event = json!({ "event_type": "Filled", "payload": "x".repeat(bytes) });
        let request = http.post(format!("{}/v1/aggregates/Disk/1/events", server.url));
        let answer = request.json(&json!({ "events": [event] })).send().await.expect("the server answers");
        answer.status().as_u16()
    };
    let fill = async || {
        for bytes in [100_000, 10_000, 1_000, 10] {
            while append(bytes).await == 201 {}
        }
    };
    let migrate = |step: &str, to: &str| {
        let words = ["migrate", step, "--to", to, "--by", "ann", "--reason", "the disk is full", "--url"];
        let mut command = ironbus();
        command.args(words).arg(&server.url);
        command
    };
    fill().await;
    for to in ["dual", "broadcast"] {
        succeed(&mut migrate("rollback", to));
        assert_eq!((append(10).await, append(100_000).await), (507, 507), "appends don't get the reserve");
    }
    let refused = migrate("advance", "dual").output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("free 1 MiB on the log's disk"), "{said}");
    let status = http.get(format!("{}/v1/status", server.url)).send().await.expect("answers");
    assert_eq!(status.json::<Value>().await.expect("JSON")["phase"], "broadcast");
    std::fs::remove_file(&ballast).expect("removed");
    assert_eq!(append(100_000).await, 201, "there is space again");
    succeed(&mut migrate("advance", "dual"));

    // Nor does it need the server, which has been stopped as one stops it.
    let pid = server.pid().to_string();
    succeed(Command::new("kill").args(["-TERM", &pid]));
    server.ended();
    let mut rest = std::fs::File::create(&ballast).expect("created");
    let mut block = 1 << 20;
    while block > 0 {
        if std::io::Write::write_all(&mut rest, &vec![1; block]).is_err() {
            block /= 2;
        }
    }
    let words =
        ["migrate", "rollback", "--to", "broadcast", "--by", "ann", "--reason", "no server", "--data"];
    succeed(ironbus().args(words).arg(&data));
    std::fs::remove_file(&ballast).expect("removed");
    succeed(ironbus().args(["verify", "--data"]).arg(&data));
}
