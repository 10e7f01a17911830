// SPDX-License-Identifier: GPL-2.0
//! The journal. What it changes is made in what the trees say while these are walked, so that all
//! else is checked as it is after the next activation. What nobody would see then is checked here.

use crate::context::Context;
use crate::facts::{name, Facts};
use crate::report::Kind;
use crate::used::Used;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, key_behind, RecordValue,
};
use dm_snap_mv_store::{journal, Error};
use std::collections::BTreeMap;

/// What becomes of one entry of a tree.
#[derive(Default)]
pub(crate) struct Change {
    /// What it is in the end; none: it is gone.
    pub(crate) value: Option<Vec<u8>>,
    /// What it is in the tree, when that has been walked.
    pub(crate) before: Option<Vec<u8>>,
    /// It goes, and nothing in the journal has brought it before.
    needed: bool,
}

/// The changes of a tree.
pub(crate) type Level = BTreeMap<u64, Change>;

/// Those of a tree of trees.
pub(crate) type Levels = BTreeMap<u64, Level>;

/// All that the journal changes.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) origins: Level,
    pub(crate) snapshots: Level,
    pub(crate) cleaning: Level,
    pub(crate) records: Levels,
    pub(crate) children: Levels,
    pub(crate) marks: Levels,
    /// COW chunks that come into use.
    pub(crate) used: Used,
    /// The same as (first, length).
    runs: Vec<(u64, u64)>,
    /// There may be more, which cannot be read.
    may_go_on: bool,
}

fn put(level: &mut Level, key: u64, value: &[u8]) {
    level.entry(key).or_default().value = Some(value.to_vec());
}

/// Takes something away; false if it has gone before.
fn take(level: &mut Level, key: u64) -> bool {
    match level.get_mut(&key) {
        Some(change) => change.value.take().is_some(),
        None => {
            let needed = true;
            level.insert(
                key,
                Change {
                    needed,
                    ..Change::default()
                },
            );
            true
        }
    }
}

/// Reads it. If that is not possible, all else is checked without.
pub(crate) fn read(cx: &mut Context<'_>) -> Option<Changes> {
    let (blocks, superblock) = (cx.blocks(), cx.superblock.clone());
    let mut changes = Changes::default();
    let read = journal::read(blocks, &superblock, &mut |entry| changes.note(cx, entry));
    let Err(error) = read else {
        return Some(changes);
    };
    if let Error::JournalEnd { .. } = error {
        cx.found(Kind::JournalEnd, None, format!("journal: {error}"));
        changes.may_go_on = true;
        return Some(changes);
    }
    cx.found(Kind::Journal, None, format!("journal: {error}"));
    cx.report.statistics.journaled = 0;
    None
}

impl Changes {
    /// Runs of COW chunks that come into use, as (first, length).
    pub(crate) fn used_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().copied()
    }

    fn note(&mut self, cx: &mut Context<'_>, entry: &Entry) {
        cx.report.statistics.journaled += match *entry {
            Entry::Run(Run::Records { len, .. }) => u64::from(len),
            Entry::Run(Run::Done { len, .. }) => len,
            _ => 1,
        };
        match *entry {
            Entry::Run(ref run) => self.note_run(cx, run),
            Entry::Origin(ref row) => {
                let mut bytes = [0; OriginRow::SIZE];
                row.encode(&mut bytes);
                put(&mut self.origins, row.number.get().into(), &bytes);
            }
            Entry::Snapshot(origin, ref row) => {
                let mut bytes = [0; SnapshotRow::SIZE];
                row.encode(&mut bytes);
                put(&mut self.snapshots, row.timeline(origin).get(), &bytes);
            }
            Entry::Child {
                timeline,
                epoch,
                tag,
            } => {
                let level = self.children.entry(timeline.get()).or_default();
                put(level, child_key(epoch), &u64::from(tag).to_le_bytes());
            }
            Entry::Bookmark {
                timeline,
                epoch,
                tag,
            } => {
                let level = self.children.entry(timeline.get()).or_default();
                put(level, bookmark_key(epoch), &u64::from(tag).to_le_bytes());
            }
            Entry::Cleaning(t, ref row) => {
                let mut bytes = [0; CleaningRow::SIZE];
                row.encode(&mut bytes);
                put(&mut self.cleaning, t.get(), &bytes);
            }
            Entry::NoSnapshot(t) => {
                if !take(&mut self.snapshots, t.get()) {
                    no_snapshot(cx, t);
                }
            }
            Entry::NoChild { timeline: t, epoch } => {
                let level = self.children.entry(t.get()).or_default();
                if !take(level, child_key(epoch)) {
                    no_child(cx, t, child_key(epoch));
                }
            }
            Entry::NoBookmark { timeline: t, epoch } => {
                let level = self.children.entry(t.get()).or_default();
                if !take(level, bookmark_key(epoch)) {
                    no_child(cx, t, bookmark_key(epoch));
                }
            }
        }
    }

    /// It is known that there are no more than [`journal::MOST`] of all.
    fn note_run(&mut self, cx: &mut Context<'_>, run: &Run) {
        match *run {
            Run::Records {
                timeline: t,
                key,
                value,
                len,
            } => {
                let level = self.records.entry(t.get()).or_default();
                for i in 0..u64::from(len) {
                    if let (Some(key), Some(value)) = (key_behind(key, i), value.plus(i)) {
                        put(level, key, &value.encode().to_le_bytes());
                    }
                }
            }
            Run::Use { start, len } => {
                for chunk in start.get()..start.get() + len {
                    if !self.used.insert(chunk) {
                        in_use(cx, chunk);
                    }
                }
                self.runs.push((start.get(), len));
            }
            Run::Done { origin, start, len } => {
                let level = self.marks.entry(origin.get().into()).or_default();
                for i in 0..len {
                    put(level, start.plus(i).get(), &[0; 8]);
                }
            }
        }
    }
}

fn in_use(cx: &mut Context<'_>, chunk: u64) {
    let what = format!("journal: COW chunk {chunk} comes into use and is");
    cx.found(Kind::Journal, None, what);
}

fn no_snapshot(cx: &mut Context<'_>, t: TimelineId) {
    let what = format!("journal: {} goes, and is not there", name(t));
    cx.found(Kind::Journal, Some(t), what);
}

fn no_child(cx: &mut Context<'_>, t: TimelineId, key: u64) {
    let what = match bookmark_epoch(key) {
        Ok(epoch) => format!(
            "journal: there is no bookmark of epoch {} of {}, and that goes",
            epoch.get(),
            name(t)
        ),
        Err(_) => format!(
            "journal: nothing is based on epoch {} of {}, and that goes",
            child_epoch(key).map_or(0, |epoch| epoch.get()),
            name(t)
        ),
    };
    cx.found(Kind::Journal, Some(t), what);
}

/// Whether something goes that is not in the tree.
fn is_missing(change: &Change) -> bool {
    change.needed && change.before.is_none()
}

/// What is left to be said when all trees have been walked; those of records perhaps not.
pub(crate) fn check(cx: &mut Context<'_>, facts: &Facts, changes: &Changes, records: bool) {
    let origins = facts.origins.iter();
    for origin in origins.filter(|origin| changes.may_go_on && origin.snapshots > 0) {
        let t = origin.row.timeline();
        let what = format!(
            "journal: without its end, snapshots of {} may lack what was written to them last, and have \
             what was written to it",
            name(t)
        );
        cx.found(Kind::JournalEnd, Some(t), what);
    }
    if facts.whole.snapshots {
        let missing = changes.snapshots.iter().filter(|(_, c)| is_missing(c));
        for t in missing.filter_map(|(&key, _)| TimelineId::new(key)) {
            no_snapshot(cx, t);
        }
    }
    if facts.whole.children {
        for (&t, level) in &changes.children {
            let Some(t) = TimelineId::new(t) else {
                continue;
            };
            for (&key, _) in level.iter().filter(|(_, change)| is_missing(change)) {
                no_child(cx, t, key);
            }
        }
    }
    let referenced = check_records(cx, changes);
    for &(start, len) in &changes.runs {
        for chunk in start..start + len {
            if records && facts.chunks.contains(chunk) {
                in_use(cx, chunk);
            }
            if !referenced.contains(chunk) {
                let what =
                    format!("journal: COW chunk {chunk} comes into use, and no record is of it");
                cx.found(Kind::Journal, None, what);
            }
        }
    }
}

/// Looks at where the content of new records is. Returns the COW chunks that they are of.
fn check_records(cx: &mut Context<'_>, changes: &Changes) -> Used {
    let chunks = cx.superblock.layout.data_chunks;
    let cow = |value: &Option<Vec<u8>>| {
        let bytes = value.as_deref()?.try_into().ok()?;
        match RecordValue::decode(u64::from_le_bytes(bytes), chunks) {
            Ok(RecordValue::Cow(cow)) => Some(cow.get()),
            _ => None,
        }
    };
    let mut referenced = Used::default();
    for (&t, level) in &changes.records {
        let Some(t) = TimelineId::new(t) else {
            continue;
        };
        let mut wrong = |what: String| {
            let what = format!("journal: a record of {} {what}", name(t));
            cx.found(Kind::Journal, Some(t), what);
        };
        for change in level.values() {
            if let Some(chunk) = cow(&change.before) {
                wrong(format!(
                    "takes the place of one of COW chunk {chunk}, which is not freed"
                ));
            }
            let Some(chunk) = cow(&change.value) else {
                continue;
            };
            if !changes.used.contains(chunk) {
                wrong(format!(
                    "is of COW chunk {chunk}, which does not come into use"
                ));
            } else if !referenced.insert(chunk) {
                wrong(format!(
                    "is of COW chunk {chunk}, which belongs to another one as well"
                ));
            }
        }
    }
    referenced
}
