// SPDX-License-Identifier: GPL-2.0
//! Makes the changes that the journal holds in the trees. Nodes that nothing of it is for are kept.

use crate::build::{self, Entry};
use crate::journal::{Change, Level, Levels};
use crate::room::Room;
use dm_snap_mv_model::disk::layout::METADATA_MAX;
use dm_snap_mv_store::btree::Btree;
use dm_snap_mv_store::node::Node;
use dm_snap_mv_store::Blocks;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};

/// No tree is deeper.
const MAX_DEPTH: usize = 16;

/// An error that there can be only when somebody else has written.
pub(crate) fn changed(what: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!(
        "the store has changed since it was checked: {what:?}"
    ))
}

/// All entries of a tree that was found to be whole.
pub(crate) fn entries(device: &dyn Blocks, root: u64, value_size: usize) -> io::Result<Vec<Entry>> {
    let mut all = Vec::new();
    Btree::new(device, root, value_size, METADATA_MAX)
        .walk(0, &mut |key, value| {
            all.push((key, value.to_vec()));
            ControlFlow::Continue(())
        })
        .map_err(io::Error::other)?;
    Ok(all)
}

/// Makes changes among entries.
fn make<'c>(
    all: &mut BTreeMap<u64, Vec<u8>>,
    changes: impl Iterator<Item = (&'c u64, &'c Change)>,
) {
    for (&key, change) in changes {
        match &change.value {
            Some(value) => all.insert(key, value.clone()),
            None => all.remove(&key),
        };
    }
}

/// All entries of a tree that was found to be whole, and of the journal.
pub(crate) fn rows(
    device: &dyn Blocks,
    root: u64,
    value_size: usize,
    changes: &Level,
) -> io::Result<Vec<Entry>> {
    let mut all: BTreeMap<_, _> = entries(device, root, value_size)?.into_iter().collect();
    make(&mut all, changes.iter());
    Ok(all.into_iter().collect())
}

/// Makes changes in a tree of trees. Returns its root then.
pub(crate) fn trees(
    room: &mut Room<'_>,
    device: &dyn Blocks,
    root: u64,
    changes: &Levels,
) -> io::Result<u64> {
    if changes.is_empty() {
        return Ok(root);
    }
    let mut roots: BTreeMap<_, _> = entries(device, root, 8)?.into_iter().collect();
    for (&key, level) in changes {
        let new = match roots.get(&key) {
            Some(old) => {
                let old = old.as_slice().try_into().map_err(changed)?;
                tree(room, device, u64::from_le_bytes(old), level)?
            }
            None => {
                let mut all = BTreeMap::new();
                make(&mut all, level.iter());
                if all.is_empty() {
                    continue;
                }
                build::tree(room, 8, &all.into_iter().collect::<Vec<_>>())?
            }
        };
        roots.insert(key, new.to_le_bytes().to_vec());
    }
    Outline::of(device, root)?.give_up(room);
    build::tree(room, 8, &roots.into_iter().collect::<Vec<_>>())
}

/// Makes changes in one of these trees. Its leaves may be very many; only those are made anew in
/// which something changes, and all that leads to them.
fn tree(room: &mut Room<'_>, device: &dyn Blocks, root: u64, changes: &Level) -> io::Result<u64> {
    let mut outline = Outline::of(device, root)?;
    if changes.values().any(|change| change.value.is_none()) {
        // A leaf could become too small. This is so of children only, which are few.
        let all = rows(device, root, 8, changes)?;
        outline.give_up(room);
        return build::tree(room, 8, &all);
    }
    let leaves = std::mem::take(&mut outline.leaves);
    let mut kept = Vec::with_capacity(leaves.len());
    for (i, &(key, nr)) in leaves.iter().enumerate() {
        let first = if i == 0 { 0 } else { key };
        let end = match leaves.get(i + 1) {
            Some(&(next, _)) if next <= first => return Err(changed(nr)),
            Some(&(next, _)) => Bound::Excluded(next),
            None => Bound::Unbounded,
        };
        let mut here = changes.range((Bound::Included(first), end)).peekable();
        if here.peek().is_none() {
            kept.push((key, nr));
            continue;
        }
        let mut all: BTreeMap<_, _> = entries(device, nr, 8)?.into_iter().collect();
        make(&mut all, here);
        let all: Vec<_> = all.into_iter().collect();
        kept.extend(build::nodes(room, true, 8, &all)?);
        room.give_up(nr);
    }
    outline.give_up(room);
    build::above(room, kept)
}

/// The nodes of a tree.
pub(crate) struct Outline {
    /// The leaves, each with a key that none in it is less than, but in the first.
    pub(crate) leaves: Vec<(u64, u64)>,
    /// What leads to them.
    pub(crate) above: Vec<u64>,
}

impl Outline {
    pub(crate) fn of(device: &dyn Blocks, root: u64) -> io::Result<Self> {
        let mut depth = 0;
        let mut nr = root;
        loop {
            let node = read(device, nr)?;
            if node.is_leaf() {
                break;
            }
            nr = node.number(0).ok_or_else(|| changed(nr))?;
            depth += 1;
            if depth == MAX_DEPTH {
                return Err(changed(nr));
            }
        }
        // All leaves are at the same depth, so none needs to be read.
        let mut above = Vec::new();
        let mut level = vec![(0, root)];
        for _ in 0..depth {
            let mut below = Vec::new();
            for (_, nr) in level {
                let node = read(device, nr)?;
                let child = |i| Some((node.key(i)?, node.number(i)?));
                below.extend((0..node.len()).map_while(child));
                above.push(nr);
            }
            level = below;
        }
        let leaves = level;
        Ok(Self { leaves, above })
    }

    /// Something else takes the place of all of them.
    fn give_up(&self, room: &mut Room<'_>) {
        let leaves = self.leaves.iter().map(|&(_, nr)| nr);
        for nr in leaves.chain(self.above.iter().copied()) {
            room.give_up(nr);
        }
    }
}

fn read(device: &dyn Blocks, nr: u64) -> io::Result<Node> {
    Node::check(device.read(nr)?, nr).map_err(changed)
}
