// SPDX-License-Identifier: GPL-2.0
//! What all parts of a check share: the blocks, who is told, and which blocks were reached.

use crate::reached::{Part, Reached};

use crate::report::{Finding, Kind, Outcome, Report, Watch};
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_store::{Block, Blocks};
use std::io;

/// Findings of one kind that are told of; more are only counted.
const TOLD: u64 = 100;

/// How many blocks are read between two words about progress.
const STEP: u64 = 64;

pub(crate) struct Context<'a> {
    blocks: &'a dyn Blocks,
    watch: &'a mut dyn Watch,
    pub(crate) superblock: Superblock,
    pub(crate) report: Report,
    /// What each metadata block belongs to.
    pub(crate) reached: Reached,
    /// All trees that lead to COW chunks, or to further trees that do, could be read from end to
    /// end, so that the chunks that were not met are not used.
    pub(crate) whole: bool,
    /// The same of all trees and metadata blocks.
    pub(crate) all_reached: bool,
    /// The transaction of the backup of the superblock, if that leads to the same trees.
    pub(crate) same_before: Option<u64>,
    done: u64,
    all: u64,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        blocks: &'a dyn Blocks,
        superblock: Superblock,
        watch: &'a mut dyn Watch,
    ) -> Self {
        let report = Report::new(Outcome::Checked, Some(superblock.clone()));
        let reached = Reached::new(superblock.layout.metadata_blocks);
        let all = crate::space::metadata_in_use(&superblock);
        Self {
            blocks,
            watch,
            superblock,
            report,
            reached,
            whole: true,
            all_reached: true,
            same_before: None,
            done: 0,
            all,
        }
    }

    /// Notes something that is wrong.
    pub(crate) fn found(
        &mut self,
        kind: Kind,
        concerns: Option<TimelineId>,
        what: impl Into<String>,
    ) {
        let count = self.report.counts.entry(kind).or_insert(0);
        *count += 1;
        if *count <= TOLD {
            self.watch.finding(&Finding {
                kind,
                what: what.into(),
                concerns,
            });
        }
    }

    /// Notes that `part` leads to block `nr`. Says what is wrong if it may not.
    pub(crate) fn reach(&mut self, nr: u64, part: Part) -> Result<(), &'static str> {
        self.reached.add(nr, part)
    }

    /// Notes that blocks are being read.
    fn goes_on(&mut self, blocks: u64) {
        let before = self.done / STEP;
        self.done += blocks;
        if self.done / STEP != before {
            self.watch.progress(self.done, self.all.max(self.done));
        }
    }

    /// The blocks, for what reads them by itself.
    pub(crate) fn blocks(&self) -> &'a dyn Blocks {
        self.blocks
    }

    /// Reads a block.
    pub(crate) fn read(&mut self, nr: u64) -> io::Result<Box<Block>> {
        self.goes_on(1);
        self.blocks.read(nr)
    }

    /// Reads several blocks; the results are in their order.
    pub(crate) fn read_many(&mut self, numbers: &[u64]) -> Vec<io::Result<Box<Block>>> {
        self.goes_on(numbers.len() as u64);
        self.blocks.read_many(numbers)
    }

    /// The report, when all is done, and what was reached.
    pub(crate) fn end(mut self) -> (Report, Reached) {
        self.report.statistics.metadata_blocks = self.reached.total();
        (self.report, self.reached)
    }
}
