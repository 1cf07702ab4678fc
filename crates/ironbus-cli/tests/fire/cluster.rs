//! The nodes: three processes of the real binary, and an edge node in this one.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbus::tail::Merged;
use ironbus::{Node, StoredEvent};
use ironbus_testkit::within;
use ironbus_zenoh::{EdgeNode, EdgeOptions, ZenohOptions};

/// The nodes that are processes. The first one has the log.
pub(crate) const NODES: [&str; 3] = ["store", "edge-1", "edge-2"];

/// How long to wait before something is asked again.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// Parity is judged sooner than usual; all else is as it comes.
const CONFIGURATION: &str = "[serve.migration]\nparity_seconds = 1\nparity_events = 20\n";

pub(crate) fn ironbus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbus"));
    for name in ["IRONBUS_URL", "IRONBUS_DATA", "IRONBUS_TOKEN", "IRONBUS_CONFIG", "IRONBUS_LISTEN"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end, on a thread where it may block.
pub(crate) async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    run.await.expect("no panic")
}

pub(crate) struct Cluster {
    place: tempfile::TempDir,
    processes: [Process; 3],
    pub(crate) here: Node,
    joined: Arc<EdgeNode>,
    http: reqwest::Client,
}

struct Process {
    arguments: Vec<String>,
    says: PathBuf,
    url: String,
    child: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts all nodes and waits until each can reach the log.
    pub(crate) async fn start(chance: &mut fastrand::Rng) -> Self {
        let mut place = tempfile::tempdir().expect("temporary files can be made");
        // Kept where the test fails: what the nodes said is in there, and the log.
        place.disable_cleanup(true);
        println!("the log and what the nodes say: {}", place.path().display());
        let endpoint = format!("tcp/127.0.0.1:{}", free_port(chance));
        let processes = NODES.map(|name| Process::new(name, place.path(), free_port(chance), &endpoint));
        let session = ZenohOptions::peer(&[], &[&endpoint]).open().await.expect("a session opens");
        let (here, joined) = EdgeNode::start(session, EdgeOptions::new("here")).await.expect("it starts");
        let cluster = Self { place, processes, here, joined, http: reqwest::Client::new() };
        for node in 0..NODES.len() {
            cluster.start_again(node).await;
        }
        cluster.ready().await;
        cluster
    }

    pub(crate) fn url(&self, node: usize) -> &str {
        &self.processes[node].url
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&self, node: usize) {
        let child = self.processes[node].child.lock().expect("not poisoned").take();
        let mut child = child.expect("it runs");
        child.kill().expect("it still runs");
        child.wait().expect("it ends");
    }

    /// Starts the process of a node and waits until it listens.
    pub(crate) async fn start_again(&self, node: usize) {
        let process = &self.processes[node];
        let mut child = process.spawn();
        let stdout = child.stdout.take().expect("it is piped");
        *process.child.lock().expect("not poisoned") = Some(child);
        let said = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).expect("readable");
            line
        });
        let said = within("a node listens", said).await.expect("no panic");
        let expected = format!("listening on {}", process.url);
        assert_eq!(said.trim(), expected, "{} has more", process.says.display());
    }

    /// Waits until every node can reach the log.
    pub(crate) async fn ready(&self) {
        for (node, name) in NODES.into_iter().enumerate() {
            let url = format!("{}/readyz", self.url(node));
            within(&format!("{name} is ready"), async {
                while !self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
                    tokio::time::sleep(AGAIN).await;
                }
            })
            .await;
        }
        within("the node in this process is ready", async {
            while !self.here.log_access().is_ready() {
                tokio::time::sleep(AGAIN).await;
            }
        })
        .await;
    }

    /// All that the log holds, as the store node gives it.
    pub(crate) async fn log(&self) -> Vec<Arc<StoredEvent>> {
        let request =
            self.http.get(format!("{}/v1/events", self.url(0))).header("accept", "application/x-ndjson");
        let text = request.send().await.expect("it answers").text().await.expect("a whole body");
        let events = text.lines().map(|line| StoredEvent::from_json(line.as_bytes()).expect("an event"));
        events.map(Arc::new).collect()
    }

    /// How the events came to the node in this process.
    pub(crate) fn merged(&self) -> Merged {
        self.joined.following().merged
    }

    /// Ends all nodes, the ones without a log first, and verifies the log.
    pub(crate) async fn end(&self) {
        let unfinished = self.here.shutdown(Duration::from_secs(5)).await;
        assert!(unfinished.is_empty(), "these tasks didn't end: {unfinished:?}");
        for node in (0..NODES.len()).rev() {
            self.kill(node);
        }
        let mut verify = ironbus();
        verify.args(["verify", "--data"]).arg(self.data());
        let verified = output(verify).await;
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "the log isn't sound: {said}");
        println!("ironbus verify: {}", said.trim());
    }

    /// Removes the log and what the nodes said.
    pub(crate) fn forget(&self) {
        std::fs::remove_dir_all(self.place.path()).expect("it is ours");
    }
}

impl Process {
    fn new(name: &str, place: &Path, port: u16, endpoint: &str) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let mut arguments = ["serve", "--name", name, "--listen", &listen].map(str::to_owned).to_vec();
        if name == NODES[0] {
            let file = place.join("ironbus.toml");
            std::fs::write(&file, CONFIGURATION).expect("it can be written");
            let (file, data) = (file.display().to_string(), place.join("data").display().to_string());
            arguments
                .extend(["--config", &file, "--data", &data, "--zenoh-listen", endpoint].map(str::to_owned));
        } else {
            arguments.extend(["--edge", "--zenoh-connect", endpoint].map(str::to_owned));
        }
        let says = place.join(format!("{name}.txt"));
        Self { arguments, says, url: format!("http://{listen}"), child: Mutex::default() }
    }

    fn spawn(&self) -> Child {
        let says = std::fs::File::options().create(true).append(true).open(&self.says);
        let mut command = ironbus();
        command.args(&self.arguments).stdout(Stdio::piped()).stderr(says.expect("it can be written"));
        // Where there is no `./ironbus.toml`.
        command
            .current_dir(self.says.parent().expect("it lies in a folder"))
            .spawn()
            .expect("the binary runs")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().expect("not poisoned").take() {
            // It may have ended by itself; what matters is that nothing is left behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A free port below those that the system gives to outgoing connections, so that nobody takes it while its
/// node is down.
fn free_port(chance: &mut fastrand::Rng) -> u16 {
    loop {
        let port = chance.u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
