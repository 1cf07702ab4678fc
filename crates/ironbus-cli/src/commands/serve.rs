//! `ironbus serve`: opens a node, serves it, drains at the first signal and ends at the second.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ironbus::event::StoreId;
use ironbus::{LogAccess, LogPlace, MigrationOptions, Node, NodeOptions};
use ironbus_server::{Access, AnyAccess, OperatorToken, Operators, ServerOptions};
use ironbus_zenoh::{EdgeNode, EdgeOptions, StoreNode, StoreNodeOptions, ZenohOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::config::{Config, LISTEN, Serve};
use crate::failure::{Failure, Kind};
use crate::network;
use crate::open_files;
use crate::output::count;
use crate::secrets::session_tokens;

/// Says something on standard error. Whoever listens there may be gone (`serve 2>&1 | head`); a server goes on.
macro_rules! say {
    ($($what:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}

/// How long the node's own tasks may take to end once nobody is served any more.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: args::Serve, config: &Config) -> Result<(), Failure> {
    let plaintext = args.allow_plaintext_remote || config.serve.allow_plaintext_remote;
    let zenoh = network::options(&args.network, &config.zenoh, plaintext)?;
    let name = network::name(&args.network, &config.zenoh);
    let (edge, store_id) = (args.network.edge, args.network.store.map(StoreId));
    let settings = Settings::of(args, &config.serve)?;
    let listener = bind(settings.listen).await?;
    let address = listener.local_addr()?;
    let node = match &zenoh {
        Some(options) if edge => start_edge(options, name, store_id).await?,
        zenoh => start_store(&settings, zenoh.as_ref(), name).await?,
    };

    let shutdown = CancellationToken::new();
    let signals = Signals::listen()?;
    tell_start(&node, address, zenoh.as_ref()).await?;
    tokio::spawn(signals.drain_then_end(shutdown.clone()));
    let served = ironbus_server::serve(node.clone(), listener, settings.server, shutdown).await;
    let unfinished = node.shutdown(PATIENCE).await;
    if !unfinished.is_empty() {
        tracing::warn!(tasks = ?unfinished, "some tasks didn't end in time and were cut off");
    }
    served.map_err(|error| Failure::failed(format!("the server can't go on: {error}")))?;
    say!("stopped; every acknowledged event is stored");
    Ok(())
}

/// A node with the log of the data directory, joined with others where that is asked for.
async fn start_store(
    settings: &Settings,
    zenoh: Option<&ZenohOptions>,
    name: String,
) -> Result<Node, Failure> {
    let options = NodeOptions {
        durability: settings.durability,
        log: settings.log_at.clone(),
        ..crate::backend::node_options(&settings.data)
    };
    let node = Node::open(options).await?;
    if let Some(zenoh) = zenoh {
        let session = zenoh.open().await.map_err(|error| Failure::failed(error.to_string()))?;
        let joined = StoreNode::join(&node, session, StoreNodeOptions { name }).await;
        joined.map_err(|error| Failure::failed(error.to_string()))?;
    }
    node.start_migration(settings.migration).await?;
    Ok(node)
}

/// A node without a database.
async fn start_edge(zenoh: &ZenohOptions, name: String, store_id: Option<StoreId>) -> Result<Node, Failure> {
    let session = zenoh.open().await.map_err(|error| Failure::failed(error.to_string()))?;
    let options = EdgeOptions { store_id, whom: network::whom(zenoh), ..EdgeOptions::new(name) };
    let started = EdgeNode::start(session, options).await;
    Ok(started.map_err(|error| Failure::failed(error.to_string()))?.0)
}

/// What the flags, the environment and the file come to.
struct Settings {
    data: PathBuf,
    log_at: Option<LogPlace>,
    listen: SocketAddr,
    durability: ironbus::Durability,
    migration: MigrationOptions,
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
        let origins = if args.cors_origin.is_empty() { &config.cors_origins } else { &args.cors_origin };
        for origin in origins {
            check_origin(origin)?;
        }
        let token = args.operator_token.or_else(|| config.operator_token.clone());
        let operator = token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let sessions = session_tokens(args.secret.session_secret_file.as_deref(), config)?;
        // Where anybody is told from others, be it operators by their token or sessions by theirs, or others reach
        // the server, reaching it entitles to no step.
        let everybody = loopback && operator.is_none() && sessions.is_none();
        let operators = if everybody { Operators::Everybody } else { Operators::Entitled };
        let operator = operator.map(|token| Arc::new(OperatorToken::new(token)) as Arc<dyn Access>);
        let sessions = sessions.map(|tokens| Arc::new(tokens) as _);
        let access = Arc::new(AnyAccess::new(operator.into_iter().chain(sessions).collect()));
        Ok(Self {
            data: config.data(args.data),
            log_at: args.log_at.or_else(|| config.log_at.clone()),
            listen,
            migration: (&config.migration).into(),
            durability: args.durability.or(config.durability).map(Into::into).unwrap_or_default(),
            server: ServerOptions {
                max_connections: open_files::connections(args.max_connections.or(config.max_connections)),
                access,
                operators,
                cors_origins: origins.clone(),
                check_host: loopback,
                ..ServerOptions::default()
            },
        })
    }
}

/// Refuses what no browser sends as the origin of a page, because it would let nobody in.
fn check_origin(origin: &str) -> Result<(), Failure> {
    let url = reqwest::Url::parse(origin);
    let instead = match &url {
        // Only a scheme that browsers don't know, such as that of an app's web view, has no path at all.
        Ok(url) if url.path().is_empty() && url.has_host() => return Ok(()),
        Ok(url) if url.origin().is_tuple() => url.origin().ascii_serialization(),
        _ => "each one as a browser sends it, for example https://app.example.org".to_owned(),
    };
    if instead == origin {
        return Ok(());
    }
    Err(Failure::usage(format!("`{origin}` isn't the origin of a page; write {instead}")))
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
async fn tell_start(node: &Node, address: SocketAddr, zenoh: Option<&ZenohOptions>) -> Result<(), Failure> {
    say!("ironbus {}", env!("CARGO_PKG_VERSION"));
    match node.own_log() {
        Some(log) => {
            let place = log.current().place();
            let head = node.store().head().await?;
            let (events, epoch) = (count(head.position.0, "event"), head.lineage.epoch());
            say!("  log     {place} ({events}, epoch {epoch})");
        }
        None => say!("  log     elsewhere: {}", node.log_access()),
    }
    if let Some(zenoh) = zenoh {
        for (what, endpoints) in [("listens on", &zenoh.listen), ("connects to", &zenoh.connect)] {
            if !endpoints.is_empty() {
                say!("  zenoh   {what} {}", endpoints.join(", "));
            }
        }
    }
    if let LogAccess::Superseded { reason } = node.log_access() {
        say!("  WARNING {reason}");
    }
    say!("  page    http://{address}/");
    say!("  stream  http://{address}/v1/stream?after=0");
    say!("  stop    Ctrl-C; a second one ends at once");
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
        say!("draining: requests under way may finish; a second signal ends at once");
        shutdown.cancel();
        self.next().await;
        say!("ended at once; every acknowledged event is stored");
        std::process::exit(130);
    }
}
