// SPDX-License-Identifier: GPL-2.0

//! B-trees.
//!
//! C header: `dm-btree.h`

use super::{
    corrupt,
    transaction::Transaction,
    verify::{self, Shape, Touch, Values},
};
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
/// transaction that it was made or opened in; with another one nothing can be done (`EINVAL`). What fails
/// when it changes the tree (other than with `EINVAL` or `ENODATA`) damages the transaction; and nothing
/// can be done with the tree any more, as it is not known what its root is.
///
/// # Invariants
///
/// In the metadata that have `identity` as theirs, `root` is the root of a tree of this kind, which
/// nothing else leads to; or `identity` is 0, which no metadata have.
pub(crate) struct BTree<const LEVELS: usize, V: Value> {
    root: u64,
    identity: u64,
    _values: PhantomData<fn(V) -> V>,
}

/// A buffer for a value, aligned as the library likes it.
#[repr(C, align(8))]
struct Buffer([MaybeUninit<u8>; MAX_VALUE]);

impl Buffer {
    fn new() -> Self {
        Self([MaybeUninit::uninit(); MAX_VALUE])
    }

    fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// # Safety
    ///
    /// The first `V::SIZE` bytes must have been written.
    unsafe fn read<V: Value>(&self) -> Result<V> {
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
fn found(code: c_int) -> Result<bool> {
    if code == -(bindings::ENODATA as c_int) {
        return Ok(false);
    }
    to_result(code).map(|()| true)
}

impl<const LEVELS: usize, V: Value> BTree<LEVELS, V> {
    fn info(tx: &Transaction) -> bindings::dm_btree_info {
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
        // INVARIANT: The library has just made it.
        Ok(Self {
            root,
            identity: tx.identity(),
            _values: PhantomData,
        })
    }

    /// Opens a tree that was committed, given its root. To be called before the transaction has
    /// changed anything. (A root that is from this very transaction need not be opened: whoever has
    /// made it has the tree.)
    ///
    /// What is below the root is checked when it is first used.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when it is no tree of this kind, or is one that has been opened already; `EINVAL` when
    /// the metadata were not opened, but made; `ENOMEM`, `EIO`.
    pub(crate) fn open(tx: &Transaction, root: u64) -> Result<Self> {
        verify::open(tx, Self::shape(0), root)?;
        // INVARIANT: The root was there when the metadata were opened, it has just been found to be that
        // of such a tree, and had not been claimed before.
        Ok(Self {
            root,
            identity: tx.identity(),
            _values: PhantomData,
        })
    }

    /// Refuses another transaction than the tree's, with `EINVAL`.
    pub(super) fn check(&self, tx: &Transaction) -> Result {
        if self.identity == tx.identity() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// What the library has made of the tree when it was to change it.
    fn changed(&mut self, code: c_int, root: u64) -> Result {
        match to_result(code) {
            // INVARIANT: It is what the tree's root is now.
            Ok(()) => self.root = root,
            // INVARIANT: No metadata have this. (The root that was may have been let go.)
            Err(_) => self.identity = 0,
        }
        to_result(code)
    }

    /// What the trees of a level are made of.
    fn shape(level: usize) -> Shape {
        match level + 1 < LEVELS {
            true => Shape {
                value_size: size_of::<u64>(),
                values: Values::Roots,
            },
            false => Shape {
                value_size: V::SIZE,
                values: Values::Plain,
            },
        }
    }

    /// Makes sure that the library can be let loose on some keys. Where one of the upper ones is
    /// not there, it stops. Whatever uses the tree begins with this.
    ///
    /// # Errors
    ///
    /// `EINVAL` with another transaction than the tree's; `EILSEQ`, `EIO`.
    pub(super) fn verify(&self, tx: &Transaction, keys: &[u64; LEVELS], touch: Touch) -> Result {
        self.check(tx)?;
        let mut root = self.root;
        for (level, &key) in keys.iter().enumerate() {
            let touch = match touch {
                Touch::FindNext if level + 1 < LEVELS => Touch::Find,
                touch => touch,
            };
            match verify::verify(tx, Self::shape(level), root, key, touch)?.map(|f| f.value) {
                Some(Some(value)) => root = value,
                // Not there, or all is known to be good.
                Some(None) | None => break,
            }
        }
        Ok(())
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
        self.verify(tx, keys, Touch::Find)?;
        self.lookup_known(tx, keys)
    }

    /// As [`BTree::lookup`], of keys that the library can be let loose on.
    fn lookup_known(&self, tx: &Transaction, keys: &[u64; LEVELS]) -> Result<Option<V>> {
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
        self.verify(tx, keys, Touch::FindNext)?;
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
        self.verify(tx, keys, Touch::Insert)?;
        let mut info = Self::info(tx);
        let mut keys = *keys;
        let mut buffer = Buffer::new();
        buffer.write(value);
        let mut root = self.root;
        let mut inserted = 0;
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably. There are as many keys as levels, and the value has its size. By the type's
        // invariants the root is of such a tree.
        let code = unsafe {
            bindings::dm_btree_insert_notify(
                &mut info,
                self.root,
                keys.as_mut_ptr(),
                buffer.as_mut_ptr(),
                &mut root,
                &mut inserted,
            )
        };
        self.changed(code, root)?;
        Ok(inserted != 0)
    }

    /// Removes a key. Returns whether it was there. The tree of an upper key stays, even if it is
    /// empty then: see [`BTree::remove_subtree`].
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn remove(&mut self, tx: &mut Transaction, keys: &[u64; LEVELS]) -> Result<bool> {
        self.verify(tx, keys, Touch::Remove)?;
        // On its way to a key that is not there, `dm_btree_remove` copies blocks and releases the
        // old ones, and then does not tell what the root is now.
        if self.lookup_known(tx, keys)?.is_none() {
            return Ok(false);
        }
        self.remove_known(tx, keys)?;
        Ok(true)
    }

    /// Removes a key that is there.
    fn remove_known(&mut self, tx: &mut Transaction, keys: &[u64; LEVELS]) -> Result {
        let mut info = Self::info(tx);
        let mut path = *keys;
        let mut root = self.root;
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably. There are as many keys as levels. By the type's invariants the root is of such a
        // tree.
        let code = unsafe {
            bindings::dm_btree_remove(&mut info, self.root, path.as_mut_ptr(), &mut root)
        };
        self.changed(code, root)
    }
}

impl<V: Value> BTree<2, V> {
    /// Removes an upper key, with the tree that it leads to, which must be empty. Returns whether
    /// it was there.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC`, `EIO`, `EILSEQ`, `ENOTBLK`: then the transaction is damaged.
    pub(crate) fn remove_subtree(&mut self, tx: &mut Transaction, key: u64) -> Result<bool> {
        self.check(tx)?;
        // INVARIANT: The upper level is such a tree, and `self` leads to it for as long as this is there.
        let mut upper = BTree::<1, u64> {
            root: self.root,
            identity: self.identity,
            _values: PhantomData,
        };
        let of_upper = Self::shape(0);
        verify::verify(tx, of_upper, upper.root, key, Touch::Remove)?;
        let Some(lower) = upper.lookup_known(tx, &[key])? else {
            return Ok(false);
        };
        let found = verify::verify(tx, Self::shape(1), lower, 0, Touch::Find)?;
        if found.is_some_and(|found| !found.is_empty_tree()) {
            return Err(corrupt());
        }
        let mut info = BTree::<1, V>::info(tx);
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably.
        let code = unsafe { bindings::dm_btree_del(&mut info, lower) };
        let removed = to_result(code).and_then(|()| upper.remove_known(tx, &[key]));
        // INVARIANT: As above; or it is not known what became of it.
        self.root = upper.root;
        self.identity = match removed {
            Ok(()) => upper.identity,
            Err(_) => 0,
        };
        removed.map(|()| true)
    }
}
