// SPDX-License-Identifier: GPL-2.0

//! The image of a COW device with a store on it, made of a store in memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use dm_snap_mv_check::build::{self, Entry, Place};
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::journal::{self, Batch, BATCH_BLOCKS};
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::origin_ids;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Roots, Superblock, CHECKSUM_XOR, INCOMPAT_ZEROES};
use dm_snap_mv_model::record_key::{is_behind_children, RecordValue};
use dm_snap_mv_store::journal::sum;
use dm_snap_mv_store::{checksum, Block, Blocks, WritableBlocks};

use crate::store::Store;
use crate::world::chunk_size;

/// Sectors of the device: more than its metadata and all chunks of any run take.
pub const SECTORS: u64 = 8 * (1024 + 1024);

/// A device in memory; blocks that were never written are zeroes.
#[derive(Clone, Default)]
pub struct Image {
    pub blocks: BTreeMap<u64, Block>,
    /// Blocks that cannot be read.
    pub broken: BTreeSet<u64>,
    /// How many blocks it has; 0: the usual size.
    size: u64,
    /// The first block that was never taken.
    next: u64,
    metadata: u64,
    /// Metadata blocks of which the space map is told lies.
    lies: BTreeMap<u64, bool>,
}

/// What the space maps are told that is not so: a chunk or block, and whether it is used.
#[derive(Default)]
pub struct Lies {
    pub chunks: BTreeMap<u64, bool>,
    pub blocks: BTreeMap<u64, bool>,
}

impl Blocks for Image {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let size = if self.size == 0 {
            SECTORS / 8
        } else {
            self.size
        };
        if nr >= size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.broken.contains(&nr) {
            return Err(io::Error::other("broken"));
        }
        Ok(match self.blocks.get(&nr) {
            Some(block) => Box::new(block.clone()),
            None => Block::zeroed(),
        })
    }
}

impl Place for Image {
    fn take(&mut self) -> io::Result<u64> {
        let nr = self.next;
        if nr >= self.metadata {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.next += 1;
        Ok(nr)
    }

    fn is_used(&self, nr: u64) -> bool {
        let lie = self.lies.get(&nr);
        lie.copied()
            .unwrap_or(nr < self.next || nr >= self.metadata)
    }

    fn write(&mut self, nr: u64, block: &Block) -> io::Result<()> {
        self.blocks.insert(nr, block.clone());
        Ok(())
    }
}

/// A device that notes what is written to it.
pub struct Logged {
    image: RefCell<Image>,
    /// Blocks in the order in which they were written; none stands for a flush.
    pub log: RefCell<Vec<Option<(u64, Block)>>>,
    /// How many writes it takes before all fail.
    pub last: Cell<usize>,
}

impl Logged {
    pub fn new(image: &Image) -> Self {
        Self {
            image: RefCell::new(image.clone()),
            log: RefCell::default(),
            last: Cell::new(usize::MAX),
        }
    }

    pub fn image(self) -> Image {
        self.image.into_inner()
    }

    /// Has it hold something else.
    pub fn put(&self, image: &Image) {
        self.image.replace(image.clone());
    }
}

impl Blocks for Logged {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        self.image.borrow().read(nr)
    }
}

impl WritableBlocks for Logged {
    fn write(&self, nr: u64, block: &Block) -> io::Result<()> {
        let left = self.last.get().checked_sub(1);
        self.last
            .set(left.ok_or_else(|| io::Error::other("no more writes"))?);
        let mut image = self.image.borrow_mut();
        image.blocks.insert(nr, block.clone());
        // What has been written can be read again.
        image.broken.remove(&nr);
        self.log.borrow_mut().push(Some((nr, block.clone())));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.log.borrow_mut().push(None);
        Ok(())
    }
}

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn superblock_sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

/// A tree of trees.
fn two_levels(image: &mut Image, all: impl Iterator<Item = (u64, u64, u64)>) -> u64 {
    let mut below: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    for (first, second, value) in all {
        below
            .entry(first)
            .or_default()
            .push((second, number(value)));
    }
    let mut top = Vec::new();
    for (key, entries) in below {
        top.push((key, number(build::tree(image, 8, &entries).unwrap())));
    }
    build::tree(image, 8, &top).unwrap()
}

impl Image {
    /// What the store would be on disk.
    pub fn of(store: &Store) -> Image {
        Self::lying(store, Lies::default())
    }

    /// The same, with space maps that are wrong.
    pub fn lying(store: &Store, lies: Lies) -> Image {
        let layout = Layout::new(SECTORS, chunk_size(), Some(1024)).unwrap();
        Self::made(store, layout, Superblock::compat_of(&layout), lies)
    }

    /// The same on a device of so many sectors, with so many metadata blocks.
    pub fn of_size(store: &Store, sectors: u64, metadata: u64) -> Image {
        let layout = Layout::new(sectors, chunk_size(), Some(metadata)).unwrap();
        let compat = Superblock::compat_of(&layout);
        let mut image = Self::made(store, layout, compat, Lies::default());
        image.size = sectors / 8;
        image
    }

    /// The same of a store that was formatted without a journal.
    pub fn without_journal(store: &Store) -> Image {
        let mut layout = Layout::new(SECTORS, chunk_size(), Some(1024)).unwrap();
        layout.journal_blocks = 0;
        layout.data_start = layout.journal_start * 8;
        Self::made(store, layout, 0, Lies::default())
    }

    /// The same of a store that was formatted when there were no backups.
    pub fn without_backup(store: &Store) -> Image {
        let mut layout = Layout::new(SECTORS, chunk_size(), Some(1024)).unwrap();
        layout.journal_blocks += 1;
        Self::made(store, layout, 0, Lies::default())
    }

    fn made(store: &Store, layout: Layout, compat: u32, lies: Lies) -> Image {
        assert!(store.used().len() as u64 <= layout.data_chunks);
        let mut image = Image {
            next: 1,
            metadata: layout.metadata_blocks,
            lies: lies.blocks,
            ..Image::default()
        };
        let records = store.records.iter();
        let records = two_levels(&mut image, records.map(|(&(t, key), &v)| (t, key, v)));
        let children = store.children.iter();
        let children = two_levels(
            &mut image,
            children.map(|(&(t, key), &tag)| (t, key, tag.into())),
        );
        let done = store.done.iter();
        let done = two_levels(
            &mut image,
            done.map(|(&(nr, chunk), ())| (nr.into(), chunk, 0)),
        );
        let origins: Vec<Entry> = store
            .origins
            .iter()
            .map(|(&nr, row)| {
                let mut bytes = [0; OriginRow::SIZE];
                row.encode(&mut bytes);
                (nr.into(), bytes.to_vec())
            })
            .collect();
        let origins_root = build::tree(&mut image, OriginRow::SIZE, &origins).unwrap();
        let snapshots: Vec<Entry> = store
            .snapshots
            .iter()
            .map(|(&t, row)| {
                let mut bytes = [0; SnapshotRow::SIZE];
                row.encode(&mut bytes);
                (t, bytes.to_vec())
            })
            .collect();
        let snapshots = build::tree(&mut image, SnapshotRow::SIZE, &snapshots).unwrap();
        let cleaning: Vec<Entry> = store
            .cleaning
            .iter()
            .map(|(&t, row)| {
                let mut bytes = [0; CleaningRow::SIZE];
                row.encode(&mut bytes);
                (t, bytes.to_vec())
            })
            .collect();
        let cleaning = build::tree(&mut image, CleaningRow::SIZE, &cleaning).unwrap();
        let labels: Vec<Entry> = store
            .labels
            .iter()
            .map(|(&t, row)| {
                let mut bytes = [0; LabelRow::SIZE];
                row.encode(&mut bytes);
                (t, bytes.to_vec())
            })
            .collect();
        let labels = match labels.as_slice() {
            [] => 0,
            labels => build::tree(&mut image, LabelRow::SIZE, labels).unwrap(),
        };
        let mut ids = BTreeMap::new();
        for (id, &nr) in store.ids.iter() {
            let (first, _) = origin_ids::keys(crc32c::crc32c(id));
            let key = (first..).find(|key| !ids.contains_key(key)).unwrap();
            ids.insert(key, number(nr.into()));
        }
        let ids: Vec<Entry> = ids.into_iter().collect();
        let origin_ids = build::tree(&mut image, 8, &ids).unwrap();
        let used = |chunk: u64| {
            let lie = lies.chunks.get(&chunk);
            let used = store.used().get(chunk as usize) == Some(&true);
            lie.copied().unwrap_or(used)
        };
        let data = build::data_map(&mut image, layout.data_chunks, &used).unwrap();
        let metadata = build::metadata_map(&mut image, SECTORS / 8).unwrap();

        let mut superblock = Superblock {
            clean: true,
            needs_check: false,
            cow_full: false,
            uuid: [7; 16],
            compat,
            ro_compat: 0,
            incompat: Superblock::incompat_of(&layout)
                | match has_zeroes(store) {
                    true => INCOMPAT_ZEROES,
                    false => 0,
                },
            layout,
            transaction: 5,
            next_origin: store.next_origin.get(&()).copied().unwrap_or(1),
            nr_origins: origins.len() as u32,
            roots: Roots {
                records,
                origins: origins_root,
                origin_ids,
                snapshots,
                children,
                done,
                cleaning,
                labels,
            },
            metadata_space: [0; 128],
            data_space: [0; 128],
            strange: [0; 64],
        };
        if has_identities(store) {
            superblock.take_identities();
        }
        if has_versions(store) {
            superblock.use_versions();
        }
        data.encode(&mut superblock.data_space);
        metadata.encode(&mut superblock.metadata_space);
        image.put_superblock(&superblock);
        image
    }

    /// Appends a batch to the journal, which has `index` blocks so far. Returns how many it has
    /// then.
    pub fn journal(&mut self, index: u64, entries: &[journal::Entry]) -> u64 {
        let mut superblock = self.superblock();
        if superblock.clean {
            // A store that is closed in order has none.
            superblock.clean = false;
            self.put_superblock(&superblock);
        }
        let mut blocks = vec![[0; 4096]; BATCH_BLOCKS];
        let mut batch = Batch::new();
        for entry in entries {
            assert!(batch.push(&mut blocks, entry));
        }
        let place = journal::Place {
            uuid: superblock.uuid,
            transaction: superblock.transaction,
            first_block: superblock.layout.journal_start,
            index,
        };
        let count = batch.seal(&mut blocks, &place, sum) as u64;
        for (i, block) in blocks.into_iter().take(count as usize).enumerate() {
            let nr = superblock.layout.journal_start + index + i as u64;
            self.blocks.insert(nr, Block(block));
        }
        index + count
    }

    pub fn superblock(&self) -> Superblock {
        Superblock::decode(&self.blocks[&0].0, superblock_sum).unwrap()
    }

    pub fn put_superblock(&mut self, superblock: &Superblock) {
        let mut block = *Block::zeroed();
        superblock.encode(&mut block.0);
        Superblock::seal(&mut block.0, superblock_sum);
        self.blocks.insert(0, block);
        self.put_backup(superblock);
    }

    /// What stands behind the journal.
    pub fn put_backup(&mut self, superblock: &Superblock) {
        let Some(number) = superblock.backup() else {
            return;
        };
        let mut block = *Block::zeroed();
        superblock.encode_at(&mut block.0, number);
        Superblock::seal(&mut block.0, superblock_sum);
        self.blocks.insert(number, block);
    }
}

/// Whether any origin says what disk it is on.
fn has_identities(store: &Store) -> bool {
    store
        .origins
        .iter()
        .any(|(_, row)| row.identity != Identity::UNKNOWN)
}

/// Whether there are labels or bookmarks, or have been and left something.
pub fn has_versions(store: &Store) -> bool {
    let mark = RecordValue::Mark.encode();
    let mut children = store.children.iter();
    let mut origins = store.origins.iter();
    let mut snapshots = store.snapshots.iter();
    store.labels.iter().next().is_some()
        || children.any(|(&(_, key), _)| is_behind_children(key))
        || origins.any(|(_, row)| (row.bookmarks, row.forgotten_below) != (0, 0))
        || snapshots.any(|(_, row)| row.bookmark)
        || store.records.iter().any(|(_, &value)| value == mark)
}

/// Whether any record is of several chunks.
pub fn has_zeroes(store: &Store) -> bool {
    let zeroes = RecordValue::Zero.encode();
    store.records.iter().any(|(_, &value)| value > zeroes)
}
