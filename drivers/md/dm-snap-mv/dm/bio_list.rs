// SPDX-License-Identifier: GPL-2.0

//! Lists of bios.

use super::{bio::TargetBio, target::Target};
use crate::bindings;
use core::{marker::PhantomData, mem, ptr, ptr::NonNull};

/// A list of bios that it owns, linked through the bios themselves: nothing is allocated. Dropping
/// it ends them all with [`Status::IOERR`](super::status::Status::IOERR). Any context.
///
/// # Invariants
///
/// From `head` on, `bi_next` leads to `tail`, whose `bi_next` is null; both are null when the list
/// is empty. Each of them is owned as by a [`TargetBio`].
pub(crate) struct BioList<T: Target> {
    head: *mut bindings::bio,
    tail: *mut bindings::bio,
    _bios: PhantomData<TargetBio<T>>,
}

// SAFETY: It owns bios, which are `Send`.
unsafe impl<T: Target> Send for BioList<T> {}
// SAFETY: With a `&BioList` nothing can be done but ask whether it is empty.
unsafe impl<T: Target> Sync for BioList<T> {}

/// It may be moved: it is two pointers, and what they point to stays.
impl<T: Target> Unpin for BioList<T> {}

impl<T: Target> BioList<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: It is empty.
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            _bios: PhantomData,
        }
    }

    /// Whether there is none in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Appends one.
    pub(crate) fn push_back(&mut self, bio: TargetBio<T>) {
        let bio = bio.into_raw().as_ptr();
        // SAFETY: The bio is ours, and by the invariants so is the tail.
        unsafe {
            (*bio).bi_next = ptr::null_mut();
            if self.tail.is_null() {
                self.head = bio;
            } else {
                (*self.tail).bi_next = bio;
            }
        }
        // INVARIANT: The new tail is reached from the old, and has nothing behind it.
        self.tail = bio;
    }

    /// Puts one before all others.
    pub(crate) fn push_front(&mut self, bio: TargetBio<T>) {
        let bio = bio.into_raw().as_ptr();
        // SAFETY: The bio is ours.
        unsafe { (*bio).bi_next = self.head };
        // INVARIANT: The new head leads to the old.
        self.head = bio;
        if self.tail.is_null() {
            self.tail = bio;
        }
    }

    /// Takes the first.
    pub(crate) fn pop_front(&mut self) -> Option<TargetBio<T>> {
        let bio = NonNull::new(self.head)?;
        // SAFETY: By the invariants it is ours.
        unsafe {
            // INVARIANT: What follows the head is the head from here on.
            self.head = (*bio.as_ptr()).bi_next;
            (*bio.as_ptr()).bi_next = ptr::null_mut();
        }
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        // SAFETY: By the invariants it is owned as by a `TargetBio`; the list does not own it any
        // more.
        Some(unsafe { TargetBio::from_raw(bio) })
    }

    /// Appends all of another, which is empty then.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if other.is_empty() {
            return;
        }
        if self.tail.is_null() {
            self.head = other.head;
        } else {
            // SAFETY: By the invariants the tail is ours.
            unsafe { (*self.tail).bi_next = other.head };
        }
        // INVARIANT: The other's tail is reached from its head. The other is empty.
        self.tail = other.tail;
        other.head = ptr::null_mut();
        other.tail = ptr::null_mut();
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Self {
        mem::take(self)
    }
}

impl<T: Target> Default for BioList<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Target> Drop for BioList<T> {
    fn drop(&mut self) {
        while self.pop_front().is_some() {}
    }
}
