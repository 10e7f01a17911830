// SPDX-License-Identifier: GPL-2.0
//! The journal's region as a whole. Who reads a journal stops where it ends, and looks a little
//! farther; what stands behind that says whether it ended there.

use crate::context::Context;
use crate::report::Kind;
use dm_snap_mv_model::disk::journal::{header, Header, BATCH_BLOCKS};
use dm_snap_mv_model::disk::layout::BLOCK_SECTORS;
use dm_snap_mv_store::journal::sum;

/// Blocks that are read at a time.
const STEP: u64 = 64;

/// Looks at all blocks of it: 16 MiB at most in what is formatted.
/// `read`: up to its end it could be read. Returns of which transaction whole batches stand at its
/// beginning, if it is an earlier one.
pub(crate) fn check(cx: &mut Context<'_>, read: bool) -> Option<u64> {
    bounds(cx);
    let (start, blocks) = {
        let layout = &cx.superblock.layout;
        (layout.journal_start, layout.journal_blocks)
    };
    let (transaction, uuid) = (cx.superblock.transaction, cx.superblock.uuid);
    let mut batches = Batches::default();
    let mut earlier = Earlier::default();
    let mut newest = transaction;
    let mut cut = Vec::new();
    for first in (0..blocks).step_by(STEP as usize) {
        let numbers: Vec<u64> = (first..blocks.min(first.saturating_add(STEP)))
            .map(|index| start.saturating_add(index))
            .collect();
        for (index, block) in (first..).zip(cx.read_many(&numbers)) {
            // What cannot be read is told of by who needs it.
            let Ok(block) = block else {
                batches.next(index, None);
                earlier.next(index, None);
                continue;
            };
            let found = header(&block.0, sum).filter(|header| {
                header.uuid == uuid && header.index == index && header.number == start + index
            });
            earlier.next(index, found.as_ref());
            let Some(found) = found else {
                batches.next(index, None);
                continue;
            };
            newest = newest.max(found.transaction);
            let valid = found.transaction == transaction;
            batches.next(index, valid.then_some(&found));
            let behind = block.0.get(found.used..).unwrap_or_default();
            if valid && behind.iter().any(|&byte| byte != 0) {
                cut.push(index);
            }
        }
    }
    if newest > transaction {
        let what = format!(
            "superblock: it is of transaction {transaction}, and the journal of transaction \
             {newest}: it is older than the store"
        );
        cx.found(Kind::Superblock, None, what);
    }
    if let Some(index) = batches.beyond.filter(|_| read) {
        let what = format!(
            "journal: it ends at block {}, and block {index} belongs to it: what was between is \
             missing",
            batches.end
        );
        cx.found(Kind::Journal, None, what);
    }
    for index in cut.into_iter().filter(|&index| index < batches.end) {
        let what = format!("journal: block {index} has something behind what it says it has");
        cx.found(Kind::Journal, None, what);
    }
    if cx.superblock.clean && batches.end > 0 {
        let what =
            "superblock: it says that the store was closed in order, and there are changes in \
                    the journal";
        cx.found(Kind::Superblock, None, what);
    }
    earlier.whole.filter(|&earlier| earlier < transaction)
}

/// Whether a whole batch stands at the beginning, and of which transaction.
#[derive(Default)]
struct Earlier {
    begun: Option<u64>,
    whole: Option<u64>,
    over: bool,
}

impl Earlier {
    fn next(&mut self, index: u64, block: Option<&Header>) {
        let Some(block) = block.filter(|block| !self.over && block.nth == index) else {
            self.over = true;
            return;
        };
        let same = *self.begun.get_or_insert(block.transaction) == block.transaction;
        self.over = !same || block.last;
        if same && block.last {
            self.whole = self.begun;
        }
    }
}

/// What is not between one region and the next.
fn bounds(cx: &mut Context<'_>) {
    let layout = cx.superblock.layout;
    let end = match cx.superblock.backup() {
        Some(backup) => backup.saturating_add(1),
        None => layout.journal_end(),
    };
    let begin = (end.saturating_mul(BLOCK_SECTORS))
        .checked_next_multiple_of(layout.chunk_size.sectors())
        .unwrap_or(u64::MAX);
    let (metadata, journal) = (layout.metadata_blocks, layout.journal_start);
    if metadata != journal {
        let what = format!(
            "superblock: metadata ends at block {metadata}, the journal begins at {journal}"
        );
        cx.found(Kind::Superblock, None, what);
    }
    if begin != layout.data_start {
        let what = format!(
            "superblock: the journal ends before block {end}, data begin at sector {}",
            layout.data_start
        );
        cx.found(Kind::Superblock, None, what);
    }
}

/// Which blocks make whole batches.
#[derive(Default)]
struct Batches {
    /// Blocks of whole batches.
    end: u64,
    /// Nothing has been amiss so far, so that the batch that begins at `end` can come to be whole.
    over: bool,
    /// The first block of which the end cannot be the end.
    beyond: Option<u64>,
}

impl Batches {
    /// Takes the next block, if it is one of this transaction.
    fn next(&mut self, index: u64, block: Option<&Header>) {
        let Some(block) = block else {
            self.over = true;
            return;
        };
        let begin = index.checked_sub(block.nth);
        if !self.over && begin == Some(self.end) {
            if block.last {
                self.end = index + 1;
            }
            return;
        }
        self.over = true;
        // A batch that was not written in whole can have any of its blocks.
        let torn = begin == Some(self.end) && block.nth < BATCH_BLOCKS as u64;
        if !torn && self.beyond.is_none() {
            self.beyond = Some(index);
        }
    }
}
