// SPDX-License-Identifier: GPL-2.0

//! Who is told that a copy has ended.

use crate::dm::{bio::TargetBio, target::Target};
use core::ptr::NonNull;
use kernel::{prelude::*, sync::Arc};

/// What is told when a copy has ended, and owned by the copy until then.
pub(crate) trait Done: Send + Sized + 'static {
    /// Gives ownership away, as a pointer.
    fn into_raw(self) -> *mut c_void;

    /// Takes ownership again.
    ///
    /// # Safety
    ///
    /// `raw` must be what [`Done::into_raw`] of this type has returned, and this be called once
    /// for it.
    unsafe fn from_raw(raw: *mut c_void) -> Self;

    /// The copy has ended. Process context: a worker of kcopyd, which copies nothing else meanwhile,
    /// so this may sleep but must not wait for a copy. Others may be told of theirs at the same time.
    fn done(self, result: Result);
}

/// On behalf of a bio: [`Target::copied`] is called.
impl<T: Target> Done for TargetBio<T> {
    fn into_raw(self) -> *mut c_void {
        TargetBio::into_raw(self).as_ptr().cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: By the function's requirements it is not null, and is a bio that was owned.
        unsafe { TargetBio::from_raw(NonNull::new_unchecked(raw.cast())) }
    }

    fn done(self, result: Result) {
        T::copied(self, result);
    }
}

/// Something that copies, and is shared with others.
pub(crate) trait CopyJob: Send + Sync + 'static {
    /// The copy, or one of its parts, has ended: see [`Done::done`].
    fn copied(this: Arc<Self>, result: Result);
}

impl<J: CopyJob> Done for Arc<J> {
    fn into_raw(self) -> *mut c_void {
        Arc::into_raw(self).cast_mut().cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: By the function's requirements it came from `Arc::into_raw`.
        unsafe { Arc::from_raw(raw.cast_const().cast()) }
    }

    fn done(self, result: Result) {
        J::copied(self, result);
    }
}
