// SPDX-License-Identifier: GPL-2.0

//! What disk an origin was on, so that another one is told from it.
//!
//! Names of disks change places. An origin's snapshots are what its disk held where nothing was preserved,
//! so with another disk below they would be wrong without a word.
//!
//! There are two kinds of knowledge. What the disk is called by its maker, or by who made the partition or
//! the volume, does not change with what is written, but many disks have nothing of that kind. What it
//! holds is known of every disk, for a few blocks, but only from an orderly end to the next beginning: while
//! the origin is in use it is not known.

use super::super::refusal::Refusal;
use super::bytes::{Reader, Writer};

/// Blocks of a disk that are looked at.
pub const SAMPLES: usize = 4;

/// Sectors of each.
pub const SAMPLE_SECTORS: u64 = 8;

/// Where these begin is a multiple of so many sectors: larger blocks than that no disk has.
const ALIGNED: u64 = 128;

/// What a blank block counts as.
pub const BLANK: u32 = 0;

/// The name of a disk, in so many bytes.
pub type Name = [u8; 12];

/// What is known of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// What it is called, see [`name_of`].
    pub name: Option<Name>,
    /// What its samples hold, see [`sample_of`].
    pub samples: Option<[u32; SAMPLES]>,
}

/// What one identity says of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Nothing speaks against it being the same disk, as it was.
    Same,
    /// It is the same disk, and was written by somebody else.
    Written,
    /// It is another disk, or one of which all that is known has changed.
    Another,
}

impl Identity {
    /// Bytes of one.
    pub const SIZE: usize = 32;

    /// Nothing is known.
    pub const UNKNOWN: Self = Identity {
        name: None,
        samples: None,
    };

    const NAME: u32 = 1;
    const HAS_SAMPLES: u32 = 2;

    /// Writes it.
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        let flag = |known: bool, flag| if known { flag } else { 0 };
        w.u32(
            flag(self.name.is_some(), Self::NAME) | flag(self.samples.is_some(), Self::HAS_SAMPLES),
        );
        w.bytes(&self.name.unwrap_or_default());
        for sample in self.samples.unwrap_or_default() {
            w.u32(sample);
        }
    }

    /// Reads one; [`Refusal::Corrupt`] when it is none.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Identity, Refusal> {
        let flags = r.u32()?;
        if flags & !(Self::NAME | Self::HAS_SAMPLES) != 0 {
            return Err(Refusal::Corrupt);
        }
        let name: Name = r.array()?;
        let samples = [r.u32()?, r.u32()?, r.u32()?, r.u32()?];
        let known = |flag, any: bool| match (flags & flag != 0, any) {
            (false, true) => Err(Refusal::Corrupt),
            (known, _) => Ok(known),
        };
        let has_name = known(Self::NAME, name != Name::default())?;
        let has_samples = known(Self::HAS_SAMPLES, samples != [0; SAMPLES])?;
        Ok(Identity {
            name: has_name.then_some(name),
            samples: has_samples.then_some(samples),
        })
    }

    /// What this one, which was noted, says of the disk that was found in its place.
    ///
    /// A disk with the same name is the same, whatever it holds. Where one of them has no name, one block
    /// that is the same, and not blank, tells as much: who mounts a disk by itself does not write all of it.
    pub fn of_found(&self, found: &Identity) -> Likeness {
        let named = match (&self.name, &found.name) {
            (Some(noted), Some(found)) if noted != found => return Likeness::Another,
            (Some(_), Some(_)) => true,
            _ => false,
        };
        let (Some(noted), Some(found)) = (&self.samples, &found.samples) else {
            return Likeness::Same;
        };
        let pairs = || noted.iter().zip(found);
        if pairs().all(|(noted, found)| noted == found) {
            Likeness::Same
        } else if named || pairs().any(|(noted, found)| noted == found && *noted != BLANK) {
            Likeness::Written
        } else {
            Likeness::Another
        }
    }
}

/// The first sectors of the samples of an origin of `size` sectors, which are those of the origin as it
/// was noted: its disk may have grown. `None`: it is too small to have any.
pub fn places(size: u64) -> Option<[u64; SAMPLES]> {
    let last = size.checked_sub(ALIGNED)?;
    let aligned = |sector: u64| sector - sector % ALIGNED;
    // Boot blocks, labels and superblocks; where partitions and volumes begin; and what is in between.
    Some([0, 2048.min(aligned(last)), aligned(last / 2), aligned(last)])
}

/// What a sample counts as, with the CRC-32C of its bytes; of the first one, of what is
/// [telling](super::telling::telling) in it.
pub fn sample_of(bytes: &[u8], crc: u32) -> u32 {
    match bytes.iter().all(|byte| *byte == 0) {
        true => BLANK,
        // No other block passes for a blank one.
        false => crc.max(1),
    }
}

/// A disk's name of any length, in 12 bytes: FNV-1a of 128 bits, the first of them. Nobody gains by two
/// disks of one name, so it need not withstand that.
pub fn name_of(text: &[u8]) -> Name {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text.iter().fold(BASIS, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = hash.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}
