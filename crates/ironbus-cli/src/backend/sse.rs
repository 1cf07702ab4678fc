//! Reading Server-Sent Events: bytes in any pieces in, frames out. No I/O.
//!
//! As the specification says: lines end with CR, LF or CRLF; a frame ends with an empty line, and what
//! stands before the end of the stream without one is dropped; comments are passed over; an id lasts
//! until the next one. Beyond it, an id without data is told too, because it moves the cursor.

/// The longest frame that is taken. An event has at most 2 MiB of JSON and its names.
const LONGEST: usize = 8 << 20;

/// One frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The `event:` field; empty where there is none.
    pub(crate) event: String,
    /// The `data:` lines, joined by line breaks; `None` where there is none.
    pub(crate) data: Option<String>,
    /// The `id:` field, if this frame has one.
    pub(crate) id: Option<String>,
    /// The `retry:` field in milliseconds, if this frame has one.
    pub(crate) retry: Option<u64>,
}

/// A frame that is longer than any event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of more than {LONGEST} bytes")]
pub(crate) struct TooLong;

/// Takes bytes as they come and gives back the frames that they complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    frame: Frame,
    size: usize,
    /// The last byte was a CR: an LF right after it belongs to it.
    after_cr: bool,
    /// Whether a first line was seen, before which a byte order mark may stand.
    begun: bool,
}

impl Parser {
    /// Takes the next piece of the stream.
    ///
    /// # Errors
    ///
    /// [`TooLong`] for a frame without end; the stream is of no use then.
    pub(crate) fn take(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), TooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&bytes[..end])?;
            let (ended_by, rest) = (bytes[end], &bytes[end + 1..]);
            bytes = match (ended_by, rest.first()) {
                (b'\r', Some(b'\n')) => &rest[1..],
                (b'\r', None) => {
                    self.after_cr = true;
                    rest
                }
                _ => rest,
            };
            frames.extend(self.line());
        }
        self.extend(bytes)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.size += bytes.len();
        if self.size > LONGEST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Deals with a whole line; an empty one completes a frame.
    fn line(&mut self) -> Option<Frame> {
        let line = std::mem::take(&mut self.line);
        let mut text = &*String::from_utf8_lossy(&line);
        if !std::mem::replace(&mut self.begun, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.size = 0;
            let frame = std::mem::take(&mut self.frame);
            return (frame.data.is_some() || frame.id.is_some() || frame.retry.is_some()).then_some(frame);
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.frame.event),
            "data" => match &mut self.frame.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.frame.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.frame.retry = value.parse().ok();
            }
            // A comment (it begins with the colon), or a field of a later time.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<Frame> {
        let (mut parser, mut frames) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.take(piece, &mut frames).expect("short enough");
        }
        frames
    }

    fn data(text: &str) -> Frame {
        Frame { data: Some(text.into()), ..Frame::default() }
    }

    #[test]
    fn fields_comments_and_line_ends_are_understood() {
        let stream = "\u{feff}retry: 2000\n\n: comment\nid: 1.7\ndata: {\"a\":1}\n\nevent: caught_up\rdata:x\r\rdata: a\r\ndata:  b\r\ndata\r\n\r\nid: 1.9\n\n:\n\nunknown: x\n\ndata: cut off";
        assert_eq!(
            all(&[stream.as_bytes()]),
            [
                Frame { retry: Some(2000), ..Frame::default() },
                Frame { id: Some("1.7".into()), ..data("{\"a\":1}") },
                Frame { event: "caught_up".into(), ..data("x") },
                data("a\n b\n"),
                Frame { id: Some("1.9".into()), ..Frame::default() },
            ]
        );
    }

    #[test]
    fn a_line_feed_after_a_carriage_return_belongs_to_it_even_in_the_next_piece() {
        assert_eq!(
            all(&[b"data: a\r", b"\ndata: b\r\n\r", b"\n", b"data: c\n\n"]),
            [data("a\nb"), data("c")]
        );
    }

    #[test]
    fn a_frame_without_end_is_refused_and_does_not_fill_the_memory() {
        let (mut parser, mut frames) = (Parser::default(), Vec::new());
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..9).any(|_| parser.take(&piece, &mut frames).is_err());
        assert!(refused && parser.line.len() <= LONGEST);
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_stream_gives_the_same_frames(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("\n".to_owned()), Just("\r".to_owned()), Just("\r\n".to_owned()), Just("\n\n".to_owned()),
                    Just("data: ".to_owned()), Just("data:".to_owned()), Just("id: 1.2".to_owned()),
                    Just("event: é".to_owned()), Just(": note".to_owned()), Just("retry: 7".to_owned()),
                    "[ -~é漢]{0,6}",
                ],
                0..60,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let stream = parts.concat().into_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            at.sort_unstable();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in at {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            pieces.push(&stream[from..]);
            prop_assert_eq!(all(&pieces), all(&[&stream]));
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(all(&bytes), all(&[&stream]));
        }
    }
}
