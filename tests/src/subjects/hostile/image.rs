// SPDX-License-Identifier: GPL-2.0

//! The metadata of a store in memory, and what each of its blocks is.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use anyhow::{bail, ensure, Result};

use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{self, Place};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_store::block::Block;
use dm_snap_mv_store::checksum;
use dm_snap_mv_store::journal::sum;

use crate::disks::Piece;
use crate::io::Buffer;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Sectors of one.
const SECTORS: u64 = 8;

/// How many blocks are read and written at once.
const PART: usize = 64;

/// Where a node's entries begin, and what of its header is worth changing.
pub const HEADER: usize = 32;
/// Where a bitmap's or an index's begin.
pub const ENTRIES: usize = 16;

const GROUP: u64 = 16320;

/// Where the superblock has the roots of trees.
const FIRST_ROOT: usize = 128;
/// Which ones, in their order, and of how many bytes their values are.
pub const ROOTS: [(Tree, usize); 7] = [
    (Tree::Records, 8),
    (Tree::Origins, OriginRow::SIZE),
    (Tree::Identities, 8),
    (Tree::Snapshots, SnapshotRow::SIZE),
    (Tree::Children, 8),
    (Tree::Marks, 8),
    (Tree::Cleanings, CleaningRow::SIZE),
];

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Superblock,
    /// Of a tree; which of the two levels of trees, and whether it is a leaf.
    Node(Tree, u8, bool),
    MetadataIndex,
    MetadataBitmap,
    DataBitmap,
    /// Of the journal.
    Journal,
    /// Of its last batch: if one of these is damaged, a crash might have cut that off.
    LastBatch,
}

/// Which tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    Records,
    Origins,
    Identities,
    Snapshots,
    Children,
    Marks,
    Cleanings,
    DataIndex,
    MetadataCounts,
    DataCounts,
}

impl Tree {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Records,
        Self::Origins,
        Self::Identities,
        Self::Snapshots,
        Self::Children,
        Self::Marks,
        Self::Cleanings,
        Self::DataIndex,
        Self::MetadataCounts,
        Self::DataCounts,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(tree, level, leaf) => {
                let what = if *leaf { "leaf" } else { "node" };
                write!(f, "{what} of {tree:?}/{level}")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// The metadata as they stand on the device.
#[derive(Clone)]
pub struct Image {
    /// As many blocks as something is in.
    pub blocks: Vec<Box<Block>>,
    /// How many there can be.
    pub room: u64,
    /// Those in use.
    pub kinds: BTreeMap<u64, Kind>,
}

/// Reads 4 bytes.
pub fn le32(block: &Block, at: usize) -> u32 {
    u32::from_le_bytes(block.0[at..at + 4].try_into().expect("4 bytes"))
}

/// Reads 8 bytes.
pub fn le64(block: &Block, at: usize) -> u64 {
    u64::from_le_bytes(block.0[at..at + 8].try_into().expect("8 bytes"))
}

/// Writes them.
pub fn put64(block: &mut Block, at: usize, value: u64) {
    block.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes 4 bytes.
pub fn put32(block: &mut Block, at: usize, value: u32) {
    block.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Makes a block say that it is block `number`, and its checksum right.
pub fn seal(block: &mut Block, number: u64, kind: Kind) {
    let xor = match kind {
        Kind::Superblock => 0x6d76_2153,
        Kind::Node(..) => 121_107,
        Kind::MetadataIndex => 160_478,
        Kind::MetadataBitmap | Kind::DataBitmap => 240_779,
        Kind::Journal | Kind::LastBatch => journal::CHECKSUM_XOR,
    };
    put64(block, 8, number);
    let sum = checksum::of_block(block, xor);
    put32(block, 0, sum);
}

impl Image {
    /// Reads the metadata from a COW device.
    pub fn read(cow: &Piece) -> Result<Self> {
        let disk = cow.open()?;
        let mut first = Block::zeroed();
        first.0.copy_from_slice(&disk.read(0, SECTORS)?);
        let room = le64(&first, 72);
        let all = le64(&first, 80) + le64(&first, 88);
        let mut blocks = Vec::new();
        let mut at = 0;
        while at < all {
            let count = (PART as u64).min(all - at);
            let bytes = disk.read(at * SECTORS, count * SECTORS)?;
            for bytes in bytes.chunks_exact(BLOCK) {
                let mut block = Block::zeroed();
                block.0.copy_from_slice(bytes);
                blocks.push(block);
            }
            at += count;
        }
        let mut image = Self {
            blocks,
            room,
            kinds: BTreeMap::new(),
        };
        image.classify()?;
        image.classify_journal();
        let used = image
            .kinds
            .keys()
            .next_back()
            .map_or(0, |&last| last as usize + 1);
        image.blocks.truncate(used);
        Ok(image)
    }

    fn note(&mut self, number: u64, kind: Kind) -> Result<()> {
        ensure!(number < self.room, "{kind} at block {number}");
        if let Some(other) = self.kinds.insert(number, kind) {
            bail!("block {number} is {other} and {kind}");
        }
        Ok(())
    }

    fn classify(&mut self) -> Result<()> {
        self.note(0, Kind::Superblock)?;
        let superblock = self.blocks[0].clone();
        let field = |at| le64(&superblock, at);
        let index = field(256 + 16);
        self.note(index, Kind::MetadataIndex)?;
        for group in 0..field(256).div_ceil(GROUP) {
            let number = le64(&self.blocks[index as usize], ENTRIES + group as usize * 16);
            self.note(number, Kind::MetadataBitmap)?;
        }
        self.tree(field(256 + 24), Tree::MetadataCounts, 1, 1)?;
        self.tree(field(384 + 16), Tree::DataIndex, 1, 1)?;
        self.tree(field(384 + 24), Tree::DataCounts, 1, 1)?;
        for (i, (tree, _)) in ROOTS.into_iter().enumerate() {
            let levels = match tree {
                Tree::Records | Tree::Children | Tree::Marks => 2,
                _ => 1,
            };
            self.tree(self.root(i), tree, 1, levels)?;
        }
        Ok(())
    }

    /// The root of a tree, by its place in [`ROOTS`].
    pub fn root(&self, place: usize) -> u64 {
        le64(&self.blocks[0], FIRST_ROOT + place * 8)
    }

    /// Has the superblock lead to another one.
    pub fn set_root(&mut self, place: usize, root: u64) {
        let superblock = &mut self.blocks[0];
        put64(superblock, FIRST_ROOT + place * 8, root);
        seal(superblock, 0, Kind::Superblock);
    }

    fn tree(&mut self, root: u64, tree: Tree, level: u8, levels: u8) -> Result<()> {
        ensure!(root < self.room, "root of {tree:?} at block {root}");
        let node = self.blocks[root as usize].clone();
        let leaf = le32(&node, 4) == 2;
        self.note(root, Kind::Node(tree, level, leaf))?;
        for value in values(&node) {
            let first = le64(&node, value.start);
            if !leaf {
                self.tree(first, tree, level, levels)?;
            } else if level < levels {
                self.tree(first, tree, level + 1, levels)?;
            } else if tree == Tree::DataIndex {
                self.note(first, Kind::DataBitmap)?;
            }
        }
        Ok(())
    }

    fn place(&self, index: u64) -> Place {
        let superblock = &self.blocks[0];
        Place {
            uuid: superblock.0[16..32].try_into().expect("16 bytes"),
            transaction: le64(superblock, 112),
            first_block: le64(superblock, 80),
            index,
        }
    }

    fn classify_journal(&mut self) {
        let mut batch = Vec::new();
        let mut last = Vec::new();
        for index in 0.. {
            let place = self.place(index);
            let number = place.first_block + index;
            let block = self.blocks.get(number as usize);
            let Some(found) = block.and_then(|block| journal::look(&block.0, &place, sum)) else {
                break;
            };
            batch.push((number, Kind::Journal));
            if found.last {
                last.clone_from(&batch);
                self.kinds.extend(batch.drain(..));
            }
        }
        let last = last
            .into_iter()
            .map(|(number, _)| (number, Kind::LastBatch));
        self.kinds.extend(last);
    }

    /// Becomes the same as another one, in the memory that it has: new memory for each image is
    /// what takes longest otherwise.
    pub fn become_like(&mut self, other: &Self) {
        self.blocks.clone_from(&other.blocks);
        self.room = other.room;
        self.kinds.clone_from(&other.kinds);
    }

    /// Forgets what the journal held.
    pub fn cut_journal(&mut self) {
        let start = le64(&self.blocks[0], 80) as usize;
        for block in &mut self.blocks[start..] {
            *block = Block::zeroed();
        }
    }

    /// The sector at which the journal begins, and the one behind its end, from which on data
    /// may be.
    pub fn journal(&self) -> Range<u64> {
        let first = le64(&self.blocks[0], 80);
        first * SECTORS..(first + le64(&self.blocks[0], 88)) * SECTORS
    }

    /// The number of the transaction that it shows.
    pub fn transaction(&self) -> u64 {
        le64(&self.blocks[0], 112)
    }

    /// Writes it to a COW device, but for parts that nothing is in.
    pub fn write(&self, cow: &Piece) -> Result<()> {
        cow.spoil();
        let disk = cow.open()?;
        for (i, blocks) in self.blocks.chunks(PART).enumerate() {
            let first = (i * PART) as u64;
            if self
                .kinds
                .range(first..first + PART as u64)
                .next()
                .is_none()
            {
                continue;
            }
            let mut buffer = Buffer::new(blocks.len() * BLOCK);
            for (to, block) in buffer.chunks_exact_mut(BLOCK).zip(blocks) {
                to.copy_from_slice(&block.0);
            }
            disk.write(first * SECTORS, &buffer)?;
        }
        Ok(())
    }

    /// How many entries the leaves of a tree have, of both levels of trees.
    pub fn entries(&self, tree: Tree) -> u32 {
        let leaves = self.kinds.iter().filter(|(_, kind)| match kind {
            Kind::Node(t, _, true) => *t == tree,
            _ => false,
        });
        leaves
            .map(|(&number, _)| le32(&self.blocks[number as usize], 16))
            .sum()
    }

    /// How many blocks of each kind there are.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for kind in self.kinds.values() {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }
}

/// The most entries that a node has room for.
const ROOM: usize = (BLOCK - HEADER) / 8;

/// Where the keys of a node are, however good it is.
pub fn keys(node: &Block) -> Vec<usize> {
    let entries = (le32(node, 16) as usize).min(ROOM);
    (0..entries).map(|i| HEADER + 8 * i).collect()
}

/// Where the values are of which at least 8 bytes are in the node.
pub fn values(node: &Block) -> Vec<Range<usize>> {
    let entries = (le32(node, 16) as usize).min(ROOM);
    let room = le32(node, 20) as usize;
    let size = le32(node, 24) as usize;
    let first = HEADER + 8 * room;
    (0..entries)
        .map(|i| first + i * size..first + (i + 1) * size)
        .filter(|value| value.end <= BLOCK && value.start + 8 <= BLOCK)
        .collect()
}
