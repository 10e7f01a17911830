// SPDX-License-Identifier: GPL-2.0
//! The rows of snapshots, and what rows of origins say of them.

use crate::context::Context;
use crate::facts::{name, Facts, SnapshotFacts};
use crate::journal::Level;
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::Tree;
use dm_snap_mv_model::chain::MAX_DEPTH;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::message::parse_memo;

fn decode(key: u64, value: &[u8]) -> Option<(TimelineId, SnapshotRow)> {
    let t = TimelineId::new(key)?;
    let row = SnapshotRow::decode(value.try_into().ok()?).ok()?;
    (t.snapshot() == Some(row.tag)).then_some((t, row))
}

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Level) {
    let root = cx.superblock.roots.snapshots;
    let tree = Tree::new(Part::Snapshots, root, SnapshotRow::SIZE);
    let mut readable = true;
    let mut largest = (None, 0);
    let whole = merged::walk(cx, Some(tree), changes, &mut |cx, key, value, _| {
        let Some((t, row)) = decode(key, value) else {
            readable = false;
            let (nr, tag) = (key >> 32, key & u64::from(u32::MAX));
            let what = format!("snapshot {tag} of origin {nr}: its row is damaged");
            cx.found(Kind::Snapshot, TimelineId::new(key), what);
            return;
        };
        let depth = check_row(cx, facts, t, &row);
        if row.parent.is_none() {
            // An origin grows only, and they come in the order in which they were taken.
            let of = Some(t.origin());
            if largest.0 == of && row.size < largest.1 {
                let what = format!("{}: it is smaller than one that was taken before", name(t));
                cx.found(
                    Kind::Snapshot,
                    Some(TimelineId::of_origin(t.origin())),
                    what,
                );
            }
            largest = (of, row.size);
        }
        if let Some(origin) = facts.origin_mut(t.origin()) {
            let counts = [
                (row.ghost, &mut origin.ghosts),
                (row.bookmark, &mut origin.bookmarks),
                (row.is_whole(), &mut origin.snapshots),
            ];
            for (_, count) in counts.into_iter().filter(|(is_one, _)| *is_one) {
                *count = count.saturating_add(1);
            }
        }
        facts.snapshots.push(SnapshotFacts {
            t,
            ghost: row.ghost,
            bookmark: row.bookmark,
            parent: row.parent,
            base: row.base_epoch,
            current: row.current_epoch,
            size: row.size,
            children: row.children,
            chunks: row.chunks,
            found_children: 0,
            found_chunks: 0,
            linked: false,
            marked: false,
            depth,
        });
    });
    facts.whole.snapshots = whole && readable;
    check_rollbacks(cx, facts);
}

/// Compares a row with its origin's and its parent's. Returns how deeply it is nested.
fn check_row(cx: &mut Context<'_>, facts: &Facts, t: TimelineId, row: &SnapshotRow) -> usize {
    let unsaid = !cx.superblock.has_versions();
    let mut wrong = |what: &str| {
        cx.found(Kind::Snapshot, Some(t), format!("{}: {what}", name(t)));
    };
    if parse_memo(row.memo.as_bytes()).is_err() {
        wrong("its memo is not plain text");
    }
    if row.bookmark && unsaid {
        wrong("it is a bookmark, of which the superblock says that there are none");
    }
    match facts.origin(t.origin()) {
        Some(origin) => {
            if row.tag >= origin.row.next_tag {
                wrong("its tag has not been given to anybody yet");
            }
            if row.size > origin.row.size {
                wrong("it is larger than its origin");
            }
        }
        None if facts.whole.origins => wrong("there is no such origin"),
        None => {}
    }
    // Parents are older, so they have been seen.
    let base = row.parent_timeline(t.origin());
    match facts.current(base) {
        Some(current) => {
            if row.base_epoch >= current {
                wrong("it is based on an epoch that has not ended");
            }
        }
        None if row.parent.is_some() => wrong("what it was taken of is gone"),
        None => {}
    }
    let parent = facts.snapshot(base);
    if parent.is_some_and(SnapshotFacts::is_only_bookmark) {
        wrong("what it was taken of is a bookmark");
    }
    if parent.is_some_and(|parent| parent.size != row.size) {
        wrong("its size is not that of what it was taken of");
    }
    let depth = parent.map_or(0, |parent| parent.depth) + 1;
    if depth == MAX_DEPTH + 1 {
        wrong("it is nested too deeply");
    }
    depth
}

/// What rows of origins say of the snapshots that they are, or will be, rolled back to.
fn check_rollbacks(cx: &mut Context<'_>, facts: &Facts) {
    let chunk_size = cx.superblock.layout.chunk_size;
    for origin in &facts.origins {
        let row = &origin.row;
        let mut wrong = |what: &str| {
            let what = format!("{}: {what}", name(row.timeline()));
            cx.found(Kind::Rollback, Some(row.timeline()), what);
        };
        if let Some(rollback) = &row.rollback {
            let t = row.timeline_of(rollback.source);
            match facts.snapshot(t) {
                Some(source) if !source.is_only_bookmark() => {
                    if rollback.source_epoch >= source.current {
                        wrong("the pin of its rollback is at an epoch that has not ended");
                    }
                    let fits = chunk_size.end_of(source.size) == Ok(rollback.limit);
                    if !fits || source.size > row.size {
                        wrong("its rollback does not end where what it is rolled back to does");
                    }
                }
                _ if facts.whole.snapshots => {
                    wrong("what it is being rolled back to is gone");
                }
                _ => {}
            }
        }
        if let Some(deferred) = &row.deferred {
            let t = row.timeline_of(deferred.source);
            let source = facts
                .snapshot(t)
                .filter(|source| !source.ghost && !source.bookmark);
            if source.is_none() && facts.whole.snapshots {
                wrong("what it is to be rolled back to is gone");
            }
        }
    }
}
