// SPDX-License-Identifier: GPL-2.0
//! A store: what stands in its superblock, and the rows that its trees hold.

use crate::block::{Block, Blocks};
use crate::btree::Btree;
use crate::checksum;
use crate::entries::Tree;
use crate::error::{Error, Result};
use crate::journal;
use crate::live::Live;
use crate::overlay::{Overlay, Rows};
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_model::refusal::Refusal;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

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
    overlay: Overlay,
}

/// A part of a tree of rows.
pub struct Page<T> {
    /// Keys and what they are of, in their order.
    pub rows: Vec<(u64, T)>,
    /// From which key on there may be more.
    pub next: Option<u64>,
}

impl<'a> Store<'a> {
    /// Reads the superblock and the journal. It is refused, with the words the kernel has for that, where
    /// there is no store, a damaged one, or one of a later version.
    pub fn open(blocks: &'a dyn Blocks) -> Result<Self> {
        let superblock = Self::read_superblock(blocks)?;
        Self::with_journal(blocks, superblock)
    }

    /// Opens a store that the kernel may be changing, and reads from it, a little: all of it again, if
    /// there was a transaction in the meantime. For more there is [`Live`].
    pub fn read<T>(blocks: &'a dyn Blocks, get: impl Fn(&Self) -> Result<T>) -> Result<T> {
        Live::new(blocks, None).batch(|store, _| get(store))
    }

    /// Reads the superblock. One that is just being written may be read in part as it was: only what is
    /// found twice is what stands there.
    pub(crate) fn read_superblock(blocks: &dyn Blocks) -> Result<Superblock> {
        let mut block = read(blocks, 0)?;
        loop {
            let wrong = match Superblock::decode(&block.0, superblock_checksum) {
                Ok(superblock) => return Ok(superblock),
                Err(wrong) => wrong,
            };
            let again = read(blocks, 0)?;
            if wrong != Refusal::BadChecksum || again.0 == block.0 {
                return Err(wrong.into());
            }
            block = again;
        }
    }

    /// With this superblock, and what the journal adds.
    pub(crate) fn with_journal(blocks: &'a dyn Blocks, superblock: Superblock) -> Result<Self> {
        let mut overlay = Overlay::default();
        journal::read(blocks, &superblock, &mut |entry| overlay.note(entry))?;
        Ok(Self {
            blocks,
            superblock,
            overlay,
        })
    }

    /// With this superblock, as the trees say.
    pub(crate) fn without_journal(blocks: &'a dyn Blocks, superblock: Superblock) -> Self {
        Self {
            blocks,
            superblock,
            overlay: Overlay::default(),
        }
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    fn tree(&self, root: u64, value_size: usize) -> Btree<'a> {
        let most = self.superblock.layout.metadata_blocks;
        Btree::new(self.blocks, root, value_size, most)
    }

    /// All origins, by number.
    pub fn origins(&self) -> Result<Vec<OriginRow>> {
        let page = self.origins_from(0, usize::MAX)?;
        Ok(page.rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Origins from a number on, at most `most` (at least 1).
    pub fn origins_from(&self, from: u64, most: usize) -> Result<Page<OriginRow>> {
        let tree = self.tree(self.superblock.roots.origins, OriginRow::SIZE);
        let range = (from, u64::MAX);
        page(&tree, &self.overlay.origins, range, most, &origin_row)
    }

    /// The origin with this number.
    pub fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>> {
        let tree = self.tree(self.superblock.roots.origins, OriginRow::SIZE);
        one(&tree, &self.overlay.origins, nr.get().into(), &origin_row)
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
        let tree = self.tree(self.superblock.roots.snapshots, SnapshotRow::SIZE);
        one(&tree, &self.overlay.snapshots, key, &snapshot_row)
    }

    /// All snapshots of an origin, by tag.
    pub fn snapshots(&self, origin: OriginNr) -> Result<Vec<SnapshotRow>> {
        let first = TimelineId::of_origin(origin);
        let last = first.get() | u64::from(u32::MAX);
        let page = self.snapshots_from(first.get(), last, usize::MAX)?;
        Ok(page.rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Snapshots by timeline, from one on up to another (inclusive), at most `most` (at least 1).
    pub fn snapshots_from(&self, from: u64, to: u64, most: usize) -> Result<Page<SnapshotRow>> {
        let tree = self.tree(self.superblock.roots.snapshots, SnapshotRow::SIZE);
        let rows = &self.overlay.snapshots;
        page(&tree, rows, (from, to), most, &snapshot_row)
    }

    /// Cleanings by timeline, as [`Store::snapshots_from`].
    pub fn cleanings_from(&self, from: u64, to: u64, most: usize) -> Result<Page<CleaningRow>> {
        let tree = self.tree(self.superblock.roots.cleaning, CleaningRow::SIZE);
        let rows = &self.overlay.cleaning;
        page(&tree, rows, (from, to), most, &cleaning_row)
    }

    /// The label of a snapshot or bookmark. The journal has none: they are only in the trees.
    pub fn label(&self, origin: OriginNr, tag: Tag) -> Result<Option<LabelRow>> {
        let key = TimelineId::of_snapshot(origin, tag).get();
        match self.superblock.roots.labels {
            0 => Ok(None),
            root => one(
                &self.tree(root, LabelRow::SIZE),
                &Rows::new(),
                key,
                &label_row,
            ),
        }
    }

    /// The tree of trees of records: roots by timeline.
    pub fn all_records(&self) -> Tree<'_> {
        let root = self.superblock.roots.records;
        Tree::new(self.blocks, &self.superblock, Some(root), None)
    }

    /// The records of a timeline.
    pub fn records(&self, t: TimelineId) -> Result<Tree<'_>> {
        let overlay = self.overlay.records.get(&t.get());
        let root = self.root(self.superblock.roots.records, t.get())?;
        Ok(Tree::new(self.blocks, &self.superblock, root, overlay))
    }

    /// The chunks of an origin that a rollback is done with.
    pub fn done(&self, origin: OriginNr) -> Result<Tree<'_>> {
        let nr = u64::from(origin.get());
        let overlay = self.overlay.done.get(&nr);
        let root = self.root(self.superblock.roots.done, nr)?;
        Ok(Tree::new(self.blocks, &self.superblock, root, overlay))
    }

    /// Timelines that the journal has records of, from one on.
    pub fn journaled_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        self.overlay.records.range(from..).map(|(&t, _)| t)
    }

    /// The root of a tree in a tree.
    fn root(&self, root: u64, key: u64) -> Result<Option<u64>> {
        let value = self.tree(root, 8).lookup(key)?;
        let number = value.and_then(|value| value.try_into().ok());
        Ok(number.map(u64::from_le_bytes))
    }
}

/// How a row is read: of its key, and its bytes.
type Decode<'d, T> = &'d dyn Fn(u64, &[u8]) -> std::result::Result<T, Refusal>;

/// Rows of a tree and the journal, with keys in a range (inclusive), at most `most`.
fn page<T>(
    tree: &Btree<'_>,
    overlay: &Rows,
    (from, to): (u64, u64),
    most: usize,
    decode: Decode<'_, T>,
) -> Result<Page<T>> {
    let mut wrong = None;
    let mut rows = BTreeMap::new();
    let mut next = None;
    tree.walk(from, &mut |key, value| {
        if key > to {
            return ControlFlow::Break(());
        }
        if rows.len() == most.max(1) {
            next = Some(key);
            return ControlFlow::Break(());
        }
        match decode(key, value) {
            Ok(row) => rows.insert(key, row),
            Err(refusal) => {
                wrong = Some(refusal);
                return ControlFlow::Break(());
            }
        };
        ControlFlow::Continue(())
    })?;
    if let Some(refusal) = wrong {
        return Err(refusal.into());
    }
    let upto = next.map_or(to, |next| next - 1);
    for (&key, row) in overlay.range(from.min(upto)..=upto) {
        match row {
            _ if key < from => continue,
            Some(row) => rows.insert(key, decode(key, row)?),
            None => rows.remove(&key),
        };
    }
    let rows = rows.into_iter().collect();
    Ok(Page { rows, next })
}

/// One row.
fn one<T>(tree: &Btree<'_>, overlay: &Rows, key: u64, decode: Decode<'_, T>) -> Result<Option<T>> {
    let value = match overlay.get(&key) {
        Some(value) => value.clone(),
        None => tree.lookup(key)?,
    };
    Ok(value.map(|value| decode(key, &value)).transpose()?)
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

fn label_row(_: u64, value: &[u8]) -> std::result::Result<LabelRow, Refusal> {
    LabelRow::decode(value.try_into().map_err(|_| Refusal::Corrupt)?)
}

fn cleaning_row(_: u64, value: &[u8]) -> std::result::Result<CleaningRow, Refusal> {
    CleaningRow::decode(value.try_into().map_err(|_| Refusal::Corrupt)?)
}
