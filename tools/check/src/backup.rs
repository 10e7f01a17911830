// SPDX-License-Identifier: GPL-2.0
//! The backup of the superblock, behind the journal: what it says of a superblock that is there, and
//! how one is found that is not.
//!
//! It is written when the superblock has been, and becomes durable with what is written next. So
//! after a crash it may be of the transaction before, or not be whole, which is no error. It never
//! is of a later one.

use crate::context::Context;
use crate::report::{Kind, Watch};
use crate::superblock::sum;
use crate::{examine, Options};
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::layout::{Layout, BLOCK_SECTORS, METADATA_MAX, METADATA_MIN};
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_store::{Block, Blocks};
use std::io;

/// More than a journal has blocks.
const JOURNAL: u64 = 1 << 13;

/// Blocks that are read at a time.
const STEP: u64 = 256;

/// The largest chunks, as a power of two of pages.
const LARGEST: u32 = 8;

/// How a backup compares with the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It says the same.
    Same,
    /// It is of an earlier transaction.
    Behind,
    /// It cannot be read, is not whole, or is another store's.
    Useless,
}

/// A backup of a superblock that is not there.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The block that it stands in.
    pub block: u64,
    /// What it is of.
    pub superblock: Superblock,
    /// What is wrong with the store that it leads to: how many findings there are. Only without any
    /// it is known that it is of the last commit.
    pub errors: u64,
}

/// Compares it with the superblock that was read.
pub(crate) fn compare(cx: &mut Context<'_>) {
    let Some(number) = cx.superblock.backup() else {
        return;
    };
    let block = cx.read(number);
    let backup = block.ok().and_then(|block| of_block(&block, number));
    let superblock = &cx.superblock;
    // What stood there before may be another store's. But all else would not be the same then.
    let ours = |backup: &Superblock| {
        backup.uuid == superblock.uuid
            || (backup.transaction == superblock.transaction && backup.roots == superblock.roots)
    };
    let Some(backup) = backup.filter(ours) else {
        cx.report.backup = Some(State::Useless);
        return;
    };
    let (its, ours) = (backup.transaction, superblock.transaction);
    if its > ours {
        let what = format!(
            "superblock: it is of transaction {ours}, and older than its backup, of transaction {its}"
        );
        cx.found(Kind::Superblock, None, what);
        return;
    }
    // That one needs a check is noted in place.
    let same = Superblock {
        needs_check: superblock.needs_check,
        ..backup
    };
    if its == ours && same != *superblock {
        let what = "superblock: it and its backup are of the same transaction, and differ";
        cx.found(Kind::Superblock, None, what);
        return;
    }
    cx.report.backup = Some(match its == ours {
        true => State::Same,
        false => State::Behind,
    });
    cx.same_before = same_trees(&cx.superblock, &backup).then_some(its);
}

/// Compares what was read of the journal with both: whole batches of the transaction `earlier` stand
/// there. A commit that has made their changes has other trees than before.
pub(crate) fn compare_journal(cx: &mut Context<'_>, earlier: Option<u64>) {
    let Some(earlier) = earlier.filter(|earlier| cx.same_before == Some(*earlier)) else {
        return;
    };
    let what = format!(
        "superblock: it is of transaction {}, its backup, which leads to the same, of transaction \
         {earlier}, and so are changes in the journal: they would be lost",
        cx.superblock.transaction
    );
    cx.found(Kind::Superblock, None, what);
}

/// Whether all is the same that a commit of any change writes anew.
fn same_trees(one: &Superblock, other: &Superblock) -> bool {
    let trees = |s: &Superblock| (s.roots, s.metadata_space, s.data_space);
    trees(one) == trees(other)
}

/// A backup that stands in the block that it says it is for.
fn of_block(block: &Block, number: u64) -> Option<Superblock> {
    let superblock = Superblock::decode_at(&block.0, number, sum).ok()?;
    (superblock.backup() == Some(number)).then_some(superblock)
}

/// Looks for a backup where there is no superblock: where it is if the device has the size at which
/// it was formatted, or `everywhere` that it can be, which takes reading as much as there can be
/// of metadata. Of several, that with the fewest errors, and of these the latest.
pub(crate) fn search(
    blocks: &dyn Blocks,
    sectors: u64,
    everywhere: bool,
    watch: &mut dyn Watch,
) -> Option<Backup> {
    let mut numbers: Vec<u64> = (0..=LARGEST)
        .filter_map(|shift| ChunkSize::from_pages(1 << shift).ok())
        .filter_map(|chunk_size| Layout::new(sectors, chunk_size, None).ok())
        .map(|layout| layout.journal_end())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut found = Vec::new();
    for number in numbers {
        let block = blocks.read(number).ok();
        found.extend(block.and_then(|block| candidate(blocks, sectors, number, &block)));
    }
    if everywhere && found.is_empty() {
        // It stands behind the metadata and the journal.
        let end = (sectors / BLOCK_SECTORS).min(METADATA_MAX.saturating_add(JOURNAL));
        for first in (METADATA_MIN..end).step_by(STEP as usize) {
            let numbers: Vec<u64> = (first..end.min(first + STEP)).collect();
            let read = blocks.read_many(&numbers).into_iter().zip(numbers);
            for (block, number) in read {
                let block = block.ok();
                found.extend(block.and_then(|block| candidate(blocks, sectors, number, &block)));
            }
            watch.progress(first, end);
        }
    }
    found.into_iter().min_by_key(|found: &Backup| {
        let latest = std::cmp::Reverse(found.superblock.transaction);
        (found.errors, latest)
    })
}

fn candidate(blocks: &dyn Blocks, sectors: u64, number: u64, block: &Block) -> Option<Backup> {
    let superblock = of_block(block, number)?;
    let mut first = Block::zeroed();
    superblock.encode(&mut first.0);
    Superblock::seal(&mut first.0, sum);
    let with = With { blocks, first };
    let (report, _) = examine(&with, sectors, Options::default(), &mut crate::Quiet);
    let errors = match report.superblock {
        Some(_) => report.errors(),
        None => 1,
    };
    Some(Backup {
        block: number,
        superblock,
        errors,
    })
}

/// A device with another first block.
struct With<'a> {
    blocks: &'a dyn Blocks,
    first: Box<Block>,
}

impl Blocks for With<'_> {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        match nr {
            0 => Ok(self.first.clone()),
            nr => self.blocks.read(nr),
        }
    }

    fn read_many(&self, numbers: &[u64]) -> Vec<io::Result<Box<Block>>> {
        if numbers.contains(&0) {
            return numbers.iter().map(|&nr| self.read(nr)).collect();
        }
        self.blocks.read_many(numbers)
    }
}
