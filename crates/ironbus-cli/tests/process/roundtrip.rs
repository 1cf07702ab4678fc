//! The real logs go in, over HTTP and straight into a data directory, and come out as they were.

use std::process::Stdio;

use crate::logs::{LOGS, exported, find, source};
use crate::server::{Server, ironbus, succeed};

#[test]
fn real_logs_come_out_of_a_server_byte_for_byte_and_a_second_import_changes_nothing() {
    for path in LOGS.into_iter().filter_map(find) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start(data.path());
        let expected = source(&path);
        for _ in 0..2 {
            succeed(ironbus().args(["import", "--url", &server.url]).arg(&path));
            let export = succeed(ironbus().args(["export", "--url", &server.url]));
            assert!(exported(&export.stdout) == expected, "{} differs after its way", path.display());
        }
    }
}

#[test]
fn real_logs_come_out_of_a_data_directory_byte_for_byte() {
    for path in LOGS.into_iter().filter_map(find) {
        let data = tempfile::tempdir().expect("a temporary directory");
        succeed(ironbus().args(["import", "--data"]).arg(data.path()).arg(&path));
        let export = succeed(ironbus().args(["export", "--data"]).arg(data.path()));
        assert!(exported(&export.stdout) == source(&path), "{} differs after its way", path.display());
        succeed(ironbus().args(["verify", "--data"]).arg(data.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_killed_half_way_goes_on_where_it_was() {
    let Some(path) = find(LOGS[1]) else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    let mut import = ironbus()
        .args(["import", "--url", &server.url])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let page = format!("{}/v1/events?limit=1", server.url);
    loop {
        let page: serde_json::Value = reqwest::get(&page).await.expect("answers").json().await.expect("JSON");
        if page["head"].as_u64().expect("a number") > 5000 {
            break;
        }
    }
    import.kill().expect("it still runs");
    import.wait().expect("it ends");
    let half = succeed(ironbus().args(["export", "--url", &server.url]));
    let expected = source(&path);
    assert!(exported(&half.stdout).len() < expected.len(), "it was killed before its end");
    succeed(ironbus().args(["import", "--url", &server.url]).arg(&path));
    let export = succeed(ironbus().args(["export", "--url", &server.url]));
    assert!(exported(&export.stdout) == expected);
}
