//! A network namespace with a name of ours: made, entered, and emptied before it is removed.
//!
//! A name holds the id of the process that made it, so that a later run knows what a killed one left behind.
//! Nothing but namespaces with such names, and the processes in them, is ever touched.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::LabError;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// What the names of ours begin with; the process id follows.
const PREFIX: &str = "ironbus-lab-";
/// How long killed processes may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// A namespace; removed on drop, with all processes in it.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one for a host.
    pub(super) fn create(host: &str) -> Result<Self, LabError> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{host}", std::process::id());
        ip(&["netns", "add", &name], "")?;
        Ok(Self { name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Carries out lines of `ip` commands inside.
    pub(super) fn configure(&self, lines: &str) -> Result<(), LabError> {
        ip(&["-n", &self.name, "-batch", "-"], lines)
    }

    /// Runs `work` on a thread of its own inside. Sockets opened there, and threads started there, stay
    /// inside.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = File::open(path(&self.name))?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("lab-inside".into()).spawn_scoped(scope, || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            // A panic here would hide the test's own. The next lab on this machine tries again.
            eprintln!("the network namespace {} is left behind: {error}", self.name);
        }
    }
}

/// Removes what processes left behind that are no longer alive.
pub(super) fn remove_leftovers() -> Result<(), LabError> {
    for name in ours()? {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name)?;
        }
    }
    Ok(())
}

/// The names of the namespaces that labs made, whoever runs them.
pub(super) fn ours() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NAMES) {
        Ok(entries) => entries,
        // Nobody has made a namespace since the machine started.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| name.as_ref().map_or(true, |name| name.starts_with(PREFIX))).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// A namespace lives as long as a process is in it, whether it has a name or not: so they are killed first.
fn remove(name: &str) -> Result<(), LabError> {
    let deadline = Instant::now() + DYING;
    while kill_processes(name)? > 0 {
        if Instant::now() > deadline {
            return Err(LabError::StillAlive { namespace: name.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match ip(&["netns", "del", name], "") {
        // Another process may clean up at the same time.
        Err(_) if !path(name).exists() => Ok(()),
        other => other,
    }
}

/// Kills every process inside, and says how many there were.
fn kill_processes(name: &str) -> Result<usize, LabError> {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let Ok(namespace) = identity(&path(name)) else { return Ok(0) };
    let mut killed = 0;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        let inside = || identity(&entry.path().join("ns/net")).is_ok_and(|its| its == namespace);
        // Looked at again once the handle is held: the id may belong to another process by now.
        if inside()
            && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && inside()
        {
            killed += 1;
            // It may have ended by itself.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
    Ok(killed)
}

/// Runs `ip`, with `lines` as its input.
fn ip(arguments: &[&str], lines: &str) -> Result<(), LabError> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().expect("piped").write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Ip { command: format!("ip {}", arguments.join(" ")), said })
}
