//! What scripts rely on: exit codes, messages that say what to do, and JSON lines in pipes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A command in a directory of its own, which sees no configuration of whoever runs the tests.
fn ironbus(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbus"));
    command.current_dir(directory);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IRONBUS_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    if on_slots() {
        command.env("IRONBUS_LOG_AT", place());
    }
    command
}

/// Whether this is compiled as the suite for logs in slots.
fn on_slots() -> bool {
    env!("CARGO_CRATE_NAME").ends_with("on_slots")
}

fn place() -> String {
    std::env::var("IRONBUS_TEST_LOG").unwrap_or_else(|_| "folder:slots".into())
}

/// Whether other processes may have the log open while one appends to it.
fn is_shared() -> bool {
    on_slots() && place().starts_with("folder:")
}

/// The server, beside which its directory is read; ended where one process alone may have the log.
fn beside(server: Server) -> Option<Server> {
    (!on_slots() || is_shared()).then_some(server)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn run(directory: &Path, args: &[&str]) -> Output {
    ironbus(directory).args(args).output().expect("the binary runs")
}

/// Runs a command that succeeds, and gives back its lines of JSON.
fn lines(directory: &Path, args: &[&str]) -> Vec<Value> {
    let output = run(directory, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} ended with {}: {said}", output.status);
    let read = |line: Result<String, _>| serde_json::from_str(&line.expect("text")).expect("a line of JSON");
    output.stdout.lines().map(read).collect()
}

/// Runs a command that fails, and gives back its exit code and what it said.
fn fails(directory: &Path, args: &[&str]) -> (i32, String) {
    let output = run(directory, args);
    let said = String::from_utf8(output.stderr).expect("text");
    (output.status.code().expect("it ended by itself"), said)
}

#[track_caller]
fn assert_fails(directory: &Path, args: &[&str], code: i32, says: &[&str]) {
    let (ended, said) = fails(directory, args);
    assert_eq!(ended, code, "{args:?} said {said}");
    for part in says {
        assert!(said.contains(part), "{args:?} doesn't say `{part}` but: {said}");
    }
}

/// A server on a port that the system chose; it ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let mut child = ironbus(directory)
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        let url = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What matters is that nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(aggregate: &str, number: usize) -> String {
    format!(
        "{{\"aggregate_type\":\"T\",\"aggregate_id\":\"{aggregate}\",\"event_type\":\"E\",\"payload\":{{\"n\": {number}}}}}\n"
    )
}

#[test]
fn results_are_json_lines_in_a_pipe_and_the_same_from_a_server_as_from_its_directory() {
    let here = directory();
    let server = Server::start(here.path(), &[]);
    let at_server = ["--url", &server.url];
    let append = ["append", "To do", "a/b ?#%é", "--type", "Added", "--payload", r#"{"b": 1.0}"#];
    let stored = lines(here.path(), &[&append[..], &at_server].concat());
    assert_eq!((&stored[0]["events"][0]["position"], &stored[0]["head"]), (&1.into(), &1.into()));
    let commands = [
        &["load", "To do", "a/b ?#%é"][..],
        &["read"],
        &["tail", "--after", "0", "--until-head"],
        &["export"],
        &["read", "--pattern", "events/To do/**"],
    ];
    let all = |target: [&str; 2]| commands.map(|command| lines(here.path(), &[command, &target].concat()));
    let status = |target: [&str; 2]| lines(here.path(), &[&["status"][..], &target].concat()).remove(0);
    let (from_server, status_of_server) = (all(at_server), status(at_server));
    let server = beside(server);
    let (from_directory, status_of_directory) = (all(["--data", "data"]), status(["--data", "data"]));
    for ((command, from_server), from_directory) in commands.iter().zip(from_server).zip(from_directory) {
        assert_eq!(from_server.len(), 1, "{command:?}");
        assert_eq!(from_server[0]["aggregate_id"], "a/b ?#%é");
        assert_eq!(from_server, from_directory, "{command:?}");
    }
    assert_eq!(status_of_server["head"], 1);
    assert_eq!(status_of_server["store_id"], status_of_directory["store_id"]);
    let verified = lines(here.path(), &["verify", "--data", "data"]);
    assert_eq!((&verified[0]["sound"], &verified[0]["events"]), (&true.into(), &1.into()));
    drop(server);
}

#[test]
fn a_conflict_ends_with_3_and_a_retry_with_the_same_id_gives_the_first_result() {
    let here = directory();
    let server = Server::start(here.path(), &[]);
    for target in [["--url", &server.url], ["--data", "other"]] {
        let append =
            |more: &[&'static str]| [&["append", "T", "1", "--type", "E"][..], more, &target].concat();
        let id = "0190163d-8694-739b-aea5-966c26f8ad91";
        let first = append(&["--expected", "no_stream", "--event-id", id]);
        let stored = lines(here.path(), &first);
        assert_eq!(lines(here.path(), &first), stored);
        let says = ["T 1 is at version 1, expected 7"];
        assert_fails(here.path(), &append(&["--expected", "7"]), 3, &says);
        let says = [id, "already stored for another event"];
        assert_fails(here.path(), &append(&["--event-id", id, "--payload", "7"]), 3, &says);
    }
}

#[test]
fn what_cannot_be_reached_or_used_ends_with_4_and_says_what_to_do() {
    let here = directory();
    let server = Server::start(here.path(), &[]);
    // A port that only the superuser may listen on, for a service that nobody runs.
    let nobody = "http://127.0.0.1:1";
    assert_fails(here.path(), &["status", "--url", nobody], 4, &["no server answers", "--url"]);
    assert_fails(here.path(), &["tail", "--url", nobody], 4, &["no server answers"]);
    assert_fails(here.path(), &["read", "--data", "none"], 4, &["no log at none", "ironbus serve"]);
    let locked = ["append", "T", "1", "--type", "E", "--data", "data"];
    if is_shared() {
        lines(here.path(), &locked);
    } else {
        assert_fails(here.path(), &locked, 4, &["in use by process", "--url"]);
    }
    let taken = server.url.strip_prefix("http://").expect("an http URL");
    let twice = ["serve", "--data", "other", "--listen", taken];
    assert_fails(here.path(), &twice, 4, &["is in use", "--listen"]);
    assert!(!here.path().join("other").exists(), "a server that can't listen creates no log");
}

#[test]
fn a_wrong_command_line_or_configuration_ends_with_2() {
    let here = directory();
    assert_fails(here.path(), &["frob"], 2, &["frob"]);
    assert_fails(here.path(), &["read", "--pattern", "foo/**"], 2, &["event keys begin with `events/`"]);
    assert_fails(here.path(), &["status", "--url", "https://localhost"], 2, &["no TLS"]);
    assert_fails(here.path(), &["status", "--url", "http://x", "--data", "y"], 2, &["cannot be used with"]);
    let remote = ["serve", "--listen", "0.0.0.0:0"];
    assert_fails(here.path(), &remote, 2, &["--allow-plaintext-remote"]);
    assert_fails(here.path(), &["status", "--config", "none.toml"], 2, &["none.toml can't be read"]);
    assert_fails(here.path(), &["status", "--log", "a=b=c"], 2, &["log filter"]);
    let file = here.path().join("ironbus.toml");
    std::fs::write(file, "[client]\n\nur = \"http://127.0.0.1:1\"\n").expect("written");
    assert_fails(here.path(), &["status"], 2, &["ironbus.toml:3: client.ur: unknown field"]);
}

#[test]
fn the_flag_counts_more_than_the_environment_and_that_more_than_the_file() {
    let here = directory();
    lines(here.path(), &["append", "T", "1", "--type", "E", "--data", "data"]);
    std::fs::write(here.path().join("ironbus.toml"), "[client]\ndata = \"data\"\n").expect("written");
    assert_eq!(lines(here.path(), &["read"]).len(), 1);
    let by_environment = |args: &[&str]| {
        let mut command = ironbus(here.path());
        command.env("IRONBUS_URL", "http://127.0.0.1:1").args(args).output().expect("the binary runs")
    };
    let said = by_environment(&["read"]);
    assert_eq!(said.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&said.stderr).contains("http://127.0.0.1:1"));
    assert!(by_environment(&["read", "--data", "data"]).status.success());
}

#[test]
fn a_bad_line_ends_an_import_with_5_and_what_stood_before_it_is_stored() {
    let here = directory();
    let text = [line("a", 1), line("a", 2), "{\"aggregate_type\":\"T\"}\n".into(), line("a", 4)].concat();
    std::fs::write(here.path().join("events.jsonl"), text).expect("written");
    let import = ["import", "events.jsonl", "--data", "data"];
    assert_fails(here.path(), &import, 5, &["events.jsonl, line 3: missing field `aggregate_id`"]);
    assert_eq!(lines(here.path(), &["read", "--data", "data"]).len(), 2);
    assert_fails(here.path(), &["import", "none.jsonl", "--data", "data"], 5, &["none.jsonl can't be read"]);
    let append = ["append", "T", "1", "--type", "E", "--data", "data", "--payload"];
    assert_fails(here.path(), &[&append[..], &["{x"]].concat(), 5, &["--payload isn't JSON"]);
    assert_fails(here.path(), &["append", "session", "1", "--type", "E"], 5, &["reserved"]);
}

#[test]
fn an_import_with_other_batches_and_from_a_pipe_stores_only_what_is_new() {
    let here = directory();
    let server = Server::start(here.path(), &[]);
    let all: Vec<String> = (0..60).map(|n| line(&(n % 7).to_string(), n)).collect();
    std::fs::write(here.path().join("some.jsonl"), all[..25].concat()).expect("written");
    let at_server = ["--url", &server.url];
    let report = lines(here.path(), &[&["import", "some.jsonl", "--batch", "10"][..], &at_server].concat());
    assert_eq!((&report[0]["imported"], &report[0]["already_there"]), (&25.into(), &0.into()));
    // The first 25 lines are known: the batches of 16 that reach over them are stored in part.
    let mut import = ironbus(here.path())
        .args(["import", "-", "--batch", "16"])
        .args(at_server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    import.stdin.take().expect("it is piped").write_all(all.concat().as_bytes()).expect("it reads");
    let output = import.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((&report["imported"], &report["already_there"]), (&35.into(), &25.into()));
    let stored = lines(here.path(), &[&["export"][..], &at_server].concat());
    let numbers: Vec<u64> =
        stored.iter().map(|event| event["payload"]["n"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (0..60).collect::<Vec<_>>());
}

#[test]
fn an_export_goes_into_another_log_with_everything_that_is_its_own() {
    let here = directory();
    for (session, payload) in [("s", "[1 ]"), ("t", r#""é""#)] {
        let args = [
            "append",
            "T",
            "1",
            "--type",
            "E",
            "--session",
            session,
            "--payload",
            payload,
            "--schema-version",
        ];
        let more = ["3", "--metadata", r#"{"k": 1}"#, "--data", "data"];
        lines(here.path(), &[&args[..], &more].concat());
    }
    let first = lines(here.path(), &["export", "--data", "data", "--output", "events.jsonl"]);
    assert!(first.is_empty(), "the events go into the file");
    lines(here.path(), &["import", "events.jsonl", "--data", "copy"]);
    let read = |data| {
        let mut events = lines(here.path(), &["read", "--data", data]);
        for event in &mut events {
            event.as_object_mut().expect("an event").remove("recorded_at").expect("every event has one");
        }
        events
    };
    assert_eq!(read("data").len(), 2);
    assert_eq!(read("copy"), read("data"));
    let partial = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("readable").file_name().to_string_lossy().contains("partial")
    };
    assert!(!std::fs::read_dir(here.path()).expect("readable").any(partial));
}

#[test]
fn cloudevents_are_imported_once_however_often_they_are_said() {
    let here = directory();
    let event = |id: u32| {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"E","subject":"T/1","data":{{"n": {id}}}}}"#
        )
    };
    let text = [event(1), event(2), event(1), event(3)].join("\n");
    std::fs::write(here.path().join("events.jsonl"), text).expect("written");
    let counts = |report: &[Value]| (report[0]["imported"].clone(), report[0]["already_there"].clone());
    // With one event a batch, the repeated one is met in the log; with more, in its own batch.
    for batch in ["1", "100"] {
        let import = ["import", "events.jsonl", "--batch", batch, "--data", batch];
        assert_eq!(counts(&lines(here.path(), &import)), (3.into(), 1.into()));
        assert_eq!(counts(&lines(here.path(), &import)), (0.into(), 4.into()));
    }
}

#[test]
fn only_a_token_shows_session_scoped_events() {
    let here = directory();
    let server = Server::start(here.path(), &["--operator-token", "secret"]);
    let at_server = ["--url", &server.url];
    let append = ["append", "T", "1", "--type", "E", "--session", "s"];
    lines(here.path(), &[&append[..], &at_server].concat());
    for command in [&["read"][..], &["load", "T", "1"], &["tail", "--after", "0", "--until-head"]] {
        let command = [command, &at_server].concat();
        assert_eq!(lines(here.path(), &command).len(), 0, "{command:?}");
        assert_eq!(
            lines(here.path(), &[&command[..], &["--token", "secret"]].concat()).len(),
            1,
            "{command:?}"
        );
        assert_fails(here.path(), &[&command[..], &["--token", "wrong"]].concat(), 1, &["token"]);
    }
}

#[test]
fn a_session_token_shows_its_session_and_nothing_else_that_is_not_public() {
    let here = directory();
    let (older, newer) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    std::fs::write(here.path().join("secret"), format!("{newer}\n{older}\n")).expect("written");
    let server = Server::start(here.path(), &["--session-secret-file", "secret"]);
    let at_server = ["--url", &server.url];
    for session in [&["--session", "s 1"][..], &["--session", "other"], &[]] {
        let append = ["append", "T", "1", "--type", "E"];
        lines(here.path(), &[&append[..], session, &at_server].concat());
    }
    let mint = |secrets: &str| {
        let mut command = ironbus(here.path());
        command.env("IRONBUS_SESSION_SECRET", secrets).args(["session-token", "s 1", "--ttl", "15m"]);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    for token in [mint(newer), mint(older), mint(&format!("{older}\n{newer}"))] {
        let sequences = |command: &[&str]| -> Vec<u64> {
            let events = lines(here.path(), &[command, &at_server, &["--token", &token]].concat());
            events.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
        };
        assert_eq!(sequences(&["read"]), [1, 3]);
        assert_eq!(sequences(&["load", "T", "1"]), [1, 3]);
        let tail = ["tail", "--after", "0", "--until-head"];
        assert_eq!(sequences(&tail), [1, 3]);
        assert_eq!(sequences(&[&tail[..], &["--pattern", "events/session/s 1/**"]].concat()), [1]);
        let others = ["read", "--pattern", "events/session/other/**", "--token", &token];
        assert_fails(here.path(), &[&others[..], &at_server].concat(), 1, &["session `other`", "token"]);
    }
    let forged = mint(&"x".repeat(32));
    let read = [&["read", "--token", &forged][..], &at_server].concat();
    assert_fails(here.path(), &read, 1, &["isn't signed"]);
}

#[test]
fn a_session_secret_that_cannot_be_one_is_refused_with_its_place() {
    let here = directory();
    std::fs::write(here.path().join("short"), "0123456789abcdef0123456789abcdef\nsecret\n").expect("written");
    std::fs::write(here.path().join("empty"), "\n").expect("written");
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["session-token", "s"]] {
        let by_file = |file| [command, &["--session-secret-file", file]].concat();
        assert_fails(here.path(), &by_file("short"), 2, &["short, line 2: a secret of 6 bytes", "openssl"]);
        assert_fails(here.path(), &by_file("empty"), 2, &["empty holds no secret"]);
        assert_fails(here.path(), &by_file("none"), 2, &["none can't be read"]);
        let output = ironbus(here.path()).env("IRONBUS_SESSION_SECRET", "secret").args(command).output();
        let output = output.expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("IRONBUS_SESSION_SECRET, line 1: a secret of 6 bytes"), "{said}");
    }
    assert_fails(here.path(), &["session-token", "s"], 2, &["no secret", "--session-secret-file", "openssl"]);
    assert_fails(here.path(), &["session-token", "s", "--ttl", "soon"], 2, &["1h"]);
    std::fs::write(here.path().join("ironbus.toml"), "[serve]\nsession_secrets = [\"secret\"]\n")
        .expect("written");
    let says = ["ironbus.toml:2: serve.session_secrets[0]: a secret of 6 bytes"];
    assert_fails(here.path(), &["session-token", "s"], 2, &says);
    // A path in the file is relative to the file.
    std::fs::create_dir(here.path().join("below")).expect("created");
    std::fs::write(here.path().join("below/secret"), "0123456789abcdef0123456789abcdef").expect("written");
    let toml = "[serve]\nsession_secret_file = \"secret\"\n";
    std::fs::write(here.path().join("below/ironbus.toml"), toml).expect("written");
    let output = run(here.path(), &["session-token", "s", "--config", "below/ironbus.toml"]);
    assert!(output.status.success() && output.stdout.starts_with(b"ibs1.cw."), "{output:?}");
}

#[test]
fn an_origin_that_no_browser_sends_is_refused_with_what_to_write() {
    let here = directory();
    for (origin, instead) in [
        ("https://app.example.org/", "write https://app.example.org"),
        ("HTTPS://App.example.org:443", "write https://app.example.org"),
        ("*", "as a browser sends it"),
        ("app.example.org", "as a browser sends it"),
        ("null", "as a browser sends it"),
    ] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--cors-origin", origin];
        assert_fails(here.path(), &serve, 2, &[origin, instead]);
    }
    let origins = "http://localhost:3000,https://app.example.org,capacitor://localhost";
    Server::start(here.path(), &["--cors-origin", origins]);
}

#[test]
fn a_tail_from_beyond_the_log_ends_with_6_and_shows_nothing() {
    let here = directory();
    let server = Server::start(here.path(), &[]);
    lines(here.path(), &["append", "T", "1", "--type", "E", "--url", &server.url]);
    let look = |target: [&str; 2]| {
        for after in ["7", "9.1"] {
            let tail = [&["tail", "--after", after][..], &target].concat();
            let output = run(here.path(), &tail);
            assert_eq!(output.status.code(), Some(6), "{tail:?}");
            assert!(output.stdout.is_empty(), "{tail:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("--after 0"), "{tail:?}");
        }
    };
    look(["--url", &server.url]);
    let _server = beside(server);
    look(["--data", "data"]);
}

#[test]
fn a_damaged_log_is_not_sound_and_verify_ends_with_1() {
    if on_slots() {
        // Damage of those is told by slot: `ironbus-zenoh`'s tests of damage.
        return;
    }
    let here = directory();
    let many: String = (0..2000).map(|n| line("a", n)).collect();
    std::fs::write(here.path().join("events.jsonl"), many).expect("written");
    lines(here.path(), &["import", "events.jsonl", "--data", "data"]);
    let log = here.path().join("data/ironbus.db");
    let mut bytes = std::fs::read(&log).expect("readable");
    let payload = br#"{"n": 1234}"#;
    let at = bytes.windows(payload.len()).position(|window| window == payload).expect("it is stored");
    bytes[at + 6] = b'9';
    std::fs::write(&log, bytes).expect("written");
    let output = run(here.path(), &["verify", "--data", "data"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(found["sound"], false);
    assert!(found["faults"][0].as_str().expect("a fault").contains("position 1235"), "{found}");
}

#[test]
fn a_reader_that_has_enough_ends_a_command_quietly() {
    let here = directory();
    let many: String = (0..5000).map(|n| line("a", n)).collect();
    std::fs::write(here.path().join("events.jsonl"), many).expect("written");
    lines(here.path(), &["import", "events.jsonl", "--data", "data"]);
    for command in [&["export"][..], &["read", "--limit", "5000"], &["tail", "--after", "0"]] {
        let mut child = ironbus(here.path())
            .args(command)
            .args(["--data", "data"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut first = String::new();
        BufReader::with_capacity(64, child.stdout.take().expect("it is piped"))
            .read_line(&mut first)
            .expect("readable");
        let output = child.wait_with_output().expect("it ends");
        assert!(first.starts_with("{\"position\":1,"), "{command:?}: {first}");
        assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {output:?}");
    }
}

#[test]
fn a_signal_drains_a_server_although_a_stream_is_open() {
    let here = directory();
    let mut server = Server::start(here.path(), &[]);
    lines(here.path(), &["append", "T", "1", "--type", "E", "--url", &server.url]);
    let mut tail = ironbus(here.path())
        .args(["tail", "--after", "0", "--url", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    BufReader::new(tail.stdout.take().expect("it is piped")).read_line(&mut first).expect("readable");
    let signalled = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(signalled.expect("`kill` runs").success());
    let ended = server.child.wait().expect("it ends");
    tail.kill().expect("it waits for the server to come back");
    tail.wait().expect("it ends");
    assert!(ended.success(), "{ended}");
    // The log was closed: it can be written at once, and holds what was acknowledged.
    lines(here.path(), &["append", "T", "1", "--type", "E", "--expected", "1", "--data", "data"]);
}

#[test]
fn completions_name_the_commands() {
    let here = directory();
    let output = run(here.path(), &["completions", "bash"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("completions"));
}

#[test]
fn a_promotion_begins_an_epoch_and_the_status_says_why() {
    let place = directory();
    let server = Server::start(place.path(), &[]);
    let status = |from: [&str; 2]| lines(place.path(), &[&["status"][..], &from].concat()).remove(0);
    let first = status(["--url", &server.url]);
    assert_eq!((&first["epoch"], &first["epoch_began"]), (&1.into(), &Value::Null));
    drop(server);
    assert_eq!(status(["--data", "data"])["epoch_began"], Value::Null);
    assert!(run(place.path(), &["promote", "--data", "data"]).status.success());
    let why = "an operator promoted this log";
    let second = status(["--data", "data"]);
    assert_eq!((&second["epoch"], &second["epoch_began"]), (&2.into(), &why.into()));
    let server = Server::start(place.path(), &[]);
    assert_eq!(status(["--url", &server.url])["epoch_began"], why);
}

#[test]
fn a_benchmark_tells_every_figure_with_what_it_takes_to_judge_it_and_leaves_nothing_behind() {
    if on_slots() {
        // It has logs of its own.
        return;
    }
    let here = directory();
    let told = lines(here.path(), &["bench", "--tiny", "--json", "--html", "bench.html"]);
    let (machine, rows) = told.split_first().expect("lines");
    for field in ["processors", "memory_bytes", "kernel", "filesystem", "version"] {
        assert!(!machine["machine"][field].is_null() || cfg!(not(target_os = "linux")), "{field}: {machine}");
    }
    for row in rows {
        let positive = |figure: &Value| figure.as_f64().is_some_and(|figure| figure > 0.0);
        for field in ["part", "what", "unit", "better", "durability"] {
            assert!(row[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {row}");
        }
        assert!(positive(&row["figure"]), "{row}");
        // Where events are told, it says how long they are.
        let idle = ["s", "bytes", "subscriptions"].map(Value::from).contains(&row["unit"]);
        assert!(idle && row["payload_bytes"].is_null() || positive(&row["payload_bytes"]), "{row}");
        let (beside, goal) = (&row["beside"], &row["goal"]);
        assert!(beside.is_null() || positive(&beside["figure"]) && positive(&beside["ratio"]), "{row}");
        assert!(beside.is_null() || beside["what"].is_string(), "{row}");
        assert!(goal.is_null() || positive(&goal["figure"]) && goal["beaten"].is_boolean(), "{row}");
    }
    for (part, least) in [("in-process", 5), ("zenoh", 4), ("store", 6), ("sse", 2)] {
        let count = rows.iter().filter(|row| row["part"] == part).count();
        assert!(count >= least, "{part} has {count} rows");
    }
    let page = std::fs::read_to_string(here.path().join("bench.html")).expect("written");
    assert_eq!(page.matches("<svg").count(), rows.len());
    assert!(!page.contains("http://") && !page.contains("https://"), "it fetches nothing");
    let left: Vec<_> = std::fs::read_dir(here.path()).expect("readable").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_benchmark_measures_what_is_named_and_refuses_other_names_with_the_list() {
    let here = directory();
    let parts = ["in-process", "zenoh", "store", "sse"];
    assert_fails(here.path(), &["bench", "--tiny", "shop"], 2, &[&["`shop`"][..], &parts].concat());
    let rows = lines(here.path(), &["bench", "--tiny", "store"]);
    assert!(rows[1..].iter().all(|row| row["part"] == "store"), "{rows:?}");
    let unwritable = ["bench", "--tiny", "store", "--html", "none/bench.html"];
    assert_fails(here.path(), &unwritable, 2, &["none/bench.html can't be written"]);
}
