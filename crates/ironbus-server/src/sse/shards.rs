//! The threads that write to the clients of live streams, and which of them serves whom.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::shard::{Inbox, NewClient, Shard};
use super::takeover::Taken;

/// Some shards, each on a thread of its own, until they are told to stop.
pub(crate) struct Shards {
    inboxes: Vec<Arc<Inbox>>,
    /// How each of them ends; closed when all have.
    ends: mpsc::Receiver<io::Result<()>>,
}

/// Gives connections to the shards.
#[derive(Clone)]
pub(crate) struct Door(Arc<[Arc<Inbox>]>);

impl Shards {
    /// Starts so many. To be called within a tokio runtime: what their clients need of the log is read there.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let (ended, ends) = mpsc::channel(count.max(1));
        let mut shards = Self { inboxes: Vec::with_capacity(count), ends };
        for number in 1..=count {
            let shard = Shard::new(Handle::current())?;
            shards.inboxes.push(shard.inbox());
            let ended = ended.clone();
            std::thread::Builder::new().name(format!("ironbus-sse-{number}")).spawn(move || {
                let run = catch_unwind(AssertUnwindSafe(|| shard.run()));
                let panicked = || io::Error::other("a thread that writes to clients has panicked");
                // Nobody may be waiting any more.
                let _ = ended.try_send(run.unwrap_or_else(|_| Err(panicked())));
            })?;
        }
        Ok(shards)
    }

    /// The way in; none where there are no shards.
    pub(crate) fn door(&self) -> Option<Door> {
        (!self.inboxes.is_empty()).then(|| Door(self.inboxes.clone().into()))
    }

    /// Waits for one to end, which none does before it is told to unless it fails.
    pub(crate) async fn failed(&mut self) -> io::Error {
        if self.inboxes.is_empty() {
            return std::future::pending().await;
        }
        match self.ends.recv().await {
            Some(Err(error)) => error,
            Some(Ok(())) | None => io::Error::other("a thread that writes to clients has ended"),
        }
    }

    /// Tells every client to come again, and waits until all threads have ended.
    pub(crate) async fn stop(mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.stop());
        while self.ends.recv().await.is_some() {}
    }
}

/// Whatever ends the server, its clients come again, and the threads keep nothing of it.
impl Drop for Shards {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.stop());
    }
}

impl Door {
    /// Gives a connection to the shard with the fewest clients.
    ///
    /// # Errors
    ///
    /// When the socket can't leave the runtime.
    pub(crate) fn enter(
        &self,
        socket: tokio::net::TcpStream,
        taken: Taken,
        turn: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let socket = TcpStream::from_std(socket.into_std()?);
        let fewest = self.0.iter().min_by_key(|inbox| inbox.clients());
        fewest.expect("there is at least one").add(NewClient { socket, taken, turn });
        Ok(())
    }
}
