// SPDX-License-Identifier: GPL-2.0

//! Copying between devices.
//!
//! C header: [`include/linux/dm-kcopyd.h`](srctree/include/linux/dm-kcopyd.h)

mod done;
mod region;

pub(crate) use done::{CopyJob, Done};
pub(crate) use region::Region;

use super::block_device::BlockDevice;
use super::noio::NoIo;
use crate::bindings;
use core::{marker::PhantomData, ptr, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
    types::Opaque,
};

/// A client of the kernel's kcopyd: with pages of its own, and a worker that runs on one processor.
///
/// Dropping it waits for all of its copies. Process context.
struct Client(NonNull<bindings::dm_kcopyd_client>);

impl Client {
    fn new() -> Result<Self> {
        // SAFETY: It allocates. A copy need not be throttled.
        let client = from_err_ptr(unsafe { bindings::dm_kcopyd_client_create(ptr::null_mut()) })?;
        Ok(Self(NonNull::new(client).ok_or(ENOMEM)?))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: It is ours. Whoever has begun a copy has held it meanwhile.
        unsafe { bindings::dm_kcopyd_client_destroy(self.0.as_ptr()) };
    }
}

/// What copies have of ours. Elements have the size of a [`Context`].
struct Pool(NonNull<bindings::mempool_t>);

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: It is ours, and declared behind the clients: no copy is left that holds an element.
        unsafe { bindings::mempool_destroy(self.0.as_ptr()) };
    }
}

/// Where long copies set out from.
struct Queue(NonNull<bindings::workqueue_struct>);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: It is ours. What is queued runs before this returns.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// What a copy has of ours until it has ended.
struct Context<D: Done> {
    pool: NonNull<bindings::mempool_t>,
    done: *mut c_void,
    /// Keeps the devices open.
    devices: [BlockDevice; 2],
    /// Of a long copy, until it has begun: how that is done, and what is to be copied by whom.
    work: Opaque<bindings::work_struct>,
    client: NonNull<bindings::dm_kcopyd_client>,
    from: bindings::dm_io_region,
    to: bindings::dm_io_region,
    _done: PhantomData<D>,
}

/// How many copies can always be in flight.
const RESERVE: c_int = 64;

/// How many clients there are at most: one copies as fast as a processor does, and each holds pages
/// for one piece of a copy in reserve (512 KiB, unless kcopyd has been told otherwise).
const MOST_CLIENTS: usize = 4;

/// A copy of so many sectors is long: to have another processor begin it costs little beside it.
const LONG: u64 = 128;

/// Copies, with reserves of memory of its own. Long copies are made by several processors, when
/// there are several at once.
///
/// A client of kcopyd has one processor do all that one has to do for copies: to find pages and clear
/// them, and for devices in memory, or without DMA, the copying itself. That is the one on which it
/// was given something to do when it had nothing to do. So there are several clients, which long
/// copies go to in turn, and each but the first is given its copies on another processor.
///
/// Dropping it waits for all copies. So it must not be dropped by what a copy owns, when that is
/// told of the end: it would wait for itself. Process context.
pub(crate) struct Kcopyd {
    // In this order they are dropped.
    queue: Queue,
    first: Client,
    others: KVec<Client>,
    pool: Pool,
    /// Counts long copies.
    turn: Atomic<usize>,
}

// SAFETY: Queue, clients and pool may be used from many threads at once.
unsafe impl Send for Kcopyd {}
// SAFETY: As above.
unsafe impl Sync for Kcopyd {}

impl Kcopyd {
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // What owns the context does not change its size: it is there as a pointer.
        let size = size_of::<Context<Arc<Nobody>>>();
        // SAFETY: It allocates.
        let pool = unsafe { bindings::dm_rs_mempool_create(RESERVE, size) };
        let pool = Pool(NonNull::new(pool).ok_or(ENOMEM)?);
        // SAFETY: The name is valid. Whether it worked is looked at.
        let queue =
            unsafe { bindings::dm_rs_alloc_workqueue(c"dm-snap-mv-copy".as_char_ptr(), false) };
        let queue = Queue(NonNull::new(queue).ok_or(ENOMEM)?);
        // SAFETY: It asks for a number.
        let processors = unsafe { bindings::dm_rs_num_online_cpus() } as usize;
        let mut others = KVec::new();
        for _ in 1..processors.min(MOST_CLIENTS) {
            others.push(Client::new()?, GFP_KERNEL)?;
        }
        Ok(Self {
            queue,
            first: Client::new()?,
            others,
            pool,
            turn: Atomic::new(0),
        })
    }

    /// The client whose turn it is to copy something long, and how far from this processor it works.
    fn next(&self) -> (&Client, u32) {
        let turn = self.turn.fetch_add(1, Relaxed) % (self.others.len() + 1);
        match self.others.get(turn) {
            Some(client) => (client, turn as u32 + 1),
            None => (&self.first, 0),
        }
    }

    /// Allocates what a copy has of ours. Sleeps, but does not fail.
    fn context<D: Done>(
        &self,
        done: D,
        client: &Client,
        from: &Region<'_>,
        to: &Region<'_>,
    ) -> *mut Context<D> {
        const { assert!(size_of::<Context<D>>() == size_of::<Context<Arc<Nobody>>>()) };
        // SAFETY: The pool is ours, and goes last. It does not fail, as it may sleep.
        let context = unsafe { bindings::dm_rs_mempool_alloc(self.pool.0.as_ptr()) };
        let context: *mut Context<D> = context.cast();
        // SAFETY: It is new, has that size, and is aligned as `kmalloc` aligns.
        unsafe {
            context.write(Context {
                pool: self.pool.0,
                done: done.into_raw(),
                devices: [from.dev.share(), to.dev.share()],
                work: Opaque::uninit(),
                client: client.0,
                from: from.as_raw(),
                to: to.as_raw(),
                _done: PhantomData,
            })
        };
        context
    }

    /// Copies `from` to `to`, which must have as many sectors: as many as both have are copied, and
    /// if they do not have the same the copy ends with `EINVAL`. `done` is told when it has ended,
    /// with `ENXIO` if `from` could not be read and with `EIO` if `to` could not be written; then
    /// some of `to` may have been written.
    ///
    /// Process context; may sleep, for memory that other copies will free. Never fails to start.
    pub(crate) fn copy<D: Done>(&self, from: &Region<'_>, to: &Region<'_>, done: D) {
        if from.count != to.count {
            return done.done(Err(EINVAL));
        }
        let is_long = from.count >= LONG && !self.others.is_empty();
        let (client, distance) = if is_long {
            self.next()
        } else {
            (&self.first, 0)
        };
        let context = self.context(done, client, from, to);
        if distance == 0 {
            // SAFETY: It is new.
            return unsafe { Self::begin(context) };
        }
        // SAFETY: It is new, and to be begun.
        unsafe { self.queue(context, Self::run::<D>, distance) };
    }

    /// How many sectors each part has when so many are copied in parts.
    fn part_sectors(&self, count: u64) -> u64 {
        let parts = self.others.len() as u64 + 1;
        count.div_ceil(parts).next_multiple_of(LONG).max(LONG)
    }

    /// How many parts [`Kcopyd::copy_parts`] makes of so many sectors: at least one.
    pub(crate) fn parts(&self, count: u64) -> u64 {
        count.div_ceil(self.part_sectors(count)).max(1)
    }

    /// Copies as [`Kcopyd::copy`] does, by several processors if it is much. `job` is told of each
    /// of the [`Kcopyd::parts`] when that has ended.
    pub(crate) fn copy_parts<J: CopyJob>(&self, from: &Region<'_>, to: &Region<'_>, job: &Arc<J>) {
        let most = self.part_sectors(to.count);
        for part in 0..self.parts(to.count) {
            let offset = part * most;
            self.copy(
                &from.part(offset, most),
                &to.part(offset, most),
                job.clone(),
            );
        }
    }

    /// Fills `to` with zeroes, as [`Kcopyd::copy`] copies.
    pub(crate) fn zero<D: Done>(&self, to: &Region<'_>, done: D) {
        let context = self.context(done, &self.first, to, to);
        // SAFETY: As in `begin`.
        unsafe {
            bindings::dm_kcopyd_zero(
                (*context).client.as_ptr(),
                1,
                &raw mut (*context).to,
                0,
                Some(Self::complete::<D>),
                context.cast(),
            )
        };
    }

    /// Makes all durable that had been written to `dev` before. `done` is told when it is, or with `EIO`.
    ///
    /// Process context; may sleep, for memory that copies will free, but not for `dev`: whoever calls
    /// this may be who answers for that. Never fails to start.
    pub(crate) fn flush<D: Done>(&self, dev: &BlockDevice, done: D) {
        let nothing = Region {
            dev,
            sector: 0,
            count: 0,
        };
        let context = self.context(done, &self.first, &nothing, &nothing);
        // SAFETY: As in `copy`.
        unsafe { self.queue(context, Self::run_flush::<D>, 0) };
    }

    /// Has the work item of a context run, on another processor if `distance` is not 0.
    ///
    /// # Safety
    ///
    /// `context` must be what [`Kcopyd::context`] of this `D` has returned; it is used up. `run` must be
    /// fit for it.
    unsafe fn queue<D: Done>(
        &self,
        context: *mut Context<D>,
        run: unsafe extern "C" fn(*mut bindings::work_struct),
        distance: u32,
    ) {
        // SAFETY: The context is ours until it is queued; name and key live for ever. The queue is
        // there until all that is queued has run.
        unsafe {
            let work = Opaque::cast_into(&raw const (*context).work);
            bindings::init_work_with_key(
                work,
                Some(run),
                false,
                c"dm::Kcopyd::work".as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            let processor = match distance {
                0 => bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                distance => bindings::dm_rs_other_cpu(distance),
            };
            bindings::queue_work_on(processor, self.queue.0.as_ptr(), work);
        }
    }

    /// Flushes.
    ///
    /// # Safety
    ///
    /// `work` is that of a context, which nobody else uses.
    unsafe extern "C" fn run_flush<D: Done>(work: *mut bindings::work_struct) {
        let work = Opaque::cast_from(work).cast_mut();
        // SAFETY: By the function's requirements. The work queue does not look at what it runs once
        // it runs.
        let context = unsafe { kernel::container_of!(work, Context<D>, work) };
        // What others wait for to free memory.
        let _noio = NoIo::enter();
        // SAFETY: By the function's requirements.
        let [device, _] = unsafe { &(*context).devices };
        let failed = device.flush().is_err();
        // SAFETY: By the function's requirements.
        unsafe { Self::complete::<D>(0, c_ulong::from(failed), context.cast()) };
    }

    /// Begins a copy. Process context; may sleep, as [`Kcopyd::copy`].
    ///
    /// # Safety
    ///
    /// `context` must be what [`Kcopyd::context`] of this `D` has returned; it is used up.
    unsafe fn begin<D: Done>(context: *mut Context<D>) {
        // SAFETY: By the function's requirements. The client is there until all copies have ended.
        // The devices are open until then, since the context holds them. The regions are copied
        // before anything is on its way, so before the context can be freed.
        unsafe {
            bindings::dm_kcopyd_copy(
                (*context).client.as_ptr(),
                &raw mut (*context).from,
                1,
                &raw mut (*context).to,
                0,
                Some(Self::complete::<D>),
                context.cast(),
            )
        };
    }

    /// Begins a long copy.
    ///
    /// # Safety
    ///
    /// `work` is that of a context, which nobody else uses.
    unsafe extern "C" fn run<D: Done>(work: *mut bindings::work_struct) {
        let work = Opaque::cast_from(work).cast_mut();
        // SAFETY: By the function's requirements. The work queue does not look at what it runs once
        // it runs.
        unsafe { Self::begin(kernel::container_of!(work, Context<D>, work)) };
    }

    /// A copy has ended. Process context.
    ///
    /// # Safety
    ///
    /// `context` must be what [`Kcopyd::context`] of this `D` has returned; it is used up.
    unsafe extern "C" fn complete<D: Done>(
        read_err: c_int,
        write_err: c_ulong,
        context: *mut c_void,
    ) {
        // SAFETY: By the function's requirements. It is read once, and freed.
        let context = unsafe {
            let value = context.cast::<Context<D>>().read();
            bindings::mempool_free(context, value.pool.as_ptr());
            value
        };
        // SAFETY: It came from `into_raw`, and is used up here.
        let done = unsafe { D::from_raw(context.done) };
        // The devices need not be open any longer.
        drop(context);
        done.done(match (read_err, write_err) {
            (0, 0) => Ok(()),
            (0, _) => Err(EIO),
            _ => Err(ENXIO),
        });
    }
}

/// Only for the size of a [`Context`].
struct Nobody;

impl CopyJob for Nobody {
    fn copied(_this: Arc<Self>, _result: Result) {}
}
