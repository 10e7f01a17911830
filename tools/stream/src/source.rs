// SPDX-License-Identifier: GPL-2.0
//! Where the data of a segment come from.

use crate::begin::Begin;
use crate::encoder::Encoder;
use crate::error::{Error, Fault, Result};
use crate::frame::{PAYLOAD, SECTOR};
use crate::position::{Counts, Position};
use crate::tally::Tally;
use std::io::{self, Write};

/// A range that a segment is to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First sector.
    pub start: u64,
    /// How many.
    pub sectors: u64,
    /// It is known to be zeroes, and not read.
    pub zero: bool,
}

/// Something whose sectors can be read.
pub trait Source {
    /// Reads whole sectors, from the given one on, until the buffer is full.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()>;
}

/// A device or a file.
impl Source for std::fs::File {
    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let at = start
            .checked_mul(SECTOR)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.read_exact_at(into, at)
    }
}

/// Counts what pieces set, which is to be in the segment's beginning: [`Begin::with_counts`].
///
/// # Errors
///
/// A piece cannot be had.
pub fn count<I>(pieces: I, chunk: u32) -> io::Result<Counts>
where
    I: IntoIterator<Item = io::Result<Piece>>,
{
    let mut tally = Tally::new(chunk);
    for piece in pieces {
        let piece = piece?;
        tally.range(piece.start, piece.sectors, false);
    }
    Ok(*tally.counts())
}

/// Writes a segment: pieces in ascending order, and what the source holds there. With a position
/// it is gone on from there, and what is before that is left out; the pieces are the same ones.
/// `watch` is told how much has been set each time something was.
///
/// The source must not change meanwhile, nor between one time and the next: what the other end has
/// then would be a mixture. Whoever sends a version that can be written to says with
/// [`crate::Version::content`] which of its contents it is.
///
/// # Errors
///
/// Pieces or their data could not be had, or the stream not be written: [`Fault::Io`]. The pieces are
/// not those that were counted: [`Fault::Misused`].
pub fn send<W, I>(
    encoder: &mut Encoder<W>,
    begin: &Begin,
    resumed: Option<&Position>,
    pieces: I,
    source: &mut dyn Source,
    watch: &mut dyn FnMut(&Counts),
) -> Result<Counts>
where
    W: Write,
    I: IntoIterator<Item = io::Result<Piece>>,
{
    match resumed {
        None => encoder.begin(begin)?,
        Some(position) => encoder.resume(begin, position)?,
    }
    let from = resumed.map_or(0, |position| position.sector);
    let most = PAYLOAD as u64 / SECTOR;
    let mut buffer = vec![0; PAYLOAD];
    for piece in pieces {
        let piece = piece.map_err(|error| encoder.failed(error))?;
        let end = piece.start.saturating_add(piece.sectors);
        let mut start = piece.start.max(from);
        if piece.zero && start < end {
            encoder.zero(start, end - start)?;
            watch(&encoder.counts());
            continue;
        }
        while start < end {
            // Up to where frames end.
            let sectors = (most - start % most).min(end - start);
            let bytes = buffer.get_mut(..(sectors * SECTOR) as usize);
            let bytes = bytes.unwrap_or_default();
            let read = source.read(start, bytes);
            read.map_err(|error| encoder.failed(error))?;
            encoder.data(start, bytes)?;
            watch(&encoder.counts());
            start += sectors;
        }
    }
    encoder.end()
}

impl<W: Write> Encoder<W> {
    /// Nothing more can be written, for want of what is to be.
    fn failed(&self, error: io::Error) -> Error {
        self.at(Fault::Io(error))
    }
}
