// SPDX-License-Identifier: GPL-2.0
//! Checks a store of dm-snap-mv: that everything in it can be read, and that no two things in
//! it contradict each other.
//!
//! Nothing that is read is trusted. Each metadata block is read once, or twice if it belongs to
//! a space map, whatever leads to it, so there is no endless loop. What is kept in memory is a
//! byte for each metadata block, a bit for each COW chunk (in pieces that come with the first
//! chunk in them), and a few numbers for each origin and snapshot.

#![forbid(unsafe_code)]

pub mod build;
mod children;
mod cleaning;
mod context;
mod facts;
mod identities;
mod marks;
mod origins;
mod records;
mod report;
mod snapshots;
mod space;
mod superblock;
mod used;
mod walk;

pub use report::{Finding, Kind, Outcome, Quiet, Report, Statistics, Watch};

use context::Context;
use dm_snap_mv_store::Blocks;
use facts::Facts;

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
    let superblock = match superblock::check(blocks, sectors, watch) {
        Ok(superblock) => superblock,
        Err(report) => return *report,
    };
    let mut cx = Context::new(blocks, superblock, watch);
    superblock::flags(&mut cx);
    if !options.super_only {
        all(&mut cx, sectors, options);
    }
    cx.end()
}

fn all(cx: &mut Context<'_>, sectors: u64, options: Options) {
    let mut facts = Facts::default();
    origins::check(cx, &mut facts);
    snapshots::check(cx, &mut facts);
    cleaning::check(cx, &mut facts);
    children::check(cx, &mut facts);
    marks::check(cx, &mut facts);
    identities::check(cx, &mut facts);
    if !options.skip_records {
        records::check(cx, &mut facts);
    }
    facts.compare(cx, !options.skip_records);
    if !options.skip_records {
        space::check(cx, sectors, &facts.chunks);
    }
}
