//! `ironbus serve`: opens a node, serves it, drains at the first signal and ends at the second.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ironbus::{Node, NodeOptions};
use ironbus_server::{Access, OperatorToken, PublicAccess, ServerOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::config::{DATA, LISTEN, Serve};
use crate::failure::{Failure, Kind};
use crate::output::count;

/// How long the node's own tasks may take to end once nobody is served any more.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: args::Serve, config: &Serve) -> Result<(), Failure> {
    let settings = Settings::of(args, config)?;
    let listener = bind(settings.listen).await?;
    let address = listener.local_addr()?;
    let options = NodeOptions { durability: settings.durability, ..NodeOptions::new(&settings.data) };
    let node = Node::open(options).await?;

    let shutdown = CancellationToken::new();
    let signals = Signals::listen()?;
    tell_start(&node, address).await?;
    tokio::spawn(signals.drain_then_end(shutdown.clone()));
    let served = ironbus_server::serve(node.clone(), listener, settings.server, shutdown).await;
    let unfinished = node.shutdown(PATIENCE).await;
    if !unfinished.is_empty() {
        tracing::warn!(tasks = ?unfinished, "some tasks didn't end in time and were cut off");
    }
    served.map_err(|error| Failure::failed(format!("the server can't go on: {error}")))?;
    eprintln!("stopped; every acknowledged event is stored");
    Ok(())
}

/// What the flags, the environment and the file come to.
struct Settings {
    data: PathBuf,
    listen: SocketAddr,
    durability: ironbus::Durability,
    server: ServerOptions,
}

impl Settings {
    fn of(args: args::Serve, config: &Serve) -> Result<Self, Failure> {
        let listen = args.listen.or(config.listen).unwrap_or(LISTEN);
        let loopback = listen.ip().is_loopback();
        if !(loopback || args.allow_plaintext_remote || config.allow_plaintext_remote) {
            return Err(Failure::usage(format!(
                "{listen} can be reached from other machines, and this server neither encrypts nor asks who is there; \
                 listen on 127.0.0.1 behind a proxy that does, or say --allow-plaintext-remote"
            )));
        }
        let token = args.operator_token.or_else(|| config.operator_token.clone());
        let access: Arc<dyn Access> = match token.as_deref().map(str::trim) {
            Some(token) if !token.is_empty() => Arc::new(OperatorToken::new(token)),
            _ => Arc::new(PublicAccess),
        };
        let origins = if args.cors_origin.is_empty() { &config.cors_origins } else { &args.cors_origin };
        Ok(Self {
            data: args.data.or_else(|| config.data.clone()).unwrap_or_else(|| DATA.into()),
            listen,
            durability: args.durability.or(config.durability).map(Into::into).unwrap_or_default(),
            server: ServerOptions {
                access,
                cors_origins: origins.clone(),
                check_host: loopback,
                ..ServerOptions::default()
            },
        })
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(
            Kind::Unavailable,
            format!(
                "{address} is in use, perhaps by another ironbus (`ironbus status --url http://{address}` tells); \
                 stop that, or choose another port (--listen {}:0 lets the system choose)",
                address.ip()
            ),
        ),
        std::io::ErrorKind::PermissionDenied => Failure::failed(format!(
            "this user may not listen on {address}; choose a port from 1024 on, for example --listen {}:4466",
            address.ip()
        )),
        _ => Failure::failed(format!("can't listen on {address}: {error}")),
    })
}

/// Tells people what was opened, and programs that and where the server answers.
async fn tell_start(node: &Node, address: SocketAddr) -> Result<(), Failure> {
    let head = node.store().head().await?;
    eprintln!("ironbus {}", env!("CARGO_PKG_VERSION"));
    let (events, epoch) = (count(head.position.0, "event"), head.lineage.epoch());
    eprintln!("  log     {} ({events}, epoch {epoch})", node.log_path().display());
    eprintln!("  page    http://{address}/");
    eprintln!("  stream  http://{address}/v1/stream?after=0");
    eprintln!("  stop    Ctrl-C; a second one ends at once");
    // Whoever started us may not read this; that is no reason not to serve.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    Ok(())
}

/// The signals that end a server.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("signals can't be received: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    async fn drain_then_end(mut self, shutdown: CancellationToken) {
        self.next().await;
        eprintln!("draining: requests under way may finish; a second signal ends at once");
        shutdown.cancel();
        self.next().await;
        eprintln!("ended at once; every acknowledged event is stored");
        std::process::exit(130);
    }
}
