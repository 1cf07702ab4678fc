//! Connections: accepting them, limiting them in number and time, and draining them.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ironbus::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::draining::Draining;
use crate::routes::routes;
use crate::sse::{Shards, Taken, taking_over};
use crate::{Problem, ServerOptions};

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
    let mut shards = Shards::start(options.stream_threads)?;
    let door = shards.door();
    let draining = Draining::after(shutdown.clone());
    let service = TowerToHyperService::new(routes(node, options, draining.clone()));
    let connections = Arc::new(Semaphore::new(max_connections));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
            failed = shards.failed() => Err(failed),
            // Nothing is kept of a connection that has ended.
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, turn) = accepted?;
        let door = door.clone();
        let serving =
            serve_connection(stream, service.clone(), door.is_some(), request_timeout, draining.clone());
        tasks.spawn(async move {
            let served = serving.await;
            let (Some(door), Some((stream, taken))) = (door, served) else { return drop(turn) };
            if let Err(error) = door.enter(stream, taken, turn) {
                tracing::warn!(%error, "a stream can't be served; its client will come again");
            }
        });
    }
    drop(listener);
    shards.stop().await;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all).await.is_err() {
        tracing::warn!(connections = tasks.len(), "requests that were not done in time are cut off");
        tasks.shutdown().await;
    }
    Ok(())
}

/// Serves a connection until it ends, or until it is a live stream, which is then given back to be served without
/// HTTP.
async fn serve_connection(
    stream: TcpStream,
    routes: TowerToHyperService<axum::Router>,
    may_be_taken: bool,
    request_timeout: Duration,
    draining: Draining,
) -> Option<(TcpStream, Taken)> {
    // Small frames are sent as they come: a live event must not wait for the one after it.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(request_timeout);
    let (service, stream, mut taken) = taking_over(routes, stream, may_be_taken);
    let mut connection = http.serve_connection(TokioIo::new(stream), service);
    let mut draining = draining.watch();
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break ended,
            Ok(taken) = &mut taken, if may_be_taken && !taken.is_terminated() => {
                return Some((connection.into_parts().io.into_inner().into_inner(), taken));
            }
            () = &mut draining, if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_inner();
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
        // Where nothing was read the connection was only idle, and its client expects no answer.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let answer = Problem::head_timeout(request_timeout).into_http1();
            let send = async {
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            };
            // The client may be gone; it is told if it is still there.
            let _ = tokio::time::timeout(LINGER, send).await;
        }
    }
    // Apart, so that a connection doesn't take the room for it as long as it lives.
    Box::pin(linger(stream)).await;
    None
}

/// How long a client that was answered may pause while it still sends; ten times as long in all.
const LINGER: Duration = Duration::from_secs(1);

/// How much it may still send.
const LINGER_BYTES: usize = 64 << 20;

/// Throws away what a client still sends that was answered before it had sent everything (a body that is too
/// large, say). Closed at once, the connection would be reset, and the answer be lost on its way with it (RFC
/// 9112, section 9.6).
async fn linger(mut stream: TcpStream) {
    let mut discarded = vec![0; 16 << 10];
    let mut left = LINGER_BYTES;
    let reading = async {
        while left > 0 {
            match tokio::time::timeout(LINGER, stream.read(&mut discarded)).await {
                Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(10 * LINGER, reading).await;
}

/// Accepts when there is room for a further connection.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let turn = Arc::clone(connections).acquire_owned().await.expect("the semaphore is never closed");
    loop {
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
