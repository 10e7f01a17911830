// SPDX-License-Identifier: GPL-2.0

//! Copying between devices.
//!
//! C header: [`include/linux/dm-kcopyd.h`](srctree/include/linux/dm-kcopyd.h)

use super::{bio::TargetBio, block_device::BlockDevice, target::Target};
use crate::bindings;
use core::{marker::PhantomData, ptr, ptr::NonNull};
use kernel::{error::from_err_ptr, prelude::*, sync::Arc};

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

    /// The copy has ended. Process context: kcopyd's worker, which copies nothing else meanwhile,
    /// so this may sleep but must not wait for a copy.
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
    /// The copy has ended: see [`Done::done`].
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

/// Sectors of a device.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    /// The device.
    pub(crate) dev: &'a BlockDevice,
    /// The first sector.
    pub(crate) sector: u64,
    /// How many sectors.
    pub(crate) count: u64,
}

impl Region<'_> {
    fn as_raw(&self) -> bindings::dm_io_region {
        bindings::dm_io_region {
            bdev: self.dev.as_raw(),
            sector: self.sector,
            count: self.count,
        }
    }
}

/// What a copy has of ours until it has ended.
struct Context<D: Done> {
    pool: NonNull<bindings::mempool_t>,
    done: *mut c_void,
    /// Keeps the devices open.
    _devices: [Option<BlockDevice>; 2],
    _done: PhantomData<D>,
}

/// How many copies can always be in flight.
const RESERVE: c_int = 64;

/// A client of kcopyd, with its own reserve of memory and its own worker.
///
/// Dropping it waits for all copies. So it must not be dropped by what a copy owns, when that is
/// told of the end: it would wait for itself. Process context.
///
/// # Invariants
///
/// Both are ours. Elements of `pool` have the size of a [`Context`].
pub(crate) struct Kcopyd {
    client: NonNull<bindings::dm_kcopyd_client>,
    pool: NonNull<bindings::mempool_t>,
}

// SAFETY: Client and pool may be used from many threads at once.
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
        let pool = NonNull::new(pool).ok_or(ENOMEM)?;
        // SAFETY: A copy need not be throttled.
        let client = from_err_ptr(unsafe { bindings::dm_kcopyd_client_create(ptr::null_mut()) });
        match client.and_then(|client| NonNull::new(client).ok_or(ENOMEM)) {
            // INVARIANT: Both are new.
            Ok(client) => Ok(Self { client, pool }),
            Err(error) => {
                // SAFETY: It is new, and none of it is in use.
                unsafe { bindings::mempool_destroy(pool.as_ptr()) };
                Err(error)
            }
        }
    }

    /// Allocates what a copy has of ours. Sleeps, but does not fail.
    fn context<D: Done>(&self, done: D, devices: [Option<BlockDevice>; 2]) -> *mut Context<D> {
        const { assert!(size_of::<Context<D>>() == size_of::<Context<Arc<Nobody>>>()) };
        // SAFETY: By the type's invariants the pool is there. It does not fail, as it may sleep.
        let context = unsafe { bindings::dm_rs_mempool_alloc(self.pool.as_ptr()) };
        let context: *mut Context<D> = context.cast();
        // SAFETY: It is new, has that size, and is aligned as `kmalloc` aligns.
        unsafe {
            context.write(Context {
                pool: self.pool,
                done: done.into_raw(),
                _devices: devices,
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
        let mut source = from.as_raw();
        let mut dest = to.as_raw();
        let context = self.context(done, [Some(from.dev.share()), Some(to.dev.share())]);
        // SAFETY: The client is there until all copies have ended. The devices are open until
        // then, since the context holds them. The regions are copied.
        unsafe {
            bindings::dm_kcopyd_copy(
                self.client.as_ptr(),
                &mut source,
                1,
                &mut dest,
                0,
                Some(Self::complete::<D>),
                context.cast(),
            )
        };
    }

    /// Fills `to` with zeroes, as [`Kcopyd::copy`] copies.
    pub(crate) fn zero<D: Done>(&self, to: &Region<'_>, done: D) {
        let mut dest = to.as_raw();
        let context = self.context(done, [Some(to.dev.share()), None]);
        // SAFETY: As in `copy`.
        unsafe {
            bindings::dm_kcopyd_zero(
                self.client.as_ptr(),
                1,
                &mut dest,
                0,
                Some(Self::complete::<D>),
                context.cast(),
            )
        };
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

impl Drop for Kcopyd {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants both are ours. When the client is destroyed all copies
        // have ended, so none of the pool is in use.
        unsafe {
            bindings::dm_kcopyd_client_destroy(self.client.as_ptr());
            bindings::mempool_destroy(self.pool.as_ptr());
        }
    }
}

/// Only for the size of a [`Context`].
struct Nobody;

impl CopyJob for Nobody {
    fn copied(_this: Arc<Self>, _result: Result) {}
}
