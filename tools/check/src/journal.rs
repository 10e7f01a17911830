// SPDX-License-Identifier: GPL-2.0
//! The journal: that its changes can be made in the trees as they are.

use crate::context::Context;
use crate::facts::{name, Based, Facts};
use crate::report::Kind;
use crate::used::Used;
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_store::{journal, Error};
use std::collections::{BTreeMap, BTreeSet};

/// To be called when all records have been met.
pub(crate) fn check(cx: &mut Context<'_>, facts: &Facts) {
    let mut entries = Vec::new();
    let gather = &mut |entry: &Entry| entries.push(*entry);
    if let Err(error) = journal::read(cx.blocks(), &cx.superblock, gather) {
        let kind = match error {
            Error::Io { .. } => Kind::Unreadable,
            _ => Kind::Journal,
        };
        return cx.found(kind, None, format!("journal: {error}"));
    }
    // What comes and goes by it, on top of what the trees say.
    let mut snapshots = BTreeMap::new();
    let mut based = BTreeMap::new();
    let mut used = Used::default();
    let mut timelines = BTreeSet::new();
    for entry in &entries {
        match *entry {
            Entry::Run(Run::Use { start, len }) => {
                for chunk in start.get()..start.get() + len {
                    if !used.insert(chunk) || facts.chunks.contains(chunk) {
                        let what = format!("journal: COW chunk {chunk} comes into use and is");
                        cx.found(Kind::Journal, None, what);
                    }
                }
                cx.report.statistics.journaled += 1;
            }
            Entry::Origin(ref row) => {
                timelines.insert(row.timeline());
                cx.report.statistics.journaled += 1;
            }
            Entry::Snapshot(origin, ref row) => {
                let t = TimelineId::of_snapshot(origin, row.tag);
                timelines.insert(t);
                snapshots.insert(t, true);
                cx.report.statistics.journaled += 1;
            }
            Entry::NoSnapshot(t) => {
                let before = snapshots.insert(t, false);
                let there = before.unwrap_or_else(|| facts.snapshot(t).is_some());
                if !there && facts.whole.snapshots {
                    let what = format!("journal: {} goes, and is not there", name(t));
                    cx.found(Kind::Journal, Some(t), what);
                }
                cx.report.statistics.journaled += 1;
            }
            Entry::Child {
                timeline, epoch, ..
            } => {
                based.insert((timeline, epoch), true);
                cx.report.statistics.journaled += 1;
            }
            Entry::NoChild { timeline: t, epoch } => {
                let before = based.insert((t, epoch), false);
                let known = Based { t, epoch };
                let there = before.unwrap_or_else(|| facts.based.binary_search(&known).is_ok());
                if !there && facts.whole.children {
                    let what = format!(
                        "journal: nothing is based on epoch {} of {}, and that goes",
                        epoch.get(),
                        name(t)
                    );
                    cx.found(Kind::Journal, Some(t), what);
                }
                cx.report.statistics.journaled += 1;
            }
            Entry::Run(Run::Records { len, .. }) => {
                cx.report.statistics.journaled += u64::from(len);
            }
            Entry::Cleaning(..) => cx.report.statistics.journaled += 1,
            Entry::Run(Run::Done { len, .. }) => cx.report.statistics.journaled += len,
        }
    }
    for entry in &entries {
        let Entry::Run(Run::Records {
            timeline: t,
            value,
            len,
            ..
        }) = *entry
        else {
            continue;
        };
        if !timelines.contains(&t) && facts.current(t).is_none() {
            let what = format!("journal: records of {}, which is not there", name(t));
            cx.found(Kind::Journal, Some(t), what);
        }
        if let RecordValue::Cow(cow) = value {
            let mut run = cow.get()..cow.get() + u64::from(len);
            if let Some(chunk) = run.find(|&chunk| !used.contains(chunk)) {
                let what = format!(
                    "journal: a record of {} is of COW chunk {chunk}, which does not come into use",
                    name(t)
                );
                cx.found(Kind::Journal, Some(t), what);
            }
        }
    }
}
