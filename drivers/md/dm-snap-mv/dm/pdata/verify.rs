// SPDX-License-Identifier: GPL-2.0

//! Checks the nodes of a B-tree that the library is going to use, before it does.
//!
//! The library has no place for such checks, and takes a node's word for what is in it: with
//! metadata made with intent it would run in circles, recurse without end or write beyond a block.
//! Checking all nodes when the metadata are opened would take as long as there is much of them. So
//! each look-up or change is preceded by a walk along the nodes that it will touch, by the same
//! rules, and those that were not checked before are, once: see [`super::trust`].

use super::{
    cache::Cache,
    corrupt,
    node::{Child, Node},
    transaction::Transaction,
    trust::{Known, Trust},
};
use kernel::prelude::*;

/// Levels of nodes of a tree. One that has a third of its entries in use each needs five for all
/// blocks that there can be. The library recurses as deep.
const DEPTH: usize = 8;

/// What the values of a tree are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// Nothing that the library cares for.
    Plain,
    /// The roots of trees.
    Roots,
    /// They begin with the numbers of blocks that are no nodes.
    Blocks,
}

/// What one level of trees is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of a value.
    pub(super) value_size: usize,
    /// What they are.
    pub(super) values: Values,
}

/// What the library is going to do with a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// Find it: touches the nodes that lead to its leaf.
    Find,
    /// Find it or the next one: also those that lead to the next leaf, if this one has none.
    FindNext,
    /// Insert it: if one of these is full, also their neighbours on the same height.
    Insert,
    /// Remove it: also the neighbours in any case.
    Remove,
}

/// What the walk has found in the leaf.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// The first eight bytes of the key's value, if it is there.
    pub(super) value: Option<u64>,
    /// How many entries the leaf has.
    entries: usize,
    /// The last key there.
    last: Option<u64>,
    /// It is the whole tree.
    is_root: bool,
    /// The least key that does not belong there.
    end: Option<u64>,
}

impl Found {
    /// The tree has no entries.
    pub(super) fn is_empty_tree(&self) -> bool {
        self.is_root && self.entries == 0
    }
}

/// What a walk to a leaf has met.
struct Way {
    found: Found,
    /// There is an entry in the leaf from the key on.
    here: bool,
    /// Where the way to the next leaf branches off last, and how far below the root that is.
    next: Option<(Child, usize)>,
    /// A node was full.
    full: bool,
}

/// Looks at the nodes of one tree.
struct Walk<'a> {
    trust: &'a Trust,
    known: &'a mut Known,
    shape: Shape,
    root: u64,
    /// Levels of nodes, once it had to be found out.
    height: Option<usize>,
}

/// A node on the way, and those beside it on the same height.
#[derive(Clone, Copy)]
struct Place {
    left: Option<Child>,
    middle: Child,
    right: Option<Child>,
}

impl Walk<'_> {
    /// Looks at a node, after checking it if need be. `leaf`: what it must be, if that is known.
    fn look<R>(
        &mut self,
        at: Child,
        leaf: Option<bool>,
        look: impl FnOnce(Node<'_>) -> Result<R>,
    ) -> Result<R> {
        let Self {
            trust,
            known,
            shape,
            root,
            ..
        } = self;
        trust.cache.look(at.block, |bytes| {
            let node = Node::read(bytes)?;
            if known.doubts(at.block) {
                node.check(at, at.block == *root, leaf, shape.value_size)?;
                let values = match node.is_leaf() {
                    true => shape.values,
                    false => Values::Roots,
                };
                for i in 0..node.len() {
                    match values {
                        Values::Plain => break,
                        Values::Roots => known.claim(node.value(i)?)?,
                        Values::Blocks => known.take(node.value(i)?)?,
                    }
                }
                known.vouch(at.block);
            }
            look(node)
        })
    }

    /// How many levels there are: as many as on the way to the first leaf.
    fn height(&mut self) -> Result<usize> {
        if let Some(height) = self.height {
            return Ok(height);
        }
        let mut at = Child::root(self.root);
        for depth in 1..=DEPTH {
            match self.look(at, None, |node| node.child(at, 0))? {
                Some(child) => at = child,
                None => {
                    self.height = Some(depth);
                    return Ok(depth);
                }
            }
        }
        Err(corrupt())
    }

    /// As [`Walk::look`], of a node `depth` levels below the root.
    fn look_at<R>(
        &mut self,
        at: Child,
        depth: usize,
        look: impl FnOnce(Node<'_>) -> Result<R>,
    ) -> Result<R> {
        // Not finding it out is what makes a walk along known nodes cheap.
        let leaf = match self.known.doubts(at.block) {
            true => Some(depth + 1 == self.height()?),
            false => None,
        };
        self.look(at, leaf, look)
    }

    /// Walks to the leaf where a key belongs, along the neighbours as well if wanted.
    fn descend(&mut self, key: u64, beside: bool) -> Result<Way> {
        let mut place = Place {
            left: None,
            middle: Child::root(self.root),
            right: None,
        };
        let mut next = None;
        let mut full = false;
        for depth in 0..DEPTH {
            if beside {
                for neighbour in [place.left, place.right].into_iter().flatten() {
                    self.look_at(neighbour, depth, |_| Ok(()))?;
                }
            }
            let at = place.middle;
            let root = self.root;
            let (below, leaf, is_full) = self.look_at(at, depth, |node| {
                if node.is_leaf() {
                    let i = node.below(key)?;
                    let here = i < node.len();
                    let value = match here && node.key(i)? == key {
                        true => Some(node.value(i)?),
                        false => None,
                    };
                    let found = Found {
                        value,
                        entries: node.len(),
                        last: match node.len().checked_sub(1) {
                            Some(i) => Some(node.key(i)?),
                            None => None,
                        },
                        is_root: at.block == root,
                        end: at.end,
                    };
                    return Ok((None, Some((found, here)), node.is_full()));
                }
                let i = node.towards(key)?;
                let middle = node.child(at, i)?.ok_or_else(corrupt)?;
                let left = match i.checked_sub(1) {
                    Some(i) => node.child(at, i)?,
                    None => None,
                };
                let right = node.child(at, i + 1)?;
                Ok((Some((left, middle, right)), None, node.is_full()))
            })?;
            full |= is_full;
            if let Some((found, here)) = leaf {
                return Ok(Way {
                    found,
                    here,
                    next,
                    full,
                });
            }
            let Some((left, middle, right)) = below else {
                return Err(corrupt());
            };
            if let Some(right) = right {
                next = Some((right, depth + 1));
            }
            // Where it has no brother there may be a cousin.
            let left = match (left, place.left) {
                (None, Some(uncle)) if beside => self.look_at(uncle, depth, |node| {
                    node.child(uncle, node.len().saturating_sub(1))
                })?,
                (left, _) => left,
            };
            let right = match (right, place.right) {
                (None, Some(uncle)) if beside => {
                    self.look_at(uncle, depth, |node| node.child(uncle, 0))?
                }
                (right, _) => right,
            };
            place = Place {
                left,
                middle,
                right,
            };
        }
        Err(corrupt())
    }

    fn walk(&mut self, key: u64, touch: Touch) -> Result<Found> {
        let way = self.descend(key, touch == Touch::Remove)?;
        match touch {
            Touch::FindNext if !way.here => {
                let Some((mut at, mut depth)) = way.next else {
                    return Ok(way.found);
                };
                while let Some(child) = self.look_at(at, depth, |node| node.child(at, 0))? {
                    at = child;
                    depth += 1;
                    if depth >= DEPTH {
                        return Err(corrupt());
                    }
                }
            }
            Touch::Insert if way.full => {
                self.descend(key, true)?;
            }
            _ => {}
        }
        Ok(way.found)
    }
}

/// Makes sure that the library can do with a key of a tree what it is going to. Sleeps. No other
/// thread may be changing the tree.
///
/// Returns `None` when nothing in these metadata is in doubt any more.
///
/// # Errors
///
/// `EILSEQ`, `EIO`.
pub(super) fn verify(
    tx: &Transaction,
    shape: Shape,
    root: u64,
    key: u64,
    touch: Touch,
) -> Result<Option<Found>> {
    let Some(trust) = tx.trust() else {
        return Ok(None);
    };
    let Some(mut known) = trust.doubts() else {
        return Ok(None);
    };
    let mut walk = Walk {
        trust,
        known: &mut known,
        shape,
        root,
        height: None,
    };
    walk.walk(key, touch).map(Some)
}

/// Claims the root of a tree that was committed, and checks it.
///
/// # Errors
///
/// `EILSEQ`, `EIO`.
pub(super) fn open(tx: &Transaction, shape: Shape, root: u64) -> Result {
    claim(tx, root)?;
    verify(tx, shape, root, 0, Touch::Find)?;
    Ok(())
}

/// As [`open`]; the tree must be empty.
pub(super) fn open_empty(tx: &Transaction, shape: Shape, root: u64) -> Result {
    claim(tx, root)?;
    match verify(tx, shape, root, 0, Touch::Find)? {
        Some(found) if !found.is_empty_tree() => Err(corrupt()),
        _ => Ok(()),
    }
}

fn claim(tx: &Transaction, root: u64) -> Result {
    match tx.trust() {
        // All blocks that there were have been claimed.
        Some(trust) => trust.doubts().ok_or_else(corrupt)?.claim(root),
        // What was made is had by who has made it, and nothing is known of it here.
        None => Err(EINVAL),
    }
}

/// As [`open`], of the index of a space map with `groups` bitmaps. All of it is checked.
pub(super) fn open_index(tx: &Transaction, root: u64, groups: u64) -> Result {
    const SHAPE: Shape = Shape {
        value_size: 16,
        values: Values::Blocks,
    };
    claim(tx, root)?;
    let Some(trust) = tx.trust() else {
        return Ok(());
    };
    let mut seen = 0;
    let mut next = Some(0);
    while let Some(key) = next {
        // Before the last leaf has been checked something is in doubt.
        let mut known = trust.doubts().ok_or_else(corrupt)?;
        let mut walk = Walk {
            trust,
            known: &mut known,
            shape: SHAPE,
            root,
            height: None,
        };
        let found = walk.walk(key, Touch::Find)?;
        seen += found.entries as u64;
        next = found.end;
        // Keys ascend, so if there are as many as bitmaps and all are less, none is missing.
        if found.last.is_none_or(|last| last >= groups) || next.is_some_and(|next| next <= key) {
            return Err(corrupt());
        }
    }
    if seen == groups {
        Ok(())
    } else {
        Err(corrupt())
    }
}

/// Walks to the leaf of a tree that a key belongs into, along nodes that are in memory and known to be
/// good, and looks at it there. `None` if one of them is not in memory.
///
/// # Errors
///
/// `EILSEQ`, and those of `look`.
pub(super) fn leaf<R>(
    cache: &Cache,
    root: u64,
    key: u64,
    look: impl FnOnce(Node<'_>, Child) -> Result<R>,
) -> Result<Option<R>> {
    enum Step<R> {
        Down(Child),
        There(R),
    }
    let mut at = Child::root(root);
    let mut look = Some(look);
    for _ in 0..DEPTH {
        let step = cache.look_again(at.block, |bytes| {
            let node = Node::read(bytes)?;
            if let Some(child) = node.child(at, node.towards(key)?)? {
                return Ok(Step::Down(child));
            }
            match look.take() {
                Some(look) if node.is_leaf() => look(node, at).map(Step::There),
                _ => Err(corrupt()),
            }
        })?;
        match step {
            Some(Step::Down(child)) => at = child,
            Some(Step::There(result)) => return Ok(Some(result)),
            None => return Ok(None),
        }
    }
    Err(corrupt())
}
