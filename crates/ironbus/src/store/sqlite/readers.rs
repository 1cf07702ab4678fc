//! The connections that read, who may use them, and the threads that they are used on.
//!
//! To wake a sleeping thread takes about as long as to load an aggregate. So a thread that has read looks for another
//! read a while before it goes: a program that loads one aggregate after the other meets it there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::reader::{Reader, read_error};
use super::waiting::Waiting;
use crate::store::{OpenError, ReadError};

/// For how long a thread that has read looks for the next read.
const LOOK: Duration = Duration::from_micros(50);

type Job = Box<dyn FnOnce(&Readers) + Send>;

/// The connections, and who may use them. When all are in use a reader waits for its turn.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Reader>>,
    turns: Arc<Semaphore>,
    waiting: Waiting,
    /// The threads that look for a read; whoever has one to do takes one out. One is started only where none looks.
    looking: Mutex<Vec<(ThreadId, SyncSender<Job>)>>,
}

impl Readers {
    pub(super) fn open(path: PathBuf, count: usize) -> Result<Self, OpenError> {
        let first = Reader::open(&path)?;
        Ok(Self {
            path,
            idle: Mutex::new(vec![first]),
            turns: Arc::new(Semaphore::new(count)),
            waiting: Waiting::default(),
            looking: Mutex::default(),
        })
    }

    /// Runs `read` on a connection, on a thread where it may block.
    pub(super) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| ReadError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let waiter = self.waiting.begin();
        self.hand_over(Box::new(move |readers| {
            let _turn = turn;
            // Who asked may have stopped waiting.
            let _ = reply.send(readers.read(read));
        }));
        let cut_off = || ReadError::Storage("the read was cut off".into());
        waiter.answer(answer).await.ok_or_else(cut_off)?
    }

    /// To a thread that looks for it, or to another one.
    fn hand_over(self: &Arc<Self>, job: Job) {
        let looking = self.looking.lock().pop();
        if let Some((_, thread)) = looking {
            // It waits for what it was chosen for.
            let _ = thread.send(job);
            return;
        }
        let readers = Arc::clone(self);
        tokio::task::spawn_blocking(move || readers.work(job));
    }

    /// Does what there is to do until nobody has come with more for a while.
    fn work(&self, first: Job) {
        // Room for one: who is chosen is out of the list, and nobody else can choose it.
        let (sender, jobs) = sync_channel(1);
        let mut next = Some(first);
        while let Some(job) = next {
            job(self);
            self.looking.lock().push((thread::current().id(), sender.clone()));
            next = self.look(&jobs, LOOK);
        }
    }

    /// What this thread is chosen for within so long; `None` once nobody can choose it any more.
    fn look(&self, jobs: &Receiver<Job>, span: Duration) -> Option<Job> {
        let began = Instant::now();
        while began.elapsed() < span {
            match jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(_) => thread::yield_now(),
            }
        }
        let mut looking = self.looking.lock();
        if let Some(own) = looking.iter().position(|(id, _)| *id == thread::current().id()) {
            looking.swap_remove(own);
            return None;
        }
        drop(looking);
        // It was chosen at the last moment: the read is on its way.
        jobs.recv().ok()
    }

    fn read<T>(&self, read: impl FnOnce(&mut Reader) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let idle = self.idle.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => Reader::open(&self.path).map_err(|error| ReadError::Storage(error.into()))?,
        };
        let result = read(&mut reader).map_err(read_error);
        self.idle.lock().push(reader);
        result
    }

    /// Refuses further reads and closes the idle connections.
    pub(super) fn close(&self) {
        self.turns.close();
        self.idle.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, sqlite::schema::open_writer};

    fn readers(folder: &tempfile::TempDir) -> Readers {
        let path = folder.path().join("log.db");
        open_writer(&path, Durability::Full, None).expect("a log");
        Readers::open(path, 2).expect("opens")
    }

    /// This thread looks for a read, and what it is chosen for comes here.
    fn looking(readers: &Readers) -> Receiver<Job> {
        let (sender, jobs) = sync_channel(1);
        readers.looking.lock().push((thread::current().id(), sender));
        jobs
    }

    #[test]
    fn a_thread_that_nobody_chose_leaves_and_cant_be_chosen_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let readers = readers(&folder);
        let jobs = looking(&readers);
        assert!(readers.look(&jobs, Duration::ZERO).is_none());
        assert!(readers.looking.lock().is_empty());
    }

    #[test]
    fn a_thread_that_is_chosen_as_it_leaves_takes_its_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let readers = readers(&folder);
        let jobs = looking(&readers);
        let (_, chosen) = readers.looking.lock().pop().expect("it looks");
        // Its time is up, and it hasn't looked since.
        chosen.send(Box::new(|_: &Readers| {})).expect("it waits");
        assert!(readers.look(&jobs, Duration::ZERO).is_some(), "the read isn't lost");
    }
}
