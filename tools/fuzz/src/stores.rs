// SPDX-License-Identifier: GPL-2.0

//! Whole stores with something changed in them, looked at and repaired.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

use dm_snap_mv_check::{check, plan, Options, Outcome, Quiet};
use dm_snap_mv_model::disk::journal::CHECKSUM_XOR;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::Chunk;
use dm_snap_mv_model::preserve::{newest_live, record_preserved};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::rollback::mark_done;
use dm_snap_mv_model::versions::{
    delete_snapshot, keep_bookmark, take_bookmark, take_origin_snapshot,
};
use dm_snap_mv_store::{checksum, Block, Blocks};

use crate::changes::entries;
use crate::image::{Image, Logged, SECTORS};
use crate::input::Input;
use crate::store::Store;

/// What checksums are mixed with.
const KINDS: [u32; 5] = [0x6d76_2153, 121_107, 240_779, 160_478, CHECKSUM_XOR];

/// More reads than this are a loop: there are 1024 metadata blocks, and those of space maps are
/// read twice. Of the 64 of the journal each is read when one of the 16 before it is looked at.
const READS: u32 = 4000;

struct Base {
    image: Image,
    /// The blocks in use, and what their checksums are mixed with.
    blocks: Vec<(u64, u32)>,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let image = journaled(&crate::rich::rich());
        let kind = |block: &Block| {
            let sum = block.0[..4].try_into().map_or(0, u32::from_le_bytes);
            let right = |&&xor: &&u32| checksum::of_block(block, xor) == sum;
            *KINDS.iter().find(right).expect("a block of some kind")
        };
        let blocks = image.blocks.iter().map(|(&nr, b)| (nr, kind(b))).collect();
        Base { image, blocks }
    })
}

/// A store with changes in its journal: some of each kind.
fn journaled(store: &Store) -> Image {
    let mut image = Image::of(store);
    let mut superblock = image.superblock();
    superblock.clean = false;
    image.put_superblock(&superblock);
    let mut index = 0;
    let mut now = store.clone();
    let mut note = |new: &Store| {
        let entries = entries(&now, new).expect("nothing that takes a commit");
        index = image.journal(index, &entries);
        now = new.clone();
    };
    let mut new = store.clone();
    let rows: Vec<OriginRow> = store.origins.iter().map(|(_, row)| *row).collect();
    for mut row in rows {
        // A rollback goes on, and an origin is written.
        if let Some(rollback) = row.rollback {
            let len = rollback.limit.since(rollback.cursor);
            mark_done(&mut new, &row, rollback.cursor, len).expect("marks");
            note(&new);
        }
        let tag = take_origin_snapshot(&mut new, &mut row, b"memo", 5).expect("a snapshot");
        note(&new);
        let live = newest_live(&new, &row).expect("its epoch").expect("one");
        let chunks = &mut row.chunks;
        if let Some((cow, len)) = new.allocate(0, 2) {
            record_preserved(
                &mut new,
                row.number,
                chunks,
                live.epoch,
                Chunk::ZERO,
                cow,
                len,
            )
            .expect("records");
        }
        new.put_origin(&row).expect("a row");
        note(&new);
        // A snapshot comes and goes.
        take_origin_snapshot(&mut new, &mut row, b"", 6).expect("a snapshot");
        note(&new);
        delete_snapshot(&mut new, &mut row, tag).expect("it is there");
        note(&new);
        // A bookmark comes, one is left of a snapshot, and one goes.
        let tag = take_bookmark(&mut new, &mut row, b"", 7).expect("a bookmark");
        note(&new);
        let kept = take_origin_snapshot(&mut new, &mut row, b"", 8).expect("a snapshot");
        keep_bookmark(&mut new, &mut row, kept).expect("it is as the origin was");
        note(&new);
        delete_snapshot(&mut new, &mut row, tag).expect("it is there");
        note(&new);
    }
    image
}

struct Counted<'a> {
    image: &'a Image,
    reads: Cell<u32>,
}

impl Blocks for Counted<'_> {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < READS, "it reads for ever");
        self.image.read(nr)
    }
}

/// One change to an image.
fn change(image: &mut Image, base: &Base, input: &mut Input<'_>) {
    let (how, which) = (input.u8(), input.u8());
    let at = usize::from(input.u16()) % 4096;
    let value = input.u32();
    let pick = |which: usize| base.blocks[which % base.blocks.len()];
    let (nr, xor) = pick(which.into());
    let (other, other_xor) = pick(value as usize);
    let mut block = image.blocks[&nr].clone();
    let mut put = |at: usize, bytes: &[u8]| {
        let at = at.min(4096 - bytes.len());
        block.0[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match how % 8 {
        0 => put(at, &[value as u8]),
        1 => put(at, &value.to_le_bytes()),
        2 => put(at & !7, &u64::from(value).to_le_bytes()),
        3 => put(at & !7, &(value as i32 as i64).to_le_bytes()),
        4 => put(at & !7, &other.to_le_bytes()),
        5 => {
            let at = at & !7;
            let field: [u8; 8] = block.0[at..at + 8].try_into().expect("8 bytes");
            let sum = u64::from_le_bytes(field).wrapping_add(value as i32 as u64);
            block.0[at..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        6 => block = image.blocks[&other].clone(),
        _ => {
            _ = image.broken.insert(nr);
        }
    }
    // Mostly with its own number and a right checksum.
    if how & 0x40 == 0 {
        block.0[8..16].copy_from_slice(&nr.to_le_bytes());
    }
    if how & 0x80 == 0 {
        let xor = if how % 8 == 6 { other_xor } else { xor };
        let sum = checksum::of_block(&block, xor).to_le_bytes();
        block.0[..4].copy_from_slice(&sum);
    }
    image.blocks.insert(nr, block);
}

pub fn store(data: &[u8]) {
    let base = base();
    let mut image = base.image.clone();
    let mut input = Input(&data[..data.len().min(400)]);
    while !input.is_empty() {
        change(&mut image, base, &mut input);
    }
    let counted = Counted {
        image: &image,
        reads: Cell::new(0),
    };
    let report = check(&counted, SECTORS, Options::default(), &mut Quiet);
    if data.is_empty() {
        assert!(report.is_clean());
    }
    if report.outcome != Outcome::Checked {
        return;
    }
    let device = Logged::new(&image);
    let (again, plan) = plan(&device, SECTORS, &mut Quiet);
    assert_eq!(again.counts, report.counts);
    assert!(plan.is_some() || !report.is_repairable());
    let Some(plan) = plan else { return };
    match plan.carry_out(&device) {
        Ok(()) => {
            let image = device.image();
            let after = check(&image, SECTORS, Options::default(), &mut Quiet);
            assert!(
                after.is_clean(),
                "{:?} became {:?}",
                report.counts,
                after.counts
            );
        }
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::StorageFull),
    }
}
