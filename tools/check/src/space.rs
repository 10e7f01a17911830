// SPDX-License-Identifier: GPL-2.0
//! The space maps: what they say is used, and what was found to be.

use crate::context::Context;
use crate::reached::Part;
use crate::report::Kind;
use crate::used::Used;
use crate::walk::{walk, Tree};
use dm_snap_mv_model::disk::layout::{BLOCK_SECTORS, METADATA_MAX};
use dm_snap_mv_model::disk::superblock::{Superblock, SPACE_MAP_ROOT_SIZE};
use dm_snap_mv_store::node::Node;
use dm_snap_mv_store::space::{Bitmap, IndexEntry, MetadataIndex, Root, ENTRIES, MANY};
use std::collections::BTreeMap;

/// The metadata blocks that a store says it uses, for a word about progress.
pub(crate) fn metadata_in_use(superblock: &Superblock) -> u64 {
    let root = Root::decode(&superblock.metadata_space);
    let blocks = superblock.layout.metadata_blocks;
    // What lies behind the metadata is marked as used.
    let behind = root.blocks.saturating_sub(blocks);
    root.allocated.saturating_sub(behind).min(blocks)
}

/// Compares both space maps with what was reached. To be called when all else has been.
pub(crate) fn check(cx: &mut Context<'_>, sectors: u64, chunks: &Used) {
    let data = Root::decode(&cx.superblock.data_space);
    let metadata = Root::decode(&cx.superblock.metadata_space);
    let mut data_map = Map::new(Kind::DataSpace, Part::DataSpace, data);
    let mut metadata_map = Map::new(Kind::MetadataSpace, Part::MetadataSpace, metadata);
    padding(cx, &data_map, &cx.superblock.data_space.clone());
    padding(cx, &metadata_map, &cx.superblock.metadata_space.clone());

    let expected = cx.superblock.layout.data_chunks;
    if data.blocks != expected {
        let what = format!("it is for {} chunks, not {expected}", data.blocks);
        data_map.wrong(cx, &what);
    }
    let (least, most) = (
        cx.superblock.layout.metadata_blocks,
        sectors / BLOCK_SECTORS,
    );
    let size_fits = metadata.blocks >= least && metadata.blocks <= most.min(METADATA_MAX);
    if !size_fits {
        let what = format!("it is for {} blocks", metadata.blocks);
        metadata_map.wrong(cx, &what);
    }

    // All blocks of both maps must have been reached before the second is compared.
    data_map.index_tree(cx);
    data_map.counts(cx);
    if size_fits {
        metadata_map.index_block(cx);
        metadata_map.counts(cx);
    }

    // Blocks that only something damaged leads to are not known.
    let known = cx.all_reached && data_map.whole && metadata_map.whole;
    let leaked = cx.whole.then_some(Kind::LeakedChunk);
    data_map.compare(cx, leaked, "COW chunk", &|_, chunk| {
        u32::from(chunks.contains(chunk))
    });
    both_ways(cx, &data_map);
    let leaked = known.then_some(Kind::LeakedBlock);
    let end = cx.superblock.layout.metadata_blocks;
    metadata_map.compare(
        cx,
        leaked,
        "metadata block",
        &|cx, block| match block < end {
            true => cx.reached.count(block),
            false => 1,
        },
    );
}

fn padding(cx: &mut Context<'_>, map: &Map, root: &[u8; SPACE_MAP_ROOT_SIZE]) {
    if root.iter().skip(Root::SIZE).any(|&byte| byte != 0) {
        map.wrong(cx, "bytes behind its root are not 0");
    }
}

/// A record that is not what it was leads to a chunk that is free, and its own is used for nothing.
/// A bitmap that is not what it was looks the same.
fn both_ways(cx: &mut Context<'_>, map: &Map) {
    let (free, leaked) = (map.free, cx.report.count(Kind::LeakedChunk));
    if free > 0 && leaked > 0 {
        let what = format!(
            "{}: of the COW chunks in use {free} are marked as free, and others are used for \
             nothing: it, or records, are from another time",
            map.part.name()
        );
        cx.found(Kind::Missing, None, what);
    }
}

/// How often a block or chunk was found to be used.
type Expected<'e> = &'e dyn Fn(&Context<'_>, u64) -> u32;

struct Map {
    kind: Kind,
    part: Part,
    root: Root,
    /// By the bitmap's number. Those whose block cannot be are not in it.
    index: BTreeMap<u64, IndexEntry>,
    /// Counts that a bitmap has no room for.
    counts: BTreeMap<u64, u32>,
    /// All of its blocks are known.
    whole: bool,
    /// How many are in use and marked as free.
    free: u64,
}

impl Map {
    fn new(kind: Kind, part: Part, root: Root) -> Self {
        Self {
            kind,
            part,
            root,
            index: BTreeMap::new(),
            counts: BTreeMap::new(),
            whole: true,
            free: 0,
        }
    }

    fn wrong(&self, cx: &mut Context<'_>, what: &str) {
        cx.found(self.kind, None, format!("{}: {what}", self.part.name()));
    }

    fn tree(&self, root: u64, value_size: usize) -> Tree {
        Tree::new(self.part, root, value_size)
    }

    /// Takes an entry of the index in.
    fn enter(&mut self, cx: &mut Context<'_>, nr: u64, entry: IndexEntry) {
        if let Err(what) = cx.reach(entry.block, self.part) {
            self.whole = false;
            self.wrong(cx, &format!("bitmap {nr}: block {} {what}", entry.block));
            return;
        }
        self.index.insert(nr, entry);
    }

    fn index_tree(&mut self, cx: &mut Context<'_>) {
        let tree = self.tree(self.root.index, IndexEntry::SIZE);
        let mut next = 0;
        let mut entries = Vec::new();
        let whole = walk(cx, tree, &mut |_, key, value| {
            entries.push((key, IndexEntry::decode(value)));
        });
        self.whole &= whole;
        for (nr, entry) in entries {
            if nr >= self.root.bitmaps() {
                self.wrong(cx, &format!("it has a bitmap {nr} behind its end"));
            }
            next += 1;
            self.enter(cx, nr, entry);
        }
        if whole && next < self.root.bitmaps() {
            self.whole = false;
            let missing = self.root.bitmaps() - next;
            self.wrong(cx, &format!("{missing} of its bitmaps are missing"));
        }
    }

    fn index_block(&mut self, cx: &mut Context<'_>) {
        let nr = self.root.index;
        let index = cx
            .reach(nr, self.part)
            .map_err(str::to_owned)
            .and_then(|()| cx.read(nr).map_err(|e| format!("cannot be read: {e}")))
            .and_then(|block| {
                MetadataIndex::check(block, nr).map_err(|what| format!("is damaged: {what}"))
            });
        let index = match index {
            Ok(index) => index,
            Err(what) => {
                self.whole = false;
                return self.wrong(cx, &format!("its index, block {nr}, {what}"));
            }
        };
        for n in 0..self.root.bitmaps() {
            let entry = usize::try_from(n).ok().and_then(|n| index.entry(n));
            if let Some(entry) = entry {
                self.enter(cx, n, entry);
            }
        }
    }

    fn counts(&mut self, cx: &mut Context<'_>) {
        let tree = self.tree(self.root.counts, 4);
        let mut counts = BTreeMap::new();
        let whole = walk(cx, tree, &mut |_, key, value| {
            let count = value.try_into().map_or(0, u32::from_le_bytes);
            counts.insert(key, count);
        });
        self.whole &= whole;
        self.counts = counts;
    }

    /// Compares all bitmaps; `leaked` is what is found where something is used for nothing, if
    /// that can be said.
    fn compare(
        &mut self,
        cx: &mut Context<'_>,
        leaked: Option<Kind>,
        one: &str,
        expected: Expected<'_>,
    ) {
        let index = std::mem::take(&mut self.index);
        let mut complete = self.whole;
        let mut used = 0;
        let mut leak = Leak::default();
        for (&nr, entry) in &index {
            let bitmap = match cx.read(entry.block) {
                Err(e) => Err(format!("cannot be read: {e}")),
                Ok(block) => {
                    Bitmap::check(block, entry.block).map_err(|what| format!("is damaged: {what}"))
                }
            };
            match bitmap {
                Ok(bitmap) => {
                    let mut piece = Piece {
                        map: self,
                        nr,
                        leaked,
                        one,
                        leak: &mut leak,
                    };
                    used += piece.compare(cx, &bitmap, entry, expected);
                }
                Err(what) => {
                    complete = false;
                    self.wrong(cx, &format!("bitmap {nr}, block {}, {what}", entry.block));
                }
            }
        }
        leak.end(cx, self, leaked, one);
        if complete && used != self.root.allocated {
            let said = self.root.allocated;
            self.wrong(cx, &format!("it counts {said} in use, there are {used}"));
        }
        let left: Vec<u64> = self.counts.keys().copied().collect();
        for nr in left {
            self.wrong(cx, &format!("{one} {nr} is counted and need not be"));
        }
        self.whole = complete;
    }
}

/// Looks whether a metadata block that is used for nothing was a part of something.
fn left_behind(cx: &mut Context<'_>, nr: u64) {
    let node = cx
        .read(nr)
        .ok()
        .and_then(|block| Node::check(block, nr).ok());
    if node.is_some_and(|node| !node.is_empty()) {
        let what = format!(
            "metadata block {nr} holds a part of a tree, is marked as used, and nothing leads to \
             it: what it says may be missing"
        );
        cx.found(Kind::Missing, None, what);
    }
}

/// What is used for nothing, one behind the other.
#[derive(Default)]
struct Leak {
    first: u64,
    count: u64,
}

impl Leak {
    fn add(&mut self, cx: &mut Context<'_>, map: &Map, leaked: Option<Kind>, one: &str, nr: u64) {
        if self.count > 0 && self.first + self.count == nr {
            self.count += 1;
            return;
        }
        self.end(cx, map, leaked, one);
        (self.first, self.count) = (nr, 1);
    }

    fn end(&mut self, cx: &mut Context<'_>, map: &Map, leaked: Option<Kind>, one: &str) {
        let (first, count) = (self.first, std::mem::take(&mut self.count));
        let Some(kind) = leaked else { return };
        let what = match count {
            0 => return,
            1 => format!(
                "{}: {one} {first} is marked as used, and is not",
                map.part.name()
            ),
            _ => {
                let last = first + (count - 1);
                format!(
                    "{}: {one}s {first} to {last} are marked as used, and are not",
                    map.part.name()
                )
            }
        };
        cx.found(kind, None, what);
    }
}

/// One bitmap that is compared.
struct Piece<'p> {
    map: &'p mut Map,
    nr: u64,
    leaked: Option<Kind>,
    one: &'p str,
    leak: &'p mut Leak,
}

impl Piece<'_> {
    /// Returns how many are in use.
    fn compare(
        &mut self,
        cx: &mut Context<'_>,
        bitmap: &Bitmap,
        entry: &IndexEntry,
        expected: Expected<'_>,
    ) -> u64 {
        let start = self.nr.saturating_mul(ENTRIES);
        let count = self.map.root.blocks.saturating_sub(start).min(ENTRIES);
        let mut used = 0;
        let mut first_free = None;
        for i in 0..count {
            let said = bitmap.get(i);
            match said {
                0 => _ = first_free.get_or_insert(i),
                _ => used += 1,
            }
            self.entry(cx, start + i, said, expected);
        }
        if (count..ENTRIES).any(|i| bitmap.get(i) != 0) {
            let what = format!("bitmap {}: entries behind its end are not free", self.nr);
            self.map.wrong(cx, &what);
        }
        if u64::from(entry.free) != ENTRIES - used {
            let what = format!(
                "bitmap {}: {} of its entries are said to be free, {} are",
                self.nr,
                entry.free,
                ENTRIES - used
            );
            self.map.wrong(cx, &what);
        }
        let first_free = first_free.unwrap_or(count);
        if u64::from(entry.none_free_before) > first_free {
            let what = format!(
                "bitmap {}: no entry before {} is said to be free, entry {first_free} is",
                self.nr, entry.none_free_before
            );
            self.map.wrong(cx, &what);
        }
        used
    }

    fn entry(&mut self, cx: &mut Context<'_>, nr: u64, said: u32, expected: Expected<'_>) {
        let found = expected(cx, nr);
        let one = self.one;
        let said = match said {
            MANY => match self.map.counts.remove(&nr) {
                Some(count) if count >= MANY => count,
                _ => {
                    self.map.wrong(cx, &format!("{one} {nr} has no count"));
                    return;
                }
            },
            said => said,
        };
        if said == found {
            return;
        }
        if found == 0 {
            self.leak.add(cx, self.map, self.leaked, one, nr);
            if self.leaked == Some(Kind::LeakedBlock) {
                left_behind(cx, nr);
            }
        } else if said == 0 {
            self.map.free += 1;
            self.map
                .wrong(cx, &format!("{one} {nr} is in use and marked as free"));
        } else if self.leaked.is_some() || said < found {
            let what =
                format!("{one} {nr} is marked as used {said} times, it is used {found} times");
            self.map.wrong(cx, &what);
        }
    }
}
