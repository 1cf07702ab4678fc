//! The stock storages that the log is compared with: in memory and in this process, where only its cable can be
//! pulled; and on RocksDB in a real `zenohd`, which is killed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ironbus_replica::MemoryReplica;
use ironbus_testkit::within;

use crate::link::Link;

/// A downstream replica.
pub(crate) enum Stock {
    Memory { replica: MemoryReplica, port: u16, link: Link },
    RocksDb { zenohd: PathBuf, folder: PathBuf, port: u16, running: Option<Child> },
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

impl Stock {
    pub(crate) async fn memory() -> Self {
        let port = free_port();
        let endpoint = format!("tcp/127.0.0.1:{port}");
        let replica = MemoryReplica::start(&endpoint, "events", "events/**").await.expect("it starts");
        Self::Memory { replica, port, link: Link::to(port).await }
    }

    /// The `zenohd` that `just replica` has built, with its plugins beside it.
    pub(crate) async fn rocksdb(zenohd: PathBuf, folder: &Path) -> Self {
        let mut stock = Self::RocksDb { zenohd, folder: folder.to_owned(), port: free_port(), running: None };
        stock.come_back().await;
        stock
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        let (Self::Memory { port, .. } | Self::RocksDb { port, .. }) = self;
        format!("tcp/127.0.0.1:{port}")
    }

    /// Where the store node reaches it.
    pub(crate) fn upstream(&self) -> String {
        match self {
            Self::Memory { link, .. } => format!("tcp/127.0.0.1:{}", link.port),
            Self::RocksDb { .. } => self.endpoint(),
        }
    }

    pub(crate) fn volume(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::RocksDb { .. } => "rocksdb",
        }
    }

    /// It can't be reached by the store node any more.
    pub(crate) fn go_away(&mut self) {
        match self {
            Self::Memory { link, .. } => link.pull(),
            Self::RocksDb { running, .. } => {
                let mut child = running.take().expect("it runs");
                child.kill().expect("it still runs");
                child.wait().expect("it ends");
            }
        }
    }

    /// It can be reached again, and has what it had.
    pub(crate) async fn come_back(&mut self) {
        match self {
            Self::Memory { link, .. } => link.plug(),
            Self::RocksDb { zenohd, folder, port, running } => {
                let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../replica/zenohd.json5");
                let listen = format!("listen/endpoints:['tcp/127.0.0.1:{port}']");
                let child = Command::new(zenohd)
                    .args(["--config", config, "--cfg", &listen])
                    .env("ZENOH_BACKEND_ROCKSDB_ROOT", folder)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn();
                *running = Some(child.expect("IRONBUS_ZENOHD names a zenohd"));
                within("zenohd listens", async {
                    while tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                })
                .await;
            }
        }
    }

    pub(crate) fn end(mut self) {
        match &mut self {
            Self::Memory { .. } => {}
            Self::RocksDb { .. } => self.go_away(),
        }
        if let Self::Memory { replica, .. } = self {
            replica.close().expect("it closes");
        }
    }
}
