//! What the figures were taken on: without it they mean nothing.

use std::path::Path;

use serde::Serialize;

/// The machine and the place of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// How many processors this process may use.
    pub processors: usize,
    /// What they are called, where the system says it.
    pub processor: Option<String>,
    /// How much memory there is, where the system says it.
    pub memory_bytes: Option<u64>,
    /// The system and its version.
    pub kernel: String,
    /// The kind of filesystem that the files of the run are on, where the system says it.
    pub filesystem: Option<String>,
    /// The version of ironbus.
    pub version: &'static str,
    /// Whether the program was built without optimisations: then its figures say little.
    pub debug_build: bool,
}

impl Machine {
    /// This machine, and the filesystem that this path is on.
    #[must_use]
    pub fn of(place: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let field = |text: Option<String>, name: &str| {
            let text = text?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
        let release = read("/proc/sys/kernel/osrelease").map(|release| format!("Linux {}", release.trim()));
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        Self {
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            processor: field(read("/proc/cpuinfo"), "model name"),
            memory_bytes: memory.map(|kib| kib * 1024),
            kernel: release.unwrap_or_else(|| std::env::consts::OS.to_owned()),
            filesystem: read("/proc/self/mountinfo").and_then(|mounts| filesystem_of(&place, &mounts)),
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        }
    }

    /// Whether files of the run are in memory, where a sync costs nothing.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.filesystem.as_deref(), Some("tmpfs" | "ramfs"))
    }

    /// Names and values, as people read them.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let unknown = || "unknown".to_owned();
        let processor = self.processor.as_ref().map_or_else(String::new, |name| format!(" × {name}"));
        let memory = self.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
        let optimised = if self.debug_build { ", a debug build: not its speed" } else { "" };
        vec![
            ("ironbus", format!("{}{optimised}", self.version)),
            ("processors", format!("{}{processor}", self.processors)),
            ("memory", memory.unwrap_or_else(unknown)),
            ("kernel", self.kernel.clone()),
            ("filesystem", self.filesystem.clone().unwrap_or_else(unknown)),
        ]
    }
}

/// The kind of filesystem that a path is on, by a list of mounts as Linux writes it (proc(5), `mountinfo`).
fn filesystem_of(path: &Path, mounts: &str) -> Option<String> {
    let mount = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        Some((point, kind.split(' ').next()?.to_owned()))
    };
    let here = mounts.lines().filter_map(mount).filter(|(point, _)| path.starts_with(point));
    // The innermost; of two at one place the later hides the earlier.
    here.max_by_key(|(point, _)| Path::new(point).components().count()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_says_the_filesystem() {
        let mounts = "\
            21 1 8:1 / / rw - ext4 /dev/a rw\n\
            22 21 0:5 / /tmp rw,nosuid shared:2 - tmpfs tmpfs rw\n\
            23 21 8:2 / /my\\040disk rw - xfs /dev/b rw\n";
        let of = |path| filesystem_of(Path::new(path), mounts);
        assert_eq!(of("/home/a").as_deref(), Some("ext4"));
        assert_eq!(of("/tmp/a").as_deref(), Some("tmpfs"));
        assert_eq!(of("/tmpfile").as_deref(), Some("ext4"));
        assert_eq!(of("/my disk/a").as_deref(), Some("xfs"));
        assert_eq!(filesystem_of(Path::new("/"), "nonsense"), None);
    }
}
