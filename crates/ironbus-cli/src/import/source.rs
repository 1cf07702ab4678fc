//! Lines of a file or of standard input, unpacked where they are packed, with the place of each.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

/// The longest line. An event has at most 2 MiB of JSON and its names, escaped or not.
const LONGEST: u64 = 16 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where lines come from.
pub(crate) struct Source {
    lines: Box<dyn BufRead + Send>,
    number: u64,
    /// What to call it in messages.
    pub(crate) name: String,
    /// How many bytes it has, packed, where that is known.
    pub(crate) size: Option<u64>,
    /// How many of them were read.
    pub(crate) read: Arc<AtomicU64>,
}

impl Source {
    /// Opens a file, or standard input where the path is `-`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::new("standard input".into(), io::stdin(), None);
        }
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        Self::new(path.display().to_string(), file, about.is_file().then_some(about.len()))
    }

    fn new(name: String, reader: impl Read + Send + 'static, size: Option<u64>) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut packed = BufReader::with_capacity(64 * 1024, Counted { reader, read: Arc::clone(&read) });
        let lines: Box<dyn BufRead + Send> = if begins_with_gzip(&mut packed)? {
            Box::new(BufReader::with_capacity(256 * 1024, MultiGzDecoder::new(packed)))
        } else {
            Box::new(packed)
        };
        Ok(Self { lines, number: 0, name, size, read })
    }

    /// The next line that isn't blank, and its number; empty at the end.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<u64> {
        loop {
            line.clear();
            let taken = (&mut self.lines).take(LONGEST + 1).read_until(b'\n', line)?;
            self.number += 1;
            if taken as u64 > LONGEST {
                let reason = format!("the line has more than {LONGEST} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            if taken == 0 {
                return Ok(self.number);
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            let end = line.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
            line.truncate(end);
            let begin = line.iter().position(|byte| !blank(byte)).unwrap_or(0);
            line.drain(..begin);
            if !line.is_empty() {
                return Ok(self.number);
            }
        }
    }

    /// The number of the line that was read last.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// Whether the first two bytes say gzip. A pipe may give them one at a time.
fn begins_with_gzip<R: Read>(reader: &mut BufReader<R>) -> io::Result<bool> {
    // What is buffered grows only once it is consumed, so a single first byte has to decide by itself:
    // no JSON begins with it.
    let start = reader.fill_buf()?;
    Ok(start.first() == Some(&GZIP[0]) && start.get(1).is_none_or(|second| *second == GZIP[1]))
}

struct Counted<R> {
    reader: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A place in a source, for messages: `events.jsonl, line 17`.
pub(crate) fn place(name: &str, number: u64) -> String {
    format!("{name}, line {number}")
}

/// A path for messages.
pub(crate) fn shown(path: &Path) -> PathBuf {
    if path == Path::new("-") { "standard input".into() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(bytes: Vec<u8>) -> Vec<(u64, String)> {
        let mut source = Source::new("test".into(), io::Cursor::new(bytes), None).expect("readable");
        let (mut all, mut line) = (Vec::new(), Vec::new());
        loop {
            let number = source.next(&mut line).expect("readable");
            if line.is_empty() {
                return all;
            }
            all.push((number, String::from_utf8(line.clone()).expect("text")));
        }
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn blank_lines_are_counted_but_not_given() {
        let text = b"\xef\xbb\xbfa\r\n\n  b \n\t\nc";
        let expected = [(1, "a".to_owned()), (3, "b".to_owned()), (5, "c".to_owned())];
        assert_eq!(lines(text.to_vec()), expected);
        assert_eq!(lines(packed(text)), expected);
        assert_eq!(lines(Vec::new()), []);
    }

    #[test]
    fn files_packed_one_after_the_other_are_one_file() {
        let both = [packed(b"a\n"), packed(b"b\n")].concat();
        assert_eq!(lines(both), [(1, "a".to_owned()), (2, "b".to_owned())]);
    }

    #[test]
    fn a_packed_file_that_is_cut_short_is_an_error_and_not_an_end() {
        let mut bytes = packed(&b"abcdefgh\n".repeat(1000));
        bytes.truncate(bytes.len() - 10);
        let mut source = Source::new("test".into(), io::Cursor::new(bytes), None).expect("readable");
        let mut line = Vec::new();
        let error = (0..2000).find_map(|_| source.next(&mut line).err());
        assert_eq!(error.expect("an error").kind(), io::ErrorKind::UnexpectedEof);
    }
}
