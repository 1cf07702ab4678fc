//! Hosts in network namespaces, joined by links that a test impairs while processes talk over them.
//!
//! A [`Lab`] makes a network namespace for each host. Each holds a TUN device with an address of its own
//! (`10.77.0.1`, `10.77.0.2`, …: they exist only in there, so labs don't meet), and all packets between hosts
//! pass through a forwarder in the test's process, which cuts, loses, repeats, delays and reorders them as the
//! [`Link`] of that direction says. Processes are started in a host by [`Lab::command`]; code of the test
//! itself enters one by [`Lab::inside`].
//!
//! - All links are up and unimpaired at the start. Each direction has a link of its own.
//! - IPv4 between the hosts and nothing else is carried: no multicast, and no way out.
//! - Randomness is seeded: the seed is printed, and `IRONBUS_NET_SEED` gives it again. Which packet meets the
//!   luck of the n-th depends on the processes, so a seed gives the same luck again, not the same run.
//! - The system's own TCP speaks here, with its patience: a connection that lives through a partition tries
//!   again after pauses that double, so that after 15 s it may need 12 more. What has to be back sooner gives
//!   its connection up and makes a new one.
//! - However a test ends, its namespaces are removed with every process in them; what a killed test leaves
//!   behind is removed by the next lab on the machine.
//!
//! It needs Linux, root, `/dev/net/tun` and the command `ip` (Debian's `iproute2`): [`Lab::or_skip`] says what
//! is missing.
//!
//! ```no_run
//! use ironbus_testkit::net::{Lab, Link};
//! use std::time::Duration;
//!
//! let Some(lab) = Lab::or_skip(&["store", "edge", "client"]) else { return };
//! let listen = format!("{}:4466", lab.address("store"));
//! let mut store = lab.command("store", "ironbus").args(["serve", "--listen", &listen]).spawn().unwrap();
//!
//! lab.impair(Link { loss: 0.1, duplicate: 0.05, reorder: 0.2, ..Link::default() }); // every link
//! lab.cut("store", "edge"); // one way
//! lab.partition(&["store"], &["edge", "client"]); // both ways
//! lab.rejoin(); // up again, and as lossy as before
//! lab.heal(); // up and unimpaired
//! println!("{:?}", lab.counters("edge", "store"));
//!
//! let answer = lab.inside("client", || std::net::TcpStream::connect(&listen));
//! store.kill().unwrap(); // or leave it to the lab
//! ```

mod forward;
mod link;
mod namespace;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use fastrand::Rng;
use tun_rs::DeviceBuilder;

use self::forward::{Forwarder, Port};
use self::link::Wire;
pub use self::link::{Counters, Link};
use self::namespace::Namespace;

/// The device that joins a host to the others.
const DEVICE: &str = "lab0";

/// How a lab is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabOptions {
    /// What all random choices follow from; by default `IRONBUS_NET_SEED`, else chosen at random.
    pub seed: Option<u64>,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// How many delayed packets may be under way on a link; what comes then is dropped and counted.
    pub queue: usize,
    /// How many packets may wait in a host's device for the forwarder; what comes then is dropped, and
    /// counted by [`Lab::host_drops`].
    pub device_queue: u32,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { seed: None, mtu: 1_500, queue: 10_000, device_queue: 10_000 }
    }
}

/// Why this machine can't have a lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// Only root may make network namespaces.
    #[error("network namespaces need root")]
    NotRoot,
    /// There is no TUN driver.
    #[error("there is no /dev/net/tun")]
    NoTun,
    /// The command that makes namespaces is missing.
    #[error("there is no command `ip`: install iproute2")]
    NoIp,
    /// All is there, but the system doesn't allow it, as within many containers.
    #[error("the system refuses a network namespace with a TUN device: {0}")]
    Refused(#[source] LabError),
}

/// What went wrong with a lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The command `ip` refused.
    #[error("`{command}` failed: {said}")]
    Ip {
        /// What was asked of it.
        command: String,
        /// What it said.
        said: String,
    },
    /// A killed process doesn't go away.
    #[error("processes in {namespace} survive being killed")]
    StillAlive {
        /// The namespace that they are in.
        namespace: String,
    },
    /// `IRONBUS_NET_SEED` isn't a number.
    #[error("IRONBUS_NET_SEED has to be a number from 0 to 2^64 - 1, and is {0:?}")]
    Seed(String),
    /// The system refused something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Hosts, and the links between them. Dropped, all of it is gone, with the processes in it.
pub struct Lab {
    seed: u64,
    /// Ends before the namespaces do.
    forwarder: Forwarder,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
}

impl Lab {
    /// Whether this machine can have a lab: it makes one, and removes it.
    ///
    /// # Errors
    ///
    /// What it lacks.
    pub fn available() -> Result<(), Why> {
        if !rustix::process::geteuid().is_root() {
            return Err(Why::NotRoot);
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err(Why::NoTun);
        }
        match Command::new("ip").arg("-V").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Why::NoIp),
            other => other.map_err(|error| Why::Refused(error.into()))?,
        };
        let options = LabOptions { seed: Some(0), ..LabOptions::default() };
        Self::make(&["probe"], options).map(drop).map_err(Why::Refused)
    }

    /// A lab for a test; `None`, and a line that says why, where the machine can't have one.
    ///
    /// # Panics
    ///
    /// Where it could, but making it fails.
    #[must_use]
    pub fn or_skip(hosts: &[&str]) -> Option<Self> {
        match Self::available() {
            Ok(()) => Some(Self::new(hosts).expect("a lab was just made")),
            Err(why) => {
                eprintln!("skipped: {why}");
                None
            }
        }
    }

    /// A lab with such hosts.
    ///
    /// # Errors
    ///
    /// What the system refuses; ask [`Lab::available`] before.
    ///
    /// # Panics
    ///
    /// As [`Lab::with`].
    pub fn new(hosts: &[&str]) -> Result<Self, LabError> {
        Self::with(hosts, LabOptions::default())
    }

    /// A lab with such hosts, made in a given way.
    ///
    /// # Errors
    ///
    /// What the system refuses; ask [`Lab::available`] before.
    ///
    /// # Panics
    ///
    /// If two hosts have the same name, or there are more than 254.
    pub fn with(hosts: &[&str], options: LabOptions) -> Result<Self, LabError> {
        namespace::remove_leftovers()?;
        let lab = Self::make(hosts, options)?;
        println!("lab of {}: IRONBUS_NET_SEED={}", hosts.join(", "), lab.seed);
        Ok(lab)
    }

    fn make(names: &[&str], options: LabOptions) -> Result<Self, LabError> {
        let seed = match (options.seed, std::env::var("IRONBUS_NET_SEED")) {
            (Some(seed), _) => seed,
            (None, Ok(text)) => text.parse().map_err(|_| LabError::Seed(text))?,
            (None, Err(_)) => fastrand::u64(..),
        };
        assert!(names.len() <= 254, "a lab has room for 254 hosts, not for {}", names.len());
        let (mut hosts, mut ports) = (Vec::<Host>::new(), Vec::new());
        for (name, number) in names.iter().zip(1..) {
            assert!(hosts.iter().all(|host| host.name != *name), "two hosts have the name {name:?}");
            let address = Ipv4Addr::new(10, 77, 0, number);
            let namespace = Namespace::create(name)?;
            // The device is made by a thread inside, and so belongs there.
            let device = namespace.inside(|| {
                DeviceBuilder::new()
                    .name(DEVICE)
                    .mtu(options.mtu)
                    .tx_queue_len(options.device_queue)
                    .build_sync()
            })??;
            device.set_nonblocking(true)?;
            // Without an IPv6 address the device sends nothing of its own accord.
            namespace.configure(&format!(
                "link set lo up\nlink set {DEVICE} addrgenmode none\n\
                 addr add {address}/24 dev {DEVICE}\nlink set {DEVICE} up\n"
            ))?;
            hosts.push(Host { name: (*name).to_owned(), address, namespace });
            ports.push(Port { address, device });
        }
        let mut seeds = Rng::with_seed(seed);
        let wires = (0..hosts.len().pow(2)).map(|_| Wire::new(seeds.u64(..), options.queue)).collect();
        Ok(Self { seed, forwarder: Forwarder::start(ports, wires)?, hosts })
    }

    /// What all random choices follow from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A host's address.
    ///
    /// # Panics
    ///
    /// If there is no such host; so do all methods that take one.
    #[must_use]
    pub fn address(&self, host: &str) -> Ipv4Addr {
        self.host(host).address
    }

    /// The name of a host's network namespace, to look into it by hand: `ip netns exec NAME …`.
    #[must_use]
    pub fn namespace(&self, host: &str) -> &str {
        self.host(host).namespace.name()
    }

    /// A command that runs in a host: arguments and everything else are added as usual, and the process that
    /// it starts is the program itself, not a shell around it. It is killed with the lab at the latest.
    ///
    /// A program that can't be run is seen as an exit with status 255, not as an error of `spawn`.
    #[must_use]
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace(host)]).arg(program);
        command
    }

    /// Runs `work` in a host, on a thread of its own, and waits for it. Sockets opened there belong to that
    /// host for good, as do threads that it starts: a tokio runtime that is built in there lives there.
    ///
    /// What starts its threads once for the whole process (Zenoh does) can be in one host only; use
    /// [`Lab::command`] for it.
    ///
    /// # Panics
    ///
    /// As `work` does, and if the host can't be entered.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        self.host(host).namespace.inside(work).expect("a namespace that we made can be entered")
    }

    /// The link from one host to another.
    #[must_use]
    pub fn link(&self, from: &str, to: &str) -> Link {
        self.wire(from, to).link()
    }

    /// Sets the link from one host to another.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        self.wire(from, to).change(|current| *current = link);
    }

    /// Sets every link.
    pub fn impair(&self, link: Link) {
        self.change_all(|current| *current = link);
    }

    /// Cuts the link from one host to another; the other direction stays. Once this returns, nothing passes.
    pub fn cut(&self, from: &str, to: &str) {
        self.wire(from, to).change(|link| link.up = false);
    }

    /// Cuts all links between hosts of one side and hosts of the other, both ways.
    pub fn partition(&self, one: &[&str], other: &[&str]) {
        for from in one {
            for to in other {
                self.cut(from, to);
                self.cut(to, from);
            }
        }
    }

    /// Every link is up again; what else it does to packets stays as it is set.
    pub fn rejoin(&self) {
        self.change_all(|link| link.up = true);
    }

    /// Every link is up and unimpaired.
    pub fn heal(&self) {
        self.impair(Link::default());
    }

    /// What became of the packets from one host to another.
    #[must_use]
    pub fn counters(&self, from: &str, to: &str) -> Counters {
        self.wire(from, to).counters()
    }

    /// How many packets a host's own device dropped because the forwarder was slower than the host; no link
    /// ever saw them.
    ///
    /// # Panics
    ///
    /// If the host's device is gone.
    #[must_use]
    pub fn host_drops(&self, host: &str) -> u64 {
        let devices = self.inside(host, || std::fs::read_to_string("/proc/thread-self/net/dev"));
        let devices = devices.expect("the system lists devices");
        let line = devices.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
        // Eight columns about what was received, then bytes, packets, errors, drops of what was sent.
        let drops = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
        drops.expect("the device is listed, with its drops")
    }

    fn index(&self, host: &str) -> usize {
        let index = self.hosts.iter().position(|known| known.name == host);
        index.unwrap_or_else(|| panic!("the lab has no host {host:?}"))
    }

    fn host(&self, host: &str) -> &Host {
        &self.hosts[self.index(host)]
    }

    fn wire(&self, from: &str, to: &str) -> &Wire {
        self.forwarder.wire(self.index(from), self.index(to))
    }

    fn change_all(&self, change: impl Fn(&mut Link)) {
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                self.forwarder.wire(from, to).change(&change);
            }
        }
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("seed", &self.seed).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}
