// SPDX-License-Identifier: GPL-2.0
//! A store: what stands in its superblock, and the rows that its trees hold.

use crate::block::{Block, Blocks};
use crate::btree::Btree;
use crate::checksum;
use crate::error::{Error, Result};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_model::refusal::Refusal;
use std::ops::ControlFlow;

/// How often reading is tried while the kernel changes the store.
const TRIES: usize = 8;

fn superblock_checksum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

fn read(blocks: &dyn Blocks, nr: u64) -> Result<Box<Block>> {
    blocks
        .read(nr)
        .map_err(|source| Error::Io { block: nr, source })
}

/// A store as it was after one transaction.
pub struct Store<'a> {
    blocks: &'a dyn Blocks,
    superblock: Superblock,
}

impl<'a> Store<'a> {
    /// Reads the superblock. It is refused, with the words the kernel has for that, where
    /// there is no store, a damaged one, or one of a later version.
    pub fn open(blocks: &'a dyn Blocks) -> Result<Self> {
        let block = read(blocks, 0)?;
        let superblock = Superblock::decode(&block.0, superblock_checksum)?;
        Ok(Self { blocks, superblock })
    }

    /// Opens a store that the kernel may be changing, and reads from it. A transaction leaves
    /// the blocks of the one before alone, but the next reuses them; so if there were others
    /// in the meantime, it is done again.
    pub fn read<T>(blocks: &'a dyn Blocks, get: impl Fn(&Self) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            let store = Self::open(blocks)?;
            let got = get(&store);
            if Self::open(blocks)?.superblock.transaction == store.superblock.transaction {
                return got;
            }
        }
        Err(Error::Changing)
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    fn tree(&self, root: u64, value_size: usize) -> Btree<'a> {
        Btree::new(self.blocks, root, value_size)
    }

    fn origins_tree(&self) -> Btree<'a> {
        self.tree(self.superblock.roots.origins, OriginRow::SIZE)
    }

    fn snapshots_tree(&self) -> Btree<'a> {
        self.tree(self.superblock.roots.snapshots, SnapshotRow::SIZE)
    }

    /// All origins, by number.
    pub fn origins(&self) -> Result<Vec<OriginRow>> {
        let mut rows = Vec::new();
        let mut wrong = None;
        self.origins_tree()
            .walk(0, &mut |key, value| match origin_row(key, value) {
                Ok(row) => {
                    rows.push(row);
                    ControlFlow::Continue(())
                }
                Err(refusal) => {
                    wrong = Some(refusal);
                    ControlFlow::Break(())
                }
            })?;
        wrong.map_or(Ok(rows), |refusal| Err(refusal.into()))
    }

    /// The origin that was bound as `id`.
    ///
    /// Looks at every origin: there are few, and so the tree of identities is not relied on.
    pub fn origin_by_id(&self, id: &[u8]) -> Result<Option<OriginRow>> {
        let mut all = self.origins()?.into_iter();
        Ok(all.find(|row| row.id.as_bytes() == id))
    }

    /// A snapshot, deleted ones that are kept for their children included.
    pub fn snapshot(&self, origin: OriginNr, tag: Tag) -> Result<Option<SnapshotRow>> {
        let key = TimelineId::of_snapshot(origin, tag).get();
        let Some(value) = self.snapshots_tree().lookup(key)? else {
            return Ok(None);
        };
        Ok(Some(snapshot_row(key, &value)?))
    }

    /// All snapshots of an origin, by tag.
    pub fn snapshots(&self, origin: OriginNr) -> Result<Vec<SnapshotRow>> {
        let first = TimelineId::of_origin(origin).get();
        let mut rows = Vec::new();
        let mut wrong = None;
        self.snapshots_tree().walk(first, &mut |key, value| {
            if TimelineId::new(key).is_none_or(|t| t.origin() != origin) {
                return ControlFlow::Break(());
            }
            match snapshot_row(key, value) {
                Ok(row) => {
                    rows.push(row);
                    ControlFlow::Continue(())
                }
                Err(refusal) => {
                    wrong = Some(refusal);
                    ControlFlow::Break(())
                }
            }
        })?;
        wrong.map_or(Ok(rows), |refusal| Err(refusal.into()))
    }
}

fn origin_row(key: u64, value: &[u8]) -> std::result::Result<OriginRow, Refusal> {
    let value = value.try_into().map_err(|_| Refusal::Corrupt)?;
    let row = OriginRow::decode(value)?;
    if u64::from(row.number.get()) == key {
        Ok(row)
    } else {
        Err(Refusal::Corrupt)
    }
}

fn snapshot_row(key: u64, value: &[u8]) -> std::result::Result<SnapshotRow, Refusal> {
    let value = value.try_into().map_err(|_| Refusal::Corrupt)?;
    let row = SnapshotRow::decode(value)?;
    if u64::from(row.tag.get()) == key & u64::from(u32::MAX) {
        Ok(row)
    } else {
        Err(Refusal::Corrupt)
    }
}
