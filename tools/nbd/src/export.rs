// SPDX-License-Identifier: GPL-2.0
//! What is served.

use std::io;

/// A part of an export of which a context says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, more than none.
    pub len: u64,
    /// What is said of it: see [`crate::wire::allocation`] and [`crate::wire::DIRTY`].
    pub flags: u32,
}

/// Something that can be read, by several at once, and does not change.
pub trait Export: Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// What it is called, in at most 4096 bytes; the empty name leads to it, too.
    fn name(&self) -> &str;

    /// What it is, for people, in at most 4096 bytes.
    fn description(&self) -> &str;

    /// What requests are best multiples of: bytes, a power of two from 512 on.
    fn preferred(&self) -> u32;

    /// The names of its contexts, of which the first one is "base:allocation".
    fn contexts(&self) -> &[String];

    /// What a context, by its place among the names, says from a byte on: parts one behind the other,
    /// to the end.
    fn extents(&self, context: usize, offset: u64) -> Box<dyn Iterator<Item = Extent> + '_>;

    /// Reads what is there from a byte on. It is in the export, and `into` is at most
    /// [`crate::PIECE`] long, and begins at a multiple of 4096 in memory.
    ///
    /// # Errors
    ///
    /// The client is told that it cannot be read.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}
