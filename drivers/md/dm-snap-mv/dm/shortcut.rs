// SPDX-License-Identifier: GPL-2.0

//! Bios that only have to go elsewhere.
//!
//! Most bios need no more than another device to go to. For these nothing is made, and there is
//! nothing to be done when they end, but for leaving a gate: see [`Target::shortcut`].
//!
//! [`Target::shortcut`]: super::target::Target::shortcut

use super::{bio::Op, block_device::BlockDevice, gate::Pass};
use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::block::SECTOR_SHIFT;

/// A bio that device-mapper is just handing over, to be looked at only.
///
/// # Invariants
///
/// The bio is there for `'a`, and nobody changes it.
pub(crate) struct Glance<'a> {
    bio: NonNull<bindings::bio>,
    begin: u64,
    _bio: PhantomData<&'a bindings::bio>,
}

impl Glance<'_> {
    /// `begin` is the target's first sector.
    ///
    /// # Safety
    ///
    /// The invariants of the type must hold.
    #[inline]
    pub(super) unsafe fn new(bio: NonNull<bindings::bio>, begin: u64) -> Self {
        // INVARIANT: By the function's requirements.
        Self {
            bio,
            begin,
            _bio: PhantomData,
        }
    }

    /// What is to be done.
    #[inline]
    pub(crate) fn op(&self) -> Op {
        // SAFETY: By the type's invariants.
        unsafe { Op::of(self.bio) }
    }

    /// The first sector, counted from the target's begin.
    #[inline]
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: By the type's invariants.
        let sector = unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector };
        sector.wrapping_sub(self.begin)
    }

    /// How many sectors.
    #[inline]
    pub(crate) fn sectors(&self) -> u32 {
        // SAFETY: By the type's invariants.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_size >> SECTOR_SHIFT }
    }
}

/// Where such a bio goes.
pub(crate) struct Shortcut<'a> {
    /// A device of the table; with any other the bio is mapped as others are.
    pub(crate) device: &'a BlockDevice,
    /// The place on it.
    pub(crate) sector: u64,
    /// Is left when the bio ends.
    pub(crate) pass: Option<Pass>,
}
