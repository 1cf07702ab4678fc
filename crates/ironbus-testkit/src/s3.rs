//! An S3 server for tests and figures: moto's (`moto_server`, a Python package), in memory, on loopback.

use std::io::{Error, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::within;

/// A server; it ends with the value.
pub struct S3Server {
    child: Child,
    address: SocketAddr,
}

impl S3Server {
    /// Starts one with an empty bucket of this name. `IRONBUS_MOTO` names the program where it isn't on the path;
    /// where there is none, says that `what` is skipped.
    ///
    /// # Panics
    ///
    /// When it doesn't answer.
    pub async fn start(bucket: &str, what: &str) -> Option<Self> {
        let program = std::env::var("IRONBUS_MOTO").unwrap_or_else(|_| "moto_server".into());
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            eprintln!(
                "skipped: {what}; there is no {program} (pip install 'moto[server]'; IRONBUS_MOTO names another)"
            );
            return None;
        };
        let server = Self { child, address };
        within("the S3 server has made a bucket", async {
            while server.make(bucket).is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        Some(server)
    }

    fn make(&self, bucket: &str) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(stream, "PUT /{bucket} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let made = answer.lines().next().is_some_and(|line| line.contains(" 200 "));
        if made { Ok(()) } else { Err(Error::other(answer)) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a log in a bucket of it.
    #[must_use]
    pub fn place(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint=http://{}&region=us-east-1&allow_http=true", self.address)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
