// SPDX-License-Identifier: GPL-2.0
//! How far a segment is, and where it can be gone on with.

use crate::bytes::{array_at, put, u64_at};
use crate::digest::Digest;
use std::fmt;
use std::str::FromStr;

/// How much has been set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ranges: longest sequences of sectors without a gap.
    pub ranges: u64,
    /// Chunks in which a sector was set.
    pub chunks: u64,
    /// Sectors.
    pub sectors: u64,
    /// Of these, sectors of frames with data.
    pub data: u64,
}

impl Counts {
    /// Bytes of it.
    pub const SIZE: usize = 32;

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (at, number) in [self.ranges, self.chunks, self.sectors, self.data]
            .into_iter()
            .enumerate()
        {
            put(&mut bytes, at * 8, &number.to_le_bytes());
        }
        bytes
    }

    /// Reads it at an offset; any bytes are one.
    pub fn decode(bytes: &[u8], at: usize) -> Self {
        let number = |nr: usize| u64_at(bytes, at + nr * 8);
        Self {
            ranges: number(0),
            chunks: number(1),
            sectors: number(2),
            data: number(3),
        }
    }
}

/// A mark in a segment: what a receiver notes, and a sender goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// What segment it is of: the digest of its beginning.
    pub segment: Digest,
    /// Number of the mark, counted from 1 in its segment; 0: the beginning.
    pub mark: u64,
    /// Number of the frame behind the mark.
    pub frame: u64,
    /// All that is set below this sector has been, and nothing behind.
    pub sector: u64,
    /// How much that was.
    pub counts: Counts,
    /// Digest of all frames of the segment up to the mark.
    pub digest: Digest,
}

impl Position {
    /// Bytes of it.
    pub const SIZE: usize = 120;

    /// Before the first mark of the segment whose beginning has this digest. No stream begins there
    /// with a position: it begins with the segment.
    pub fn beginning(segment: Digest) -> Self {
        Self {
            segment,
            digest: segment,
            ..Self::default()
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.segment);
        put(&mut bytes, 32, &self.mark.to_le_bytes());
        put(&mut bytes, 40, &self.frame.to_le_bytes());
        put(&mut bytes, 48, &self.sector.to_le_bytes());
        put(&mut bytes, 56, &self.counts.encode());
        put(&mut bytes, 88, &self.digest);
        bytes
    }

    /// Reads it; any bytes are one.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            segment: array_at(bytes, 0),
            mark: u64_at(bytes, 32),
            frame: u64_at(bytes, 40),
            sector: u64_at(bytes, 48),
            counts: Counts::decode(bytes, 56),
            digest: array_at(bytes, 88),
        }
    }
}

/// What a position begins with as a text.
const PREFIX: &str = "dms1-";

/// As a word that can be handed to a sender: a prefix, the bytes in hexadecimal digits, and their
/// CRC-32C.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.encode();
        f.write_str(PREFIX)?;
        for byte in bytes {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "{:08x}", crc32c::crc32c(&bytes))
    }
}

/// It is not a position, or not a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let digits = text.strip_prefix(PREFIX).ok_or(NoPosition)?;
        let bytes: Option<Vec<u8>> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                // A sign would be read, too.
                let pair = pair.iter().all(u8::is_ascii_hexdigit).then_some(pair)?;
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
            })
            .collect();
        let bytes = bytes.filter(|bytes| bytes.len() == Self::SIZE + 4);
        let bytes = bytes.ok_or(NoPosition)?;
        let (body, sum) = bytes.split_first_chunk().ok_or(NoPosition)?;
        match sum == crc32c::crc32c(body).to_be_bytes() {
            true => Ok(Self::decode(body)),
            false => Err(NoPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_word() {
        let position = Position {
            segment: [1; 32],
            mark: 2,
            frame: 3,
            sector: 4,
            counts: Counts {
                ranges: 5,
                chunks: 6,
                sectors: 7,
                data: 8,
            },
            digest: [9; 32],
        };
        let text = position.to_string();
        assert_eq!(text.parse(), Ok(position));
        assert_eq!(text.len(), 5 + 2 * 124);
        for at in 0..text.len() {
            let mut other = text.clone();
            let digit = if &text[at..=at] == "0" { "1" } else { "0" };
            other.replace_range(at..=at, digit);
            assert_eq!(other.parse::<Position>(), Err(NoPosition), "{at}");
            assert_eq!(text[..at].parse::<Position>(), Err(NoPosition));
        }
        assert_eq!((text + "00").parse::<Position>(), Err(NoPosition));
    }
}
