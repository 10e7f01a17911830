// SPDX-License-Identifier: GPL-2.0

//! A spin lock that may be taken from interrupts.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::bindings;
use kernel::{
    prelude::*,
    sync::lock::{Backend, Guard, Lock},
};

/// Makes an [`IrqSpinLock`] initialiser with a lock class of its own.
macro_rules! new_irq_spinlock {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::dm::irq_lock::IrqSpinLock::new(
            $inner,
            kernel::optional_name!($($name)?),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_irq_spinlock;

/// A spin lock that turns interrupts off while it is held, and then restores them.
///
/// `lock()` may be called from any context but NMI; whoever holds it must not sleep. Guards of
/// several such locks are to be dropped in the opposite order.
pub(crate) type IrqSpinLock<T> = Lock<T, IrqSpinLockBackend>;

/// What [`IrqSpinLock::lock`] returns.
pub(crate) type IrqSpinLockGuard<'a, T> = Guard<'a, T, IrqSpinLockBackend>;

/// `spinlock_t` with `spin_lock_irqsave()`.
pub(crate) struct IrqSpinLockBackend;

// SAFETY: `spinlock_t` ensures mutual exclusion. `relock` is the default, which locks.
unsafe impl Backend for IrqSpinLockBackend {
    type State = bindings::spinlock_t;
    /// The interrupt flags as they were.
    type GuardState = c_ulong;

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: By this function's requirements `ptr` is valid for writes, and `name` and `key`
        // for reads indefinitely.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: By this function's requirements `ptr` has been initialised.
        unsafe { bindings::dm_rs_spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        let mut flags = 0;
        // SAFETY: By this function's requirements `ptr` has been initialised.
        let locked = unsafe { bindings::dm_rs_spin_trylock_irqsave(ptr, &mut flags) };
        locked.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: By this function's requirements the caller owns the lock, and `flags` are those
        // from before it was taken.
        unsafe { bindings::dm_rs_spin_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By this function's requirements `ptr` has been initialised.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
