// SPDX-License-Identifier: GPL-2.0

//! Which leaves of B-trees are known.
//!
//! Who knows the leaf that a key belongs into needs one block to look it up, and one to insert it,
//! instead of all blocks that lead there. What is known is exact: the leaves of a tree do not change
//! their bounds but when one of them is full or loses a key, which is told here ([`Leaves::forget_near`],
//! [`Leaves::forget`]), and each that moves to another block is told anew ([`Leaves::remember`]).

use core::ops::DerefMut;

/// A leaf of one of many trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Which tree it is of.
    pub tree: u64,
    /// The least key that belongs there, as the nodes above say.
    pub first: u64,
    /// The least of the greater keys that does not; none: all do.
    pub end: Option<u64>,
    /// The metadata block.
    pub block: u64,
    /// The transaction that has made this block, so that it may be changed in it; 0: that is not known.
    pub made_in: u64,
}

impl Leaf {
    /// Whether it is of the same tree and ends before `other`, or of one before that one's.
    fn is_before(&self, other: &Leaf) -> bool {
        match self.tree == other.tree {
            true => self.end.is_some_and(|end| end <= other.first),
            false => self.tree < other.tree,
        }
    }
}

/// What is known of leaves, of as many as `S` has room for. They are in order and do not overlap.
pub struct Leaves<S> {
    slots: S,
    len: usize,
}

impl<S: DerefMut<Target = [Leaf]>> Leaves<S> {
    /// Nothing is known. What is in `slots` does not matter.
    pub fn new(slots: S) -> Self {
        Self { slots, len: 0 }
    }

    fn known(&self) -> &[Leaf] {
        self.slots.get(..self.len).unwrap_or(&[])
    }

    /// How many there are up to the one that would have a key.
    fn up_to(&self, tree: u64, key: u64) -> usize {
        self.known()
            .partition_point(|leaf| (leaf.tree, leaf.first) <= (tree, key))
    }

    /// The leaf that a key belongs into, if it is known.
    pub fn find(&self, tree: u64, key: u64) -> Option<Leaf> {
        let leaf = self.known().get(self.up_to(tree, key).checked_sub(1)?)?;
        let has = leaf.tree == tree && leaf.end.is_none_or(|end| key < end);
        has.then_some(*leaf)
    }

    /// A leaf is what it is: what was known of it, or where it is now, is so no more.
    pub fn remember(&mut self, leaf: Leaf) {
        let start = self.known().partition_point(|known| known.is_before(&leaf));
        let end = self.known().partition_point(|known| !leaf.is_before(known));
        self.drop_range(start, end);
        if self.len >= self.slots.len() {
            // What will be needed next is not known either.
            return self.replace_all(leaf);
        }
        self.len += 1;
        if let Some(rest) = self.slots.get_mut(start..self.len) {
            rest.rotate_right(1);
            if let Some(slot) = rest.first_mut() {
                *slot = leaf;
            }
        }
    }

    fn replace_all(&mut self, leaf: Leaf) {
        self.len = 0;
        if let Some(slot) = self.slots.first_mut() {
            *slot = leaf;
            self.len = 1;
        }
    }

    fn drop_range(&mut self, start: usize, end: usize) {
        let end = end.min(self.len);
        let many = end.saturating_sub(start);
        if let Some(rest) = self.slots.get_mut(start..self.len) {
            rest.rotate_left(many.min(rest.len()));
            self.len -= many;
        }
    }

    /// A key is inserted into a leaf that is full: it and those beside it become others.
    pub fn forget_near(&mut self, tree: u64, key: u64) {
        let behind = self.up_to(tree, key);
        // The leaf itself is the last one up to there; or the first one behind, if the key is less
        // than all of the tree. What is known beside it are neighbours or none.
        self.drop_range(behind.saturating_sub(2), behind.saturating_add(2));
    }

    /// Anything may have changed.
    pub fn forget(&mut self) {
        self.len = 0;
    }
}
