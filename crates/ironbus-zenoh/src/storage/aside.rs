//! What takes a processor long, on a thread where it keeps no other task waiting.

/// Does it there.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and with it who waits here.
        Err(_) => std::future::pending().await,
    }
}
