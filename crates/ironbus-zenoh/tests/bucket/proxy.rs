//! A server in front of an S3 server that loses replies after the server has stored, and delays puts until
//! long after their writer has heard that they failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What has gone wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Puts that were stored, and whose writers heard nothing for longer than they wait.
    pub(crate) unheard: AtomicUsize,
    /// Puts that were stored, and whose connections were cut.
    pub(crate) cut: AtomicUsize,
    /// Puts that came through only after their connections were cut.
    pub(crate) late: AtomicUsize,
}

/// Listens on loopback and hands requests on to `server`, one for each connection.
pub(crate) async fn start(server: SocketAddr, seed: u64) -> std::io::Result<(SocketAddr, Arc<Faults>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let faults = Arc::new(Faults::default());
    let counted = Arc::clone(&faults);
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    // It ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (faults, dice) = (Arc::clone(&counted), random.lock().u8(..20));
            tokio::spawn(async move {
                if let Err(error) = carry(client, server, dice, &faults).await {
                    // A writer that was killed, mostly.
                    eprintln!("a request was not carried: {error}");
                }
            });
        }
    });
    Ok((address, faults))
}

async fn carry(mut client: TcpStream, server: SocketAddr, dice: u8, faults: &Faults) -> std::io::Result<()> {
    let Some(request) = read_request(&mut client).await? else { return Ok(()) };
    let put = request.starts_with(b"PUT ");
    match dice {
        0 | 1 if put => {
            ask(server, &request).await?;
            faults.unheard.fetch_add(1, Ordering::Relaxed);
            // Longer than the writers wait for an answer.
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(())
        }
        2 | 3 if put => {
            ask(server, &request).await?;
            faults.cut.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        4 | 5 if put => {
            drop(client);
            tokio::time::sleep(Duration::from_millis(u64::from(dice) * 100)).await;
            ask(server, &request).await?;
            faults.late.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        // A read that fails.
        6 if !put => Ok(()),
        _ => {
            let answer = ask(server, &request).await?;
            client.write_all(&answer).await?;
            client.shutdown().await
        }
    }
}

/// Listens on loopback, and hands answers on over a thin line: piece by piece, each after `pause`.
pub(crate) async fn start_thin(
    server: SocketAddr,
    piece: usize,
    pause: Duration,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // It ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Some(request) = read_request(&mut client).await? else { return Ok(()) };
                for piece in ask(server, &request).await?.chunks(piece) {
                    tokio::time::sleep(pause).await;
                    client.write_all(piece).await?;
                }
                client.shutdown().await
            });
        }
    });
    Ok(address)
}

async fn ask(server: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(request).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// A whole request, which asks for its connection to be closed after the answer. `None` if none came.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length: usize = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    while bytes.len() < head + length {
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let mut request: Vec<u8> = Vec::with_capacity(bytes.len() + 32);
    for line in text.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        request.extend_from_slice(line.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"connection: close\r\n\r\n");
    request.extend_from_slice(&bytes[head..head + length]);
    Ok(Some(request))
}
