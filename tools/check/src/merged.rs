// SPDX-License-Identifier: GPL-2.0
//! What a tree and the journal say together.

use crate::context::Context;
use crate::journal::{Level, Levels};
use crate::walk::{self, Tree};

/// What is done with an entry: its key, its value, and whether that is the journal's.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&mut Context<'_>, u64, &[u8], bool);

/// As [`walk::walk`], with the changes made. There may be no tree yet. What the tree has is noted
/// in the changes.
pub(crate) fn walk(
    cx: &mut Context<'_>,
    tree: Option<Tree>,
    changes: &mut Level,
    visit: Visit<'_>,
) -> bool {
    let mut changes = changes.iter_mut().peekable();
    let whole = tree.is_none_or(|tree| {
        walk::walk(cx, tree, &mut |cx, key, value| {
            while let Some((&key, change)) = changes.next_if(|(new, _)| **new < key) {
                if let Some(value) = &change.value {
                    visit(cx, key, value, true);
                }
            }
            let Some((_, change)) = changes.next_if(|(new, _)| **new == key) else {
                return visit(cx, key, value, false);
            };
            change.before = Some(value.to_vec());
            if let Some(value) = &change.value {
                visit(cx, key, value, true);
            }
        })
    });
    for (&key, change) in changes {
        if let Some(value) = &change.value {
            visit(cx, key, value, true);
        }
    }
    whole
}

/// What is done with a tree in a tree: its key, its root if there is one yet, and its changes.
pub(crate) type VisitTree<'v> = &'v mut dyn FnMut(&mut Context<'_>, u64, Option<&[u8]>, &mut Level);

/// Calls `visit` with each tree in a tree, in ascending order of keys, and with those that the
/// journal begins.
pub(crate) fn walk_trees(
    cx: &mut Context<'_>,
    tree: Tree,
    changes: &mut Levels,
    visit: VisitTree<'_>,
) -> bool {
    let mut changes = changes.iter_mut().peekable();
    let whole = walk::walk(cx, tree, &mut |cx, key, root| {
        while let Some((&key, level)) = changes.next_if(|(new, _)| **new < key) {
            begun(cx, key, level, visit);
        }
        match changes.next_if(|(new, _)| **new == key) {
            Some((_, level)) => visit(cx, key, Some(root), level),
            None => visit(cx, key, Some(root), &mut Level::new()),
        }
    });
    for (&key, level) in changes {
        begun(cx, key, level, visit);
    }
    whole
}

/// A tree of the journal's alone, unless all in it has come and gone.
fn begun(cx: &mut Context<'_>, key: u64, level: &mut Level, visit: VisitTree<'_>) {
    if level.values().any(|change| change.value.is_some()) {
        visit(cx, key, None, level);
    }
}
