// SPDX-License-Identifier: GPL-2.0
//! What all parts of a check share: the blocks, who is told, and which blocks were reached.

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
    /// How often each metadata block is led to, as far as 255.
    reached: Vec<u8>,
    /// All trees but the space maps' could be read from end to end, so that what was not
    /// reached is not used.
    pub(crate) whole: bool,
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
        // At most 2^22.
        let count = usize::try_from(superblock.layout.metadata_blocks).unwrap_or(0);
        let mut reached = vec![0; count];
        if let Some(first) = reached.first_mut() {
            *first = 1;
        }
        let all = crate::space::metadata_in_use(&superblock);
        Self {
            blocks,
            watch,
            superblock,
            report,
            reached,
            whole: true,
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

    /// Notes that something leads to block `nr`. Says what is wrong if nothing may.
    pub(crate) fn reach(&mut self, nr: u64) -> Result<(), &'static str> {
        let place = usize::try_from(nr).ok();
        let count = place.and_then(|nr| self.reached.get_mut(nr));
        let Some(count) = count else {
            return Err("lies outside of the metadata");
        };
        *count = count.saturating_add(1);
        match (nr, *count) {
            (0, _) => Err("is the superblock"),
            (_, 1) => Ok(()),
            _ => Err("is used twice"),
        }
    }

    /// How often something leads to block `nr`.
    pub(crate) fn reached(&self, nr: u64) -> u8 {
        let place = usize::try_from(nr).ok();
        place
            .and_then(|nr| self.reached.get(nr))
            .copied()
            .unwrap_or(0)
    }

    /// Reads a block.
    pub(crate) fn read(&mut self, nr: u64) -> io::Result<Box<Block>> {
        self.done += 1;
        if self.done % STEP == 0 {
            self.watch.progress(self.done, self.all.max(self.done));
        }
        self.blocks.read(nr)
    }

    /// The report, when all is done.
    pub(crate) fn end(mut self) -> Report {
        let blocks = self.reached.iter().filter(|&&count| count > 0).count();
        self.report.statistics.metadata_blocks = blocks as u64;
        self.report
    }
}
