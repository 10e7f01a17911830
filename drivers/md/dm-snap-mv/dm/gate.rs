// SPDX-License-Identifier: GPL-2.0

//! A gate that can be closed, and waited at until all who passed have left.
//!
//! C header: [`include/linux/percpu-refcount.h`](srctree/include/linux/percpu-refcount.h)

use super::irq_lock::{new_irq_spinlock, IrqSpinLock};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    container_of,
    error::to_result,
    prelude::*,
    sync::{new_condvar, new_mutex, CondVar, Mutex},
    types::Opaque,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nobody may enter; some have not left yet.
    Closing,
    /// All have left, and the counter no longer touches the gate.
    Closed,
}

/// Lets any number pass, until it is closed.
///
/// Entering and leaving an open gate costs two increments of a per-CPU counter, with no shared
/// cache line. Closing it costs an RCU grace period: [`Gate::close`] itself is cheap, and
/// [`Gate::wait_empty`] takes it, some milliseconds, even if nobody is inside.
///
/// Dropping a gate closes it and waits for those inside; so whoever holds a [`Pass`] and drops the
/// gate, waits for ever. Process context.
#[pin_data(PinnedDrop)]
pub(crate) struct Gate {
    #[pin]
    count: Opaque<bindings::percpu_ref>,
    #[pin]
    phase: IrqSpinLock<Phase>,
    #[pin]
    closed: CondVar,
    /// Held while `count` is switched, so that each of [`Gate::close`] and [`Gate::open`] sees
    /// what the other has done in whole.
    #[pin]
    control: Mutex<()>,
}

// SAFETY: What is `Opaque` is a counter that is used from many threads at once.
unsafe impl Send for Gate {}
// SAFETY: As above.
unsafe impl Sync for Gate {}

impl Gate {
    /// A gate that is open. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            phase <- new_irq_spinlock!(Phase::Open, "dm::Gate::phase"),
            closed <- new_condvar!("dm::Gate::closed"),
            control <- new_mutex!((), "dm::Gate::control"),
            count <- Opaque::try_ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes. The memory is pinned, so the pointer back
                // to it that the counter keeps stays valid.
                to_result(unsafe {
                    bindings::percpu_ref_init(
                        slot,
                        Some(Self::empty),
                        bindings::PERCPU_REF_ALLOW_REINIT,
                        bindings::GFP_KERNEL,
                    )
                })
            }),
        })
    }

    /// The counter of a closed gate has reached zero. Any context.
    ///
    /// # Safety
    ///
    /// `count` must be that of a gate.
    unsafe extern "C" fn empty(count: *mut bindings::percpu_ref) {
        let count: *mut Opaque<bindings::percpu_ref> = count.cast();
        // SAFETY: By this function's requirements it is the field of a gate. The gate is there,
        // since it does not go before the phase is `Closed`.
        let gate = unsafe { &*container_of!(count, Self, count) };
        let mut phase = gate.phase.lock();
        *phase = Phase::Closed;
        // With the lock held: who is woken may free the gate once the lock is released, but no
        // earlier.
        gate.closed.notify_all();
    }

    /// Enters, if the gate is open. Any context.
    #[inline]
    pub(crate) fn try_enter(&self) -> Option<Pass> {
        // SAFETY: The counter was initialised with the gate.
        if unsafe { bindings::dm_rs_percpu_ref_tryget_live(self.count.get()) } {
            // INVARIANT: The counter has just been incremented.
            Some(Pass {
                gate: NonNull::from(self),
            })
        } else {
            None
        }
    }

    /// Closes the gate: when this returns nobody enters any more, though some may still be inside.
    /// Does nothing if it is closed already. Process context.
    pub(crate) fn close(&self) {
        let _control = self.control.lock();
        {
            let mut phase = self.phase.lock();
            if *phase != Phase::Open {
                return;
            }
            *phase = Phase::Closing;
        }
        // SAFETY: The counter was initialised with the gate. It is alive: the phase was `Open`,
        // and only here and with `control` held it becomes another.
        unsafe { bindings::percpu_ref_kill_and_confirm(self.count.get(), None) };
    }

    /// Waits until all who passed a gate that was closed have left. Returns at once if it is open.
    /// Sleeps, and no signal ends it.
    pub(crate) fn wait_empty(&self) {
        let mut phase = self.phase.lock();
        while *phase == Phase::Closing {
            self.closed.wait(&mut phase);
        }
    }

    /// Opens the gate again. Does nothing if it is open. Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` when not all have left yet: see [`Gate::wait_empty`].
    pub(crate) fn open(&self) -> Result {
        let _control = self.control.lock();
        {
            let mut phase = self.phase.lock();
            match *phase {
                Phase::Open => return Ok(()),
                Phase::Closing => return Err(EBUSY),
                Phase::Closed => *phase = Phase::Open,
            }
        }
        // SAFETY: The counter was initialised with the gate, was killed, and has reached zero:
        // the phase was `Closed`. `control` keeps others from switching it.
        unsafe { bindings::percpu_ref_reinit(self.count.get()) };
        Ok(())
    }

    /// Whether it is closed, with or without somebody still inside. Any context.
    pub(crate) fn is_closed(&self) -> bool {
        *self.phase.lock() != Phase::Open
    }

    /// Whether it is closed and nobody is inside. Any context.
    pub(crate) fn is_empty(&self) -> bool {
        *self.phase.lock() == Phase::Closed
    }
}

#[pinned_drop]
impl PinnedDrop for Gate {
    fn drop(self: Pin<&mut Self>) {
        self.close();
        self.wait_empty();
        // SAFETY: The counter was initialised with the gate, and has reached zero. Nobody uses
        // it: every pass was counted, and its holder has left.
        unsafe { bindings::percpu_ref_exit(self.count.get()) };
    }
}

/// That its holder has passed a [`Gate`]. Dropping it is leaving. Any context.
///
/// # Invariants
///
/// The counter of `gate` was incremented for this. So the gate is there: it does not go before
/// the counter has been decremented.
pub(crate) struct Pass {
    gate: NonNull<Gate>,
}

// SAFETY: The gate may be used from any thread, and its counter does not mind who decrements it.
unsafe impl Send for Pass {}
// SAFETY: There is nothing that can be done with a `&Pass`.
unsafe impl Sync for Pass {}

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the invariants the gate is there, and the counter was incremented. The gate
        // may be gone when this returns. A raw pointer is used all the way, since a reference
        // would have to be valid until then.
        unsafe {
            let count = Opaque::cast_into(&raw const (*self.gate.as_ptr()).count);
            bindings::dm_rs_percpu_ref_put(count);
        }
    }
}
