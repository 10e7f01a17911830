// SPDX-License-Identifier: GPL-2.0

//! Block 0 of a COW device.

use super::super::chunk_size::ChunkSize;
use super::super::refusal::Refusal;
use super::bytes::{Reader, Writer};
use super::layout::{Layout, BLOCK_SECTORS};

/// Bytes of a metadata block.
pub const BLOCK_SIZE: usize = 4096;

/// Where the covered part of a superblock begins: behind its checksum.
pub const CHECKED_FROM: usize = 4;

/// What the checksum is mixed with, so that no other block of persistent-data passes for a
/// superblock. The checksum is `dm_bm_checksum(bytes 4..4096, this)`: CRC-32C that starts with all
/// ones and is not inverted at the end.
pub const CHECKSUM_XOR: u32 = 0x6d76_2153;

/// Bytes of a space map's root.
pub const SPACE_MAP_ROOT_SIZE: usize = 128;

const MAGIC: [u8; 8] = *b"dmsnapmv";
const VERSION: u32 = 1;

/// Feature: the store has a journal, without which the trees are not up to date.
const INCOMPAT_JOURNAL: u32 = 1;

/// Feature: records can be of many chunks that are zeroes, which others would take for damage.
pub const INCOMPAT_ZEROES: u32 = 2;

/// Feature: rows of origins say what disk they are on, in bytes that others want to be 0.
pub const INCOMPAT_IDENTITIES: u32 = 4;

/// Feature: there can be bookmarks, and records without content that they need, and labels.
pub const INCOMPAT_VERSIONS: u32 = 8;

/// Feature: behind the journal there is a backup of the superblock.
pub const COMPAT_BACKUP: u32 = 1;

/// Features that this version knows.
const COMPAT_KNOWN: u32 = COMPAT_BACKUP;
const INCOMPAT_KNOWN: u32 =
    INCOMPAT_JOURNAL | INCOMPAT_ZEROES | INCOMPAT_IDENTITIES | INCOMPAT_VERSIONS;
const RO_COMPAT_KNOWN: u32 = 0;

const CLEAN: u32 = 1;
const NEEDS_CHECK: u32 = 2;
const COW_FULL: u32 = 4;

/// Computes the checksum of a superblock's bytes from [`CHECKED_FROM`] on, mixed with
/// [`CHECKSUM_XOR`].
pub type Checksum = fn(&[u8]) -> u32;

/// Bytes that features have which an ignorant version may ignore.
pub const STRANGE_SIZE: usize = 256 - 192;

/// What a COW device's block 0 holds, as far as formatting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing but zeroes.
    Blank,
    /// A store, whole or damaged.
    Store,
    /// Something else.
    Other,
}

/// The roots of all trees, as block numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Timeline, record key → record value.
    pub records: u64,
    /// Origin number → row.
    pub origins: u64,
    /// Id's key → origin number.
    pub origin_ids: u64,
    /// Timeline → snapshot row.
    pub snapshots: u64,
    /// Timeline, child key → tag.
    pub children: u64,
    /// Origin number, chunk → 0.
    pub done: u64,
    /// Timeline → cleaning row.
    pub cleaning: u64,
    /// Timeline → label row; 0: there have never been labels.
    pub labels: u64,
}

/// The superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store was closed in order.
    pub clean: bool,
    /// Something contradicted itself; changes are refused until a check.
    pub needs_check: bool,
    /// The data region was full, and what that led to is not undone.
    pub cow_full: bool,
    /// What the store is known by, for ever.
    pub uuid: [u8; 16],
    /// Features that an ignorant version may ignore.
    pub compat: u32,
    /// Features that an ignorant version may only read.
    pub ro_compat: u32,
    /// Features that an ignorant version must leave alone.
    pub incompat: u32,
    /// The regions.
    pub layout: Layout,
    /// Counts transactions.
    pub transaction: u64,
    /// The number of the next origin.
    pub next_origin: u32,
    /// Origins bound.
    pub nr_origins: u32,
    /// The trees.
    pub roots: Roots,
    /// Root of the metadata region's space map.
    pub metadata_space: [u8; SPACE_MAP_ROOT_SIZE],
    /// Root of the data region's space map.
    pub data_space: [u8; SPACE_MAP_ROOT_SIZE],
    /// Fields of features that this version may ignore: kept as they are.
    pub strange: [u8; STRANGE_SIZE],
}

impl Superblock {
    /// What a device with this block 0 holds.
    pub fn probe(block: &[u8; BLOCK_SIZE]) -> Contents {
        if block.iter().all(|&b| b == 0) {
            Contents::Blank
        } else if block.get(32..40) == Some(&MAGIC) {
            Contents::Store
        } else {
            Contents::Other
        }
    }

    /// Writes the block with a checksum of 0, for [`Superblock::seal`] or for the block manager's
    /// own validator to fill in.
    pub fn encode(&self, block: &mut [u8; BLOCK_SIZE]) {
        self.encode_at(block, 0);
    }

    /// As [`Superblock::encode`], to be written to block `number`: as a backup, if that is not 0.
    pub fn encode_at(&self, block: &mut [u8; BLOCK_SIZE], number: u64) {
        let flags = [
            (self.clean, CLEAN),
            (self.needs_check, NEEDS_CHECK),
            (self.cow_full, COW_FULL),
        ];
        let flags = flags
            .iter()
            .fold(0, |all, &(set, bit)| if set { all | bit } else { all });
        let mut w = Writer::new(block);
        w.u32(0);
        w.u32(flags);
        w.u64(number);
        w.bytes(&self.uuid);
        w.bytes(&MAGIC);
        w.u32(VERSION);
        w.u32(self.compat);
        w.u32(self.ro_compat);
        w.u32(self.incompat);
        w.u32(BLOCK_SECTORS as u32);
        w.u32(self.layout.chunk_size.pages());
        w.u64(0);
        w.u64(self.layout.metadata_blocks);
        w.u64(self.layout.journal_start);
        w.u64(self.layout.journal_blocks);
        w.u64(self.layout.data_start);
        w.u64(self.layout.data_chunks);
        w.u64(self.transaction);
        w.u32(self.next_origin);
        w.u32(self.nr_origins);
        w.u64(self.roots.records);
        w.u64(self.roots.origins);
        w.u64(self.roots.origin_ids);
        w.u64(self.roots.snapshots);
        w.u64(self.roots.children);
        w.u64(self.roots.done);
        w.u64(self.roots.cleaning);
        w.u64(self.roots.labels);
        w.bytes(&self.strange);
        w.bytes(&self.metadata_space);
        w.bytes(&self.data_space);
        w.end();
    }

    /// Puts the checksum into an encoded block.
    pub fn seal(block: &mut [u8; BLOCK_SIZE], checksum: Checksum) {
        let (stored, covered) = block.split_at_mut(CHECKED_FROM);
        stored.copy_from_slice(&checksum(covered).to_le_bytes());
    }

    /// Marks an encoded block as needing a check, and leaves all else in it as it is.
    pub fn mark_needs_check(block: &mut [u8; BLOCK_SIZE], checksum: Checksum) {
        // The flags stand behind the checksum.
        if let Some(flags) = block.get_mut(CHECKED_FROM) {
            *flags |= NEEDS_CHECK as u8;
        }
        Self::seal(block, checksum);
    }

    /// Reads a block, and says what is wrong with it: nothing there ([`Refusal::NoStore`]),
    /// something else ([`Refusal::ForeignData`]), damaged ([`Refusal::BadChecksum`],
    /// [`Refusal::BadSuperblock`]), or from the future ([`Refusal::UnknownVersion`],
    /// [`Refusal::UnknownFeature`]). Whether it may be written is for
    /// [`Superblock::check_writable`].
    pub fn decode(block: &[u8; BLOCK_SIZE], checksum: Checksum) -> Result<Superblock, Refusal> {
        Self::decode_at(block, 0, checksum)
    }

    /// As [`Superblock::decode`], of what was read from block `number`: a backup, if that is not 0.
    pub fn decode_at(
        block: &[u8; BLOCK_SIZE],
        number: u64,
        checksum: Checksum,
    ) -> Result<Superblock, Refusal> {
        match Self::probe(block) {
            Contents::Blank => return Err(Refusal::NoStore),
            Contents::Other => return Err(Refusal::ForeignData),
            Contents::Store => (),
        }
        let (stored, covered) = block.split_at(CHECKED_FROM);
        if stored != checksum(covered).to_le_bytes() {
            return Err(Refusal::BadChecksum);
        }
        // The version and the features first: the rest may mean something else in another one.
        Self::read(block, number).map_err(|refusal| match refusal {
            Refusal::Corrupt | Refusal::ChunkSize => Refusal::BadSuperblock,
            other => other,
        })
    }

    fn read(block: &[u8; BLOCK_SIZE], place: u64) -> Result<Superblock, Refusal> {
        let mut r = Reader::new(block);
        r.u32()?;
        let flags = r.u32()?;
        let number = r.u64()?;
        let uuid = r.array()?;
        r.array::<8>()?;
        if r.u32()? != VERSION {
            return Err(Refusal::UnknownVersion);
        }
        let compat = r.u32()?;
        let ro_compat = r.u32()?;
        let incompat = r.u32()?;
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Refusal::UnknownFeature);
        }
        let block_sectors = r.u32()?;
        let chunk_size = ChunkSize::from_pages(r.u32()?)?;
        r.zeroes(8)?;
        let layout = Layout {
            chunk_size,
            metadata_blocks: r.u64()?,
            journal_start: r.u64()?,
            journal_blocks: r.u64()?,
            data_start: r.u64()?,
            data_chunks: r.u64()?,
        };
        let transaction = r.u64()?;
        let next_origin = r.u32()?;
        let nr_origins = r.u32()?;
        let roots = Roots {
            records: r.u64()?,
            origins: r.u64()?,
            origin_ids: r.u64()?,
            snapshots: r.u64()?,
            children: r.u64()?,
            done: r.u64()?,
            cleaning: r.u64()?,
            labels: r.u64()?,
        };
        // Reserved fields of a feature that this version may ignore or only read can be in use.
        let strangers = compat & !COMPAT_KNOWN != 0 || ro_compat & !RO_COMPAT_KNOWN != 0;
        let strange: [u8; STRANGE_SIZE] = r.array()?;
        let metadata_space = r.array()?;
        let data_space = r.array()?;
        if !strangers {
            Reader::new(&strange).end()?;
        }
        r.end()?;
        layout.check()?;
        let backup = compat & COMPAT_BACKUP != 0;
        let known = CLEAN | NEEDS_CHECK | COW_FULL;
        let odd = incompat & INCOMPAT_JOURNAL != Self::incompat_of(&layout)
            || flags & !known != 0
            || number != place
            || (backup && !layout.has_room_behind_journal())
            || (roots.labels != 0 && incompat & INCOMPAT_VERSIONS == 0)
            || u64::from(block_sectors) != BLOCK_SECTORS;
        if odd || next_origin == 0 || nr_origins >= next_origin {
            return Err(Refusal::BadSuperblock);
        }
        Ok(Superblock {
            clean: flags & CLEAN != 0,
            needs_check: flags & NEEDS_CHECK != 0,
            cow_full: flags & COW_FULL != 0,
            uuid,
            compat,
            ro_compat,
            incompat,
            layout,
            transaction,
            next_origin,
            nr_origins,
            roots,
            metadata_space,
            data_space,
            strange,
        })
    }

    /// The block that a backup of the superblock stands in, if there is one. It is written when the
    /// superblock has been, so that it is of the same transaction or, after a crash, of the one before,
    /// or not whole.
    pub const fn backup(&self) -> Option<u64> {
        if self.compat & COMPAT_BACKUP != 0 {
            Some(self.layout.journal_end())
        } else {
            None
        }
    }

    /// The features that everybody may ignore of a new store with this layout.
    pub fn compat_of(layout: &Layout) -> u32 {
        if layout.journal_blocks > 0 && layout.has_room_behind_journal() {
            COMPAT_BACKUP
        } else {
            0
        }
    }

    /// The features that nobody may ignore of a new store with this layout.
    pub const fn incompat_of(layout: &Layout) -> u32 {
        if layout.journal_blocks > 0 {
            INCOMPAT_JOURNAL
        } else {
            0
        }
    }

    /// Whether rows of origins say what disk they are on.
    pub const fn has_identities(&self) -> bool {
        self.incompat & INCOMPAT_IDENTITIES != 0
    }

    /// Has them do so from now on. A version that does not know of it does not open the store any more.
    pub fn take_identities(&mut self) {
        self.incompat |= INCOMPAT_IDENTITIES;
    }

    /// Whether there can be bookmarks and labels.
    pub const fn has_versions(&self) -> bool {
        self.incompat & INCOMPAT_VERSIONS != 0
    }

    /// There can be such from now on. A version that does not know of it does not open the store any more.
    pub fn use_versions(&mut self) {
        self.incompat |= INCOMPAT_VERSIONS;
    }

    /// Refuses a store that this version may only read.
    pub fn check_writable(&self) -> Result<(), Refusal> {
        if self.ro_compat & !RO_COMPAT_KNOWN != 0 {
            Err(Refusal::ReadOnlyFeature)
        } else if self.needs_check {
            Err(Refusal::NeedsCheck)
        } else {
            Ok(())
        }
    }
}
