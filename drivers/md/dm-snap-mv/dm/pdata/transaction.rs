// SPDX-License-Identifier: GPL-2.0

//! Transactions.
//!
//! C headers: `dm-block-manager.h`, `dm-transaction-manager.h`

use super::{
    super::block_device::BlockDevice,
    cache::Cache,
    corrupt,
    space_map::{self, DiskSpaceMap},
    superblock::VALIDATOR,
    trust::{SpaceRoot, Trust},
    BLOCK_SECTORS, BLOCK_SIZE, ROOT_SIZE,
};
use crate::bindings;
use core::{ptr, ptr::NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// The most blocks that one thread holds at a time: what dm-thin reckons with.
const MAX_HELD: c_uint = 6;

/// Where the superblock is.
const SUPERBLOCK: u64 = 0;

/// The most data space maps that one commit takes along.
pub(crate) const MAX_SPACES: usize = 2;

/// The number of the transaction that began last, of all there are.
static LAST_NUMBER: Atomic<u64> = Atomic::new(0);

fn next_number() -> u64 {
    LAST_NUMBER.fetch_add(1, Relaxed).wrapping_add(1)
}

/// What belongs together, and goes together.
///
/// # Invariants
///
/// The space map is the transaction manager's, which is the block manager's, which is on `device`.
/// All are ours.
pub(super) struct Managers {
    bm: NonNull<bindings::dm_block_manager>,
    tm: NonNull<bindings::dm_transaction_manager>,
    sm: NonNull<bindings::dm_space_map>,
    device: Arc<BlockDevice>,
}

// SAFETY: They may be used from any thread, though not all at once: for that see `Transaction`.
unsafe impl Send for Managers {}
// SAFETY: As above.
unsafe impl Sync for Managers {}

impl Drop for Managers {
    fn drop(&mut self) {
        // SAFETY: By the invariants they are ours, and go in the order in which they depend on one
        // another. What else depends on them (data space maps) keeps us.
        unsafe {
            bindings::dm_rs_sm_destroy(self.sm.as_ptr());
            bindings::dm_tm_destroy(self.tm.as_ptr());
            bindings::dm_block_manager_destroy(self.bm.as_ptr());
        }
    }
}

impl Managers {
    /// The block manager's cache, of `blocks` blocks. To be dropped before `self`.
    fn cache(&self, blocks: u64) -> Result<Cache> {
        let mut block = ptr::null_mut();
        // SAFETY: The block manager is there, nobody holds the superblock, and `block` can be
        // written.
        to_result(unsafe {
            bindings::dm_bm_read_lock(self.bm.as_ptr(), SUPERBLOCK, VALIDATOR.as_raw(), &mut block)
        })?;
        // SAFETY: The block is held until it is unlocked.
        let client = unsafe {
            let client = bindings::dm_rs_block_client(block);
            bindings::dm_bm_unlock(block);
            client
        };
        // If it is not what it was in all kernels so far, nothing can be checked.
        let client = NonNull::new(client).ok_or(EINVAL)?;
        // SAFETY: It is the block manager's, which is there for as long as `self`.
        Ok(unsafe { Cache::new(client, blocks) })
    }
}

/// A block manager that is not part of [`Managers`] yet.
struct NewBlockManager(NonNull<bindings::dm_block_manager>);

impl NewBlockManager {
    fn new(device: &BlockDevice) -> Result<Self> {
        // SAFETY: The device is open, and who calls this keeps it open.
        let bm = from_err_ptr(unsafe {
            bindings::dm_block_manager_create(device.as_raw(), BLOCK_SIZE as c_uint, MAX_HELD)
        })?;
        Ok(Self(NonNull::new(bm).ok_or(ENOMEM)?))
    }

    /// # Safety
    ///
    /// `tm` and `sm` must be its transaction manager and that one's space map, and `device` be the
    /// one it was made for.
    unsafe fn complete(
        self,
        tm: *mut bindings::dm_transaction_manager,
        sm: *mut bindings::dm_space_map,
        device: &Arc<BlockDevice>,
    ) -> Result<Arc<Managers>> {
        let tm = NonNull::new(tm).ok_or(ENOMEM)?;
        let sm = NonNull::new(sm).ok_or(ENOMEM)?;
        let bm = self.0;
        core::mem::forget(self);
        // INVARIANT: By the function's requirements. If there is no memory for it, it is dropped
        // where it is, which destroys all of them.
        Ok(Arc::new(
            Managers {
                bm,
                tm,
                sm,
                device: device.clone(),
            },
            GFP_KERNEL,
        )?)
    }
}

impl Drop for NewBlockManager {
    fn drop(&mut self) {
        // SAFETY: It is ours, and has no transaction manager.
        unsafe { bindings::dm_block_manager_destroy(self.0.as_ptr()) };
    }
}

/// The metadata of a device, with all that has been changed since the last commit.
///
/// Dropping it (and the space maps that came from it) forgets what has not been committed. Blocks
/// that the last commit does not refer to may be written then. There must be only one for a device
/// at a time: who opens a second one while the first is there, or has others write to the device,
/// gets metadata that do not check, though nothing worse.
///
/// See [`super`] for contexts and locks.
pub(crate) struct Transaction {
    /// No other one that was or is has this number; it changes with each commit.
    number: u64,
    /// What `number` was at first: which metadata these are.
    identity: u64,
    // Declared first, as it goes first: it uses the block manager's cache.
    /// What is known of the blocks there were when it was opened; `None`: there were none.
    trust: Option<Trust>,
    /// The cache of metadata that were made, once it is to be had.
    fresh: Option<Cache>,
    managers: Arc<Managers>,
}

/// The roots of the space maps, as they are to be written into the superblock.
pub(crate) struct Roots<'a> {
    /// Of the metadata.
    pub(crate) metadata: &'a [u8; ROOT_SIZE],
    /// Of the space maps that were committed, in their order.
    pub(crate) spaces: &'a [[u8; ROOT_SIZE]],
}

/// The root of a space map, padded with zeroes.
///
/// # Safety
///
/// `sm` must be valid, and nobody be changing it.
pub(super) unsafe fn copy_root(sm: NonNull<bindings::dm_space_map>) -> Result<[u8; ROOT_SIZE]> {
    let mut root = [0u8; ROOT_SIZE];
    let mut len = 0;
    // SAFETY: By the function's requirements.
    to_result(unsafe { bindings::dm_rs_sm_root_size(sm.as_ptr(), &mut len) })?;
    if len > ROOT_SIZE {
        return Err(EOVERFLOW);
    }
    // SAFETY: By the function's requirements. There is room for as much as it asked for.
    to_result(unsafe {
        bindings::dm_rs_sm_copy_root(sm.as_ptr(), root.as_mut_ptr().cast(), ROOT_SIZE)
    })?;
    Ok(root)
}

impl Transaction {
    /// Makes fresh metadata on a device: an empty space map, with block 0 set aside for the
    /// superblock and all from `limit_blocks` on marked as used. Nothing on the device is valid
    /// until it is committed.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the device is smaller than `limit_blocks`, `ENOMEM`, `EIO`, `ENOSPC` when
    /// that is too little for the space map itself.
    pub(crate) fn create(device: &Arc<BlockDevice>, limit_blocks: u64) -> Result<Self> {
        if limit_blocks > device.sectors() / BLOCK_SECTORS {
            return Err(EINVAL);
        }
        let bm = NewBlockManager::new(device)?;
        let (mut tm, mut sm) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: The block manager is there, and `tm` and `sm` can be written.
        to_result(unsafe {
            bindings::dm_tm_create_with_sm(bm.0.as_ptr(), SUPERBLOCK, &mut tm, &mut sm)
        })?;
        // SAFETY: They were made for it.
        let managers = unsafe { bm.complete(tm, sm, device) }?;
        let number = next_number();
        let mut this = Self {
            number,
            identity: number,
            managers,
            trust: None,
            fresh: None,
        };
        let blocks = this.metadata_blocks()?;
        if limit_blocks < blocks {
            this.set_aside(limit_blocks, blocks)?;
        }
        Ok(this)
    }

    /// Marks metadata blocks as used, so that none of them is allocated.
    fn set_aside(&mut self, from: u64, to: u64) -> Result {
        // SAFETY: The space map is there, and nobody else uses it: `self` is borrowed mutably.
        to_result(unsafe { bindings::dm_rs_sm_inc(self.managers.sm.as_ptr(), from, to) })
    }

    /// Opens the metadata of a device, given the root of their space map as it stands in the
    /// superblock, and how many blocks are theirs.
    ///
    /// # Errors
    ///
    /// `EILSEQ`, `ENOTBLK` or `EINVAL` when that is not one, `ENOMEM`, `EIO`.
    pub(crate) fn open(device: &Arc<BlockDevice>, sm_root: &[u8], blocks: u64) -> Result<Self> {
        let mut raw = [0u8; ROOT_SIZE];
        raw.get_mut(..sm_root.len())
            .ok_or(EINVAL)?
            .copy_from_slice(sm_root);
        // The library believes the number of blocks, and has an array of a fixed size for them.
        let root = SpaceRoot::read(&raw, blocks)?;
        if root.blocks < blocks
            || root.blocks > bindings::DM_RS_SM_METADATA_MAX_BLOCKS
            || root.blocks > device.sectors() / BLOCK_SECTORS
        {
            return Err(corrupt());
        }
        let bm = NewBlockManager::new(device)?;
        let (mut tm, mut sm) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: The block manager is there, `tm` and `sm` can be written, and the root be read.
        to_result(unsafe {
            bindings::dm_tm_open_with_sm(
                bm.0.as_ptr(),
                SUPERBLOCK,
                raw.as_mut_ptr().cast(),
                ROOT_SIZE,
                &mut tm,
                &mut sm,
            )
        })?;
        // SAFETY: They were made for it.
        let managers = unsafe { bm.complete(tm, sm, device) }?;
        let cache = managers.cache(blocks)?;
        let number = next_number();
        let this = Self {
            number,
            identity: number,
            managers,
            trust: Some(Trust::new(cache, &root)?),
            fresh: None,
        };
        space_map::open_counts(&this, &root)?;
        Ok(this)
    }

    /// Commits all that has been changed, durably, and begins the next transaction.
    ///
    /// `spaces` are committed along, and must be those of this transaction. `fill` gets the block
    /// for the superblock, zeroed, and the roots that must stand in it. It must not fail, and need
    /// not set checksum (bytes 0..4) and block number (bytes 8..16). That it is called does not
    /// mean that the commit succeeds.
    ///
    /// # Errors
    ///
    /// `EPERM` after [`Transaction::abort`], `EINVAL` for space maps that are not its own or more
    /// than [`MAX_SPACES`], `EIO`, `ENOSPC`. Then it is not known which state the device has, the
    /// old or the new one: give the transaction up, and open it again from the superblock.
    pub(crate) fn commit(
        &mut self,
        spaces: &mut [&mut DiskSpaceMap],
        fill: impl FnOnce(&mut [u8; BLOCK_SIZE], &Roots<'_>),
    ) -> Result {
        let mut space_roots = [[0u8; ROOT_SIZE]; MAX_SPACES];
        let space_roots = space_roots.get_mut(..spaces.len()).ok_or(EINVAL)?;
        if !spaces.iter().all(|space| space.is_of(self)) {
            return Err(EINVAL);
        }
        // From here on no block belongs to the running transaction, whatever happens.
        self.number = next_number();
        for space in spaces.iter_mut() {
            space.commit()?;
        }
        let tm = self.managers.tm.as_ptr();
        // SAFETY: The transaction manager is there, and nobody else uses it: `self` is borrowed
        // mutably.
        to_result(unsafe { bindings::dm_tm_pre_commit(tm) })?;

        // What can fail is done before the superblock is locked.
        for (space, root) in spaces.iter().zip(space_roots.iter_mut()) {
            *root = space.copy_root()?;
        }
        // SAFETY: The space map is there, and nobody changes it.
        let metadata = unsafe { copy_root(self.managers.sm) }?;
        let mut block = ptr::null_mut();
        // SAFETY: The block manager is there, nobody holds the superblock, and `block` can be
        // written.
        to_result(unsafe {
            bindings::dm_bm_write_lock_zero(
                self.managers.bm.as_ptr(),
                SUPERBLOCK,
                VALIDATOR.as_raw(),
                &mut block,
            )
        })?;
        // SAFETY: The block is held for writing, and has that size.
        let data = unsafe { &mut *bindings::dm_block_data(block).cast::<[u8; BLOCK_SIZE]>() };
        fill(
            data,
            &Roots {
                metadata: &metadata,
                spaces: space_roots,
            },
        );
        // SAFETY: As for `dm_tm_pre_commit`. The block is the superblock, and is not used any more.
        to_result(unsafe { bindings::dm_tm_commit(tm, block) })?;
        if self.cache().is_none() {
            // Only now there is a superblock to find it by. It is done without if need be.
            self.fresh = self
                .metadata_blocks()
                .and_then(|n| self.managers.cache(n))
                .ok();
        }
        Ok(())
    }

    /// Which one is running: no other, of this or of any other metadata, has or had this number. It
    /// is not 0.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Which metadata these are, from when they were opened or made until they are given up: no others
    /// have, had or get this number. It is not 0.
    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    /// The block manager's cache, if it is known.
    pub(super) fn cache(&self) -> Option<&Cache> {
        match &self.trust {
            Some(trust) => Some(&trust.cache),
            None => self.fresh.as_ref(),
        }
    }

    /// Makes it read-only for ever: all changes and commits fail with `EPERM`. May be called while
    /// others read.
    pub(crate) fn abort(&self) {
        // SAFETY: The block manager is there. The flag is set once and never cleared; who does not
        // see it yet is as if it came earlier.
        unsafe { bindings::dm_bm_set_read_only(self.managers.bm.as_ptr()) };
    }

    /// How many metadata blocks there are, whether set aside or not.
    ///
    /// # Errors
    ///
    /// Only what the library might come to return.
    pub(crate) fn metadata_blocks(&self) -> Result<u64> {
        let mut blocks = 0;
        // SAFETY: The space map is there, and it reads a field.
        to_result(unsafe { bindings::dm_rs_sm_nr_blocks(self.managers.sm.as_ptr(), &mut blocks) })?;
        Ok(blocks)
    }

    /// How many metadata blocks can still be allocated in this transaction. What is set free in it
    /// can be allocated only after it has been committed.
    ///
    /// # Errors
    ///
    /// Only what the library might come to return.
    pub(crate) fn metadata_free(&self) -> Result<u64> {
        let mut free = 0;
        // SAFETY: The space map is there, and it reads fields.
        to_result(unsafe { bindings::dm_rs_sm_nr_free(self.managers.sm.as_ptr(), &mut free) })?;
        // With a count that was wrong from the beginning it gets less than nothing.
        let possible = free <= self.metadata_blocks()?;
        Ok(if possible { free } else { 0 })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<BlockDevice> {
        &self.managers.device
    }

    /// What C calls it. Valid for as long as `self`.
    pub(super) fn tm(&self) -> *mut bindings::dm_transaction_manager {
        self.managers.tm.as_ptr()
    }

    /// What keeps all of it.
    pub(super) fn managers(&self) -> &Arc<Managers> {
        &self.managers
    }

    /// What is known of the blocks there were when it was opened; `None` if it was made.
    pub(super) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }
}
