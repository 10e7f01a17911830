// SPDX-License-Identifier: GPL-2.0
//! The epochs that snapshots and rollbacks are based on, and those that there are bookmarks of.

use crate::context::Context;
use crate::facts::{name, Based, Facts};
use crate::journal::{Level, Levels};
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::timelines;
use crate::walk::Tree;
use dm_snap_mv_model::ids::{Epoch, Tag, TimelineId};
use dm_snap_mv_model::record_key::{bookmark_epoch, child_epoch, is_behind_children};

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Levels) {
    let root = cx.superblock.roots.children;
    let tree = Tree::new(Part::Children, root, 8);
    let whole = timelines::walk(
        cx,
        tree,
        (Kind::Child, "children"),
        changes,
        &mut |cx, t, tree, level| check_timeline(cx, facts, t, tree, level),
    );
    facts.whole.children = whole;
    // Timelines came in order, but the latest epoch of each first.
    facts.based.sort_unstable();
    facts.marked.sort_unstable();
}

fn check_timeline(
    cx: &mut Context<'_>,
    facts: &mut Facts,
    t: TimelineId,
    tree: Option<Tree>,
    changes: &mut Level,
) -> bool {
    let current = facts.current(t);
    let dead = facts.is_dead(t);
    if current.is_none() && !dead && facts.is_rowless(t) && facts.whole.cleaning {
        let what = format!("children of {}: there is no such thing", name(t));
        cx.found(Kind::Child, None, what);
    }
    let mut newest = Tag::new(u32::MAX);
    let mut newest_bookmark = newest;
    let mut readable = true;
    let whole = merged::walk(cx, tree, changes, &mut |cx, key, value, _| {
        let number = value.try_into().map(u64::from_le_bytes);
        let tag = number.ok().and_then(|number| u32::try_from(number).ok());
        let is_bookmark = is_behind_children(key);
        let epoch = match is_bookmark {
            true => bookmark_epoch(key),
            false => child_epoch(key),
        };
        let (Ok(epoch), Some(tag)) = (epoch, tag) else {
            readable = false;
            let what = format!("children of {}: entry {key:#x} is damaged", name(t));
            cx.found(Kind::Child, Some(t), what);
            return;
        };
        let list = match is_bookmark {
            true => &mut facts.marked,
            false => &mut facts.based,
        };
        list.push(Based { t, epoch, tag });
        let unsaid = is_bookmark && !cx.superblock.has_versions();
        let mut wrong = |what: &str| {
            let what = format!("children of {}: epoch {}: {what}", name(t), epoch.get());
            cx.found(Kind::Child, Some(t), what);
        };
        if current.is_some_and(|current| epoch >= current) {
            wrong("it has not ended");
        }
        if is_bookmark {
            if unsaid {
                wrong("there is a bookmark, of which the superblock says that there are none");
            }
            let tag = Tag::new(tag);
            if tag >= newest_bookmark {
                wrong("its bookmark is younger than that of a later epoch");
            }
            newest_bookmark = tag;
            if !mark(facts, t, epoch, tag) {
                wrong("there is no such bookmark");
            }
            return;
        }
        if let Some(parent) = facts.snapshot_mut(t) {
            parent.found_children = parent.found_children.saturating_add(1);
        }
        match Tag::new(tag) {
            None => {
                if !pin(facts, t, epoch) {
                    wrong("it is pinned for a rollback that there is not");
                }
            }
            Some(tag) => {
                if newest.is_some_and(|newest| tag >= newest) {
                    wrong("its snapshot is younger than that of a later epoch");
                }
                newest = Some(tag);
                if !link(facts, t, epoch, tag) {
                    wrong(&format!("snapshot {tag} is not based on it"));
                }
            }
        }
    });
    whole && readable
}

/// Notes the pin of a rollback; false if there is no such rollback.
fn pin(facts: &mut Facts, t: TimelineId, epoch: Epoch) -> bool {
    let unknown = !facts.whole.origins;
    let Some(origin) = facts.origin_mut(t.origin()) else {
        return unknown;
    };
    let rollback = origin.row.rollback.as_ref();
    let mine = rollback.is_some_and(|rollback| {
        Some(rollback.source) == t.snapshot() && rollback.source_epoch == epoch
    });
    origin.pinned |= mine;
    mine
}

/// Notes that a bookmark's origin knows of it; false if there is no such bookmark.
fn mark(facts: &mut Facts, t: TimelineId, epoch: Epoch, tag: Option<Tag>) -> bool {
    let unknown = !facts.whole.snapshots;
    let Some(tag) = tag.filter(|_| t.is_origin()) else {
        return false;
    };
    let Some(bookmark) = facts.snapshot_mut(TimelineId::of_snapshot(t.origin(), tag)) else {
        return unknown;
    };
    let mine = bookmark.bookmark && bookmark.base == epoch;
    bookmark.marked |= mine;
    mine
}

/// Notes that a snapshot's parent knows of it; false if there is no such snapshot.
fn link(facts: &mut Facts, t: TimelineId, epoch: Epoch, tag: Tag) -> bool {
    let unknown = !facts.whole.snapshots;
    let child = TimelineId::of_snapshot(t.origin(), tag);
    let Some(child) = facts.snapshot_mut(child) else {
        return unknown;
    };
    let mine = child.base_timeline() == t && child.base == epoch;
    child.linked |= mine;
    mine
}
