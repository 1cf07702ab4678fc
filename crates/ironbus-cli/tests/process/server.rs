//! A real `ironbus serve` of a test's own, on a port that the system chooses.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn ironbus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbus"));
    for name in ["IRONBUS_URL", "IRONBUS_DATA", "IRONBUS_TOKEN", "IRONBUS_CONFIG", "IRONBUS_SESSION_SECRET"] {
        command.env_remove(name);
    }
    // The test's S3 server lets everybody in who has a name.
    command.envs([("AWS_ACCESS_KEY_ID", "anybody"), ("AWS_SECRET_ACCESS_KEY", "anybody")]);
    command
}

/// Runs a command to its end and expects it to succeed.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    output
}

pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &Path, args: &[&str]) -> Self {
        let mut child = ironbus()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
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

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has ended by itself, well.
    pub(crate) fn ended(&mut self) {
        assert!(self.child.wait().expect("it ends").success());
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it still runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already; what matters is that nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
