// SPDX-License-Identifier: GPL-2.0
//! The headers of frames.

use crate::bytes::{put, u32_at, u64_at};

/// Bytes of a header.
pub const HEADER: usize = 32;

/// Most bytes of a payload, and most bytes that one stands for.
pub const PAYLOAD: usize = 1 << 20;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// No device has more sectors: the offset of each of its bytes is a number that files can have.
pub const MOST_SECTORS: u64 = (1 << 54) - 1;

/// The version of the format.
pub const VERSION: u32 = 1;

/// What frames that begin a stream have at offset 8.
pub const MAGIC: u64 = u64::from_le_bytes(*b"dmstream");

/// Types of frames.
pub mod kind {
    /// Begins a segment.
    pub const BEGIN: u8 = 1;
    /// Begins a segment in its midst.
    pub const RESUME: u8 = 2;
    /// Sets sectors to its payload.
    pub const DATA: u8 = 3;
    /// Sets sectors to zeroes.
    pub const ZERO: u8 = 4;
    /// A place at which a receiver can go on.
    pub const MARK: u8 = 5;
    /// Ends a segment.
    pub const END: u8 = 6;
    /// Ends the stream.
    pub const LAST: u8 = 7;
}

/// Flag: the payload is compressed.
pub const COMPRESSED: u8 = 1;
/// Flag: a reader that does not know the type takes no notice of the frame.
pub const OPTIONAL: u8 = 2;

/// What stands in a header, but for its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// For the type: the first sector of a range.
    pub a: u64,
    /// For the type: the sectors of a range.
    pub b: u64,
    /// Bytes of the payload, as it stands in the stream.
    pub len: u32,
    /// CRC-32C of these.
    pub sum: u32,
}

/// The checksum of a header: of the frame's number, and of the header without the checksum. So one
/// that is in another's place is seen.
fn sum(number: u64, header: &[u8; HEADER]) -> u32 {
    let (_, covered) = header.split_at(4);
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), covered)
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The checksum is not that of a header with this number.
    Sum,
    /// What is to be 0 is not, or the payload is longer than one can be.
    Form(&'static str),
}

impl Header {
    /// The bytes of the header of the frame with this number.
    pub fn encode(&self, number: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 4, &[self.kind, self.flags]);
        put(&mut bytes, 8, &self.a.to_le_bytes());
        put(&mut bytes, 16, &self.b.to_le_bytes());
        put(&mut bytes, 24, &self.len.to_le_bytes());
        put(&mut bytes, 28, &self.sum.to_le_bytes());
        let sum = sum(number, &bytes);
        put(&mut bytes, 0, &sum.to_le_bytes());
        bytes
    }

    /// Takes the header of the frame with this number apart.
    pub fn decode(number: u64, bytes: &[u8; HEADER]) -> Result<Self, Wrong> {
        if u32_at(bytes, 0) != sum(number, bytes) {
            return Err(Wrong::Sum);
        }
        let [_, _, _, _, kind, flags, reserved @ ..] = *bytes;
        if reserved.first_chunk() != Some(&[0, 0]) {
            return Err(Wrong::Form("reserved bytes of its header are not 0"));
        }
        let header = Self {
            kind,
            flags,
            a: u64_at(bytes, 8),
            b: u64_at(bytes, 16),
            len: u32_at(bytes, 24),
            sum: u32_at(bytes, 28),
        };
        if header.len as usize > PAYLOAD {
            return Err(Wrong::Form("its payload is longer than one can be"));
        }
        Ok(header)
    }

    /// Whether the bytes are such a header's, of whichever version, with any checksum: it may
    /// be a damaged one then, and otherwise is something else.
    pub fn begins_stream(bytes: &[u8; HEADER]) -> bool {
        u64_at(bytes, 8) == MAGIC
    }

    /// What of the header the digest is made of: all that does not depend on how the payload was
    /// compressed. `len` is the length of what the payload stands for.
    pub fn digested(&self, len: usize) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 4, &[self.kind, self.flags & !COMPRESSED]);
        put(&mut bytes, 8, &self.a.to_le_bytes());
        put(&mut bytes, 16, &self.b.to_le_bytes());
        put(&mut bytes, 24, &(len as u64).to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_known_by_its_number() {
        let header = Header {
            kind: kind::DATA,
            flags: COMPRESSED,
            a: 1 << 40,
            b: 7,
            len: PAYLOAD as u32,
            sum: 0x1234_5678,
        };
        let bytes = header.encode(5);
        assert_eq!(Header::decode(5, &bytes), Ok(header));
        for other in [0, 4, 6, 5 + (1 << 32)] {
            assert_eq!(Header::decode(other, &bytes), Err(Wrong::Sum));
        }
        for bit in 0..HEADER * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(5, &changed), Err(Wrong::Sum), "bit {bit}");
        }
    }

    #[test]
    fn what_no_header_has() {
        let header = Header {
            len: PAYLOAD as u32 + 1,
            ..Header::default()
        };
        let decoded = Header::decode(0, &header.encode(0));
        assert!(matches!(decoded, Err(Wrong::Form(_))));
        let mut bytes = Header::default().encode(0);
        bytes[7] = 1;
        let right = sum(0, &bytes).to_le_bytes();
        bytes[..4].copy_from_slice(&right);
        assert!(matches!(Header::decode(0, &bytes), Err(Wrong::Form(_))));
    }
}
