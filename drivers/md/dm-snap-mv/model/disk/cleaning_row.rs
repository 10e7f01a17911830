// SPDX-License-Identifier: GPL-2.0

//! How far the cleaning of a timeline is.

use super::super::refusal::Refusal;
use super::bytes::{Reader, Writer};

/// Row of the cleaning tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleaningRow {
    /// One more than the key of the record that this pass has looked at last. 0: it has not begun.
    pub cursor: u64,
    /// A deletion arrived after the pass began: another one is needed.
    pub again: bool,
    /// The timeline is dead: all of its records go, then its trees.
    pub drop: bool,
    /// COW chunks freed so far, over all passes.
    pub freed: u64,
}

impl CleaningRow {
    /// Bytes of a row.
    pub const SIZE: usize = 32;

    const AGAIN: u32 = 1;
    const DROP: u32 = 2;

    /// Writes the row.
    pub fn encode(&self, buffer: &mut [u8; Self::SIZE]) {
        let mut flags = 0;
        if self.again {
            flags |= Self::AGAIN;
        }
        if self.drop {
            flags |= Self::DROP;
        }
        let mut w = Writer::new(buffer);
        w.u64(self.cursor);
        w.u32(flags);
        w.u32(0);
        w.u64(self.freed);
        w.end();
    }

    /// Reads a row; [`Refusal::Corrupt`] when it is none.
    pub fn decode(buffer: &[u8; Self::SIZE]) -> Result<CleaningRow, Refusal> {
        let mut r = Reader::new(buffer);
        let cursor = r.u64()?;
        let flags = r.u32()?;
        r.zeroes(4)?;
        let freed = r.u64()?;
        r.end()?;
        if flags & !(Self::AGAIN | Self::DROP) != 0 {
            return Err(Refusal::Corrupt);
        }
        Ok(CleaningRow {
            cursor,
            again: flags & Self::AGAIN != 0,
            drop: flags & Self::DROP != 0,
            freed,
        })
    }
}
