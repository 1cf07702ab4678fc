//! A server in this process, whose second bus a test holds in its hand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbus::migration::{MigrationOptions, ParityOptions};
use ironbus::{Node, NodeOptions};
use ironbus_server::{OperatorToken, Operators, ServerOptions, serve};
use ironbus_testkit::second_bus::{NoLink, SecondBus};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct NearServer {
    pub(crate) url: String,
    pub(crate) node: Node,
    pub(crate) far: Arc<SecondBus>,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

impl NearServer {
    /// Everybody may take steps, or with a token only who sends it.
    pub(crate) async fn start(data: &Path, token: Option<&str>) -> Self {
        let node = Node::open(NodeOptions::new(data)).await.expect("a log opens");
        let far = SecondBus::new();
        node.join(Arc::clone(&far) as _, Arc::<NoLink>::default());
        let parity = ParityOptions {
            window: Duration::from_millis(500),
            min_events: 10,
            grace: Duration::from_secs(2),
            ..ParityOptions::default()
        };
        let every = Duration::from_millis(50);
        let migration = MigrationOptions { parity, every, ..MigrationOptions::default() };
        node.start_migration(migration).await.expect("nothing is in the way");
        let mut options = ServerOptions { operators: Operators::Everybody, ..ServerOptions::default() };
        if let Some(token) = token {
            options.operators = Operators::Entitled;
            options.access = Arc::new(OperatorToken::new(token));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(node.clone(), listener, options, stop.clone()));
        Self { url, node, far, stop, served }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.served.await.expect("no panic").expect("it serves to its end");
        assert_eq!(self.node.shutdown(Duration::from_secs(5)).await, [""; 0]);
    }
}
