// SPDX-License-Identifier: GPL-2.0

//! Damage to a store that nobody uses, of which no checksum tells.

use std::path::Path;

use anyhow::{anyhow, Context, Result};
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_store::node::Node;
use dm_snap_mv_store::space::{IndexEntry, Root};
use dm_snap_mv_store::{checksum, Block, Blocks, Device, WritableBlocks};

/// What the checksum of a node is mixed with.
pub const NODE: u32 = 121_107;
/// The same of a bitmap.
pub const BITMAP: u32 = 240_779;
/// The same of the metadata space map's index.
pub const INDEX: u32 = 160_478;

/// Where bitmaps begin behind their header.
const ENTRIES: usize = 16;

fn sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

/// A store to be damaged.
pub struct Patient {
    device: Device,
}

impl Patient {
    /// The store on a device that nobody has claimed.
    pub fn open(path: &Path) -> Result<Self> {
        let device = Device::open_for_repair(path);
        let device = device.with_context(|| format!("open {} to damage it", path.display()))?;
        Ok(Self { device })
    }

    /// What stands in its superblock.
    pub fn superblock(&self) -> Result<Superblock> {
        let block = self.device.read(0)?;
        Superblock::decode(&block.0, sum).map_err(|refusal| anyhow!("{refusal}"))
    }

    /// Changes the superblock, and its backup, which would contradict it.
    pub fn set_superblock(&self, edit: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut superblock = self.superblock()?;
        edit(&mut superblock);
        let mut block = Block::zeroed();
        superblock.encode(&mut block.0);
        Superblock::seal(&mut block.0, sum);
        self.device.write(0, &block)?;
        if let Some(number) = superblock.backup() {
            superblock.encode_at(&mut block.0, number);
            Superblock::seal(&mut block.0, sum);
            self.device.write(number, &block)?;
        }
        self.device.flush()?;
        Ok(())
    }

    /// Changes bytes of a block, and its checksum if that is known to be mixed with `xor`.
    pub fn edit(&self, nr: u64, xor: Option<u32>, edit: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut block = self.device.read(nr)?;
        edit(&mut block.0);
        if let Some(xor) = xor {
            let sum = checksum::of_block(&block, xor).to_le_bytes();
            block.0[..4].copy_from_slice(&sum);
        }
        self.device.write(nr, &block)?;
        self.device.flush()?;
        Ok(())
    }

    /// A node of a tree.
    pub fn node(&self, nr: u64) -> Result<Node> {
        Ok(Node::new(self.device.read(nr)?, nr)?)
    }

    /// Where the value of a node's entry stands in its block.
    pub fn value_at(&self, nr: u64, entry: usize) -> Result<usize> {
        let node = self.node(nr)?;
        Ok(32 + 8 * node.room() + node.value_size() * entry)
    }

    /// The first leaf of a tree.
    pub fn first_leaf(&self, root: u64) -> Result<u64> {
        let mut nr = root;
        loop {
            let node = self.node(nr)?;
            if node.is_leaf() {
                return Ok(nr);
            }
            nr = node.number(0).context("a child")?;
        }
    }

    /// The root of the tree of records of a timeline.
    pub fn records(&self, t: TimelineId) -> Result<u64> {
        let top = self.node(self.first_leaf(self.superblock()?.roots.records)?)?;
        let entry = (0..top.len()).find(|&i| top.key(i) == Some(t.get()));
        let root = entry.and_then(|i| top.number(i));
        root.with_context(|| format!("{t:?} has no records"))
    }

    /// The root of the data space map.
    pub fn data_root(&self) -> Result<Root> {
        Ok(Root::decode(&self.superblock()?.data_space))
    }

    /// The root of the metadata space map.
    pub fn metadata_root(&self) -> Result<Root> {
        Ok(Root::decode(&self.superblock()?.metadata_space))
    }

    /// The block of the data space map's first bitmap.
    pub fn data_bitmap(&self) -> Result<u64> {
        let leaf = self.node(self.first_leaf(self.data_root()?.index)?)?;
        let entry = leaf.value(0).context("a bitmap")?;
        Ok(IndexEntry::decode(entry).block)
    }

    /// The block of the metadata space map's first bitmap.
    pub fn metadata_bitmap(&self) -> Result<u64> {
        let index = self.device.read(self.metadata_root()?.index)?;
        Ok(IndexEntry::decode(&index.0[16..]).block)
    }

    /// Gives the first entries of a bitmap these counts, four to a byte.
    pub fn set_counts(&self, bitmap: u64, at: usize, bytes: &[u8]) -> Result<()> {
        let at = ENTRIES + at;
        self.edit(bitmap, Some(BITMAP), |block| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        })
    }
}
