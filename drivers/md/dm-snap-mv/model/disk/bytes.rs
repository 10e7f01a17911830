// SPDX-License-Identifier: GPL-2.0

//! Little-endian fields, one after the other.

use super::super::refusal::Refusal;

/// Reads fields off the front of a buffer; [`Refusal::Corrupt`] when it ends too early.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(buffer: &'a [u8]) -> Self {
        Reader { rest: buffer }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Refusal::Corrupt)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refusal> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `len` reserved bytes; all must be 0.
    pub(super) fn zeroes(&mut self, len: usize) -> Result<(), Refusal> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Refusal::Corrupt)?;
        self.rest = rest;
        match head.iter().all(|&b| b == 0) {
            true => Ok(()),
            false => Err(Refusal::Corrupt),
        }
    }

    /// The rest of the buffer is reserved.
    pub(super) fn end(mut self) -> Result<(), Refusal> {
        self.zeroes(self.rest.len())
    }
}

/// Writes fields onto a buffer. What does not fit is left out: the sizes are constants, and a test
/// of each encoder shows that they suffice.
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Writer { rest: buffer }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((head, rest)) = rest.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.rest = rest;
        }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// `len` reserved bytes.
    pub(super) fn zeroes(&mut self, len: usize) {
        for _ in 0..len {
            self.u8(0);
        }
    }

    /// The rest of the buffer is reserved.
    pub(super) fn end(self) {
        self.rest.fill(0);
    }
}

/// Up to `N` bytes, with their number: a memo, an origin id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortBytes<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> ShortBytes<N> {
    /// No bytes.
    pub const EMPTY: Self = ShortBytes {
        len: 0,
        bytes: [0; N],
    };

    /// A copy of these bytes, if there are not too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let len = u8::try_from(bytes.len()).ok()?;
        let mut short = Self::EMPTY;
        short.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        short.len = len;
        Some(short)
    }

    /// From its two fields on disk. The bytes behind the last must be 0.
    pub(super) fn from_parts(len: u8, bytes: [u8; N]) -> Result<Self, Refusal> {
        match bytes.get(usize::from(len)..) {
            Some(rest) if rest.iter().all(|&b| b == 0) => Ok(ShortBytes { len, bytes }),
            _ => Err(Refusal::Corrupt),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    pub(super) fn len(&self) -> u8 {
        self.len
    }

    /// All `N` bytes, 0 behind the last.
    pub(super) fn padded(&self) -> &[u8; N] {
        &self.bytes
    }
}

impl<const N: usize> core::fmt::Debug for ShortBytes<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}
