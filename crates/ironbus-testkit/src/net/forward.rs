//! Carries packets from one host's device to another's, through the link between them.
//!
//! One thread per host reads what the host sends and hands it straight over; what has to wait lies on a
//! shelf, ordered by when its time comes, that one thread empties. Packets of a link stay in order unless
//! the link says otherwise. Nothing queues without bound: a link says how many of its packets may lie on the
//! shelf, and a host's device holds as many as its queue is long; what is over is dropped and counted.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::{self, PipeReader, PipeWriter};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tun_rs::SyncDevice;

use super::link::Wire;

/// A host's end: its address and its device.
pub(super) struct Port {
    pub(super) address: Ipv4Addr,
    pub(super) device: SyncDevice,
}

/// What all threads share.
pub(super) struct Fabric {
    ports: Vec<Port>,
    /// From each host to each, row by row.
    wires: Vec<Wire>,
    shelf: Mutex<Shelf>,
    changed: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct Shelf {
    waiting: BinaryHeap<Reverse<Waiting>>,
    put: u64,
}

struct Waiting {
    due: Instant,
    /// Keeps packets in order that are due at the same time.
    number: u64,
    from: usize,
    to: usize,
    packet: Box<[u8]>,
}

/// The running threads; dropped, they end, and the devices with them.
pub(super) struct Forwarder {
    fabric: Arc<Fabric>,
    threads: Vec<JoinHandle<()>>,
    /// Closed, it wakes the readers.
    stop: Option<PipeWriter>,
}

impl Forwarder {
    /// Starts forwarding between hosts. The devices don't block.
    pub(super) fn start(ports: Vec<Port>, wires: Vec<Wire>) -> io::Result<Self> {
        let hosts = ports.len();
        let (shelf, changed, closed) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        let fabric = Arc::new(Fabric { ports, wires, shelf, changed, closed });
        let (stopped, stop) = io::pipe()?;
        let mut forwarder = Self { fabric, threads: Vec::new(), stop: Some(stop) };
        for from in 0..hosts {
            let stopped = stopped.try_clone()?;
            forwarder.spawn(format!("lab-from-{from}"), move |fabric| fabric.read(from, &stopped))?;
        }
        forwarder.spawn("lab-shelf".into(), Fabric::empty_shelf)?;
        Ok(forwarder)
    }

    fn spawn(&mut self, name: String, work: impl FnOnce(&Fabric) + Send + 'static) -> io::Result<()> {
        let fabric = Arc::clone(&self.fabric);
        let thread = std::thread::Builder::new().name(name).spawn(move || work(&fabric))?;
        self.threads.push(thread);
        Ok(())
    }

    /// The wire from one host to another.
    pub(super) fn wire(&self, from: usize, to: usize) -> &Wire {
        self.fabric.wire(from, to)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.fabric.closed.store(true, Relaxed);
        drop(self.stop.take());
        // With the lock: the shelf's thread either sees that it is closed or waits already.
        let shelf = self.fabric.shelf.lock();
        self.fabric.changed.notify_all();
        drop(shelf);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; a second panic here would end the process.
            let _ = thread.join();
        }
    }
}

impl Fabric {
    fn wire(&self, from: usize, to: usize) -> &Wire {
        &self.wires[from * self.ports.len() + to]
    }

    /// Forwards what a host sends, until told to stop.
    fn read(&self, from: usize, stopped: &PipeReader) {
        let device = &self.ports[from].device;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        while !self.closed.load(Relaxed) {
            match device.recv(&mut buffer) {
                Ok(length) => self.forward(from, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut wanted =
                        [PollFd::new(device, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
                    match poll(&mut wanted, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => panic!("waiting for the packets of host {from}: {error}"),
                    }
                }
                Err(error) => panic!("reading the packets of host {from}: {error}"),
            }
        }
    }

    fn forward(&self, from: usize, packet: &[u8]) {
        // There is no way out of the lab: what isn't for one of its hosts (multicast, say) goes nowhere.
        let Some(to) = self.destination(packet) else { return };
        let hand_over = || self.ports[to].device.send(packet).is_ok();
        for delay in self.wire(from, to).admit(packet.len(), hand_over).into_iter().flatten() {
            let due = Instant::now() + delay;
            let mut shelf = self.shelf.lock();
            let number = shelf.put;
            shelf.put += 1;
            shelf.waiting.push(Reverse(Waiting { due, number, from, to, packet: packet.into() }));
            if shelf.waiting.peek().is_some_and(|Reverse(first)| first.number == number) {
                self.changed.notify_one();
            }
        }
    }

    /// The host that an IPv4 packet is for.
    fn destination(&self, packet: &[u8]) -> Option<usize> {
        let version = packet.first()? >> 4;
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).expect("four bytes"));
        self.ports.iter().position(|port| port.address == address).filter(|_| version == 4)
    }

    /// Delivers what waits when its time comes, until told to stop; what still waits then is forgotten.
    fn empty_shelf(&self) {
        let mut shelf = self.shelf.lock();
        while !self.closed.load(Relaxed) {
            match shelf.waiting.peek() {
                None => self.changed.wait(&mut shelf),
                Some(Reverse(first)) if first.due > Instant::now() => {
                    let due = first.due;
                    self.changed.wait_until(&mut shelf, due);
                }
                Some(_) => {
                    let Reverse(Waiting { from, to, packet, .. }) = shelf.waiting.pop().expect("just seen");
                    let hand_over = || self.ports[to].device.send(&packet).is_ok();
                    MutexGuard::unlocked(&mut shelf, || {
                        self.wire(from, to).release(packet.len(), hand_over);
                    });
                }
            }
        }
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}
