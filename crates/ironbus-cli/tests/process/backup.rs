//! `ironbus backup` beside a server that is written to, and `ironbus restore` after its disk is lost.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::server::{Server, ironbus, succeed};

/// Says that it is done when it is dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn document(command: &mut std::process::Command) -> Value {
    serde_json::from_slice(&succeed(command).stdout).expect("JSON")
}

#[test]
fn a_log_is_backed_up_while_it_is_written_and_restored_under_a_new_epoch() {
    backed_up_and_restored("sqlite:ironbus.db");
}

#[test]
fn a_log_in_slots_is_backed_up_while_it_is_written_and_restored_into_slots_under_a_new_epoch() {
    backed_up_and_restored("folder:slots");
}

fn backed_up_and_restored(at: &str) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let folder = |name: &str| place.path().join(name);
    let server = Server::start_with(&folder("data"), &["--log-at", at]);
    let append = |url: &str, n: usize| {
        let payload = n.to_string();
        let words = ["append", "Thing", "1", "--type", "Counted", "--payload", &payload, "--url", url];
        document(ironbus().args(words))
    };
    append(&server.url, 0);
    let back_up = || document(ironbus().arg("backup").arg(folder("copy")).arg("--data").arg(folder("data")));
    let done = AtomicBool::new(false);
    let appended = std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut appended = 1;
            while !done.load(Ordering::Relaxed) {
                append(&server.url, appended);
                appended += 1;
            }
            appended
        });
        // Also where a check fails: the thread would go on for ever.
        let ended = Ended(&done);
        let mut last = 0;
        while last < 30 {
            let copied = back_up();
            let head = copied["head"].as_u64().expect("a number");
            assert!(head >= last && copied["copied"] == head - last, "only what is new is copied: {copied}");
            last = head;
        }
        drop(ended);
        appending.join().expect("no panic")
    });
    let copied = back_up();
    assert_eq!(copied["head"], appended);
    let verified = document(ironbus().args(["verify", "--data"]).arg(folder("copy")));
    assert_eq!((&verified["sound"], &verified["chain"]), (&Value::Bool(true), &copied["chain"]));
    let seen_by_none = append(&server.url, appended);
    drop(server);

    // The disk of the server is lost.
    let restore = |to: &str| {
        let mut command = ironbus();
        command.arg("restore").arg(folder("copy")).args(["--log-at", at, "--data"]).arg(folder(to));
        command
    };
    let restored = document(&mut restore("new"));
    assert_eq!((&restored["head"], &restored["chain"]), (&appended.into(), &copied["chain"]));
    let verified = document(ironbus().args(["verify", "--data"]).arg(folder("new")));
    assert_eq!((&verified["sound"], &verified["chain"]), (&Value::Bool(true), &copied["chain"]));
    let again = restore("new").output().expect("it runs");
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(2) && said.contains("overwrites nothing"), "{said}");
    let server = Server::start(&folder("new"));
    assert_eq!(append(&server.url, 0)["head"], seen_by_none["head"], "another event at the same position");
    let resumed = |position: &Value| {
        let cursor = format!("1.{position}");
        ironbus()
            .args(["tail", "--after", &cursor, "--until-head", "--url", &server.url])
            .output()
            .expect("it runs")
    };
    let output = resumed(&seen_by_none["head"]);
    assert_eq!(
        output.status.code(),
        Some(6),
        "who saw what is lost is told: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = resumed(&copied["head"]);
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "who didn't goes on");
}
