// SPDX-License-Identifier: GPL-2.0

//! What a node of a B-tree must be before the library gets to see it.
//!
//! C header: `drivers/md/persistent-data/dm-btree-internal.h`

use super::{
    cache::{Bytes, BytesMut},
    corrupt, BLOCK_SIZE,
};
use kernel::prelude::*;

const CSUM_XOR: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;
const HEADER: usize = 32;
/// Where the number of entries stands.
const ENTRIES: usize = 16;
const KEY: usize = size_of::<u64>();

/// How many entries a node has room for, as the library reckons it.
const fn room(value_size: usize) -> usize {
    match (BLOCK_SIZE - HEADER).checked_div(KEY + value_size) {
        Some(room) => room / 3 * 3,
        None => 0,
    }
}

/// Where a node stands in its tree, as its parent says.
#[derive(Clone, Copy)]
pub(super) struct Child {
    /// The node's block.
    pub(super) block: u64,
    /// No key is less.
    pub(super) first: u64,
    /// All keys are less, if there is such a bound.
    pub(super) end: Option<u64>,
}

impl Child {
    /// The root of a tree.
    pub(super) fn root(block: u64) -> Self {
        Self {
            block,
            first: 0,
            end: None,
        }
    }
}

/// A node's header, and its entries. What it says of itself fits into the block, nothing else is
/// known of it.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    bytes: Bytes<'a>,
    leaf: bool,
    entries: usize,
    room: usize,
    value_size: usize,
}

impl<'a> Node<'a> {
    /// Reads the header.
    pub(super) fn read(bytes: Bytes<'a>) -> Result<Self> {
        let flags = bytes.le32(4)?;
        let node = Self {
            bytes,
            leaf: flags == LEAF,
            entries: bytes.le32(ENTRIES)? as usize,
            room: bytes.le32(20)? as usize,
            value_size: bytes.le32(24)? as usize,
        };
        let fits = node.room <= BLOCK_SIZE
            && node.value_size <= BLOCK_SIZE
            && node.entries <= node.room
            && HEADER + node.room * (KEY + node.value_size) <= BLOCK_SIZE;
        if fits && (node.leaf || flags == INTERNAL) {
            Ok(node)
        } else {
            Err(corrupt())
        }
    }

    /// Checks all that the library relies on: `leaf`, if that is known, and `value_size` of the
    /// leaves are the tree's. A node other than the root is at least a third full, which the
    /// library keeps up when it removes keys, and without which it confuses leaves with what is
    /// above them.
    pub(super) fn check(
        self,
        at: Child,
        is_root: bool,
        leaf: Option<bool>,
        value_size: usize,
    ) -> Result {
        self.bytes.check(at.block, 8, CSUM_XOR)?;
        let value_size = if self.leaf { value_size } else { KEY };
        let least = match (is_root, self.leaf) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => self.room / 3,
        };
        if leaf.is_some_and(|leaf| leaf != self.leaf)
            || self.value_size != value_size
            || self.room != room(value_size)
            || self.entries < least
        {
            return Err(corrupt());
        }
        let mut last = None;
        for i in 0..self.entries {
            let key = self.key(i)?;
            if key < at.first
                || at.end.is_some_and(|end| key >= end)
                || last.is_some_and(|last| key <= last)
            {
                return Err(corrupt());
            }
            last = Some(key);
        }
        Ok(())
    }

    /// Whether its values are the tree's own.
    pub(super) fn is_leaf(self) -> bool {
        self.leaf
    }

    /// How many entries there are.
    pub(super) fn len(self) -> usize {
        self.entries
    }

    /// Whether there is no room for another entry.
    pub(super) fn is_full(self) -> bool {
        self.entries >= self.room
    }

    /// The key of an entry.
    pub(super) fn key(self, i: usize) -> Result<u64> {
        self.bytes.le64(HEADER + i * KEY)
    }

    /// The first eight bytes of the value of an entry.
    pub(super) fn value(self, i: usize) -> Result<u64> {
        let values = HEADER + self.room * KEY;
        self.bytes.le64(values + i * self.value_size)
    }

    /// How many keys are less than `key`.
    pub(super) fn below(self, key: u64) -> Result<usize> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The entry whose child has `key`, if any has: the last one with no greater key, or the first.
    pub(super) fn towards(self, key: u64) -> Result<usize> {
        let below = self.below(key)?;
        if below < self.entries && self.key(below)? == key {
            return Ok(below);
        }
        Ok(below.saturating_sub(1))
    }

    /// The child of an entry, if there is one; this node stands at `at`.
    pub(super) fn child(self, at: Child, i: usize) -> Result<Option<Child>> {
        if self.leaf || i >= self.entries {
            return Ok(None);
        }
        let end = match i + 1 < self.entries {
            true => Some(self.key(i + 1)?),
            false => at.end,
        };
        Ok(Some(Child {
            block: self.value(i)?,
            first: self.key(i)?,
            end,
        }))
    }
}

/// Puts entries with values of eight bytes into a leaf, one behind the other, before its entry `i` (or
/// behind the last one): those that `entry` says, from 0 on until it says none, as long as there is
/// room. Returns how many. They must belong there.
///
/// # Errors
///
/// `EILSEQ` when it is no such leaf.
pub(super) fn put(
    mut bytes: BytesMut<'_>,
    i: usize,
    entry: impl Fn(usize) -> Option<(u64, u64)>,
) -> Result<usize> {
    let node = Node::read(bytes.bytes())?;
    if !node.leaf || node.value_size != KEY || i > node.entries {
        return Err(corrupt());
    }
    let room = node.room - node.entries;
    let mut many = 0;
    while many < room && entry(many).is_some() {
        many += 1;
    }
    let keys = HEADER;
    let values = HEADER + node.room * KEY;
    for column in [keys, values] {
        let at = column + i * KEY;
        bytes.shift(at, at + many * KEY, (node.entries - i) * KEY)?;
    }
    for j in 0..many {
        let Some((key, value)) = entry(j) else {
            return Err(corrupt());
        };
        bytes.put(keys + (i + j) * KEY, key.to_le_bytes())?;
        bytes.put(values + (i + j) * KEY, value.to_le_bytes())?;
    }
    let entries = (node.entries + many) as u32;
    bytes.put(ENTRIES, entries.to_le_bytes())?;
    Ok(many)
}
