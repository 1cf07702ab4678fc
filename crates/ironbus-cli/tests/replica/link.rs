//! A cable between the store node and the replica, which a test pulls.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Forwards connections to a port, except while it is pulled.
pub(crate) struct Link {
    pub(crate) port: u16,
    /// Cancelled while it is pulled.
    plugged: Arc<Mutex<CancellationToken>>,
}

impl Link {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("bound").port();
        let plugged = Arc::<Mutex<CancellationToken>>::default();
        let current = Arc::clone(&plugged);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let plugged = current.lock().expect("not poisoned").clone();
                tokio::spawn(plugged.run_until_cancelled_owned(async move {
                    // Either side may end it, and the test pulls it: none of that is a fault of the link.
                    if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                }));
            }
        });
        Self { port: own, plugged }
    }

    pub(crate) fn pull(&self) {
        self.plugged.lock().expect("not poisoned").cancel();
    }

    pub(crate) fn plug(&self) {
        *self.plugged.lock().expect("not poisoned") = CancellationToken::new();
    }
}
