// SPDX-License-Identifier: GPL-2.0

//! Trees of numbers in a tree, whose leaves are remembered.
//!
//! The library walks from the root to a leaf for each look-up, and for each change, for which it also
//! asks the space map at each node whether somebody shares it: three blocks and seven, where one
//! would do. So a leaf that was once found is remembered, and looked at directly from then on; and one
//! that the library has made in the running transaction is changed directly as well, as long as it has
//! room. Whatever changes the bounds of leaves is left to the library.

use super::{
    btree::BTree,
    cache::{BytesMut, Cache},
    node::{self, Child, Node},
    transaction::Transaction,
    verify::{self, Touch},
};
use crate::model::leaves::{Leaf, Leaves};
use core::cell::RefCell;
use kernel::prelude::*;

/// Leaves remembered at a time.
const LEAVES: usize = 1024;

/// A [`BTree`] of trees, with what is remembered of it.
pub(crate) struct LeafTree {
    tree: BTree<2, u64>,
    leaves: RefCell<Leaves<KVVec<Leaf>>>,
}

/// What a leaf has from a key on.
#[derive(Clone, Copy)]
enum Next {
    /// This entry first.
    Entry(u64, u64),
    /// Nothing, and there is no leaf behind it.
    End,
    /// Nothing.
    Elsewhere,
}

fn next_in(node: Node<'_>, end: Option<u64>, key: u64) -> Result<Next> {
    let i = node.below(key)?;
    Ok(match end {
        _ if i < node.len() => Next::Entry(node.key(i)?, node.value(i)?),
        None => Next::End,
        Some(_) => Next::Elsewhere,
    })
}

/// Where a walk to a leaf has ended.
enum Walked<R> {
    There(R),
    /// There is no such tree.
    NoTree,
    /// Not all is in memory.
    Unknown,
}

impl LeafTree {
    /// Remembers the leaves of a tree from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(tree: BTree<2, u64>) -> Result<Self> {
        let slots = KVVec::from_elem(Leaf::default(), LEAVES, GFP_KERNEL)?;
        Ok(Self {
            tree,
            leaves: RefCell::new(Leaves::new(slots)),
        })
    }

    /// See [`BTree::root`].
    pub(crate) fn root(&self) -> u64 {
        self.tree.root()
    }

    /// Walks to the leaf that a key belongs into. All nodes on the way must have been checked.
    fn walk<R>(
        &self,
        cache: &Cache,
        [upper, key]: [u64; 2],
        look: impl FnOnce(Node<'_>, Child) -> Result<R>,
    ) -> Result<Walked<R>> {
        let lower = verify::leaf(cache, self.tree.root(), upper, |node, _| {
            let i = node.below(upper)?;
            match i < node.len() && node.key(i)? == upper {
                true => node.value(i).map(Some),
                false => Ok(None),
            }
        })?;
        let lower = match lower {
            Some(Some(lower)) => lower,
            Some(None) => return Ok(Walked::NoTree),
            None => return Ok(Walked::Unknown),
        };
        Ok(match verify::leaf(cache, lower, key, look)? {
            Some(result) => Walked::There(result),
            None => Walked::Unknown,
        })
    }

    /// See [`BTree::lookup_next`].
    ///
    /// # Errors
    ///
    /// As there; and `EBUSY` when another thread is here.
    pub(crate) fn lookup_next(
        &self,
        tx: &Transaction,
        keys: &[u64; 2],
    ) -> Result<Option<(u64, u64)>> {
        // What is remembered of leaves is of this tree's metadata.
        self.tree.check(tx)?;
        if let Some(cache) = tx.cache() {
            match self.look_from(tx, cache, *keys)? {
                Next::Entry(key, value) => return Ok(Some((key, value))),
                Next::End => return Ok(None),
                Next::Elsewhere => {}
            }
        }
        self.tree.lookup_next(tx, keys)
    }

    /// Looks for it in the leaf that the key belongs into.
    fn look_from(&self, tx: &Transaction, cache: &Cache, keys: [u64; 2]) -> Result<Next> {
        let [upper, key] = keys;
        let mut leaves = self.leaves.try_borrow_mut().map_err(|_| EBUSY)?;
        if let Some(leaf) = leaves.find(upper, key) {
            let found = cache.look_again(leaf.block, |bytes| {
                next_in(Node::read(bytes)?, leaf.end, key)
            })?;
            return Ok(found.unwrap_or(Next::Elsewhere));
        }
        self.tree.verify(tx, &keys, Touch::FindNext)?;
        let walked = self.walk(cache, keys, |node, at| {
            Ok((at, next_in(node, at.end, key)?))
        })?;
        Ok(match walked {
            Walked::There((at, found)) => {
                leaves.remember(leaf_at(upper, at, 0));
                found
            }
            Walked::NoTree => Next::End,
            Walked::Unknown => Next::Elsewhere,
        })
    }

    /// Copies what is in a leaf from a key on, which must just have been found with
    /// [`LeafTree::lookup_next`]: as much as `out` has room for. Returns how many there are; it is
    /// none whenever there is any difficulty, as they can be looked up one by one.
    pub(crate) fn copy_found(
        &self,
        tx: &Transaction,
        keys: &[u64; 2],
        out: &mut [(u64, u64)],
    ) -> usize {
        let [upper, key] = *keys;
        let mut copy = |node: Node<'_>| {
            let mut copied = 0;
            for (place, i) in out.iter_mut().zip(node.below(key)?..node.len()) {
                *place = (node.key(i)?, node.value(i)?);
                copied += 1;
            }
            Ok(copied)
        };
        if self.tree.check(tx).is_err() {
            return 0;
        }
        let leaf = self.leaves.try_borrow().ok();
        let leaf = leaf.and_then(|leaves| leaves.find(upper, key));
        let copied = match (tx.cache(), leaf) {
            (Some(cache), Some(leaf)) => {
                cache.look_again(leaf.block, |bytes| copy(Node::read(bytes)?))
            }
            _ => Ok(None),
        };
        copied.ok().flatten().unwrap_or(0)
    }

    /// Gives keys that begin with the same one values, as [`BTree::insert`] does one by one: the last
    /// keys and the values that `entry` says, from 0 on until it says none. They must ascend.
    ///
    /// # Errors
    ///
    /// As for [`BTree::insert`].
    pub(crate) fn insert_run(
        &mut self,
        tx: &mut Transaction,
        upper: u64,
        entry: impl Fn(usize) -> Option<(u64, u64)>,
    ) -> Result {
        let mut done = 0;
        while let Some((key, value)) = entry(done) {
            match self.put(tx, upper, key, |i| entry(done + i))? {
                0 => {
                    self.insert(tx, [upper, key], value)?;
                    done += 1;
                }
                many => done += many,
            }
        }
        Ok(())
    }

    /// Puts entries into the leaf that the first of them, with `key`, belongs into: those that `entry`
    /// says, as long as there is room and no other key comes between. Returns how many; none if the
    /// leaf is not known, or not to be changed, or has the key.
    fn put(
        &mut self,
        tx: &mut Transaction,
        upper: u64,
        key: u64,
        entry: impl Fn(usize) -> Option<(u64, u64)>,
    ) -> Result<usize> {
        let leaf = self.leaves.get_mut().find(upper, key);
        let leaf = leaf.filter(|leaf| leaf.made_in == tx.number());
        let (Some(cache), Some(leaf)) = (tx.cache(), leaf) else {
            return Ok(0);
        };
        let change = |bytes: BytesMut<'_>| {
            let node = Node::read(bytes.bytes())?;
            let i = node.below(key)?;
            let next = match i < node.len() {
                true => Some(node.key(i)?),
                false => leaf.end,
            };
            let between = |&(key, _): &(u64, u64)| next.is_none_or(|next| key < next);
            node::put(bytes, i, |j| entry(j).filter(between))
        };
        // SAFETY: The library has made the block in the running transaction, which is borrowed
        // mutably, as its number says, and has not let it go since: it does so only when it moves or
        // removes the leaf, of which the one is told and the other makes all be forgotten.
        let put = unsafe { cache.change(leaf.block, change) };
        Ok(put?.unwrap_or(0))
    }

    /// Has the library insert a key, and remembers what became of the leaf.
    fn insert(&mut self, tx: &mut Transaction, keys: [u64; 2], value: u64) -> Result {
        let inserted = self.insert_known(tx, keys, value);
        if inserted.is_err() {
            self.leaves.get_mut().forget();
        }
        inserted
    }

    fn insert_known(&mut self, tx: &mut Transaction, keys: [u64; 2], value: u64) -> Result {
        let [upper, key] = keys;
        self.tree.verify(tx, &keys, Touch::Insert)?;
        match self.is_full(tx, keys)? {
            Some(false) => {}
            Some(true) => self.leaves.get_mut().forget_near(upper, key),
            None => self.leaves.get_mut().forget(),
        }
        self.tree.insert(tx, &keys, &value)?;
        let walked = match tx.cache() {
            Some(cache) => self.walk(cache, keys, |_, at| Ok(at))?,
            None => Walked::Unknown,
        };
        let leaves = self.leaves.get_mut();
        match walked {
            // It has made all nodes on the way there, or found that it had.
            Walked::There(at) => leaves.remember(leaf_at(upper, at, tx.number())),
            Walked::NoTree | Walked::Unknown => leaves.forget(),
        }
        Ok(())
    }

    /// Whether the leaf that a key belongs into has no room; `None`: that is not known.
    fn is_full(&mut self, tx: &Transaction, keys: [u64; 2]) -> Result<Option<bool>> {
        let Some(cache) = tx.cache() else {
            return Ok(None);
        };
        if let Some(leaf) = self.leaves.get_mut().find(keys[0], keys[1]) {
            return cache.look_again(leaf.block, |bytes| Ok(Node::read(bytes)?.is_full()));
        }
        Ok(
            match self.walk(cache, keys, |node, _| Ok(node.is_full()))? {
                Walked::There(full) => Some(full),
                // A tree that is made has no leaves that are known.
                Walked::NoTree => Some(false),
                Walked::Unknown => None,
            },
        )
    }

    /// See [`BTree::remove`].
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn remove(&mut self, tx: &mut Transaction, keys: &[u64; 2]) -> Result<bool> {
        self.leaves.get_mut().forget();
        self.tree.remove(tx, keys)
    }

    /// See [`BTree::remove_subtree`].
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn remove_subtree(&mut self, tx: &mut Transaction, upper: u64) -> Result<bool> {
        self.leaves.get_mut().forget();
        self.tree.remove_subtree(tx, upper)
    }
}

fn leaf_at(tree: u64, at: Child, made_in: u64) -> Leaf {
    Leaf {
        tree,
        first: at.first,
        end: at.end,
        block: at.block,
        made_in,
    }
}
