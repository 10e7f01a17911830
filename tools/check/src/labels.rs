// SPDX-License-Identifier: GPL-2.0
//! The labels of snapshots and bookmarks.

use crate::context::Context;
use crate::facts::{name, Facts};
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::{walk, Tree};
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::label::is_text;

/// They are written with the trees only, so that the journal has nothing to say of them but what is gone.
pub(crate) fn check(cx: &mut Context<'_>, facts: &Facts) {
    let root = cx.superblock.roots.labels;
    if root == 0 {
        return;
    }
    let tree = Tree::new(Part::Labels, root, LabelRow::SIZE);
    walk(cx, tree, &mut |cx, key, value| {
        let t = TimelineId::new(key);
        if let Some(what) = fault(facts, t, value) {
            let whose = t.map_or_else(|| format!("{key:#x}"), name);
            cx.found(Kind::Label, None, format!("label of {whose}: {what}"));
        }
    });
}

fn fault(facts: &Facts, t: Option<TimelineId>, value: &[u8]) -> Option<&'static str> {
    let row = value
        .try_into()
        .ok()
        .and_then(|value| LabelRow::decode(value).ok());
    let Some(row) = row else {
        return Some("it is damaged");
    };
    if !is_text(row.name.as_bytes()) || !is_text(row.policy.as_bytes()) {
        return Some("it is not plain text");
    }
    let of = t.and_then(|t| facts.snapshot(t));
    match of {
        Some(snapshot) if !snapshot.ghost || snapshot.bookmark => None,
        Some(_) => Some("what it is of has been deleted"),
        None if facts.whole.snapshots => Some("there is no such snapshot or bookmark"),
        None => None,
    }
}
