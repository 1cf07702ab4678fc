//! A server program that runs until it is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::peer::Failure;

pub struct Program(Child);

/// Where such a program is: on the path, or where Debian puts PostgreSQL's.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    std::env::split_paths(&path).chain(debian).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A port that nothing listens on.
pub fn port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Program {
    /// Starts it, with its output in the folder, and waits until it listens.
    pub async fn start(command: &mut Command, folder: &Path, port: u16) -> Result<Self, Failure> {
        let log = std::fs::File::create(folder.join("output"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let (mut program, began) = (Self(child), Instant::now());
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if program.0.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(30) {
                let said = std::fs::read_to_string(folder.join("output"))?;
                return Err(format!("{command:?} doesn't listen: {said}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has nothing that anybody reads again.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
