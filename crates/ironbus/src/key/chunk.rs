//! One chunk of a key: percent-encoding of what a key expression forbids or gives a meaning.
//!
//! Encoded are `/` (ends a chunk), `*` and `$` (wildcards), `#` and `?` (forbidden), `%` (ours), ASCII
//! control characters, and a leading `@` (a chunk that begins with it isn't matched by `**`). All else,
//! spaces and non-ASCII text included, stands as it is, so that keys stay readable.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn must_encode(index: usize, byte: u8) -> bool {
    matches!(byte, b'/' | b'*' | b'$' | b'#' | b'?' | b'%')
        || byte.is_ascii_control()
        || (index == 0 && byte == b'@')
}

/// The text as a chunk. The empty text has no chunk; names are checked not to be empty.
pub(crate) fn encode(text: &str) -> Cow<'_, str> {
    if !text.bytes().enumerate().any(|(index, byte)| must_encode(index, byte)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for (index, character) in text.char_indices() {
        match u8::try_from(character) {
            Ok(byte) if must_encode(index, byte) => {
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)] as char);
                out.push(HEX[usize::from(byte & 15)] as char);
            }
            _ => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// The text that a chunk stands for; `None` if [`encode`] would not have written the chunk.
pub(crate) fn decode(chunk: &str) -> Option<Cow<'_, str>> {
    let text = if chunk.contains('%') { Cow::Owned(unescape(chunk)?) } else { Cow::Borrowed(chunk) };
    (encode(&text) == chunk && !chunk.is_empty()).then_some(text)
}

fn unescape(chunk: &str) -> Option<String> {
    let mut out = Vec::with_capacity(chunk.len());
    let mut bytes = chunk.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// How a chunk that [`decode`] refuses ought to be written, if that can be told.
pub(crate) fn suggestion(chunk: &str) -> Option<String> {
    if chunk.is_empty() {
        return None;
    }
    let meant = unescape(chunk).unwrap_or_else(|| chunk.to_owned());
    Some(encode(&meant).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn readable_text_stays_as_it_is() {
        for text in ["uuid-123", "case 12", "é漢", "a@b.c", "x:y;z=1&2"] {
            assert!(matches!(encode(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(encode("@home/50%*?"), "%40home%2F50%25%2A%3F");
    }

    #[test]
    fn only_the_one_spelling_decodes() {
        for chunk in ["%2f", "%41", "a%", "a%2", "%zz", "@a", "%FF", "", "a/b", "a*"] {
            assert_eq!(decode(chunk), None, "{chunk:?}");
        }
        assert_eq!(suggestion("%2f").as_deref(), Some("%2F"));
        assert_eq!(suggestion("50%").as_deref(), Some("50%25"));
        assert_eq!(suggestion("@home").as_deref(), Some("%40home"));
    }

    proptest! {
        #[test]
        fn every_text_survives(text in "(?s).{1,40}") {
            let chunk = encode(&text);
            prop_assert!(!chunk.contains(['/', '*', '$', '#', '?']) && !chunk.starts_with('@'));
            let decoded = decode(&chunk).expect("canonical");
            prop_assert_eq!(decoded.as_ref(), text.as_str());
        }
    }
}
