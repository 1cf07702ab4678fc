//! The bytes of batches and snapshots: fixed-size little-endian numbers, texts that carry their length, and a
//! BLAKE3 hash over all of it at the end, so that whatever was cut off or flipped is noticed before any of it
//! is used.

use bytes::{Buf, BufMut, Bytes};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes can't be what they ought to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// They aren't of ironbus at all.
    #[error("it is not of ironbus")]
    NotOurs,
    /// They were written by a later version.
    #[error("it has format {found}, but this build knows formats up to {known}; use a newer ironbus")]
    Newer {
        /// Their format.
        found: u16,
        /// The greatest that is known here.
        known: u16,
    },
    /// Their checksum isn't that of their content.
    #[error("its checksum is wrong")]
    Checksum,
    /// They end too early, or hold what no ironbus writes.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// The storage has found out by itself, by checksums of its own.
    #[error("the storage can't read it: {0}")]
    Storage(String),
}

const HASH: usize = 32;

/// Writes one sealed piece of bytes.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(magic: [u8; 4], format: u16) -> Self {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&magic);
        out.put_u16_le(format);
        Self(out)
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.put_u32_le(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.put_u64_le(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.put_i64_le(value);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Texts of events are limited far below 4 GiB.
    pub(super) fn text(&mut self, text: &[u8]) {
        self.u32(u32::try_from(text.len()).expect("the texts of an event are checked to be short"));
        self.raw(text);
    }

    /// The number of things that follow.
    pub(super) fn count(&mut self, count: usize) {
        self.u64(count as u64);
    }

    /// As JSON, for what is rare and has a form of its own.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        self.text(&serde_json::to_vec(value).expect("what is written has only texts for names"));
    }

    pub(super) fn seal(mut self) -> Bytes {
        let hash = blake3::hash(&self.0);
        self.raw(hash.as_bytes());
        self.0.into()
    }
}

/// Reads what [`Writer`] has written.
pub(super) struct Reader {
    rest: Bytes,
    format: u16,
}

impl Reader {
    /// Checks the whole before anything is read of it.
    pub(super) fn open(mut bytes: Bytes, magic: [u8; 4], known: u16) -> Result<Self, Damage> {
        if bytes.len() < magic.len() + 2 + HASH || bytes[..magic.len()] != magic {
            return Err(Damage::NotOurs);
        }
        let hash = bytes.split_off(bytes.len() - HASH);
        if blake3::hash(&bytes).as_bytes()[..] != hash[..] {
            return Err(Damage::Checksum);
        }
        bytes.advance(magic.len());
        let found = bytes.get_u16_le();
        if found > known || found == 0 {
            return Err(Damage::Newer { found, known });
        }
        Ok(Self { rest: bytes, format: found })
    }

    /// The format that it was written in, from 1.
    pub(super) fn format(&self) -> u16 {
        self.format
    }

    fn take(&mut self, count: usize) -> Result<Bytes, Damage> {
        if self.rest.len() < count {
            return Err(Damage::Malformed("it ends too early"));
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let taken = self.take(N)?;
        taken[..].try_into().map_err(|_| Damage::Malformed("it ends too early"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of things, each of which takes at least `least` bytes: never more than can be there.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, Damage> {
        let count = usize::try_from(self.u64()?).map_err(|_| Damage::Malformed("a count is too large"))?;
        if count > self.rest.len() / least {
            return Err(Damage::Malformed("a count is too large"));
        }
        Ok(count)
    }

    pub(super) fn text(&mut self) -> Result<Bytes, Damage> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn name(&mut self) -> Result<String, Damage> {
        let text = self.text()?;
        String::from_utf8(text.into()).map_err(|_| Damage::Malformed("a name is not UTF-8"))
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T, Damage> {
        serde_json::from_slice(&self.text()?).map_err(|_| Damage::Malformed("what it says isn't whole"))
    }

    pub(super) fn end(self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damage::Malformed("something follows its end")) }
    }
}
