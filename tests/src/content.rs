// SPDX-License-Identifier: GPL-2.0

//! What the tests write: every sector tells where it belongs and when it was written.
//!
//! A sector's content follows from its number and a *generation*, a number that no two
//! writes share. So a copy of a device need not be kept byte by byte to be compared byte by
//! byte: one u32 a sector is a full copy, and a thousand snapshots' copies fit into memory.
//! A difference tells what was found instead: an older write, another device's, a neighbour.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

const WORDS: usize = SECTOR / 8;

/// The generation of a sector that is all zeroes.
pub const ZERO: u32 = 0;

/// Of a sector whose content is not known: it is not compared.
pub const UNKNOWN: u32 = u32::MAX;

/// A generation that was never used.
pub fn next_generation() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn seed(sector: u64, generation: u32) -> u64 {
    let mut x = sector ^ (u64::from(generation) << 40) ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn word(seed: u64, i: usize) -> u64 {
    seed.wrapping_add((i as u64).wrapping_mul(0xa076_1d64_78bd_642f))
}

fn fill_sector(bytes: &mut [u8], sector: u64, generation: u32) {
    if generation == ZERO {
        bytes.fill(0);
        return;
    }
    let seed = seed(sector, generation);
    for (i, out) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match i {
            0 => sector,
            1 => u64::from(generation),
            _ => word(seed, i),
        };
        out.copy_from_slice(&value.to_le_bytes());
    }
}

/// Fills whole sectors, the first of which is `sector`.
pub fn fill(bytes: &mut [u8], sector: u64, generation: u32) {
    for (i, bytes) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        fill_sector(bytes, sector + i as u64, generation);
    }
}

/// The generation of what is in a sector, `None` if it is nothing that was written there.
pub fn generation_of(bytes: &[u8], sector: u64) -> Option<u32> {
    let value = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8"));
    let (place, generation) = (value(0), value(1));
    if place == 0 && generation == 0 {
        return bytes.iter().all(|&b| b == 0).then_some(ZERO);
    }
    let generation = u32::try_from(generation).ok()?;
    let seed = seed(sector, generation);
    (place == sector && (2..WORDS).all(|i| value(i) == word(seed, i))).then_some(generation)
}

/// A sector that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Which sector.
    pub sector: u64,
    /// What was to be there.
    pub expected: u32,
    /// What is there.
    pub found: String,
    /// How many sectors of the compared range differ.
    pub count: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sector {} (4 KiB block {}) should be of write {}, but {}; {} sectors differ",
            self.sector,
            self.sector / 8,
            self.expected,
            self.found,
            self.count
        )
    }
}

impl std::error::Error for Difference {}

fn describe(bytes: &[u8], sector: u64) -> String {
    match generation_of(bytes, sector) {
        Some(ZERO) => "is all zeroes".into(),
        Some(generation) => format!("is of write {generation}"),
        None => {
            let value = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("8"));
            let (place, generation) = (value(0), value(8) as u32);
            if generation_of(bytes, place) == Some(generation) {
                format!("is sector {place} of write {generation}")
            } else {
                format!("is no write's (begins {:02x?})", &bytes[..16])
            }
        }
    }
}

/// Compares whole sectors, the first of which is `sector`, with the generations they are to
/// have.
pub fn compare(bytes: &[u8], sector: u64, expected: &[u32]) -> Result<(), Difference> {
    assert_eq!(bytes.len(), expected.len() * SECTOR);
    let mut first = None;
    let mut count = 0;
    let mut want = [0u8; SECTOR];
    for (i, (bytes, &generation)) in bytes.chunks_exact(SECTOR).zip(expected).enumerate() {
        if generation == UNKNOWN {
            continue;
        }
        let sector = sector + i as u64;
        fill_sector(&mut want, sector, generation);
        if bytes != want {
            count += 1;
            first.get_or_insert_with(|| (sector, generation, describe(bytes, sector)));
        }
    }
    match first {
        None => Ok(()),
        Some((sector, expected, found)) => Err(Difference {
            sector,
            expected,
            found,
            count,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_found() {
        let mut bytes = vec![0; 3 * SECTOR];
        fill(&mut bytes, 7, 9);
        assert_eq!(compare(&bytes, 7, &[9, 9, 9]), Ok(()));
        assert_eq!(generation_of(&bytes[SECTOR..2 * SECTOR], 8), Some(9));
        assert_eq!(generation_of(&bytes[SECTOR..2 * SECTOR], 9), None);
        bytes[2 * SECTOR - 1] ^= 1;
        let difference = compare(&bytes, 7, &[9, 9, UNKNOWN]).unwrap_err();
        assert_eq!((difference.sector, difference.count), (8, 1));
    }

    #[test]
    fn zeroes_are_a_generation() {
        let bytes = vec![0; 2 * SECTOR];
        assert_eq!(compare(&bytes, 0, &[ZERO, ZERO]), Ok(()));
        assert_eq!(generation_of(&bytes[..SECTOR], 5), Some(ZERO));
    }

    #[test]
    fn a_neighbour_is_named() {
        let mut bytes = vec![0; SECTOR];
        fill(&mut bytes, 3, 4);
        let difference = compare(&bytes, 2, &[4]).unwrap_err();
        assert_eq!(difference.found, "is sector 3 of write 4");
    }
}
