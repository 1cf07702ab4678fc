//! Lines gathered into batches, read and understood on a thread of their own while the last batch is
//! being stored.
//!
//! Invariants: batches come in the order of the lines; no event id stands twice in a batch; a bad line
//! comes after everything that stood before it and is the last thing that comes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use ironbus::store::AggregateWrite;
use ironbus::{Aggregate, Append, EventId, ExpectedVersion, NewEvent};
use tokio::sync::mpsc;

use super::line::{BadLine, parse};
use super::source::{Source, place, shown};
use crate::failure::Failure;

/// How many batches wait at the most; then reading waits.
const WAITING: usize = 2;

/// A batch ends once its payloads and metadata reach this many bytes.
const BYTES: usize = 2 << 20;

/// An event and the line that it stands on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbered {
    pub(crate) line: u64,
    pub(crate) aggregate: Aggregate,
    pub(crate) event: NewEvent,
}

/// Events to be stored at a time.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Numbered>,
    /// How many lines said again what a line of this batch had said.
    pub(crate) repeated: u64,
    /// How far the source was read when the batch was complete, in bytes as they lie there.
    pub(crate) read: u64,
}

/// Consecutive events of one aggregate become one write; the order stays.
pub(crate) fn append_of(events: &[Numbered]) -> Append {
    let mut append = Append::default();
    for Numbered { aggregate, event, .. } in events {
        match append.writes.last_mut() {
            Some(write) if write.aggregate == *aggregate => write.events.push(event.clone()),
            _ => append.writes.push(AggregateWrite {
                aggregate: aggregate.clone(),
                expected: ExpectedVersion::Any,
                events: vec![event.clone()],
            }),
        }
    }
    append
}

/// The batches of a source.
pub(crate) struct Batches {
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    waiting: mpsc::Receiver<Result<Batch, Failure>>,
}

impl Batches {
    /// Opens a file or standard input (`-`) and begins to read.
    pub(crate) fn read(path: &Path, most: usize) -> Result<Self, Failure> {
        let source = Source::open(path)
            .map_err(|error| Failure::input(format!("{} can't be read: {error}", shown(path).display())))?;
        let (sender, waiting) = mpsc::channel(WAITING);
        let (name, size) = (source.name.clone(), source.size);
        std::thread::Builder::new()
            .name("import-reader".into())
            .spawn(move || gather(source, most, &sender))
            .map_err(|error| Failure::failed(format!("the reading thread can't start: {error}")))?;
        Ok(Self { name, size, waiting })
    }

    /// The next batch; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Batch, Failure>> {
        self.waiting.recv().await
    }
}

fn gather(mut source: Source, most: usize, sender: &mpsc::Sender<Result<Batch, Failure>>) {
    let mut gathering = Gathering::default();
    let mut text = Vec::new();
    let ended = loop {
        let number = match source.next(&mut text) {
            Ok(_) if text.is_empty() => break None,
            Ok(number) => number,
            Err(error) => break Some(unreadable(&source, &error)),
        };
        let numbered = match parse(number, &text) {
            Ok((aggregate, event)) => Numbered { line: number, aggregate, event },
            Err(bad) => break Some(refuse(&source.name, number, &bad)),
        };
        if let Err(earlier) = gathering.add(numbered) {
            let other = format!("it has the event id of line {earlier} but isn't the same event");
            break Some(Failure::input(format!("{}: {other}", place(&source.name, number))));
        }
        if gathering.batch.events.len() >= most || gathering.bytes >= BYTES {
            let batch = gathering.end(&source);
            // Nobody listens any more: the import has ended.
            if sender.blocking_send(Ok(batch)).is_err() {
                return;
            }
        }
    };
    let batch = gathering.end(&source);
    if !batch.events.is_empty() && sender.blocking_send(Ok(batch)).is_err() {
        return;
    }
    if let Some(failure) = ended {
        let _ = sender.blocking_send(Err(failure));
    }
}

fn refuse(name: &str, number: u64, bad: &BadLine) -> Failure {
    Failure::input(format!("{}: {bad}", place(name, number)))
}

fn unreadable(source: &Source, error: &std::io::Error) -> Failure {
    let place = place(&source.name, source.number());
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return Failure::input(format!("{place}: the gzip data ends early; was the file copied completely?"));
    }
    Failure::input(format!("{place}: can't be read: {error}"))
}

#[derive(Default)]
struct Gathering {
    batch: Batch,
    bytes: usize,
    ids: HashMap<EventId, usize>,
}

impl Gathering {
    /// Adds an event; the same event said again is only counted. Another event with the id of an earlier
    /// one is refused with the line of that.
    fn add(&mut self, numbered: Numbered) -> Result<(), u64> {
        if let Some(event_id) = numbered.event.event_id {
            if let Some(at) = self.ids.get(&event_id) {
                let earlier = &self.batch.events[*at];
                if earlier.aggregate != numbered.aggregate || earlier.event != numbered.event {
                    return Err(earlier.line);
                }
                self.batch.repeated += 1;
                return Ok(());
            }
            self.ids.insert(event_id, self.batch.events.len());
        }
        self.bytes +=
            numbered.event.payload.as_bytes().len() + numbered.event.metadata.json().as_bytes().len();
        self.batch.events.push(numbered);
        Ok(())
    }

    fn end(&mut self, source: &Source) -> Batch {
        let mut batch = std::mem::take(self).batch;
        batch.read = source.read.load(Ordering::Relaxed);
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn cloudevent(id: u32, aggregate: &str, data: u32) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"E","subject":"T/{aggregate}","data":{data}}}"#
        )
    }

    fn batches(text: &str, most: usize) -> (Vec<Batch>, Option<String>) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        let mut reading = Batches::read(file.path(), most).expect("readable");
        let mut batches = Vec::new();
        while let Some(next) = reading.waiting.blocking_recv() {
            match next {
                Ok(batch) => batches.push(batch),
                Err(failure) => return (batches, Some(failure.message)),
            }
        }
        (batches, None)
    }

    #[test]
    fn consecutive_events_of_one_aggregate_are_one_write_and_order_stays() {
        let lines: Vec<String> =
            [(1, "a"), (2, "a"), (3, "b"), (4, "a")].iter().map(|(id, of)| cloudevent(*id, of, 0)).collect();
        let (batches, failure) = batches(&lines.join("\n"), 100);
        assert_eq!(failure, None);
        let append = append_of(&batches[0].events);
        let shape: Vec<_> =
            append.writes.iter().map(|write| (write.aggregate.aggregate_id(), write.events.len())).collect();
        assert_eq!(shape, [("a", 2), ("b", 1), ("a", 1)]);
    }

    #[test]
    fn an_event_that_is_said_again_is_stored_once_and_another_of_its_id_is_refused() {
        let text = [cloudevent(1, "a", 0), cloudevent(1, "a", 0), cloudevent(2, "a", 0)].join("\n");
        let (found, failure) = batches(&text, 100);
        assert_eq!((found[0].events.len(), found[0].repeated, failure), (2, 1, None));
        let (found, failure) = batches(&[text, cloudevent(1, "a", 7)].join("\n"), 100);
        assert_eq!(found[0].events.len(), 2);
        assert!(failure.expect("refused").contains("line 4: it has the event id of line 1"));
    }

    #[test]
    fn what_stands_before_a_bad_line_comes_and_nothing_after_it() {
        let good = |id| cloudevent(id, "a", 0);
        let text = [good(1), good(2), good(3), "nonsense".into(), good(4)].join("\n");
        let (found, failure) = batches(&text, 2);
        assert_eq!(found.iter().map(|batch| batch.events.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(failure.expect("refused").contains("line 4: expected"));
    }
}
