// SPDX-License-Identifier: GPL-2.0
//! Every node of a B-tree, and every entry in it.

use crate::context::Context;
use crate::report::Kind;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_store::node::Node;

/// No tree is deeper: a node that is not the root has at least a third of 252 entries.
const MAX_DEPTH: usize = 16;

/// What a tree is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Tree {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its root.
    pub(crate) root: u64,
    /// Bytes of a value.
    pub(crate) value_size: usize,
    /// What is wrong when its nodes are.
    pub(crate) kind: Option<Kind>,
    /// Whose content is lost with it.
    pub(crate) concerns: Option<TimelineId>,
}

impl Tree {
    /// One of the store's own trees.
    pub(crate) fn new(name: &'static str, root: u64, value_size: usize) -> Self {
        Self {
            name,
            root,
            value_size,
            kind: None,
            concerns: None,
        }
    }

    /// A tree in a tree, of timeline `t`.
    pub(crate) fn of(self, t: TimelineId) -> Self {
        Self {
            concerns: Some(t),
            ..self
        }
    }
}

/// What is done with an entry: its key, its value.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&mut Context<'_>, u64, &[u8]);

/// Calls `visit` with each entry of a tree, in ascending order of keys, without those of nodes
/// that are damaged. True if there are none of these.
pub(crate) fn walk(cx: &mut Context<'_>, tree: Tree, visit: Visit<'_>) -> bool {
    let mut walk = Walk {
        tree,
        leaves: None,
        whole: true,
    };
    walk.node(cx, tree.root, 0, (0, None), visit);
    if !walk.whole && tree.kind.is_none() {
        cx.whole = false;
    }
    walk.whole
}

struct Walk {
    tree: Tree,
    /// How deep leaves are.
    leaves: Option<usize>,
    whole: bool,
}

impl Walk {
    fn damaged(&mut self, cx: &mut Context<'_>, kind: Kind, nr: u64, what: &str) {
        self.whole = false;
        let kind = self.tree.kind.unwrap_or(kind);
        let whose = match self.tree.concerns {
            Some(t) => format!(" of {}", crate::facts::name(t)),
            None => String::new(),
        };
        let what = format!("tree of {}{whose}: block {nr} {what}", self.tree.name);
        cx.found(kind, self.tree.concerns, what);
    }

    /// A node that is to hold keys from `bounds.0` on and below `bounds.1`.
    fn node(
        &mut self,
        cx: &mut Context<'_>,
        nr: u64,
        depth: usize,
        bounds: (u64, Option<u64>),
        visit: Visit<'_>,
    ) {
        if let Err(what) = cx.reach(nr) {
            return self.damaged(cx, Kind::Block, nr, what);
        }
        let block = match cx.read(nr) {
            Ok(block) => block,
            Err(e) => {
                return self.damaged(cx, Kind::Unreadable, nr, &format!("cannot be read: {e}"))
            }
        };
        let node = match Node::check(block, nr) {
            Ok(node) => node,
            Err(what) => return self.damaged(cx, Kind::Block, nr, &format!("is damaged: {what}")),
        };
        if let Err(what) = self.fits(&node, depth, bounds) {
            return self.damaged(cx, Kind::Block, nr, what);
        }
        if node.is_leaf() {
            for i in 0..node.len() {
                let (Some(key), Some(value)) = (node.key(i), node.value(i)) else {
                    break;
                };
                visit(cx, key, value);
            }
            return;
        }
        for i in 0..node.len() {
            let (Some(key), Some(child)) = (node.key(i), node.number(i)) else {
                break;
            };
            let end = node.key(i + 1).or(bounds.1);
            self.node(cx, child, depth + 1, (key, end), visit);
        }
    }

    /// Whether a node fits the place it is at.
    fn fits(
        &mut self,
        node: &Node,
        depth: usize,
        (low, high): (u64, Option<u64>),
    ) -> Result<(), &'static str> {
        if depth >= MAX_DEPTH {
            return Err("is too deep down");
        }
        if node.is_leaf() {
            if node.value_size() != self.tree.value_size {
                return Err("has values of the wrong size");
            }
            if *self.leaves.get_or_insert(depth) != depth {
                return Err("is a leaf at another depth than others");
            }
        } else if self.leaves.is_some_and(|leaves| depth >= leaves) {
            return Err("is no leaf, and deeper down than leaves");
        }
        if depth > 0 && node.len() < node.room() / 3 {
            return Err("has fewer entries than a third of what it has room for");
        }
        let first = node.key(0);
        let last = node.len().checked_sub(1).and_then(|last| node.key(last));
        if first.is_some_and(|key| key < low)
            || last.is_some_and(|key| high.is_some_and(|high| key >= high))
        {
            return Err("has keys that belong elsewhere");
        }
        Ok(())
    }
}
