// SPDX-License-Identifier: GPL-2.0
//! What is remembered of rows, to be compared with all that refers to them.

use crate::context::Context;
use crate::report::Kind;
use crate::used::Used;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::origin_row::{OriginRow, Rollback};
use dm_snap_mv_model::ids::{Epoch, OriginNr, Tag, TimelineId};

/// An origin, and what was found of it.
pub(crate) struct OriginFacts {
    pub(crate) row: OriginRow,
    pub(crate) snapshots: u32,
    pub(crate) ghosts: u32,
    pub(crate) bookmarks: u32,
    pub(crate) chunks: u64,
    /// The pin of its rollback is there.
    pub(crate) pinned: bool,
    /// Its identity leads to it.
    pub(crate) identified: bool,
}

/// A snapshot, and what was found of it.
pub(crate) struct SnapshotFacts {
    pub(crate) t: TimelineId,
    pub(crate) ghost: bool,
    pub(crate) bookmark: bool,
    pub(crate) parent: Option<Tag>,
    pub(crate) base: Epoch,
    pub(crate) current: Epoch,
    pub(crate) size: u64,
    /// As its row says.
    pub(crate) children: u32,
    pub(crate) chunks: u64,
    /// As found.
    pub(crate) found_children: u32,
    pub(crate) found_chunks: u64,
    /// What it was taken of knows of it.
    pub(crate) linked: bool,
    /// Its origin knows of the bookmark.
    pub(crate) marked: bool,
    /// How many snapshots it is nested in, itself included.
    pub(crate) depth: usize,
}

impl SnapshotFacts {
    /// Whether it is a bookmark only, and no timeline of its own belongs to it.
    pub(crate) fn is_only_bookmark(&self) -> bool {
        self.bookmark && !self.ghost
    }

    /// The timeline that it is based on.
    pub(crate) fn base_timeline(&self) -> TimelineId {
        TimelineId::of(self.t.origin(), self.parent)
    }
}

/// An epoch that something is based on, or that there is a bookmark of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Based {
    pub(crate) t: TimelineId,
    pub(crate) epoch: Epoch,
    pub(crate) tag: u32,
}

/// Those of one timeline, in a list that ascends.
fn of_timeline(all: &[Based], t: TimelineId) -> &[Based] {
    let first = all.partition_point(|based| based.t < t);
    let end = all.partition_point(|based| based.t <= t);
    all.get(first..end).unwrap_or(&[])
}

/// Trees of rows that could be read from end to end: only then something can be missing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Whole {
    pub(crate) origins: bool,
    pub(crate) snapshots: bool,
    pub(crate) cleaning: bool,
    pub(crate) children: bool,
    pub(crate) identities: bool,
    pub(crate) records: bool,
}

/// All of it; each list in ascending order.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) origins: Vec<OriginFacts>,
    pub(crate) snapshots: Vec<SnapshotFacts>,
    pub(crate) cleaning: Vec<(TimelineId, CleaningRow)>,
    pub(crate) based: Vec<Based>,
    /// Of bookmarks.
    pub(crate) marked: Vec<Based>,
    pub(crate) whole: Whole,
    /// COW chunks that belong to records in the trees, as the data space map knows them.
    pub(crate) chunks: Used,
    /// Timelines with garbage that nothing is going to remove.
    pub(crate) lost: Vec<TimelineId>,
}

/// What a timeline is called.
pub(crate) fn name(t: TimelineId) -> String {
    match t.snapshot() {
        Some(tag) => format!("snapshot {tag} of origin {}", t.origin()),
        None => format!("origin {}", t.origin()),
    }
}

impl Facts {
    pub(crate) fn origin(&self, nr: OriginNr) -> Option<&OriginFacts> {
        let found = self.origins.binary_search_by_key(&nr, |o| o.row.number);
        self.origins.get(found.ok()?)
    }

    pub(crate) fn origin_mut(&mut self, nr: OriginNr) -> Option<&mut OriginFacts> {
        let found = self.origins.binary_search_by_key(&nr, |o| o.row.number);
        self.origins.get_mut(found.ok()?)
    }

    pub(crate) fn snapshot(&self, t: TimelineId) -> Option<&SnapshotFacts> {
        let found = self.snapshots.binary_search_by_key(&t, |s| s.t);
        self.snapshots.get(found.ok()?)
    }

    pub(crate) fn snapshot_mut(&mut self, t: TimelineId) -> Option<&mut SnapshotFacts> {
        let found = self.snapshots.binary_search_by_key(&t, |s| s.t);
        self.snapshots.get_mut(found.ok()?)
    }

    pub(crate) fn cleaning(&self, t: TimelineId) -> Option<&CleaningRow> {
        let found = self.cleaning.binary_search_by_key(&t, |&(t, _)| t);
        self.cleaning.get(found.ok()?).map(|(_, row)| row)
    }

    /// The current epoch of a timeline that has a row.
    pub(crate) fn current(&self, t: TimelineId) -> Option<Epoch> {
        match t.is_origin() {
            true => self.origin(t.origin()).map(|o| o.row.current_epoch),
            false => self.snapshot(t).map(|s| s.current),
        }
    }

    /// How many sectors what has this timeline has, as far as it is known: of what is dead not
    /// more than its origin.
    pub(crate) fn size(&self, t: TimelineId) -> Option<u64> {
        match self.snapshot(t) {
            Some(snapshot) => Some(snapshot.size),
            None => self.origin(t.origin()).map(|origin| origin.row.size),
        }
    }

    /// Whether a timeline has lost its row, and is being removed as a whole.
    pub(crate) fn is_dead(&self, t: TimelineId) -> bool {
        self.cleaning(t).is_some_and(|row| row.drop)
    }

    /// Whether it is known that a timeline has no row, rather than that the row cannot be read.
    pub(crate) fn is_rowless(&self, t: TimelineId) -> bool {
        match t.is_origin() {
            true => self.whole.origins && self.origin(t.origin()).is_none(),
            false => {
                let snapshot = self.snapshot(t);
                self.whole.snapshots && snapshot.is_none_or(SnapshotFacts::is_only_bookmark)
            }
        }
    }

    /// The epochs of a timeline that something is based on, ascending.
    pub(crate) fn based(&self, t: TimelineId) -> &[Based] {
        of_timeline(&self.based, t)
    }

    /// The epochs of a timeline that there are bookmarks of, ascending.
    pub(crate) fn marked(&self, t: TimelineId) -> &[Based] {
        of_timeline(&self.marked, t)
    }

    /// Compares what rows say with what was found.
    pub(crate) fn compare(&self, cx: &mut Context<'_>, records: bool) {
        for origin in &self.origins {
            self.compare_origin(cx, origin, records);
        }
        for snapshot in &self.snapshots {
            self.compare_snapshot(cx, snapshot, records);
        }
        let found = self.origins.len() as u64;
        let said = u64::from(cx.superblock.nr_origins);
        if self.whole.origins && found != said {
            let what = format!("superblock: it counts {said} origins, there are {found}");
            cx.found(miscounted(said, found), None, what);
        }
        let statistics = &mut cx.report.statistics;
        statistics.origins = found;
        statistics.ghosts = self.snapshots.iter().filter(|s| s.ghost).count() as u64;
        statistics.bookmarks = self.snapshots.iter().filter(|s| s.bookmark).count() as u64;
        let only = self.snapshots.iter().filter(|s| s.is_only_bookmark());
        statistics.snapshots =
            self.snapshots.len() as u64 - statistics.ghosts - only.count() as u64;
        statistics.cleaning = self.cleaning.len() as u64;
        let rollbacks = self.origins.iter().filter(|o| o.row.rollback.is_some());
        statistics.rollbacks = rollbacks.count() as u64;
    }

    fn compare_origin(&self, cx: &mut Context<'_>, origin: &OriginFacts, records: bool) {
        let row = &origin.row;
        let t = row.timeline();
        let nr = row.number;
        if self.whole.snapshots {
            count_snapshots(cx, origin);
        }
        if records && self.whole.records {
            count_chunks(cx, t, row.chunks, origin.chunks);
        }
        if self.whole.identities && !origin.identified {
            let what = format!("identities: none leads to origin {nr}");
            cx.found(Kind::Identity, None, what);
        }
        if row.rollback.is_some() && self.whole.children && !origin.pinned {
            let what = format!("origin {nr}: its rollback has no pin");
            cx.found(Kind::Rollback, Some(t), what);
        }
        if let Some(rollback) = &row.rollback {
            self.compare_boundary(cx, t, rollback);
        }
    }

    /// No snapshot ended the epoch that a rollback has ended, and what was taken before that is not
    /// based on a later one, nor the other way round.
    fn compare_boundary(&self, cx: &mut Context<'_>, t: TimelineId, rollback: &Rollback) {
        let boundary = rollback.boundary;
        let mut wrong = |what: &str| {
            let what = format!(
                "{}: its rollback began at epoch {}, {what}",
                name(t),
                boundary.get()
            );
            cx.found(Kind::Rollback, Some(t), what);
        };
        if self.based(t).iter().any(|based| based.epoch == boundary) {
            wrong("and a snapshot has ended that");
        }
        if self.marked(t).iter().any(|based| based.epoch == boundary) {
            wrong("and a bookmark has ended that");
        }
        let of_it = self.snapshots.iter().filter(|s| s.t.origin() == t.origin());
        for snapshot in of_it.filter(|s| s.parent.is_none() && s.base > boundary) {
            if snapshot.t.snapshot() <= Some(rollback.source) {
                wrong(&format!("and {} was taken before", name(snapshot.t)));
            }
        }
        if self
            .base_of(t, rollback.source)
            .is_some_and(|base| base >= boundary)
        {
            wrong("before what it is rolled back to was taken");
        }
    }

    /// The epoch of the origin's timeline `t` that a snapshot is based on in the end.
    fn base_of(&self, t: TimelineId, tag: Tag) -> Option<Epoch> {
        let mut snapshot = self.snapshot(TimelineId::of_snapshot(t.origin(), tag))?;
        // A parent has a smaller tag.
        while snapshot.parent.is_some() {
            snapshot = self.snapshot(snapshot.base_timeline())?;
        }
        Some(snapshot.base)
    }

    fn compare_snapshot(&self, cx: &mut Context<'_>, snapshot: &SnapshotFacts, records: bool) {
        let t = snapshot.t;
        if self.whole.children {
            count(
                cx,
                t,
                "children",
                snapshot.children,
                snapshot.found_children,
            );
            if snapshot.bookmark && !snapshot.marked {
                let what = format!(
                    "{}: {} has no entry for its bookmark at epoch {}",
                    name(t),
                    name(snapshot.base_timeline()),
                    snapshot.base.get()
                );
                cx.found(Kind::Child, Some(t), what);
            }
            if !snapshot.linked && !snapshot.is_only_bookmark() {
                let what = format!(
                    "{}: {} has no entry for it at epoch {}",
                    name(t),
                    name(snapshot.base_timeline()),
                    snapshot.base.get()
                );
                cx.found(Kind::Child, Some(t), what);
            }
            if snapshot.ghost && snapshot.found_children == 0 {
                let what = format!("{}: it was deleted, and stays for nothing", name(t));
                cx.found(Kind::Snapshot, None, what);
            }
        }
        if records && self.whole.records {
            count_chunks(cx, t, snapshot.chunks, snapshot.found_chunks);
        }
    }
}

/// What it is that a row counts something otherwise than it was found: something is gone that there was,
/// or there is something again that has gone.
fn miscounted(said: u64, found: u64) -> Kind {
    match said > found {
        true => Kind::Missing,
        false => Kind::Count,
    }
}

fn count(
    cx: &mut Context<'_>,
    t: TimelineId,
    of: &str,
    said: impl Into<u64>,
    found: impl Into<u64>,
) {
    let (said, found) = (said.into(), found.into());
    if said != found {
        let what = format!("{}: it counts {said} {of}, there are {found}", name(t));
        cx.found(miscounted(said, found), Some(t), what);
    }
}

/// Whether a snapshot was deleted says its row, and what its origin's row counts.
fn count_snapshots(cx: &mut Context<'_>, origin: &OriginFacts) {
    let (row, t) = (&origin.row, origin.row.timeline());
    count(cx, t, "bookmarks", row.bookmarks, origin.bookmarks);
    let said = u64::from(row.snapshots) + u64::from(row.ghosts);
    let found = u64::from(origin.snapshots) + u64::from(origin.ghosts);
    if said == found && row.ghosts != origin.ghosts {
        let what = format!(
            "{}: it counts {} snapshots and {} that were deleted, there are {} and {}: a \
             snapshot's row is wrong about that",
            name(t),
            row.snapshots,
            row.ghosts,
            origin.snapshots,
            origin.ghosts
        );
        cx.found(Kind::Snapshot, Some(t), what);
        return;
    }
    count(cx, t, "snapshots", row.snapshots, origin.snapshots);
    count(cx, t, "ghosts", row.ghosts, origin.ghosts);
}

/// Nobody else knows whose a record is: if there are too many, the tree may be another's.
fn count_chunks(cx: &mut Context<'_>, t: TimelineId, said: u64, found: u64) {
    let what = match said {
        _ if said > found => "records are missing",
        _ if said < found => "records may be another's",
        _ => return,
    };
    let what = format!(
        "{}: it counts {said} COW chunks, there are {found}: {what}",
        name(t)
    );
    cx.found(Kind::Missing, Some(t), what);
}
