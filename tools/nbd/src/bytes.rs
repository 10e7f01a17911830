// SPDX-License-Identifier: GPL-2.0
//! Numbers in what has come, and what is passed over.

use crate::error::{Error, Result};
use std::io::{self, Read};

/// Takes apart what has come. Nothing is left of it when too much is taken.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with its length before it.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len.try_into().ok()?)
    }
}

/// Reads so many bytes.
pub(crate) fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The same, or nothing where nothing more comes.
pub(crate) fn array_or_end<const N: usize>(from: &mut impl Read) -> Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    let mut have = 0;
    while let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(bytes))
}

/// Passes over what is not wanted.
pub(crate) fn skip(from: &mut impl Read, len: u32) -> Result<()> {
    let skipped = io::copy(&mut from.take(len.into()), &mut io::sink())?;
    match skipped == u64::from(len) {
        true => Ok(()),
        false => Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}
