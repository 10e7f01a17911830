// SPDX-License-Identifier: GPL-2.0
//! Checks a store of dm-snap-mv: that everything in it can be read, and that no two things in
//! it contradict each other. Repairs what can be made anew of what else there is.
//!
//! Nothing that is read is trusted. Each metadata block is read once, or twice if it belongs to
//! a space map, whatever leads to it, so there is no endless loop. What is kept in memory is a
//! byte for each metadata block, a bit or a few bytes for each COW chunk, a few numbers for each origin and snapshot, and what the journal changes.

#![forbid(unsafe_code)]

mod backup;
pub mod build;
mod children;
mod cleaning;
mod context;
mod facts;
mod fold;
mod identities;
mod journal;
mod labels;
mod marks;
mod merged;
mod origins;
mod reached;
mod records;
mod region;
mod repair;
mod replayed;
mod report;
mod room;
mod seen;
mod snapshots;
mod space;
mod superblock;
mod timelines;
mod used;
mod walk;

pub use backup::{Backup, State};
pub use repair::{plan, plan_for, Plan, Step, Wanted};
pub use report::{Finding, Kind, Outcome, Quiet, Report, Statistics, Watch};

use context::Context;
use dm_snap_mv_store::Blocks;
use facts::Facts;
use journal::Changes;
use reached::Reached;
use seen::Seen;

/// What is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Look at the superblock only.
    pub super_only: bool,
    /// Leave out the records, and so the space maps.
    pub skip_records: bool,
}

/// Checks the store on a device of `sectors` sectors. `watch` is told of what is found, and how
/// far it is.
pub fn check(blocks: &dyn Blocks, sectors: u64, options: Options, watch: &mut dyn Watch) -> Report {
    let before = Seen::of(blocks);
    let mut report = examine(blocks, sectors, options, watch).0;
    if before.is_still(blocks).is_err() {
        report.outcome = Outcome::InUse;
        return report;
    }
    report.look_instead(blocks);
    if report.has_lost_superblock() {
        report.found = backup::search(blocks, sectors, false, watch);
    }
    report
}

/// What was found on the way, for a repair.
struct Examined {
    facts: Facts,
    reached: Reached,
    changes: Changes,
}

fn examine(
    blocks: &dyn Blocks,
    sectors: u64,
    options: Options,
    watch: &mut dyn Watch,
) -> (Report, Option<Examined>) {
    let superblock = match superblock::check(blocks, sectors, watch) {
        Ok(superblock) => superblock,
        Err(report) => return (*report, None),
    };
    let mut cx = Context::new(blocks, superblock, watch);
    superblock::flags(&mut cx);
    backup::compare(&mut cx);
    let mut facts = Facts::default();
    let mut changes = Changes::default();
    if !options.super_only {
        let read = journal::read(&mut cx);
        let earlier = region::check(&mut cx, read.is_some());
        backup::compare_journal(&mut cx, earlier);
        changes = read.unwrap_or_default();
        all(&mut cx, &mut facts, &mut changes, sectors, options);
    }
    let (report, reached) = cx.end();
    let examined = Examined {
        facts,
        reached,
        changes,
    };
    (report, Some(examined))
}

fn all(
    cx: &mut Context<'_>,
    facts: &mut Facts,
    changes: &mut Changes,
    sectors: u64,
    options: Options,
) {
    origins::check(cx, facts, &mut changes.origins);
    snapshots::check(cx, facts, &mut changes.snapshots);
    cleaning::check(cx, facts, &mut changes.cleaning);
    children::check(cx, facts, &mut changes.children);
    marks::check(cx, facts, &mut changes.marks);
    identities::check(cx, facts);
    labels::check(cx, facts);
    let records = !options.skip_records;
    if records {
        records::check(cx, facts, &mut changes.records);
    }
    facts.compare(cx, records);
    journal::check(cx, facts, changes, records);
    if records {
        space::check(cx, sectors, &facts.chunks);
    }
    // What is wrong with the trees or the space map matters more, and says nothing reliable of this.
    if records && cx.report.statistics.journaled > 0 && cx.report.counts.is_empty() {
        replayed::check(cx, changes);
    }
}
