//! Starts both examples as a reader would, and uses them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running `todo`, ended when the test is.
struct Todo {
    process: Child,
    address: String,
}

impl Todo {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_todo"))
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
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        // A stream that brings nothing fails the test instead of stopping it.
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        let (host, length) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        BufReader::new(stream)
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut answer = String::new();
        self.request("POST", path, body).read_to_string(&mut answer).expect("answered");
        answer.lines().next().unwrap_or_default().to_owned()
    }
}

impl Drop for Todo {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("the example ends");
    }
}

/// Reads a stream up to the first line that contains `text`.
fn until(stream: &mut BufReader<TcpStream>, text: &str) -> String {
    stream.lines().map(|line| line.expect("the stream goes on")).find(|line| line.contains(text)).expect(text)
}

#[test]
fn a_todo_that_is_added_and_completed_shows_in_an_open_browser_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let todo = Todo::start(dir.path());
    let mut browser = todo.request("GET", "/live", "");
    assert_eq!(todo.post("/todos", "title=write+%3Cdocs%3E"), "HTTP/1.1 204 No Content");
    let line = until(&mut browser, "write &lt;docs&gt;");
    let (_, rest) = line.split_once("action=\"").expect("a form");
    let (action, _) = rest.split_once('"').expect("a form");
    assert_eq!(todo.post(action, ""), "HTTP/1.1 204 No Content");
    until(&mut browser, "<s>write &lt;docs&gt;</s>");
    assert_eq!(todo.post("/todos", "title=+"), "HTTP/1.1 422 Unprocessable Entity");
    assert_eq!(todo.post("/todos/none/complete", ""), "HTTP/1.1 404 Not Found");
    drop(todo);

    let todo = Todo::start(dir.path());
    until(&mut todo.request("GET", "/live", ""), "<s>write &lt;docs&gt;</s>");
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
    let todo = Todo::start(dir.path());
    todo.post("/todos", "title=one");
    todo.post("/todos", "title=two");
    let first = project();
    assert!(first.contains("starting from Beginning") && first.contains("Todo Added: 2"), "{first}");
    todo.post("/todos", "title=three");
    let second = project();
    assert!(second.contains("starting from Resume") && second.contains("Todo Added: 3"), "{second}");
}
