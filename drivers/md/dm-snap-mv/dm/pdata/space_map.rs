// SPDX-License-Identifier: GPL-2.0

//! Space maps of what is not metadata.
//!
//! C headers: `dm-space-map.h`, `dm-space-map-disk.h`

use super::{
    corrupt,
    transaction::{copy_root, Managers, Transaction},
    trust::SpaceRoot,
    verify::{self, Shape, Values},
    ROOT_SIZE,
};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    sync::Arc,
};

/// How often each of many blocks (chunks, say) is used, kept in the metadata of a transaction.
///
/// What is set free can be allocated again only after the next commit. Everything but plain numbers
/// wants the transaction that it came from: with another one, it fails with `EINVAL`.
///
/// # Invariants
///
/// `sm` is ours, and was made with the transaction manager of `managers`.
pub(crate) struct DiskSpaceMap {
    sm: NonNull<bindings::dm_space_map>,
    managers: Arc<Managers>,
}

// SAFETY: It may be used from any thread; what changes it, or its caches, wants it or its
// transaction mutably.
unsafe impl Send for DiskSpaceMap {}
// SAFETY: As above.
unsafe impl Sync for DiskSpaceMap {}

/// How many blocks a bitmap is about.
const GROUP: u64 = 16320;

/// Checks the tree of counts that do not fit the bitmaps, which is empty: nothing is used more than
/// once here. (With a bitmap that says otherwise the library would look there for what is not
/// there, and stop the machine.)
pub(super) fn open_counts(tx: &Transaction, root: &SpaceRoot) -> Result {
    const SHAPE: Shape = Shape {
        value_size: size_of::<u32>(),
        values: Values::Plain,
    };
    verify::open_empty(tx, SHAPE, root.counts)
}

impl DiskSpaceMap {
    /// Makes one for `blocks` blocks, all of them free.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when there is no room for it in the metadata, `EIO`.
    pub(crate) fn create(tx: &mut Transaction, blocks: u64) -> Result<Self> {
        // SAFETY: The transaction manager is there, and nobody else uses it: `tx` is borrowed
        // mutably.
        let sm = from_err_ptr(unsafe { bindings::dm_sm_disk_create(tx.tm(), blocks) })?;
        Ok(Self {
            // INVARIANT: It is new.
            sm: NonNull::new(sm).ok_or(ENOMEM)?,
            managers: tx.managers().clone(),
        })
    }

    /// Opens one for `blocks` blocks, given its root as it stands in the superblock. To be called
    /// before the transaction has changed anything. Reads its index, one block for each million
    /// blocks or so.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when that is not one, `ENOMEM`, `EIO`.
    pub(crate) fn open(tx: &mut Transaction, root: &[u8], blocks: u64) -> Result<Self> {
        let mut copy = [0u8; ROOT_SIZE];
        copy.get_mut(..root.len())
            .ok_or(EINVAL)?
            .copy_from_slice(root);
        let trust = tx.trust().ok_or(EINVAL)?;
        let root = SpaceRoot::read(&copy, trust.cache.blocks())?;
        if root.blocks != blocks {
            return Err(corrupt());
        }
        verify::open_index(tx, root.index, blocks.div_ceil(GROUP))?;
        open_counts(tx, &root)?;
        // SAFETY: As in `create`; the root can be read.
        let sm = from_err_ptr(unsafe {
            bindings::dm_sm_disk_open(tx.tm(), copy.as_mut_ptr().cast(), ROOT_SIZE)
        })?;
        Ok(Self {
            // INVARIANT: It is new.
            sm: NonNull::new(sm).ok_or(ENOMEM)?,
            managers: tx.managers().clone(),
        })
    }

    /// Whether it came from this transaction.
    pub(super) fn is_of(&self, tx: &Transaction) -> bool {
        Arc::ptr_eq(&self.managers, tx.managers())
    }

    fn check(&self, tx: &Transaction) -> Result {
        if self.is_of(tx) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// Writes what it has cached to the metadata. For [`Transaction::commit`], which has checked
    /// that it is its own, and is borrowed mutably.
    pub(super) fn commit(&mut self) -> Result {
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_commit(self.sm.as_ptr()) })
    }

    /// Its root. For [`Transaction::commit`].
    pub(super) fn copy_root(&self) -> Result<[u8; ROOT_SIZE]> {
        // SAFETY: It is ours, and changed only with `&mut self`.
        unsafe { copy_root(self.sm) }
    }

    /// How many blocks there are.
    ///
    /// # Errors
    ///
    /// Only what the library might come to return.
    pub(crate) fn nr_blocks(&self) -> Result<u64> {
        let mut count = 0;
        // SAFETY: It is ours, and changed only with `&mut self`.
        to_result(unsafe { bindings::dm_rs_sm_nr_blocks(self.sm.as_ptr(), &mut count) })?;
        Ok(count)
    }

    /// How many can be allocated in this transaction.
    ///
    /// # Errors
    ///
    /// Only what the library might come to return.
    pub(crate) fn nr_free(&self) -> Result<u64> {
        let mut count = 0;
        // SAFETY: It is ours, and changed only with `&mut self`.
        to_result(unsafe { bindings::dm_rs_sm_nr_free(self.sm.as_ptr(), &mut count) })?;
        // With a count that was wrong from the beginning it gets less than nothing.
        let possible = count <= self.nr_blocks()?;
        Ok(if possible { count } else { 0 })
    }

    /// How often a block is used. (It changes a cache, so nobody else may be at it.)
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no such block, `EIO`.
    pub(crate) fn count(&mut self, tx: &mut Transaction, block: u64) -> Result<u32> {
        self.check(tx)?;
        let mut count = 0;
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_count(self.sm.as_ptr(), block, &mut count) })?;
        Ok(count)
    }

    /// Uses each block of `begin..end` once more.
    ///
    /// # Errors
    ///
    /// `EINVAL` when they are not all there, `EPERM`, `ENOSPC` (of metadata), `EIO`: then the
    /// transaction is damaged.
    pub(crate) fn inc(&mut self, tx: &mut Transaction, begin: u64, end: u64) -> Result {
        self.check(tx)?;
        self.check_range(begin, end)?;
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_inc(self.sm.as_ptr(), begin, end) })
    }

    /// Sets each block of `begin..end` free, which must be used once.
    ///
    /// # Errors
    ///
    /// `EINVAL` when they are not all there, `EILSEQ` when one of them is not used once, `EPERM`, `ENOSPC` (of
    /// metadata), `EIO`: then the transaction is damaged.
    pub(crate) fn dec(&mut self, tx: &mut Transaction, begin: u64, end: u64) -> Result {
        self.check(tx)?;
        self.check_range(begin, end)?;
        for block in begin..end {
            match self.count(tx, block) {
                Ok(1) => {}
                // `ENODATA`: It claims to be used more often, and is not in the tree of counts.
                Ok(_) => return Err(corrupt()),
                Err(e) if e.to_errno() == -(bindings::ENODATA as c_int) => return Err(corrupt()),
                Err(e) => return Err(e),
            }
        }
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_dec(self.sm.as_ptr(), begin, end) })
    }

    /// The library does not check the ends of ranges in all its branches.
    fn check_range(&self, begin: u64, end: u64) -> Result {
        if begin > end || end > self.nr_blocks()? {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Allocates a block: finds one that is not used, nor was in the last transaction, and uses it.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when there is none (or no metadata to note it), which damages nothing in the first
    /// case; `EPERM`, `EIO`.
    pub(crate) fn new_block(&mut self, tx: &mut Transaction) -> Result<u64> {
        self.check(tx)?;
        let mut block = 0;
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_new_block(self.sm.as_ptr(), &mut block) })?;
        Ok(block)
    }

    /// Adds `extra` free blocks at the end. They can be allocated after the next commit.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSPC` (of metadata), `EIO`: then the transaction is damaged.
    pub(crate) fn extend(&mut self, tx: &mut Transaction, extra: u64) -> Result {
        self.check(tx)?;
        // SAFETY: It is ours, and neither it nor its transaction is used by anybody else.
        to_result(unsafe { bindings::dm_rs_sm_extend(self.sm.as_ptr(), extra) })
    }
}

impl Drop for DiskSpaceMap {
    fn drop(&mut self) {
        // SAFETY: It is ours, and its transaction manager is still there.
        unsafe { bindings::dm_rs_sm_destroy(self.sm.as_ptr()) };
    }
}
