//! That the server drains, for tasks that are woken all the time for other reasons.
//!
//! To ask a [`CancellationToken`], or to poll its future, takes locks that all who ask share. A connection that is
//! written to a thousand times a second would ask it as often, for something that happens once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether the server drains.
#[derive(Clone)]
pub(crate) struct Draining {
    begun: Arc<AtomicBool>,
    /// Cancelled after `begun` was set: who is woken by it finds that.
    token: CancellationToken,
}

impl Draining {
    /// Begins as soon as `token` is cancelled. To be called within a tokio runtime.
    pub(crate) fn after(token: CancellationToken) -> Self {
        let draining = Self { begun: Arc::default(), token: CancellationToken::new() };
        let told = draining.clone();
        tokio::spawn(async move {
            token.cancelled().await;
            told.begun.store(true, Ordering::Release);
            told.token.cancel();
        });
        draining
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits for it, where that is all that the task is woken for, or nearly.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Waits for it; to poll it again costs next to nothing.
    pub(crate) fn watch(&self) -> Watch {
        let cancelled = self.token.clone().cancelled_owned();
        Watch { begun: Arc::clone(&self.begun), cancelled: Box::pin(cancelled), waker: None }
    }
}

/// Ready once the server drains.
pub(crate) struct Watch {
    begun: Arc<AtomicBool>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken.
    waker: Option<Waker>,
}

impl Future for Watch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.begun.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        self.cancelled.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As a connection and its body do: polled by one task, then by another, each often.
    #[tokio::test(start_paused = true)]
    async fn whoever_polled_last_is_woken() {
        let token = CancellationToken::new();
        let draining = Draining::after(token.clone());
        let mut watch = draining.watch();
        for _ in 0..2 {
            assert!(futures_util::poll!(&mut watch).is_pending());
        }
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = &mut watch => {}
                // Woken for another reason, and polled with the same waker.
                () = tokio::time::sleep(Duration::from_secs(1)) => watch.await,
            }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!task.is_finished() && !draining.has_begun());
        token.cancel();
        tokio::time::timeout(Duration::from_secs(1), task).await.expect("woken").expect("no panic");
        assert!(draining.has_begun());
    }
}
