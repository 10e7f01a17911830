// SPDX-License-Identifier: GPL-2.0
//! What is replied.

use crate::wire::{self, chunk};

/// A reply without data, or what stands before them.
pub(crate) fn simple(cookie: u64, error: u32) -> Vec<u8> {
    let mut reply = wire::SIMPLE_MAGIC.to_be_bytes().to_vec();
    reply.extend(error.to_be_bytes());
    reply.extend(cookie.to_be_bytes());
    reply
}

/// A chunk of a structured reply: `parts`, which `more` bytes will follow.
pub(crate) fn chunk(cookie: u64, last: bool, kind: u16, parts: &[&[u8]], more: usize) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u32::try_from(len.saturating_add(more)).unwrap_or(u32::MAX);
    let mut reply = wire::STRUCTURED_MAGIC.to_be_bytes().to_vec();
    reply.extend(if last { chunk::DONE } else { 0 }.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(cookie.to_be_bytes());
    reply.extend(len.to_be_bytes());
    parts.iter().for_each(|part| reply.extend(*part));
    reply
}

/// What stands before so many bytes of data.
pub(crate) fn data(cookie: u64, last: bool, offset: u64, len: usize) -> Vec<u8> {
    let offset = offset.to_be_bytes();
    chunk(cookie, last, chunk::OFFSET_DATA, &[&offset], len)
}

/// There are zeroes.
pub(crate) fn hole(cookie: u64, last: bool, offset: u64, len: u32) -> Vec<u8> {
    let parts = [&offset.to_be_bytes()[..], &len.to_be_bytes()];
    chunk(cookie, last, chunk::OFFSET_HOLE, &parts, 0)
}

/// It is over, with an error; where, if that is known.
pub(crate) fn error(cookie: u64, errno: u32, offset: Option<u64>) -> Vec<u8> {
    let errno = errno.to_be_bytes();
    let offset_bytes = offset.map(u64::to_be_bytes);
    let kind = match offset {
        Some(_) => chunk::ERROR_OFFSET,
        None => chunk::ERROR,
    };
    let offset = offset_bytes.as_ref().map_or(&[][..], |bytes| bytes);
    // Of no bytes is what could be said of it.
    chunk(cookie, true, kind, &[&errno, &[0, 0], offset], 0)
}
