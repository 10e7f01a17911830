// SPDX-License-Identifier: GPL-2.0
//! One node of a B-tree as the kernel's dm-persistent-data writes it.
//!
//! ```text
//!  0 u32 checksum            16 u32 entries
//!  4 u32 flags: 1 internal   20 u32 entries there is room for, a multiple of 3
//!               2 leaf       24 u32 bytes of a value
//!  8 u64 number of the block 28 u32 0
//! 32 keys, a u64 each, room for all of them
//!    values, at 32 + 8 * room
//! ```

use crate::block::{Block, BLOCK_SIZE};
use crate::checksum;
use crate::error::{Error, Result};

const HEADER: usize = 32;
const XOR: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// How many entries with values of `value_size` bytes there is room for.
pub fn room(value_size: usize) -> usize {
    (BLOCK_SIZE - HEADER) / value_size.saturating_add(8) / 3 * 3
}

/// Makes a node to be written to block `nr`, of ascending entries that there is room for.
pub fn make(leaf: bool, value_size: usize, entries: &[(u64, Vec<u8>)], nr: u64) -> Box<Block> {
    let mut block = Block::zeroed();
    let room = room(value_size);
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = block.0.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(4, &if leaf { LEAF } else { INTERNAL }.to_le_bytes());
    put(8, &nr.to_le_bytes());
    put(16, &(entries.len() as u32).to_le_bytes());
    put(20, &(room as u32).to_le_bytes());
    put(24, &(value_size as u32).to_le_bytes());
    for (i, (key, value)) in entries.iter().enumerate() {
        put(HEADER + 8 * i, &key.to_le_bytes());
        put(HEADER + 8 * room + value_size * i, value);
    }
    let sum = checksum::of_block(&block, XOR).to_le_bytes();
    if let Some(place) = block.0.first_chunk_mut() {
        *place = sum;
    }
    block
}

/// A node that has been checked: every entry can be read, and keys ascend.
pub struct Node {
    block: Box<Block>,
    leaf: bool,
    entries: usize,
    room: usize,
    value_size: usize,
}

impl Node {
    /// Checks that `block`, read from block `nr`, is a node.
    pub fn new(block: Box<Block>, nr: u64) -> Result<Self> {
        Self::check(block, nr).map_err(|what| Error::Damaged { block: nr, what })
    }

    /// As [`Node::new`], and says what is wrong in words.
    pub fn check(block: Box<Block>, nr: u64) -> std::result::Result<Self, &'static str> {
        const SHORT: &str = "it is too short";
        let bytes = &block.0;
        let field = |at| u32_at(bytes, at).ok_or(SHORT);
        if field(0)? != checksum::of_block(&block, XOR) {
            return Err("its checksum is wrong");
        }
        if u64_at(bytes, 8).ok_or(SHORT)? != nr {
            return Err("it belongs somewhere else");
        }
        let flags = field(4)?;
        if flags != INTERNAL && flags != LEAF {
            return Err("it is no node of a tree");
        }
        let leaf = flags == LEAF;
        let entries = field(16)? as usize;
        let room = field(20)? as usize;
        let value_size = field(24)? as usize;
        let size = value_size
            .checked_add(8)
            .and_then(|one| one.checked_mul(room))
            .and_then(|all| all.checked_add(HEADER));
        if size.is_none_or(|size| size > BLOCK_SIZE) || room == 0 || room % 3 != 0 {
            return Err("it claims more entries than fit");
        }
        if entries > room {
            return Err("it has more entries than it has room for");
        }
        if !leaf && (entries == 0 || value_size != 8) {
            return Err("it is an internal node that leads nowhere");
        }
        let node = Self {
            block,
            leaf,
            entries,
            room,
            value_size,
        };
        let keys = node.block.0.get(HEADER..HEADER + 8 * entries);
        let keys = keys.ok_or(SHORT)?.chunks_exact(8);
        let mut keys = keys.filter_map(|key| Some(u64::from_le_bytes(key.try_into().ok()?)));
        let mut last = keys.next();
        if keys.any(|key| last.replace(key) >= Some(key)) {
            return Err("its keys are out of order");
        }
        Ok(node)
    }

    /// Whether the values are the tree's own, not blocks of further nodes.
    pub fn is_leaf(&self) -> bool {
        self.leaf
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none. Only the root of an empty tree is like that.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The number of entries that there is room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Bytes of a value.
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Key `i`, if there is one.
    pub fn key(&self, i: usize) -> Option<u64> {
        if i >= self.entries {
            return None;
        }
        u64_at(&self.block.0, HEADER + 8 * i)
    }

    /// Value `i`, if there is one.
    pub fn value(&self, i: usize) -> Option<&[u8]> {
        if i >= self.entries {
            return None;
        }
        let start = HEADER + 8 * self.room + self.value_size * i;
        self.block.0.get(start..start + self.value_size)
    }

    /// Value `i` as a number, if it is one of 8 bytes.
    pub fn number(&self, i: usize) -> Option<u64> {
        self.value(i)
            .and_then(|v| v.try_into().ok())
            .map(u64::from_le_bytes)
    }

    /// The entries from number `first` on, as numbers, if values are some of 8 bytes; else none.
    pub fn numbers(&self, first: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let words = |at: usize, count: usize| {
            let end = at.saturating_add(count.saturating_mul(8));
            let bytes = self.block.0.get(at..end).unwrap_or(&[]);
            let words = bytes.chunks_exact(8);
            words.filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
        };
        let many = match self.value_size {
            8 => self.entries.saturating_sub(first),
            _ => 0,
        };
        let keys = words(HEADER + 8 * first, many);
        let values = words(HEADER + 8 * (self.room + first), many);
        keys.zip(values)
    }

    /// How many keys are less than `key`.
    pub fn below(&self, key: u64) -> usize {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle).is_some_and(|k| k < key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
