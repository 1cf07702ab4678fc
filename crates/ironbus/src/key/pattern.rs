//! Patterns over event keys: Zenoh's key expressions, parsed once.
//!
//! `*` is any one chunk, `**` any number of chunks, `$*` anything within a chunk. A pattern is kept in
//! Zenoh's canonical form (`**/*` becomes `*/**`, `**/**` becomes `**`, a lone `$*` becomes `*`).
//! Refused is what Zenoh refuses, and beyond that what could never match an event, because a
//! subscription that stays silent for ever helps nobody.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::event_key::{EventKey, KeyChunks};
use super::{ROOT, SESSION, chunk};
use crate::event::{Aggregate, InvalidName, Sequence, SessionId, StoredEvent};

/// A pattern that selects events by their keys, for example `events/Todo/**`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyPattern(Arc<Parsed>);

#[derive(PartialEq, Eq, Hash)]
struct Parsed {
    text: Box<str>,
    shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PatternChunk {
    /// Exactly this chunk.
    Literal(Box<str>),
    /// `*`: any one chunk.
    Any,
    /// `**`: any number of chunks.
    AnyNumber,
    /// A chunk with `$*` in it.
    SubWild(Box<str>),
}

/// The shapes that nearly all patterns have, which need no walk over chunks. Names are decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// `events/**`
    Everything,
    /// `events/{type}/**`
    Type(Box<str>),
    /// `events/{type}/{id}/**`
    Aggregate(Aggregate),
    /// `events/session/{session_id}/**`
    Session(SessionId),
    /// Anything else.
    Other(Box<[PatternChunk]>),
}

/// Why a text isn't a pattern for events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{pattern}`: {reason}")]
#[non_exhaustive]
pub struct InvalidPattern {
    /// The text that was given.
    pub pattern: String,
    /// The part that is wrong; empty where a chunk is missing.
    pub part: String,
    /// What is wrong with it, and what to write instead where that can be told.
    pub reason: String,
}

impl KeyPattern {
    /// The longest pattern, in bytes. Any event key with its names written out is shorter.
    pub const MAX_BYTES: usize = 4096;

    /// The pattern of all events, `events/**`.
    #[must_use]
    pub fn everything() -> Self {
        Self::build(vec![PatternChunk::Literal(ROOT.into()), PatternChunk::AnyNumber])
    }

    /// The pattern of the events of one kind of aggregate, `events/{type}/**`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] when `aggregate_type` isn't a name that an aggregate may have.
    pub fn aggregate_type(aggregate_type: &str) -> Result<Self, InvalidName> {
        let checked = Aggregate::new(aggregate_type, "any")?;
        Ok(Self::build(vec![
            PatternChunk::Literal(ROOT.into()),
            PatternChunk::Literal(chunk::encode(checked.aggregate_type()).into()),
            PatternChunk::AnyNumber,
        ]))
    }

    /// The pattern of one aggregate's events, `events/{type}/{id}/**`.
    #[must_use]
    pub fn aggregate(aggregate: &Aggregate) -> Self {
        let literal = |name| PatternChunk::Literal(chunk::encode(name).into());
        Self::build(vec![
            PatternChunk::Literal(ROOT.into()),
            literal(aggregate.aggregate_type()),
            literal(aggregate.aggregate_id()),
            PatternChunk::AnyNumber,
        ])
    }

    /// The pattern of one session's events, `events/session/{session_id}/**`.
    #[must_use]
    pub fn session(session_id: &SessionId) -> Self {
        Self::build(vec![
            PatternChunk::Literal(ROOT.into()),
            PatternChunk::Literal(SESSION.into()),
            PatternChunk::Literal(chunk::encode(session_id.as_str()).into()),
            PatternChunk::AnyNumber,
        ])
    }

    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// [`InvalidPattern`] names the offending part and the reason.
    pub fn parse(pattern: &str) -> Result<Self, InvalidPattern> {
        let refuse = |part: &str, reason: String| InvalidPattern {
            pattern: pattern.chars().take(200).collect(),
            part: part.to_owned(),
            reason,
        };
        if pattern.is_empty() {
            return Err(refuse("", "it is empty; `events/**` matches every event".into()));
        }
        if pattern.len() > Self::MAX_BYTES {
            let reason = format!("it has {} bytes; at most {} are allowed", pattern.len(), Self::MAX_BYTES);
            return Err(refuse("", reason));
        }
        let mut chunks = Vec::new();
        for part in pattern.split('/') {
            let chunk = parse_chunk(part).map_err(|reason| refuse(part, reason))?;
            chunks.push(chunk);
        }
        canonize(&mut chunks);
        can_match(&chunks, pattern).map_err(|(part, reason)| refuse(&part, reason))?;
        Ok(Self::build(chunks))
    }

    fn build(chunks: Vec<PatternChunk>) -> Self {
        let texts: Vec<&str> = chunks.iter().map(PatternChunk::as_str).collect();
        let text = texts.join("/").into();
        Self(Arc::new(Parsed { text, shape: Shape::of(chunks) }))
    }

    /// The pattern in canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The session whose events the pattern selects, if it selects one session's alone.
    #[must_use]
    pub fn only_session(&self) -> Option<SessionId> {
        use PatternChunk::Literal;
        match &*self.chunks() {
            [Literal(_), Literal(scope), Literal(session), ..] if **scope == *SESSION => {
                SessionId::new(&*chunk::decode(session)?).ok()
            }
            _ => None,
        }
    }

    /// The aggregate, if the pattern matches only events of one without a session scope; and the
    /// sequence, if it matches one event alone.
    #[must_use]
    pub fn only_aggregate(&self) -> Option<(Aggregate, Option<Sequence>)> {
        if let Shape::Aggregate(aggregate) = &self.0.shape {
            return Some((aggregate.clone(), None));
        }
        let (aggregate, sequence, session_id) = EventKey::parse(&self.0.text).ok()?;
        session_id.is_none().then_some((aggregate, Some(sequence)))
    }

    /// The kind of aggregate, if the pattern matches just the events of one kind without a session scope.
    #[must_use]
    pub fn only_type(&self) -> Option<&str> {
        match &self.0.shape {
            Shape::Type(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the event's key matches.
    #[must_use]
    pub fn matches(&self, event: &StoredEvent) -> bool {
        self.matches_place(&event.aggregate, event.sequence, event.session_id.as_ref())
    }

    /// The same for an event of which only its place is known yet.
    pub(crate) fn matches_place(
        &self,
        aggregate: &Aggregate,
        sequence: Sequence,
        session_id: Option<&SessionId>,
    ) -> bool {
        match &self.0.shape {
            Shape::Everything => true,
            Shape::Type(name) => session_id.is_none() && aggregate.aggregate_type() == &**name,
            Shape::Aggregate(one) => session_id.is_none() && aggregate == one,
            Shape::Session(session) => session_id == Some(session),
            Shape::Other(chunks) => walk(chunks, KeyChunks::new(aggregate, sequence, session_id).as_slice()),
        }
    }

    /// Whether a key, given as text, matches.
    #[must_use]
    pub fn matches_key(&self, key: &str) -> bool {
        let chunks: Vec<_> = key.split('/').collect();
        walk(&self.chunks(), &chunks)
    }

    /// Read anew from the text: of the usual shapes there may be hundreds of thousands, which match without them.
    pub(super) fn chunks(&self) -> Vec<PatternChunk> {
        let parsed = self.0.text.split('/').map(parse_chunk);
        parsed.map(|chunk| chunk.expect("the text was made of chunks")).collect()
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.0.shape
    }
}

impl PatternChunk {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Literal(text) | Self::SubWild(text) => text,
            Self::Any => "*",
            Self::AnyNumber => "**",
        }
    }
}

impl Shape {
    fn of(chunks: Vec<PatternChunk>) -> Self {
        use PatternChunk::{Any, AnyNumber, Literal};
        let name = |chunk: &str| chunk::decode(chunk).map(std::borrow::Cow::into_owned);
        let known = match &*chunks {
            [Literal(_), AnyNumber] => Some(Self::Everything),
            [Literal(_), Literal(kind), AnyNumber] if &**kind != SESSION => {
                name(kind).map(|kind| Self::Type(kind.into()))
            }
            [Literal(_), Literal(kind), Literal(id), AnyNumber] if &**kind == SESSION => {
                name(id).and_then(|id| SessionId::new(id).ok()).map(Self::Session)
            }
            // The last chunk of such a key is its sequence, whichever it is.
            [Literal(_), Literal(kind), Literal(id), AnyNumber | Any] if &**kind != SESSION => name(kind)
                .zip(name(id))
                .and_then(|(kind, id)| Aggregate::new(kind, id).ok())
                .map(Self::Aggregate),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(chunks.into()))
    }
}

fn parse_chunk(part: &str) -> Result<PatternChunk, String> {
    match part {
        "" => return Err("it has an empty chunk (a `/` at its start or end, or two in a row)".into()),
        "*" => return Ok(PatternChunk::Any),
        "**" => return Ok(PatternChunk::AnyNumber),
        _ => {}
    }
    if let Some(forbidden) = part.chars().find(|character| matches!(character, '#' | '?')) {
        let code = u32::from(forbidden);
        return Err(format!("in `{part}`, `{forbidden}` is forbidden in keys; write it as `%{code:02X}`"));
    }
    let mut rest = part;
    let mut wild = false;
    while let Some(at) = rest.find(['*', '$']) {
        if !rest[at..].starts_with("$*") {
            return Err(if rest[at..].starts_with('*') {
                format!(
                    "in `{part}`, a `*` stands beside other text; within a chunk write `$*`, or `%2A` for the character itself"
                )
            } else {
                format!("in `{part}`, a `$` isn't followed by `*`; write `%24` for the character itself")
            });
        }
        wild = true;
        rest = &rest[at + 2..];
    }
    if wild {
        let mut text = part.to_owned();
        while text.contains("$*$*") {
            text = text.replace("$*$*", "$*");
        }
        return Ok(if text == "$*" { PatternChunk::Any } else { PatternChunk::SubWild(text.into()) });
    }
    if chunk::decode(part).is_none() {
        let written = chunk::suggestion(part).unwrap_or_default();
        return Err(format!(
            "`{part}` matches no name; names in keys are percent-encoded, write `{written}`"
        ));
    }
    Ok(PatternChunk::Literal(part.into()))
}

/// Zenoh's canonical form: in a run of `*` and `**`, the `*` first, then at most one `**`.
fn canonize(chunks: &mut Vec<PatternChunk>) {
    let mut out: Vec<PatternChunk> = Vec::with_capacity(chunks.len());
    for chunk in chunks.drain(..) {
        match (out.last(), &chunk) {
            (Some(PatternChunk::AnyNumber), PatternChunk::AnyNumber) => {}
            (Some(PatternChunk::AnyNumber), PatternChunk::Any) => {
                let last = out.len() - 1;
                out.insert(last, chunk);
            }
            _ => out.push(chunk),
        }
    }
    *chunks = out;
}

/// Refuses what no event key can match, with the offending part and a hint.
fn can_match(chunks: &[PatternChunk], pattern: &str) -> Result<(), (String, String)> {
    let may_be = |chunk: &PatternChunk, word: &str| match chunk {
        PatternChunk::Literal(text) => &**text == word,
        PatternChunk::SubWild(text) => sub_wild_matches(text.as_bytes(), word.as_bytes()),
        PatternChunk::Any | PatternChunk::AnyNumber => true,
    };
    if !may_be(&chunks[0], ROOT) {
        let part = chunks[0].as_str().to_owned();
        return Err((
            part,
            format!("it begins with `{}`, but event keys begin with `events/`", chunks[0].as_str()),
        ));
    }
    let open = chunks.contains(&PatternChunk::AnyNumber);
    let fixed = chunks.iter().filter(|chunk| **chunk != PatternChunk::AnyNumber).count();
    let session = chunks.get(1).is_some_and(|chunk| may_be(chunk, SESSION));
    let most = if session || chunks[0] == PatternChunk::AnyNumber { 6 } else { 4 };
    if fixed > most {
        let part = chunks[most.min(chunks.len() - 1)].as_str().to_owned();
        let reason = format!(
            "it has {fixed} chunks; an event key here has {most}. Write a `/` within a name as `%2F`"
        );
        return Err((part, reason));
    }
    if !open && fixed != 4 && fixed != most {
        let reason = format!("it names {fixed} chunks, which no event key has; did you mean `{pattern}/**`?");
        return Err((chunks[chunks.len() - 1].as_str().to_owned(), reason));
    }
    Ok(())
}

fn walk<K: AsRef<str>>(pattern: &[PatternChunk], key: &[K]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((PatternChunk::AnyNumber, rest)) => {
            // A chunk that begins with `@` is matched by no wildcard but only by itself.
            let reach = key.iter().take_while(|chunk| !chunk.as_ref().starts_with('@')).count();
            (0..=reach).any(|skip| walk(rest, &key[skip..]))
        }
        Some((chunk, rest)) => key.split_first().is_some_and(|(first, key)| {
            let first = first.as_ref();
            let matched = match chunk {
                PatternChunk::Literal(text) => &**text == first,
                PatternChunk::SubWild(text) => {
                    !first.starts_with('@') && sub_wild_matches(text.as_bytes(), first.as_bytes())
                }
                PatternChunk::Any => !first.starts_with('@'),
                PatternChunk::AnyNumber => unreachable!("taken above"),
            };
            matched && walk(rest, key)
        }),
    }
}

/// Whether `text` matches a chunk in which every `$*` stands for any characters.
pub(super) fn sub_wild_matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some(at) = pattern.windows(2).position(|pair| pair == b"$*") else { return pattern == text };
    let (head, rest) = (&pattern[..at], &pattern[at + 2..]);
    let Some(text) = text.strip_prefix(head) else { return false };
    // A canonical chunk has no empty part. Between two `$*` the earliest find is as good as any later one; only the last part is anchored.
    let mut parts = Vec::new();
    let mut tail = rest;
    while let Some(at) = tail.windows(2).position(|pair| pair == b"$*") {
        parts.push(&tail[..at]);
        tail = &tail[at + 2..];
    }
    let mut text = text;
    for part in parts {
        let Some(at) = text.windows(part.len()).position(|window| window == part) else {
            return false;
        };
        text = &text[at + part.len()..];
    }
    text.ends_with(tail)
}

impl FromStr for KeyPattern {
    type Err = InvalidPattern;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        Self::parse(pattern)
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPattern({})", self.0.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(pattern: &str) -> String {
        KeyPattern::parse(pattern).expect_err(pattern).to_string()
    }

    #[test]
    fn the_documented_patterns_match_what_they_say() {
        let matches = |pattern: &str, key: &str| KeyPattern::parse(pattern).expect(pattern).matches_key(key);
        assert!(matches("events/**", "events/Todo/uuid-123/1"));
        assert!(matches("events/Todo/**", "events/Todo/uuid-123/1"));
        assert!(!matches("events/Todo/**", "events/User/uuid-456/1"));
        assert!(matches("events/Todo/uuid-123/**", "events/Todo/uuid-123/2"));
        assert!(matches("events/session/s1/**", "events/session/s1/Todo/1/1"));
        assert!(matches("events/*/uuid-$*/1", "events/Todo/uuid-123/1"));
        assert!(!matches("events/*/uuid-$*/1", "events/Todo/uuid-123/2"));
        assert!(matches("**/1", "events/Todo/uuid-123/1"));
    }

    #[test]
    fn a_pattern_within_one_session_says_whose_it_is() {
        let only = |pattern: &str| {
            let session = KeyPattern::parse(pattern).expect(pattern).only_session();
            session.map(|session| session.as_str().to_owned())
        };
        for pattern in
            ["events/session/s%2F1/**", "events/session/s%2F1/Todo/*/1", "events/session/s%2F1/Todo/**"]
        {
            assert_eq!(only(pattern).as_deref(), Some("s/1"), "{pattern}");
        }
        for pattern in
            ["events/**", "events/session/**", "events/session/s$*/**", "**/session/1", "events/Todo/1/**"]
        {
            assert_eq!(only(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn patterns_become_canonical() {
        for (given, canonical) in [
            ("events/**/**", "events/**"),
            ("events/**/*", "events/*/**"),
            ("events/$*/a$*$*b/**", "events/*/a$*b/**"),
        ] {
            assert_eq!(KeyPattern::parse(given).expect(given).as_str(), canonical);
        }
    }

    #[test]
    fn invalid_patterns_are_refused_with_the_reason_and_the_offending_part() {
        assert!(reason("").contains("is empty"));
        assert!(reason("events//x").contains("empty chunk"));
        assert!(reason("events/Todo/a*/1").contains("in `a*`, a `*` stands beside other text"));
        assert!(reason("events/Todo/$a/1").contains("write `%24`"));
        assert!(reason("events/Todo/a#1/**").contains("`#` is forbidden in keys; write it as `%23`"));
        assert!(reason("events/Todo/50%/**").contains("write `50%25`"));
        assert!(reason("events/Todo/@me/**").contains("write `%40me`"));
        assert!(reason("event/Todo/**").contains("event keys begin with `events/`"));
        assert!(reason("events/Todo").contains("did you mean `events/Todo/**`?"));
        assert!(reason("events/Todo/a/b/1").contains("as `%2F`"));
        assert!(reason(&"x".repeat(5000)).contains("5000 bytes"));
        assert_eq!(KeyPattern::parse("events/Todo/a?b/**").expect_err("forbidden").part, "a?b");
    }

    #[test]
    fn the_shortcuts_agree_with_the_walk() {
        for pattern in [
            "events/**",
            "events/To%2Fdo/**",
            "events/Todo/a b/**",
            "events/Todo/a b/*",
            "events/session/s/**",
        ] {
            let pattern = KeyPattern::parse(pattern).expect(pattern);
            assert!(!matches!(pattern.shape(), Shape::Other(_)), "{pattern}");
            for key in ["events/To%2Fdo/1/1", "events/Todo/a b/9", "events/session/s/Todo/1/1"] {
                let (aggregate, sequence, session_id) = super::super::EventKey::parse(key).expect(key);
                let event = crate::event::test_event(aggregate, sequence, session_id);
                assert_eq!(pattern.matches(&event), pattern.matches_key(key), "{pattern} {key}");
            }
        }
    }
}
