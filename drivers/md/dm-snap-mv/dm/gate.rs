// SPDX-License-Identifier: GPL-2.0

//! A gate that can be closed, and waited at until all who passed have left.
//!
//! It is what `struct percpu_ref` is, but for how long closing takes: an expedited grace period
//! here, a tenth of a millisecond, and a normal one there, which is some ten milliseconds.

use super::irq_lock::{new_irq_spinlock, IrqSpinLock};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        new_condvar, new_mutex, rcu, CondVar, Mutex,
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nobody may enter; some have not left yet.
    Closing,
    /// All have left.
    Closed,
}

/// Counts, each CPU in a place of its own.
///
/// # Invariants
///
/// It is what `dm_rs_counter_alloc` returned, and has not been freed.
struct Counter(NonNull<c_ulong>);

impl Counter {
    fn new() -> Result<Self> {
        // SAFETY: It allocates.
        let counter = unsafe { bindings::dm_rs_counter_alloc() };
        NonNull::new(counter).map(Self).ok_or(ENOMEM)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants, and it is ours.
        unsafe { bindings::dm_rs_counter_free(self.0.as_ptr()) };
    }
}

/// Lets any number pass, until it is closed.
///
/// Entering and leaving an open gate costs two increments of a per-CPU counter, with no shared
/// cache line that is written. Waiting at a closed one costs an expedited RCU grace period, even if
/// nobody is inside.
///
/// How it works: who enters or leaves looks at `open` and counts within one RCU read-side critical
/// section. So when a grace period has passed since the gate was closed, nobody counts any more
/// without the lock, and all that was counted before is seen. From then on the sum only falls.
///
/// Dropping a gate closes it and waits for those inside; so whoever holds a [`Pass`] and drops the
/// gate, waits for ever. Process context.
#[pin_data(PinnedDrop)]
pub(crate) struct Gate {
    count: Counter,
    open: Atomic<bool>,
    #[pin]
    phase: IrqSpinLock<Phase>,
    #[pin]
    closed: CondVar,
    /// Held while `open` is switched, so that each of [`Gate::close`] and [`Gate::open`] sees
    /// what the other has done in whole.
    #[pin]
    control: Mutex<()>,
}

// SAFETY: The counter is used from many threads at once.
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
            count: Counter::new()?,
            open: Atomic::new(true),
            phase <- new_irq_spinlock!(Phase::Open, "dm::Gate::phase"),
            closed <- new_condvar!("dm::Gate::closed"),
            control <- new_mutex!((), "dm::Gate::control"),
        })
    }

    /// Enters, if the gate is open. Any context.
    #[inline]
    pub(crate) fn try_enter(&self) -> Option<Pass> {
        let _rcu = rcu::read_lock();
        // Who enters sees what was done while it was closed.
        if !self.open.load(Acquire) {
            return None;
        }
        // SAFETY: By the invariants of `Counter`.
        unsafe { bindings::dm_rs_counter_inc(self.count.0.as_ptr()) };
        // INVARIANT: It has just been counted.
        Some(Pass {
            gate: NonNull::from(self),
        })
    }

    /// The sum of all that entered less those that left, if that is 0.
    fn is_sum_zero(&self) -> bool {
        // SAFETY: By the invariants of `Counter`.
        unsafe { bindings::dm_rs_counter_sum(self.count.0.as_ptr()) == 0 }
    }

    /// Leaves a gate that is closed, or being closed. With RCU's read lock held.
    #[cold]
    fn leave_closed(&self) {
        let phase = self.phase.lock();
        // SAFETY: By the invariants of `Counter`.
        unsafe { bindings::dm_rs_counter_dec(self.count.0.as_ptr()) };
        if *phase == Phase::Closing && self.is_sum_zero() {
            // Not yet `Closed`: perhaps some have not been counted yet. Who waits looks again.
            //
            // With the lock held: who is woken may free the gate once the lock is released, but no
            // earlier.
            self.closed.notify_all();
        }
    }

    /// Closes the gate: who has not entered by the time that [`Gate::wait_empty`] begins does not
    /// enter any more. Does nothing if it is closed already. Process context.
    pub(crate) fn close(&self) {
        let _control = self.control.lock();
        let mut phase = self.phase.lock();
        if *phase == Phase::Open {
            *phase = Phase::Closing;
            self.open.store(false, Relaxed);
        }
    }

    /// Waits until all who passed a gate that was closed have left. Returns at once if it is open.
    /// Sleeps, and no signal ends it.
    pub(crate) fn wait_empty(&self) {
        if *self.phase.lock() != Phase::Closing {
            return;
        }
        // SAFETY: This may sleep, and is in no read-side critical section.
        unsafe { bindings::synchronize_rcu_expedited() };
        let mut phase = self.phase.lock();
        while *phase == Phase::Closing {
            if self.is_sum_zero() {
                *phase = Phase::Closed;
                self.closed.notify_all();
            } else {
                self.closed.wait(&mut phase);
            }
        }
    }

    /// Opens the gate again. Does nothing if it is open. Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` when not all have left yet: see [`Gate::wait_empty`].
    pub(crate) fn open(&self) -> Result {
        let _control = self.control.lock();
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Open => {}
            Phase::Closing => return Err(EBUSY),
            Phase::Closed => {
                *phase = Phase::Open;
                self.open.store(true, Release);
            }
        }
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
    }
}

/// That its holder has passed a [`Gate`]. Dropping it is leaving. Any context.
///
/// # Invariants
///
/// It was counted when it was made. So the gate is there: it does not go before that has been taken
/// back.
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
        let _rcu = rcu::read_lock();
        // SAFETY: By the invariants the gate is there. If it is open it stays until the read-side
        // critical section ends, as a grace period comes between its closing and its going. If it is
        // not, it stays until `leave_closed` has let the lock go.
        let gate = unsafe { self.gate.as_ref() };
        if gate.open.load(Relaxed) {
            // SAFETY: As above.
            unsafe { bindings::dm_rs_counter_dec(gate.count.0.as_ptr()) };
        } else {
            gate.leave_closed();
        }
    }
}
