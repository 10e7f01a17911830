// SPDX-License-Identifier: GPL-2.0

//! Workqueues of one's own.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::Arc,
    time::Jiffies,
    workqueue::{HasDelayedWork, Queue, RawWorkItem, Work, WorkItem},
};

/// A workqueue that makes progress when there is no memory left (`WQ_MEM_RECLAIM`), for items of
/// the kernel crate's [`kernel::workqueue`].
///
/// Dropping it waits until all that is queued has run. So an item must not drop it, as the last
/// owner of what it is in, say: it would wait for itself. (Who owns a worker and hands out `Arc`s
/// of itself to it should call [`Worker::drain`] before it lets go of the last one.) Process
/// context.
///
/// # Invariants
///
/// The queue is ours.
pub(crate) struct Worker {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A workqueue may be used from many threads at once.
unsafe impl Send for Worker {}
// SAFETY: As above.
unsafe impl Sync for Worker {}

/// What has a [`Worker`] in it, or a reference to one.
///
/// # Safety
///
/// [`OwnsWorker::worker`] must always return the same, and that must be there for as long as
/// `self` is. [`impl_owns_worker`] sees to it.
pub(crate) unsafe trait OwnsWorker {
    /// The worker.
    fn worker(&self) -> &Worker;
}

/// Implements [`OwnsWorker`], given the field that is the worker, or is an `Arc` of it.
macro_rules! impl_owns_worker {
    ($self:ty { self.$field:ident }) => {
        #[allow(unsafe_code)]
        // SAFETY: It is in a field, or is owned by one; and a field of what is shared, as all is
        // that is queued, does not change (there is no interior mutability around it).
        unsafe impl $crate::dm::workqueue::OwnsWorker for $self {
            fn worker(&self) -> &$crate::dm::workqueue::Worker {
                $crate::dm::workqueue::AsWorker::as_worker(&self.$field)
            }
        }
    };
}
pub(crate) use impl_owns_worker;

/// For [`impl_owns_worker`]: what such a field can be.
pub(crate) trait AsWorker: sealed::Sealed {
    /// The worker.
    fn as_worker(&self) -> &Worker;
}

impl AsWorker for Worker {
    fn as_worker(&self) -> &Worker {
        self
    }
}

impl AsWorker for Arc<Worker> {
    fn as_worker(&self) -> &Worker {
        self
    }
}

mod sealed {
    pub(crate) trait Sealed {}
    impl Sealed for super::Worker {}
    impl Sealed for kernel::sync::Arc<super::Worker> {}
}

impl Worker {
    /// A worker that does one thing after the other, in the order in which they were queued.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        Self::alloc(name, true)
    }

    /// A worker that does many things at once, on any CPU. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn concurrent(name: &CStr) -> Result<Self> {
        Self::alloc(name, false)
    }

    fn alloc(name: &CStr, ordered: bool) -> Result<Self> {
        // SAFETY: The name is a C string; it is copied.
        let queue = unsafe { bindings::dm_rs_alloc_workqueue(name.as_char_ptr(), ordered) };
        Ok(Self {
            // INVARIANT: It is new.
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }

    fn queue(&self) -> &Queue {
        // SAFETY: By the type's invariants it is there for as long as `self`.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }

    /// Queues an item; one that is queued already stays so, and is given back. Any context.
    pub(crate) fn enqueue<W, const ID: u64>(&self, item: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        self.queue().enqueue(item)
    }

    /// Queues an item on its own worker, after `delay`. One that is queued or waits already stays
    /// so, with its own delay. Any context.
    ///
    /// Until then the item is kept, and so its worker: nothing is queued on a worker that is gone.
    pub(crate) fn enqueue_delayed<W, const ID: u64>(item: Arc<W>, delay: Jiffies)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + HasDelayedWork<W, ID> + OwnsWorker,
        W: Send + Sync + 'static,
    {
        let queue = item.worker().queue.as_ptr();
        // SAFETY: The queue outlives the item, which is kept until it has run.
        let queue: &'static Queue = unsafe { Queue::from_raw(queue) };
        // What was queued before is as good.
        let _ = queue.enqueue_delayed(item, delay);
    }

    /// Queues an item on its own worker, after `delay`, whatever delay it is waiting for now. Any
    /// context.
    pub(crate) fn reschedule<W, const ID: u64>(item: Arc<W>, delay: Jiffies)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + HasDelayedWork<W, ID> + OwnsWorker,
        W: Send + Sync + 'static,
    {
        let queue = item.worker().queue.as_ptr();
        let raw = Arc::into_raw(item);
        // SAFETY: The item is there. The queue outlives it, and it is kept until it has run.
        let waiting = unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                queue,
                Self::delayed_work(raw),
                delay,
            )
        };
        if waiting {
            // SAFETY: It came from `Arc::into_raw`, and the queue has a reference from before.
            drop(unsafe { Arc::from_raw(raw) });
        }
    }

    /// Takes back an item that waits for its delay, or is queued, and waits until it does not run
    /// any more. It may be queued again at once, by itself as well, so whoever wants it to stay
    /// away has to see to that first. Process context; sleeps. Not by the item itself.
    pub(crate) fn cancel_delayed<W, const ID: u64>(item: &Arc<W>)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + HasDelayedWork<W, ID>,
        W: Send + Sync + 'static,
    {
        let raw = Arc::as_ptr(item);
        // SAFETY: The item is there for the duration of the call.
        let cancelled = unsafe { bindings::cancel_delayed_work_sync(Self::delayed_work(raw)) };
        if cancelled {
            // SAFETY: It came from `Arc::into_raw`, and the queue has given up its reference.
            drop(unsafe { Arc::from_raw(raw) });
        }
    }

    /// # Safety
    ///
    /// `item` must point to a valid item.
    unsafe fn delayed_work<W, const ID: u64>(item: *const W) -> *mut bindings::delayed_work
    where
        W: HasDelayedWork<W, ID>,
    {
        // SAFETY: By the function's requirements. `HasDelayedWork` says that it is the `work` of a
        // `delayed_work`.
        unsafe {
            let work = Work::raw_get(W::raw_get_work(item.cast_mut()));
            kernel::container_of!(work, bindings::delayed_work, work)
        }
    }

    /// Waits until all that has been queued so far has run; not for what still waits for its delay.
    /// Process context; sleeps. Not from an item of this worker.
    pub(crate) fn flush(&self) {
        // SAFETY: By the type's invariants the queue is there.
        unsafe { bindings::__flush_workqueue(self.queue.as_ptr()) };
    }

    /// Waits until nothing is queued any more; what items queue themselves is waited for too, and
    /// what others queue meanwhile is dropped with a warning. Process context; sleeps. Not from an
    /// item of this worker.
    pub(crate) fn drain(&self) {
        // SAFETY: By the type's invariants the queue is there.
        unsafe { bindings::drain_workqueue(self.queue.as_ptr()) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants it is ours. Nothing that waits for its delay will be
        // queued on it: it would have kept us.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
