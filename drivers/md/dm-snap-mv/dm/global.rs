// SPDX-License-Identifier: GPL-2.0

//! A static that is protected by a mutex.
//!
//! The kernel crate's mutex must be initialised at run time; the one that C defines statically need
//! not, and a static of this kind so needs no care from the module.

use crate::bindings;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

/// A value for the whole module. All statics of this type share one mutex, so who has one locked must
/// not lock another.
pub(crate) struct Global<T> {
    value: UnsafeCell<T>,
}

// SAFETY: The value is reached only with the mutex held, by one thread at a time.
unsafe impl<T: Send> Sync for Global<T> {}

impl<T> Global<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
        }
    }

    /// Process context; sleeps until the mutex is free. Not to be called by who holds it already,
    /// which would wait for itself.
    pub(crate) fn lock(&self) -> GlobalGuard<'_, T> {
        // SAFETY: The mutex is defined statically.
        unsafe { bindings::dm_rs_global_lock() };
        GlobalGuard {
            global: self,
            _not_send: PhantomData,
        }
    }
}

/// The value of a [`Global`], for as long as its mutex is held.
pub(crate) struct GlobalGuard<'a, T> {
    global: &'a Global<T>,
    /// A mutex is unlocked by the thread that locked it.
    _not_send: PhantomData<*mut ()>,
}

impl<T> Deref for GlobalGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The mutex is held for as long as the guard lives.
        unsafe { &*self.global.value.get() }
    }
}

impl<T> DerefMut for GlobalGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above, and the guard is borrowed mutably.
        unsafe { &mut *self.global.value.get() }
    }
}

impl<T> Drop for GlobalGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The guard was made when the mutex was locked, by this thread.
        unsafe { bindings::dm_rs_global_unlock() };
    }
}
