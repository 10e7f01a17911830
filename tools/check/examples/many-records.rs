// SPDX-License-Identifier: GPL-2.0
//! Makes a store with many records in a file, to measure how long it takes to read one.
//!
//! `many-records FILE RECORDS [in-order]`: one origin with two snapshots, in whose timeline there are so
//! many records of every third chunk, half of them at each of the epochs that the snapshots are based
//! on. The leaves of their tree are two thirds full, and where they stand says nothing of their keys, as
//! after writes at random; or they stand in order.

use dm_snap_mv_check::build::{self, Entry, Place};
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::origin_row::{OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::disk::superblock::{Roots, Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{Chunk, Epoch, OriginNr, Tag};
use dm_snap_mv_model::record_key::{child_key, RecordKey};
use dm_snap_mv_store::{checksum, node, Block};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Entries of a leaf after writes at random.
const IN_LEAF: usize = 168;

struct Image {
    file: File,
    next: u64,
    metadata: u64,
}

impl Place for Image {
    fn take(&mut self) -> io::Result<u64> {
        self.next += 1;
        match self.next <= self.metadata {
            true => Ok(self.next - 1),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn is_used(&self, nr: u64) -> bool {
        nr < self.next || nr >= self.metadata
    }

    fn write(&mut self, nr: u64, block: &Block) -> io::Result<()> {
        self.file.write_all_at(&block.0, nr * 4096)
    }
}

fn main() -> io::Result<()> {
    let words: Vec<_> = std::env::args().collect();
    let (file, records) = match words.as_slice() {
        [_, file, records, ..] => (file, records.parse().map_err(io::Error::other)?),
        _ => return Err(io::Error::other("many-records FILE RECORDS [in-order]")),
    };
    let in_order = words.get(3).is_some_and(|word| word == "in-order");
    let refused = |refusal| io::Error::other(format!("{refusal}"));
    let chunk_size = ChunkSize::from_pages(1).map_err(refused)?;
    let sectors = 8 * (records + records / 32 + 100_000);
    let layout = Layout::new(sectors, chunk_size, None).map_err(refused)?;
    let mut image = Image {
        file: File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .open(file)?,
        next: 1,
        metadata: layout.metadata_blocks,
    };
    image.file.set_len(sectors * 512)?;
    let all = || io::Error::other("too many");
    let nr = OriginNr::new(1).ok_or_else(all)?;
    let tag = |tag| Tag::new(tag).ok_or_else(all);
    let epoch = |epoch| Epoch::new(epoch).ok_or_else(all);
    let size = records * 3 * 8;
    let origin = OriginRow {
        size,
        number: nr,
        current_epoch: epoch(3)?,
        next_tag: tag(3)?,
        snapshots: 2,
        ghosts: 0,
        created: 1,
        chunks: records,
        invalid_below: 0,
        bookmarks: 0,
        forgotten_below: 0,
        rollback: None,
        deferred: None,
        id: OriginId::new(b"many").ok_or_else(all)?,
        identity: Identity::UNKNOWN,
    };
    let t = origin.timeline();
    // Where each leaf stands: a step that has no common divisor with the number of them.
    let leaves = records.div_ceil(IN_LEAF as u64);
    let first = image.next;
    image.next += leaves;
    let step = if in_order { 1 } else { (1 << 20) + 7 };
    let step = (step..)
        .find(|&step| gcd(step, leaves) == 1)
        .ok_or_else(all)?;
    let mut above: Vec<(u64, u64)> = Vec::new();
    let mut entries: Vec<Entry> = Vec::with_capacity(IN_LEAF);
    for i in 0..records {
        let chunk = Chunk::new(i * 3).ok_or_else(all)?;
        let key = RecordKey::new(t, chunk, epoch(1 + (i % 2) as u32)?).get();
        entries.push((key, i.to_le_bytes().to_vec()));
        if entries.len() == IN_LEAF || i + 1 == records {
            let block = first + (above.len() as u64 * step) % leaves;
            let key = entries.first().map_or(0, |&(key, _)| key);
            image.write(block, &node::make(true, 8, &entries, block))?;
            above.push((key, block));
            entries.clear();
        }
    }
    while above.len() > 1 {
        let mut level = Vec::new();
        for group in above.chunks(IN_LEAF) {
            let entries: Vec<Entry> = group
                .iter()
                .map(|&(key, nr)| (key, nr.to_le_bytes().to_vec()))
                .collect();
            let block = image.take()?;
            image.write(block, &node::make(false, 8, &entries, block))?;
            level.push((group.first().map_or(0, |&(key, _)| key), block));
        }
        above = level;
    }
    let root = above.first().map_or(0, |&(_, nr)| nr);
    let number = |number: u64| number.to_le_bytes().to_vec();
    let records_root = build::tree(&mut image, 8, &[(t.get(), number(root))])?;
    let mut bytes = [0; OriginRow::SIZE];
    origin.encode(&mut bytes);
    let origins = build::tree(&mut image, OriginRow::SIZE, &[(1, bytes.to_vec())])?;
    let mut snapshots = Vec::new();
    let mut children = Vec::new();
    for n in 1..=2 {
        let row = SnapshotRow {
            tag: tag(n)?,
            ghost: false,
            bookmark: false,
            parent: None,
            base_epoch: epoch(n)?,
            current_epoch: Epoch::FIRST,
            children: 0,
            size,
            created: 1,
            chunks: 0,
            memo: Memo::new(b"").ok_or_else(all)?,
        };
        let mut bytes = [0; SnapshotRow::SIZE];
        row.encode(&mut bytes);
        snapshots.push((origin.timeline_of(row.tag).get(), bytes.to_vec()));
        children.push((child_key(row.base_epoch), number(n.into())));
    }
    children.reverse();
    let snapshots = build::tree(&mut image, SnapshotRow::SIZE, &snapshots)?;
    let children = build::tree(&mut image, 8, &children)?;
    let children = build::tree(&mut image, 8, &[(t.get(), number(children))])?;
    let ids = [(u64::from(crc32c::crc32c(b"many")) << 32, number(1))];
    let origin_ids = build::tree(&mut image, 8, &ids)?;
    let done = build::tree(&mut image, 8, &[])?;
    let cleaning = build::tree(&mut image, 32, &[])?;
    let data = build::data_map(&mut image, layout.data_chunks, &|chunk| chunk < records)?;
    let metadata = build::metadata_map(&mut image, layout.metadata_blocks)?;
    let mut superblock = Superblock {
        clean: true,
        needs_check: false,
        cow_full: false,
        uuid: [7; 16],
        compat: Superblock::compat_of(&layout),
        ro_compat: 0,
        incompat: Superblock::incompat_of(&layout),
        layout,
        transaction: 5,
        next_origin: 2,
        nr_origins: 1,
        roots: Roots {
            records: records_root,
            origins,
            origin_ids,
            snapshots,
            children,
            done,
            cleaning,
            labels: 0,
        },
        metadata_space: [0; 128],
        data_space: [0; 128],
        strange: [0; 64],
    };
    data.encode(&mut superblock.data_space);
    metadata.encode(&mut superblock.metadata_space);
    let sum = |covered: &[u8]| checksum::crc32c_raw(covered) ^ CHECKSUM_XOR;
    for number in [Some(0), superblock.backup()].into_iter().flatten() {
        let mut block = *Block::zeroed();
        superblock.encode_at(&mut block.0, number);
        Superblock::seal(&mut block.0, sum);
        image.write(number, &block)?;
    }
    println!("{leaves} leaves from block {first} on");
    image.file.sync_all()
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}
