// SPDX-License-Identifier: GPL-2.0
//! The journal: that its changes can be made in the trees as they are.

use crate::context::Context;
use crate::facts::{name, Facts};
use crate::report::Kind;
use crate::used::Used;
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_store::{journal, Error};
use std::collections::BTreeSet;

/// To be called when all records have been met.
pub(crate) fn check(cx: &mut Context<'_>, facts: &Facts) {
    let entries = match journal::read(cx.blocks(), &cx.superblock) {
        Ok(entries) => entries,
        Err(error) => {
            let kind = match error {
                Error::Io { .. } => Kind::Unreadable,
                _ => Kind::Journal,
            };
            return cx.found(kind, None, format!("journal: {error}"));
        }
    };
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
                timelines.insert(TimelineId::of_snapshot(origin, row.tag));
                cx.report.statistics.journaled += 1;
            }
            Entry::Run(Run::Records { len, .. }) => {
                cx.report.statistics.journaled += u64::from(len);
            }
            Entry::Child { .. } => cx.report.statistics.journaled += 1,
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
