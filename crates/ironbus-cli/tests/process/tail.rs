//! Following a log through connections that break.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::chromium::PATIENCE;
use crate::logs::{LOGS, exported, find, source};
use crate::proxy::Proxy;
use crate::server::{Server, ironbus, succeed};

#[tokio::test(flavor = "multi_thread")]
async fn tail_sees_every_event_once_and_in_order_through_three_cuts_while_an_import_runs() {
    for path in LOGS.into_iter().filter_map(find) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start(data.path());
        let proxy = Proxy::before(&server).await;
        let expected = source(&path);
        let mut tail = ironbus()
            .args(["tail", "--after", "0", "--url", &format!("http://{}", proxy.address)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let url = server.url.clone();
        let importing = tokio::task::spawn_blocking(move || {
            succeed(ironbus().args(["import", "--url", &url]).arg(&path));
        });
        let stdout = BufReader::new(tail.stdout.take().expect("it is piped"));
        let total = expected.len();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            let mut cuts = 0;
            for (index, line) in stdout.lines().take(total).enumerate() {
                text.extend_from_slice(line.expect("text").as_bytes());
                text.push(b'\n');
                if cuts < 3 && index == total * (cuts + 1) / 5 {
                    proxy.cut_all();
                    cuts += 1;
                }
            }
            assert_eq!(cuts, 3);
            text
        });
        importing.await.expect("the import succeeds");
        let text = reading.await.expect("every line is readable");
        tail.kill().expect("it follows for ever");
        tail.wait().expect("it ends");
        assert!(exported(&text) == expected, "the tail differs from its source");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_as_soon_as_nobody_reads_it_without_waiting_for_an_event() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    succeed(ironbus().args(["append", "--url", &server.url, "T", "1", "--type", "E"]));
    let directory = data.path().to_str().expect("text");
    for target in [["--url", &server.url], ["--data", directory]] {
        // `head` goes after the only event that there is, `true` without having read anything.
        for (reader, lines) in [("head -n 1", 1), ("true", 0)] {
            let script = format!("\"$0\" tail --after 0 \"$@\" | {reader}");
            let piped = tokio::process::Command::new("bash")
                .args(["-o", "pipefail", "-c", &script, env!("CARGO_BIN_EXE_ironbus")])
                .args(target)
                .kill_on_drop(true)
                .output();
            let output = tokio::time::timeout(PATIENCE, piped).await.expect("it ends").expect("bash runs");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            assert_eq!(output.stdout.lines().count(), lines);
        }
    }
}
