//! Flipped bytes and cut off files, everywhere: reported, or without effect. Never is anything served that wasn't
//! stored, never does a log quietly end before it did, and a refused one stays as it is.
//!
//! `IRONBUS_FAULT_TIMES` tries so many times as many places.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ironbus::event::StoredEvent;
use ironbus_testkit::{numbered, read_all, within};
use ironbus_zenoh::storage::{
    CommitLog, Damage, Fault, RocksLog, Slot, Trouble, ZenohStorageEventStore, verify,
};

use crate::support::{any, contents, copy_of, files, node, ok, open, slots, uncached};

/// A log that is closed, and what it holds.
struct Whole {
    folder: tempfile::TempDir,
    slots: Vec<Bytes>,
    history: Vec<Arc<StoredEvent>>,
}

/// A log with tables, snapshots, and a log of writes.
async fn whole() -> Whole {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for session in 0..3_u64 {
        let log = open(folder.path()).await;
        let store = node(&log).await;
        for n in session * 20..(session + 1) * 20 {
            ok(&store, any([numbered(n)])).await;
        }
        store.close().await;
        log.close().await;
    }
    // A copy, because what is asked here becomes a table.
    let copy = copy_of(folder.path());
    let log = open(copy.path()).await;
    let (slots, history) = (slots(&log).await, read_all(&node(&log).await).await.expect("sound"));
    assert_eq!((slots.len(), history.len()), (61, 60));
    Whole { folder, slots, history }
}

/// Opens a log and looks at all that is in it. What is reported of it; `None` if everything is as it was.
async fn judge(folder: &Path, whole: &Whole, what: &str) -> Option<String> {
    let before = contents(folder);
    let log = match RocksLog::open(folder).await {
        Ok(log) => Arc::new(log),
        Err(error) => {
            assert!(contents(folder) == before, "{what}: a refused log stays as it is");
            return Some(error.to_string());
        }
    };
    let mut reported = None;
    for (slot, expected) in (0..).map(Slot).zip(&whole.slots) {
        match log.read(slot).await {
            Ok(Some(held)) => assert!(held == *expected, "{what}: slot {slot} isn't what was stored"),
            Ok(None) => reported = Some(format!("slot {slot} is missing")),
            Err(error) => reported = Some(error.to_string()),
        }
    }
    let verified = verify(&*log).await;
    match &verified {
        Ok(found) => {
            let found = found.as_ref().map(|found| (found.head.0, found.slots));
            assert_eq!(found, Some((60, 61)), "{what}: it ends where it didn't");
            assert_eq!(reported, None, "{what}: `verify` noticed nothing");
        }
        Err(trouble) => reported = Some(trouble.to_string()),
    }
    match ZenohStorageEventStore::open(log.clone(), uncached()).await {
        Ok(store) => {
            match read_all(&store).await {
                Ok(history) => assert!(history == whole.history, "{what}: false events are served"),
                Err(error) => assert!(verified.is_err(), "{what}: {error}, and `verify` noticed nothing"),
            }
            store.close().await;
        }
        Err(error) => assert!(verified.is_err(), "{what}: {error}, and `verify` noticed nothing"),
    }
    log.close().await;
    reported
}

/// What kind of file it is, for the count.
fn kind(file: &Path) -> String {
    let name = file.file_name().expect("it has one").to_string_lossy().into_owned();
    let extension = file.extension().map(|extension| extension.to_string_lossy().into_owned());
    match (extension, file.parent().and_then(Path::file_name)) {
        (Some(extension), _) => extension,
        (None, Some(folder)) if folder == "snapshot" => "snapshot".into(),
        _ => name.split('-').next().unwrap_or_default().into(),
    }
}

/// How often each kind of file was damaged, and how often that was reported.
#[derive(Default)]
struct Counts(BTreeMap<String, (usize, usize)>);

impl Counts {
    fn note(&mut self, file: &Path, reported: Option<&String>) {
        let (tried, noticed) = self.0.entry(kind(file)).or_default();
        *tried += 1;
        *noticed += usize::from(reported.is_some());
    }

    fn all_reported(&self, kind: &str) {
        let (tried, noticed) = self.0.get(kind).copied().unwrap_or_default();
        assert!(tried > 0 && noticed == tried, "{kind}: of {tried} only {noticed} were reported");
    }
}

fn times() -> usize {
    std::env::var("IRONBUS_FAULT_TIMES").map_or(1, |times| times.parse().expect("a number"))
}

/// Places all over a file, a few of them at its ends.
fn places(length: usize, most: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..length).collect();
    random.shuffle(&mut places);
    places.truncate(most);
    places.extend([0, length / 2, length - 1]);
    places.sort_unstable();
    places.dedup();
    places
}

/// Where the headers are in a file of records, RocksDB's log of writes or its manifest: a checksum, a length and a
/// type before each record.
fn headers(bytes: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 << 10;
    assert!(bytes.len() < BLOCK, "in one block the records follow one another");
    let (mut places, mut at) = (Vec::new(), 0);
    while at + HEADER <= bytes.len() {
        places.push(at);
        at += HEADER + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    assert_eq!(at, bytes.len(), "its records fill it");
    places
}

const HEADER: usize = 7;

#[tokio::test]
async fn a_damaged_table_is_told_as_damage_of_the_slot_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    let store = node(&log).await;
    for n in 0..100 {
        ok(&store, any([numbered(n)])).await;
    }
    store.close().await;
    log.close().await;
    // The next start makes a table of it, of several blocks.
    open(folder.path()).await.close().await;
    let table = files(folder.path()).into_iter().find(|file| kind(file) == "sst").expect("there is one");
    let path = folder.path().join(&table);
    let mut bytes = std::fs::read(&path).expect("it is there");
    // Neither in the first nor in the last block, which a start reads.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let log = open(folder.path()).await;
    let trouble = verify(&*log).await.expect_err("a slot can't be read");
    let Trouble::Damaged { slot, fault: Fault::Unreadable(Damage::Storage(reason)) } = &trouble else {
        panic!("{trouble}")
    };
    assert!(*slot > Slot(0) && reason.contains(&format!("slot {slot} in ")), "{trouble}");
    let error = log.read(*slot).await.expect_err("its block is damaged");
    assert!(error.damaged, "{error}");
}

async fn flip(whole: &Whole, file: &Path, at: usize, bit: u8) -> Option<String> {
    let copy = copy_of(whole.folder.path());
    let path = copy.path().join(file);
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes[at] ^= 1 << bit;
    std::fs::write(&path, bytes).expect("it can be written");
    judge(copy.path(), whole, &format!("bit {bit} of byte {at} of {}", file.display())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_reported_or_has_no_effect_whatever_file_it_is_in() {
    let whole = whole().await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut counts = Counts::default();
    for file in files(whole.folder.path()) {
        let length = std::fs::metadata(whole.folder.path().join(&file)).expect("it is there").len();
        if length == 0 {
            continue;
        }
        for at in places(usize::try_from(length).expect("small"), 16 * times(), &mut random) {
            let reported = flip(&whole, &file, at, random.u8(..8)).await;
            counts.note(&file, reported.as_ref());
        }
    }
    println!("flipped bits, and how many of them were reported: {:?}", counts.0);
    // All that is in these is of the log. (In a table most is, in the others hardly anything.)
    counts.all_reported("log");
    assert!(counts.0["sst"].1 > 0 && counts.0["MANIFEST"].1 > 0 && counts.0["CURRENT"].1 > 0);
    assert_eq!(counts.0["snapshot"].1, 0, "a damaged snapshot is left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_any_header_of_a_record_is_reported_or_has_no_effect() {
    let whole = whole().await;
    let mut random = fastrand::Rng::with_seed(12);
    let kinds = ["log", "MANIFEST"];
    let files = files(whole.folder.path()).into_iter().filter(|file| kinds.contains(&&*kind(file)));
    for file in files {
        let bytes = std::fs::read(whole.folder.path().join(&file)).expect("it is there");
        let headers = headers(&bytes);
        assert!(headers.len() > 1, "{} has {headers:?}", file.display());
        for (n, header) in headers.into_iter().enumerate() {
            let mut bits: Vec<(usize, u8)> = (0..HEADER).map(|byte| (byte, random.u8(..8))).collect();
            // A type that is another, in one record near the beginning.
            bits.extend((0..8).filter(|_| n == 1).map(|bit| (HEADER - 1, bit)));
            for (byte, bit) in bits {
                let reported = within("the log is judged", flip(&whole, &file, header + byte, bit)).await;
                // What the manifest says last is for RocksDB's own housekeeping.
                let what = format!("bit {bit} of byte {byte} of record {n} of {}", file.display());
                assert!(reported.is_some() || kind(&file) == "MANIFEST", "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_off_is_reported_or_has_no_effect() {
    let whole = whole().await;
    let mut random = fastrand::Rng::with_seed(13);
    let mut counts = Counts::default();
    for file in files(whole.folder.path()) {
        let length = std::fs::metadata(whole.folder.path().join(&file)).expect("it is there").len();
        if length == 0 {
            continue;
        }
        for at in places(usize::try_from(length).expect("small"), 12 * times(), &mut random) {
            let copy = copy_of(whole.folder.path());
            let opened = std::fs::File::options().write(true).open(copy.path().join(&file));
            opened.and_then(|file| file.set_len(at as u64)).expect("it can be cut");
            let reported = judge(copy.path(), &whole, &format!("{} cut at {at}", file.display())).await;
            counts.note(&file, reported.as_ref());
        }
    }
    println!("files cut off, and how many of them were reported: {:?}", counts.0);
    counts.all_reported("log");
    counts.all_reported("sst");
    assert!(counts.0["MANIFEST"].1 > 0 && counts.0["CURRENT"].1 > 0 && counts.0["mark"].1 > 0);
}
