// SPDX-License-Identifier: GPL-2.0

//! Where the structures of an image are, and every field of each.

use dm_snap_mv_model::disk::journal;
use dm_snap_mv_model::disk::superblock::CHECKSUM_XOR;
use dm_snap_mv_store::space::MetadataIndex;

use super::fields::{self, Field};
use crate::damage::{BITMAP, INDEX, NODE};
use crate::image::Image;

/// A field of one structure.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The structure.
    pub of: &'static str,
    pub field: Field,
    /// The block that it is in, and what that block's checksum is mixed with.
    pub block: u64,
    pub xor: u32,
    /// Where in the block.
    pub at: usize,
}

/// A block of an image that belongs to something.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub of: &'static str,
    pub block: u64,
    pub xor: u32,
}

#[derive(Default)]
pub struct Places {
    pub fields: Vec<Place>,
    pub blocks: Vec<Used>,
}

/// What the values of a tree are.
#[derive(Clone, Copy)]
enum Values {
    /// Roots of trees, and what the values of these are.
    Trees(&'static str, &'static [Field]),
    Of(&'static [Field]),
}

impl Places {
    /// All that there is in an image.
    pub fn of(image: &Image) -> Self {
        let mut all = Self::default();
        let superblock = image.superblock();
        let roots = &superblock.roots;
        all.block("superblock", 0, CHECKSUM_XOR, fields::SUPERBLOCK);
        if let Some(backup) = superblock.backup() {
            all.block("backup", backup, CHECKSUM_XOR, fields::SUPERBLOCK);
        }
        let number = Values::Of(fields::VALUE);
        let trees = |of| Values::Trees(of, fields::VALUE);
        let maps = [image.data_root(), image.metadata_root()];
        for (of, root, values) in [
            ("tree of records", roots.records, trees("records")),
            ("origins", roots.origins, Values::Of(fields::ORIGIN)),
            ("identities", roots.origin_ids, number),
            ("snapshots", roots.snapshots, Values::Of(fields::SNAPSHOT)),
            ("tree of children", roots.children, trees("children")),
            ("tree of marks", roots.done, trees("marks")),
            ("cleanings", roots.cleaning, Values::Of(fields::CLEANING)),
            (
                "index of the data map",
                maps[0].index,
                Values::Of(fields::INDEX_ENTRY),
            ),
            (
                "counts of the data map",
                maps[0].counts,
                Values::Of(fields::COUNT),
            ),
            (
                "counts of the metadata map",
                maps[1].counts,
                Values::Of(fields::COUNT),
            ),
        ] {
            all.tree(image, of, root, values);
        }
        if roots.labels != 0 {
            let values = Values::Of(fields::LABEL);
            all.tree(image, "labels", roots.labels, values);
        }
        all.maps(image);
        all.journal(image);
        all
    }

    fn add(&mut self, of: &'static str, block: u64, xor: u32, at: usize, fields: &[Field]) {
        self.fields.extend(fields.iter().map(|&field| Place {
            of,
            field,
            block,
            xor,
            at: at + field.at,
        }));
    }

    /// A block, and the fields that it begins with.
    fn block(&mut self, of: &'static str, block: u64, xor: u32, fields: &[Field]) {
        self.blocks.push(Used { of, block, xor });
        self.add(of, block, xor, 0, fields);
    }

    fn tree(&mut self, image: &Image, of: &'static str, nr: u64, values: Values) {
        self.block(of, nr, NODE, fields::NODE);
        let node = image.node(nr);
        for i in 0..node.len() {
            self.add(of, nr, NODE, 32 + 8 * i, fields::KEY);
            let at = image.value_at(nr, i);
            let below = node.number(i);
            if !node.is_leaf() {
                self.add(of, nr, NODE, at, fields::CHILD_NODE);
                self.tree(image, of, below.unwrap(), values);
                continue;
            }
            match values {
                Values::Of(fields) => self.add(of, nr, NODE, at, fields),
                Values::Trees(of_it, fields) => {
                    self.add(of, nr, NODE, at, fields::TREE);
                    self.tree(image, of_it, below.unwrap(), Values::Of(fields));
                }
            }
        }
    }

    fn maps(&mut self, image: &Image) {
        let index = image.metadata_root().index;
        let of = "index of the metadata map";
        self.block(of, index, INDEX, fields::MAP);
        let entries = MetadataIndex::check(Box::new(image.blocks[&index].clone()), index).unwrap();
        for i in 0..image.metadata_root().bitmaps() as usize {
            self.add(of, index, INDEX, 16 + 16 * i, fields::INDEX_ENTRY);
            self.bitmap(
                "bitmap of the metadata map",
                entries.entry(i).unwrap().block,
                1 << 11,
            );
        }
        // There is one.
        self.bitmap(
            "bitmap of the data map",
            image.data_entry().block,
            image.data_root().blocks,
        );
    }

    fn bitmap(&mut self, of: &'static str, nr: u64, entries: u64) {
        self.block(of, nr, BITMAP, fields::MAP);
        // And the first that there is no chunk for.
        for at in 0..=entries as usize / 4 {
            self.add(of, nr, BITMAP, 16 + at, fields::BITS);
        }
    }

    fn journal(&mut self, image: &Image) {
        let layout = image.superblock().layout;
        let end = layout.journal_start + layout.journal_blocks;
        for nr in layout.journal_start..end {
            let Some(block) = image.blocks.get(&nr) else {
                return;
            };
            let xor = journal::CHECKSUM_XOR;
            self.block("journal", nr, xor, fields::JOURNAL);
            let used = u32::from_le_bytes(block.0[48..52].try_into().unwrap()) as usize;
            let mut at = 64;
            while at < used {
                let sort = usize::from(block.0[at]) - 1;
                let (of, size, front, row) = fields::ENTRIES[sort];
                self.add(of, nr, xor, at, &[fields::SORT]);
                self.add(of, nr, xor, at, front);
                if let Some(row) = row {
                    let begin = size - row.last().map_or(0, |last| last.at + last.size);
                    self.add(of, nr, xor, at + begin, row);
                }
                at += size;
            }
            assert_eq!(at, used);
        }
    }
}
