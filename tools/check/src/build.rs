// SPDX-License-Identifier: GPL-2.0
//! Makes new trees and space maps, out of blocks that nothing uses.

use dm_snap_mv_store::node;
use dm_snap_mv_store::space::{Bitmap, IndexEntry, MetadataIndex, Root, ENTRIES};
use dm_snap_mv_store::Block;
use std::io;

/// Where new blocks go.
pub trait Place {
    /// A metadata block that nothing uses, and that is used from now on. An error of the kind
    /// [`io::ErrorKind::StorageFull`] if there is none.
    fn take(&mut self) -> io::Result<u64>;

    /// Whether a metadata block is used: what was taken, and what was before.
    fn is_used(&self, nr: u64) -> bool;

    /// Writes a block that was taken.
    fn write(&mut self, nr: u64, block: &Block) -> io::Result<()>;
}

/// A key and its value.
pub type Entry = (u64, Vec<u8>);

/// Makes a tree with values of `value_size` bytes; keys ascend. Returns its root.
pub fn tree(place: &mut dyn Place, value_size: usize, entries: &[Entry]) -> io::Result<u64> {
    let level = nodes(place, true, value_size, entries)?;
    above(place, level)
}

/// Makes what leads to the nodes of one level, each given by a key that none below it is less than
/// and its block; keys ascend. Returns the root: that node, if there is one only.
pub(crate) fn above(place: &mut dyn Place, mut level: Vec<(u64, u64)>) -> io::Result<u64> {
    while let [_, _, ..] = level.as_slice() {
        let parents: Vec<Entry> = level
            .iter()
            .map(|&(key, nr)| (key, nr.to_le_bytes().to_vec()))
            .collect();
        level = nodes(place, false, 8, &parents)?;
    }
    level
        .first()
        .map(|&(_, root)| root)
        .ok_or_else(|| io::Error::other("a tree without a root"))
}

/// One level of a tree: the first key of each node, and its block. All nodes are about as full,
/// so that none but a root is less than half full.
pub(crate) fn nodes(
    place: &mut dyn Place,
    leaves: bool,
    value_size: usize,
    entries: &[Entry],
) -> io::Result<Vec<(u64, u64)>> {
    let count = entries.len().div_ceil(node::room(value_size)).max(1);
    let mut made = Vec::with_capacity(count);
    let mut rest = entries;
    for left in (1..=count).rev() {
        let (these, others) = rest.split_at(rest.len().div_ceil(left).min(rest.len()));
        rest = others;
        let nr = place.take()?;
        place.write(nr, &node::make(leaves, value_size, these, nr))?;
        made.push((these.first().map_or(0, |(key, _)| *key), nr));
    }
    Ok(made)
}

/// One bitmap, and what the index knows of it.
fn bitmap(
    place: &mut dyn Place,
    block: u64,
    nr: u64,
    all: u64,
    used: &dyn Fn(&dyn Place, u64) -> bool,
) -> io::Result<(IndexEntry, u64)> {
    let start = nr * ENTRIES;
    let count = all.saturating_sub(start).min(ENTRIES);
    let mut bitmap = Bitmap::new();
    let mut in_use = 0;
    let mut first_free = None;
    for i in 0..count {
        if used(place, start + i) {
            bitmap.set(i, 1);
            in_use += 1;
        } else {
            first_free.get_or_insert(i);
        }
    }
    place.write(block, &bitmap.into_block(block))?;
    let entry = IndexEntry {
        block,
        free: u32::try_from(ENTRIES - in_use).unwrap_or(0),
        none_free_before: u32::try_from(first_free.unwrap_or(count)).unwrap_or(0),
    };
    Ok((entry, in_use))
}

/// Makes a data space map for `chunks` chunks.
pub fn data_map(
    place: &mut dyn Place,
    chunks: u64,
    used: &dyn Fn(u64) -> bool,
) -> io::Result<Root> {
    let mut root = Root {
        blocks: chunks,
        ..Root::default()
    };
    let mut index = Vec::new();
    for nr in 0..root.bitmaps() {
        let block = place.take()?;
        let (entry, in_use) = bitmap(place, block, nr, chunks, &|_, chunk| used(chunk))?;
        root.allocated += in_use;
        index.push((nr, entry.encode().to_vec()));
    }
    root.index = tree(place, IndexEntry::SIZE, &index)?;
    root.counts = tree(place, 4, &[])?;
    Ok(root)
}

/// Makes the metadata space map for `blocks` blocks: of what `place` says is used, itself
/// included. Nothing can be taken after that.
pub fn metadata_map(place: &mut dyn Place, blocks: u64) -> io::Result<Root> {
    let mut root = Root {
        blocks,
        ..Root::default()
    };
    root.counts = tree(place, 4, &[])?;
    root.index = place.take()?;
    let mut bitmaps = Vec::new();
    for _ in 0..root.bitmaps() {
        bitmaps.push(place.take()?);
    }
    let mut index = Vec::new();
    for (nr, &block) in (0..).zip(&bitmaps) {
        let used = |place: &dyn Place, block| place.is_used(block);
        let (entry, in_use) = bitmap(place, block, nr, blocks, &used)?;
        root.allocated += in_use;
        index.push(entry);
    }
    place.write(root.index, &MetadataIndex::make(&index, root.index))?;
    Ok(root)
}
