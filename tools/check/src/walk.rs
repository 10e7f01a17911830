// SPDX-License-Identifier: GPL-2.0
//! Every node of a B-tree, and every entry in it.

use crate::context::Context;
use crate::reached::Part;
use crate::report::Kind;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_store::node::Node;
use dm_snap_mv_store::Block;
use std::io;

/// No tree is deeper: a node that is not the root has at least a third of 252 entries.
const MAX_DEPTH: usize = 16;

/// Nodes that are read at a time, on each level.
const BATCH: usize = 64;

/// What a tree is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Tree {
    /// Its root.
    pub(crate) root: u64,
    /// Bytes of a value.
    pub(crate) value_size: usize,
    /// What its blocks belong to.
    pub(crate) part: Part,
    /// Whose content is lost with it.
    pub(crate) concerns: Option<TimelineId>,
}

impl Tree {
    /// One of the store's own trees.
    pub(crate) fn new(part: Part, root: u64, value_size: usize) -> Self {
        Self {
            root,
            value_size,
            part,
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
    walk.top(cx, visit);
    if !walk.whole {
        cx.all_reached = false;
        cx.whole &= tree.part.damage().is_some();
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
        let kind = self.tree.part.damage().unwrap_or(kind);
        let whose = match self.tree.concerns {
            Some(t) => format!(" of {}", crate::facts::name(t)),
            None => String::new(),
        };
        let what = format!("{}{whose}: block {nr} {what}", self.tree.part.name());
        cx.found(kind, self.tree.concerns, what);
    }

    /// The node at the top.
    fn top(&mut self, cx: &mut Context<'_>, visit: Visit<'_>) {
        let nr = self.tree.root;
        if let Err(what) = cx.reach(nr, self.tree.part) {
            return self.damaged(cx, Kind::Block, nr, what);
        }
        let block = cx.read(nr);
        self.node(cx, (nr, block), 0, (0, None), visit);
    }

    /// A node that is to hold keys from `bounds.0` on and below `bounds.1`.
    fn node(
        &mut self,
        cx: &mut Context<'_>,
        (nr, block): (u64, io::Result<Box<Block>>),
        depth: usize,
        bounds: (u64, Option<u64>),
        visit: Visit<'_>,
    ) {
        let block = match block {
            Ok(block) => block,
            Err(e) => {
                return self.damaged(cx, Kind::Unreadable, nr, &format!("cannot be read: {e}"));
            }
        };
        let node = match Node::check(block, nr) {
            Ok(node) => node,
            Err(what) => return self.damaged(cx, Kind::Block, nr, &format!("is damaged: {what}")),
        };
        if let Err(what) = self.fits(&node, depth, bounds) {
            return self.damaged(cx, Kind::Block, nr, what);
        }
        if !node.is_leaf() {
            return self.children(cx, &node, depth, bounds.1, visit);
        }
        for i in 0..node.len() {
            let (Some(key), Some(value)) = (node.key(i), node.value(i)) else {
                break;
            };
            visit(cx, key, value);
        }
    }

    /// All below a node, of which many are read at a time.
    fn children(
        &mut self,
        cx: &mut Context<'_>,
        node: &Node,
        depth: usize,
        end: Option<u64>,
        visit: Visit<'_>,
    ) {
        for first in (0..node.len()).step_by(BATCH) {
            let mut blocks = Vec::with_capacity(BATCH);
            let mut bounds = Vec::with_capacity(BATCH);
            for i in first..node.len().min(first + BATCH) {
                let (Some(key), Some(child)) = (node.key(i), node.number(i)) else {
                    break;
                };
                match cx.reach(child, self.tree.part) {
                    Ok(()) => {
                        blocks.push(child);
                        bounds.push((key, node.key(i + 1).or(end)));
                    }
                    Err(what) => self.damaged(cx, Kind::Block, child, what),
                }
            }
            let read = cx.read_many(&blocks);
            for (child, bounds) in blocks.into_iter().zip(read).zip(bounds) {
                self.node(cx, child, depth + 1, bounds, visit);
            }
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
