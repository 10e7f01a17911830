// SPDX-License-Identifier: GPL-2.0
//! What a client asks for.

use crate::bytes::{array_or_end, skip, Bytes};
use crate::error::{Error, Result};
use crate::wire::{self, command};
use std::io::Read;

/// Bytes of a request.
const LEN: usize = 28;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    /// The client's, which comes back with the reply.
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Request {
    /// Reads the next one. What it brings along is passed over: nothing is ever written. `None`: there is no more.
    pub(crate) fn read(from: &mut impl Read) -> Result<Option<Self>> {
        let Some(bytes) = array_or_end::<LEN>(from)? else {
            return Ok(None);
        };
        let request =
            Self::parse(&bytes).ok_or(Error::Broken("what should be a request is none"))?;
        match request.command {
            command::DISC => return Ok(None),
            command::WRITE if request.len > wire::MOST => {
                return Err(Error::Broken("a write that is too long"))
            }
            command::WRITE => skip(from, request.len)?,
            _ => {}
        }
        Ok(Some(request))
    }

    fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        bytes.u32().filter(|magic| *magic == wire::REQUEST_MAGIC)?;
        Some(Self {
            flags: bytes.u16()?,
            command: bytes.u16()?,
            cookie: bytes.u64()?,
            offset: bytes.u64()?,
            len: bytes.u32()?,
        })
    }

    /// The end of what it is about, if that is in an export of so many bytes.
    pub(crate) fn end(&self, size: u64) -> Option<u64> {
        let end = self.offset.checked_add(self.len.into())?;
        (end <= size).then_some(end)
    }
}
