// SPDX-License-Identifier: GPL-2.0
//! Looking things up in a B-tree of dm-persistent-data, one level of it: the trees of two
//! levels hold, as values of the first, the roots of trees of the second.

use crate::block::Blocks;
use crate::error::{Error, Result};
use crate::node::Node;
use std::ops::ControlFlow;

/// No tree is deeper: a node that is not the root has at least a third of 252 entries.
const MAX_DEPTH: usize = 16;

/// A tree, given by its root.
pub struct Btree<'a> {
    blocks: &'a dyn Blocks,
    root: u64,
    value_size: usize,
    /// It has no more nodes than that.
    most: u64,
}

impl<'a> Btree<'a> {
    /// The tree whose root is block `root` and whose values have `value_size` bytes, in a store
    /// with `most` metadata blocks.
    pub fn new(blocks: &'a dyn Blocks, root: u64, value_size: usize, most: u64) -> Self {
        Self {
            blocks,
            root,
            value_size,
            most,
        }
    }

    fn node(&self, nr: u64) -> Result<Node> {
        let block = self
            .blocks
            .read(nr)
            .map_err(|source| Error::Io { block: nr, source })?;
        let node = Node::new(block, nr)?;
        if node.is_leaf() && node.value_size() != self.value_size {
            return Err(Error::Damaged {
                block: nr,
                what: "its values have the wrong size",
            });
        }
        Ok(node)
    }

    /// The value of `key`.
    pub fn lookup(&self, key: u64) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.walk(key, &mut |k, value| {
            if k == key {
                found = Some(value.to_vec());
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Calls `visit` with each entry whose key is not less than `from`, in the order of keys,
    /// until it breaks. A tree with nodes that more than one other leads to is damaged, and there
    /// can be very many ways through it: no more nodes are looked at than there are blocks.
    pub fn walk(
        &self,
        from: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut left = self.most;
        let walked = self.walk_node(self.root, from, 0, &mut left, visit);
        walked.map(|_| ())
    }

    fn walk_node(
        &self,
        nr: u64,
        from: u64,
        depth: usize,
        left: &mut u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let damaged = |what| Error::Damaged { block: nr, what };
        if depth == MAX_DEPTH {
            return Err(damaged("its tree is too deep"));
        }
        *left = left
            .checked_sub(1)
            .ok_or_else(|| damaged("its tree has more nodes than there are blocks"))?;
        let node = self.node(nr)?;
        let mut first = node.below(from);
        if !node.is_leaf() {
            // A key of an internal node is the least one below it, or less.
            if node.key(first) != Some(from) {
                first = first.saturating_sub(1);
            }
            for i in first..node.len() {
                let Some(child) = node.number(i) else { break };
                let walked = self.walk_node(child, from, depth + 1, left, visit)?;
                if walked.is_break() {
                    return Ok(walked);
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        for i in first..node.len() {
            let (Some(key), Some(value)) = (node.key(i), node.value(i)) else {
                break;
            };
            if visit(key, value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
