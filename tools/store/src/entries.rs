// SPDX-License-Identifier: GPL-2.0
//! Parts of a tree of numbers: which leaves they are in, and their entries, with what the journal
//! makes of them.
//!
//! The leaves come first, by the nodes above them, of which there are few; so it is known how far a
//! part goes before any leaf is read, and all of its leaves can be read ahead.

use crate::block::Blocks;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::overlay::Level;
use dm_snap_mv_model::disk::superblock::Superblock;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// No tree is deeper: a node that is not the root has at least a third of 252 entries.
const MAX_DEPTH: usize = 16;

/// Entries that a node has at least, unless it is the root.
const LEAST_IN_NODE: usize = 84;

/// A tree of numbers in one transaction, perhaps one that only the journal has.
pub struct Tree<'a> {
    blocks: &'a dyn Blocks,
    root: Option<u64>,
    overlay: Option<&'a Level>,
    /// It has no more nodes than that.
    most: usize,
}

/// A leaf: the least key that it can have, and its block.
type Leaf = (u64, u64);

/// Where a part of a tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The first key that is wanted.
    from: u64,
    leaves: Vec<Leaf>,
    /// All keys below are in these leaves; none: all that there are.
    next: Option<u64>,
}

/// Which leaves are wanted: whether any key from the first number on, and below the second if there is
/// one, is looked for.
pub type Wanted<'w> = &'w dyn Fn(u64, Option<u64>) -> bool;

/// Keys and values.
pub type Entries = Vec<(u64, u64)>;

impl<'a> Tree<'a> {
    pub(crate) fn new(
        blocks: &'a dyn Blocks,
        superblock: &Superblock,
        root: Option<u64>,
        overlay: Option<&'a Level>,
    ) -> Self {
        let most = superblock.layout.metadata_blocks;
        Self {
            blocks,
            root,
            overlay,
            most: usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// Where the entries from a key on are: in at most `most` leaves (at least 1). A leaf is left out
    /// if neither what it can have nor what the one before it can have is `wanted`: then it is not
    /// where the search for a wanted key ends.
    pub fn part(&self, from: u64, most: usize, wanted: Wanted<'_>) -> Result<Part> {
        let mut part = Part {
            from,
            ..Part::default()
        };
        let Some(root) = self.root else {
            return Ok(part);
        };
        let most = most.clamp(1, self.most);
        let (height, mut known) = self.descend(root, from)?;
        let mut level = vec![(0, root)];
        for above in (0..height).rev() {
            // One more, for the first may have little behind the key.
            let enough = match above {
                0 => usize::MAX,
                _ => most / LEAST_IN_NODE.saturating_pow(above as u32) + 2,
            };
            let (below, cut) = self.below(&level, from, enough, &mut known)?;
            part.next = cut.or(part.next);
            level = below;
        }
        part.leaves = level;
        part.leave_out(wanted);
        part.cut(most);
        Ok(part)
    }

    /// How many levels of nodes there are above the leaves, and the nodes on the way to a key.
    fn descend(&self, root: u64, from: u64) -> Result<(usize, BTreeMap<u64, Node>)> {
        let mut known = BTreeMap::new();
        let mut nr = root;
        for height in 0..MAX_DEPTH {
            let block = self.blocks.read(nr);
            let block = block.map_err(|source| Error::Io { block: nr, source })?;
            let node = Node::new(block, nr)?;
            if node.is_leaf() {
                return Ok((height, known));
            }
            let child = node.number(first_child(&node, from));
            known.insert(nr, node);
            nr = child.ok_or_else(crate::live::corrupt)?;
        }
        Err(Error::Damaged {
            block: nr,
            what: "its tree is too deep",
        })
    }

    /// The nodes below those of a level, from a key on, at most `most`; and from which key on
    /// there are more, if they have more.
    fn below(
        &self,
        level: &[Leaf],
        from: u64,
        most: usize,
        known: &mut BTreeMap<u64, Node>,
    ) -> Result<(Vec<Leaf>, Option<u64>)> {
        let mut below = Vec::new();
        let mut cut = None;
        let unknown = level.iter().map(|&(_, nr)| nr);
        let unknown: Vec<_> = unknown.filter(|nr| !known.contains_key(nr)).collect();
        self.nodes(&unknown, false, &mut |nr, node| {
            known.insert(nr, node);
            Ok(())
        })?;
        for (i, (_, nr)) in level.iter().enumerate() {
            let node = known.get(nr).ok_or_else(crate::live::corrupt)?;
            // The first node of a level is the one with the key; in others all is behind it.
            let first = if i == 0 { first_child(node, from) } else { 0 };
            for i in first..node.len() {
                let (Some(key), Some(child)) = (node.key(i), node.number(i)) else {
                    break;
                };
                if below.last().is_some_and(|&(last, _)| last >= key) {
                    return Err(Error::Damaged {
                        block: *nr,
                        what: "it has keys that belong elsewhere",
                    });
                }
                if below.len() == most || below.len() == self.most {
                    cut = cut.or(Some(key));
                    break;
                }
                below.push((key, child));
            }
        }
        Ok((below, cut))
    }

    /// Reads nodes of one kind, and gives them to `each` in their order.
    fn nodes(
        &self,
        numbers: &[u64],
        leaves: bool,
        each: &mut dyn FnMut(u64, Node) -> Result<()>,
    ) -> Result<()> {
        let mut all = numbers.iter();
        let mut wrong = None;
        self.blocks.read_ahead(numbers, &mut |block| {
            let Some(&nr) = all.next() else {
                return ControlFlow::Break(());
            };
            let read = block
                .map_err(|source| Error::Io { block: nr, source })
                .and_then(|block| Node::new(block, nr))
                .and_then(|node| match node.is_leaf() == leaves {
                    true if leaves && node.value_size() != 8 => Err(Error::Damaged {
                        block: nr,
                        what: "its values have the wrong size",
                    }),
                    true => each(nr, node),
                    false => Err(Error::Damaged {
                        block: nr,
                        what: "it is at another depth than others of its kind",
                    }),
                });
            match read {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    wrong = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match wrong {
            Some(error) => Err(error),
            // A device that does not give what it was asked for.
            None if all.next().is_some() => Err(crate::live::corrupt()),
            None => Ok(()),
        }
    }

    /// Whether there is no such tree, neither on disk nor in the journal.
    pub fn is_absent(&self) -> bool {
        self.root.is_none() && self.overlay.is_none_or(Level::is_empty)
    }

    /// The entries of a part, in the order of keys, with what the journal makes of them. There are none
    /// of leaves that were left out but those that the journal brings.
    pub fn entries(&self, part: &Part) -> Result<Entries> {
        let mut all = Entries::with_capacity(part.leaves.len() * 128);
        self.visit(part, |key, value| all.push((key, value)))?;
        Ok(all)
    }

    /// Gives the same to `each`, one after the other.
    pub fn visit(&self, part: &Part, mut each: impl FnMut(u64, u64)) -> Result<()> {
        let none = Level::new();
        let overlay = self.overlay.unwrap_or(&none);
        let mut news = overlay.range(part.from..).peekable();
        let mut last = None;
        let numbers: Vec<_> = part.leaves.iter().map(|&(_, nr)| nr).collect();
        self.nodes(&numbers, true, &mut |nr, node| {
            let first = node.below(part.from);
            // Keys ascend within a node, which has been checked.
            let least = node.key(first);
            let most = node.len().checked_sub(1).and_then(|last| node.key(last));
            let is_behind = |key| part.next.is_some_and(|end| key >= end);
            if (least.is_some() && least <= last) || most.is_some_and(is_behind) {
                return Err(Error::Damaged {
                    block: nr,
                    what: "it has keys that belong elsewhere",
                });
            }
            last = most.max(last);
            for (key, value) in node.numbers(first) {
                while let Some((&new, value)) = news.next_if(|(&new, _)| new < key) {
                    if let Some(value) = *value {
                        each(new, value);
                    }
                }
                match news.next_if(|(&new, _)| new == key) {
                    Some((_, Some(value))) => each(key, *value),
                    Some((_, None)) => {}
                    None => each(key, value),
                }
            }
            Ok(())
        })?;
        while let Some((&new, value)) = news.next_if(|(&new, _)| part.next.is_none_or(|n| new < n))
        {
            if let Some(value) = *value {
                each(new, value);
            }
        }
        Ok(())
    }
}

/// Which child of a node a key belongs to: a key of an internal node is the least one below it, or less.
fn first_child(node: &Node, key: u64) -> usize {
    let first = node.below(key);
    match node.key(first) == Some(key) {
        true => first,
        false => first.saturating_sub(1),
    }
}

impl Part {
    /// All keys below are in it; none: all that there are.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// How many leaves it is in.
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// Leaves out what is not wanted.
    fn leave_out(&mut self, wanted: Wanted<'_>) {
        let ends = self.leaves.iter().skip(1).map(|&(key, _)| Some(key));
        let ends: Vec<_> = ends.chain([self.next]).collect();
        // What is before the first leaf is before what is wanted.
        let mut before = true;
        let mut from = self.from;
        let mut ends = ends.into_iter();
        self.leaves.retain(|_| {
            let end = ends.next().flatten();
            let here = wanted(from, end);
            from = end.unwrap_or(from);
            std::mem::replace(&mut before, here) || here
        });
    }

    /// Leaves off behind so many leaves.
    fn cut(&mut self, most: usize) {
        if let Some(&(key, _)) = self.leaves.get(most) {
            self.next = Some(key);
            self.leaves.truncate(most);
        }
    }

    /// Leaves off where nothing below `end` can be any more, with one leaf more: the search for a key
    /// below `end` ends in that at the latest.
    pub fn end_at(&mut self, end: u64) {
        let keep = self.leaves.partition_point(|&(key, _)| key < end);
        self.cut(keep.saturating_add(1));
    }
}
