//! A network that breaks when a test says so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// Stands between a client and a server, and cuts every connection when told to.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cut: Arc<Mutex<CancellationToken>>,
    /// While set, every new connection is answered with an error, as a gateway does whose server is away.
    pub(crate) refusing: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn before(server: &Server) -> Self {
        let upstream = server.url.strip_prefix("http://").expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let current = Arc::clone(&cut);
        let refusing = Arc::new(AtomicBool::new(false));
        let refuses = Arc::clone(&refusing);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if refuses.load(Ordering::SeqCst) {
                    let answer =
                        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    // A client that has gone away needs no answer.
                    let _ = client.write_all(answer).await;
                    continue;
                }
                let cut = current.lock().expect("not poisoned").clone();
                let upstream = upstream.clone();
                tokio::spawn(cut.run_until_cancelled_owned(async move {
                    let mut server = TcpStream::connect(upstream).await.expect("the server listens");
                    // Either side may end it, and the test cuts it: none of that is a fault of the proxy.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }));
            }
        });
        Self { address, cut, refusing }
    }

    pub(crate) fn cut_all(&self) {
        let mut current = self.cut.lock().expect("not poisoned");
        std::mem::replace(&mut *current, CancellationToken::new()).cancel();
    }
}
