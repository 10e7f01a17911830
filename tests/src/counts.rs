// SPDX-License-Identifier: GPL-2.0

//! What a disk counts itself of the requests that it gets.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::disks::Piece;
use crate::time::pass;

/// Longer than the module waits with a commit that nobody asked for.
const QUIET: Duration = Duration::from_millis(1500);

/// Requests and sectors since the disk is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Sectors that were read.
    pub read_sectors: u64,
    /// Writes, and empty flushes.
    pub writes: u64,
    /// Sectors that were written.
    pub written_sectors: u64,
}

impl Counts {
    /// Of a piece of a disk.
    pub fn of(piece: &Piece) -> Result<Self> {
        let stat = format!("/sys/block/{}/stat", piece.mapped().kernel_name());
        let text = fs::read_to_string(&stat).context(stat)?;
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        // Documentation/block/stat.rst
        match numbers?.as_slice() {
            &[reads, _, read_sectors, _, writes, _, written_sectors, ..] => Ok(Self {
                reads,
                read_sectors,
                writes,
                written_sectors,
            }),
            _ => bail!("{text}"),
        }
    }

    /// Of two pieces, when nothing goes on there any more.
    pub fn at_rest(pieces: [&Piece; 2]) -> Result<[Self; 2]> {
        let look = || -> Result<_> { Ok([Self::of(pieces[0])?, Self::of(pieces[1])?]) };
        let mut before = look()?;
        for _ in 0..40 {
            pass(QUIET);
            let now = look()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        bail!("there is always something to do")
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            read_sectors: self.read_sectors - before.read_sectors,
            writes: self.writes - before.writes,
            written_sectors: self.written_sectors - before.written_sectors,
        }
    }
}
