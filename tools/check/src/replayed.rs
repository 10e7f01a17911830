// SPDX-License-Identifier: GPL-2.0
//! Whether what is in the journal can be done again: when a store is opened, each block of a tree in
//! which something changes is written anew elsewhere, before any comes free.

use crate::context::Context;
use crate::fold::{entries, Outline};
use crate::journal::{Changes, Level, Levels};
use crate::report::Kind;
use dm_snap_mv_store::space::{Root, ENTRIES};
use dm_snap_mv_store::Blocks;
use std::collections::BTreeSet;
use std::io;

/// Entries that a leaf with numbers has at least, when many come in any order.
const LEAST_IN_LEAF: u64 = 126;

/// Says so if there is no room for it.
pub(crate) fn check(cx: &mut Context<'_>, changes: &Changes) {
    let space = Root::decode(&cx.superblock.metadata_space);
    let free = space.blocks.saturating_sub(space.allocated);
    let Ok(needed) = needed(cx, changes) else {
        // Somebody else has been told what cannot be read.
        return;
    };
    if needed > free {
        let what = format!(
            "journal: its changes take some {needed} metadata blocks, and {free} are free: \
             the store cannot be opened"
        );
        cx.found(Kind::JournalSpace, None, what);
    }
}

/// Blocks that it takes, at most.
fn needed(cx: &Context<'_>, changes: &Changes) -> io::Result<u64> {
    let device = cx.blocks();
    let roots = &cx.superblock.roots;
    let mut blocks = trees(device, roots.records, &changes.records)?
        + trees(device, roots.children, &changes.children)?
        + trees(device, roots.done, &changes.marks)?;
    for level in [&changes.origins, &changes.snapshots, &changes.cleaning] {
        blocks += rows(level);
    }
    let mut bitmaps = BTreeSet::new();
    for (start, len) in changes.used_runs() {
        bitmaps.extend(start / ENTRIES..=(start + len.max(1) - 1) / ENTRIES);
    }
    if !bitmaps.is_empty() {
        // And the index, of which each block leads to more than 60.
        blocks += bitmaps.len() as u64 + 2 + bitmaps.len() as u64 / 60;
    }
    let metadata = cx.superblock.layout.metadata_blocks;
    Ok(blocks + metadata.div_ceil(ENTRIES) + 1)
}

/// Rows are put in place of others, mostly, and there are few.
fn rows(level: &Level) -> u64 {
    match level.len() as u64 {
        0 => 0,
        many => many + 1,
    }
}

fn trees(device: &dyn Blocks, root: u64, changes: &Levels) -> io::Result<u64> {
    if changes.is_empty() {
        return Ok(0);
    }
    let roots: std::collections::BTreeMap<_, _> = entries(device, root, 8)?.into_iter().collect();
    let mut blocks = 1;
    for (key, level) in changes {
        let new = level.values();
        let new = new.filter(|change| change.before.is_none() && change.value.is_some());
        blocks += (new.count() as u64).div_ceil(LEAST_IN_LEAF);
        let old = roots
            .get(key)
            .and_then(|old| old.as_slice().try_into().ok());
        blocks += match old {
            Some(old) => touched(&Outline::of(device, u64::from_le_bytes(old))?, level),
            None => 1,
        };
    }
    Ok(blocks)
}

/// Nodes of a tree in which something changes.
fn touched(outline: &Outline, level: &Level) -> u64 {
    let mut leaves = outline.leaves.iter().map(|&(key, _)| key).peekable();
    let mut all = 0;
    let mut last = None;
    let mut here = None;
    for &key in level.keys() {
        while let Some(first) = leaves.next_if(|&first| here.is_none() || first <= key) {
            here = Some(first);
        }
        if here != last {
            all += 1;
            last = here;
        }
    }
    all + all.min(outline.above.len() as u64)
}
