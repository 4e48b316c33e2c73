//! Reading a GGUF header front to back, with every read checked against the bytes that are there.

use bytes::Bytes;

use crate::error::{ModelError, Place};

/// A position in a file's bytes, with the file's name for error messages.
///
/// All GGUF scalars are little-endian and unaligned.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a Bytes, at: usize) -> Self {
        Self { file, bytes, at }
    }

    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// Bytes from the start of the file.
    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// How many bytes follow.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes, shared with the file.
    pub(super) fn take(
        &mut self,
        len: u64,
        place: impl FnOnce() -> Place,
    ) -> Result<Bytes, ModelError> {
        if len > self.remaining() {
            return Err(self.truncated(len, place()));
        }
        let end = self.at + len as usize; // len <= remaining, which is a usize
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    /// The bytes between this position and a later one.
    pub(super) fn up_to(&self, later: &Self) -> Bytes {
        self.bytes.slice(self.at..later.at)
    }

    fn array<const N: usize>(
        &mut self,
        place: impl FnOnce() -> Place,
    ) -> Result<[u8; N], ModelError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.truncated(N as u64, place())),
        }
    }

    pub(super) fn u32(&mut self, place: impl FnOnce() -> Place) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(place)?))
    }

    pub(super) fn u64(&mut self, place: impl FnOnce() -> Place) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(place)?))
    }

    /// A length-prefixed string of at most `limit` bytes, not yet known to be UTF-8.
    pub(super) fn string(
        &mut self,
        limit: u64,
        place: impl Fn() -> Place,
    ) -> Result<Bytes, ModelError> {
        let start = self.offset();
        let len = self.u64(&place)?;
        if len > limit {
            return Err(self.limit(start, (limit, "bytes"), len, place()));
        }
        self.take(len, place)
    }

    pub(super) fn limit(
        &self,
        offset: u64,
        (limit, unit): (u64, &'static str),
        found: u64,
        place: Place,
    ) -> ModelError {
        ModelError::Limit {
            file: self.file.into(),
            place,
            offset: Some(offset),
            limit,
            unit,
            found,
        }
    }

    pub(super) fn malformed(
        &self,
        offset: u64,
        place: Place,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ModelError {
        ModelError::Malformed {
            file: self.file.into(),
            place,
            offset: Some(offset),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn truncated(&self, needed: u64, place: Place) -> ModelError {
        ModelError::Truncated {
            file: self.file.into(),
            place,
            offset: self.offset(),
            needed,
            available: self.remaining(),
        }
    }
}
