// SPDX-License-Identifier: GPL-2.0
//! The chunks that a rollback has done ahead of its cursor.

use crate::context::Context;
use crate::facts::Facts;
use crate::journal::{Level, Levels};
use crate::merged;
use crate::reached::Part;
use crate::report::Kind;
use crate::walk::Tree;
use dm_snap_mv_model::ids::{OriginNr, TimelineId};

pub(crate) fn check(cx: &mut Context<'_>, facts: &mut Facts, changes: &mut Levels) {
    let root = cx.superblock.roots.done;
    let tree = Tree::new(Part::Marks, root, 8);
    merged::walk_trees(cx, tree, changes, &mut |cx, key, root, level| {
        let nr = u32::try_from(key).ok().and_then(OriginNr::new);
        let root = match root {
            Some(root) => root.try_into().map(|root| Some(u64::from_le_bytes(root))),
            None => Ok(None),
        };
        let (Some(nr), Ok(root)) = (nr, root) else {
            let what = format!("marks of origin {key}: there can be no such origin");
            cx.found(Kind::Rollback, None, what);
            return;
        };
        let t = TimelineId::of_origin(nr);
        let tree = root.map(|root| Tree { root, ..tree }.of(t));
        check_origin(cx, facts, nr, tree, level);
    });
}

fn check_origin(
    cx: &mut Context<'_>,
    facts: &Facts,
    nr: OriginNr,
    tree: Option<Tree>,
    changes: &mut Level,
) {
    let origin = facts.origin(nr);
    let rollback = origin.and_then(|origin| origin.row.rollback);
    let known = origin.is_some() || facts.whole.origins;
    if rollback.is_none() && known {
        let what = format!("marks of origin {nr}: it is not being rolled back");
        cx.found(Kind::Rollback, None, what);
    }
    let concerns = Some(TimelineId::of_origin(nr));
    merged::walk(cx, tree, changes, &mut |cx, chunk, value, _| {
        let Some(rollback) = &rollback else { return };
        let what = if chunk < rollback.cursor.get() {
            "it is below the cursor"
        } else if chunk >= rollback.limit.get() {
            "it takes no part in the rollback"
        } else if value.iter().any(|&byte| byte != 0) {
            "its value is not 0"
        } else {
            return;
        };
        let what = format!("marks of origin {nr}: chunk {chunk}: {what}");
        cx.found(Kind::Rollback, concerns, what);
    });
}
