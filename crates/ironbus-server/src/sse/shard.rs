//! One thread that writes to the sockets of many clients.
//!
//! It sleeps until a subscription has something for its client, a socket takes more, a client goes, or something is
//! due; gathers what is ready for one client after another, and writes it in one call. Nothing of it is kept but what a
//! socket didn't take: while that is so the client isn't served, and its events wait in the log.
//!
//! Invariants:
//! - a client whose subscription, or socket, has something new stands in the inbox or in the turn, or waits for its
//!   socket: none is forgotten;
//! - a frame is sent whole, and the ones after it in their order: what a socket didn't take goes first;
//! - a client gets at most one gathering before others get theirs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::live::{Gathered, LiveStream};
use super::takeover::Taken;
use super::{FAREWELL, PAUSE};

/// The token of the shard's own waker; clients have those below.
const WAKE: Token = Token(usize::MAX);

/// How much a client may send that has nothing more to say, before it is cut off.
const CHATTER: u32 = 1 << 20;

/// Where others leave word for a shard.
pub(super) struct Inbox {
    waker: mio::Waker,
    /// Whether the shard sleeps, or is about to, without having looked into the inbox after that.
    asleep: AtomicBool,
    arrived: Mutex<Arrived>,
    clients: AtomicUsize,
}

#[derive(Default)]
struct Arrived {
    clients: Vec<NewClient>,
    ready: Vec<usize>,
    /// Stays set: who comes after that isn't served any more.
    stop: bool,
}

/// A connection that was taken from HTTP.
pub(super) struct NewClient {
    pub(super) socket: TcpStream,
    pub(super) taken: Taken,
    /// Its place among the connections that are served.
    pub(super) turn: OwnedSemaphorePermit,
}

impl Inbox {
    pub(super) fn add(&self, client: NewClient) {
        self.clients.fetch_add(1, Ordering::Relaxed);
        self.leave(|arrived| {
            if !arrived.stop {
                arrived.clients.push(client);
            }
        });
    }

    /// How many clients the shard has.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Every client is told to come again, and the shard ends.
    pub(super) fn stop(&self) {
        self.leave(|arrived| arrived.stop = true);
    }

    fn leave(&self, word: impl FnOnce(&mut Arrived)) {
        word(&mut self.arrived.lock());
        // What was left is there before the shard is found awake; a shard that looks after that finds it.
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a thread that writes to clients can't be woken");
        }
    }
}

/// What a subscription calls when it has something for its client.
struct Notice {
    inbox: Arc<Inbox>,
    client: usize,
    /// Whether it was left in the inbox and the shard hasn't come to it yet.
    left: AtomicBool,
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.inbox.leave(|arrived| arrived.ready.push(self.client));
        }
    }
}

struct Client {
    socket: TcpStream,
    stream: LiveStream,
    notice: Arc<Notice>,
    /// What the socket hasn't taken; nothing else is gathered before it has.
    rest: VecDeque<Bytes>,
    /// Not served before then, because the log couldn't be read.
    paused: Option<Instant>,
    /// When something was last sent.
    sent: Instant,
    /// When its entry among what is due comes up.
    entry: Option<Instant>,
    /// Whether it stands in the turn.
    in_turn: bool,
    /// Whether its socket takes nothing at present.
    blocked: bool,
    chatter: u32,
    _turn: OwnedSemaphorePermit,
}

/// What is to become of a client that was served.
enum Served {
    Stays,
    /// There is more for it.
    Again,
    Goes,
}

pub(super) struct Shard {
    poll: Poll,
    inbox: Arc<Inbox>,
    /// Each in a place of its own: the slab would reserve up to twice what they take.
    clients: Slab<Box<Client>>,
    /// Who is to be served, in this order.
    turn: VecDeque<usize>,
    /// When to look at a client again. Its own entry ([`Client::entry`]) isn't later than what is due for it, and is
    /// made anew when it comes up, so that sending costs nothing here; entries that it has no more are passed over.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Used for one client after another: what is ready for it, and that as one.
    frames: VecDeque<Bytes>,
    joined: Vec<u8>,
    runtime: Handle,
}

impl Shard {
    /// A shard whose subscriptions read the log on `runtime`.
    pub(super) fn new(runtime: Handle) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let inbox = Inbox {
            waker: mio::Waker::new(poll.registry(), WAKE)?,
            asleep: AtomicBool::new(false),
            arrived: Mutex::default(),
            clients: AtomicUsize::new(0),
        };
        Ok(Self {
            poll,
            inbox: Arc::new(inbox),
            clients: Slab::new(),
            turn: VecDeque::new(),
            due: BinaryHeap::new(),
            frames: VecDeque::new(),
            joined: Vec::new(),
            runtime,
        })
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Serves its clients until it is told to stop.
    pub(super) fn run(mut self) -> std::io::Result<()> {
        let runtime = self.runtime.clone();
        let _runtime = runtime.enter();
        let mut events = Events::with_capacity(1024);
        let (mut new, mut ready) = (Vec::new(), Vec::new());
        loop {
            self.sleep(&mut events)?;
            for event in &events {
                if event.token() != WAKE {
                    self.socket_has(event);
                }
            }
            let stop = {
                let mut arrived = self.inbox.arrived.lock();
                std::mem::swap(&mut new, &mut arrived.clients);
                std::mem::swap(&mut ready, &mut arrived.ready);
                arrived.stop
            };
            new.drain(..).for_each(|client| self.add(client));
            ready.drain(..).for_each(|client| self.wants(client));
            let now = Instant::now();
            self.look_at_due(now);
            for _ in 0..self.turn.len() {
                let Some(client) = self.turn.pop_front() else { break };
                self.serve(client, now);
            }
            if stop {
                self.end();
                return Ok(());
            }
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, events: &mut Events) -> std::io::Result<()> {
        let mut timeout = Some(Duration::ZERO);
        if self.turn.is_empty() {
            self.inbox.asleep.store(true, Ordering::SeqCst);
            let arrived = self.inbox.arrived.lock();
            if arrived.clients.is_empty() && arrived.ready.is_empty() && !arrived.stop {
                let due = self.due.peek().map(|Reverse((at, _))| *at);
                timeout = due.map(|at| at.saturating_duration_since(Instant::now()));
            }
        }
        let polled = self.poll.poll(events, timeout);
        self.inbox.asleep.store(false, Ordering::SeqCst);
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn add(&mut self, NewClient { mut socket, taken, turn }: NewClient) {
        let now = Instant::now();
        let entry = self.clients.vacant_entry();
        let id = entry.key();
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, Token(id), both) {
            tracing::warn!(%error, "a client can't be served; it will come again");
            self.inbox.clients.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        entry.insert(Box::new(Client {
            socket,
            stream: taken.stream,
            notice: Arc::new(Notice {
                inbox: Arc::clone(&self.inbox),
                client: id,
                left: AtomicBool::new(false),
            }),
            rest: VecDeque::from([taken.first]),
            paused: None,
            sent: now,
            entry: None,
            in_turn: false,
            blocked: false,
            chatter: 0,
            _turn: turn,
        }));
        self.wants(id);
    }

    /// Puts a client into the turn.
    fn wants(&mut self, id: usize) {
        if let Some(client) = self.clients.get_mut(id)
            && !client.in_turn
        {
            client.in_turn = true;
            self.turn.push_back(id);
        }
    }

    fn socket_has(&mut self, event: &mio::event::Event) {
        let id = event.token().0;
        let Some(client) = self.clients.get_mut(id) else { return };
        if event.is_readable() && client.is_gone() {
            self.remove(id);
            return;
        }
        if event.is_writable() {
            client.blocked = false;
            self.wants(id);
        }
    }

    fn look_at_due(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            if let Some(client) = self.clients.get_mut(id)
                && client.entry == Some(at)
            {
                client.entry = None;
                self.wants(id);
            }
        }
    }

    fn serve(&mut self, id: usize, now: Instant) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.in_turn = false;
        let served = client.serve(&mut self.frames, &mut self.joined, now);
        if let Served::Goes = served {
            return self.remove(id);
        }
        if let Some(due) = client.due()
            && client.entry.is_none_or(|entry| due < entry)
        {
            client.entry = Some(due);
            self.due.push(Reverse((due, id)));
        }
        if let Served::Again = served {
            self.wants(id);
        }
    }

    fn remove(&mut self, id: usize) {
        let mut client = self.clients.remove(id);
        // Closing the socket does the same where this fails.
        let _ = self.poll.registry().deregister(&mut client.socket);
        self.inbox.clients.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells every client to come again.
    fn end(&mut self) {
        self.clients.drain().for_each(|mut client| client.end(FAREWELL));
    }
}

impl Client {
    /// When to look at it although nothing happened. A socket that takes nothing says so when it does.
    fn due(&self) -> Option<Instant> {
        let served = (!self.blocked).then_some([self.beat(), self.paused]);
        served.into_iter().flatten().chain([self.stream.until()]).flatten().min()
    }

    /// When it gets a heartbeat if nothing else is sent.
    fn beat(&self) -> Option<Instant> {
        self.sent.checked_add(self.stream.heartbeat_every())
    }

    fn serve(&mut self, frames: &mut VecDeque<Bytes>, joined: &mut Vec<u8>, now: Instant) -> Served {
        // Now, and not when this round began: it may have served thousands since.
        if self.stream.until().is_some_and(|until| until <= Instant::now()) {
            if self.rest.is_empty() {
                self.end(&self.stream.expired());
            }
            return Served::Goes;
        }
        if self.blocked {
            return Served::Stays;
        }
        frames.clear();
        let (mut more, mut ended) = (false, false);
        if !self.rest.is_empty() {
            *frames = std::mem::take(&mut self.rest);
            more = true;
        } else {
            if self.paused.is_none_or(|until| until <= now) {
                self.paused = None;
                // Before it is asked: what it has after that is told anew.
                self.notice.left.store(false, Ordering::Release);
                let waker = Waker::from(Arc::clone(&self.notice));
                match self.stream.gather(&mut Context::from_waker(&waker), frames) {
                    Gathered::More => more = true,
                    Gathered::All => {}
                    Gathered::Unreadable => self.paused = Some(now + PAUSE),
                    Gathered::End => ended = true,
                }
            }
            if frames.is_empty() && !ended && self.beat().is_some_and(|beat| beat <= now) {
                frames.push_back(self.stream.heartbeat());
            }
        }
        if !frames.is_empty() {
            self.sent = now;
            match write(&mut self.socket, frames, joined) {
                Ok(true) => {}
                Ok(false) => {
                    self.blocked = true;
                    self.rest = std::mem::take(frames);
                    return Served::Stays;
                }
                Err(error) => {
                    tracing::debug!(%error, "a stream's client is gone");
                    return Served::Goes;
                }
            }
        }
        match (ended, more) {
            (true, _) => {
                // The client sees the end of the stream either way.
                let _ = self.socket.shutdown(Shutdown::Write);
                Served::Goes
            }
            (false, true) => Served::Again,
            (false, false) => Served::Stays,
        }
    }

    /// Whether the client has closed the connection; throws away what it may have sent.
    fn is_gone(&mut self) -> bool {
        let mut discarded = [0; 4096];
        loop {
            match self.socket.read(&mut discarded) {
                Ok(0) => return true,
                Ok(read) => {
                    self.chatter = self.chatter.saturating_add(u32::try_from(read).unwrap_or(u32::MAX));
                    if self.chatter > CHATTER {
                        tracing::debug!("a stream's client sends without end, and is cut off");
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }

    /// Says farewell, where the socket has taken everything before that, and ends the stream. Who doesn't get it
    /// comes again all the same.
    fn end(&mut self, farewell: &[u8]) {
        let mut rest = std::mem::take(&mut self.rest);
        if !self.blocked && matches!(write(&mut self.socket, &mut rest, &mut Vec::new()), Ok(true)) {
            let _ = self.socket.write(farewell);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

/// Writes the frames; says whether the socket took them all. What it didn't take stays. Several are joined first: to copy
/// them within the processor's cache takes less than to hand the kernel a list of hundreds.
fn write(
    socket: &mut TcpStream,
    frames: &mut VecDeque<Bytes>,
    joined: &mut Vec<u8>,
) -> std::io::Result<bool> {
    while let Some(first) = frames.front() {
        let written = if frames.len() == 1 {
            socket.write(first)
        } else {
            joined.clear();
            frames.iter().for_each(|frame| joined.extend_from_slice(frame));
            socket.write(joined)
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => advance(frames, written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Forgets the first `written` bytes.
fn advance(frames: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = frames.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        frames.pop_front();
    }
}
