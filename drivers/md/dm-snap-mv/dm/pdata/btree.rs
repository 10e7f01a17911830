// SPDX-License-Identifier: GPL-2.0

//! B-trees.
//!
//! C header: `dm-btree.h`

use super::{super::io::DmIo, corrupt, transaction::Transaction, BLOCK_SIZE};
use crate::bindings;
use core::{marker::PhantomData, mem::MaybeUninit};
use kernel::{error::to_result, prelude::*};

/// The largest value that a tree can have here, in bytes.
pub(crate) const MAX_VALUE: usize = 512;

/// What a B-tree has for each key.
pub(crate) trait Value: Sized {
    /// Its size on disk, in bytes: not 0, and at most [`MAX_VALUE`].
    const SIZE: usize;

    /// Reads it; there are [`Value::SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// When they do not mean anything; they are from the device, and nothing is known of them.
    fn read(bytes: &[u8]) -> Result<Self>;

    /// Writes it; there are [`Value::SIZE`] bytes, all zero.
    fn write(&self, bytes: &mut [u8]);
}

impl Value for u64 {
    const SIZE: usize = 8;

    fn read(bytes: &[u8]) -> Result<Self> {
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| EINVAL)?))
    }

    fn write(&self, bytes: &mut [u8]) {
        if let Some(bytes) = bytes.first_chunk_mut() {
            *bytes = self.to_le_bytes();
        }
    }
}

/// A row of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Value for Bytes<N> {
    const SIZE: usize = N;

    fn read(bytes: &[u8]) -> Result<Self> {
        Ok(Self(bytes.try_into().map_err(|_| EINVAL)?))
    }

    fn write(&self, bytes: &mut [u8]) {
        if let Some(bytes) = bytes.first_chunk_mut() {
            *bytes = self.0;
        }
    }
}

/// A B-tree, or trees in a tree: `LEVELS` keys lead to a value.
///
/// It is a number, that of its root block, which changes with the tree. It goes with the
/// transaction that it was made or opened in; used with another one it finds blocks that do not
/// check. What fails when it changes the tree (other than with `EINVAL` or `ENODATA`) damages the
/// transaction.
pub(crate) struct BTree<const LEVELS: usize, V: Value> {
    root: u64,
    _values: PhantomData<fn(V) -> V>,
}

/// A buffer for a value, aligned as the library likes it.
#[repr(C, align(8))]
pub(super) struct Buffer([MaybeUninit<u8>; MAX_VALUE]);

impl Buffer {
    pub(super) fn new() -> Self {
        Self([MaybeUninit::uninit(); MAX_VALUE])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// # Safety
    ///
    /// The first `V::SIZE` bytes must have been written.
    pub(super) unsafe fn read<V: Value>(&self) -> Result<V> {
        const { assert!(V::SIZE > 0 && V::SIZE <= MAX_VALUE) };
        // SAFETY: By the function's requirements.
        V::read(unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), V::SIZE) })
    }

    fn write<V: Value>(&mut self, value: &V) {
        const { assert!(V::SIZE > 0 && V::SIZE <= MAX_VALUE) };
        // SAFETY: There is room for it. All bytes are initialised before a slice is made of them.
        let bytes = unsafe {
            self.as_mut_ptr().cast::<u8>().write_bytes(0, V::SIZE);
            core::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), V::SIZE)
        };
        value.write(bytes);
    }
}

/// What says that a key is not there (`-ENODATA`).
pub(super) fn found(code: c_int) -> Result<bool> {
    if code == -(bindings::ENODATA as c_int) {
        return Ok(false);
    }
    to_result(code).map(|()| true)
}

/// A number in the header of a node.
fn le32(block: &[u8], at: usize) -> Result<u32> {
    let bytes = block
        .get(at..)
        .and_then(|b| b.first_chunk())
        .ok_or_else(corrupt)?;
    Ok(u32::from_le_bytes(*bytes))
}

/// As [`le32`], of twice the size.
pub(super) fn le64(block: &[u8], at: usize) -> Result<u64> {
    let bytes = block
        .get(at..)
        .and_then(|b| b.first_chunk())
        .ok_or_else(corrupt)?;
    Ok(u64::from_le_bytes(*bytes))
}

impl<const LEVELS: usize, V: Value> BTree<LEVELS, V> {
    pub(super) fn info(tx: &Transaction) -> bindings::dm_btree_info {
        const {
            assert!(LEVELS > 0 && LEVELS <= 4);
            assert!(V::SIZE > 0 && V::SIZE <= MAX_VALUE);
            // The library makes an empty tree with the size of its values, also if it is to have
            // trees for values, so that these must have the size of a block number.
            assert!(LEVELS == 1 || V::SIZE == size_of::<u64>());
        }
        bindings::dm_btree_info {
            tm: tx.tm(),
            levels: LEVELS as c_uint,
            value_type: bindings::dm_btree_value_type {
                context: core::ptr::null_mut(),
                size: V::SIZE as u32,
                inc: None,
                dec: None,
                equal: None,
            },
        }
    }

    /// Makes an empty tree.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`.
    pub(crate) fn empty(tx: &mut Transaction) -> Result<Self> {
        let mut root = 0;
        let mut info = Self::info(tx);
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably.
        to_result(unsafe { bindings::dm_btree_empty(&mut info, &mut root) })?;
        Ok(Self {
            root,
            _values: PhantomData,
        })
    }

    /// Opens a tree that was committed, given its root. To be called before the transaction has
    /// changed anything, as the blocks are read from the device. (A root that is from this very
    /// transaction need not be opened: whoever has made it has the tree.)
    ///
    /// Along the path to the first value it is checked that this is a tree of that many levels,
    /// with values of this size.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when it is not, `ENOMEM`, `EIO`.
    pub(crate) fn open(tx: &Transaction, root: u64) -> Result<Self> {
        const INTERNAL: u32 = 1;
        const LEAF: u32 = 2;
        const HEADER: usize = 32;
        /// More than a tree of any size can have.
        const DEPTH: usize = 16;

        let io = DmIo::new()?;
        let mut block = KVec::from_elem(0u8, BLOCK_SIZE, GFP_KERNEL)?;
        let blocks = tx.metadata_blocks()?;
        let mut at = root;
        let mut level = 0;
        for _ in 0..DEPTH * LEVELS {
            if at == 0 || at >= blocks {
                return Err(corrupt());
            }
            tx.read_raw(&io, at, &mut block)?;
            let flags = le32(&block, 4)?;
            let entries = le32(&block, 16)?;
            let max_entries = le32(&block, 20)?;
            let value_size = le32(&block, 24)? as usize;
            if le64(&block, 8)? != at || entries > max_entries {
                return Err(corrupt());
            }
            let last = level + 1 == LEVELS;
            let expected = match flags {
                LEAF if last => V::SIZE,
                LEAF | INTERNAL => size_of::<u64>(),
                _ => return Err(corrupt()),
            };
            let size = (max_entries as usize)
                .checked_mul(size_of::<u64>() + expected)
                .and_then(|entries| entries.checked_add(HEADER));
            if value_size != expected || size.is_none_or(|size| size > BLOCK_SIZE) {
                return Err(corrupt());
            }
            if entries == 0 || (flags == LEAF && last) {
                return Ok(Self {
                    root,
                    _values: PhantomData,
                });
            }
            at = le64(&block, HEADER + max_entries as usize * size_of::<u64>())?;
            if flags == LEAF {
                level += 1;
            }
        }
        Err(corrupt())
    }

    /// The number of its root block, as it is to be written where it will be found again.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`, and those of [`Value::read`].
    pub(crate) fn lookup(&self, tx: &Transaction, keys: &[u64; LEVELS]) -> Result<Option<V>> {
        let mut info = Self::info(tx);
        let mut keys = *keys;
        let mut value = Buffer::new();
        // SAFETY: The transaction manager is there, and nobody changes it. There are as many keys
        // as levels, and room for the value.
        let code = unsafe {
            bindings::dm_btree_lookup(&mut info, self.root, keys.as_mut_ptr(), value.as_mut_ptr())
        };
        if !found(code)? {
            return Ok(None);
        }
        // SAFETY: It was found, and written.
        Ok(Some(unsafe { value.read() }?))
    }

    /// The first key, of those that begin with the same keys but for the last, whose last is the
    /// given or a greater one: that last key, and its value.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`, and those of [`Value::read`].
    pub(crate) fn lookup_next(
        &self,
        tx: &Transaction,
        keys: &[u64; LEVELS],
    ) -> Result<Option<(u64, V)>> {
        let mut info = Self::info(tx);
        let mut keys = *keys;
        let mut key = 0;
        let mut value = Buffer::new();
        // SAFETY: The transaction manager is there, and nobody changes it. There are as many keys
        // as levels, and room for the value.
        let code = unsafe {
            bindings::dm_btree_lookup_next(
                &mut info,
                self.root,
                keys.as_mut_ptr(),
                &mut key,
                value.as_mut_ptr(),
            )
        };
        if !found(code)? {
            return Ok(None);
        }
        // SAFETY: It was found, and written.
        Ok(Some((key, unsafe { value.read() }?)))
    }

    fn end_key(
        &self,
        tx: &Transaction,
        find: unsafe extern "C" fn(
            *mut bindings::dm_btree_info,
            bindings::dm_block_t,
            *mut u64,
        ) -> c_int,
    ) -> Result<Option<[u64; LEVELS]>> {
        let mut info = Self::info(tx);
        let mut keys = [0u64; LEVELS];
        // SAFETY: The transaction manager is there, and nobody changes it. There is room for as
        // many keys as levels.
        let code = unsafe { find(&mut info, self.root, keys.as_mut_ptr()) };
        if code < 0 {
            return Err(Error::from_errno(code));
        }
        Ok((code as usize == LEVELS).then_some(keys))
    }

    /// The least key. `None` when the tree is empty, or a tree of its least upper key.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`.
    pub(crate) fn lowest(&self, tx: &Transaction) -> Result<Option<[u64; LEVELS]>> {
        self.end_key(tx, bindings::dm_btree_find_lowest_key)
    }

    /// The greatest key. `None` when the tree is empty, or a tree of its greatest upper key.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`.
    pub(crate) fn highest(&self, tx: &Transaction) -> Result<Option<[u64; LEVELS]>> {
        self.end_key(tx, bindings::dm_btree_find_highest_key)
    }

    /// Gives a key a value, a new one if it has one. Returns whether it had none. Trees for upper
    /// keys that are not there are made.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn insert(
        &mut self,
        tx: &mut Transaction,
        keys: &[u64; LEVELS],
        value: &V,
    ) -> Result<bool> {
        let mut info = Self::info(tx);
        let mut keys = *keys;
        let mut buffer = Buffer::new();
        buffer.write(value);
        let mut root = self.root;
        let mut inserted = 0;
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably. There are as many keys as levels, and the value has its size.
        to_result(unsafe {
            bindings::dm_btree_insert_notify(
                &mut info,
                self.root,
                keys.as_mut_ptr(),
                buffer.as_mut_ptr(),
                &mut root,
                &mut inserted,
            )
        })?;
        self.root = root;
        Ok(inserted != 0)
    }

    /// Removes a key. Returns whether it was there. The tree of an upper key stays, even if it is
    /// empty then: see [`BTree::remove_subtree`].
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn remove(&mut self, tx: &mut Transaction, keys: &[u64; LEVELS]) -> Result<bool> {
        let mut info = Self::info(tx);
        let mut path = *keys;
        let mut value = Buffer::new();
        // On its way to a key that is not there, `dm_btree_remove` copies blocks and releases the
        // old ones, and then does not tell what the root is now.
        // SAFETY: As in `lookup`.
        let code = unsafe {
            bindings::dm_btree_lookup(&mut info, self.root, path.as_mut_ptr(), value.as_mut_ptr())
        };
        if !found(code)? {
            return Ok(false);
        }
        let mut path = *keys;
        let mut root = self.root;
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably. There are as many keys as levels.
        to_result(unsafe {
            bindings::dm_btree_remove(&mut info, self.root, path.as_mut_ptr(), &mut root)
        })?;
        self.root = root;
        Ok(true)
    }

    /// Gives up the tree, and all its blocks.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn delete(self, tx: &mut Transaction) -> Result {
        let mut info = Self::info(tx);
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably.
        to_result(unsafe { bindings::dm_btree_del(&mut info, self.root) })
    }
}

impl<V: Value> BTree<2, V> {
    /// Removes an upper key, with the tree that it leads to and all values in that. Returns whether
    /// it was there. Takes as long as there are values, so it is better emptied before.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn remove_subtree(&mut self, tx: &mut Transaction, key: u64) -> Result<bool> {
        let mut upper = BTree::<1, u64> {
            root: self.root,
            _values: PhantomData,
        };
        let Some(lower) = upper.lookup(tx, &[key])? else {
            return Ok(false);
        };
        let lower = BTree::<1, V> {
            root: lower,
            _values: PhantomData,
        };
        lower.delete(tx)?;
        upper.remove(tx, &[key])?;
        self.root = upper.root;
        Ok(true)
    }

    /// Whether there is a tree for an upper key, empty or not.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`.
    pub(crate) fn has_subtree(&self, tx: &Transaction, key: u64) -> Result<bool> {
        let upper = BTree::<1, u64> {
            root: self.root,
            _values: PhantomData,
        };
        Ok(upper.lookup(tx, &[key])?.is_some())
    }

    /// The first upper key that is `key` or a greater one.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK`, `EIO`.
    pub(crate) fn next_subtree(&self, tx: &Transaction, key: u64) -> Result<Option<u64>> {
        let upper = BTree::<1, u64> {
            root: self.root,
            _values: PhantomData,
        };
        Ok(upper.lookup_next(tx, &[key])?.map(|(key, _)| key))
    }
}
