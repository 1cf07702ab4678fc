//! Connections: accepting them, limiting them in number and time, and draining them.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ironbus::Node;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::ServerOptions;
use crate::routes::router;

/// Serves a node on a listener until `shutdown` is cancelled; then accepts no more, ends every stream,
/// lets requests under way finish for [`ServerOptions::drain`], and returns.
///
/// # Errors
///
/// When the listener can't be used any more.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let (drain, max_connections) = (options.drain, options.max_connections);
    let request_timeout = options.request_timeout;
    let service = TowerToHyperService::new(router(node, options, shutdown.clone()));
    let connections = Arc::new(Semaphore::new(max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, turn) = accepted?;
        // Small frames are sent as they come: a live event must not wait for the one after it.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(request_timeout);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(turn);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = drain.as_secs(), "some requests were not done in time and are cut off");
    }
    Ok(())
}

/// Accepts when there is room for a further connection.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    loop {
        let turn = Arc::clone(connections).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, turn)),
            // Out of file descriptors or memory: connections that end make room again.
            Err(error) if !is_fatal(&error) => {
                tracing::warn!(%error, "a connection could not be accepted; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_fatal(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::NotConnected)
}
