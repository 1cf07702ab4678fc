//! What a power cut may leave: a log of writes that ends anywhere after what was synced, in whatever order the disk
//! took its sectors, and a mark that is behind. The log then ends with a whole batch, at or after the mark.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::Position;
use ironbus::{Json, NewEvent};
use ironbus_testkit::{numbered, numbered_id};
use ironbus_zenoh::storage::{CommitLog, RocksLog, RocksOpenError, Slot, verify};

use crate::support::{any, copy_of, log_of_writes, node, ok, open, slots};

/// A log that was copied while it was written, with what its mark and its log of writes were after each commit.
struct Moments {
    image: tempfile::TempDir,
    writes: PathBuf,
    bytes: Vec<u8>,
    /// After commit `n`, from 0: the mark, and how long the log of writes was.
    after: Vec<(Vec<u8>, usize)>,
    slots: Vec<Bytes>,
}

impl Moments {
    /// `commits` appends after the one that begins the log, each of an event of so many bytes.
    async fn of(commits: u64, bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = open(folder.path()).await;
        let store = node(&log).await;
        let writes = log_of_writes(folder.path());
        let moment = || {
            let mark = std::fs::read(folder.path().join("mark")).expect("it is there");
            (mark, std::fs::read(&writes).expect("it is there").len())
        };
        let mut after = vec![moment()];
        for n in 1..=commits {
            let json = Json::of(&"x".repeat(bytes)).expect("a text");
            ok(&store, any([NewEvent::new("Filled", json).with_id(numbered_id(n))])).await;
            after.push(moment());
        }
        let image = copy_of(folder.path());
        let slots = slots(&log).await;
        let file = writes.strip_prefix(folder.path()).expect("it is in it").to_owned();
        let bytes = std::fs::read(&writes).expect("it is there");
        assert!(after.windows(2).all(|pair| pair[0].1 < pair[1].1), "every commit is in the log of writes");
        Self { image, writes: file, bytes, after, slots }
    }

    /// The log as it was on a disk that had the mark of after `marked`, and these writes.
    fn cut(&self, marked: usize, writes: &[u8]) -> tempfile::TempDir {
        let image = copy_of(self.image.path());
        std::fs::write(image.path().join(&self.writes), writes).expect("it can be written");
        std::fs::write(image.path().join("mark"), &self.after[marked].0).expect("it can be written");
        image
    }

    /// Which commit was the last of which all is in so many bytes.
    fn last_in(&self, length: usize) -> Option<usize> {
        self.after.iter().rposition(|(_, end)| *end <= length)
    }

    fn bytes_of(&self, commit: usize) -> Range<usize> {
        self.after[commit - 1].1..self.after[commit].1
    }

    /// That a log holds exactly the commits up to `last`.
    async fn ends_after(&self, folder: &Path, last: usize, what: &str) -> Arc<RocksLog> {
        let log = RocksLog::open(folder).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(slots(&log).await == self.slots[..=last], "{what}: it is to end after {last}");
        assert_eq!(log.beyond(Slot(last as u64)).await.expect("there"), None, "{what}");
        let verified = verify(&log).await.expect("sound").expect("there");
        assert_eq!(verified.head, Position(last as u64), "{what}");
        Arc::new(log)
    }
}

async fn refused(folder: &Path, what: &str) -> String {
    match RocksLog::open(folder).await {
        Err(RocksOpenError::Damaged { reason, .. }) => reason,
        other => panic!("{what}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_writes_that_ends_anywhere_gives_the_whole_batches_before_and_never_less_than_the_mark() {
    let moments = Moments::of(6, 50).await;
    let (marked, end) = (3, moments.bytes.len());
    let mut cuts: Vec<usize> = (0..end).step_by(13).collect();
    cuts.extend(moments.after.iter().flat_map(|(_, at)| [*at - 1, *at]));
    for at in cuts {
        let image = moments.cut(marked, &moments.bytes[..at]);
        let what = format!("cut at {at} of {end}");
        match moments.last_in(at) {
            Some(last) if last >= marked => {
                moments.ends_after(image.path(), last, &what).await.close().await;
            }
            _ => {
                refused(image.path(), &what).await;
            }
        }
    }
}

/// Batches that share a block of 32 KiB of the log of writes, and such that take several.
const SIZES: [(usize, usize); 2] = [(3000, 97), (80_000, 4099)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_write_of_which_any_part_is_missing_is_dropped_and_appends_go_on() {
    for (bytes, step) in SIZES {
        let moments = Moments::of(4, bytes).await;
        let last = moments.bytes_of(4);
        for at in last.clone().step_by(step) {
            let what = format!("a sector at {at} of {last:?} is missing");
            let mut writes = moments.bytes.clone();
            writes[at..last.end.min(at + 512)].fill(0);
            let image = moments.cut(3, &writes);
            let log = moments.ends_after(image.path(), 3, &what).await;
            let store = node(&log).await;
            assert_eq!(ok(&store, any([numbered(9)])).await.head, Position(4), "{what}");
            store.close().await;
            log.close().await;
            let log = open(image.path()).await;
            let verified = verify(&*log).await.expect("sound").expect("there");
            assert_eq!(verified.head, Position(4), "{what}");
            // With the mark of what was acknowledged it is damage.
            let reason = refused(moments.cut(4, &writes).path(), &what).await;
            assert!(reason.contains("5 slots were acknowledged, and only 4 are found"), "{what}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_before_the_last_write_is_no_end_even_if_the_mark_is_behind() {
    let mut random = fastrand::Rng::with_seed(14);
    for (bytes, _) in SIZES {
        let moments = Moments::of(5, bytes).await;
        for commit in (2..=4).flat_map(|commit| [commit; 10]) {
            let mut writes = moments.bytes.clone();
            let at = random.usize(moments.bytes_of(commit));
            writes[at] ^= 1 << random.u8(..8);
            let what = format!("byte {at}, of commit {commit}");
            let reason = refused(moments.cut(1, &writes).path(), &what).await;
            assert!(reason.contains(&format!("slot {commit} is unreadable")), "{what}: {reason}");
        }
        moments.ends_after(moments.cut(1, &moments.bytes).path(), 5, "undamaged").await.close().await;
    }
}
