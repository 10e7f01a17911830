// SPDX-License-Identifier: GPL-2.0

//! Walks along the keys of a B-tree.
//!
//! C header: `drivers/md/persistent-data/dm-btree.h`

use super::{
    btree::{found, BTree, Buffer, Value},
    transaction::Transaction,
};
use crate::bindings;
use core::marker::PhantomData;
use kernel::prelude::*;

/// What the library keeps pointers to while a cursor stands in a tree.
struct State {
    info: bindings::dm_btree_info,
    cursor: bindings::dm_btree_cursor,
}

/// A place in a tree of one level, from its lowest key on. Cheaper than a search for each key: the
/// nodes on the way to it stay locked, for reading, until it moves on or is dropped.
///
/// As it borrows the transaction, nothing changes while it stands. It is dropped by the thread that
/// made it, to which the locks belong. The library has cursors only for values of 64 bits.
///
/// # Invariants
///
/// `state.cursor` has been begun with `state.info`, and not been ended.
pub(crate) struct Cursor<'a, V: Value> {
    state: KBox<State>,
    /// It stands at a key; else behind the last.
    there: bool,
    _tx: PhantomData<&'a Transaction>,
    _value: PhantomData<fn() -> V>,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, V: Value> Cursor<'a, V> {
    /// At the lowest key of a tree. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EILSEQ`, `EIO`.
    pub(crate) fn begin(tree: &BTree<1, V>, tx: &'a Transaction) -> Result<Self> {
        // With values of any other size the library crashes in a tree of more than one node: it
        // takes them for block numbers to be prefetched.
        const { assert!(V::SIZE == size_of::<u64>()) };
        let state = State {
            info: BTree::<1, V>::info(tx),
            cursor: bindings::dm_btree_cursor::default(),
        };
        // INVARIANT: It is begun below, and if that fails nodes may be held all the same, which
        // dropping lets go.
        let mut this = Self {
            state: KBox::new(state, GFP_KERNEL)?,
            there: false,
            _tx: PhantomData,
            _value: PhantomData,
            _not_send: PhantomData,
        };
        let State { info, cursor } = &mut *this.state;
        // SAFETY: Both stay where they are, in the box, until the cursor is ended, and the
        // transaction is there and does not change as long as it is borrowed.
        let code = unsafe { bindings::dm_btree_cursor_begin(info, tree.root(), true, cursor) };
        this.there = found(code)?;
        Ok(this)
    }

    /// The key it stands at, and its value; `None` behind the last.
    ///
    /// # Errors
    ///
    /// What [`Value::read`] says.
    pub(crate) fn get(&mut self) -> Result<Option<(u64, V)>> {
        if !self.there {
            return Ok(None);
        }
        let mut key = 0;
        let mut value = Buffer::new();
        // SAFETY: By the type's invariants; there is room for a value.
        let code = unsafe {
            bindings::dm_btree_cursor_get_value(
                &mut self.state.cursor,
                &mut key,
                value.as_mut_ptr(),
            )
        };
        if !found(code)? {
            return Ok(None);
        }
        // SAFETY: The library has written a value of this size.
        Ok(Some((key, unsafe { value.read::<V>() }?)))
    }

    /// Moves on to the next key. Sleeps.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `EIO`; it stands behind the last key then.
    pub(crate) fn advance(&mut self) -> Result {
        if self.there {
            self.there = false;
            // SAFETY: By the type's invariants.
            let code = unsafe { bindings::dm_btree_cursor_next(&mut self.state.cursor) };
            self.there = found(code)?;
        }
        Ok(())
    }
}

impl<V: Value> Drop for Cursor<'_, V> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants. It lets go of the nodes that are held, if any.
        unsafe { bindings::dm_btree_cursor_end(&mut self.state.cursor) };
    }
}
