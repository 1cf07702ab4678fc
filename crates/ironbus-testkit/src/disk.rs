//! A disk that can really be full: a file system of 24 MB of the test's own, in memory.

use std::path::Path;
use std::process::Command;

/// The small file system. It goes with this.
#[derive(Debug)]
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount; says that the test is skipped then.
    ///
    /// # Panics
    ///
    /// If there is no place for temporary files.
    #[must_use]
    pub fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary files can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this user may not mount a small file system");
        }
        mounted.then_some(Self(folder))
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small file system is unmounted");
    }
}
