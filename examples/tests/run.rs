//! Starts the examples as a reader would, and uses them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running example that listens, ended when the test is.
struct Example {
    process: Child,
    address: String,
}

impl Example {
    fn todo(data: &Path) -> Self {
        Self::start(env!("CARGO_BIN_EXE_todo"), data)
    }

    fn start(program: &str, data: &Path) -> Self {
        let mut process = Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
        Self { process, address }
    }

    /// Sends a request and gives back the connection, from which the answer is read.
    fn request(&self, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
        self.request_with(method, path, body, "")
    }

    /// The same with a cookie.
    fn request_with(&self, method: &str, path: &str, body: &str, cookie: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        // A stream that brings nothing fails the test instead of stopping it.
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        let (host, length) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nCookie: {cookie}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        BufReader::new(stream)
    }

    fn post(&self, path: &str, body: &str) -> String {
        status(&whole(&mut self.request("POST", path, body)))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("the example ends");
    }
}

fn whole(answer: &mut BufReader<TcpStream>) -> String {
    let mut text = String::new();
    answer.read_to_string(&mut text).expect("answered");
    text
}

fn status(answer: &str) -> String {
    answer.lines().next().unwrap_or_default().to_owned()
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect(before);
    rest.split_once(after).expect(after).0
}

/// Reads a stream up to the first line that contains `text`.
fn until(stream: &mut BufReader<TcpStream>, text: &str) -> String {
    stream.lines().map(|line| line.expect("the stream goes on")).find(|line| line.contains(text)).expect(text)
}

#[test]
fn a_todo_that_is_added_and_completed_shows_in_an_open_browser_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let todo = Example::todo(dir.path());
    let mut browser = todo.request("GET", "/live", "");
    assert_eq!(todo.post("/todos", "title=write+%3Cdocs%3E"), "HTTP/1.1 204 No Content");
    let line = until(&mut browser, "write &lt;docs&gt;");
    let action = between(&line, "action=\"", "\"");
    assert_eq!(todo.post(action, ""), "HTTP/1.1 204 No Content");
    until(&mut browser, "<s>write &lt;docs&gt;</s>");
    assert_eq!(todo.post("/todos", "title=+"), "HTTP/1.1 422 Unprocessable Entity");
    assert_eq!(todo.post("/todos/none/complete", ""), "HTTP/1.1 404 Not Found");
    drop(todo);

    let todo = Example::todo(dir.path());
    until(&mut todo.request("GET", "/live", ""), "<s>write &lt;docs&gt;</s>");
}

#[test]
fn a_notice_is_seen_by_the_browser_that_made_it_and_by_no_other() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let notices = Example::start(env!("CARGO_BIN_EXE_notices"), dir.path());
    // The cookie and the stream's address of a browser that comes for the first time.
    let visit = || {
        let page = whole(&mut notices.request("GET", "/", ""));
        assert!(page.contains("; HttpOnly; SameSite=Lax\r\n"), "{page}");
        let cookie = format!("ironbus_session={}", between(&page, "ironbus_session=", ";"));
        (cookie, between(&page, "EventSource(\"", "\"").to_owned())
    };
    let ((mine, my_stream), (yours, your_stream)) = (visit(), visit());
    let [mut me, mut you] = [(&mine, &my_stream), (&yours, &your_stream)]
        .map(|(cookie, stream)| notices.request_with("GET", stream, "", cookie));
    let note = |cookie: &str, text: &str| {
        status(&whole(&mut notices.request_with("POST", "/notices", &format!("text={text}"), cookie)))
    };
    for (cookie, text) in
        [(&mine, "my-first"), (&yours, "your-first"), (&mine, "my-last"), (&yours, "your-last")]
    {
        assert_eq!(note(cookie, text), "HTTP/1.1 204 No Content");
    }
    let heard = |stream: &mut BufReader<TcpStream>, last: &str| {
        let lines = stream.lines().map(|line| line.expect("the stream goes on"));
        let mut heard = Vec::new();
        for line in lines.filter(|line| line.starts_with("data: ") && line.contains("payload")) {
            heard.push(between(&line, "\"text\":\"", "\"").to_owned());
            if line.contains(last) {
                break;
            }
        }
        heard
    };
    assert_eq!(heard(&mut me, "my-last"), ["my-first", "my-last"]);
    assert_eq!(heard(&mut you, "your-last"), ["your-first", "your-last"]);

    let refused =
        |stream: &str, cookie: &str| status(&whole(&mut notices.request_with("GET", stream, "", cookie)));
    assert_eq!(refused(&your_stream, &mine), "HTTP/1.1 403 Forbidden");
    assert_eq!(refused(&your_stream, ""), "HTTP/1.1 403 Forbidden");
    assert!(!whole(&mut notices.request("GET", "/v1/events", "")).contains("first"));
    assert_eq!(notices.post("/v1/events", ""), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(note("", "anonymous"), "HTTP/1.1 401 Unauthorized");
    let renewed = whole(&mut notices.request_with("POST", "/session", "", &mine));
    let renewed = format!("ironbus_session={}", between(&renewed, "ironbus_session=", ";"));
    until(&mut notices.request_with("GET", &my_stream, "", &renewed), "my-first");
    assert_eq!(
        status(&whole(&mut notices.request_with("POST", "/session", "", ""))),
        "HTTP/1.1 401 Unauthorized"
    );
}

#[test]
fn the_projection_counts_each_event_once_and_resumes_beside_the_writer() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let project = || {
        let output = Command::new(env!("CARGO_BIN_EXE_projection"))
            .arg("--once")
            .args(["--log".as_ref(), dir.path().join("ironbus.db").as_os_str()])
            .args(["--into".as_ref(), dir.path().join("projection.db").as_os_str()])
            .output()
            .expect("the example runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let todo = Example::todo(dir.path());
    todo.post("/todos", "title=one");
    todo.post("/todos", "title=two");
    let first = project();
    assert!(first.contains("starting from Beginning") && first.contains("Todo Added: 2"), "{first}");
    todo.post("/todos", "title=three");
    let second = project();
    assert!(second.contains("starting from Resume") && second.contains("Todo Added: 3"), "{second}");
}

/// Ends its process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("the example ends");
    }
}

#[test]
fn an_edge_node_appends_and_reads_through_a_store_node_and_may_come_first() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let endpoint = format!("tcp/{}", free.expect("a free port"));
    let start = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_many_nodes"));
        command.args(words).args(["--zenoh", &endpoint, "--data"]).arg(dir.path().join("data"));
        command.stdout(Stdio::piped()).spawn().expect("the example starts")
    };
    let edge = start(&["edge", "--once"]);
    let _store = Running(start(&["store"]));
    let seen = |edge: Child| {
        let output = edge.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(seen(edge), "1 TodoAdded {\"title\":\"from an edge node\"}\n");
    assert_eq!(seen(start(&["edge", "--once"])).lines().count(), 2, "the first one's, too");
}
