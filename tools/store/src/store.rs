// SPDX-License-Identifier: GPL-2.0
//! A store: what stands in its superblock, and the rows that its trees hold.

use crate::block::{Block, Blocks};
use crate::btree::Btree;
use crate::checksum;
use crate::error::{Error, Result};
use crate::journal;
use dm_snap_mv_model::disk::journal::Entry;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_model::refusal::Refusal;
use std::collections::BTreeMap;
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

/// A store as it was after one transaction, and what the journal adds to that.
pub struct Store<'a> {
    blocks: &'a dyn Blocks,
    superblock: Superblock,
    /// Rows that the trees do not show yet, the latest of each.
    new_origins: BTreeMap<u64, OriginRow>,
    /// `None`: it has gone.
    new_snapshots: BTreeMap<u64, Option<SnapshotRow>>,
}

impl<'a> Store<'a> {
    /// Reads the superblock and the journal. It is refused, with the words the kernel has for that, where
    /// there is no store, a damaged one, or one of a later version.
    pub fn open(blocks: &'a dyn Blocks) -> Result<Self> {
        let block = read(blocks, 0)?;
        let superblock = Superblock::decode(&block.0, superblock_checksum)?;
        let mut store = Self {
            blocks,
            superblock,
            new_origins: BTreeMap::new(),
            new_snapshots: BTreeMap::new(),
        };
        let (origins, snapshots) = (&mut store.new_origins, &mut store.new_snapshots);
        journal::read(blocks, &store.superblock, &mut |entry| match *entry {
            Entry::Origin(row) => {
                origins.insert(row.number.get().into(), row);
            }
            Entry::Snapshot(origin, row) => {
                let key = TimelineId::of_snapshot(origin, row.tag).get();
                snapshots.insert(key, Some(row));
            }
            Entry::NoSnapshot(timeline) => {
                snapshots.insert(timeline.get(), None);
            }
            _ => {}
        })?;
        Ok(store)
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
        let most = self.superblock.layout.metadata_blocks;
        Btree::new(self.blocks, root, value_size, most)
    }

    fn origins_tree(&self) -> Btree<'a> {
        self.tree(self.superblock.roots.origins, OriginRow::SIZE)
    }

    fn snapshots_tree(&self) -> Btree<'a> {
        self.tree(self.superblock.roots.snapshots, SnapshotRow::SIZE)
    }

    /// All origins, by number.
    pub fn origins(&self) -> Result<Vec<OriginRow>> {
        let mut rows = BTreeMap::new();
        self.rows(&self.origins_tree(), 0, |key, value| {
            rows.insert(key, origin_row(key, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        rows.extend(self.new_origins.iter().map(|(&key, row)| (key, *row)));
        Ok(rows.into_values().collect())
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
        if let Some(row) = self.new_snapshots.get(&key) {
            return Ok(*row);
        }
        let Some(value) = self.snapshots_tree().lookup(key)? else {
            return Ok(None);
        };
        Ok(Some(snapshot_row(key, &value)?))
    }

    /// All snapshots of an origin, by tag.
    pub fn snapshots(&self, origin: OriginNr) -> Result<Vec<SnapshotRow>> {
        let first = TimelineId::of_origin(origin).get();
        let is_of = |key| TimelineId::new(key).is_some_and(|t| t.origin() == origin);
        let mut rows = BTreeMap::new();
        self.rows(&self.snapshots_tree(), first, |key, value| {
            if !is_of(key) {
                return Ok(ControlFlow::Break(()));
            }
            rows.insert(key, snapshot_row(key, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        let new = self.new_snapshots.iter().filter(|(&key, _)| is_of(key));
        for (key, row) in new {
            match row {
                Some(row) => rows.insert(*key, *row),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_values().collect())
    }

    /// Gives the rows of a tree to `each`, from a key on, until it has enough of them.
    fn rows(
        &self,
        tree: &Btree<'_>,
        from: u64,
        mut each: impl FnMut(u64, &[u8]) -> std::result::Result<ControlFlow<()>, Refusal>,
    ) -> Result<()> {
        let mut wrong = None;
        tree.walk(from, &mut |key, value| {
            each(key, value).unwrap_or_else(|refusal| {
                wrong = Some(refusal);
                ControlFlow::Break(())
            })
        })?;
        wrong.map_or(Ok(()), |refusal| Err(refusal.into()))
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
