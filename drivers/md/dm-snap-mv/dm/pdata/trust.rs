// SPDX-License-Identifier: GPL-2.0

//! Which metadata blocks are known to be what they are used as.
//!
//! The library believes every node whose checksum is right. So that metadata made with intent do
//! no harm, it gets to see only blocks that were checked before ([`super::verify`]) or that it made
//! itself since the metadata were opened. What makes that work:
//!
//! * The library allocates only blocks that its space map has as free. Those that it had as used
//!   once when it was opened are in `free_to_claim` until something is found to lead to them, which
//!   takes them out: a block to which two ways lead is found out at the second one, and one that
//!   the space map says is free, and that may so be overwritten, at the first.
//! * What leads to a block is itself checked first, so all that is claimed forms trees.
//! * A block that is none of these was made by the library since.
//! * No block that was there at the beginning changes while it is in use, and none is shared.

use super::{
    cache::{Bytes, Cache},
    corrupt,
};
use kernel::{new_mutex, prelude::*, sync::Mutex};

const INDEX_XOR: u32 = 160_478;
const BITMAP_XOR: u32 = 240_779;
/// Where both say which block they are.
const NUMBER: usize = 8;
/// Where the entries of both begin.
const ENTRIES: usize = 16;
/// Blocks of a bitmap.
const GROUP: u64 = 16320;
/// Blocks of a word of a bitmap.
const WORD: u64 = 32;
/// The high bits of a word's counts, which come first.
const HIGH: u64 = 0x5555_5555_5555_5555;

/// The root of a space map.
pub(super) struct SpaceRoot {
    /// Blocks or chunks that it is about.
    pub(super) blocks: u64,
    allocated: u64,
    pub(super) index: u64,
    pub(super) counts: u64,
}

impl SpaceRoot {
    /// Reads it, and checks it as far as it can be without its trees.
    pub(super) fn read(root: &[u8], metadata_blocks: u64) -> Result<Self> {
        let field = |at: usize| -> Result<u64> {
            let bytes = root.get(at..).and_then(|bytes| bytes.first_chunk());
            Ok(u64::from_le_bytes(*bytes.ok_or_else(corrupt)?))
        };
        let this = Self {
            blocks: field(0)?,
            allocated: field(8)?,
            index: field(16)?,
            counts: field(24)?,
        };
        let is_block = |block| block != 0 && block < metadata_blocks;
        if this.allocated <= this.blocks && is_block(this.index) && is_block(this.counts) {
            Ok(this)
        } else {
            Err(corrupt())
        }
    }
}

/// A bit for each block.
struct Bits(KVVec<u64>);

impl Bits {
    fn new(blocks: u64) -> Result<Self> {
        let words = usize::try_from(blocks.div_ceil(64)).map_err(|_| ENOMEM)?;
        Ok(Self(KVVec::from_elem(0, words, GFP_KERNEL)?))
    }

    fn word(&mut self, block: u64) -> Option<(&mut u64, u64)> {
        let word = self.0.get_mut(usize::try_from(block / 64).ok()?)?;
        Some((word, 1 << (block % 64)))
    }

    fn get(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|i| self.0.get(i));
        word.is_some_and(|word| word & (1 << (block % 64)) != 0)
    }

    fn set(&mut self, block: u64) {
        if let Some((word, bit)) = self.word(block) {
            *word |= bit;
        }
    }

    /// Returns whether it was set.
    fn clear(&mut self, block: u64) -> bool {
        self.word(block).is_some_and(|(word, bit)| {
            let was = *word & bit != 0;
            *word &= !bit;
            was
        })
    }
}

/// What is known.
pub(super) struct Known {
    free_to_claim: Bits,
    unchecked: Bits,
    /// How many are unchecked.
    left: u64,
}

/// See the module's text.
pub(super) struct Trust {
    pub(super) cache: Cache,
    known: Pin<KBox<Mutex<Known>>>,
}

impl Trust {
    /// Reads the metadata's space map, of which `root` is the root, and claims what it and the
    /// superblock are made of, but for the tree of counts. As the library allocates what these
    /// say is free, nothing behind the end of the metadata may be.
    ///
    /// Reads one block for each 64 MiB of metadata that are in use.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOMEM`, `EIO`.
    pub(super) fn new(cache: Cache, root: &SpaceRoot) -> Result<Self> {
        let metadata = cache.blocks();
        let mut known = Known {
            free_to_claim: Bits::new(metadata)?,
            unchecked: Bits::new(metadata)?,
            left: 0,
        };
        let groups = root.blocks.div_ceil(GROUP);
        let entry = |group: u64| {
            let at = ENTRIES + group as usize * 16;
            cache.look(root.index, |index| {
                index.check(root.index, NUMBER, INDEX_XOR)?;
                Ok((index.le64(at)?, index.le32(at + 8)?))
            })
        };
        for group in 0..groups {
            let (bitmap, free) = entry(group)?;
            let range = group * GROUP..((group + 1) * GROUP).min(root.blocks);
            let whole = range.end - range.start == GROUP;
            if range.start >= metadata && whole {
                // The library does not look into the bitmap when it looks for a free block.
                if free != 0 {
                    return Err(corrupt());
                }
            } else if range.end > metadata || !whole || u64::from(free) != GROUP {
                cache.look(bitmap, |bytes| {
                    bytes.check(bitmap, NUMBER, BITMAP_XOR)?;
                    known.read_bitmap(bytes, range.start, range.end, metadata)
                })?;
            }
        }
        known.take(0)?;
        known.take(root.index)?;
        for group in 0..groups {
            known.take(entry(group)?.0)?;
        }
        Ok(Self {
            cache,
            known: KBox::pin_init(new_mutex!(known), GFP_KERNEL)?,
        })
    }

    /// What is known, for whoever finds out more; `None` when all is.
    pub(super) fn doubts(&self) -> Option<kernel::sync::MutexGuard<'_, Known>> {
        let known = self.known.as_ref().get_ref().lock();
        (known.left > 0).then_some(known)
    }
}

impl Known {
    fn read_bitmap(&mut self, bytes: Bytes<'_>, start: u64, end: u64, metadata: u64) -> Result {
        for word in 0..(end - start).div_ceil(WORD) {
            let bits = bytes.le64(ENTRIES + word as usize * 8)?;
            let (high, low) = (bits & HIGH, bits >> 1 & HIGH);
            let first = start + word * WORD;
            for i in 0..WORD.min(end - first) {
                let count = (high >> (2 * i) & 1) << 1 | (low >> (2 * i) & 1);
                let block = first + i;
                if block >= metadata {
                    if count == 0 {
                        return Err(corrupt());
                    }
                } else if count == 1 {
                    self.free_to_claim.set(block);
                    self.unchecked.set(block);
                    self.left += 1;
                }
            }
        }
        Ok(())
    }

    /// Notes that something leads to a block. To be called before anything uses it.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when that cannot be.
    pub(super) fn claim(&mut self, block: u64) -> Result {
        if self.free_to_claim.clear(block) {
            Ok(())
        } else {
            Err(corrupt())
        }
    }

    /// Claims a block in which nothing needs to be checked.
    ///
    /// # Errors
    ///
    /// As [`Known::claim`].
    pub(super) fn take(&mut self, block: u64) -> Result {
        self.claim(block)?;
        self.vouch(block);
        Ok(())
    }

    /// Whether a block, to which something leads, has not been checked yet.
    pub(super) fn doubts(&self, block: u64) -> bool {
        self.unchecked.get(block)
    }

    /// Notes that it has been checked.
    pub(super) fn vouch(&mut self, block: u64) {
        if self.unchecked.clear(block) {
            self.left -= 1;
        }
    }
}
