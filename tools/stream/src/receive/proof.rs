// SPDX-License-Identifier: GPL-2.0
//! Proving that a target still holds what was received into it.

use super::target::Target;
use crate::bytes::{array_at, put, u64_at};
use crate::digest::Digest;
use crate::frame::{PAYLOAD, SECTOR};
use blake3::Hasher;
use std::io;

/// Sectors of a sample.
const SAMPLE: u64 = 8;

/// Samples at places that follow from the seed.
const SAMPLES: u32 = 64;

/// Places where what uses a device writes: the beginning, and where btrfs has its superblock.
const OFTEN: [u64; 2] = [0, 16];

/// Samples of a whole content: who writes to a device that was received writes to some of these
/// places, or most likely so if it is all another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Where they are taken from follows from this.
    pub seed: Digest,
    /// BLAKE3 of them, in the order of how they are drawn.
    pub digest: Digest,
}

impl Samples {
    /// Takes samples of a target of which `size` sectors count.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn take(target: &mut dyn Target, size: u64, seed: Digest) -> io::Result<Self> {
        Self::of(size, seed, &mut |start, into| target.read(start, into))
    }

    /// Takes samples of `size` sectors of anything: `read` reads whole sectors from the given one on, until the
    /// buffer is full.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn of(
        size: u64,
        seed: Digest,
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let blocks = size.div_ceil(SAMPLE).max(1);
        let drawn = (0..SAMPLES).map(|nr| {
            let mut hasher = Hasher::new();
            hasher.update(&seed);
            hasher.update(&nr.to_le_bytes());
            let bytes: Digest = hasher.finalize().into();
            u64_at(&bytes, 0) % blocks
        });
        let often = OFTEN.into_iter().filter(|block| *block < blocks);
        let mut hasher = Hasher::new();
        for block in often.chain([blocks - 1]).chain(drawn) {
            let start = block * SAMPLE;
            let mut buffer = [0; (SAMPLE * SECTOR) as usize];
            let len = size.saturating_sub(start).min(SAMPLE) * SECTOR;
            let bytes = buffer.get_mut(..len as usize).unwrap_or_default();
            read(start, bytes)?;
            hasher.update(bytes);
        }
        Ok(Self {
            seed,
            digest: hasher.finalize().into(),
        })
    }

    pub(super) fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        put(&mut bytes, 0, &self.seed);
        put(&mut bytes, 32, &self.digest);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; 64]) -> Self {
        Self {
            seed: array_at(bytes, 0),
            digest: array_at(bytes, 32),
        }
    }

    /// Whether the same samples are the same now.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn still(&self, target: &mut dyn Target, size: u64) -> io::Result<bool> {
        Ok(Self::take(target, size, self.seed)?.digest == self.digest)
    }
}

/// BLAKE3 of all of the first `size` sectors.
///
/// # Errors
///
/// It cannot be read.
pub fn all(target: &mut dyn Target, size: u64) -> io::Result<Digest> {
    let most = PAYLOAD as u64 / SECTOR;
    let mut buffer = vec![0; PAYLOAD];
    let mut hasher = Hasher::new();
    let mut start = 0;
    while start < size {
        let sectors = (size - start).min(most);
        let bytes = buffer.get_mut(..(sectors * SECTOR) as usize);
        let bytes = bytes.unwrap_or_default();
        target.read(start, bytes)?;
        hasher.update(bytes);
        start += sectors;
    }
    Ok(hasher.finalize().into())
}

/// A sector that was written before a mark, and the first half of its BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// The sector.
    pub sector: u64,
    /// Of its content.
    pub digest: [u8; 16],
}

impl Witness {
    /// Bytes of it.
    pub const SIZE: usize = 24;

    /// Of a sector with this content.
    pub fn of(sector: u64, content: &[u8]) -> Self {
        let digest = blake3::hash(content);
        Self {
            sector,
            digest: array_at(digest.as_bytes(), 0),
        }
    }

    /// Whether the sector is still the same.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn still(&self, target: &mut dyn Target) -> io::Result<bool> {
        let mut bytes = [0; SECTOR as usize];
        target.read(self.sector, &mut bytes)?;
        Ok(Self::of(self.sector, &bytes) == *self)
    }
}

/// The last few of these.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    kept: Vec<Witness>,
    next: usize,
}

impl Witnesses {
    /// How many.
    pub const MOST: usize = 8;

    /// Goes on from those that were noted.
    pub fn new(noted: &[Witness]) -> Self {
        Self {
            kept: noted.iter().copied().take(Self::MOST).collect(),
            next: 0,
        }
    }

    /// Adds what has been written.
    pub fn wrote(&mut self, start: u64, bytes: &[u8]) {
        let Some(sector) = bytes.get(..SECTOR as usize) else {
            return;
        };
        let witness = Witness::of(start, sector);
        match self.kept.get_mut(self.next) {
            Some(place) => *place = witness,
            None => self.kept.push(witness),
        }
        self.next = (self.next + 1) % Self::MOST;
    }

    /// All of them.
    pub fn all(&self) -> &[Witness] {
        &self.kept
    }
}
