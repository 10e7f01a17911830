// SPDX-License-Identifier: GPL-2.0

//! A worker: one function that runs when it is told to, never twice at once.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::noio::NoIo;
use crate::bindings;
use core::ptr::{self, NonNull};
use kernel::{
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Acquire, Atomic, Release},
        Arc, ArcBorrow,
    },
    time::msecs_to_jiffies,
    types::Opaque,
};

/// What a [`Worker`] does.
pub(crate) trait WorkItem: Send + Sync + Sized + 'static {
    /// One run. Process context; may sleep. Allocations with `GFP_KERNEL` do no I/O, as others may
    /// wait for the run to free memory. A kick that comes while it runs makes it run again.
    fn run(this: &Arc<Self>);
}

/// A work queue of its own with one work item, so that what it waits for never waits for it: the
/// queue has a rescuer (`WQ_MEM_RECLAIM`) and is ordered.
///
/// It holds a reference to what it works for from [`Worker::start`] to [`Worker::stop`].
///
/// Dropping it stops it, so it must not be dropped by a run. Process context; sleeps.
///
/// # Invariants
///
/// `queue` is ours, and ordered. `work` and `later` are initialised, and are queued only there.
/// `body` is null or what `Arc::into_raw` returned, and changes from the latter only when neither
/// of them can run any more.
#[pin_data(PinnedDrop)]
pub(crate) struct Worker<T: WorkItem> {
    queue: NonNull<bindings::workqueue_struct>,
    #[pin]
    work: Opaque<bindings::work_struct>,
    #[pin]
    later: Opaque<bindings::delayed_work>,
    body: Atomic<*mut T>,
}

// SAFETY: A work queue and its items may be used from any thread, and the body is an `Arc<T>` of a
// type that is `Send` and `Sync`.
unsafe impl<T: WorkItem> Send for Worker<T> {}
// SAFETY: As above.
unsafe impl<T: WorkItem> Sync for Worker<T> {}

impl<T: WorkItem> Worker<T> {
    /// A worker with nothing to do yet. Process context; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &'static CStr) -> Result<Arc<Self>> {
        // SAFETY: The name is valid. Whether it worked is looked at.
        let queue = unsafe { bindings::dm_rs_alloc_workqueue(name.as_char_ptr(), true) };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        // The queue must not be lost if there is no memory for the rest.
        let made = Arc::pin_init(
            pin_init!(Self {
                queue,
                work <- Opaque::ffi_init(|slot: *mut bindings::work_struct| {
                    // SAFETY: `slot` is valid for writes, name and key live for ever.
                    unsafe {
                        bindings::init_work_with_key(
                            slot,
                            Some(Self::run_work),
                            false,
                            c"dm::Worker::work".as_char_ptr(),
                            static_lock_class!().as_ptr(),
                        )
                    }
                }),
                later <- Opaque::ffi_init(|slot: *mut bindings::delayed_work| {
                    // SAFETY: `slot` is valid for writes, name and key live for ever.
                    unsafe {
                        bindings::init_work_with_key(
                            &raw mut (*slot).work,
                            Some(Self::run_later),
                            false,
                            c"dm::Worker::later".as_char_ptr(),
                            static_lock_class!().as_ptr(),
                        )
                    };
                    // SAFETY: As above; the timer is part of a `delayed_work`, and the work queue
                    // alone starts it, with interrupts off.
                    unsafe {
                        bindings::timer_init_key(
                            &raw mut (*slot).timer,
                            Some(bindings::delayed_work_timer_fn),
                            bindings::TIMER_IRQSAFE,
                            c"dm::Worker::timer".as_char_ptr(),
                            static_lock_class!().as_ptr(),
                        )
                    }
                }),
                body: Atomic::new(ptr::null_mut()),
            }),
            GFP_KERNEL,
        );
        if made.is_err() {
            // SAFETY: The queue is ours and nothing has been queued.
            unsafe { bindings::destroy_workqueue(queue.as_ptr()) };
        }
        made
    }

    /// Gives the worker what it works for. Once only: later calls do nothing.
    pub(crate) fn start(&self, body: Arc<T>) {
        let raw = Arc::into_raw(body).cast_mut();
        if self.body.cmpxchg(ptr::null_mut(), raw, Release).is_err() {
            // SAFETY: It was made just above, and nobody else has seen it.
            drop(unsafe { Arc::from_raw(raw) });
        }
    }

    /// Has it run soon. Any context. Nothing happens before `start` and after `stop`.
    pub(crate) fn kick(&self) {
        // SAFETY: By the type's invariants. A disabled item is not queued.
        unsafe {
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.as_ptr(),
                self.work.get(),
            )
        };
    }

    /// Has it run after some time, unless a run is due already that was asked for in this way. Any
    /// context.
    pub(crate) fn kick_after(&self, msecs: u32) {
        // SAFETY: By the type's invariants. A disabled item is not queued.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.as_ptr(),
                self.later.get(),
                msecs_to_jiffies(msecs),
            )
        };
    }

    /// Ends a run that is going on, and lets no other begin: for good. Process context, and not from
    /// a run, which would wait for itself; sleeps.
    pub(crate) fn stop(&self) {
        // SAFETY: By the type's invariants both are initialised.
        unsafe {
            bindings::disable_work_sync(self.work.get());
            bindings::disable_delayed_work_sync(self.later.get());
        }
        let body = self.body.xchg(ptr::null_mut(), Acquire);
        if !body.is_null() {
            // SAFETY: By the type's invariants it came from `into_raw`; no run uses it any more,
            // and swapping has made the reference ours.
            drop(unsafe { Arc::from_raw(body) });
        }
    }

    /// # Safety
    ///
    /// `work` is the item of a worker, which is there until this returns.
    unsafe extern "C" fn run_work(work: *mut bindings::work_struct) {
        let work = Opaque::cast_from(work);
        // SAFETY: By the function's requirements.
        let this = unsafe { &*kernel::container_of!(work, Self, work) };
        this.run();
    }

    /// # Safety
    ///
    /// `work` is the delayed item of a worker, which is there until this returns.
    unsafe extern "C" fn run_later(work: *mut bindings::work_struct) {
        // SAFETY: By the function's requirements it is part of a `delayed_work`.
        let later = unsafe { kernel::container_of!(work, bindings::delayed_work, work) };
        let later = Opaque::cast_from(later);
        // SAFETY: By the function's requirements.
        let this = unsafe { &*kernel::container_of!(later, Self, later) };
        this.run();
    }

    fn run(&self) {
        let body = self.body.load(Acquire);
        if body.is_null() {
            return;
        }
        let _noio = NoIo::enter();
        // SAFETY: By the type's invariants it came from `into_raw`, and it does not change while a
        // run is going on. What is borrowed stays with the worker.
        let body = unsafe { ArcBorrow::from_raw(body) };
        T::run(&body.into());
    }
}

#[pinned_drop]
impl<T: WorkItem> PinnedDrop for Worker<T> {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
        // SAFETY: The queue is ours, and nothing can be queued to it any more.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
