// SPDX-License-Identifier: GPL-2.0
//! Trees in a tree: one for each timeline.

use crate::context::Context;
use crate::journal::{Level, Levels};
use crate::merged;
use crate::report::Kind;
use crate::walk::Tree;
use dm_snap_mv_model::ids::TimelineId;

/// What is done with a timeline: its tree, if there is one yet, and the changes of that. Returns
/// whether it was whole.
pub(crate) type Visit<'v> =
    &'v mut dyn FnMut(&mut Context<'_>, TimelineId, Option<Tree>, &mut Level) -> bool;

/// Calls `visit` with each timeline that has a tree in this one, in ascending order, and with those
/// that the journal begins. A key that is no timeline's is found as `kind`, `what` being what the
/// trees hold. Returns whether all of it was whole.
pub(crate) fn walk(
    cx: &mut Context<'_>,
    tree: Tree,
    (kind, what): (Kind, &str),
    changes: &mut Levels,
    visit: Visit<'_>,
) -> bool {
    let mut below = true;
    let whole = merged::walk_trees(cx, tree, changes, &mut |cx, key, root, level| {
        let Some((t, root)) = subtree(key, root) else {
            below = false;
            let what = format!("{what} of timeline {key:#x}: there can be no such timeline");
            cx.found(kind, None, what);
            return;
        };
        let tree = root.map(|root| Tree { root, ..tree }.of(t));
        below &= visit(cx, t, tree, level);
    });
    whole && below
}

/// What leads to a tree in a tree by timeline, if that is there yet.
fn subtree(key: u64, value: Option<&[u8]>) -> Option<(TimelineId, Option<u64>)> {
    let root = match value {
        Some(value) => Some(u64::from_le_bytes(value.try_into().ok()?)),
        None => None,
    };
    Some((TimelineId::new(key)?, root))
}
