// SPDX-License-Identifier: GPL-2.0

//! Bios that a target owns.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{
    action::{MapAction, Remapped},
    bio_set::BioSet,
    block_device::BlockDevice,
    gate::Pass,
    shortcut::Shortcut,
    status::Status,
    table::Private,
    target::Target,
};
use crate::bindings;
use core::{
    convert::Infallible,
    marker::PhantomData,
    mem::{self, MaybeUninit},
    ptr::{self, NonNull},
};
use kernel::{
    block::{SECTOR_SHIFT, SECTOR_SIZE},
    prelude::*,
    sync::{rcu, Arc},
};

/// What a bio is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Make durable all that had been written. It has no data and no place. (Device-mapper makes
    /// two bios of a write that is to flush first.)
    Flush,
    /// The content is not needed any more.
    Discard,
    /// Write zeroes, without data.
    WriteZeroes,
    /// Something else, which no target gets that has not asked for it.
    Other,
}

impl Op {
    /// That of a bio.
    ///
    /// # Safety
    ///
    /// The bio must be there, and nobody change it.
    #[inline]
    pub(super) unsafe fn of(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: By the function's requirements.
        let (flags, size) = unsafe { ((*bio.as_ptr()).bi_opf, (*bio.as_ptr()).bi_iter.bi_size) };
        match flags & bindings::DM_RS_OP_MASK {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE if flags & bindings::DM_RS_PREFLUSH != 0 && size == 0 => {
                Op::Flush
            }
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_FLUSH => Op::Flush,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
            _ => Op::Other,
        }
    }
}

/// What is kept with each bio, before the target's own data, in the room that device-mapper
/// allocates with it.
#[repr(C)]
pub(super) struct PerBio<T: Target> {
    /// Set once the bio has been given back to device-mapper: `data` is gone then. From there on
    /// only this and `part` may be used.
    finished: bool,
    /// The bio has been through `bio_endio()`, and is ours again.
    returned: bool,
    private: NonNull<Private<T>>,
    /// Keeps the device open that the bio, or a part of it, is on its way to, if the table does
    /// not.
    device: Option<BlockDevice>,
    /// Keeps the set alive that the part in flight came from. Of a bio that is finished: what is to
    /// be left when it has ended.
    part: Option<Pass>,
    data: T::BioData,
}

impl<T: Target> PerBio<T> {
    /// What a target has to ask device-mapper for, per bio.
    pub(super) const SIZE: u32 = {
        // Device-mapper aligns it to that of `struct dm_target_io`.
        assert!(mem::align_of::<Self>() <= mem::align_of::<bindings::bio>());
        assert!(mem::size_of::<Self>() <= 1 << 16);
        mem::size_of::<Self>() as u32
    };

    /// # Safety
    ///
    /// `bio` must be a clone that device-mapper made for a target of this type.
    unsafe fn of(bio: NonNull<bindings::bio>) -> *mut Self {
        // SAFETY: By the function's requirements there is room for this before the clone.
        unsafe { bindings::dm_per_bio_data(bio.as_ptr(), mem::size_of::<Self>()) }.cast()
    }

    /// # Safety
    ///
    /// `bio` must be a clone that device-mapper made for a target of this type, and is about to be
    /// mapped. `private` must be that of the target.
    pub(super) unsafe fn init(bio: NonNull<bindings::bio>, private: NonNull<Private<T>>) {
        // SAFETY: By the function's requirements.
        let this = unsafe { Self::of(bio) };
        // SAFETY: `this` is valid for writes. It does not move until it is dropped, and nobody else
        // uses it; the reference, and what it becomes, are not used after this.
        let data: &'static mut MaybeUninit<T::BioData> = unsafe {
            (&raw mut (*this).finished).write(false);
            (&raw mut (*this).returned).write(false);
            (&raw mut (*this).private).write(private);
            (&raw mut (*this).device).write(None);
            (&raw mut (*this).part).write(None);
            &mut *(&raw mut (*this).data).cast()
        };
        let done: Result<_, Infallible> = data.write_pin_init(T::bio_data());
        match done {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }

    /// As [`PerBio::init`], of a bio that goes straight to a device that the table has open, and is
    /// finished as far as the target is concerned.
    ///
    /// # Safety
    ///
    /// As for [`PerBio::init`].
    #[inline]
    pub(super) unsafe fn init_finished(bio: NonNull<bindings::bio>, shortcut: Shortcut<'_>) {
        // SAFETY: By the function's requirements. `this` is valid for writes, and nobody else uses
        // it, nor the bio. The device stays open, as the table has it.
        unsafe {
            let this = Self::of(bio);
            (&raw mut (*this).finished).write(true);
            (&raw mut (*this).part).write(shortcut.pass);
            bindings::dm_rs_bio_set_dev(bio.as_ptr(), shortcut.device.as_raw());
            (*bio.as_ptr()).bi_iter.bi_sector = shortcut.sector;
        }
    }

    /// Whether the bio has been given back to device-mapper, which is just ending it. Then leaves
    /// what there was to be left.
    ///
    /// # Safety
    ///
    /// `bio` must have been mapped by a target of this type, and not be freed yet.
    #[inline]
    pub(super) unsafe fn is_finished(bio: NonNull<bindings::bio>) -> bool {
        // SAFETY: By the function's requirements the fields are initialised. Nobody else uses them.
        unsafe {
            let this = Self::of(bio);
            if (*this).finished {
                (*this).part = None;
            }
            (*this).finished
        }
    }
}

/// A bio that the target owns: a clone that device-mapper made for it, which the target has to
/// end, in one way or another, exactly once. Dropping it ends it with [`Status::IOERR`].
///
/// Unless said otherwise the methods may be called from any context.
///
/// # Invariants
///
/// `bio` is a clone that device-mapper made for a target of type `T`. It was mapped, so its
/// [`PerBio`] is initialised, and it has not ended. No one else uses either of them. (So the
/// device is not suspended to the end and its table is there, as is the target's instance.)
#[repr(transparent)]
pub(crate) struct TargetBio<T: Target> {
    bio: NonNull<bindings::bio>,
    _target: PhantomData<T>,
}

// SAFETY: A bio does not mind which thread does something with it. Its data is `Send`.
unsafe impl<T: Target> Send for TargetBio<T> {}
// SAFETY: With a `&TargetBio` the bio can only be looked at. Its data is `Sync`, as is the target.
unsafe impl<T: Target> Sync for TargetBio<T> {}

/// It may be moved: it is a pointer, and what it points to stays.
impl<T: Target> Unpin for TargetBio<T> {}

impl<T: Target> TargetBio<T> {
    /// # Safety
    ///
    /// The invariants of the type must hold, and whoever owned the bio must not use it any more.
    pub(super) unsafe fn from_raw(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: By the function's requirements.
        Self {
            bio,
            _target: PhantomData,
        }
    }

    /// Gives ownership away, to be taken again with [`TargetBio::from_raw`].
    pub(super) fn into_raw(self) -> NonNull<bindings::bio> {
        let bio = self.bio;
        mem::forget(self);
        bio
    }

    /// What C calls it.
    pub(super) fn as_raw(&self) -> NonNull<bindings::bio> {
        self.bio
    }

    fn per_bio(&self) -> *mut PerBio<T> {
        // SAFETY: By the type's invariants.
        unsafe { PerBio::of(self.bio) }
    }

    fn flags(&self) -> u32 {
        // SAFETY: By the type's invariants the bio is there, and nobody changes it.
        unsafe { (*self.bio.as_ptr()).bi_opf }
    }

    fn clear_flags(&mut self, flags: u32) {
        // SAFETY: By the type's invariants the bio is there, and nobody else changes it.
        unsafe { (*self.bio.as_ptr()).bi_opf &= !flags };
    }

    fn place(&self) -> bindings::bvec_iter {
        // SAFETY: By the type's invariants the bio is there, and nobody changes it.
        unsafe { (*self.bio.as_ptr()).bi_iter }
    }

    fn set_status(&mut self, status: Status) {
        // SAFETY: By the type's invariants the bio is there, and nobody else changes it.
        unsafe { (*self.bio.as_ptr()).bi_status = status.as_raw() };
    }

    fn private(&self) -> &Private<T> {
        // SAFETY: By the type's invariants it is initialised, and the instance is there.
        unsafe { (*self.per_bio()).private.as_ref() }
    }

    /// The target's own data for this bio. It is pinned: it stays where it is until the bio ends.
    #[inline]
    pub(crate) fn data(&self) -> &T::BioData {
        // SAFETY: By the type's invariants it is initialised; only shared references are given
        // out, for no longer than the bio is ours.
        unsafe { &(*self.per_bio()).data }
    }

    /// The target's own data for this bio, to be changed.
    #[inline]
    pub(crate) fn data_mut(&mut self) -> Pin<&mut T::BioData> {
        // SAFETY: By the type's invariants it is initialised, and whoever owns the bio is the only
        // one to use it. It stays where it is until it is dropped.
        unsafe { Pin::new_unchecked(&mut (*self.per_bio()).data) }
    }

    /// The target that the bio is for.
    pub(crate) fn target(&self) -> &Arc<T> {
        &self.private().target
    }

    /// What is to be done.
    pub(crate) fn op(&self) -> Op {
        // SAFETY: By the type's invariants the bio is there, and nobody changes it.
        unsafe { Op::of(self.bio) }
    }

    /// The first sector, counted from the target's begin. Moves on with what is done of the bio.
    /// Meaningless once the bio has been sent anywhere as a whole.
    pub(crate) fn sector(&self) -> u64 {
        let begin = self.private().base.begin();
        self.place().bi_sector.wrapping_sub(begin)
    }

    /// How many sectors are left to be done. Meaningless once the bio has been sent anywhere as a
    /// whole.
    pub(crate) fn sectors(&self) -> u32 {
        self.place().bi_size >> SECTOR_SHIFT
    }

    fn has_flag(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// Whether it must be durable when it ends.
    pub(crate) fn is_fua(&self) -> bool {
        self.has_flag(bindings::DM_RS_FUA)
    }

    /// Whether it is rather to fail, with [`Status::AGAIN`], than to wait.
    pub(crate) fn is_nowait(&self) -> bool {
        self.has_flag(bindings::DM_RS_NOWAIT)
    }

    /// Whether its submitter polls for its end.
    pub(crate) fn is_polled(&self) -> bool {
        self.has_flag(bindings::DM_RS_POLLED)
    }

    /// Whether it reads ahead, so that it may as well fail.
    pub(crate) fn is_readahead(&self) -> bool {
        self.has_flag(bindings::DM_RS_RAHEAD)
    }

    /// Makes the bio fit to be sent down (again).
    fn prepare(&mut self) {
        let per_bio = self.per_bio();
        // SAFETY: By the type's invariants it is initialised and only ours.
        if unsafe { mem::replace(&mut (*per_bio).returned, false) } {
            // SAFETY: The bio is ours, and has ended as far as the block layer is concerned.
            unsafe { bindings::dm_rs_bio_restart(self.bio.as_ptr()) };
        }
        self.set_status(Status::OK);
    }

    /// Sees to `device` staying open for as long as the bio is on its way.
    fn hold(&mut self, device: &BlockDevice) {
        let held = if self.private().base.has_device(device) {
            // The table has it open, and stays until the bio has ended.
            None
        } else {
            Some(device.share())
        };
        // SAFETY: By the type's invariants it is initialised and only ours.
        unsafe { (*self.per_bio()).device = held };
    }

    /// Directs the bio to a place on `device`.
    fn direct(&mut self, device: &BlockDevice, sector: u64) {
        self.prepare();
        self.hold(device);
        // SAFETY: The bio is ours, and the device is open.
        unsafe {
            bindings::dm_rs_bio_set_dev(self.bio.as_ptr(), device.as_raw());
            (*self.bio.as_ptr()).bi_iter.bi_sector = sector;
        }
    }

    /// Directs the whole bio (what is left of it) to `sector` of `device`, and lets device-mapper
    /// send it. To be returned from [`Target::map`]; [`Target::end_io`] sees it again.
    pub(crate) fn remap(mut self, device: &BlockDevice, sector: u64) -> MapAction<T> {
        self.direct(device, sector);
        MapAction::Remapped(Remapped::new(self))
    }

    /// Sends the whole bio (what is left of it) to `sector` of `device`. [`Target::end_io`] sees it
    /// again. From here on it may wait, whatever its submitter asked for.
    ///
    /// Process context; may sleep for a free request of the device.
    pub(crate) fn submit_to(mut self, device: &BlockDevice, sector: u64) {
        self.clear_flags(bindings::DM_RS_NOWAIT | bindings::DM_RS_POLLED);
        self.direct(device, sector);
        self.submit();
    }

    /// Sends a bio that has been directed somewhere.
    pub(super) fn submit(self) {
        let bio = self.into_raw();
        // SAFETY: The bio was ours and is the block layer's from here on. When it ends,
        // device-mapper calls the target's `end_io`, which takes it up again.
        unsafe { bindings::dm_submit_bio_remap(bio.as_ptr(), ptr::null_mut()) };
    }

    /// Ends the bio. [`Target::end_io`] does not see it again.
    pub(crate) fn end(mut self, status: Status) {
        self.prepare();
        self.set_status(status);
        let bio = self.finish();
        // SAFETY: The bio was ours, and has not ended. Device-mapper is told, and does not hand it
        // to the target again, since it is marked as finished.
        unsafe { bindings::bio_endio(bio.as_ptr()) };
    }

    /// Takes the target's data away, and leaves a bio for device-mapper to end.
    pub(super) fn finish(self) -> NonNull<bindings::bio> {
        let per_bio = self.per_bio();
        let bio = self.into_raw();
        // SAFETY: By the type's invariants all is initialised and only ours; nothing of it is used
        // again, but for `finished` and `part`.
        unsafe {
            ptr::drop_in_place(&raw mut (*per_bio).data);
            (*per_bio).part = None;
            ptr::drop_in_place(&raw mut (*per_bio).device);
            (*per_bio).finished = true;
        }
        bio
    }

    /// The bio has been through `bio_endio()`, and is ours again.
    pub(super) fn came_back(&mut self) {
        // SAFETY: By the type's invariants it is initialised and only ours.
        unsafe {
            (*self.per_bio()).returned = true;
            (*self.per_bio()).device = None;
        }
    }

    /// Sends the first `sectors` of what is left to `sector` of `device`, as a bio of its own, and
    /// moves the bio past them. [`Target::part_done`] gets the bio back when that has ended, also
    /// if it was all there was left. `fua` makes the part durable when it ends, over and above
    /// what the bio itself asks for.
    ///
    /// A number of sectors that is 0 or more than there is left is an error of the caller's, and
    /// ends the bio with [`Status::IOERR`].
    ///
    /// Process context, but not from [`Target::map`], where the parts sent are held back until it
    /// returns. May sleep: for one of the set's bios, and for a free request of the device.
    pub(crate) fn submit_part(
        mut self,
        sectors: u32,
        device: &BlockDevice,
        sector: u64,
        fua: bool,
        set: &BioSet,
    ) {
        if sectors == 0 || sectors > self.sectors() {
            return self.end(Status::IOERR);
        }
        let Some(pass) = set.enter() else {
            return self.end(Status::IOERR);
        };
        self.prepare();
        self.hold(device);
        // SAFETY: By the type's invariants it is initialised and only ours.
        unsafe { (*self.per_bio()).part = Some(pass) };

        // SAFETY: The bio is ours and has that many sectors left. The device is open, and the set
        // is there.
        let part = unsafe {
            bindings::dm_rs_bio_part(
                self.bio.as_ptr(),
                sectors * SECTOR_SIZE,
                device.as_raw(),
                sector,
                set.as_raw(),
            )
        };
        let Some(mut part) = NonNull::new(part) else {
            self.end_part();
            return T::part_done(self, Status::RESOURCE);
        };
        let parent = self.into_raw();
        // SAFETY: The part is new, and ours.
        let raw = unsafe { part.as_mut() };
        raw.bi_opf &= !(bindings::DM_RS_PREFLUSH | bindings::DM_RS_NOWAIT | bindings::DM_RS_POLLED);
        if fua {
            raw.bi_opf |= bindings::DM_RS_FUA;
        }
        raw.bi_end_io = Some(Self::part_endio);
        raw.bi_private = parent.as_ptr().cast();
        // SAFETY: The part is ours, and is the block layer's from here on. The parent is there
        // until the part has ended, since only then it is given to somebody.
        unsafe { bindings::dm_submit_bio_remap(parent.as_ptr(), part.as_ptr()) };
    }

    /// Nothing of the bio is in flight any more.
    fn end_part(&mut self) {
        // SAFETY: By the type's invariants it is initialised and only ours.
        unsafe {
            (*self.per_bio()).part = None;
            (*self.per_bio()).device = None;
        }
    }

    /// A part has ended. Any context.
    ///
    /// # Safety
    ///
    /// `part` must be what [`TargetBio::submit_part`] has sent, and ended.
    unsafe extern "C" fn part_endio(part: *mut bindings::bio) {
        // SAFETY: By the function's requirements.
        let (parent, status) = unsafe { ((*part).bi_private, (*part).bi_status) };
        // SAFETY: By the function's requirements. It is the only reference.
        unsafe { bindings::bio_put(part) };
        let Some(parent) = NonNull::new(parent.cast()) else {
            return;
        };
        // As in `Callbacks::end_io`: what `part_done` has of the target stays until it is through.
        let _rcu = rcu::read_lock();
        // SAFETY: `submit_part` gave away ownership of the bio to the part.
        let mut parent = unsafe { Self::from_raw(parent) };
        parent.end_part();
        T::part_done(parent, Status::from_raw(status));
    }

    /// Fills the first `sectors` of what is left with zeroes, and moves the bio past them; as many
    /// as there are, if that is less. Does nothing to a bio that is not [`Op::Read`].
    pub(crate) fn zero_front(&mut self, sectors: u32) {
        if self.op() == Op::Read {
            let sectors = sectors.min(self.sectors());
            // SAFETY: The bio is ours and has that many sectors left; it is a read, so its pages
            // are there to be written.
            unsafe { bindings::dm_rs_bio_zero_front(self.bio.as_ptr(), sectors * SECTOR_SIZE) };
        }
    }

    /// Moves the bio past its first `sectors`, or past all if there are fewer, as if they had been
    /// done.
    pub(crate) fn skip_front(&mut self, sectors: u32) {
        let sectors = sectors.min(self.sectors());
        // SAFETY: The bio is ours and has that many sectors left.
        unsafe { bindings::dm_rs_bio_advance(self.bio.as_ptr(), sectors * SECTOR_SIZE) };
    }
}

impl<T: Target> Drop for TargetBio<T> {
    fn drop(&mut self) {
        // SAFETY: `self` is not used any more, so ownership can be taken from it.
        unsafe { Self::from_raw(self.bio) }.end(Status::IOERR);
    }
}
