// SPDX-License-Identifier: GPL-2.0

//! Targets of device-mapper.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{
    action::{EndAction, MapAction},
    bio::TargetBio,
    callbacks::Callbacks,
    limits::Limits,
    shortcut::{Glance, Shortcut},
    status::Status,
    table::{Instance, Setup, Visitor},
    text::Text,
};
use crate::bindings;
use core::{cell::UnsafeCell, convert::Infallible, marker::PhantomData};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Release},
        Arc,
    },
};

/// Any table with an instance of it has only one target.
pub(crate) const FEATURE_SINGLETON: u64 = bindings::DM_TARGET_SINGLETON as u64;
/// No table with an instance of it is read-only.
pub(crate) const FEATURE_ALWAYS_WRITEABLE: u64 = bindings::DM_TARGET_ALWAYS_WRITEABLE as u64;
/// A device that has had a table with an instance of it never gets one with another target.
pub(crate) const FEATURE_IMMUTABLE: u64 = bindings::DM_TARGET_IMMUTABLE as u64;
/// It honours `REQ_NOWAIT`: see [`TargetBio::is_nowait`].
pub(crate) const FEATURE_NOWAIT: u64 = bindings::DM_TARGET_NOWAIT as u64;

/// All of them. What others there are (zones, integrity, encryption) want more than a flag.
const FEATURES: u64 =
    FEATURE_SINGLETON | FEATURE_ALWAYS_WRITEABLE | FEATURE_IMMUTABLE | FEATURE_NOWAIT;

/// What of its status a target is to tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusKind {
    /// How it is (`dmsetup status`).
    Info,
    /// The arguments that would construct it (`dmsetup table`).
    Table,
    /// What is measured for remote attestation: `name=value,...;`.
    Ima,
}

/// A target. One value is one instance, in one table.
///
/// The table has a reference to it, from when [`Target::ctr`] returns until the table goes. No bio
/// outlives that, but the value may.
pub(crate) trait Target: Sized + Send + Sync + 'static {
    /// As it stands in tables.
    const NAME: &'static CStr;
    /// Major, minor, patch level.
    const VERSION: [u32; 3];
    /// Some of the `FEATURE_` constants.
    const FEATURES: u64 = 0;

    /// What the target keeps with each of its bios. It is made before [`Target::map`] sees the
    /// bio, and dropped when it ends, which may be in any context. It stays where it is.
    type BioData: Send + Sync + 'static;

    /// Makes the data of a bio. In the context of [`Target::map`]; must not sleep for long.
    fn bio_data() -> impl PinInit<Self::BioData, Infallible>;

    /// Makes an instance from the words of a table line. May sleep and allocate; there may be an
    /// older instance in use for the same device.
    ///
    /// # Errors
    ///
    /// Should say why with [`Setup::refuse`].
    fn ctr(ti: &mut Setup<'_>, args: &[&CStr]) -> Result<Arc<Self>>;

    /// The table is about to go, and drops its reference after this. There are no bios any more,
    /// nor will be. Process context; may sleep.
    fn dtr(_this: &Arc<Self>) {}

    /// Looks at a bio before anything is made for it. `Some`: that is where it goes, and the target
    /// does not see it again. In its submitter's context, many at once; does not sleep.
    #[inline]
    fn shortcut<'a>(_this: &'a Arc<Self>, _bio: &Glance<'_>) -> Option<Shortcut<'a>> {
        None
    }

    /// Decides about a bio. In its submitter's context, many at once; may sleep, unless the bio
    /// says otherwise ([`TargetBio::is_nowait`]), but must not wait for I/O that it has sent in
    /// this call: that is held back until it returns.
    fn map(this: &Arc<Self>, bio: TargetBio<Self>) -> MapAction<Self>;

    /// A bio that was sent as a whole has ended. Any context, with interrupts off perhaps.
    fn end_io(_this: &Arc<Self>, bio: TargetBio<Self>, status: Status) -> EndAction<Self> {
        EndAction::Done(bio, status)
    }

    /// A part of a bio has ended: see [`TargetBio::submit_part`]. Any context, with interrupts off
    /// perhaps.
    fn part_done(bio: TargetBio<Self>, status: Status) {
        bio.end(match status {
            Status::OK => Status::IOERR,
            status => status,
        });
    }

    /// A copy on behalf of a bio has ended: see [`Kcopyd`](super::kcopyd::Kcopyd). Process context.
    fn copied(bio: TargetBio<Self>, result: Result) {
        bio.end(match result {
            Ok(()) => Status::IOERR,
            Err(error) => error.into(),
        });
    }

    /// Answers a message. Process context; may sleep, but while it does the table cannot be
    /// exchanged, nor the device be suspended or removed. What it allocates, it allocates without
    /// I/O. What is written to `reply` is returned to the user, unless it fails.
    ///
    /// # Errors
    ///
    /// Are the user's.
    fn message(
        _this: &Arc<Self>,
        _ti: &Instance<'_>,
        _args: &[&CStr],
        _reply: &mut Text<'_>,
    ) -> Result {
        Err(EINVAL)
    }

    /// Tells its status. Process context; should not wait for I/O. Allocates without I/O.
    fn status(this: &Arc<Self>, ti: &Instance<'_>, kind: StatusKind, out: &mut Text<'_>);

    /// The device is about to be suspended: no more bios are wanted, those that are there must
    /// end. (Or, with [`Instance::noflush_suspending`], may be requeued.) The callbacks from here
    /// to [`Target::resume`] are called one at a time for a device, in process context; they may
    /// sleep, and allocate without I/O.
    fn presuspend(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// Suspending has failed.
    fn presuspend_undo(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// The device is suspended: there are no bios any more.
    fn postsuspend(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// The device is about to be resumed, with this table.
    ///
    /// # Errors
    ///
    /// Then it stays suspended.
    fn preresume(_this: &Arc<Self>, _ti: &Instance<'_>) -> Result {
        Ok(())
    }

    /// The device is resumed.
    fn resume(_this: &Arc<Self>, _ti: &Instance<'_>) {}

    /// Visits all devices that the instance is made of, until a visit returns anything but 0,
    /// and returns what the last one has. Process context.
    fn iterate_devices(this: &Arc<Self>, ti: &Instance<'_>, visit: &mut Visitor<'_>) -> c_int;

    /// Changes the limits of the device's queue, as stacked from those of the devices that
    /// [`Target::iterate_devices`] visits. Process context.
    fn io_hints(_this: &Arc<Self>, _limits: &mut Limits<'_>) {}
}

/// A type of target, as device-mapper knows it: to be put into a `static` and then registered.
///
/// ```ignore
/// static TARGET: TargetType<Linear> = TargetType::new();
/// ```
pub(crate) struct TargetType<T: Target> {
    inner: UnsafeCell<bindings::target_type>,
    registered: Atomic<bool>,
    _target: PhantomData<T>,
}

// SAFETY: `inner` is used by whoever has set `registered`, and by device-mapper.
unsafe impl<T: Target> Sync for TargetType<T> {}

impl<T: Target> TargetType<T> {
    /// One that is not registered.
    pub(crate) const fn new() -> Self {
        const { assert!(T::FEATURES & !FEATURES == 0) };
        Self {
            inner: UnsafeCell::new(bindings::target_type {
                features: T::FEATURES,
                name: kernel::str::as_char_ptr_in_const_context(T::NAME),
                module: core::ptr::null_mut(),
                version: T::VERSION,
                ctr: Some(Callbacks::<T>::ctr),
                dtr: Some(Callbacks::<T>::dtr),
                map: Some(Callbacks::<T>::map),
                clone_and_map_rq: None,
                release_clone_rq: None,
                end_io: Some(Callbacks::<T>::end_io),
                rq_end_io: None,
                presuspend: Some(Callbacks::<T>::presuspend),
                presuspend_undo: Some(Callbacks::<T>::presuspend_undo),
                postsuspend: Some(Callbacks::<T>::postsuspend),
                preresume: Some(Callbacks::<T>::preresume),
                resume: Some(Callbacks::<T>::resume),
                status: Some(Callbacks::<T>::status),
                message: Some(Callbacks::<T>::message),
                prepare_ioctl: None,
                report_zones: None,
                busy: None,
                iterate_devices: Some(Callbacks::<T>::iterate_devices),
                io_hints: Some(Callbacks::<T>::io_hints),
                direct_access: None,
                dax_zero_page_range: None,
                dax_recovery_write: None,
                list: bindings::list_head {
                    next: core::ptr::null_mut(),
                    prev: core::ptr::null_mut(),
                },
            }),
            registered: Atomic::new(false),
            _target: PhantomData,
        }
    }
}

/// That a target is registered: tables can be made with it. Dropping it ends that; tables that are
/// there stay, and keep the module from being unloaded.
pub(crate) struct Registration<T: Target>(&'static TargetType<T>);

impl<T: Target> Registration<T> {
    /// Registers a target of `module`, which must be the one that its code is in. Process context;
    /// sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` when it is registered, `EEXIST` when another of this name is.
    pub(crate) fn new(target: &'static TargetType<T>, module: &'static ThisModule) -> Result<Self> {
        if target.registered.xchg(true, Acquire) {
            return Err(EBUSY);
        }
        let inner = target.inner.get();
        // SAFETY: `registered` was not set, so nobody else writes to it. Who may read the field
        // are tables from an earlier registration: the same module then, and the same value.
        unsafe { (*inner).module = module.as_ptr() };
        // SAFETY: It is complete, and there for as long as the module. It is not on the list.
        let result = to_result(unsafe { bindings::dm_register_target(inner) });
        if let Err(error) = result {
            target.registered.store(false, Release);
            return Err(error);
        }
        Ok(Self(target))
    }
}

impl<T: Target> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: It was registered, and is unregistered once.
        unsafe { bindings::dm_unregister_target(self.0.inner.get()) };
        self.0.registered.store(false, Release);
    }
}
